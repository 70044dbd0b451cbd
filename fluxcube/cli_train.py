"""The command `train`: its options, and what they mean for `fluxcube.fit`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxcube.errors import ConfigError, without_secrets
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
from fluxcube.training.callbacks import Callback

if TYPE_CHECKING:
    import xarray as xr


def train(
    context: typer.Context,
    store: Annotated[str | None, typer.Argument(help="Cube to train on.")] = None,
    run: Annotated[str | None, typer.Argument(help="Run folder to write, also in a bucket: s3://bucket/run.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Run file (.toml, .yaml) with any of these options; those of the command line replace them."),
    ] = None,
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
            help="Comma-separated names, grid (TA, SW_IN, VPD, P and clocks, which ERA5 supplies) or common; default: "
            "all with data."
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
    preset: Annotated[
        str | None, typer.Option(help="Preset of the model's settings: quick, small or published.")
    ] = None,
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
    log: Annotated[
        list[str] | None,
        typer.Option(help="Also log to tensorboard, wandb, mlflow, or csv (every step); may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Foretell steps, memory, time and disk from a few steps; write nothing.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model; the same command continues a run that was stopped.

    Example: `fluxcube train carbonsense.zarr runs/eco --predictors grid --memory-days 1,7,30`; with `--dry-run` first,
    to see how long it takes. `fluxcube train --config runs/eco/run.toml` repeats or resumes a run. On several GPUs:
    `torchrun --nproc-per-node 4 --no-python fluxcube train carbonsense.zarr runs/eco --preset published`, with
    `--set training.effective_batch=4096` or any other field of `TrainingConfig`.
    """
    from fluxcube.catalog import open_carbonsense
    from fluxcube.resolution import DEFAULT
    from fluxcube.training.run import by_torchrun

    options: dict[str, Any] = {
        "store": store,
        "out": run,
        "model": model,
        "target": target or None,
        "predictors": names(predictors),
        "memory_days": days(memory_days),
        "bands": None if chips else (),
        "static": names(static),
        "surface": DEFAULT if surface is None else names(surface) or (),
        "lookahead": lookahead,
        "bounds": bounds,
        "split": split,
        "preset": preset,
        "epochs": epochs,
        "seed": seed,
        "seeds": seeds,
        "jobs": jobs,
        "init": init,
        "train_igbp": names(train_igbp),
        "search": search,
        "bag": bag,
        "drivers": drivers,
        "device": device,
        "deterministic": deterministic or None,
        **quality_options(max_qc, min_quality),
        "log": log or None,
    }
    options = _configured(options if config is None else _with_file(context, options, config), settings or ())
    cube = open_carbonsense(str(options.pop("store")))
    options["overwrite"] = overwrite
    if dry_run:
        _foretell(cube, options)
    elif by_torchrun() and os.environ["RANK"] != "0":
        _fit_quietly(cube, options)
    else:
        _fit(cube, options)


#: Options of the command that have another name in `fit` and in run files.
_NAMES = {"run": "out", "chips": "bands"}


def _with_file(context: typer.Context, options: dict[str, Any], config: Path) -> dict[str, Any]:
    """Return the options of a run file, replaced by those that were typed."""
    from fluxcube.training.runfile import read_run_file

    kept = read_run_file(config)
    typed = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    typed = {_NAMES.get(name, name) for name in typed}
    tables = {part: kept.pop(part, {}) for part in ("config", "training")}
    kept["file"] = {} if typed & {"model", "preset"} else tables  # settings of another model, or other ones, are typed
    if "seed" in typed and "seeds" not in typed and isinstance(kept.get("seeds"), tuple):
        raise ConfigError(f"--seed: {config} names the seeds of an ensemble: pass --seeds, too, or leave --seed out.")
    return {name: value for name, value in options.items() if name in typed or name not in kept} | {
        name: value for name, value in kept.items() if name not in typed
    }


def _configured(options: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return options with the settings of the model and of its training, as `fit` takes them."""
    from fluxcube.training.settings import configure

    for name, word in (("store", "STORE"), ("out", "RUN")):
        if options[name] is None:
            raise ConfigError(
                f"{word} is missing: type `fluxcube train STORE RUN`, such as `fluxcube train carbonsense.zarr "
                "runs/eco`, or pass --config FILE with both."
            )
    chosen = {name: options[name] for name in ("search", "init", "epochs")}
    preset, tables = options.pop("preset"), options.pop("file", None)
    config, training = configure(options["model"], preset, settings, tables=tables, **chosen)
    return options | {"config": config, "training": training}


def _foretell(cube: xr.Dataset, options: dict[str, Any]) -> None:
    """Print what training will take."""
    from fluxcube.planning.training import plan_training

    with bar("plan") as progress:
        plan = plan_training(cube, progress=progress, **options)
    typer.echo(str(plan))


def _fit_quietly(cube: xr.Dataset, options: dict[str, Any]) -> None:
    """Train in one of several processes, of which the first one tells how it goes."""
    from fluxcube.training.fit import fit

    fit(cube, **options)


def _fit(cube: xr.Dataset, options: dict[str, Any]) -> None:
    """Train, and print the result."""
    from fluxcube.training.fit import fit

    with bar("train") as progress:
        done = fit(cube, callbacks=[Announcement()], progress=progress, **options)
    typer.echo(f"{without_secrets(str(done.path))}: {done.summary}")


class Announcement(Callback):
    """A callback that writes from where a run is resumed."""

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Write one line for a resumed run."""
        done = about["resumed"]
        if done is None:
            return
        if "rounds" in done:
            text = f"after {done['targets']} targets and {done['rounds']} rounds"
        else:
            steps = about["steps_per_epoch"]
            text = f"at epoch {done['epochs'] + 1} of {about['epochs']}, step {done['steps'] + 1} of {steps}"
        typer.echo(f"resumes seed {about['seed']} {text}", err=True)
