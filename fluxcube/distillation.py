"""Distillation: label the training towers of a cube with the predictions of a model, for another model to learn.

The mean of an ensemble is better than each of its members, and costs as many passes as there are members. A single
model that learns that mean, at every time step with model inputs, comes close to it at the cost of one pass.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.report import read_predictions, write_predictions
from fluxcube.inference.loading import AnyModel, as_predictor
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.resolution import Resolution, resolution_of
from fluxcube.samples.clusters import neighbours
from fluxcube.samples.periods import inside
from fluxcube.samples.quality import best_flags
from fluxcube.samples.splits import Split, split_for
from fluxcube.samples.teacher import TEACHER, Teacher, teacher_of
from fluxcube.schema import validate_cube
from fluxcube.stores.origin import check_origin, derived, named, origin, origin_of
from fluxcube.training.digest import data_digest

log = logging.getLogger(__name__)

#: Flag of a label: not measured, and accepted for training (`Resolution.training_limit`).
_FLAG = 1
#: Attribute of a file of predictions: digest of the inputs that they were computed from.
_DATA = "data_digest"
#: What the arrays beside the fluxes have where the flux is a label.
_BESIDE = {"_coverage": 0, "_randunc": np.nan, "_jointunc": np.nan}


def distil(
    teacher: AnyModel,
    cube: xr.Dataset,
    *,
    split: Split | str | os.PathLike | None = None,
    observed: float = 0.0,
    out: str | os.PathLike | None = None,
    stride: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.Dataset:
    """Return a tower cube whose training fluxes are the predictions of a model, from which `fluxcube.fit` trains.

    The student learns the teacher's estimate at every time step of the training towers that has model inputs, also
    where no flux was measured. Validation and test towers keep their measured fluxes.

    Parameters
    ----------
    teacher : Predictor, path or Run, or a sequence of these
        A trained model, usually an ensemble (`fluxcube.load_model`). It must not have been trained on validation or
        test towers of the split.
    cube : xr.Dataset
        Tower cube, hourly or daily, with the inputs of the teacher; it is not changed.
    split : Split, str or path, optional
        Split of the student, or a kind or file as `fluxcube.fit` takes it; by default that of the teacher. Its training
        towers are labelled, in its training periods if it has any. They need no measured flux.
    observed : float
        Weight of a measured flux in the label of its time step, from 0 (the teacher alone) to less than 1. The label
        is the weighted mean, so that a squared error is, up to a constant, the weighted sum of the errors against both.
    out : path, optional
        NetCDF file for the teacher's predictions. They are computed once; the same call reads them later.
    stride : int, optional
        Number of time steps that one window of the teacher emits, as in `fluxcube.predict`.
    progress : callable, optional
        ``progress(done, total, text)``, per tower.

    Returns
    -------
    xr.Dataset
        The cube with labels as fluxes of the training towers, for all targets of the teacher that it has. Their flag
        is 1 (or the best flag of a tower whose publication has none better), their daily quality the limit of training:
        `fluxcube.fit` uses them by default, and nothing takes them for measured. Their coverage is 0 and their random
        uncertainty missing. The attribute ``teacher`` records the teacher, the split and the share of labels, and is
        copied to `run.json`. Lazy if the cube is.

    Raises
    ------
    ConfigError
        If `observed` is no such weight, the cube lacks inputs of the teacher or has labels already, the teacher
        predicts nothing, or `out` contains predictions of another teacher, cube or stride.
    SplitError
        If the teacher learned from test or validation towers of the split.

    Notes
    -----
    Weights by quality are 1 at all labels (`fluxcube.training.weights`). The student's record of its training towers
    includes those of the teacher, so that no tower that either learned from counts as held out.

    References
    ----------
    Hinton et al. 2015, "Distilling the knowledge in a neural network", arXiv:1503.02531.

    Examples
    --------
    >>> import tempfile
    >>> import fluxcube as fc
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=12, days=6)
    >>> teacher = fc.fit(cube, model="sw-linear", out=tempfile.mkdtemp())
    >>> labelled = distil(teacher, cube)
    >>> student = fc.fit(labelled, model="sw-linear", out=tempfile.mkdtemp())
    >>> fc.load_model(student).metadata["teacher"]["members"]
    1
    """
    predictor, resolution = as_predictor(teacher), resolution_of(validate_cube(cube))
    if not 0 <= observed < 1:
        raise ConfigError(f"observed must be from 0 to less than 1, found {observed}: at 1 nothing is distilled.")
    if teacher_of(cube) is not None:
        raise ConfigError(f"the fluxes of this cube are labels of a {TEACHER} already: pass the cube it was made from.")
    chosen = _split(predictor, cube, split)
    chosen.check([str(site) for site in cube["site"].values])
    targets = [str(name) for name in cube["target"].values if str(name) in predictor.spec.targets]
    if not targets:
        raise ConfigError(
            f"expected a flux of the teacher ({', '.join(predictor.spec.targets)}) in the cube, found "
            f"{', '.join(map(str, cube['target'].values))}: build the cube with one of them."
        )
    record = _record(predictor, chosen, targets, observed)
    record.check(chosen)
    _report_neighbours(cube, record, chosen)
    estimates = _estimates(predictor, chosen.part(cube, "train"), out, stride, progress)
    labels = _labels(cube, estimates[targets], chosen)
    return _labelled(cube, labels, record, resolution)


def _split(predictor: Predictor, cube: xr.Dataset, split: Split | str | os.PathLike | None) -> Split:
    """Return the split of the student: by default that of the teacher."""
    if isinstance(split, Split):
        return split
    if split is not None:
        return split_for(cube, split)
    if not (own := predictor.metadata.get("split")):
        raise ConfigError("the teacher records no split that all of its members have: pass split=.")
    return Split.from_dict(own)


def _record(predictor: Predictor, split: Split, targets: list[str], observed: float) -> Teacher:
    """Return the record of a teacher, without the share of labels."""
    metadata = [single.metadata for single in predictor.singles]
    return Teacher(
        model_digest=str(predictor.digest or ""),
        kind=str(predictor.metadata.get("kind", predictor.model.kind)),
        members=sum(len(single.model.members) or 1 for single in predictor.singles),
        targets=tuple(targets),
        split=split.to_dict(),
        splits=tuple(about["split"] for about in metadata if about.get("split")),
        training_sites=tuple(
            dict.fromkeys(str(site) for about in metadata for site in about.get("training_sites") or ())
        ),
        observed=observed,
    )


def _report_neighbours(cube: xr.Dataset, record: Teacher, split: Split) -> None:
    """Log the held-out towers that are within the buffer of the split from a training tower of the teacher."""
    if not split.buffer_km or dict(record.split) in [dict(one) for one in record.splits]:
        return
    names = [str(site) for site in cube["site"].values]
    trained = [i for i, name in enumerate(names) if name in record.training_sites]
    near = neighbours(cube["latitude"].values, cube["longitude"].values, trained, split.buffer_km)
    if found := [name for name, close in zip(names, near, strict=True) if close and name in (*split.val, *split.test)]:
        log.warning(
            "%d validation and test towers are within %g km of a training tower of the teacher, and are no independent "
            "test of the student: %s",
            len(found),
            split.buffer_km,
            ", ".join(found[:10]),
        )


def _estimates(
    predictor: Predictor,
    towers: xr.Dataset,
    out: str | os.PathLike | None,
    stride: int | None,
    progress: Callable | None,
) -> xr.Dataset:
    """Return the predictions (site, time) of the teacher at towers, from their file if it exists."""
    path = None if out is None else Path(out)
    if path is not None and path.exists():
        estimates = read_predictions(path)
        _check_file(path, estimates, predictor, towers, stride)
        return estimates
    estimates = predict(predictor, towers, stride=stride, progress=progress or _quiet)
    estimates = estimates[[name for name in estimates if name in predictor.spec.targets]]
    estimates = estimates.drop_vars([name for name in estimates.coords if name not in ("site", "time")])
    if path is not None:
        source = named(origin(towers), "cube")
        write_predictions(estimates.assign_attrs(source | {_DATA: _digest(predictor, towers)}), path)
    return estimates


def _quiet(done: int, total: int, text: str) -> None:
    """Ignore progress. With a callback, predictions are computed at once, site by site."""


def _check_file(path: Path, found: xr.Dataset, predictor: Predictor, towers: xr.Dataset, stride: int | None) -> None:
    """Refuse predictions of another teacher, of other towers or hours, or with another stride (ConfigError)."""
    steps = f"stride_{predictor.spec.time_resolution.steps}"
    options = predictor.options(stride=stride)
    expected = {"model_digest": predictor.digest, steps: options.strides if options.members else options.stride}
    for dim in ("site", "time"):
        if not np.array_equal(found[dim].values, towers[dim].values):
            raise ConfigError(f"{path}: its predictions are of another {dim} axis than the training towers: remove it.")
    expected[_DATA] = _digest(predictor, towers)
    for name, value in expected.items():
        if str(found.attrs.get(name)) != str(value):
            raise ConfigError(
                f"{path}: expected predictions of {name} {value}, found {found.attrs.get(name)}: remove it."
            )
    check_origin(path, towers, origin_of(found.attrs, "cube"))


def _digest(predictor: Predictor, towers: xr.Dataset) -> str:
    """Return a digest of a sample of the inputs from which labels are predicted."""
    fluxes = [name for name in towers.data_vars if str(name).startswith("fluxes")]
    sites = [str(site) for site in towers["site"].values]
    return data_digest(towers.drop_vars(fluxes), sites, predictor.spec, sample=True)


def _labels(cube: xr.Dataset, estimates: xr.Dataset, split: Split) -> xr.DataArray:
    """Return the teacher's estimates (site, time, target) of the training towers, in their training periods."""
    labels = estimates.to_dataarray("target").transpose("site", "time", "target").astype("float32")
    periods = split.periods.get("train", {})
    time, every = cube["time"].values, np.ones(cube.sizes["time"], bool)
    rows = [inside(periods[s], time) if s in periods else every for s in map(str, labels["site"].values)]
    labels = labels.where(xr.DataArray(np.array(rows), dims=("site", "time"))) if periods else labels
    if not np.isfinite(labels.values).any():
        raise ConfigError(
            f"the teacher predicts no flux of the {labels.sizes['site']} training towers: their records lack its "
            "inputs, or are shorter than its window."
        )
    return labels


