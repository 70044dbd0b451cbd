"""The files of a report: page, tables, scores and figures; and what it does with bad input."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from reported import MARKUP, noisy, reported_cube

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError, StoreError
from fluxcube.reports.behaviour import density_section
from fluxcube.reports.context import compute_section, driver_pairs, drivers_section
from fluxcube.reports.evidence import evidence_of
from fluxcube.reports.folds import training_of
from fluxcube.reports.gather import gather
from fluxcube.reports.html import inline_svg, script_json
from fluxcube.reports.latex import latex_table
from fluxcube.reports.paper import paper_section, zero_shot_section
from fluxcube.reports.scales import scales_section
from fluxcube.reports.scores import rows_section, scores_section
from fluxcube.reports.section import Column, Table, number, slug
from fluxcube.reports.towers import leakage_section, page_data
from fluxcube.samples.splits import Split


class Page(HTMLParser):
    """Elements, identifiers and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.addresses, self.images = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href", "xlink:href", "data") if values.get(name)]
        if tag == "svg":
            self.images.append(values)


@pytest.fixture(scope="module")
def page(report_folder) -> Page:
    return Page((report_folder / "report.html").read_text("utf-8"))


def test_the_page_loads_nothing_and_its_identifiers_are_unique(page, report_folder):
    text = (report_folder / "report.html").read_text("utf-8")
    assert "default-src 'none'" in text
    loaded = [
        a for a in page.addresses if not a.startswith(("#", "data:", "https://doi.org/", "https://hdl.handle.net/"))
    ]
    assert loaded == []
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids)), sorted({i for i in page.ids if page.ids.count(i) > 1})
    assert len(text) < 3_000_000


def test_names_of_sites_and_models_appear_as_text(page, report_folder):
    text = (report_folder / "report.html").read_text("utf-8")
    assert "<b>XX" not in text and "<i>fast" not in text and "<1>" not in text
    assert "&lt;b&gt;XX&lt;/b&gt;&amp;" in text
    assert not {"b", "i"} & set(page.tags)
    assert page.tags.count("script") == 3


def test_every_figure_has_a_description(page):
    drawn = [svg for svg in page.images if svg.get("id") != "map-svg"]
    assert drawn
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in drawn)


def test_every_section_has_content_or_a_reason(report_folder):
    text = (report_folder / "report.html").read_text("utf-8")
    parts = re.findall(r'<section id="([^"]+)">(.*?)</section>', text, re.DOTALL)
    assert len(parts) >= 18
    for name, body in parts:
        assert "<table" in body or "<svg" in body or 'class="absent"' in body, name


def test_scores_are_those_of_compare(report_folder):
    cube = reported_cube()
    models = {"good & <i>fast</i>": noisy(cube, 1.0, 0), "worse": noisy(cube, 3.0, 1)}
    expected = fc.compare(cube, models, by="igbp").set_index(["target", "group", "model"])["nse"]
    table = pd.read_csv(report_folder / "scores.csv", keep_default_na=False, na_values=[""])
    rows = table[table.by == "igbp"].set_index(["target", "group", "model"])["nse"]
    assert np.allclose(rows.reindex(expected.index), expected)
    assert {"all", "igbp", "climate", "season", "scale", "site", "subset"} <= set(table.by)
    with xr.open_dataset(report_folder / "scores.nc") as ds:
        one = ds.sel(target="NEE", model="worse").isel(group=np.flatnonzero(ds.by.values == "igbp"))
        assert np.allclose(one.nse.values, expected["NEE"].unstack("model")["worse"].reindex(one.group.values))
        assert "flag <= 0" in ds.attrs["row_mask"]
        assert ds.units.values.tolist() == ["umol m-2 s-1"] * 2


def test_figures_and_latex_tables_are_files(report_folder):
    names = {path.stem for path in (report_folder / "figures").glob("*.png")}
    assert (
        names == {path.stem for path in (report_folder / "figures").glob("*.svg")}
        and {"igbp-nee", "map-nee", "cycle-diurnal-nee", "rank-gpp-nt"} <= names
    )
    tex = (report_folder / "tables" / "nse-igbp-nee.tex").read_text("utf-8")
    assert r"good \& \textless{}i\textgreater{}fast" in tex and tex.count(r"\begin{tabular}") == 1
    assert tex.isascii()


