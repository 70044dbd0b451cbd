"""Maps cut into regions, each a task that computes whole shards and writes them where it runs.

A region is one Dask chunk of every map and one shard of every array of the store. Its graph is cut out of the maps'
one row of chunks in time at a time, so that what is set up at once does not grow with the length of a run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, StoreError
from fluxcube.stores.reading import store_attrs
from fluxcube.stores.shards import write_region

DIMS = ("time", "latitude", "longitude")


@dataclass(frozen=True)
class Region:
    """One chunk of maps.

    Attributes
    ----------
    block : tuple of int
        Which chunk, along time, latitude and longitude.
    bounds : tuple of slice
        Its hours, rows and columns.
    land : int
        Land cells times hours in it.
    """

    block: tuple[int, int, int]
    bounds: tuple[slice, slice, slice]
    land: int

    @property
    def key(self) -> str:
        """What the ledger calls it."""
        return ",".join(f"{part.start}:{part.stop}" for part in self.bounds)

    def place(self, maps: xr.Dataset) -> str:
        """Say where it lies, for a message."""
        hours, rows, columns = (maps[dim].values[part] for dim, part in zip(DIMS, self.bounds, strict=True))
        first, last = hours[[0, -1]].astype("datetime64[h]")
        return (
            f"{first} to {last}, latitude {rows.min():g} to {rows.max():g}, "
            f"longitude {columns.min():g} to {columns.max():g}"
        )


def even_chunks(maps: xr.Dataset) -> xr.Dataset:
    """Return maps as Dask arrays of one chunking, coordinates in memory; ConfigError where that cannot be shards."""
    if not all(array.chunks for array in maps.data_vars.values()):
        maps = maps.chunk()
    # Here: an active Dask client may have no workers yet.
    maps = maps.assign_coords({name: coord.compute(scheduler="synchronous") for name, coord in maps.coords.items()})
    if len({array.chunks for array in maps.data_vars.values()}) > 1:
        raise ConfigError(
            "the fluxes of one store must have the same chunks: rechunk the maps, e.g. maps.unify_chunks()."
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
    hours, *cells = ([slice(a, b) for a, b in itertools.pairwise(e)] for e in edges)
    count = [[int(land[rows, columns].sum()) for columns in cells[1]] for rows in cells[0]]
    found = (
        Region((t, i, j), (hours[t], cells[0][i], cells[1][j]), count[i][j] * (hours[t].stop - hours[t].start))
        for t, i, j in itertools.product(*(range(len(parts)) for parts in (hours, *cells)))
    )
    return {region.key: region for region in found}


class Work:
    """The task of one region: its part of the graph, and where its values go.

    Called on a worker, in one thread, it computes the region, writes it, and returns how many land cells times hours
    got no value. Dask looks into arguments for graphs of its own, not into what is called.

    Parameters
    ----------
    path : path
        The store.
    region : Region
        The region.
    graph : mapping
        Tasks that it needs, and no others.
    keys : mapping of str to tuple
        Key of its chunk of each array.
    digest : str
        Of the model, as the store's attributes must say: a task that a killed run left behind on a cluster must not
        write into what has taken the store's place.
    """

    def __init__(self, path: Path, region: Region, graph: Mapping, keys: Mapping[str, tuple], digest: str):
        self.path, self.region, self.graph, self.keys, self.digest = path, region, graph, keys, digest

    def __call__(self) -> int:
        """Compute and write."""
        from dask.local import get_sync

        one_torch_thread()
        values = get_sync(self.graph, list(self.keys.values()))
        if (found := str(store_attrs(self.path).get("model_digest", ""))) != self.digest:
            raise StoreError(f"{self.path} is now of another model ({found[:12]}, not {self.digest[:12]}).")
        missing = 0
        for name, array in zip(self.keys, values, strict=True):
            array = np.asarray(array, "float32")
            missing = max(missing, self.region.land - int(np.isfinite(array).sum()))
            write_region(self.path, name, self.region.bounds, array, durable=True)
        return missing


def one_torch_thread() -> None:
    """Give torch one thread, where it is loaded: a core has a region of its own, and sums must not change."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def works(maps: xr.Dataset, path: Path, todo: Collection[Region]) -> Iterator[Work]:
    """Yield the tasks of regions, in order; the graph of one row of chunks in time is held at once.

    Parameters
    ----------
    maps : xr.Dataset
        Maps of even chunks.
    path : path
        Their store.
    todo : collection of Region
        What is to be done, by time.
    """
    from dask.highlevelgraph import HighLevelGraph
    from dask.optimization import cull

    names = {str(name): array.data.name for name, array in maps.data_vars.items()}
    whole = HighLevelGraph.merge(*(array.data.dask for array in maps.data_vars.values()))
    digest = str(maps.attrs.get("model_digest", ""))
    for _, row in itertools.groupby(todo, lambda region: region.block[0]):
        wanted = [(region, {name: (layer, *region.block) for name, layer in names.items()}) for region in row]
        graph = dict(whole.cull({key for _, keys in wanted for key in keys.values()}))
        for region, keys in wanted:
            yield Work(path, region, cull(graph, list(keys.values()))[0], keys, digest)
