"""Distillation: label the training towers of a cube with the predictions of a model, for another model to learn.

The mean of an ensemble is better than each of its members, and costs as many passes as there are members. A single
model that learns that mean, at every time step with model inputs, comes close to it at the cost of one pass.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import Cube, as_cube
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


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of the training towers of a cube.

    Attributes
    ----------
    values : (n, time, targets) float32
        Labels, NaN where there are none.
    rows : mapping of int to int
        Position of a labelled site in the cube to its row in `values`.
    columns : tuple of int
        Position of each target in the cube.
    """

    values: np.ndarray
    rows: Mapping[int, int]
    columns: tuple[int, ...]

    def put(self, block: np.ndarray, values: np.ndarray | None, start: tuple[int, ...]) -> np.ndarray:
        """Return a block (site, time, target) of a cube's array with labels in it.

        Parameters
        ----------
        block : (sites, steps, targets) array
            It is not changed.
        values : (all sites,) array or None
            What to write where a site has a label; None for the label itself.
        start : (int, int, int)
            Position of the block in the cube.
        """
        out, (site, step, target) = block.copy(), start
        for i in range(len(block)):
            if (row := self.rows.get(site + i)) is None:
                continue
            for k, column in enumerate(self.columns):
                if not 0 <= column - target < block.shape[2]:
                    continue
                label = self.values[row, step : step + block.shape[1], k]
                there = np.isfinite(label)
                out[i, there, column - target] = label[there] if values is None else values[site + i]
        return out


def distil(
    teacher: AnyModel,
    cube: Cube,
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
    cube : xr.Dataset, path or URL
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
    cube = as_cube(cube)
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


def _labels(cube: xr.Dataset, estimates: xr.Dataset, split: Split) -> Labels:
    """Return the teacher's estimates of the training towers, in their training periods."""
    values = np.stack([estimates[name].transpose("site", "time").values for name in estimates], -1).astype(np.float32)
    sites, names = [str(site) for site in estimates["site"].values], [str(name) for name in estimates]
    time, periods = cube["time"].values, split.periods.get("train", {})
    for i, site in enumerate(sites):
        if site in periods:
            values[i, ~inside(periods[site], time)] = np.nan
    if not np.isfinite(values).any():
        raise ConfigError(
            f"the teacher predicts no flux of the {len(sites)} training towers: their records lack its inputs, or are "
            "shorter than its window."
        )
    at = {str(site): i for i, site in enumerate(cube["site"].values)}
    columns = tuple(list(map(str, cube["target"].values)).index(name) for name in names)
    return Labels(values, {at[site]: i for i, site in enumerate(sites)}, columns)


def _labelled(cube: xr.Dataset, labels: Labels, record: Teacher, resolution: Resolution) -> xr.Dataset:
    """Return the cube with labels as its fluxes where there are any, and the record of the teacher."""
    labels, share = _with_observed(cube, labels, record.observed, resolution)
    names = [str(cube["target"].values[column]) for column in labels.columns]
    record = dataclasses.replace(record, share_of_labels=dict(zip(names, share, strict=True)))
    values = {"": None, resolution.quality: _quality_of_labels(cube, resolution), **_BESIDE}
    arrays = {f"fluxes{ending}": value for ending, value in values.items() if f"fluxes{ending}" in cube}
    changed = {name: _replaced(cube[name].variable, labels, value) for name, value in arrays.items()}
    log.info("labels at %d towers; share without a measured flux: %s", len(labels.rows), record.share_of_labels)
    return derived(cube.assign(changed)).assign_attrs({TEACHER: json.dumps(record.to_dict())})


def _with_observed(
    cube: xr.Dataset, labels: Labels, weight: float, resolution: Resolution
) -> tuple[Labels, list[float]]:
    """Return labels with measured fluxes mixed in, and the share of each target that has no measured flux.

    Towers are read one at a time.
    """
    mixed, best, accepts = labels.values.copy(), best_flags(cube), resolution.limit(resolution.measured).accepts
    alone = np.zeros((2, len(labels.columns)))
    arrays = cube[["fluxes", f"fluxes{resolution.quality}"]].isel(target=list(labels.columns))
    for site, row in labels.rows.items():
        one = arrays.isel(site=site).compute()
        fluxes, label = one["fluxes"].values, mixed[row]
        there = np.isfinite(label)
        measured = there & np.isfinite(fluxes) & accepts(one[f"fluxes{resolution.quality}"].values, best[site])
        label[measured] += weight * (fluxes[measured] - label[measured])
        alone += [(there & ~measured).sum(0), there.sum(0)]
    return dataclasses.replace(labels, values=mixed), np.round(alone[0] / np.maximum(alone[1], 1), 4).tolist()


def _quality_of_labels(cube: xr.Dataset, resolution: Resolution) -> np.ndarray | float:
    """Return the quality of labels at each site: accepted for training, and not measured where flags can say so."""
    return np.maximum(best_flags(cube), _FLAG) if resolution.lower_is_better else resolution.training_limit


def _replaced(old: xr.Variable, labels: Labels, value: np.ndarray | float | None) -> xr.Variable:
    """Return an array (site, time, target) with a value where there are labels, or the labels for None; lazy if it is.

    One task for each chunk; the labels are one more, which all tasks share.
    """
    values = None if value is None else np.broadcast_to(np.asarray(value, old.dtype), old.shape[:1])
    if old.chunks is None:
        return xr.Variable(old.dims, labels.put(old.values, values, (0, 0, 0)), old.attrs, old.encoding)
    import dask
    import dask.array as da

    shared = dask.delayed(labels, pure=True)
    data = da.map_blocks(_replaced_block, old.data, labels=shared, values=values, dtype=old.dtype, meta=old.data._meta)
    return xr.Variable(old.dims, data, old.attrs, old.encoding)


def _replaced_block(block: np.ndarray, *, labels: Labels, values: np.ndarray | None, block_info: dict) -> np.ndarray:
    """Return one chunk of `_replaced`."""
    return labels.put(block, values, tuple(first for first, _ in block_info[0]["array-location"]))
