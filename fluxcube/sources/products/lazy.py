"""Lazy arrays of products: a selection of cells reads each stored chunk that it needs once, a few at a time.

xarray's own lazy indexing hands a selection of points to zarr as one list of coordinates, of every hour of every tower,
and zarr decodes many chunks at once. A chunk of X-BASE has 224 MB. Here a selection is divided into the chunks that it
needs; each is read and decoded, the points are taken from it, and it is released.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from fluxcube.errors import SourceError
from fluxcube.sources.era5.clouds import describe, remote_errors
from fluxcube.sources.products.selection import Axis, Selection

logger = logging.getLogger(__name__)

#: Blocks of small chunks grow along the first dimension to this size (bytes): fewer calls.
_BLOCK = 1 << 26
#: Chunks that are decoded at the same time take at most about this much RAM (bytes).
_DECODED = 1 << 30
_MAX_WORKERS = 8
#: Values that mark a missing one in files that do not declare it: -9999, and the default of NetCDF (9.97e36).
_UNDECLARED, _HUGE = -9999.0, 1e30
#: Size (bytes) of the selections of one flux that are kept: a derived flux needs the same ones again.
_KEPT = 1 << 28


class Gate:
    """Limit of the number of chunks of a product that are decoded at the same time, whatever reads them.

    Parameters
    ----------
    limit : int
        Maximum number.
    """

    def __init__(self, limit: int = _MAX_WORKERS) -> None:
        self.limit = limit
        self._places = threading.BoundedSemaphore(limit)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Gate:
        """Return the limit for the blocks of some files."""
        sizes = (int(np.prod(part.blocks, dtype=np.int64)) * part.variable.dtype.itemsize for part in parts)
        return cls(max(1, min(_MAX_WORKERS, _DECODED // max(max(sizes, default=1), 1))))

    def __enter__(self) -> None:
        self._places.acquire()

    def __exit__(self, *error: object) -> None:
        self._places.release()

    def __reduce__(self) -> tuple[type[Gate], tuple[int]]:
        return Gate, (self.limit,)


class _Kept:
    """The last selections of an array, up to a size; a selection that is being read is waited for, not read again."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._reading: dict[bytes, threading.Lock] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def get(self, key: bytes, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the values of a selection, which `read` reads if they are not kept."""
        with self._guard:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            with self._guard:
                if (found := self._values.get(key)) is not None:
                    self._values.move_to_end(key)
                    return found.copy()
            try:
                values = read()
                with self._guard:
                    self._keep(key, values)
            finally:
                with self._guard:
                    self._reading.pop(key, None)
            return values

    def _keep(self, key: bytes, values: np.ndarray) -> None:
        if values.nbytes <= _KEPT:
            self._values[key] = values.copy()
        while sum(one.nbytes for one in self._values.values()) > _KEPT:
            self._values.popitem(last=False)


@dataclass(frozen=True)
class Part:
    """One variable of one file or store.

    Attributes
    ----------
    variable : xr.Variable
        Lazy, decoded by xarray.
    dims : tuple of str
        Its dimensions in the order of the product.
    orders : tuple
        For each dimension after time, the stored position of each position of the product; None if they are equal.
    source : str
        Name of the file, for messages.
    threads : bool
        Whether several threads read faster than one.
    """

    variable: xr.Variable
    dims: tuple[str, ...]
    orders: tuple[np.ndarray | None, ...]
    source: str
    threads: bool

    @property
    def chunks(self) -> tuple[int, ...]:
        """Stored chunks, in the order of `dims`; whole maps of one time step where the file has none."""
        encoding = self.variable.encoding
        stored = encoding.get("chunks") or encoding.get("chunksizes")
        sizes = self.variable.sizes
        if stored is None or len(stored) != self.variable.ndim:
            first = self.dims[0]
            return tuple(1 if dim == first and len(self.dims) > 2 else sizes[dim] for dim in self.dims)
        by_dim = dict(zip(self.variable.dims, stored, strict=True))
        return tuple(min(by_dim[dim], sizes[dim]) for dim in self.dims)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes of the blocks that are read at once: stored chunks, or several small ones along the first dimension."""
        first, *rest = self.chunks
        chunk = first * int(np.prod(rest, dtype=np.int64)) * self.variable.dtype.itemsize
        return (first * max(1, _BLOCK // max(chunk, 1)), *rest)

    def block(self, bounds: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the values between bounds, first and last position + 1 along each of `dims`."""
        slices = {dim: slice(*one) for dim, one in zip(self.dims, bounds, strict=True)}
        found = self.variable[tuple(slices[str(dim)] for dim in self.variable.dims)].values
        return np.transpose(found, [self.variable.dims.index(dim) for dim in self.dims])


