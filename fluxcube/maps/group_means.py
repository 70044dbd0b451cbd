"""Mean fluxes of groups of cells in each period, computed from maps that are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import xarray as xr

from fluxcube.maps.periods import Periods
from fluxcube.maps.shares import Groups

_DIMS = ("time", "latitude", "longitude")
#: Maximum number of time steps that are read before their sums are combined, which bounds the use of RAM.
_SLAB = 8784
#: A step of a group counts if this share of its land has a value; others are filled like steps without values.
_PRESENT = 0.5
#: Number of values of a block that are converted to float64 at once.
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class GroupMeans:
    """Mean fluxes of groups in periods.

    Attributes
    ----------
    mean : (period, group) float64
        Mean flux of the group's land.
    coverage : (period, group) float64
        Share of land and time that has values.
    gaps : (period, group) bool
        True where some hour of the day has no value on any day.
    """

    mean: np.ndarray
    coverage: np.ndarray
    gaps: np.ndarray


def group_areas(groups: Groups, land: np.ndarray) -> np.ndarray:
    """Return the land (group,) of each group in m2; `land` (cell,) is in m2."""
    return np.bincount(groups.group, groups.share * land[groups.cell], len(groups.labels))


def group_means(
    array: xr.DataArray,
    groups: Groups,
    land: np.ndarray,
    periods: Periods,
    progress: Callable[[int, int, str], None] | None = None,
) -> GroupMeans:
    """Return the mean fluxes of groups in periods; maps are read once, in slabs of time.

    Parameters
    ----------
    array : xr.DataArray
        One flux (time, latitude, longitude).
    groups : Groups
        Cells of each group.
    land : (cell,) float64
        Land of each cell, m2.
    periods : Periods
        Period of each time step.
    progress : callable, optional
        ``progress(done, total, text)`` after each slab.
    """
    array = array.transpose(*_DIMS)
    array = array if array.chunks else array.chunk(time=240)
    area, count = group_areas(groups, land), len(groups.labels)
    sums, seconds = np.zeros((2, periods.count, periods.slots, count))
    present = np.zeros((periods.count, count))
    slabs = list(_slabs(array.chunksizes["time"]))
    for done, (start, stop) in enumerate(slabs):
        weighted, weight = _slab_sums(array.isel(time=slice(start, stop)).data, groups, land)
        with np.errstate(invalid="ignore", divide="ignore"):
            share, mean = weight / area, weighted / weight
        length = periods.seconds[start:stop, None]
        kept = share >= _PRESENT
        where = periods.period[start:stop], periods.slot[start:stop]
        np.add.at(sums, where, np.where(kept, mean, 0.0) * length)
        np.add.at(seconds, where, kept * length)
        np.add.at(present, where[0], share * length)
        if progress is not None:
            progress(done + 1, len(slabs), str(array.name))
    with np.errstate(invalid="ignore"):
        slots = sums / seconds
    there = np.isfinite(slots).sum(1)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(slots, 1) / np.where(there > 0, there, np.nan)
    return GroupMeans(mean, present / periods.nominal[:, None], there < periods.slots)


def _slabs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield start and stop of sequences of whole chunks, of up to `_SLAB` steps or one chunk."""
    start = stop = 0
    for size in sizes:
        if stop > start and stop + size - start > _SLAB:
            yield start, stop
            start = stop
        stop += size
    yield start, stop


def _slab_sums(array: da.Array, groups: Groups, land: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (time, group) of value times land, and of land with a value; blocks without land are not read."""
    tasks = []
    blocks = array.to_delayed(optimize_graph=False)
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in array.chunks]
    sums = dask.delayed(_block_sums, pure=True)
    for i, j, entries in _blocks(groups, land, edges[1], edges[2]):
        tasks += [(k, sums(blocks[k, i, j], *entries)) for k in range(len(edges[0]) - 1)]
    shape = int(edges[0][-1]), len(groups.labels)
    weighted, weight = np.zeros(shape), np.zeros(shape)
    for (k, _), (present, values, lands) in zip(tasks, dask.compute(*(task for _, task in tasks)), strict=True):
        weighted[edges[0][k] : edges[0][k + 1], present] += values
        weight[edges[0][k] : edges[0][k + 1], present] += lands
    return weighted, weight


def _blocks(groups: Groups, land: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple]:
    """Yield blocks (i, j) with land of a group: the positions, weights and groups of their cells, sorted by group."""
    weight = groups.share * land[groups.cell]
    row, column = np.divmod(groups.cell, columns[-1])
    block = np.stack([np.searchsorted(e, at, "right") - 1 for e, at in ((rows, row), (columns, column))])
    kept = np.flatnonzero(weight > 0)
    order = kept[np.lexsort((groups.cell[kept], groups.group[kept], block[1, kept], block[0, kept]))]
    cuts = np.flatnonzero(np.diff(block[:, order], axis=1).any(0)) + 1
    for part in np.split(order, cuts) if len(order) else ():
        i, j = block[:, part[0]]
        width = columns[j + 1] - columns[j]
        yield (
            int(i),
            int(j),
            ((row[part] - rows[i]) * width + column[part] - columns[j], weight[part], groups.group[part]),
        )


def _block_sums(values: np.ndarray, cell: np.ndarray, weight: np.ndarray, group: np.ndarray) -> tuple:
    """Return the groups of a block, and their two sums (time, group) for `_slab_sums`."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    flat = values.reshape(len(values), -1)
    step = max(1, _AT_ONCE // max(1, len(cell)))
    out = np.empty((2, len(values), len(starts)))
    for at in range(0, len(values), step):
        part = flat[at : at + step, cell].astype(float)
        there = np.isfinite(part)
        out[0, at : at + step] = np.add.reduceat(np.where(there, part, 0.0) * weight, starts, axis=1)
        out[1, at : at + step] = np.add.reduceat(there * weight, starts, axis=1)
    return group[starts], out[0], out[1]