def test_rows_end_with_the_scored_ones():
    cube = reported_cube(sites=3, days=12)
    model = noisy(cube, 1.0, 0)
    model["NEE"][0, :50] = np.nan
    evidence = evidence_of(cube, {"a": model, "b": noisy(cube, 2.0, 1)}, draws=0)
    last = evidence.removed.groupby("target").last()
    for target in evidence.targets:
        assert last.loc[target, "n"] == evidence.sums.moments[target].n.sum(axis=(0, 1))[0]
    nee = evidence.removed[evidence.removed.target == "NEE"].set_index("step")
    assert 0 < nee.loc["where a has a value", "removed"] <= 50
    assert nee.loc["where b has a value", "removed"] == 0
    assert any("Row mask" in text for text in rows_section(evidence).text)


def test_a_scored_training_tower_is_reported():
    cube = reported_cube(sites=4, days=12)
    sites = [str(site) for site in cube["site"].values]
    model = {"a": noisy(cube, 1.0, 0)}
    clean = evidence_of(cube, model, seen={"a": dict.fromkeys(sites, frozenset({"DE-Tha"}))}, draws=0)
    assert "No scored tower is a training tower" in leakage_section(clean).text[0]
    leak = evidence_of(cube, model, seen={"a": dict.fromkeys(sites, frozenset({sites[2]}))}, draws=0)
    assert leakage_section(leak).text[0].startswith("Leakage: models were trained on 1 tower ")
    unknown = evidence_of(cube, model, draws=0)
    assert "not known" in leakage_section(unknown).absent
    marked = {"a": model["a"].assign_coords(in_training=("site", [False, True, False, False]))}
    found = leakage_section(evidence_of(cube, marked, draws=0))
    assert found.text[0].startswith("Leakage: models were trained on 1 tower ")


def test_zero_shot_towers_have_classes_without_training_towers():
    cube = reported_cube(sites=4, days=12)  # DBF, GRA, ENF, CRO
    sites = [str(site) for site in cube["site"].values]
    seen = {"a": {sites[0]: frozenset(sites[1:]), sites[1]: frozenset({sites[1]})}}
    found = zero_shot_section(evidence_of(cube, {"a": noisy(cube, 1.0, 0)}, seen=seen, draws=0))
    assert set(found.tables[0].data["igbp"]) == {"DBF"}


def test_training_towers_are_those_of_the_fold_of_a_tower():
    folds = [Split(train=("a", "b"), test=("c",)), Split(train=("c",), val=("d",), test=("a", "b"))]
    found = training_of(folds, ["a", "b", "c"])
    assert found == {"c": {"a", "b"}, "a": {"c", "d"}, "b": {"c", "d"}}


def test_folds_of_a_model_are_joined(tmp_path):
    cube = reported_cube(sites=4, days=12)
    one = noisy(cube, 1.0, 0)
    parts = [one.isel(site=[0, 1]), one.isel(site=[2, 3], time=slice(24, None))]
    joined = gather("a", parts, cube, tmp_path).predictions
    assert joined["NEE"].isel(site=1).equals(one["NEE"].isel(site=1))
    assert joined["NEE"].isel(site=2).isnull()[:24].all()
    with pytest.raises(ConfigError, match="is in two of its folds"):
        gather("a", [one, one], cube, tmp_path)


def test_files_and_folders_of_predictions_are_read(tmp_path):
    from fluxcube.evaluation.report import write_predictions

    cube = reported_cube(sites=4, days=12)
    one = noisy(cube, 1.0, 0)
    for i in (0, 1):
        write_predictions(one.isel(site=[2 * i, 2 * i + 1]), tmp_path / f"fold{i}.nc")
    found = gather("a", tmp_path, cube, tmp_path / "out").predictions
    assert found["NEE"].equals(one["NEE"])
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "found neither"), (tmp_path / "none.nc", "contains no predictions")):
        with pytest.raises(StoreError, match=message):
            gather("a", path, cube, tmp_path / "out")


def test_bad_input_is_named(tmp_path):
    cube = reported_cube(sites=2, days=8)
    one = noisy(cube, 1.0, 0)
    with pytest.raises(ConfigError, match="nothing to report"):
        fc.report({}, cube, tmp_path / "r")
    with pytest.raises(ConfigError, match="no tower in common"):
        fc.report({"a": one.assign_coords(site=["u", "v"])}, cube, tmp_path / "r")
    with pytest.raises(SchemaError, match="nothing to score"):
        fc.report({"a": one.assign_coords(time=one.time + np.timedelta64(900, "D"))}, cube, tmp_path / "r")
    with pytest.raises(StoreError, match="parent folder does not exist"):
        fc.report({"a": one}, cube, tmp_path / "none" / "r")
    with pytest.raises(ConfigError, match="cannot be that of a model"):
        fc.report({"observed": one}, cube, tmp_path / "r")
    with pytest.raises(ConfigError, match="label of two models"):
        fc.report({"a": one}, cube, tmp_path / "r", maps={"a": one})
    with pytest.raises(StoreError, match=r"absent\.zarr: no store there"):
        fc.report({"a": one}, cube, tmp_path / "new", maps={"map": str(tmp_path / "absent.zarr")})
    assert not (tmp_path / "new").exists()
    (tmp_path / "r" / "report.html").write_text("mine", "utf-8")
    with pytest.raises(StoreError, match="contains a report"):
        fc.report({"a": one}, cube, tmp_path / "r")