def _labelled(cube: xr.Dataset, labels: xr.DataArray, record: Teacher, resolution: Resolution) -> xr.Dataset:
    """Return the cube with labels as its fluxes where there are any, and the record of the teacher."""
    towers = cube[["fluxes", f"fluxes{resolution.quality}"]].sel(
        site=labels["site"].values, target=list(record.targets)
    )
    labels = labels.chunk(_chunks(towers["fluxes"])) if towers["fluxes"].chunks else labels
    measured = _measured(towers, resolution)
    record = dataclasses.replace(record, share_of_labels=_share_of_labels(labels, measured))
    if record.observed:
        mean = record.observed * towers["fluxes"] + (1 - record.observed) * labels
        labels = xr.where(measured, mean, labels)
    full = _on_axes(labels.astype("float32"), cube)
    there = full.notnull()
    values = {"": full, resolution.quality: _quality_of_labels(cube, resolution), **_BESIDE}
    arrays = {f"fluxes{ending}": value for ending, value in values.items() if f"fluxes{ending}" in cube}
    changed = {name: _like(xr.where(there, value, cube[name]), cube[name]) for name, value in arrays.items()}
    log.info("labels at %d towers; share without a measured flux: %s", labels.sizes["site"], record.share_of_labels)
    return derived(cube.assign(changed)).assign_attrs({TEACHER: json.dumps(record.to_dict())})


