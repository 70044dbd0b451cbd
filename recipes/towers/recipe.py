"""Score every model on held-out real towers: `python recipes/towers/recipe.py TOWERS OUT`; with --era5, map a month."""

import argparse
from pathlib import Path

import pandas as pd
import xarray as xr
import yaml

import fluxcube as fc
from fluxcube.errors import unknown
from fluxcube.evaluation.report import format_pair, format_table
from fluxcube.evaluation.scales import scale_table
from fluxcube.evaluation.seeds import seed_table
from fluxcube.evaluation.skill import class_means, score_table
from fluxcube.evaluation.subsets import subset_masks, subset_table
from fluxcube.evaluation.sums import Sums, site_sums
from fluxcube.experiments import Variant, predictions_of, score_members, settings_table, trained
from fluxcube.plotting.scorebars import plot_differences, plot_scores
from fluxcube.samples.splits import load_folds
from fluxcube.shipping import average

SETTINGS = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
CLUSTERS_KM = 50.0


def with_reflectance(one):
    """Return a model whose inputs contain the columns of the surface reflectance as well."""
    return one.changed({"label": f"{one.label} + reflectance", "surface": SETTINGS["surface"]})


def variants_of(budget, only=None, *, surface=False):
    """Return the models at a budget, with reflectance as well if the cube has it; `only` selects labels.

    Trees and networks have the same weights of hours and the same share of the training towers for each seed.
    """
    variants = []
    for line in SETTINGS["models"]:
        start = Variant(**{"label": "", "seed": SETTINGS["seed"], "model": line["model"]} | SETTINGS["base"])
        own = SETTINGS["budgets"][budget].get(line["model"])
        variants.append(start.changed(SETTINGS["equal"] if own else {}).changed(own or {}).changed(line))
    if surface:
        twice = [v for v in variants if v.label in SETTINGS["with_surface"]]
        variants += [with_reflectance(v) for v in twice]
    labels = [v.label for v in variants]
    for label in only or ():
        if label not in labels:
            raise unknown("model", label, labels)
    return [v for v in variants if not only or v.label in only]


def towers(raw, out):
    """Open a cube, or build it from a folder of raw archives."""
    if (raw / "zarr.json").exists():
        return fc.open_carbonsense(raw)
    if not (out / "cube.zarr").exists():
        fc.build_carbonsense(raw, out / "cube.zarr")
    return fc.open_carbonsense(out / "cube.zarr")


def predicted(cube, split, variants, out, part):
    """Return the predictions of every model for a fold, and those of the means of models."""
    made = {v.label: predictions_of(cube, split, v, out, part=part, log=print) for v in variants}
    for mean in SETTINGS["means"]:
        if set(mean["of"]) <= set(made):
            made[mean["label"]] = average([made[label] for label in mean["of"]])
    return made


def fold_sums(cube, split, predictions, part):
    """Return the sums of the towers of a fold, at the hours that all models predict."""
    return site_sums(split.part(cube, part), predictions)


def joined(folds):
    """Return the predictions of each model for the towers of all folds."""
    return {label: xr.concat([fold[label] for fold in folds], "site", join="outer") for label in folds[0]}


def slim(table):
    """Return the columns that fit on a page; the CSV has all."""
    return table.drop(columns=["units", "mae", "bias", "corr2", "rmse_site_median"])


def drawn(table):
    """Return the rows of the models in figures, and of groups of at least five towers; all rows if none is left."""
    some = table[table["model"].isin(SETTINGS["in_figures"]) & (table["n_sites"] >= 5)]
    return some if len(some) else table


def report(sums, out, draws):
    """Write tables and figures from the sums of sites."""
    about = {"clusters": CLUSTERS_KM, "draws": draws, "seed": SETTINGS["seed"]}
    groups = (None, "igbp", *(["climate"] if "koppen" in sums.places[sums.targets[0]] else []))
    whole, *several = (score_table(sums, by=by, **about) for by in groups)
    classes = several[0]
    heading = f"# {', '.join(sums.targets)} of held-out towers"
    text = [heading, format_table(slim(whole))]
    for by, table in zip(groups[1:], several, strict=True):
        text += [f"## By {'class' if by == 'igbp' else by}", format_table(slim(table))]
        plot_scores(drawn(table), out / f"scores-{by}.png")
    means = class_means(classes)
    text += [f"## Mean over classes of 5 sites and more\n\n{format_table(means)}"] if len(means) else []
    for model, against in SETTINGS["pairs"]:
        if {model, against} <= set(sums.models):
            tables = [score_table(sums, by=by, against=against, **about) for by in (None, "igbp")]
            pair = pd.concat(tables, ignore_index=True)
            pair.attrs = tables[0].attrs
            text += [f"## {model} and {against}", format_pair(pair, model, against)]
    (out / "scores.md").write_text("\n\n".join(text) + "\n", "utf-8")
    both = pd.concat([whole, *several], ignore_index=True)
    both.attrs = whole.attrs
    both.to_csv(out / "scores.csv", index=False)
    if len(sums.models) > 1:
        plot_differences(whole, out / "differences.png")
    return both


