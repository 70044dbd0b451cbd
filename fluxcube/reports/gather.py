"""Inputs of a report: predictions of runs at their test towers, files of predictions, and maps sampled at towers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.baselines import fit_baselines, predict_baselines
from fluxcube.errors import ConfigError, StoreError, missing_package
from fluxcube.evaluation.report import write_predictions
from fluxcube.inference.loading import load_model
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.models import shipped
from fluxcube.models.checkpoint import ENSEMBLE, RUN, read_about
from fluxcube.reports.evidence import Seen
from fluxcube.reports.section import slug
from fluxcube.samples.partition import PARTS
from fluxcube.samples.splits import Split

Progress = Callable[[int, int, str], None]
#: A model of a report: predictions, a run, a file of predictions, a folder of these, or several (one for each fold).
OneInput = xr.Dataset | xr.DataArray | Predictor | str | os.PathLike
ModelInput = OneInput | Sequence[OneInput]

#: Maximum size of the predictions of all models that are loaded into RAM (bytes); larger ones are read again and again.
_IN_MEMORY = 2 * 2**30
#: Parts of a split that can be scored.
SCORED_PARTS = ("test", "val", "train", "all")


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
    if isinstance(one, str | os.PathLike) and not _is_run(one):
        raise StoreError(
            f"{os.fspath(one)}: expected a run, a NetCDF file of predictions or the name of a shipped model "
            f"({', '.join(shipped.names())}), found none; check the path."
        )
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


def towers_of(split: Split | None, cube: xr.Dataset, part: str) -> xr.Dataset:
    """Return the towers of a part of a split, with the fluxes of its periods; every tower for "all".

    Raises
    ------
    ConfigError
        If the split has no such towers, or the cube lacks some of them.
    """
    if part not in SCORED_PARTS:
        raise ConfigError(f"part={part!r}: expected one of {', '.join(SCORED_PARTS)}.")
    if part == "all":
        return cube
    sites = () if split is None else getattr(split, part)
    if not sites:
        raise ConfigError(
            f'a run has no {part} towers in its split: choose another part, or "all" to score every tower of the cube.'
        )
    if absent := sorted(set(sites) - set(map(str, cube["site"].values))):
        some = f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}"
        raise ConfigError(
            f"the cube lacks {len(absent)} of the {len(sites)} {part} towers of a run ({some}): pass the cube that was "
            'split, or part="all" to score every tower of this one.'
        )
    assert split is not None
    return split.part(cube, part)


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
        ds = xr.open_dataset(path, engine="netcdf4", chunks={})
    except (ImportError, ModuleNotFoundError):
        raise missing_package("netcdf4", "grid", "reading predictions") from None
    except (OSError, ValueError) as error:
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


def training_of(splits: Sequence[Split], sites: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the towers that were used for training and validation when a tower was predicted, by tower.

    Parameters
    ----------
    splits : sequence of Split
        Splits of the folds.
    sites : sequence of str
        Scored towers; those that no fold tests are absent from the result, except if there is one split only.
    """
    out: dict[str, frozenset[str]] = {}
    for split in splits:
        used = frozenset((*split.train, *split.val))
        tested = sites if len(splits) == 1 else [site for site in split.test if site in set(sites)]
        out |= dict.fromkeys(map(str, tested), used)
    return out


def seen_by(gathered: Mapping[str, Gathered], splits: Sequence[Split], sites: Sequence[str]) -> Seen:
    """Return the training towers of every model, by scored tower: those of its runs, else those of `splits`."""
    out = {}
    for label, one in gathered.items():
        if known := one.splits or tuple(splits):
            out[label] = training_of(known, sites)
    return out


def describe_splits(splits: Sequence[Split]) -> str:
    """Return the splits in words, for the section on rows."""
    if not splits:
        return ""
    kinds = list(dict.fromkeys(re.sub(r" \d+ of \d+$", "", split.kind) for split in splits))
    folds = "one fold" if len(splits) == 1 else f"{len(splits)} folds"
    sizes = [f"{len(split.train)}/{len(split.val)}/{len(split.test)}" for split in splits]
    buffers = sorted({split.buffer_km for split in splits})
    text = f"{', '.join(kinds)}, {folds}; training/validation/test towers {', '.join(sizes)}"
    if any(buffers):
        text += f"; towers closer than {max(buffers):g} km are in one part"
    seeds = sorted({split.seed for split in splits if split.seed is not None})
    return text + (f"; seed of the split {', '.join(map(str, seeds))}" if seeds else "")


def scored_towers(cube: xr.Dataset, gathered: Mapping[str, Gathered], splits: Sequence[Split], part: str) -> xr.Dataset:
    """Return the cube of the towers that every model predicts, with the fluxes of the scored periods.

    Raises
    ------
    ConfigError
        If the models have no tower of the cube in common.
    """
    first = next((one.splits for one in gathered.values() if one.splits), tuple(splits))
    if part in PARTS and any(split.periods for split in first):
        parts = [split.part(cube, part) for split in first if getattr(split, part)]
        cube = (
            parts[0] if len(parts) == 1 else xr.concat(parts, "site", join="outer", coords="minimal", compat="override")
        )
    sites = [str(site) for site in cube["site"].values]
    common = [s for s in sites if all(s in one.predictions.indexes["site"] for one in gathered.values())]
    if not common:
        counts = ", ".join(f"{label} {one.predictions.sizes['site']}" for label, one in gathered.items())
        raise ConfigError(
            f"nothing to score: the models and the cube of {len(sites)} towers have no tower in common (towers of the "
            f"models: {counts}); pass the cube that the models were tested on."
        )
    chosen = cube.sel(site=common)
    bounds = [one.predictions["time"].values[[0, -1]] for one in gathered.values() if one.predictions.sizes["time"]]
    start, stop = min(b[0] for b in bounds), max(b[1] for b in bounds)
    inside = (chosen["time"].values >= np.datetime64(start)) & (chosen["time"].values <= np.datetime64(stop))
    return chosen.isel(time=inside)


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
