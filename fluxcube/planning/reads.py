"""Stored chunks that the tasks of maps read: from the Dask graph of one block of cells, and the chunks of the files.

A task reads whole Dask blocks of the forcing, and a Dask block reads every stored chunk that it touches. Which blocks
along time a task needs is taken from the graph of one block of cells; which blocks along latitude and longitude, from
the edges of both. Nothing is read here.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from dask.core import get_dependencies
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull

from fluxcube.planning.tiles import CELL_DIMS, Tasks
from fluxcube.sources.era5.open import Source, extent, storage_chunks
from fluxcube.sources.era5.series import Files
from fluxcube.sources.era5.variables import parameters_read


class Along(NamedTuple):
    """What a Dask block reads along one axis.

    Attributes
    ----------
    chunks : tuple
        Identifiers of the stored chunks.
    length : int
        Number of values in them.
    """

    chunks: tuple[Hashable, ...]
    length: int


class StoredBox(NamedTuple):
    """Stored chunks of one array that a Dask block reads.

    Attributes
    ----------
    name : str
        The stored array.
    rest : Along
        Along time and all other axes together.
    cells : (Along, Along)
        Along latitude and longitude.
    value_bytes : int
        Bytes of a stored value before compression.
    """

    name: str
    rest: Along
    cells: tuple[Along, Along]
    value_bytes: int


@dataclass(frozen=True, kw_only=True)
class ArrayReads:
    """Chunks of one stored array that all tasks read.

    Attributes
    ----------
    name : str
        The array.
    chunks, bytes : int
        Number of reads of a chunk by all tasks, and their bytes before compression. Each task reads its own chunks:
        workers keep nothing from one task to the next.
    distinct_chunks, distinct_bytes : int
        The same if each chunk were read once.
    needed : int
        Bytes of the values that the model uses, each once: land cells, the mapped and the earlier time steps that it
        depends on, its predictors and bands.
    """

    name: str
    chunks: int
    bytes: int
    distinct_chunks: int
    distinct_bytes: int
    needed: int


def count_reads(tasks: Tasks, variables: int) -> tuple[ArrayReads, ...]:
    """Return what all tasks of maps read of each stored array.

    Parameters
    ----------
    tasks : Tasks
        Tasks of the maps.
    variables : int
        Number of predictors that the model uses.

    Returns
    -------
    tuple of ArrayReads
        For each array of the forcing that the tasks read; for ERA5 files, for each parameter.
    """
    found: list[ArrayReads] = []
    for name, array in tasks.forcing.data_vars.items():
        if not array.chunks or set(CELL_DIMS) - set(array.dims):
            continue
        touched = _touched(tasks, str(name))
        if any(touched):
            found += _reads_of(tasks, array.transpose(*CELL_DIMS, ...), touched, _needed(tasks, array, variables))
    return tuple(found)


def _needed(tasks: Tasks, array: xr.DataArray, variables: int) -> int:
    """Return the number of values of an array that the model uses."""
    sizes = {str(dim): size for dim, size in array.sizes.items() if dim not in CELL_DIMS}
    if "time" in sizes:
        sizes |= {"time": int(tasks.steps.sum() + tasks.span[0] - tasks.steps[0]), "variable": variables}
    return tasks.cells * int(np.prod(list(sizes.values())))


def _touched(tasks: Tasks, name: str) -> list[set[tuple[int, ...]]]:
    """Return, for each chunk in time of the maps, the Dask blocks of an array beside their cells."""
    row, column = map(int, np.unravel_index(tasks.land.argmax(), tasks.land.shape))
    part = tasks.forcing[name].isel(dict(zip(CELL_DIMS, tasks.box(row, column), strict=True)))
    own = part.data.name
    axes = [part.dims.index(dim) for dim in CELL_DIMS]
    whole = HighLevelGraph.merge(*(array.data.dask for array in tasks.one.data_vars.values()))
    found = []
    for n in range(len(tasks.steps)):
        keys = {(array.data.name, n, 0, 0) for array in tasks.one.data_vars.values()}
        graph, _ = cull(dict(whole.cull(keys)), list(keys))  # the first one keeps whole layers
        places = [key[1:] for key in graph if isinstance(key, tuple) and key[0] == own]
        found.append({tuple(int(str(p)) for n, p in enumerate(place) if n not in axes) for place in places})
    return found


def _reads_of(
    tasks: Tasks, array: xr.DataArray, touched: list[set[tuple[int, ...]]], needed: int
) -> Iterator[ArrayReads]:
    """Yield what the tasks read of the stored arrays from which an array (latitude, longitude, ...) is computed.

    `needed` is the number of values that the model uses; each counts as many bytes as its stored array has for one.
    """
    rest = sorted(set().union(*touched))
    shape = array.data.numblocks
    row, column = (int(n) for n in np.unravel_index(tasks.land.argmax(), tasks.land.shape))
    low = [_blocks(array, axis, tasks)[0] for axis in (0, 1)]
    at = (int(low[0][row]), int(low[1][column]))
    keys = {(*at, *place) for place in rest}
    keys |= {(n, at[1], *rest[-1]) for n in range(shape[0])} | {(at[0], n, *rest[-1]) for n in range(shape[1])}
    boxes = _boxes(array, keys)
    stored = list(dict.fromkeys(box.name for found in boxes.values() for box in found))
    for name in stored:
        one = {place: [box for box in found if box.name == name] for place, found in boxes.items()}
        some = next(box for found in one.values() for box in found)
        times = {place: _sum([box.rest for box in one[(*at, *place)]]) for place in rest}
        rows, columns = (
            [_sum([b.cells[axis] for b in one[(*_replaced(at, axis, n), *rest[-1])][:1]]) for n in range(shape[axis])]
            for axis in (0, 1)
        )
        yield _total(
            tasks,
            name,
            touched,
            times,
            (rows, columns),
            array,
            some.value_bytes,
            needed // len(stored) * some.value_bytes,
        )


def _replaced(at: tuple[int, int], axis: int, n: int) -> tuple[int, int]:
    return (n, at[1]) if axis == 0 else (at[0], n)


def _sum(parts: Sequence[Along]) -> Along:
    return Along(tuple(itertools.chain(*(part.chunks for part in parts))), sum(part.length for part in parts))


def _total(
    tasks: Tasks,
    name: str,
    touched: list[set[tuple[int, ...]]],
    times: Mapping[tuple[int, ...], Along],
    cells: tuple[list[Along], list[Along]],
    array: xr.DataArray,
    value_bytes: int,
    needed: int,
) -> ArrayReads:
    """Add up the reads of one stored array."""
    reads = [times[place] for places in touched for place in places]
    length, chunks = sum(one.length for one in reads), sum(len(one.chunks) for one in reads)
    distinct = {chunk: one.length / len(one.chunks) for one in times.values() for chunk in one.chunks if one.chunks}
    sums = []
    for axis, parts in enumerate(cells):
        first, stop = _blocks(array, axis, tasks)
        ends = [
            np.concatenate([[0], np.cumsum(v)]) for v in zip(*((p.length, len(p.chunks)) for p in parts), strict=True)
        ]
        sums.append([end[stop] - end[first] for end in ends])
    rows, columns = tasks.blocks.T
    area = (sums[0][0][rows] * sums[1][0][columns]).sum()
    count = (sums[0][1][rows] * sums[1][1][columns]).sum()
    covered, covered_count = _covered(tasks, array, cells)
    return ArrayReads(
        name=name,
        chunks=int(chunks * count),
        bytes=int(length * area) * value_bytes,
        distinct_chunks=len(distinct) * covered_count,
        distinct_bytes=int(sum(distinct.values()) * covered) * value_bytes,
        needed=needed,
    )


def _covered(tasks: Tasks, array: xr.DataArray, cells: tuple[list[Along], list[Along]]) -> tuple[float, int]:
    """Return the number of values, and of stored chunks, along latitude and longitude that any task reads."""
    ids, lengths, spans = [], [], []
    for axis, parts in enumerate(cells):
        known = {chunk: n for n, chunk in enumerate(dict.fromkeys(chunk for part in parts for chunk in part.chunks))}
        size = np.zeros(len(known))
        for part in parts:
            size[[known[chunk] for chunk in part.chunks]] = part.length / max(1, len(part.chunks))
        first, stop = _blocks(array, axis, tasks)
        ids.append([[known[c] for part in parts[a:b] for c in part.chunks] for a, b in zip(first, stop, strict=True)])
        lengths.append(size)
        spans.append(len(known))
    read = np.zeros(spans, bool)
    for row in np.unique(tasks.blocks[:, 0]):
        columns = {c for column in tasks.blocks[tasks.blocks[:, 0] == row, 1] for c in ids[1][column]}
        read[np.ix_(ids[0][row], sorted(columns))] = True
    return float(lengths[0] @ read @ lengths[1]), int(read.sum())


def _blocks(array: xr.DataArray, axis: int, tasks: Tasks) -> tuple[np.ndarray, np.ndarray]:
    """Return the first Dask block of an array along an axis, and the one after the last, of each block of cells."""
    edges = np.concatenate([[0], np.cumsum(array.chunks[axis])]) if array.chunks else np.zeros(2)
    own = tasks.rows if axis == 0 else tasks.columns
    return np.searchsorted(edges, own[:-1], "right") - 1, np.searchsorted(edges, own[1:], "left")


def _boxes(array: xr.DataArray, places: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[StoredBox]]:
    """Return what Dask blocks of an array (latitude, longitude, ...) read, by their place."""
    every, lazy = list(places), array.data
    graph = dict(lazy.dask.cull({(lazy.name, *place) for place in every}))
    return {place: _stored_boxes(array, graph, place) for place in every}


def _stored_boxes(array: xr.DataArray, graph: Mapping[Any, Any], place: tuple[int, ...]) -> list[StoredBox]:
    """Return what one Dask block reads: from files, from the chunks of an array, else the block itself."""
    boxes: list[StoredBox] = []
    todo: list[Any] = [(array.data.name, *place)]
    seen: set[Any] = set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        parts = _arguments(graph[key])
        files = next((part for part in parts if isinstance(part, Files)), None)
        box = _slices(parts, array.ndim)
        if files is not None:
            names = next((part for part in parts if isinstance(part, tuple) and part and isinstance(part[0], str)), ())
            boxes += _of_files(files, names)
        elif box is not None and (source := _source(graph, key, parts)) is not None:
            boxes.append(_of_array(str(array.name), array, source, box))
        else:
            todo += get_dependencies(graph, key)
    return boxes or [_of_block(array, place)]


def _arguments(task: Any) -> list[Any]:
    """Return the arguments of a Dask task, of the present form or of the earlier one of tuples."""
    values = task.args if hasattr(task, "args") else task[1:] if isinstance(task, tuple) else ()
    return [getattr(value, "value", value) for value in values]


def _slices(parts: Sequence[Any], ndim: int) -> tuple[slice, ...] | None:
    """Return the slices of all axes among the arguments of a task that reads an array."""
    for part in parts:
        if isinstance(part, tuple) and len(part) == ndim and all(isinstance(one, slice) for one in part):
            return part if all(one.stop is not None for one in part) else None
    return None


def _source(graph: Mapping[Any, Any], key: Any, parts: Sequence[Any]) -> Any:
    """Return the array that a task reads; None if it cuts the result of another task."""
    arrays = [part for part in parts if hasattr(part, "shape") and not isinstance(part, np.ndarray)]
    for other in get_dependencies(graph, key):
        value = getattr(graph[other], "value", graph[other])
        arrays += [value] if hasattr(value, "shape") and not hasattr(value, "args") else []
    return arrays[0] if arrays else None


def _of_array(name: str, array: xr.DataArray, source: Any, box: tuple[slice, ...]) -> StoredBox:
    """Return the stored chunks of an array that a box touches."""
    inner = _innermost(source)
    sizes = getattr(inner, "chunks", None) or getattr(source, "chunks", None)
    shape = tuple(source.shape)
    if not sizes or len(sizes) != len(shape) or not all(isinstance(size, int) for size in sizes):
        sizes = tuple(part.stop - part.start for part in box)
    along = [_along(np.arange(p.start, p.stop), n, end) for p, n, end in zip(box, sizes, shape, strict=True)]
    dtype = np.dtype(getattr(inner, "dtype", array.dtype))
    return StoredBox(name, _product(along[2:]), (along[0], along[1]), dtype.itemsize)


def _innermost(source: Any) -> Any:
    """Return the array of the library that reads a file, below the wrappers of xarray and of `fluxcube.stores`."""
    for _ in range(20):
        wrapped = getattr(source, "array", getattr(source, "inner", None))
        inner = source.get_array() if hasattr(source, "get_array") else wrapped
        if inner is None or inner is source:
            return source
        source = inner
    return source


def _of_block(array: xr.DataArray, place: tuple[int, ...]) -> StoredBox:
    """Return a Dask block as one chunk, where it is not known what it is computed from."""
    sizes = [chunks[n] for chunks, n in zip(array.chunks or (), place, strict=True)]
    along = [Along((n,), size) for n, size in zip(place, sizes, strict=True)]
    return StoredBox(str(array.name), _product(along[2:]), (along[0], along[1]), array.dtype.itemsize)


def _of_files(files: Files, names: Sequence[str]) -> Iterator[StoredBox]:
    """Yield the stored chunks of ERA5 parameters that a block reads."""
    used = parameters_read(files, names)
    rows, columns = ((a.low if a.exact else a.needed) for a in (files.rows, files.columns))
    for parameter, series in files.parameters.items():
        for one in series if parameter in used else ():
            start, stop = max(one.start, 0), min(one.stop, files.count)
            if start >= stop:
                continue
            array = one.source.open()[parameter]
            sizes, shape = storage_chunks(array) or (1, 1, 1), extent(array)
            stamps = np.arange(start, stop) - one.start + one.position
            time = _along(stamps, sizes[0], shape[0], one.source)
            north = _in_runs(one.layout.file_rows(rows), sizes[1], shape[1])
            east = _in_runs(one.layout.file_columns(columns), sizes[2], shape[2])
            dtype = np.dtype(array.encoding.get("dtype", array.dtype))
            yield StoredBox(parameter, time, (north, east), dtype.itemsize)


def _along(positions: np.ndarray, size: int, end: int, source: Source | None = None) -> Along:
    """Return the chunks along one axis that contain some positions."""
    numbers = np.unique(positions // size)
    length = int(np.minimum(size, end - numbers * size).sum())
    return Along(tuple((source, n) for n in numbers.tolist()) if source else tuple(numbers.tolist()), length)


def _in_runs(positions: np.ndarray, size: int, end: int) -> Along:
    """Return the chunks of positions along one axis; each run of consecutive positions is read separately."""
    runs = np.split(positions, np.flatnonzero(np.abs(np.diff(positions)) != 1) + 1)
    parts = [_along(run, size, end) for run in runs]
    return _sum(parts)


def _product(axes: Sequence[Along]) -> Along:
    """Return several axes as one."""
    return Along(
        tuple(itertools.product(*(axis.chunks for axis in axes))), int(np.prod([axis.length for axis in axes] or [1]))
    )
