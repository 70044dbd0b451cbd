"""Train the shipped models of daily fluxes on every tower: `python recipes/daily/ship.py CUBE OUT FOLDER`.

The scores of the cards, and the errors on which NAME_std is calibrated, are those of the folds of the recipe in OUT.
"""

import argparse
from pathlib import Path

import pandas as pd
import yaml
from recipe import SETTINGS, folds_of, models_of

import fluxcube as fc
from fluxcube.experiments import trained
from fluxcube.shipping import coverage_table, every_tower, held_out_predictions, markdown, ship

#: What each shipped model is: `label` of the recipe, and the texts of its card.
MODELS = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text("utf-8"))
CARD = Path(__file__).parent / "card.md"


def score_lines(table, labels):
    """Return mean scores over towers as Markdown, one row for each model and flux."""
    rows = [["model", "flux", "towers", "RMSE", "R2, mean", "R2, median", "NSE, median"]]
    for label in labels:
        for row in table[table.model == label].itertuples():
            rmse = f"{row.rmse:.3f} [{row.rmse_low:.3f}, {row.rmse_high:.3f}]"
            scores = [f"{value:.3f}" for value in (row.corr2, row.corr2_median, row.nse_median)]
            rows.append([label, row.target, str(row.n_sites), rmse, *scores])
    return markdown(rows)


def card(name, about, places, means, calibration):
    """Return the text of the card of a model of these places, with figures from the table of the recipe."""
    quality = SETTINGS["min_quality"][0]
    best = means[means.min_quality == quality]
    labels = [about["label"], *(label for label in about["beside"] if label in set(best.model))]
    igbp = pd.Series(places.igbp.values.astype(str)).value_counts()
    return CARD.read_text("utf-8").format(
        name=name,
        quality=quality,
        table=score_lines(best, labels),
        coverage=coverage_table(calibration),
        count=places.sizes["site"],
        few=", ".join(sorted(igbp.index[igbp < 5])),
        towers=", ".join(f"{s} ({c})" for s, c in zip(places.site.values, places.igbp.values, strict=True)),
        **{key: about[key] for key in ("what", "inputs", "outputs", "limits", "how")},
    )


def main(cube, out, folder, only=None, *, split="splits/towers157.json", budget="full"):
    cube = fc.open_carbonsense(cube) if isinstance(cube, Path) else cube
    for name in only or MODELS:
        about = MODELS[name]
        (variant,) = models_of(budget, [about["label"]], surface="surface" in cube)
        run = trained(cube, every_tower(cube), variant, out, log=print)
        predictions = held_out_predictions(cube, list(folds_of(split, None, "test").values()), variant, out)
        calibration = fc.calibrate(run, cube.sel(site=predictions.site), predictions)
        ship(run, folder / name)
        places = cube.sel(site=list(fc.load_model(run).metadata["training_sites"]))
        text = card(name, about, places, pd.read_csv(out / "models.csv"), calibration)
        (folder / name / "README.md").write_text(text, "utf-8")
        print(f"{name}: shipped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("cube", "out", "folder"):
        parser.add_argument(argument, type=Path)
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of models, separated by commas")
    main(**vars(parser.parse_args()))