def _on_axes(labels: xr.DataArray, cube: xr.Dataset) -> xr.DataArray:
    """Return labels on all sites and targets of the cube, NaN where there are none."""
    at = {dim: labels.indexes[dim].get_indexer(cube.indexes[dim]) for dim in ("site", "target")}
    known = {dim: xr.DataArray(found >= 0, dims=(dim,)) for dim, found in at.items()}
    every = labels.drop_vars(list(labels.coords)).isel({dim: np.maximum(found, 0) for dim, found in at.items()})
    coords = {dim: cube[dim] for dim in ("site", "target")}
    return every.where(known["site"] & known["target"]).assign_coords(coords)


def _measured(towers: xr.Dataset, resolution: Resolution) -> xr.DataArray:
    """Return where fluxes (site, time, target) are measured."""
    best = xr.DataArray(best_flags(towers), {"site": towers["site"]}, ("site",))
    accepts = resolution.limit(resolution.measured).accepts
    quality = towers[f"fluxes{resolution.quality}"]
    accepted = xr.apply_ufunc(accepts, quality, best, dask="parallelized", output_dtypes=[bool])
    return accepted & towers["fluxes"].notnull()


def _quality_of_labels(cube: xr.Dataset, resolution: Resolution) -> xr.DataArray | float:
    """Return the quality of labels at each site: accepted for training, and not measured where flags can say so."""
    if not resolution.lower_is_better:
        return resolution.training_limit
    return xr.DataArray(np.maximum(best_flags(cube), _FLAG), {"site": cube["site"]}, ("site",))


def _like(array: xr.DataArray, old: xr.DataArray) -> xr.Variable:
    """Return an array with the order of dimensions, data type, chunks and attributes of the one that it replaces."""
    new = array.transpose(*old.dims).astype(old.dtype).variable
    new = new.chunk(dict(zip(old.dims, old.chunks, strict=True))) if old.chunks else new
    return xr.Variable(old.dims, new.data, old.attrs, old.encoding)


def _chunks(known: xr.DataArray) -> dict[str, int]:
    """Return chunks for labels: one tower and as many time steps as the fluxes have."""
    return {"site": 1, "time": int(known.chunksizes["time"][0]), "target": -1}


def _share_of_labels(labels: xr.DataArray, measured: xr.DataArray) -> dict[str, float]:
    """Return, for each target, the share of the labels at time steps without a measured flux."""
    there = labels.notnull()
    total, alone = there.sum(("site", "time")), (there & ~measured).sum(("site", "time"))
    share = (alone / total.where(total > 0)).compute()
    return {str(n): round(float(v), 4) for n, v in zip(share["target"].values, share.values, strict=True)}
