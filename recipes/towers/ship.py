"""Train the shipped models of hourly fluxes on every tower: `python recipes/towers/ship.py CUBE OUT FOLDER`.

The scores of the cards, and the errors on which NAME_std is calibrated, are those of the folds of the recipe in OUT.
"""

import argparse
from pathlib import Path

import pandas as pd
import yaml
from recipe import SETTINGS, towers, variants_of

import fluxcube as fc
from fluxcube.experiments import trained
from fluxcube.samples.splits import load_folds
from fluxcube.shipping import coverage_table, every_tower, held_out_predictions, markdown, ship, with_spread

#: What each shipped model is: `label` of the recipe, or the `parts` of a mixed model, and the texts of its card.
MODELS = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text("utf-8"))
CARD = Path(__file__).parent / "card.md"


def lines(table, columns):
    """Return scores as Markdown, one row for each group."""
    wide = table.pivot(index="group", columns="model", values="nse")[columns]
    counts = table.groupby("group", sort=False)[["n", "n_sites"]].first()
    rows = [[g, f"{counts.n[g]:,}", str(counts.n_sites[g]), *(f"{x:.3f}" for x in wide.loc[g])] for g in counts.index]
    return markdown([["", "hours", "towers", *columns], *rows])


def card(name, about, cube, scores, calibration):
    """Return the text of the card, with figures from the table of the recipe."""
    own = scores[scores.target == "NEE"].assign(group=lambda t: t.group.fillna("all"))
    whole = own[own.group == "all"]
    first, ours = whole.iloc[0], whole[whole.model == about["label"]].iloc[0]
    shown = [about["label"], *(m for m in about["beside"] if m in set(own.model) and m != about["label"])]
    igbp = pd.Series(cube.igbp.values.astype(str), cube.site.values).value_counts()
    keys = ("nse", "rmse", "nse_site_median")
    bounds = {f"{k}_{end}": f"{ours[f'{k}_{end}']:.2f}" for k in keys for end in ("low", "high")}
    return CARD.read_text("utf-8").format(
        name=name,
        hours=f"{int(first.n):,}",
        sites=int(first.n_sites),
        **{key: f"{ours[key]:.3f}" for key in keys},
        **bounds,
        table=lines(own[own.model.isin(shown)], shown),
        coverage=coverage_table(calibration),
        few=", ".join(sorted(igbp.index[igbp < 5])),
        towers=", ".join(f"{s} ({c})" for s, c in zip(cube.site.values, cube.igbp.values, strict=True)),
        **{key: about[key] for key in ("what", "inputs", "outputs", "limits", "how")},
    )


def run_of(name, cube, out, folder, folds, budget):
    """Return the run of a shipped model, trained on all towers, and its predictions of the folds."""
    about, surface = MODELS[name], "surface" in cube
    if "parts" not in about:
        (variant,) = variants_of(budget, [about["label"]], surface=surface)
        run = trained(cube, every_tower(cube), variant, out, log=print)
        return run, held_out_predictions(cube, folds, variant, out)
    run = fc.save_mixed(out / "shipped" / name, [folder / part for part in about["parts"]], overwrite=True)
    labels = [MODELS[part]["label"] for part in about["parts"]]
    parts = [held_out_predictions(cube, folds, *variants_of(budget, [label], surface=surface), out) for label in labels]
    names = [str(n) for n in parts[0] if all(n in one for one in parts) and not str(n).endswith("_spread")]
    return run, with_spread([one[names] for one in parts]).assign_attrs(model="mixed")


def main(raw, out, folder, only=None, *, split=SETTINGS["folds"], budget="full"):
    cube = towers(raw, out) if isinstance(raw, Path) else raw
    for name in only or MODELS:
        run, predictions = run_of(name, cube, out, folder, load_folds(split), budget)
        calibration = fc.calibrate(run, cube.sel(site=predictions.site), predictions)
        ship(run, folder / name)
        text = card(name, MODELS[name], cube, pd.read_csv(out / "scores.csv"), calibration)
        (folder / name / "README.md").write_text(text, "utf-8")
        print(f"{name}: shipped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("raw", "out", "folder"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of models, separated by commas")
    main(**vars(parser.parse_args()))