@pytest.mark.parametrize("what", ["constant observations", "one site", "no value", "no class and no place"])
def test_poor_data_give_a_page(what, tmp_path, monkeypatch):
    from fluxcube.reports import write

    cube = reported_cube(sites=3, days=8)
    model = noisy(cube, 1.0, 0, targets=("NEE",))
    if what == "constant observations":
        cube["fluxes"] = xr.full_like(cube["fluxes"], 2.0)
    elif what == "one site":
        cube, model = cube.isel(site=[1]), model.isel(site=[1])
    elif what == "no value":
        model = xr.full_like(model, np.nan)
    else:
        cube = cube.drop_vars(["igbp", "koppen"])
    monkeypatch.setattr(write, "picture", lambda figure: None)
    path = fc.report({"a": model}, cube, tmp_path / "r", draws=100)
    assert "</html>" in path.read_text("utf-8")
    table = pd.read_csv(tmp_path / "r" / "scores.csv")
    row = table[table.by == "all"].iloc[0]
    assert row.n == (0 if what == "no value" else row.n)
    assert np.isnan(row.nse) == (what in ("no value", "constant observations"))


def test_page_data_are_rounded_and_complete():
    cube = reported_cube(sites=3, days=24)
    data = page_data(evidence_of(cube, {"a": noisy(cube, 1.0, 0)}, draws=0))
    assert [site["site"] for site in data["sites"]][1] == MARKUP
    series = data["series"]["NEE"]["sites"][MARKUP]
    assert len(series["v"]) == 2 and len(series["v"][0]) == len(series["t"])
    assert "</" not in script_json(data)


def test_an_inline_svg_has_names_of_its_own_and_the_colour_of_the_page():
    svg = '<?xml version="1.0"?><svg width="72pt" height="36pt" viewBox="0 0 72 36"><defs><clipPath id="p"/></defs>'
    svg += '<g clip-path="url(#p)"><use xlink:href="#p" style="fill: #808081"/></g>'
    svg += '<use style="stroke: #b0b0b0; stroke-width: 0.5"/>' * 3 + "</svg>"
    found = inline_svg(svg, prefix="f", alt='a "b"', sentinel="#808081")
    assert 'id="f-p"' in found and "url(#f-p)" in found and 'href="#f-p"' in found
    assert "<style>.f-0{stroke: #b0b0b0; stroke-width: 0.5}</style>" in found and found.count('class="f-0"') == 3
    assert "currentColor" in found and 'aria-label="a &quot;b&quot;"' in found and "<?xml" not in found


def test_cells_of_tables():
    data = pd.DataFrame({"m": ["a_b"], "nse": [-0.0001], "lo": [-1.0], "hi": [0.5], "n": [12345]})
    table = Table(
        "t", "50 % of", data, [Column("m", "model"), Column("nse", "NSE", ".3f", "lo", "hi"), Column("n", "n", ",d")]
    )
    assert table.cells() == [["a_b", "0.000 [−1.000, 0.500]", "12,345"]]
    assert r"a\_b & 0.000 [$-$1.000, 0.500] & 12,345 \\" in latex_table(table)
    assert number(float("inf"), ".3f") == "–"
    assert slug("TAM-RL (ours)") == "tam-rl-ours"


