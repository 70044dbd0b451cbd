"""Commands for trained runs: store several as one mixed ensemble, and calibrate standard deviations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcube.errors import ConfigError
from fluxcube.terminal import AllowMissing, Format, MaxQc, MinQuality, Overwrite, bar, quality_options, show_table

if TYPE_CHECKING:
    from fluxcube.inference.predictor import Predictor
    from fluxcube.stores.objects import Bucket

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def mix(
    out: Annotated[str, typer.Argument(help="Folder to write.")],
    runs: Annotated[list[str], typer.Argument(help="Two or more run folders, or names of shipped models.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Weight of a run, in their order; once for each. Default: equal.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Store several runs, of any kind and inputs, as one model: the weighted mean of their predictions.

    Example: `fluxcube mix runs/mixed runs/eco runs/xgb`, then `fluxcube evaluate runs/mixed carbonsense.zarr`.
    """
    from fluxcube.inference.loading import load_model, save_mixed

    folder = save_mixed(out, runs, weights=weight, overwrite=overwrite)
    typer.echo(str(load_model(folder)))


@app.command()
def calibrate(
    run: Annotated[str, typer.Argument(help="Run whose standard deviations are calibrated; it is changed.")],
    store: Annotated[str, typer.Argument(help="Cube with the measured fluxes.")],
    folds: Annotated[
        list[str],
        typer.Argument(help="Runs of the same kind and settings, one for each fold; each predicts its test towers."),
    ],
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    drivers: Annotated[str, typer.Option(help="Source of the predictors: tower, or e.g. era5.")] = "tower",
    allow_missing: AllowMissing = False,
    form: Format = "table",
) -> None:
    """Calibrate the standard deviations of a run on towers that were held out from runs of the same kind.

    Example: `fluxcube calibrate runs/eco carbonsense.zarr runs/eco-1 runs/eco-2 runs/eco-3`.
    """
    import xarray as xr

    from fluxcube.catalog import open_carbonsense
    from fluxcube.cubes.drivers import use_drivers
    from fluxcube.evaluation.calibration import calibrate as calibrate_run
    from fluxcube.evaluation.calibration import check_folder, coverage_table, fold_predictor, predict_fold
    from fluxcube.inference.loading import load_model
    from fluxcube.resolution import quality_limit, resolution_of
    from fluxcube.stores.objects import place

    cube, limits = use_drivers(open_carbonsense(store), drivers), quality_options(max_qc, min_quality)
    parts = []
    quality_limit(resolution_of(cube), **limits, default=None)  # refused before anything is predicted
    check_folder(load_model(run))
    for fold in folds:
        model = fold_predictor(fold)
        towers = model.split.part(cube, "test")
        with bar(f"predict {place(fold).name}") as progress:
            parts.append(predict_fold(model, towers, progress, allow_missing=allow_missing))
    predictions = xr.concat(parts, "site", combine_attrs="drop_conflicts") if len(parts) > 1 else parts[0]
    found = calibrate_run(run, cube, predictions, **limits)
    show_table(coverage_table(found), form)


def models_by_name(
    several: Sequence[Sequence[str]], digest: str | None, device: str | None = None
) -> dict[str, Predictor]:
    """Return the models to score by name; each is one run, or a mix of several.

    Parameters
    ----------
    several : sequence of sequence of str
        Folders or URLs of the runs of each model.
    digest : str or None
        Expected digest of the first model.
    device : str or None
        Device of the models, as `fluxcube.load_model` takes it.

    Raises
    ------
    ConfigError
        If a model is there twice.
    """
    from fluxcube.inference.loading import load_model
    from fluxcube.stores.objects import place

    places = [[place(path) for path in paths] for paths in several]
    if len({tuple(map(_absolute, paths)) for paths in places}) < len(places):
        raise ConfigError("a run is compared with itself: pass another run to --against, each run once.")
    labels = ["+".join(path.name for path in paths) for paths in places]
    if len(set(labels)) < len(labels):  # runs of one name in two folders go by their paths
        labels = ["+".join(map(str, paths)) for paths in places]
    digests = [digest, *[None] * (len(places) - 1)]
    return {
        label: load_model(paths, digest=expected, device=device)
        for label, paths, expected in zip(labels, places, digests, strict=True)
    }


def _absolute(path: Path | Bucket) -> str:
    # Path.resolve raises RuntimeError for a symbolic link to itself.
    return os.path.realpath(path) if isinstance(path, Path) else path.url
