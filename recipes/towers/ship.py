"""Train the shipped models of hourly fluxes on every tower: `python recipes/towers/ship.py CUBE OUT FOLDER`.

The scores of the cards, and the errors on which NAME_std is calibrated, are those of the folds of the recipe in OUT.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd
import xarray as xr
import yaml
from recipe import SETTINGS, average, towers, variants_of

import fluxcube as fc
from fluxcube.experiments import member_predictions, trained
from fluxcube.models.ensemble import weighted_spread
from fluxcube.samples.splits import Split, load_folds

#: What each shipped model is: `label` of the recipe, or the `parts` of a mixed model, and the texts of its card.
MODELS = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text("utf-8"))
CARD = Path(__file__).parent / "card.md"
#: Maximum size of a shipped model (bytes).
LARGEST = 8_000_000


def everything(cube):
    """Return a split with all towers for training."""
    return Split(
        train=tuple(map(str, cube.site.values)), kind="all", notes=("every tower trains; none is left to score",)
    )


def with_spread(members):
    """Return the mean of the predictions of several models, and NAME_spread between them."""
    mean = average(members)
    for name in tuple(mean):
        stacked = xr.concat([one[name] for one in members], "model", join="exact")
        shares = [1 / len(members)] * len(members)
        mean[f"{name}_spread"] = stacked[0].copy(data=weighted_spread(stacked.values, shares).astype("float32"))
    return mean


def held_out(cube, folds, variant, out):
    """Return the predictions of all towers by the models of the folds in which they were not used for training."""
    made = [with_spread(member_predictions(cube, fold, variant, out, log=print)) for fold in folds]
    return xr.concat(made, "site", join="outer")


def files_of(run):
    """Return the files of a run that are shipped."""
    return [path for path in sorted(run.rglob("*")) if path.suffix in (".json", ".safetensors", ".ubj")]


def ship(run, folder):
    """Copy the files of a run; refuse one that is too large."""
    files = [path for path in files_of(run) if path.name not in ("data.json", "search.json")]
    if (size := sum(path.stat().st_size for path in files)) > LARGEST:
        raise SystemExit(f"{run} has {size / 1e6:.1f} MB: at most {LARGEST / 1e6:.0f} MB are shipped.")
    shutil.rmtree(folder, ignore_errors=True)
    for path in files:
        target = folder / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def lines(table, columns):
    """Return scores as Markdown, one row for each group."""
    wide = table.pivot(index="group", columns="model", values="nse")[columns]
    counts = table.groupby("group", sort=False)[["n", "n_sites"]].first()
    rows = [[g, f"{counts.n[g]:,}", str(counts.n_sites[g]), *(f"{x:.3f}" for x in wide.loc[g])] for g in counts.index]
    return _markdown([["", "hours", "towers", *columns], *rows])


def _markdown(rows):
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def coverage(calibration):
    """Return what 80 % intervals contain of the values of clusters that did not calibrate them."""
    rows = [[name, f"{v['held_out']['0.8']:.1%}", str(v["sites"])] for name, v in calibration.items()]
    return _markdown([["flux", "contained by 80 % intervals", "towers"], *rows])


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
        coverage=coverage(calibration),
        few=", ".join(sorted(igbp.index[igbp < 5])),
        towers=", ".join(f"{s} ({c})" for s, c in zip(cube.site.values, cube.igbp.values, strict=True)),
        **{key: about[key] for key in ("what", "inputs", "outputs", "limits", "how")},
    )


def run_of(name, cube, out, folder, folds, budget):
    """Return the run of a shipped model, trained on all towers, and its predictions of the folds."""
    about, surface = MODELS[name], "surface" in cube
    if "parts" not in about:
        (variant,) = variants_of(budget, [about["label"]], surface=surface)
        return trained(cube, everything(cube), variant, out, log=print), held_out(cube, folds, variant, out)
    run = fc.save_mixed(out / "shipped" / name, [folder / part for part in about["parts"]], overwrite=True)
    labels = [MODELS[part]["label"] for part in about["parts"]]
    parts = [held_out(cube, folds, *variants_of(budget, [label], surface=surface), out) for label in labels]
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