class FluxArray(BackendArray):
    """A flux of a product, joined from its files along time, in fluxcube's units; nothing is read until it is selected.

    Parameters
    ----------
    parts : sequence of Part
        Files.
    steps : array of int, (time, 2), or None
        Part of each time step and its position there; -1 for a time step without a file. None for a static field.
    scale : float or array of float (time,)
        Factor to fluxcube's units and sign.
    shape : tuple of int
        Shape of the array.
    gate : Gate
        Shared by the arrays of a product.
    missing : float
        Value where the files have none.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        steps: np.ndarray | None,
        scale: float | np.ndarray,
        shape: tuple[int, ...],
        gate: Gate,
        missing: float = np.nan,
    ) -> None:
        self.parts, self.steps, self.scale, self.shape = tuple(parts), steps, scale, shape
        self.gate, self.missing = gate, missing
        self.dtype = np.dtype("f4" if all(part.variable.dtype == np.float32 for part in parts) else "f8")
        self._kept = _Kept()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return self.read(Selection.of(key, self.shape))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return tuple((part.source, part.dims, part.variable.shape) for part in self.parts), self.scale, self.shape

    def read(self, selection: Selection) -> np.ndarray:
        """Return the values of a selection, which are kept for a while."""
        return self._kept.get(selection.key, lambda: self._values(selection))

    def _values(self, selection: Selection) -> np.ndarray:
        out = np.full([axis.points[0].size for axis in selection.axes], np.nan, self.dtype)
        for number, part in enumerate(self.parts):
            tasks = list(_tasks(part, [self._stored(axis, number) for axis in selection.axes]))
            self._run(out, part, tasks)
        return selection.arranged(self._scaled(out, selection))

    def _run(self, out: np.ndarray, part: Part, tasks: Sequence[_Task]) -> None:
        """Read the blocks of a file, several at a time; after an error no further block is begun."""
        workers = min(self.gate.limit, len(tasks)) if part.threads else 1
        if workers <= 1:
            for task in tasks:
                self._fill(out, part, task)
            return
        pool = ThreadPoolExecutor(workers)
        try:
            pending = [pool.submit(self._fill, out, part, task) for task in tasks]
            for number, done in enumerate(pending, 1):
                done.result()
                if number % max(1, len(tasks) // 20) == 0:
                    logger.info("%s: read %d of %d blocks", part.source, number, len(tasks))
        finally:
            pool.shutdown(cancel_futures=True)

    def _stored(self, axis: Axis, part: int) -> _StoredAxis:
        """Return the points of an axis that are in a part, by stored positions."""
        kept = np.arange(axis.points[0].size)
        points = list(axis.points)
        if self.steps is not None and 0 in axis.dims:
            at = axis.dims.index(0)
            kept = np.flatnonzero(self.steps[points[at], 0] == part)
            points = [one[kept] for one in points]
            points[at] = self.steps[points[at], 1]
        orders = self.parts[part].orders
        for at, dim in enumerate(axis.dims):
            order = None if self.steps is not None and dim == 0 else orders[dim - (self.steps is not None)]
            points[at] = points[at] if order is None else order[points[at]]
        return _StoredAxis(axis.dims, tuple(points), kept)

    def _fill(self, out: np.ndarray, part: Part, task: _Task) -> None:
        """Read one block, and write its points into the result."""
        try:
            with self.gate:
                block = part.block(task.bounds)
        except remote_errors() as problem:
            raise SourceError(
                f"{part.source}: values cannot be read ({describe(problem)}); run the same call again."
            ) from None
        # One axis of the result for each axis of the selection; dimensions selected together share theirs.
        indices: list[np.ndarray] = [np.empty(0)] * block.ndim
        for number, axis in enumerate(task.axes):
            shape = [1] * len(task.axes)
            shape[number] = -1
            for dim, points in zip(axis.dims, axis.points, strict=True):
                indices[dim] = (points - task.bounds[dim][0]).reshape(shape)
        out[np.ix_(*(axis.kept for axis in task.axes))] = block[tuple(indices)]

    def _scaled(self, values: np.ndarray, selection: Selection) -> np.ndarray:
        """Return values in fluxcube's units; those that mark a missing one are NaN."""
        values[(values == _UNDECLARED) | (np.abs(values) > _HUGE)] = np.nan
        scale = self.scale
        if isinstance(scale, np.ndarray):
            number, axis = next((n, axis) for n, axis in enumerate(selection.axes) if 0 in axis.dims)
            shape = [1] * values.ndim
            shape[number] = -1
            scale = scale[axis.points[axis.dims.index(0)]].reshape(shape)
        values *= scale
        if not np.isnan(self.missing):
            values[np.isnan(values)] = self.missing
        return values


