"""Open NetCDF files of others: each is checked by another process first (`fluxcube.sources.netcdf_check`).

A file that refers to other files, or that crashes the library, is refused there. What is open afterwards is read by the
process of the caller, at full speed.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import Any

import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.reader_process import ReaderProcess

#: Errors of xarray and of the library for damaged values and attributes.
BROKEN = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
#: Seconds after which a file counts as damaged: a check takes some 10 ms, more where coordinates are long.
PATIENCE = 60.0

process = ReaderProcess("fluxcube.sources.netcdf_check", "NetCDF", PATIENCE)


def check_netcdf(path: str | os.PathLike) -> None:
    """Check that a NetCDF file is whole, and refers to no other file; the result is kept until the file changes.

    Parameters
    ----------
    path : path
        NetCDF classic or NetCDF-4 (HDF5).

    Raises
    ------
    SourceError
        If it is missing, no regular file or damaged; if it has external, soft or user-defined links, values in other
        files (external storage, virtual datasets), or groups within themselves; if it is compressed by a filter that
        netCDF does not have.
    MissingPackageError
        If netCDF4 is not installed.
    """
    path = Path(path)
    try:
        state = path.stat()
    except OSError as problem:
        raise SourceError(f"{path}: cannot be read ({problem.strerror}); check the path.") from problem
    if not stat.S_ISREG(state.st_mode):
        raise SourceError(f"{path}: expected a NetCDF file, found a folder, pipe or device; check the path.")
    _checked(path.absolute(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _checked(path: Path, size: int, changed: int) -> None:
    for _ in process.call("check", path):
        pass


def open_netcdf(path: str | os.PathLike, **options: Any) -> xr.Dataset:
    """Open a NetCDF file lazily, after checking it.

    Parameters
    ----------
    path : path
    options
        Further arguments of `xarray.open_dataset`.

    Raises
    ------
    SourceError, MissingPackageError
        As `check_netcdf`; SourceError also if its attributes or times have no meaning.
    """
    check_netcdf(path)
    try:
        return xr.open_dataset(path, engine="netcdf4", **options)
    except BROKEN as problem:
        reason = str(problem).partition("\n")[0]
        raise SourceError(f"{path}: cannot be read as NetCDF ({reason}): download it again.") from problem
