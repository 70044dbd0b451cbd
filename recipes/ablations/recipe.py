"""Change one setting at a time and score it: `python recipes/ablations/recipe.py CUBE OUT --only context,k`."""

import argparse
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

import fluxcube as fc
from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.report import format_table
from fluxcube.evaluation.skill import score_table
from fluxcube.experiments import Variant, score_variants
from fluxcube.samples.splits import load_folds, split_for

CLUSTERS_KM = 50.0
#: The split on whose test towers settings are chosen.
DEVELOPMENT = "splits/towers157-development.json"
#: Flux whose scores are reported.
SCORED = "NEE"
SETTINGS = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]


def variant(changes, budget, surface):
    """Return the base with some settings changed, at a budget; another kind of model uses no config of the base."""
    model = changes.get("model", "ecoperceiver")
    base = {"label": "base", "seed": SETTINGS["seed"], "model": model, "surface": surface} | SETTINGS["base"]
    if model != "ecoperceiver":
        base |= {"config": {}, "training": {}}
    changes = {key: value for key, value in changes.items() if key not in ("config", "training") or value}
    return Variant(**base).changed(SETTINGS["budgets"][budget].get(model, {})).changed(changes)


def grid(budget, surface=()):
    """Return every axis: its name, the class that is scored, its variants; `surface` are the columns of reflectance."""
    axes = [(name, None, lines) for name, lines in SETTINGS["axes"].items()]
    for igbp in SETTINGS["biomes"]:
        axes.append((f"biome {igbp}", igbp, [{"label": "all classes"}, {"label": f"{igbp} alone", "train_igbp": igbp}]))
    missing = SETTINGS["missing"]
    hidden = [
        line | {"label": at(line["label"], s), "hide": s} for s in missing["shares"] for line in missing["models"]
    ]
    axes.append(("missing", None, hidden))
    return [(name, igbp, [variant(line, budget, surface) for line in lines]) for name, igbp, lines in axes]


def at(label, share):
    """Return the label of a model that predicts with a share of its predictors missing."""
    return f"{label}, {share:.0%} missing"


def chosen(axes, only):
    """Return the requested axes, by name or by the first word of it."""
    known = list(dict.fromkeys(word for name, *_ in axes for word in (name.split()[0], name)))
    for word in only or ():
        if word not in known:
            raise unknown("axis", word, known)
    return [axis for axis in axes if not only or axis[0] in only or axis[0].split()[0] in only]


def part_of(splits):
    """Return the part that is scored by default: validation towers, or the test towers of a development split."""
    if all(split.kind == "development" for split in splits.values()):
        return "test"
    if not all(split.val for split in splits.values()):
        raise ConfigError("the folds have no validation towers to choose settings on: pass the development split.")
    return "val"


def splits_of(cube, split, folds):
    """Return the folds of a file, or one split by its keyword."""
    if not Path(split).exists():
        return {split.replace("/", "-").replace(":", "-"): split_for(cube, split)}
    every = {f"fold{i}": fold for i, fold in enumerate(load_folds(split), 1)}
    return {name: fold for name, fold in every.items() if not folds or int(name.removeprefix("fold")) in folds}


def lacking(cube, splits, part, igbp):
    """Return why a class cannot be scored alone, or None if it can."""
    classes = {s: str(c) for s, c in zip(cube.site.values, cube.igbp.values, strict=True)}
    for where, enough in (("train", all), (part, any)):
        if not enough(igbp in {classes[site] for site in getattr(split, where)} for split in splits.values()):
            return f"{'not every fold has' if enough is all else 'no fold has'} a {where} site of {igbp}"
    return None


def tabled(name, variants, sums, draws):
    """Return scores of an axis relative to its first line; those of `missing`, relative to the first at each share.

    They are those of all towers, and by class and climate.
    """
    groups = {name: variants}
    if name == "missing":
        shares = dict.fromkeys(v.hide for v in variants)
        groups = {f"missing {share:.0%}": [v for v in variants if v.hide == share] for share in shares}
    by = [None, "igbp", *(["climate"] if "koppen" in sums.places[SCORED] else [])]
    tables = []
    for axis, members in groups.items():
        about = {"clusters": CLUSTERS_KM, "draws": draws, "against": members[0].label}
        for one in by:
            table = score_table(sums, by=one, **about).assign(axis=axis, by=one or "all")
            tables.append(table[table["model"].isin([v.label for v in members]) & (table["target"] == SCORED)])
    return tables


def report(tables, out):
    """Write the results so far: an interrupted grid leaves the table of its finished axes."""
    table = pd.concat([one.assign(group=one.group.fillna("all")) for one in tables], ignore_index=True)
    row_mask = "measured hours that all variants of an axis predict"
    table.attrs = dict(tables[0].attrs) | {"against": "the first line of each axis", "row_mask": row_mask}
    table.to_csv(out / "ablations.csv", index=False)
    whole = table[table["by"] == "all"].assign(group=table["axis"])
    whole.attrs = dict(table.attrs)
    dropped = ["target", "units", "mae", "bias", "corr2", "rmse_site_median", "axis", "by", "counted"]
    text = ["# Ablations", format_table(whole.drop(columns=dropped, errors="ignore"))]
    for by, title in (("igbp", "By class"), ("climate", "By climate")):
        text += [f"## {title}: NSE, pooled", *(_markdown(one) for one in _by_axis(table[table["by"] == by]))]
    (out / "ablations.md").write_text("\n\n".join(text) + "\n", "utf-8")
    return table