class SumArray(BackendArray):
    """A flux that is a sum of others, each times a factor.

    Parameters
    ----------
    terms : sequence of (array, float)
        Arrays of one shape, and their factors.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, terms: Sequence[tuple[FluxArray | SumArray, float]]) -> None:
        self.terms = tuple(terms)
        self.shape = terms[0][0].shape
        self.dtype = np.result_type(*(array.dtype for array, _ in terms))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return self.read(Selection.of(key, self.shape))

    def read(self, selection: Selection) -> np.ndarray:
        """Return the values of a selection."""
        (first, factor), *others = self.terms
        total = first.read(selection) * self.dtype.type(factor)
        for array, factor in others:
            total = total + array.read(selection) * self.dtype.type(factor)
        return np.asarray(total, self.dtype)


@dataclass(frozen=True)
class _StoredAxis:
    """Points of an axis by stored positions, and their positions among all points of the axis."""

    dims: tuple[int, ...]
    points: tuple[np.ndarray, ...]
    kept: np.ndarray


@dataclass(frozen=True)
class _Task:
    """Points of one block of a file, and the bounds of what is read of it."""

    axes: tuple[_StoredAxis, ...]
    bounds: tuple[tuple[int, int], ...] = field(default=())


def _tasks(part: Part, axes: Sequence[_StoredAxis]) -> Iterator[_Task]:
    """Divide a selection by the blocks of a file."""
    sizes = part.blocks
    groups = [list(_by_block(axis, sizes)) for axis in axes]
    for one in itertools.product(*groups):
        bounds = [(0, 0)] * len(part.dims)
        for axis in one:
            for dim, points in zip(axis.dims, axis.points, strict=True):
                bounds[dim] = (int(points.min()), int(points.max()) + 1)
        yield _Task(one, tuple(bounds))


def _by_block(axis: _StoredAxis, sizes: Sequence[int]) -> Iterator[_StoredAxis]:
    """Divide the points of an axis by blocks."""
    if not axis.kept.size:
        return
    numbers = np.stack([points // sizes[dim] for dim, points in zip(axis.dims, axis.points, strict=True)])
    _, block = np.unique(numbers, axis=1, return_inverse=True)
    block = block.reshape(-1)
    order = np.argsort(block, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        yield _StoredAxis(axis.dims, tuple(points[members] for points in axis.points), axis.kept[members])
