"""The command `train`: its options, and what they mean for `fluxcube.fit`."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from fluxcube.errors import without_secrets
from fluxcube.models import registry
from fluxcube.terminal import (
    Deterministic,
    Device,
    MaxQc,
    MinQuality,
    Overwrite,
    Seed,
    bar,
    days,
    names,
    quality_options,
)


def train(
    store: Annotated[str, typer.Argument(help="Cube to train on.")],
    run: Annotated[str, typer.Argument(help="Run folder to write, also in a bucket: s3://bucket/run.")],
    model: Annotated[
        str,
        typer.Option(
            help=f"For hourly cubes {', '.join(registry.names(resolution='hourly'))}; "
            f"for daily ones {', '.join(registry.names(resolution='daily'))}."
        ),
    ] = "ecoperceiver",
    target: Annotated[list[str] | None, typer.Option(help="Flux to predict; may be repeated. Default NEE.")] = None,
    predictors: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, grid (what ERA5 supplies and the towers have) or common; default: all "
            "with data."
        ),
    ] = None,
    memory_days: Annotated[
        str | None,
        typer.Option(
            "--memory-days",
            "--memory",
            help="Comma-separated days over which inputs are averaged as further inputs, e.g. 1,7,30.",
        ),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated static inputs: latitude,elevation,igbp (the default, with declared static predictors "
            "of the cube), koppen (daily cubes), long-term percentiles such as NDVI_P90; '' for none."
        ),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(
            help="Bounds that scale hourly predictors: ours (default of EcoPerceiver), table, v1 or v2 (CarbonSense's)."
        ),
    ] = None,
    surface: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated columns of the surface reflectance, e.g. NDVI,NDVI_MEAN_64D,SURFACE_AGE; '' for "
            "none. Default: means and the season of four indices, if the cube has surface reflectance."
        ),
    ] = None,
    lookahead: Annotated[
        int | None,
        typer.Option(help="Days by which views of the surface reflectance are known earlier; default 0.", min=0),
    ] = None,
    chips: Annotated[
        bool, typer.Option("--chips/--no-chips", help="Use MODIS chips if the cube contains them.")
    ] = True,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split file, fold of a file (folds.json:2), or a kind: auto (the default: per-igbp, or kfold:1 of "
            "few towers), per-igbp, kfold:2, time, sites:FILE, sites:xbase, benchmark:NAME."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Preset of the model's settings, e.g. small or published.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, e.g. training.lr=1e-3 or config.dropout=0.3; may be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of passes over the training windows.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of ensemble members, with seeds from --seed up.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of members trained in parallel.")] = 1,
    init: Annotated[
        str | None, typer.Option(help="Run to continue from; options that are not set come from it.")
    ] = None,
    train_igbp: Annotated[str | None, typer.Option(help="Train on these IGBP classes only, e.g. GRA,CRO.")] = None,
    search: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of random settings to compare on the training towers first, e.g. 50 (XGBoost)."
        ),
    ] = None,
    bag: Annotated[
        float, typer.Option(help="Share of the training towers that each member is trained on, e.g. 0.6.")
    ] = 1.0,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    drivers: Annotated[str | None, typer.Option(help="Source of the predictors: tower (default) or e.g. era5.")] = None,
    device: Device = None,
    deterministic: Deterministic = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a model; the same command continues a run that was stopped.

    Example: `fluxcube train carbonsense.zarr runs/eco --predictors grid --memory-days 1,7,30`. On several GPUs:
    `torchrun --nproc-per-node 4 --no-python fluxcube train carbonsense.zarr runs/eco --preset published`, with
    `--set training.effective_batch=4096` or any other field of `TrainingConfig`.
    """
    from fluxcube.catalog import open_carbonsense
    from fluxcube.resolution import DEFAULT
    from fluxcube.training.fit import fit
    from fluxcube.training.run import by_torchrun
    from fluxcube.training.settings import configure

    config, training = configure(model, preset, settings or (), search=search, init=init, epochs=epochs)
    first = not by_torchrun() or os.environ["RANK"] == "0"
    with bar("train") if first else contextlib.nullcontext() as progress:
        done = fit(
            open_carbonsense(store),
            model=model,
            target=target or None,
            out=run,
            predictors=names(predictors),
            memory_days=days(memory_days),
            bands=None if chips else (),
            static=names(static),
            surface=DEFAULT if surface is None else names(surface) or (),
            lookahead=lookahead,
            bounds=bounds,
            split=split,
            config=config,
            training=training,
            epochs=epochs,
            seed=seed,
            seeds=seeds,
            jobs=jobs,
            init=init,
            train_igbp=names(train_igbp),
            search=search,
            bag=bag,
            drivers=drivers,
            device=device,
            deterministic=deterministic or None,
            **quality_options(max_qc, min_quality),
            overwrite=overwrite,
            progress=progress if first else None,
        )
    if first:
        typer.echo(f"{without_secrets(str(done.path))}: {done.summary}")