def test_the_ladder_of_baselines_is_trained_on_the_same_split(tmp_path, monkeypatch):
    from fluxcube.reports import write

    kept = {}
    monkeypatch.setattr(write, "write_report", lambda evidence, folder, progress: kept.update(evidence=evidence))
    cube = reported_cube(sites=4, days=12)
    sites = [str(site) for site in cube["site"].values]
    split = Split(train=sites[2:], test=sites[:2])
    model = {"a": noisy(cube.isel(site=[0, 1]), 1.0, 0, targets=("NEE",))}
    more = {"b": noisy(cube.isel(site=[0, 1]), 2.0, 0)["NEE"]}  # an array, named after its flux
    fc.report(model, cube, tmp_path / "q", split=split, draws=0)
    assert kept["evidence"].left_out == ()
    model["a"] = noisy(cube.isel(site=[0, 1]), 1.0, 0)
    fc.report(model | more, cube, tmp_path / "r", split=split, baselines=["mean", "sw-linear"], draws=0)
    found = kept["evidence"]
    assert found.left_out == ("GPP_NT",) and "GPP_NT" in " ".join(rows_section(found).text)
    assert found.models == ("a", "b", "mean", "line of SW_IN")
    assert found.seen["mean"] == dict.fromkeys(sites[:2], frozenset(sites[2:]))
    scores = found.scores().set_index("model")["nse"]
    assert scores["mean"] < scores["line of SW_IN"] < scores["a"]
    with pytest.raises(ConfigError, match="baselines are trained"):
        fc.report(model, cube, tmp_path / "s", baselines=True)


def test_models_driven_by_two_sources_of_weather_are_compared():
    cube = reported_cube(sites=4, days=12)
    tower, era5 = noisy(cube, 1.0, 0), noisy(cube, 2.0, 1)
    era5.attrs["drivers"] = "era5"
    evidence = evidence_of(cube, {"eco": tower, "eco (era5)": era5, "other": noisy(cube, 3.0, 2)}, draws=0)
    assert driver_pairs(evidence) == [("eco", "eco (era5)")]
    section = drivers_section(evidence)
    row = section.tables[0].data.iloc[0]
    assert row["nse_lost"] < 0 and row["nse_lost"] == pytest.approx(row["nse_era5"] - row["nse_tower"])
    alone = drivers_section(evidence_of(cube, {"eco": tower}, draws=0))
    assert "no model is there twice" in alone.absent


def test_energy_follows_from_the_recorded_seconds():
    cube = reported_cube(sites=2, days=8)
    history = [{"epoch": 1, "seconds": 1800.0}, {"epoch": 2, "seconds": 3600.0}]
    records = {"a": [{"history": history, "versions": {"torch": "2"}}, {"history": [{"trees": 5}]}]}
    section = compute_section(evidence_of(cube, {"a": noisy(cube, 1.0, 0)}, records=records, draws=0))
    (table,) = section.tables
    assert table.cells()[0][:5] == ["a", "2", "1", "60", "15"]
    assert [c.heading for c in table.columns[3:5]] == ["time of training (minutes)", "energy, estimate (Wh)"]
    assert any("estimate" in text for text in section.text)


@pytest.mark.parametrize(
    "seconds, expected, units", [(2.0, ["0.0333", "0.0083"], "Wh"), (1e6, ["278", "4.2"], "kWh"), (0, ["–", "–"], "Wh")]
)
def test_energy_has_units_that_fit_the_time_of_training(seconds, expected, units):
    cube = reported_cube(sites=2, days=8)
    records = {"a": [{"history": [{"seconds": seconds}]}]}
    table = compute_section(evidence_of(cube, {"a": noisy(cube, 1.0, 0)}, records=records, draws=0)).tables[0]
    assert table.cells()[0][3:5] == expected
    assert table.columns[4].heading.endswith(f"({units})")


@pytest.mark.parametrize("sites, found", [(2, False), (6, True)])
def test_intervals_are_mentioned_where_there_are_some(sites, found):
    cube = reported_cube(sites=sites, days=12)
    models = {"a": noisy(cube, 1.0, 0), "b": noisy(cube, 2.0, 1)}
    evidence = evidence_of(cube, models, draws=100, against="a")
    scores, paper = scores_section(evidence), paper_section(evidence)
    captions = {figure.name: figure.caption for figure in (*scores.figures, *paper.figures)}
    for name in ("differences-nee", "paper-3-nee", "paper-4-nee"):
        assert ("95 % intervals" in captions[name]) == found
    for section in (scores, scales_section(evidence)):
        assert section.text[-1].startswith("Brackets contain 95 %" if found else "There are no intervals")
    assert "NSE" not in captions["paper-4-nee"]  # it shows the RMSE only


def test_a_density_without_all_models_says_so():
    cube = reported_cube(sites=2, days=12)
    models = {"a": noisy(cube, 1.0, 0), "b": noisy(cube, 2.0, 1)}
    assert "the model with the highest NSE" in density_section(evidence_of(cube, models, draws=0)).text[-1]
    one = density_section(evidence_of(cube, {"a": models["a"]}, draws=0))
    assert not any("the model with the highest NSE" in text for text in one.text)