def _by_axis(table):
    """Return NSE by group (row) and variant (column) for each axis; groups have at least five towers."""
    for axis, one in table[table["n_sites"] >= 5].groupby("axis", sort=False):
        if len(one):
            wide = one.pivot(index="group", columns="model", values="nse")[list(dict.fromkeys(one.model))]
            wide.insert(0, "towers", one.groupby("group").n_sites.first())
            yield wide.rename_axis(index=axis)


def _markdown(wide):
    cells = [[str(name), str(int(row.iloc[0])), *(f"{x:.3f}" for x in row.iloc[1:])] for name, row in wide.iterrows()]
    lines = [[wide.index.name, *wide.columns], ["---"] * (len(wide.columns) + 1), *cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def draw(table, out):
    """Draw one figure for each question: differences from its first line, or skill against missing values."""
    shown = table[(table["by"] == "all") | ((table["by"] == "climate") & (table["n_sites"] >= 5))]
    word = shown["axis"].str.split().str[0]
    for name, one in shown.groupby(word, sort=False):
        if name == "missing":
            draw_missing(one[one["by"] == "all"], out / "missing.png")
        elif name == "biome":
            alone = one["model"].where(one["nse_diff"].isna(), "that class alone")
            one = one.assign(model=alone, group=one["axis"].str.removeprefix("biome "))
            draw_axis(one[one["by"] == "all"], "trained on one class", out / "biome.png")
        else:
            draw_axis(one.assign(group=one["axis"].str.cat(one["group"], ": ")), name, out / f"{name}.png")


def draw_axis(table, name, path):
    """Draw NSE less that of the first line, with intervals: all towers, then each climate."""
    others = table[table["nse_diff"].notna()]
    others = others.assign(group=others["group"].str.removeprefix(f"{name}: ").str.removesuffix(": all"))
    groups, labels = list(dict.fromkeys(others["group"])), list(dict.fromkeys(others["model"]))
    step = 0.8 / len(labels)
    figure = Figure(figsize=(7, 1.4 + max(0.32, 0.16 * len(labels)) * len(groups)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0.0, color="#888888", linewidth=0.8)
    for number, label in enumerate(labels):
        one = others[others["model"] == label]
        at = [groups.index(group) + (number - (len(labels) - 1) / 2) * step for group in one["group"]]
        ax.hlines(at, one["nse_diff_low"], one["nse_diff_high"], color=f"C{number}", linewidth=1.5)
        ax.plot(one["nse_diff"], at, "o", color=f"C{number}", markersize=4, label=label)
    towers = others.groupby("group").n_sites.first()
    ax.set_yticks(range(len(groups)), [f"{group} ({towers[group]})" for group in groups])
    ax.invert_yaxis()
    ax.set(xlabel=f"NSE, difference from: {table['model'].iloc[0]}", ylabel="(towers)", title=name)
    if len(labels) > 1:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def draw_missing(table, path):
    """Draw NSE against the share of predictors that are missing."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    parts = table["model"].str.rsplit(", ", n=1, expand=True)
    for label, one in table.groupby(parts[0], sort=False):
        ax.plot(parts[1][one.index].str.rstrip("% misng").astype(float), one["nse"], "o-", label=label)
    ax.set(xlabel="predictors that are missing (%)", ylabel="NSE, pooled", title="Predictors missing at test")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main(cube, out, *, split="per-igbp", folds=None, only=None, budget="full", part=None, draws=1000):
    cube, out = fc.open_carbonsense(cube) if isinstance(cube, str | Path) else cube, Path(out)
    axes = chosen(grid(budget, SETTINGS["surface"] if "surface" in cube else ()), only)
    if "modis" not in cube and any(v.bands is None for _, _, variants in axes for v in variants):
        axes = [axis for axis in axes if axis[0] != "modis"]
        print("left out modis: the cube has no chips")
    if "surface" not in cube:
        axes = [axis for axis in axes if axis[0] != "satellite"]
        print("left out satellite: the cube has no surface reflectance")
    out.mkdir(parents=True, exist_ok=True)
    splits, tables = splits_of(cube, split, folds), []
    part = part or part_of(splits)
    for name, igbp, variants in axes:
        if igbp and (why := lacking(cube, splits, part, igbp)):
            print(f"left out {name}: {why}")
            continue
        sums = score_variants(cube, splits, variants, out, part=part, igbp=igbp, log=print)
        tables += tabled(name, variants, sums, draws)
        report(tables, out)
    table = report(tables, out)
    draw(table, out)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default=DEVELOPMENT, help="file of folds, or a kind of split")
    parser.add_argument("--folds", help="numbers of the file's folds, as 1,2; all by default")
    parser.add_argument("--only", help="axes, as context,k or missing; all by default")
    parser.add_argument("--budget", choices=list(SETTINGS["budgets"]), default="full")
    parser.add_argument("--part", choices=("val", "test"), help="default: val, or test of a development split")
    options = vars(parser.parse_args())
    options["only"] = options["only"].split(",") if options["only"] else None
    options["folds"] = [int(n) for n in options["folds"].split(",")] if options["folds"] else None
    main(options.pop("cube"), out := options.pop("out"), **options)
    print((out / "ablations.md").read_text("utf-8"))
