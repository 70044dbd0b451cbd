"""The tasks of maps without their Dask graph: blocks of cells with land, and chunks in time.

The maps of one block of cells are set up as `fluxcube.upscale` does; all other blocks have the same chunks in time. A
global grid of 0.05 degrees has 84,000 blocks, whose graph would take gigabytes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.maps.regions import even_chunks

CELL_DIMS = ("latitude", "longitude")
#: Number of cells along each side of a block, for a forcing that is in RAM, as in `fluxcube.upscale`.
_CELLS = 32

SetUp = Callable[[xr.Dataset], xr.Dataset]


@dataclass(frozen=True, eq=False)
class Tasks:
    """All tasks of maps: each block of cells with land, times each chunk in time.

    Attributes
    ----------
    forcing : xr.Dataset
        Forcing cube.
    set_up : callable
        Returns the lazy maps of a part of the forcing.
    before : int
        Number of earlier time steps that a chunk reads.
    rows, columns : (block + 1,) int
        Edges of the blocks along latitude and longitude.
    land : (row, column) int
        Number of land cells of each block.
    """

    forcing: xr.Dataset
    set_up: SetUp
    before: int
    rows: np.ndarray
    columns: np.ndarray
    land: np.ndarray

    @classmethod
    def of(cls, forcing: xr.Dataset, set_up: SetUp, before: int) -> Tasks:
        """Return the tasks of a forcing (ConfigError if no cell has land)."""
        rows, columns = (_edges(forcing, dim) for dim in CELL_DIMS)
        land = forcing.land_fraction.transpose(*CELL_DIMS).values > 0
        if not land.any():
            raise ConfigError(
                f"no cell of the grid has land (land_fraction is 0 at all {land.size} cells): choose a box with land."
            )
        count = np.add.reduceat(np.add.reduceat(land, rows[:-1], 0, dtype=np.int64), columns[:-1], 1)
        return cls(forcing, set_up, before, rows, columns, count)

    @functools.cached_property
    def blocks(self) -> np.ndarray:
        """Row and column (block, 2) of each block of cells with land."""
        return np.argwhere(self.land > 0)

    @functools.cached_property
    def one(self) -> xr.Dataset:
        """Maps of the block with the most land."""
        return self.maps(*map(int, np.unravel_index(self.land.argmax(), self.land.shape)))

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """Number of mapped time steps (part,) of each chunk in time."""
        return np.array(self.one.chunksizes["time"])

    @functools.cached_property
    def span(self) -> np.ndarray:
        """Number of time steps (part,) that each chunk in time needs, with the earlier ones."""
        start = int(self.forcing.indexes["time"].get_loc(self.one.time.values[0]))
        stops = start + np.cumsum(self.steps)
        return stops - np.maximum(0, stops - self.steps - self.before)

    @property
    def count(self) -> int:
        """Number of tasks that are computed."""
        return len(self.blocks) * len(self.steps)

    @property
    def cells(self) -> int:
        """Number of cells with land."""
        return int(self.land.sum())

    def maps(self, row: int, column: int, cells: int | None = None) -> xr.Dataset:
        """Return the maps of one block of cells; with `cells`, of that number of its land cells."""
        part = self.forcing.isel({dim: box for dim, box in zip(CELL_DIMS, self.box(row, column), strict=True)})
        if cells is not None:
            land = part.land_fraction.transpose(*CELL_DIMS)
            few = np.where(np.cumsum(land.values > 0).reshape(land.shape) <= cells, land.values, 0.0)
            part = part.assign_coords(land_fraction=land.copy(data=few))
        with _quiet("one" in vars(self)):
            return even_chunks(self.set_up(part))

    def box(self, row: int, column: int) -> tuple[slice, slice]:
        """Return the rows and columns of cells of a block."""
        rows, columns = (slice(int(e[n]), int(e[n + 1])) for e, n in ((self.rows, row), (self.columns, column)))
        return rows, columns

    def work(self, block: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Return what the time of tasks depends on (task, 3): one, land cells x mapped steps, land cells x steps read.

        Parameters
        ----------
        block, part : (task,) int
            Positions in `blocks` and in `steps`.
        """
        land = self.land[tuple(self.blocks[block].T)]
        return np.stack([np.ones(len(land)), land * self.steps[part], land * self.span[part]], 1).astype(float)

    @functools.cached_property
    def total(self) -> np.ndarray:
        """Sum (3,) of `work` over all tasks."""
        parts = np.stack([np.ones(len(self.steps)), self.steps, self.span], 1).sum(0)
        return parts * [len(self.blocks), self.cells, self.cells]

    def choose(self, number: int, seed: int) -> list[tuple[int, int]]:
        """Choose tasks at random, in proportion to their land, and spread over the kinds of chunks.

        Chunks in time of the same length and the same number of steps read are of one kind: usually the first, the last
        and all others. A kind with 3 % of the work or more has at least one task if `number` allows.

        Parameters
        ----------
        number : int
            Number of tasks.
        seed : int
            Of the choice.

        Returns
        -------
        list of (int, int)
            Positions in `blocks` and in `steps`.
        """
        if number < 1:
            raise ConfigError(f"sample_tasks: expected 1 or more, found {number}.")
        rng = np.random.default_rng(seed)
        number = min(number, self.count)
        kinds, kind = np.unique(np.stack([self.steps, self.span], 1), axis=0, return_inverse=True)
        share = np.array([kinds[n].sum() * (kind == n).sum() for n in range(len(kinds))], float)
        seats = _seats(share / share.sum(), number)
        land = self.land[tuple(self.blocks.T)]
        order = np.argsort(land, kind="stable")
        bounds = np.cumsum(land[order]) / land.sum()
        at = np.searchsorted(bounds, (np.arange(number) + rng.random()) / number)
        places = rng.permutation(order[np.minimum(at, len(order) - 1)])
        parts = [int(rng.choice(np.flatnonzero(kind == n))) for n in np.repeat(np.arange(len(kinds)), seats)]
        return sorted({(int(block), part) for block, part in zip(places, parts, strict=True)})


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Leave out the warnings about a forcing, which were logged when the first block was set up."""
    setting_up = logging.getLogger("fluxcube.inference")
    level = setting_up.level
    try:
        if quiet:
            setting_up.setLevel(logging.ERROR)
        yield
    finally:
        setting_up.setLevel(level)


def _seats(share: np.ndarray, number: int) -> np.ndarray:
    """Divide a number of tasks among kinds: one for each with 3 % or more, the others by largest remainders.

    Examples
    --------
    >>> _seats(np.array([0.05, 0.9, 0.05]), 6), _seats(np.array([0.05, 0.9, 0.05]), 1)
    (array([1, 4, 1]), array([0, 1, 0]))
    """
    seats = np.zeros(len(share), int)
    for n in itertools.islice(np.argsort(-share, kind="stable"), number):
        seats[n] = share[n] >= 0.03 or not seats.any()
    for _ in range(number - seats.sum()):
        seats[np.argmax(share / (seats + 0.5))] += 1
    return seats


def _edges(forcing: xr.Dataset, dim: str) -> np.ndarray:
    """Return the edges of the blocks of cells along a dimension, as `fluxcube.upscale` divides it."""
    size = max(forcing.predictors.chunksizes[dim]) if forcing.predictors.chunks else _CELLS
    return np.append(np.arange(0, forcing.sizes[dim], size), forcing.sizes[dim])
