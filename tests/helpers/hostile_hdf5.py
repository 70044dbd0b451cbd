"""Add to a NetCDF-4 file what may make a reader open other files; by the HDF5 library that netCDF4 contains."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import netCDF4
import numpy as np

_ID, _TEXT = ctypes.c_int64, ctypes.c_char_p
_RETURN_ID = ("H5Fopen", "H5Pcreate", "H5Screate_simple", "H5Dcreate2")
_ARGUMENTS = {
    "H5Fopen": (_TEXT, ctypes.c_uint, _ID),
    "H5Fclose": (_ID,),
    "H5Lcreate_external": (_TEXT, _TEXT, _ID, _TEXT, _ID, _ID),
    "H5Lcreate_soft": (_TEXT, _ID, _TEXT, _ID, _ID),
    "H5Lcreate_hard": (_ID, _TEXT, _ID, _TEXT, _ID, _ID),
    "H5Pcreate": (_ID,),
    "H5Pset_external": (_ID, _TEXT, ctypes.c_long, ctypes.c_uint64),
    "H5Pset_virtual": (_ID, _ID, _TEXT, _TEXT, _ID),
    "H5Screate_simple": (ctypes.c_int, ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p),
    "H5Dclose": (_ID,),
    "H5Dcreate2": (_ID, _TEXT, _ID, _ID, _ID, _ID, _ID),
}


def write_netcdf(path: Path, format: str = "NETCDF4", variables: int = 2) -> Path:
    """Write a small file of two dimensions."""
    with netCDF4.Dataset(path, "w", format=format) as file:
        for name, size in (("time", 4), ("x", 3)):
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        for at in range(variables):
            packed = {"zlib": True} if format == "NETCDF4" else {}
            file.createVariable(f"v{at}", "f4", ("time", "x"), **packed)[:] = at
        if format == "NETCDF4":
            file.createGroup("inner").createVariable("w", "i4", ("x",))[:] = 1
    return path


class Hdf5:
    """An HDF5 file that is open for writing."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(netCDF4._netCDF4.__file__)
        for name, arguments in _ARGUMENTS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, _ID if name in _RETURN_ID else ctypes.c_int
        self._file = self._library.H5Fopen(os.fsencode(path), 1, 0)
        assert self._file >= 0

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._library.H5Fclose(self._file) >= 0

    def external_link(self, name: str, file: str, target: str = "/v0") -> None:
        assert self._library.H5Lcreate_external(file.encode(), target.encode(), self._file, name.encode(), 0, 0) >= 0

    def soft_link(self, name: str, target: str) -> None:
        assert self._library.H5Lcreate_soft(target.encode(), self._file, name.encode(), 0, 0) >= 0

    def hard_link(self, name: str, target: str) -> None:
        assert self._library.H5Lcreate_hard(self._file, target.encode(), self._file, name.encode(), 0, 0) >= 0

    def external_storage(self, name: str, file: str, count: int = 4) -> None:
        """Add a variable whose values are the bytes of another file."""
        properties = self._properties()
        assert self._library.H5Pset_external(properties, file.encode(), 0, 4 * count) >= 0
        self._dataset(name, count, properties)

    def virtual_dataset(self, name: str, file: str, target: str = "/v0", count: int = 4) -> None:
        """Add a variable whose values are a variable of another file."""
        properties, space = self._properties(), self._space(count)
        assert self._library.H5Pset_virtual(properties, space, file.encode(), target.encode(), space) >= 0
        self._dataset(name, count, properties)

    def _properties(self) -> int:
        return self._library.H5Pcreate(_ID.in_dll(self._library, "H5P_CLS_DATASET_CREATE_ID_g").value)

    def _space(self, count: int) -> int:
        return self._library.H5Screate_simple(1, (ctypes.c_uint64 * 1)(count), None)

    def _dataset(self, name: str, count: int, properties: int) -> None:
        number = _ID.in_dll(self._library, "H5T_NATIVE_FLOAT_g").value
        dataset = self._library.H5Dcreate2(self._file, name.encode(), number, self._space(count), 0, properties, 0)
        assert dataset >= 0
        self._library.H5Dclose(dataset)  # a file stays open as long as one of its datasets
