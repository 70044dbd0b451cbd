"""Open NetCDF files of others: each is checked by another process first (`fluxcube.sources.netcdf_check`).

A file that refers to other files, or that crashes the library, is refused there. What is open afterwards is read by the
process of the caller, at full speed, through one handle per file (`OneHandle`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import stat
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint, CachingFileManager, NetCDF4DataStore, StoreBackendEntrypoint

from fluxcube.errors import SourceError
from fluxcube.sources.reader_process import ReaderProcess

#: Errors of xarray and of the library for damaged values and attributes.
BROKEN = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
#: Seconds after which a file counts as damaged: a check takes some 10 ms, more where coordinates are long.
PATIENCE = 60.0

#: Size and time of change of the files with a handle.
_states: dict[str, tuple[int, int]] = {}
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
        return xr.open_dataset(path, engine=OneHandle, **options)
    except BROKEN as problem:
        reason = str(problem).partition("\n")[0]
        raise SourceError(f"{path}: cannot be read as NetCDF ({reason}): download it again.") from problem


class OneHandle(BackendEntrypoint):
    """An engine of `xarray.open_dataset` for NetCDF, whose Datasets of one file share one handle.

    If a file with text of variable length, as ``expver`` of ERA5, is open twice in a process and one handle is closed,
    HDF5 can crash when it uses another one (https://github.com/Unidata/netcdf4-python/issues/1444). If a shared handle
    is closed, it opens itself again at the next access.
    """

    open_dataset_parameters = tuple(inspect.signature(StoreBackendEntrypoint.open_dataset).parameters)[2:]

    def open_dataset(self, filename_or_obj: Any, **options: Any) -> xr.Dataset:
        """Open a file that `check_netcdf` has checked; the options are those of the engine ``store`` of xarray."""
        store = NetCDF4DataStore(_handle(Path(filename_or_obj)), mode="r")
        with contextlib.ExitStack() as stack:
            stack.callback(store.close)
            ds = StoreBackendEntrypoint().open_dataset(store, **options)
            stack.pop_all()  # open as long as it is used
        return ds


def _handle(path: Path) -> CachingFileManager[Any]:
    """Return the handle of a file, which is known by its number on the disk, as HDF5 knows it.

    A file that changed in place is opened anew, because HDF5 keeps what it has read.
    """
    import netCDF4
    from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

    path = path.resolve()  # links are names of one file
    now = path.stat()
    name = f"fluxcube {now.st_dev} {now.st_ino}"
    opener: Any = netCDF4.Dataset
    handle = CachingFileManager(opener, str(path), mode="r", lock=NETCDF4_PYTHON_LOCK, manager_id=name)
    state = now.st_size, now.st_mtime_ns
    if _states.setdefault(name, state) != state:
        handle.close()
        _states[name] = state
    return handle
