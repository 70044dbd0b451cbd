"""Score both models on held-out real towers, and map a month: `python recipes/towers/recipe.py RAW OUT --era5 FILE`."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
import yaml

import fluxcube as fc
from fluxcube.evaluation.report import format_table
from fluxcube.models.ecoperceiver import EcoPerceiverConfig
from fluxcube.samples.splits import cluster_sites, kfold
from fluxcube.training.config import TrainingConfig


def choose(cube, clusters, seed):
    """All sites of some clusters, drawn without looking at anything but places."""
    label = cluster_sites(cube.latitude.values, cube.longitude.values)
    drawn = np.random.default_rng(seed).permutation(np.unique(label))[:clusters]
    return cube.isel(site=np.flatnonzero(np.isin(label, drawn)))


def fold_predictions(cube, split, name, out, options):
    """Predictions of one model on the test towers of one fold."""
    run = out / "runs" / f"{name}-{split.kind.split()[1]}"
    if not (run / "run.json").exists():
        fc.fit(cube, model=name, out=run, split=split, **options)
    return fc.predict(fc.load_model(run), cube.sel(site=list(split.test))).compute()


def of_ecoperceiver(settings):
    """EcoPerceiver's small preset with the recipe's changes, and how long it is trained."""
    config = replace(EcoPerceiverConfig.small(), **settings["config"])
    return {"config": config, "training": TrainingConfig(**settings["training"])}


def main(raw, out, era5, igbp):
    settings = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "cube.zarr").exists():
        fc.build_carbonsense(raw, out / "cube.zarr")
    cube = choose(fc.open_carbonsense(out / "cube.zarr"), settings["clusters"], settings["seed"])
    splits = kfold(cube, k=settings["folds"], seed=settings["seed"])
    (out / "splits").mkdir(exist_ok=True)
    for i, split in enumerate(splits, 1):
        split.save(out / "splits" / f"fold{i}.json")

    options = {key: tuple(settings[key]) for key in ("target", "predictors", "memory_days", "static")}
    predictions = {}
    for name in settings["models"]:
        own = of_ecoperceiver(settings) if name == "ecoperceiver" else {}
        folds = [
            fold_predictions(cube, split, name, out, {**options, **own, "seed": settings["seed"]}) for split in splits
        ]
        predictions[name] = xr.concat(folds, "site", coords="minimal", compat="override", join="outer")
    table = fc.compare(cube, predictions, by="igbp")
    table.to_csv(out / "scores.csv", index=False)
    (out / "scores.md").write_text(format_table(table), "utf-8")
    print(format_table(table))

    if era5:
        maps = fc.upscale(fc.load_model(out / "runs" / "ecoperceiver-1"), fc.open_forcing(era5, igbp=igbp))
        fc.write_maps(maps, out / "maps.zarr", overwrite=True)  # goes on with an unfinished one
        for name, flux in fc.open_maps(out / "maps.zarr").data_vars.items():
            print(name, f"mean {float(flux.mean()):.2f}, from {float(flux.min()):.2f} to {float(flux.max()):.2f}")
            fc.plot_map(flux.mean("time", keep_attrs=True), out / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--era5", type=Path)
    parser.add_argument("--igbp")
    arguments = parser.parse_args()
    main(arguments.raw, arguments.out, arguments.era5, arguments.igbp)
