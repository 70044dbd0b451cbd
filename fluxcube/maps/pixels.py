"""Read single cells of maps: only the chunks that contain them, each once, and only when they are needed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.maps.axes import ALIASES

if TYPE_CHECKING:
    import dask.array as da

_CELLS = ("latitude", "longitude")
#: Length of the windows that are read from files without chunks, along latitude and longitude, and along others.
_UNCHUNKED_CELLS, _UNCHUNKED_STEPS = 16, 8784
#: Maximum number of tasks along the first dimension (time); with more chunks than that, a task reads several.
_MAX_TASKS = 64


def read_cells(array: xr.DataArray, rows: np.ndarray, columns: np.ndarray) -> xr.DataArray:
    """Return the values of single cells of maps, with the dimension site in place of latitude and longitude.

    Parameters
    ----------
    array : xr.DataArray
        Maps in RAM, of Dask arrays, or in a file that xarray opened without Dask (``chunks=None``).
    rows, columns : (site,) int
        Positions of the cells, -1 for none; its values are missing (NaN, or "" for text).

    Returns
    -------
    xr.DataArray
        Dims (..., site) without coordinates. In RAM if `array` is; else of Dask arrays, in which the sites of one
        spatial chunk are read together, and other sites are not.
    """
    others = [dim for dim in array.dims if dim not in _CELLS]
    variable = array.variable
    data: np.ndarray | da.Array
    if variable.chunks is None and variable._in_memory:
        values = variable.transpose(*others, *_CELLS).values[..., rows, columns]
        data = _without(values, rows < 0)
    elif not (rows >= 0).any():
        data = np.full((*(array.sizes[dim] for dim in others), len(rows)), np.nan, np.result_type(array.dtype, "f4"))
    elif not others:
        data = _without(_read_now(variable, rows, columns), rows < 0)
    else:
        data = _lazy(variable, others, rows, columns)
    return xr.DataArray(data, dims=(*others, "site"), name=array.name, attrs=array.attrs)


def _read_now(variable: xr.Variable, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read the cells (site,) of a property that does not depend on time, chunk by chunk; unknown for cell -1."""
    inside = np.flatnonzero(rows >= 0)
    values = np.zeros(len(rows), variable.dtype)
    for group in _groups(variable, rows[inside], columns[inside]):
        at = inside[group]
        values[at] = _pick(variable, (), rows[at], columns[at])
    return values


