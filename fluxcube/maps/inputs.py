"""Files and folders of this machine that a task of maps reads, found in its Dask graph."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fluxcube.sources.era5.series import Files
from fluxcube.sources.modis.rasters import Tile
from fluxcube.stores.reading import is_url

#: Maximum number of files of a folder that are looked for.
_FILES = 20


def input_paths(graph: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the paths that a task reads: stores, ERA5 files, rasters and the folder of the model; not URLs.

    Parameters
    ----------
    graph : mapping
        The Dask tasks of a region (`RegionTask.graph`).

    Returns
    -------
    tuple of str
        Sorted.
    """
    found = {path for value in graph.values() for path in _paths(value, 0) if not is_url(path)}
    return tuple(sorted(found))


def expected_files(paths: Iterable[str]) -> tuple[str, ...]:
    """Return files that a worker that sees some paths must find: a file itself, and the files directly in a folder.

    An empty folder at the same path, such as a disk that is not mounted, is then no substitute.
    """
    found: list[str] = []
    for path in paths:
        files = [entry.path for entry in os.scandir(path) if entry.is_file()] if os.path.isdir(path) else []
        found += sorted(files)[:_FILES] or [path]
    return tuple(found)


def _paths(value: Any, depth: int) -> Iterator[str]:
    """Yield the paths that a value of a graph contains."""
    if depth > 30 or value is None or isinstance(value, str | int | float | slice):
        return
    if isinstance(value, Files):
        yield from (str(source.path) for source in value.sources if not str(source.path).startswith("Dataset "))
    elif isinstance(value, Tile):
        yield from map(str, value.files)
    elif (path := getattr(getattr(value, "reference", None), "path", None)) is not None:
        yield str(path)
    elif (root := getattr(getattr(value, "store", None), "root", None)) is not None:
        yield str(root)
    else:
        for part in _parts(value):
            yield from _paths(part, depth + 1)


def _parts(value: Any) -> Iterable[Any]:
    """Return what a task, a collection or a wrapper of an array contains."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if hasattr(value, "get_array"):
        return (value.get_array(),)
    if hasattr(value, "args") and hasattr(value, "kwargs"):  # a task of Dask
        return (value.func, value.args, value.kwargs)
    inner = (getattr(value, name, None) for name in ("value", "array", "inner"))  # a node of data, wrappers of an array
    return tuple(part for part in inner if part is not value)
