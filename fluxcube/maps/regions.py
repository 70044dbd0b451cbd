"""Regions of maps, and the tasks that compute and write them.

A region is one Dask chunk of every map and one shard of every array of the store; a task writes whole shards on the
worker that computes them. The graphs of the tasks are built for one row of chunks in time at once, so that the
scheduler's share of RAM does not grow with the length of the maps.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from fluxcube.devices import recorded_precision
from fluxcube.errors import ConfigError, StoreError
from fluxcube.maps.allocation import keep_freed_memory
from fluxcube.stores.identity import DIGESTS, differing_inputs
from fluxcube.stores.lock import check_owner, owner_of
from fluxcube.stores.manifest import Entries
from fluxcube.stores.objects import Bucket
from fluxcube.stores.owners import Owner
from fluxcube.stores.resumable import Place, attrs_of
from fluxcube.stores.shards import write_region

DIMS = ("time", "latitude", "longitude")


@dataclass(frozen=True)
class Region:
    """One chunk of maps: the unit that a task computes and writes.

    Attributes
    ----------
    block : tuple of int
        Index of the chunk along time, latitude and longitude.
    bounds : tuple of slice
        Its time steps, rows and columns of the grid.
    land : int
        Number of land cells times number of time steps.
    """

    block: tuple[int, int, int]
    bounds: tuple[slice, slice, slice]
    land: int

    @property
    def key(self) -> str:
        """Key of the region in the ledger of the store."""
        return ",".join(f"{part.start}:{part.stop}" for part in self.bounds)

    def place(self, maps: xr.Dataset) -> str:
        """Return the region's times, latitudes and longitudes as text for a message."""
        times, rows, columns = (maps[dim].values[part] for dim, part in zip(DIMS, self.bounds, strict=True))
        first, last = times[[0, -1]].astype("datetime64[h]")
        return (
            f"{first} to {last}, latitude {rows.min():g} to {rows.max():g}, "
            f"longitude {columns.min():g} to {columns.max():g}"
        )


def even_chunks(maps: xr.Dataset) -> xr.Dataset:
    """Return maps as Dask arrays of equal chunks, with loaded coordinates (ConfigError if chunks cannot be shards)."""
    if not all(array.chunks for array in maps.data_vars.values()):
        maps = maps.chunk()
    # In this thread: an active Dask client may have no workers yet.
    maps = maps.assign_coords({name: coord.compute(scheduler="synchronous") for name, coord in maps.coords.items()})
    if len({array.chunks for array in maps.data_vars.values()}) > 1:
        raise ConfigError(
            "expected the same chunks for all fluxes of a store, found different ones: rechunk the maps, e.g. "
            "maps.unify_chunks()."
        )
    for dim in DIMS:
        sizes = maps.chunksizes[dim]
        if len(set(sizes[:-1]) | {max(sizes)}) > 1:
            raise ConfigError(
                f"chunks of {dim} must be of one size, the last may be smaller; found {sizes}: "
                f"rechunk with maps.chunk({dim}={max(sizes)})."
            )
    return maps


def regions(maps: xr.Dataset) -> dict[str, Region]:
    """Return every region by its key; time changes slowest, so that forcing is read in order."""
    land = maps.land_fraction.transpose(*DIMS[1:]).values > 0
    edges = [np.concatenate([[0], np.cumsum(maps.chunksizes[dim])]).tolist() for dim in DIMS]
    steps, *cells = ([slice(a, b) for a, b in itertools.pairwise(e)] for e in edges)
    count = [[int(land[rows, columns].sum()) for columns in cells[1]] for rows in cells[0]]
    every = (
        Region((t, i, j), (steps[t], cells[0][i], cells[1][j]), count[i][j] * (steps[t].stop - steps[t].start))
        for t, i, j in itertools.product(*(range(len(parts)) for parts in (steps, *cells)))
    )
    return {region.key: region for region in every}


class RegionResult(NamedTuple):
    """What the task of a region returns.

    Attributes
    ----------
    missing : int
        Number of land cells times time steps without a value.
    files : dict of str to (int, str)
        Size and digest of the shards that were written to a bucket; empty on a disk.
    precision_error : float or None
        Difference of the precision of the maps from float32, as the process that computed it measured it.
    """

    missing: int
    files: Entries
    precision_error: float | None = None


