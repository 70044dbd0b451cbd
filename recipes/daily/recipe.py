"""Score daily models on held-out real towers: `python recipes/daily/recipe.py CUBE OUT`; `--only` some of them."""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
import yaml

import fluxcube as fc
from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.report import format_table
from fluxcube.evaluation.seeds import seed_table
from fluxcube.evaluation.separation import class_separation
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores
from fluxcube.evaluation.skill import score_table
from fluxcube.experiments import Variant, predictions_of, score_members, score_variants, settings_table, trained
from fluxcube.plotting.bars import plot_class_errors
from fluxcube.plotting.sites import plot_class_changes, plot_embedding, plot_site_changes
from fluxcube.samples.splits import load_folds

SETTINGS = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
CLUSTERS_KM = 50.0
#: The model whose settings are changed one at a time, and that is drawn against the reference model.
OURS = "TAM-RL (ours)"
#: Fluxes in figures, as in the paper.
DRAWN = ("GPP_NT", "NEE")


def variant(line, budget):
    """Return one model at a budget, with the weights and towers of a member that all models of a budget share."""
    start = Variant(**{"label": "", "seed": SETTINGS["seed"], "model": line["model"]} | SETTINGS["base"])
    own = SETTINGS["budgets"][budget].get(line["model"])
    return start.changed(SETTINGS["equal"][budget] if own else {}).changed(own or {}).changed(line)


def with_reflectance(one):
    """Return a model whose inputs contain the columns of the surface reflectance as well."""
    return one.changed({"label": f"{one.label} + reflectance", "surface": SETTINGS["surface"]})


def models_of(budget, only=None, *, surface=False):
    """Return the models at a budget, with reflectance as well if the cube has it; `only` selects labels."""
    models = [variant(line, budget) for line in SETTINGS["models"]]
    if surface:
        twice = [v for v in models if v.label in SETTINGS["with_surface"]]
        models += [with_reflectance(v) for v in twice]
    return some(models, only)


def ablations_of(budget, only=None):
    """Return TAM-RL and variants that differ in one setting, with equal numbers of seeds; `only` selects labels."""
    seeds = SETTINGS["ablation_seeds"][budget]
    line = next(line for line in SETTINGS["models"] if line["label"] == OURS)
    whole = variant(line, budget).changed({"seeds": seeds if seeds > 1 else None})
    return some([whole, *(whole.changed(line) for line in SETTINGS["ablations"])], only)


def some(variants, only):
    labels = [v.label for v in variants]
    if wrong := [label for label in only or () if label not in labels]:
        raise unknown("model", wrong[0], labels)
    return [v for v in variants if not only or v.label in only]


def folds_of(path, numbers, part):
    """Return the folds of a file by name; where test towers are scored, validation towers are used for training."""
    every = {i: split for i, split in enumerate(load_folds(path), 1)}
    if wrong := [n for n in numbers or () if n not in every]:
        raise unknown("fold", wrong[0], list(every))
    chosen = {f"fold{i}": split for i, split in every.items() if not numbers or i in numbers}
    if part == "val":
        return chosen
    return {name: dataclasses.replace(s, train=(*s.train, *s.val), val=()) for name, s in chosen.items()}


def part_of(split, ablate):
    """Return the part that is scored: validation towers while settings are chosen, else test towers.

    Folds without validation towers are scored on their test towers; settings may then be chosen only on a development
    split, whose test towers are in no test of the other folds.
    """
    folds = load_folds(split)
    if not ablate or all(fold.kind == "development" for fold in folds):
        return "test"
    if not all(fold.val for fold in folds):
        raise ConfigError(f"{split} has no validation towers to choose settings on: pass the development split.")
    return "val"


def percent(value):
    return "–" if value != value else f"{100 * value:+.1f} %"


