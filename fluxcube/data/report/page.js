(function () {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const number = (v, digits) => (v === null || v === undefined ? "–" : v.toFixed(digits).replace("-", "−"));
const SEQUENTIAL = ["#00204d", "#31446b", "#666970", "#958f78", "#cbba69", "#ffea46"];
const DIVERGING = ["#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b"];
const LINES = ["#0072B2", "#D55E00", "#009E73", "#C4699B", "#B07A00", "#7A7ADB", "#808080"]; // those of the figures
const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]];
let target = data.targets[0], chosen = null, chart = null;

// Theme: that of the system, unless the reader chooses.
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
function showTheme() {
  $("theme").textContent = dark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(dark()));
  if (chosen !== null) drawSeries();
}
$("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; showTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

// Flux: figures and tables of the other fluxes are hidden.
function showTarget(name) {
  target = name;
  document.querySelectorAll("[data-flux]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.flux === name)));
  document.querySelectorAll("[data-target]").forEach((e) => { e.hidden = e.dataset.target !== name; });
  colourMap();
  if (chosen !== null) drawSeries();
}
document.querySelectorAll("[data-flux]").forEach((b) => b.addEventListener("click", () => showTarget(b.dataset.flux)));

// Tables: a heading sorts, a field filters.
function sortTable(th) {
  const table = th.closest("table"), body = table.tBodies[0], at = th.cellIndex;
  const down = th.classList.contains("number") ? th.getAttribute("aria-sort") !== "descending"
    : th.getAttribute("aria-sort") === "ascending";
  const numeric = th.classList.contains("number");
  const rows = Array.from(body.rows);
  const key = (row) => { const c = row.cells[at]; return numeric ? (c.dataset.v === undefined ? null : +c.dataset.v) : c.textContent; };
  rows.sort((a, b) => {
    const x = key(a), y = key(b);
    if (x === null || y === null) return (x === null) - (y === null); // missing values are last
    const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return down ? -order : order;
  });
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows);
}
document.querySelectorAll("thead th").forEach((th) => th.querySelector("button").addEventListener("click", () => sortTable(th)));
document.querySelectorAll("input.filter").forEach((input) => input.addEventListener("input", () => {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of input.parentElement.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
}));

// Map of towers.
const svg = $("map-svg"), index = new Map(data.sites.map((s, i) => [s.site, i]));
const dots = svg ? Array.from(svg.querySelectorAll(".dot")) : [];
const view = svg ? svg.getAttribute("viewBox").split(" ").map(Number) : null;
let box = view && view.slice();
const mix = (a, b, t) => "#" + [1, 3, 5].map((i) => Math.round(parseInt(a.substr(i, 2), 16) * (1 - t) + parseInt(b.substr(i, 2), 16) * t).toString(16).padStart(2, "0")).join("");
function colourOf(ramp, x) {
  const at = Math.min(Math.max(x, 0), 1) * (ramp.length - 1), i = Math.min(Math.floor(at), ramp.length - 2);
  return mix(ramp[i], ramp[i + 1], at - i);
}
function quantile(values, q) {
  const sorted = values.slice().sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] : 1;
}
function valuesOf(score, model, against) {
  const table = (data.scores[target] || {})[score];
  if (!table) return data.sites.map(() => null);
  const m = data.models.indexOf(model), r = data.models.indexOf(against);
  return data.sites.map((_, i) => {
    const a = table[i][m], b = r < 0 ? 0 : table[i][r];
    return a === null || b === null ? null : a - b;
  });
}
function colourMap() {
  if (!svg) return;
  const score = $("map-score").value, model = $("map-model").value, against = $("map-against").value;
  const values = valuesOf(score, model, against), known = values.filter((v) => v !== null);
  const centred = against !== "" || score === "bias";
  const reach = centred ? Math.max(quantile(known.map(Math.abs), 0.95), 1e-9) : score === "rmse" ? Math.max(quantile(known, 0.95), 1e-9) : 1;
  const low = centred ? -reach : 0, high = reach;
  let ramp = centred ? DIVERGING : SEQUENTIAL;
  if (score === "rmse" && !centred) ramp = ramp.slice().reverse();
  if (centred && score !== "rmse" && score !== "bias") ramp = ramp.slice().reverse(); // blue: better
  const units = score === "rmse" || score === "bias" ? " " + data.units[target] : "";
  const name = $("map-score").selectedOptions[0].textContent + (against ? ", " + model + " minus " + against : ", " + model);
  dots.forEach((dot) => {
    const i = index.get(dot.dataset.site), v = values[i];
    dot.style.fill = v === null ? "" : colourOf(ramp, (v - low) / (high - low));
    dot.classList.toggle("none", v === null);
    const text = dot.dataset.site + " (" + data.sites[i].igbp + "): " + (v === null ? "not scored" : number(v, 3) + units);
    dot.setAttribute("aria-label", text);
    dot.querySelector("title").textContent = text;
  });
  $("ramp").style.background = "linear-gradient(to right," + ramp.join(",") + ")";
  $("ramp-low").textContent = (known.some((v) => v < low) ? "≤ " : "") + number(low, 2);
  $("ramp-high").textContent = (known.some((v) => v > high) ? "≥ " : "") + number(high, 2) + units;
  $("map-title").textContent = target + ": " + name + ", " + known.length + " towers";
}
function zoom(factor, at) {
  const w = Math.min(view[2], Math.max(8, box[2] / factor)), h = w * view[3] / view[2];
  const cx = at ? at[0] : box[0] + box[2] / 2, cy = at ? at[1] : box[1] + box[3] / 2;
  const fx = at ? (at[0] - box[0]) / box[2] : 0.5, fy = at ? (at[1] - box[1]) / box[3] : 0.5;
  setBox([cx - fx * w, cy - fy * h, w, h]);
}
function setBox(next) {
  next[0] = Math.min(Math.max(next[0], view[0]), view[0] + view[2] - next[2]);
  next[1] = Math.min(Math.max(next[1], view[1]), view[1] + view[3] - next[3]);
  box = next;
  svg.setAttribute("viewBox", box.join(" "));
  sizeDots();
}
function sizeDots() {
  const width = svg.clientWidth || 800, r = (width < 600 ? 4 : 5.5) * box[2] / width;
  dots.forEach((dot) => dot.setAttribute("r", r));
}
const place = (e) => { const r = svg.getBoundingClientRect(); return [box[0] + (e.clientX - r.left) / r.width * box[2], box[1] + (e.clientY - r.top) / r.height * box[3]]; };
function nearest(e, pixels) {
  const [x, y] = place(e), limit = pixels * box[2] / svg.clientWidth;
  let best = null, far = limit;
  dots.forEach((dot) => {
    const d = Math.hypot(+dot.getAttribute("cx") - x, +dot.getAttribute("cy") - y);
    if (d <= far) { far = d; best = dot; }
  });
  return best;
}
if (svg) {
  ["map-score", "map-model", "map-against"].forEach((id) => $(id).addEventListener("change", colourMap));
  $("map-in").addEventListener("click", () => zoom(2));
  $("map-out").addEventListener("click", () => zoom(0.5));
  $("map-all").addEventListener("click", () => setBox(view.slice()));
  $("map-tower").addEventListener("change", (e) => { if (e.target.value) choose(e.target.value); });
  let drag = null, moved = false;
  svg.addEventListener("pointerdown", (e) => { drag = [e.clientX, e.clientY, box.slice()]; moved = false; });
  svg.addEventListener("pointermove", (e) => {
    if (!drag || e.pointerType === "touch" && box[2] === view[2]) return;
    const dx = e.clientX - drag[0], dy = e.clientY - drag[1];
    if (Math.hypot(dx, dy) < 5) return;
    moved = true;
    setBox([drag[2][0] - dx * box[2] / svg.clientWidth, drag[2][1] - dy * box[3] / svg.clientHeight, box[2], box[3]]);
  });
  addEventListener("pointerup", () => { drag = null; });
  svg.addEventListener("click", (e) => { const dot = moved ? null : nearest(e, 18); if (dot) choose(dot.dataset.site); });
  svg.addEventListener("wheel", (e) => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); zoom(e.deltaY < 0 ? 1.25 : 0.8, place(e)); } }, { passive: false });
  // One tower is in the tab order; arrow keys move to the next one.
  svg.addEventListener("keydown", (e) => {
    const at = dots.indexOf(document.activeElement), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (at < 0) return;
    if (step) { e.preventDefault(); moveFocus(dots[(at + step + dots.length) % dots.length]); }
    else if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(dots[at].dataset.site); }
  });
  addEventListener("resize", () => { sizeDots(); if (chosen !== null) drawSeries(); });
  sizeDots();
}
function moveFocus(dot) {
  dots.forEach((other) => other.setAttribute("tabindex", other === dot ? "0" : "-1"));
  dot.focus({ preventScroll: true });
}