class RegionTask:
    """The task of one region: its part of the Dask graph, and the store that it writes.

    Called on a worker, in one thread, it computes the region and writes it. The graph is an attribute of the callable,
    since Dask would search arguments for graphs of its own.

    Parameters
    ----------
    path : Path or Bucket
        The store.
    region : Region
        The region.
    graph : mapping
        The Dask tasks that the region needs, and no others.
    keys : mapping of str to tuple
        Key of its chunk of each array.
    digest : str
        Digest of the model, which the store's attributes must contain: a task that a killed run left behind on a
        cluster must not write into another store at the same path.
    inputs : str
        Digests of the inputs, likewise; "" if the maps do not report them.
    owner : Owner or None
        Process for which the store is written on a disk: the task writes nothing if it lost the lock of the store
        meanwhile.
    models : str
        Digests of the model and its members, for maps in a precision below float32; "" for others.
    """

    def __init__(
        self,
        path: Place,
        region: Region,
        graph: Mapping,
        keys: Mapping[str, tuple],
        digest: str,
        inputs: str = "",
        owner: Owner | None = None,
        models: str = "",
    ):
        self.path, self.region, self.graph, self.keys = path, region, graph, keys
        self.digest, self.inputs, self.owner, self.models = digest, inputs, owner, models

    def __call__(self) -> RegionResult:
        """Compute the region and write it."""
        from dask.local import get_sync

        prepare_process()
        one_torch_thread()
        values = get_sync(self.graph, list(self.keys.values()))
        self._check_store()
        missing, files = 0, Entries()
        for name, array in zip(self.keys, values, strict=True):
            array = np.asarray(array, "float32")
            missing = max(missing, self.region.land - int(np.isfinite(array).sum()))
            files |= write_region(self.path, name, self.region.bounds, array, durable=True)
        return RegionResult(missing, files, recorded_precision(self.models) if self.models else None)

    def _check_store(self) -> None:
        """Raise a StoreError if another run replaced the store while this region was computed."""
        if self.owner is not None and not isinstance(self.path, Bucket):
            check_owner(self.path, self.owner)
        attrs = attrs_of(self.path)
        if (stored := str(attrs.get("model_digest", ""))) != self.digest:
            raise StoreError(
                f"{self.path}: expected maps of the model {self.digest[:12]}, found those of another model, "
                f"{stored[:12]}: another run replaced the store; write to another path."
            )
        if self.inputs and (changed := differing_inputs(attrs.get(DIGESTS), self.inputs)):
            raise StoreError(
                f"{self.path}: expected maps of the same inputs, found those of another {', '.join(changed)}: another "
                "run replaced the store; write to another path."
            )


def sent_bytes(task: RegionTask) -> int:
    """Return the number of bytes of a task that is sent to another process; data in RAM is counted, not copied.

    Returns
    -------
    int
        `sys.maxsize` for a task that cannot be sent.
    """
    from distributed.protocol import serialize

    try:
        _, frames = serialize(task, on_error="raise")
    except TypeError:  # it contains an open file, say
        return sys.maxsize
    return sum(memoryview(frame).nbytes for frame in frames)


@functools.cache
def prepare_process() -> None:
    """Undo Dask's setting of malloc before the first region of this process; a worker may join at any time."""
    keep_freed_memory()


def one_torch_thread() -> None:
    """Limit torch to one thread, where it is loaded: each core computes one region, and sums must not change."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def region_tasks(maps: xr.Dataset, path: Place, todo: Iterable[Region]) -> Iterator[RegionTask]:
    """Yield the tasks of regions, in order; the graph of one row of chunks in time is in RAM at once.

    Parameters
    ----------
    maps : xr.Dataset
        Result of `even_chunks`.
    path : Path or Bucket
        Their store.
    todo : iterable of Region
        Regions to write, sorted by time.
    """
    from dask.highlevelgraph import HighLevelGraph
    from dask.optimization import cull

    names = {str(name): array.data.name for name, array in maps.data_vars.items()}
    whole = HighLevelGraph.merge(*(array.data.dask for array in maps.data_vars.values()))
    digest, inputs = str(maps.attrs.get("model_digest", "")), str(maps.attrs.get(DIGESTS, ""))
    owner = None if isinstance(path, Bucket) else owner_of(path)
    plain = maps.attrs.get("precision", "float32") == "float32"
    models = "" if plain else f"{digest} {maps.attrs.get('members', '')}"
    for _, same_time in itertools.groupby(todo, lambda region: region.block[0]):
        row = [(region, {name: (layer, *region.block) for name, layer in names.items()}) for region in same_time]
        graph = dict(whole.cull({key for _, keys in row for key in keys.values()}))
        for region, keys in row:
            yield RegionTask(path, region, cull(graph, list(keys.values()))[0], keys, digest, inputs, owner, models)