def lines(table):
    """Return a table of site means as Markdown, as Table 1 of the paper, with intervals; corr2 is its R2."""
    against = table.attrs["against"]
    head = ["model", "flux", "RMSE (site mean)", "NSE (site mean)", "NSE (site median)", "corr2 (site mean)"]
    head += ["corr2 (site median)"]
    head += [f"RMSE against {against}", f"NSE less that of {against}", "sites"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table.itertuples():
        rmse = f"{row.rmse:.3f} [{row.rmse_low:.3f}, {row.rmse_high:.3f}]"
        nse = f"{row.nse:.3f} [{row.nse_low:.3f}, {row.nse_high:.3f}]"
        change = f"{percent(row.rmse_change)} [{percent(row.rmse_change_low)}, {percent(row.rmse_change_high)}]"
        diff = f"{row.nse_diff:+.3f} [{row.nse_diff_low:+.3f}, {row.nse_diff_high:+.3f}]"
        corr2 = f"{row.corr2:.3f} [{row.corr2_low:.3f}, {row.corr2_high:.3f}]"
        scores = (rmse, nse, f"{row.nse_median:.3f}", corr2, f"{row.corr2_median:.3f}", change, diff)
        cells = (row.model, f"{row.target} ({row.units})", *scores, f"{row.n_sites}")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def report(name, scored, out, draws):
    """Write the tables of one comparison for each quality of days: site means, all days pooled, classes."""
    text, tables = [f"# {name}"], []
    about = {"clusters": CLUSTERS_KM, "draws": draws, "seed": SETTINGS["seed"]}
    for quality, sums in scored.items():
        means = site_mean_table(sums, **about)
        pooled = score_table(sums, **about)
        text += [f"## Days of quality {quality:g}", f"Scored: {sums.attrs['row_mask']}.", lines(means)]
        others = [label for label in SETTINGS["against"] if label in sums.models[1:] and name == "models"]
        text += [lines(site_mean_table(sums, against=label, **about)) for label in others]
        text += ["### All days pooled", format_table(pooled.drop(columns=["mae", "bias", "corr2"]))]
        tables.append(means.assign(min_quality=quality))
        if name == "models":
            score_table(sums, by="igbp", **about).to_csv(out / f"classes-{quality:g}.csv", index=False)
    (out / f"{name}.md").write_text("\n\n".join(text) + "\n", "utf-8")
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(out / f"{name}.csv", index=False)
    return table


def figures(sums, out, draws):
    """Compare models with the first one by class and at each site, in tables and figures."""
    about = {"clusters": CLUSTERS_KM, "draws": draws, "seed": SETTINGS["seed"]}
    means = pd.concat([site_mean_table(sums, by=by, **about).assign(by=by or "all") for by in (None, "igbp", "koppen")])
    means.to_csv(out / "site_classes.csv", index=False)
    sites = site_scores(sums)
    sites.to_csv(out / "sites.csv", index=False)
    models = drawn_models(sums.models)
    for by in ("igbp", "koppen"):
        plot_class_errors(means[means.by.isin(["all", by])], out / f"errors-{by}.png", targets=DRAWN, models=models)
    if len(sums.models) > 1:
        others = [label for label in models if label != sums.models[0]] or None
        plot_class_changes(means[means.by != "koppen"], out / "classes.png", targets=DRAWN, models=others)
        ours = [label for label in (f"{OURS} + reflectance", OURS) if label in sums.models[1:]]
        model = ours[0] if ours else sums.models[-1]
        plot_site_changes(sites, out / "sites.png", model=model, targets=DRAWN)


def drawn_models(models):
    """Return the models in figures: those of the paper's, with reflectance if they have it; all if none is there."""
    labels = [f"{label}{end}" for label in SETTINGS["in_figures"] for end in (" + reflectance", "")]
    first = {label.removesuffix(" + reflectance"): label for label in reversed(labels) if label in models}
    return list(first.values())[::-1] or list(models)


def seeds(cube, splits, variants, out, part, draws):
    """Write intervals over towers and seeds, of the days of the first quality."""
    sums = score_members(cube, splits, variants, out, part=part, min_quality=SETTINGS["min_quality"][0], log=print)
    seed_table(sums, clusters=CLUSTERS_KM, draws=draws, seed=SETTINGS["seed"]).to_csv(out / "seeds.csv", index=False)


def embeddings(cube, split, one, out):
    """Draw TAM-RL's embedding of every tower in two dimensions; compute how far classes are apart in all dimensions."""
    embedding = fc.load_model(trained(cube, split, one, out)).embed(cube)
    embedding.to_dataframe().to_csv(out / "embedding.csv")
    feature = next(str(dim) for dim in embedding.dims if dim != "site")
    inputs = cube.predictors.sel(variable=list(one.predictors)).mean("time").rename(variable=feature).compute()
    scaled = ((inputs - inputs.mean("site")) / inputs.std("site")).fillna(0.0)
    pairs = {"embedding": embedding, "mean inputs": scaled}.items()
    apart = {(of, by): class_separation(one, by=by) for of, one in pairs for by in ("igbp", "koppen")}
    index = pd.MultiIndex.from_tuples(apart, names=["of", "by"])
    pd.DataFrame(list(apart.values()), index).to_csv(out / "separation.csv")
    share, shuffled, p = apart["embedding", "igbp"][:3]
    title = f"TAM-RL's embedding of {embedding.sizes['site']} towers:\n"
    title += f"{share:.0%} of its variance is between classes ({shuffled:.0%} by chance, p = {p:.3f})"
    plot_embedding(embedding, out / "embedding.png", title=title)


def compare_weather(cube, splits, variants, out, drivers, draws):
    """Score each model with the towers' own weather and with other drivers of the cube, on the same test days.

    The models are trained on the towers' weather. Towers without these drivers are not scored.
    """
    have = set(fc.use_drivers(cube, drivers).attrs["drivers_sites"].split())
    tested = {name: dataclasses.replace(s, test=tuple(x for x in s.test if x in have)) for name, s in splits.items()}
    pairs = {v.label: v.changed({"label": f"{v.label}, {drivers}", "predict_drivers": drivers}) for v in variants}
    tested = {name: split for name, split in tested.items() if split.test}
    tables = []
    for quality in SETTINGS["min_quality"]:
        sums = score_variants(cube, tested, [*variants, *pairs.values()], out, min_quality=quality, log=print)
        for label, other in pairs.items():
            table = site_mean_table(sums, against=label, clusters=CLUSTERS_KM, draws=draws, seed=SETTINGS["seed"])
            tables.append(table[table.model.isin([label, other.label])].assign(min_quality=quality))
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(out / f"drivers-{drivers}.csv", index=False)
    return table


def page(cube, splits, variants, out, draws):
    """Write a page with the scores, figures and series of all models."""
    parts = [(v, one) for v in variants for one in splits.values()]
    runs, predictions = {}, {}
    for v, one in parts:
        runs.setdefault(v.label, []).extend(trained(cube, one, part, out) for part in v.parts)
        predictions.setdefault(v.label, []).append(predictions_of(cube, one, v, out))
    fc.report(
        predictions,
        cube,
        out / "report",
        split=list(splits.values()),
        runs=runs,
        draws=draws,
        title="Daily models at held-out towers",
        overwrite=True,
    )


def main(
    cube,
    out,
    *,
    split,
    folds=None,
    only=None,
    budget="full",
    part=None,
    draws=1000,
    ablate=False,
    drivers=None,
    report_page=False,
):
    part = part or part_of(split, ablate)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    cube = fc.open_carbonsense(cube) if isinstance(cube, str | Path) else cube
    splits = folds_of(split, folds, part)
    name, variants = (
        ("ablations", ablations_of(budget, only))
        if ablate
        else ("models", models_of(budget, only, surface="surface" in cube))
    )
    if drivers is not None:
        return compare_weather(cube, splits, variants, out, drivers, draws)
    scored = {
        quality: score_variants(cube, splits, variants, out, part=part, min_quality=quality, log=print)
        for quality in SETTINGS["min_quality"]
    }
    table = report(name, scored, out, draws)
    chosen_on = SETTINGS["chosen_on"]
    settings_table(cube, splits, variants, out, chosen_on=chosen_on).to_csv(out / f"{name}-settings.csv", index=False)
    if part == "test":
        seeds(cube, splits, variants, out, part, draws)
    if report_page and part == "test":
        page(cube, splits, variants, out, draws)
    if not ablate:
        figures(scored[SETTINGS["min_quality"][0]], out, draws)
    if tam := [v for v in variants if v.label.startswith(OURS)]:
        embeddings(cube, next(iter(splits.values())), tam[0], out)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", type=Path, help="daily cube of the towers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="splits/towers157.json", help="file of folds")
    parser.add_argument("--folds", help="numbers of the file's folds, as 1,2; all by default")
    parser.add_argument("--only", help="labels of models, separated by commas; all by default")
    parser.add_argument(
        "--ablate", action="store_true", help="variants of TAM-RL that differ in one setting, instead of the models"
    )
    parser.add_argument("--report", dest="report_page", action="store_true", help="write a page, too (of part test)")
    parser.add_argument("--budget", choices=list(SETTINGS["budgets"]), default="full")
    parser.add_argument(
        "--part", choices=("val", "test"), help="val while settings are chosen; by default test, for --ablate val"
    )
    parser.add_argument(
        "--drivers", help="score test towers with these drivers of the cube, such as era5, against their own weather"
    )
    options = vars(parser.parse_args())
    options["only"] = options["only"].split(",") if options["only"] else None
    options["folds"] = [int(n) for n in options["folds"].split(",")] if options["folds"] else None
    print(main(options.pop("cube"), options.pop("out"), **options).to_string())
