"""Inputs of a report: predictions of runs at their test towers, files of predictions, and maps sampled at towers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from fluxcube.baselines import fit_baselines, predict_baselines
from fluxcube.errors import ConfigError, StoreError, missing_package
from fluxcube.evaluation.report import write_predictions
from fluxcube.exports.cf import from_cf
from fluxcube.inference.loading import load_model
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.models import shipped
from fluxcube.models.checkpoint import ENSEMBLE, RUN, read_about
from fluxcube.parsing import FILE_FAULTS
from fluxcube.reports.folds import towers_of
from fluxcube.reports.section import slug
from fluxcube.samples.splits import Split
from fluxcube.sources.netcdf import open_netcdf

Progress = Callable[[int, int, str], None]
#: A model of a report: predictions, a run, a file of predictions, a folder of these, or several (one for each fold).
OneInput = xr.Dataset | xr.DataArray | Predictor | str | os.PathLike
ModelInput = OneInput | Sequence[OneInput]

#: Maximum size of the predictions of all models that are loaded into RAM (bytes); larger ones are read again and again.
_IN_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class Gathered:
    """Predictions of one model at the towers of all folds.

    Attributes
    ----------
    predictions : xr.Dataset
        Predictions (site, time); lazy if they are in files.
    splits : tuple of Split
        Splits of its runs; none if only predictions were passed.
    records : tuple of mapping
        Descriptions of its runs.
    """

    predictions: xr.Dataset
    splits: tuple[Split, ...] = ()
    records: tuple[Mapping, ...] = ()


def gather(
    label: str,
    model: ModelInput,
    cube: xr.Dataset,
    folder: Path,
    *,
    name: str = "",
    part: str = "test",
    allow_missing: bool = False,
    progress: Progress | None = None,
) -> Gathered:
    """Return the predictions of one model at the towers of all of its folds.

    Parameters
    ----------
    label : str
        Name of the model.
    model : Dataset, Predictor, path, or a sequence of these
        Predictions; a run, which predicts the towers of a part of its own split; a NetCDF file of predictions; a folder
        that contains runs or such files; or several of these, one for each fold.
    cube : xr.Dataset
        Cube of towers.
    folder : Path
        Folder into which predictions of runs are written.
    name : str
        Beginning of the names of these files; by default the label in letters, digits and hyphens.
    part : str
        Part of a run's split whose towers it predicts, or "all" for every tower of the cube.
    allow_missing : bool
        Whether inputs that the cube does not have are treated as missing.
    progress : callable, optional
        ``progress(done, total, text)``.

    Raises
    ------
    StoreError
        If a path contains neither a run nor predictions.
    ConfigError
        If a tower is in two folds, a run was predicted of other fluxes than the others, or there is nothing to predict.
    """
    parts = _parts(label, model)
    found = [
        _one(part_, cube, folder / f"{name or slug(label)}-{i}.nc", part, allow_missing, progress)
        for i, part_ in enumerate(parts, 1)
    ]
    joined = _joined(label, [one.predictions for one in found])
    return Gathered(
        joined,
        tuple(split for one in found for split in one.splits),
        tuple(record for one in found for record in one.records),
    )


def check_models(models: Mapping[str, ModelInput]) -> None:
    """Raise StoreError for a path without a run or predictions, before the first model predicts for minutes."""
    for label, model in models.items():
        for one in _parts(label, model):
            if not isinstance(one, str | os.PathLike) or (path := os.fspath(one)).endswith(".nc") or _is_run(one):
                continue
            raise StoreError(
                f"{path}: expected a run, a NetCDF file of predictions or the name of a shipped model "
                f"({', '.join(shipped.names())}), found none; check the path."
            )


def _parts(label: str, model: ModelInput) -> list[OneInput]:
    """Return the runs, files or Datasets of the folds of a model."""
    several = [model] if isinstance(model, xr.Dataset | xr.DataArray | Predictor | str | os.PathLike) else list(model)
    if not several:
        raise ConfigError(f"{label}: expected a run or predictions, found an empty list.")
    out: list[OneInput] = []
    for one in several:
        out += _inside(Path(os.fspath(one))) if isinstance(one, str | os.PathLike) else [one]
    return out


def _inside(path: Path) -> list[OneInput]:
    """Return a path itself, or the runs and files of predictions that a folder contains."""
    if not path.is_dir() or any((path / mark).exists() for mark in (RUN, ENSEMBLE)):
        return [path]
    entries = sorted(path.iterdir())
    runs = [entry for entry in entries if any((entry / mark).exists() for mark in (RUN, ENSEMBLE))]
    files = [entry for entry in entries if entry.suffix == ".nc" and not entry.name.startswith(".")]
    if bool(runs) == bool(files):
        found = "both" if runs else "neither"
        raise StoreError(
            f"{path}: expected a run, or a folder of runs or of NetCDF files of predictions, one for each fold; found "
            f"{found}. Pass the folder of a run, or LABEL=FILE,FILE."
        )
    return list(runs or files)


def _one(
    one: OneInput, cube: xr.Dataset, path: Path, part: str, allow_missing: bool, progress: Progress | None
) -> Gathered:
    """Return the predictions of one fold."""
    if isinstance(one, xr.Dataset | xr.DataArray):
        return Gathered(_as_dataset(one))
    if isinstance(one, str | os.PathLike) and os.fspath(one).endswith(".nc"):
        return Gathered(open_predictions(one))
    model = load_model(one)
    split = model.split if model.metadata.get("split") else None
    towers = towers_of(split, cube, part)
    values = predict(
        model,
        towers,
        uncertainty=bool(model.calibrated),
        applicability=None,
        allow_missing=allow_missing,
        progress=progress or _quiet,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(values, path)
    return Gathered(open_predictions(path), () if split is None else (split,), tuple(_records(model)))


def _as_dataset(data: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return predictions as a Dataset with one variable for each flux (ConfigError if an array has no name)."""
    if isinstance(data, xr.Dataset):
        return data
    if "target" in data.dims:
        return data.to_dataset("target")
    if data.name is None:
        raise ConfigError("predictions: expected an array that is named after its flux, found one without a name.")
    return data.to_dataset()