def _without(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return values (..., site) with missing sites as NaN, or as empty text."""
    if not missing.any():
        return values
    if values.dtype.kind in "OUS":
        return np.where(missing, "", values.astype(object))
    return np.where(missing, np.asarray(np.nan, np.result_type(values.dtype, "f4")), values)


def _lazy(variable: xr.Variable, others: Sequence[Hashable], rows: np.ndarray, columns: np.ndarray) -> da.Array:
    """Return a Dask array (..., site): tasks for each spatial chunk and block of the first dimension."""
    import dask.array as da

    cells, at = np.unique(np.stack([rows, columns])[:, rows >= 0], axis=1, return_inverse=True)
    groups = _groups(variable, *cells)
    blocks = [_block(variable, others, *cells[:, group]) for group in groups]
    where = {int(cell): (i, j) for i, group in enumerate(groups) for j, cell in enumerate(group)}
    order = iter(np.ravel(at).tolist())
    found = [where[next(order)] if inside else None for inside in rows >= 0]
    dtype = variable.dtype if (rows >= 0).all() else np.result_type(variable.dtype, "f4")
    parts = []
    for site in _runs(found):
        first = found[site.start]
        if first is None:
            parts.append(_blank(blocks[0], site.stop - site.start, dtype))
        else:
            group, start = first
            parts.append(blocks[group][..., start : start + site.stop - site.start].astype(dtype))
    return da.concatenate(parts, axis=-1)


def _blank(like: da.Array, count: int, dtype: np.dtype) -> da.Array:
    """Return missing values (..., site) of some sites, with the other chunks of an array."""
    import dask.array as da

    chunks = (*like.chunks[:-1], (count,))
    return da.full((*like.shape[:-1], count), np.nan, dtype=dtype, chunks=chunks)


def _runs(found: Sequence[tuple[int, int] | None]) -> list[slice]:
    """Return runs of sites whose cells follow each other within one group."""
    starts = [0]
    for i in range(1, len(found)):
        before, here = found[i - 1], found[i]
        follows = before is None if here is None else before is not None and (before[0], before[1] + 1) == here
        if not follows:
            starts.append(i)
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(found)], strict=True)]


def _groups(variable: xr.Variable, rows: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Return the positions of the cells of each spatial chunk."""
    keys = np.stack([_chunk_of(variable, dim, at) for dim, at in zip(_CELLS, (rows, columns), strict=True)])
    _, group = np.unique(keys, axis=1, return_inverse=True)
    return [np.flatnonzero(np.ravel(group) == i) for i in range(int(group.max()) + 1)]


def _chunk_of(variable: xr.Variable, dim: str, at: np.ndarray) -> np.ndarray:
    """Return the number of the chunk of each position along an axis."""
    if variable.chunks is not None:
        return np.searchsorted(np.cumsum(variable.chunksizes[dim]), at, side="right")
    return at // _stored_chunk(variable, dim)


def _stored_chunk(variable: xr.Variable, dim: Hashable) -> int:
    """Return the length of the chunks of a file along a dimension."""
    chunks = variable.encoding.get("preferred_chunks") or {}
    names = ALIASES.get(str(dim), (dim,))
    unchunked = _UNCHUNKED_CELLS if dim in _CELLS else _UNCHUNKED_STEPS
    found = next((chunks[name] for name in chunks if name == dim or str(name).lower() in names), unchunked)
    return int(max(np.atleast_1d(found)))


def _block(variable: xr.Variable, others: Sequence[Hashable], rows: np.ndarray, columns: np.ndarray) -> da.Array:
    """Return the cells of one spatial chunk as a Dask array (..., cell)."""
    import dask
    import dask.array as da

    if variable.chunks is not None:
        window = variable.isel(latitude=_span(rows), longitude=_span(columns)).transpose(*others, *_CELLS).data
        window = window.rechunk({axis: -1 for axis in (-2, -1)})
        near = {"rows": rows - rows.min(), "columns": columns - columns.min()}
        chunks = (*window.chunks[:-2], (len(rows),))
        axes = {"drop_axis": [window.ndim - 1], "dtype": variable.dtype, "chunks": chunks}
        meta = np.empty((0,) * (window.ndim - 1), variable.dtype)
        return _fewer_blocks(da.map_blocks(_pick_values, window, **near, **axes, meta=meta))
    first, *rest = others
    sizes, length = [variable.sizes[dim] for dim in rest], variable.sizes[first]
    step = _steps_per_task(variable, first)
    read = dask.delayed(_pick, pure=False)
    parts = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        one = read(variable, ((first, start, stop),), rows, columns, tuple(others))
        parts.append(da.from_delayed(one, (stop - start, *sizes, len(rows)), variable.dtype))
    return da.concatenate(parts, axis=0)


def _fewer_blocks(cells: da.Array) -> da.Array:
    """Return an array of which successive chunks along the first dimension are joined, if there are many."""
    chunks = cells.chunks[0]
    several = -(-len(chunks) // _MAX_TASKS)
    joined = tuple(sum(chunks[i : i + several]) for i in range(0, len(chunks), several))
    return cells.rechunk({0: joined}) if several > 1 else cells


def _steps_per_task(variable: xr.Variable, first: Hashable) -> int:
    """Return the number of entries of the first dimension that one task reads: whole chunks of the file."""
    chunk = _stored_chunk(variable, first)
    count = -(-variable.sizes[first] // chunk)
    return chunk * max(1, -(-count // _MAX_TASKS))


def _span(positions: np.ndarray) -> slice:
    return slice(int(positions.min()), int(positions.max()) + 1)


def _pick(
    variable: xr.Variable,
    parts: Sequence[tuple[Hashable, int, int]],
    rows: np.ndarray,
    columns: np.ndarray,
    others: Sequence[Hashable] = (),
) -> np.ndarray:
    """Read the smallest window with all cells, and return their values (..., cell)."""
    selected = variable.isel({dim: slice(start, stop) for dim, start, stop in parts})
    window = selected.isel(latitude=_span(rows), longitude=_span(columns))
    values = xr.Variable(window.dims, window.values).transpose(*others, *_CELLS).values
    return _pick_values(values, rows=rows - rows.min(), columns=columns - columns.min())


def _pick_values(window: np.ndarray, *, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the cells (..., cell) of a window (..., row, column)."""
    return window[..., rows, columns]