def settings(cube, splits, variants, out):
    """Write the settings of every run, and where they were chosen."""
    table = settings_table(cube, splits, variants, out, chosen_on=SETTINGS["chosen_on"])
    table.to_csv(out / "settings.csv", index=False)
    short = table.drop(columns=["settings", "searched"]).set_index("model")
    cells = [[str(name), *map(_cell, row)] for name, row in zip(short.index, short.values, strict=True)]
    head = ["model", *short.columns.str.replace("_", " ")]
    text = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells])
    (out / "settings.md").write_text(f"# Settings, and where they were chosen\n\n{text}\n", "utf-8")


def _cell(value):
    if value is None or value != value:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def seeds(cube, splits, variants, out, draws):
    """Write the scores of ensembles and of single members, with intervals over towers and over seeds as well."""
    sums = score_members(cube, splits, variants, out, log=print)
    table = seed_table(sums, clusters=CLUSTERS_KM, draws=draws, seed=SETTINGS["seed"])
    table.to_csv(out / "seeds.csv", index=False)


def scales(cube, predictions, out, draws):
    """Write skill at eight time scales."""
    table = scale_table(cube, predictions, clusters=CLUSTERS_KM, draws=draws)
    table.to_csv(out / "scales.csv", index=False)
    (out / "scales.md").write_text(f"# NSE at eight time scales\n\n{_markdown(_wide(table))}\n", "utf-8")


def subsets(cube, predictions, out, draws):
    """Write skill in extreme hours and in seasonal transitions."""
    table = subset_table(cube, predictions, subset_masks(cube), clusters=CLUSTERS_KM, draws=draws)
    table.to_csv(out / "subsets.csv", index=False)
    (out / "subsets.md").write_text(f"# NSE in extreme hours and transitions\n\n{_markdown(_wide(table))}\n", "utf-8")
    plot_scores(drawn(table), out / "subsets.png", title="NEE: NSE in extreme hours and transitions")


def _wide(table):
    """Return the NSE of each group (row) and model (column) of the first flux."""
    table = table[table.target == table.target.iloc[0]]
    order = [list(dict.fromkeys(table[column])) for column in ("group", "model")]
    return table.pivot(index="group", columns="model", values="nse").loc[order[0], order[1]]


def _markdown(wide):
    cells = [[str(name), *("–" if x != x else f"{x:.3f}" for x in row)] for name, row in wide.iterrows()]
    lines = [["", *wide.columns], ["---"] * (len(wide.columns) + 1), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def maps(run, era5, out, igbp):
    """Write maps of a month by one run."""
    made = fc.upscale(fc.load_model(run), fc.open_forcing(era5, igbp=igbp), allow_missing=True)
    fc.write_maps(made, out / "maps.zarr", overwrite=True)  # resumes unfinished maps
    for name, flux in fc.open_maps(out / "maps.zarr").data_vars.items():
        fc.plot_map(flux.mean("time", keep_attrs=True), out / f"{name}.png")


def page(cube, splits, variants, predictions, out, draws):
    """Write a page with the scores, figures and series of all models."""
    runs = {v.label: [trained(cube, one, v, out) for one in splits.values()] for v in variants}
    fc.report(
        predictions,
        cube,
        out / "report",
        split=list(splits.values()),
        runs=runs,
        draws=draws,
        title="Hourly models at held-out towers",
        overwrite=True,
    )


def main(
    raw,
    out,
    *,
    split,
    folds=None,
    only=None,
    budget="full",
    part="test",
    draws=1000,
    era5=None,
    igbp=None,
    report_page=False,
):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    cube = towers(Path(raw), out) if isinstance(raw, str | Path) else raw
    splits = {f"fold{i}": s for i, s in enumerate(load_folds(split), 1) if not folds or i in folds}
    variants = variants_of(budget, only, surface="surface" in cube)
    folds = [predicted(cube, one, variants, out, part) for one in splits.values()]
    sums = [fold_sums(cube, *pair, part) for pair in zip(splits.values(), folds, strict=True)]
    table = report(Sums.join(sums, repeated=part == "val"), out, draws)
    settings(cube, splits, variants, out)
    if part == "test":
        seeds(cube, splits, variants, out, draws)
        predictions = joined(folds)
        tested = cube.sel(site=[site for one in splits.values() for site in one.test])
        scales(tested, predictions, out, draws)
        subsets(tested, predictions, out, draws)
        if report_page:
            page(cube, splits, variants, predictions, out, draws)
    if era5:
        maps(trained(cube, next(iter(splits.values())), variants[-1], out), era5, out, igbp)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="cube, or folder of FLUXNET archives")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", type=Path, default=Path(SETTINGS["folds"]), help="file of folds")
    parser.add_argument("--folds", help="numbers of folds, as 1,2; all by default")
    parser.add_argument("--only", help="labels of models, separated by commas; all by default")
    parser.add_argument("--budget", choices=list(SETTINGS["budgets"]), default="full")
    parser.add_argument("--part", choices=("val", "test"), default="test", help="val while settings are chosen")
    parser.add_argument("--report", dest="report_page", action="store_true", help="write a page, too (of part test)")
    parser.add_argument("--era5", type=Path)
    parser.add_argument("--igbp")
    options = vars(parser.parse_args())
    options["only"] = options["only"].split(",") if options["only"] else None
    options["folds"] = [int(n) for n in options["folds"].split(",")] if options["folds"] else None
    print(format_table(main(options.pop("raw"), options.pop("out"), **options)))