def _is_run(path: str | os.PathLike) -> bool:
    return Path(path).is_dir() or any(part in shipped.names() for part in Path(path).parts[:1])


def open_predictions(path: str | os.PathLike) -> xr.Dataset:
    """Open a file of predictions lazily, in the chunks that it is stored in.

    Raises
    ------
    StoreError
        If the file contains no predictions of towers.
    MissingPackageError
        If netcdf4 is not installed.
    """
    try:
        ds = from_cf(open_netcdf(path, chunks={}))
    except (ImportError, ModuleNotFoundError):
        raise missing_package("netcdf4", "grid", "reading predictions") from None
    except FILE_FAULTS as error:
        raise StoreError(f"{os.fspath(path)} contains no predictions: {error}") from error
    if not {"site", "time"} <= set(ds.dims):
        raise StoreError(
            f"{os.fspath(path)}: expected predictions with the dimensions site and time, found "
            f"{tuple(map(str, ds.dims))}; pass maps as maps, not as a model."
        )
    return ds


def _joined(label: str, folds: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the predictions of all folds, of the fluxes that all of them have."""
    if len(folds) == 1:
        return folds[0]
    names = [name for name in folds[0].data_vars if all(name in fold for fold in folds)]
    if not names:
        raise ConfigError(f"{label}: its folds have no flux in common; found {[list(fold) for fold in folds]}.")
    sites = [str(site) for fold in folds for site in fold["site"].values]
    if twice := sorted({site for site in sites if sites.count(site) > 1}):
        raise ConfigError(
            f"{label}: {', '.join(twice[:5])} is in two of its folds; pass runs whose test towers differ, and give "
            "different models different labels."
        )
    coords = set.intersection(*(set(map(str, fold.coords)) for fold in folds))
    kept = [fold[names].drop_vars([c for c in fold.coords if str(c) not in coords]) for fold in folds]
    return xr.concat(kept, "site", join="outer", combine_attrs="drop_conflicts", coords="minimal", compat="override")


def _records(model: Predictor) -> list[Mapping]:
    """Return the descriptions of a run and of its members."""
    if model.path is None:
        return [model.metadata]
    about = read_about(model.path)
    members = about.get("members") or {}
    folders = [model.path / name for name in members if (model.path / name).is_dir()]
    return [read_about(folder) for folder in folders] or [about]


def ladder(
    cube: xr.Dataset,
    splits: Sequence[Split],
    targets: Sequence[str],
    folder: Path,
    *,
    models: Sequence[str] | None = None,
    part: str = "test",
    progress: Progress | None = None,
) -> dict[str, Gathered]:
    """Train the ladder of baselines on the training towers of every fold, and predict its scored towers.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers, those of the training included.
    splits : sequence of Split
        Splits of the folds.
    targets : sequence of str
        Fluxes.
    folder : Path
        Folder for the runs; finished runs are used again.
    models : sequence of str, optional
        Baselines, as `fluxcube.baselines.fit_baselines` takes them.
    part : {"test", "val"}
        Part of a split whose towers are predicted.
    progress : callable, optional
        ``progress(done, total, text)``.

    Raises
    ------
    ConfigError
        If there is no split to train on, or the scored towers would be training towers.
    """
    if not splits or part not in ("test", "val"):
        raise ConfigError(
            "baselines are trained on the training towers of a split, and scored on its test or val towers: pass runs "
            'that have a split, or split=, with part="test" or "val".'
        )
    folds: dict[str, list[xr.Dataset]] = {}
    records: dict[str, list[Mapping]] = {}
    for i, split in enumerate(splits, 1):
        out = folder / f"fold-{i}"
        out.mkdir(parents=True, exist_ok=True)
        runs = fit_baselines(cube, split, list(targets), out, models=models, progress=progress)
        for label, predictions in predict_baselines(runs, split.part(cube, part)).items():
            folds.setdefault(label, []).append(predictions)
            records.setdefault(label, []).extend(records_of([runs[label]]))
    return {label: Gathered(_joined(label, ds), tuple(splits), tuple(records[label])) for label, ds in folds.items()}


def records_of(runs: Sequence[str | os.PathLike]) -> tuple[Mapping, ...]:
    """Return the descriptions of runs and of the members of ensembles, for the section on computation.

    Parameters
    ----------
    runs : sequence of path
        Run folders.
    """
    return tuple(record for run in runs for record in _records(load_model(run)))


def in_memory(predictions: Mapping[str, xr.Dataset], scored: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the predictions at the scored towers, in RAM if they are small: files are stored in chunks of many towers.

    Parameters
    ----------
    predictions : mapping of str to xr.Dataset
        Predictions by model; those of fluxes that another model or the cube lacks are left out.
    scored : xr.Dataset
        Cube of the scored towers.
    """
    observed = set(map(str, scored["target"].values)) if "target" in scored.coords else set()
    common = {name for name in observed if all(name in one for one in predictions.values())}
    left = {name for name in observed - common if common}
    drop = {f"{name}{end}" for name in left for end in ("", "_std", "_spread")}
    sites = list(scored["site"].values)
    chosen = {
        label: one.drop_vars([name for name in one.data_vars if str(name) in drop]).sel(site=sites)
        for label, one in predictions.items()
    }
    small = sum(one.nbytes for one in chosen.values()) <= _IN_MEMORY
    return {label: one.load() if small else one for label, one in chosen.items()}


def _quiet(done: int, total: int, text: str) -> None:
    """Ignore progress: with a callback, predictions are computed at once, tower by tower."""