// Series of one tower.
function choose(site, scroll) {
  if (!index.has(site)) return;
  chosen = index.get(site);
  dots.forEach((dot) => {
    const is = dot.dataset.site === site;
    dot.classList.toggle("chosen", is);
    dot.setAttribute("tabindex", is ? "0" : "-1");
    if (is && dot.nextSibling) { // drawn last, above its neighbours; a moved element loses the focus
      const focused = document.activeElement === dot;
      dot.parentNode.append(dot);
      if (focused) dot.focus({ preventScroll: true });
    }
  });
  document.querySelectorAll("button.tower").forEach((b) => b.closest("tr").classList.toggle("chosen", b.dataset.site === site));
  if ($("map-tower")) $("map-tower").value = site;
  drawSeries();
  if (scroll) $("series").scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
document.querySelectorAll("button.tower").forEach((b) => b.addEventListener("click", () => choose(b.dataset.site, true)));
function add(parent, tag, text, kind) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind;
  parent.append(e);
  return e;
}
// Periods without a value are a gap in the line, which two missing values make.
function withGaps(series, scale) {
  const step = data.step === "month" ? 45 : 12, out = series.v.map(() => []), x = [];
  series.t.forEach((day, i) => {
    if (i && day - series.t[i - 1] > step) { x.push((series.t[i - 1] + 1) * 86400); out.forEach((line) => line.push(null)); }
    x.push(day * 86400);
    out.forEach((line, k) => line.push(series.v[k][i] * scale));
  });
  return [x].concat(out);
}
function drawSeries() {
  const panel = $("series"), site = data.sites[chosen];
  if (chart) { chart.destroy(); chart = null; }
  panel.textContent = "";
  add(panel, "h3", site.site + ", " + target);
  add(panel, "p", site.facts, "facts");
  const scores = data.scores[target];
  const line = data.models.map((m, k) => m + ": NSE " + number(scores.nse[chosen][k], 3) + ", RMSE " + number(scores.rmse[chosen][k], 2)).join("; ");
  add(panel, "p", line + " " + data.units[target] + ".", "facts");
  const all = data.series[target] || { sites: {} }, series = all.sites[site.site];
  if (!series) { add(panel, "p", "No period of this tower has enough scored values of " + target + ".", "absent"); return; }
  const lines = withGaps(series, all.scale);
  const holder = add(panel, "div");
  holder.id = "chart";
  holder.setAttribute("role", "img");
  holder.setAttribute("aria-label", "Series of " + target + " at " + site.site + ": observed, " + data.models.join(", "));
  const fg = getComputedStyle(root).getPropertyValue("--fg").trim(), grid = getComputedStyle(root).getPropertyValue("--line").trim();
  const axis = { stroke: fg, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  chart = new uPlot({
    width: Math.max(260, panel.clientWidth - 4), height: innerWidth < 600 ? 260 : 320,
    scales: { x: { time: true } },
    axes: [axis, Object.assign({ label: target + " (" + data.units[target] + ")", size: 62 }, axis)],
    series: [{ label: "date", value: (u, v) => v === null || v === undefined ? "–" : new Date(v * 1000).toISOString().slice(0, 10) }].concat(["observed"].concat(data.models).map((name, k) => ({
      label: name, stroke: k ? LINES[(k - 1) % LINES.length] : fg, width: k ? 1.4 : 2.4, dash: k ? DASHES[(k - 1) % DASHES.length] : [],
      points: { show: false }, value: (u, v) => number(v, 2),
    }))),
  }, lines, holder);
}

// On a narrow screen the title scrolls away, and the buttons stay; anchors are below what stays.
function stick() {
  const top = document.querySelector(".top"), controls = document.querySelector(".controls");
  const away = innerWidth < 640 ? controls.offsetTop - top.offsetTop - 6 : 0;
  top.style.top = -away + "px";
  root.style.setProperty("--top", top.offsetHeight - away + "px");
}
addEventListener("resize", stick);
stick();
document.querySelectorAll("nav a").forEach((a) => a.addEventListener("click", () => { if (innerWidth < 640) document.querySelector("nav details").open = false; }));
if (innerWidth < 640) document.querySelector("nav details").open = false;
addEventListener("beforeprint", () => { document.querySelector("nav details").open = true; });
showTarget(target);
showTheme();
root.dataset.ready = "true";
})();
