"""Training days and input weights of a finished model, from which maps compute its area of applicability."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.models.applicability import MAX_CENTRES, Applicability
from fluxcube.models.base import Batch, Model
from fluxcube.samples import support
from fluxcube.samples.clusters import cluster_sites
from fluxcube.samples.daymeans import Column, day_columns, input_groups, tower_days
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.training.rows import SiteRows

log = logging.getLogger(__name__)

#: Towers that are closer than this, in km, form a cluster, whatever the buffer of the split: the days of a neighbour
#: are too similar to show how far a new place may be from the training days.
CLUSTER_KM = 50.0
#: Minimum and maximum number of windows whose errors weight the inputs, one for each observed day: each passes the
#: model once for each input, and once unchanged.
_WINDOWS = (64, 256)
#: Number of windows for models of feature rows, which take a thousandth of the time.
_ROWS = 4096
#: Number of towers that they are drawn from, if towers are read one by one.
_SITES = 16
#: Minimum number of hours of history of each hour of a dense head.
_HISTORY = 24


def fit_applicability(
    model: Model,
    train: Towers | SiteRows,
    val: Towers | SiteRows | None,
    cube: xr.Dataset,
    *,
    seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> Applicability | None:
    """Weight the inputs of a trained model, choose training days, and compute the threshold of dissimilarity.

    It takes one pass over the features of the training towers, and ``inputs + 1`` passes of at most 256 windows through
    the model (4,096 for a model of feature rows).

    Parameters
    ----------
    model : Model
        A trained model.
    train, val : Towers or SiteRows
        Towers whose days are kept, and towers whose errors weight the inputs (by default the training towers).
    cube : xr.Dataset
        Cube with the positions of the towers.
    seed : int
        Seed of the windows and their permutations.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Applicability or None
        None, and a warning, if the training towers form one cluster, from which no threshold can be computed.

    References
    ----------
    Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650.
    """
    began, spec = time.perf_counter(), train.spec
    columns = day_columns(spec)
    days, site = training_days(_towers(train, progress), train.sites, len(columns))
    place = cube.sel(site=list(map(str, train.sites)))
    cluster = cluster_sites(place["latitude"].values, place["longitude"].values, CLUSTER_KM)[site]
    weights = importance(model, _watched(train if val is None else val), columns, seed=seed)
    try:
        found = Applicability.of([c.name for c in columns], days, cluster, column_weights(columns, weights))
    except ConfigError as error:
        log.warning("no area of applicability: %s", error)
        return None
    log.info(
        "area of applicability: %d training days of %d towers in %.0f s; inputs by weight: %s",
        len(days),
        len(train.sites),
        time.perf_counter() - began,
        ", ".join(sorted(weights, key=lambda name: weights[name], reverse=True)[:5]),
    )
    return found


def training_days(towers: Iterable[Towers], sites: Sequence[str], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose days of training towers: the same number for each tower, spread evenly over the seasons.

    Parameters
    ----------
    towers : iterable of Towers
        Towers of `sites`, in order, in one or more parts.
    sites : sequence of str
        Names.
    columns : int
        F, number of columns of a day.

    Returns
    -------
    (K, F) float32, (K,) int64
        Days, at most 4,096, and the position of their tower in `sites`. If a tower has fewer days than its
        share, the others fill the rest, up to twice their share.
    """
    share = math.ceil(MAX_CENTRES / max(len(sites), 1))
    kept: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, "datetime64[D]"), np.empty((0, columns), np.float32))]
    kept *= len(sites)
    at = {str(name): i for i, name in enumerate(sites)}
    for part in towers:
        for position, dates, days in tower_days(part):
            i = at[str(part.sites[position])]
            kept[i] = np.concatenate([kept[i][0], dates]), np.concatenate([kept[i][1], days])
        for i in {at[str(name)] for name in part.sites}:  # read completely: days beyond the maximum are dropped
            kept[i] = _spread(*kept[i], max(share, MAX_CENTRES // 8))
    quota = _quotas([len(dates) for dates, _ in kept], MAX_CENTRES)
    chosen = [_spread(*pair, count)[1] for pair, count in zip(kept, quota, strict=True)]
    return np.concatenate(chosen), np.repeat(np.arange(len(sites)), [len(days) for days in chosen])


def importance(model: Model, towers: Iterable[Towers], columns: Sequence[Column], *, seed: int) -> dict[str, float]:
    """Weight the inputs of a model by the increase in error when each is shuffled between windows.

    Parameters
    ----------
    model : Model
        A trained model.
    towers : iterable of Towers
        Towers of the windows: one window per day, 64 to 256 together (4,096 for a model of feature rows).
    columns : sequence of Column
        Columns whose groups are weighted; a variable is shuffled with its trailing means, and
        an index of the surface reflectance with its own.
    seed : int
        Seed of the windows and of the shuffling.

    Returns
    -------
    dict
        Group to the square root of the increase in mean squared error (scaled targets), 0 if there is none: for a
        linear model this is the size of its coefficient, so that distances are in units of the model's estimates.

    References
    ----------
    Breiman 2001, doi:10.1023/A:1010933404324.
    """
    batch, targets, spec = _sample(model, towers, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    before = _error(model, batch, targets)
    out = {}
    for group in dict.fromkeys(column.group for column in columns):
        out[group] = math.sqrt(max(0.0, _error(model, _shuffled(batch, spec, group, order), targets) - before))
    return out


def column_weights(columns: Sequence[Column], weights: dict[str, float]) -> np.ndarray:
    """Divide the weight of an input among its columns, so that their squares add up to its square."""
    size = {group: sum(column.group == group for column in columns) for group in weights}
    return np.array([weights[column.group] / math.sqrt(size[column.group]) for column in columns])


def _towers(source: Towers | SiteRows, progress: Callable | None) -> Iterable[Towers]:
    if isinstance(source, Towers):
        yield source
        return
    for done, towers in enumerate(source.towers(), 1):
        yield towers
        if progress:
            progress(done, len(source.sites), f"days of {towers.sites[0]}")


def _watched(source: Towers | SiteRows) -> Iterable[Towers]:
    """Return the towers that weight inputs: all, or some of those that are read one by one."""
    if isinstance(source, Towers):
        return [source]
    step = -(-len(source.sites) // _SITES)
    return dataclasses.replace(source, sites=source.sites[::step], progress=None).towers()


def _sample(model: Model, towers: Iterable[Towers], seed: int) -> tuple[Batch, np.ndarray, FeatureSpec]:
    """Return windows of towers and their targets (B, emitted time steps, targets)."""
    every = list(towers)
    days = sum(int(one.observed().sum()) for one in every) // every[0].spec.steps(1)
    count = (int(np.clip(days, *_WINDOWS)) if model.networks else _ROWS) // len(every)
    parts = []
    for one in every:
        if not one.observed().any():
            continue
        if model.embedding_size:
            one = support.towers_with_embeddings(one, model)
        windows = Windows(
            one,
            length=model.context,
            emits=min(model.emits, max(1, model.context - _HISTORY)),
            partial=True,
            batch_size=count,
            limit=count,
            seed=seed,
        )
        parts.append(next(iter(windows)))
    slots = max(part["images"].shape[1] for part in parts)
    present = Batch.of(parts[0]).present()
    merged = {name: np.concatenate([_padded(part[name], name, slots) for part in parts]) for name in present}
    return Batch.of(merged), np.concatenate([part["targets"] for part in parts]), every[0].spec


def _padded(array: np.ndarray, name: str, slots: int) -> np.ndarray:
    """Add empty slots for chips to windows, so that all have the same number."""
    if name not in ("images", "image_step") or array.shape[1] == slots:
        return array
    empty = np.full((len(array), slots - array.shape[1], *array.shape[2:]), -1 if name == "image_step" else np.nan)
    return np.concatenate([array, empty.astype(array.dtype)], 1)


def _shuffled(batch: Batch, spec: FeatureSpec, group: str, order: np.ndarray) -> Batch:
    """Return a batch with one input from other windows."""
    if group in spec.class_lists:
        return batch._replace(classes=_exchanged(batch.classes, [list(spec.class_lists).index(group)], order))
    if group in spec.numbers:
        return batch._replace(numbers=_exchanged(batch.numbers, [spec.numbers.index(group)], order))
    bands = [f"band {name}" for name in spec.bands]
    if group in bands and not spec.images:
        images = batch.images.copy()
        images[:, :, bands.index(group)] = batch.images[order, :, bands.index(group)]
        return batch._replace(images=images)
    names = [bands] * bool(bands) + [[f"{kind.array} {band}" for band in kind.bands] for kind in spec.images]
    pixels = [spec.pixels] * bool(bands) + [kind.pixels for kind in spec.images]
    for i, own in enumerate(names):
        if group in own:  # the flattened pixels of a band, in the slots of its kind
            slots, at = batch.images.shape[1] // len(names), own.index(group) * pixels[i]
            part = np.s_[:, i * slots : (i + 1) * slots, :, at : at + pixels[i]]
            images = batch.images.copy()
            images[part] = batch.images[order][part]
            return batch._replace(images=images)
    columns = [i for i, name in enumerate(input_groups(spec)) if name == group]
    return batch._replace(inputs=_exchanged(batch.inputs, columns, order))


def _exchanged(values: np.ndarray, columns: list[int], order: np.ndarray) -> np.ndarray:
    out = values.copy()
    out[..., columns] = values[order][..., columns]
    return out


def _error(model: Model, batch: Batch, targets: np.ndarray) -> float:
    """Return the mean squared error of scaled targets, averaged over targets."""
    size, estimates = 128 if model.networks else len(targets), []
    for at in range(0, len(targets), size):
        part = batch.take(slice(at, at + size))
        estimates.append(model.predict(part)[:, -targets.shape[1] :])
    squares = np.square(np.concatenate(estimates) - targets, dtype=np.float64)
    seen = np.isfinite(squares)
    count = seen.sum((0, 1))
    each = np.where(seen, squares, 0.0).sum((0, 1))[count > 0] / count[count > 0]
    return float(each.mean()) if len(each) else 0.0


def _quotas(counts: Sequence[int], total: int) -> list[int]:
    """Divide `total` among towers as evenly as their counts allow."""
    quota = np.zeros(len(counts), int)
    limit = np.asarray(counts)
    left = total
    while left > 0 and (quota < limit).any():
        open_ = np.flatnonzero(quota < limit)
        more = max(1, left // len(open_))
        for i in open_[:left]:
            taken = min(more, limit[i] - quota[i], left)
            quota[i] += taken
            left -= taken
    return quota.tolist()


def _spread(dates: np.ndarray, days: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `count` days, spread evenly over the year; years are mixed."""
    if len(dates) <= count:
        return dates, days
    season = (dates - dates.astype("datetime64[Y]")).astype(int)
    order = np.lexsort((dates, season))
    chosen = np.sort(order[((np.arange(count) + 0.5) * len(dates) / count).astype(int)])
    return dates[chosen], days[chosen]
