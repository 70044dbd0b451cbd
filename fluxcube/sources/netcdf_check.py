"""Check NetCDF and HDF5 files in a process of its own, before the process of the caller opens them.

An HDF5 file can refer to further files (external links, external storage, virtual datasets), which the library would
open without notice, and damaged structures can crash the library. `fluxcube.sources.netcdf` starts this module as a
program; `READERS` are the functions that it can call.

The links of HDF5 files are listed by the library itself, which netCDF4 contains, so that what is checked is what is
opened afterwards.

References
----------
HDF5 reference manual, https://support.hdfgroup.org/documentation/hdf5/latest/_r_m.html
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcube.errors import MissingPackageError, SourceError, missing_package
from fluxcube.sources.reader_process import Readers, serve

if TYPE_CHECKING:
    import netCDF4

#: Filters of HDF5 (deflate, shuffle, fletcher32, szip, nbit, scaleoffset) and of netCDF (bzip2, blosc, zstd).
FILTERS = frozenset({*range(1, 7), 307, 32001, 32015})
#: Maximum number of links in a file, and of groups around a variable: a forcing of ERA5 has some 20 links, one group.
MAX_LINKS, MAX_DEPTH = 20_000, 16
#: Maximum number of values of a coordinate, all of which are read when a file is opened: 50 years have 438,000 hours.
MAX_COORDINATE = 50_000_000
#: Maximum CPU time of a check, in seconds: some damaged files make the library loop without end; good ones take 10 ms.
MAX_CPU = 6

_REMEDY = "download it again from its publisher, or copy its values to a new file"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Constants of H5public.h, H5Lpublic.h, H5Ipublic.h, H5Dpublic.h and H5Opublic.h.
_BY_NAME, _ANY_ORDER, _READ_ONLY, _DEFAULT, _BASIC = 0, 2, 0, 0, 1
_HARD, _SOFT, _EXTERNAL = 0, 1, 64
_GROUP, _DATASET = 2, 5
_VIRTUAL = 3
_PARAMETERS = 64  # of a filter; more are not returned
_ID = ctypes.c_int64


class _Link(ctypes.Structure):
    """`H5L_info2_t`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("has_order", ctypes.c_bool),
        ("order", ctypes.c_int64),
        ("charset", ctypes.c_int),
        ("_pad", ctypes.c_int),
        ("token", ctypes.c_uint8 * 16),
    )


class _Object(ctypes.Structure):
    """`H5O_info2_t`, whose times and number of attributes are not used."""

    _fields_ = (
        ("file", ctypes.c_ulong),
        ("token", ctypes.c_uint8 * 16),
        ("type", ctypes.c_int),
        ("references", ctypes.c_uint),
        ("rest", ctypes.c_uint8 * 64),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, _ID, ctypes.c_char_p, ctypes.POINTER(_Link), ctypes.c_void_p)
_IDS = ("H5Fopen", "H5Dget_create_plist", "H5Oopen")
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "H5Eset_auto2": (_ID, ctypes.c_void_p, ctypes.c_void_p),
    "H5Fopen": (ctypes.c_char_p, ctypes.c_uint, _ID),
    "H5Fclose": (_ID,),
    "H5Lvisit2": (_ID, ctypes.c_int, ctypes.c_int, _Callback, ctypes.c_void_p),
    "H5Oopen": (_ID, ctypes.c_char_p, _ID),
    "H5Oclose": (_ID,),
    "H5Oget_info3": (_ID, ctypes.POINTER(_Object), ctypes.c_uint),
    "H5Iget_type": (_ID,),
    "H5Dget_create_plist": (_ID,),
    "H5Pclose": (_ID,),
    "H5Pget_external_count": (_ID,),
    "H5Pget_layout": (_ID,),
    "H5Pget_nfilters": (_ID,),
    "H5Pget_filter2": (
        _ID,
        ctypes.c_uint,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ),
}


def check(path: Path) -> Iterator[None]:
    """Yield nothing, after checking that a file is whole and refers to no other one.

    Raises
    ------
    SourceError
        If the file cannot be opened, refers to other files, uses a filter that is not one of `FILTERS`, or has groups
        within themselves.
    MissingPackageError
        If netCDF4 is not installed.
    """
    try:
        import netCDF4
        import netCDF4._netCDF4 as extension
    except ImportError:
        raise missing_package("netCDF4", "grid", f"reading {path}") from None
    _limit_cpu()
    if _is_hdf5(path):
        _check_links(path, _library(extension.__file__))
    try:
        with netCDF4.Dataset(path) as file:
            _read_coordinates(path, file)
    except (OSError, RuntimeError, ValueError, AttributeError, IndexError, KeyError, MemoryError) as problem:
        raise SourceError(f"{path}: cannot be read as NetCDF ({problem}): download it again.") from problem
    yield from ()


def _limit_cpu() -> None:
    """Let the operating system end this process `MAX_CPU` seconds of CPU time from now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(used.ru_utime + used.ru_stime) + MAX_CPU
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _is_hdf5(path: Path) -> bool:
    """Return whether a file has the signature of HDF5, at one of the positions where the library looks for it."""
    end, at = path.stat().st_size, 0
    with open(path, "rb") as file:
        while at < end:
            file.seek(at)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            at = 2 * at or 512
    return False


def _library(extension: str) -> ctypes.CDLL:
    """Return the HDF5 library that an extension module is linked with."""
    library = ctypes.CDLL(extension)
    try:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _ID if name in _IDS else ctypes.c_int
    except AttributeError as problem:
        raise MissingPackageError(
            f"checking NetCDF-4 files needs netCDF4 with HDF5 1.12 or newer ({problem}): pip install -U netcdf4."
        ) from problem
    library.H5Eset_auto2(_DEFAULT, None, None)  # its messages would be printed
    return library


def _check_links(path: Path, library: ctypes.CDLL) -> None:
    file = library.H5Fopen(os.fsencode(path), _READ_ONLY, _DEFAULT)
    if file < 0:
        raise SourceError(f"{path}: cannot be opened as HDF5: it is cut or damaged; download it again.")
    try:
        links = _Links(library, file)
        complete = library.H5Lvisit2(file, _BY_NAME, _ANY_ORDER, _Callback(links.visit), None) >= 0
    except OSError as problem:
        raise SourceError(f"{path}: its root group {problem}: download it again.") from problem
    finally:
        library.H5Fclose(file)
    if links.fault:
        raise SourceError(f"{path}: {links.fault}; such a file is not read: {_REMEDY}.")
    if not complete:
        raise SourceError(f"{path}: its list of variables is damaged; download it again.")


class _Links:
    """The links of a file, which the library visits one after the other; links to other places are not followed."""

    def __init__(self, library: ctypes.CDLL, file: int) -> None:
        self._library, self._file = library, file
        self._groups = {self._token(file)}
        self.count, self.fault = 0, ""

    def visit(self, _group: int, name: bytes, link: Any, _data: object) -> int:
        """Return 1, which ends the visit, at the first link that is refused."""
        self.count += 1
        shown = repr(os.fsdecode(name))[:100]
        try:
            self.fault = self._fault(name, shown, link.contents)
        except OSError as problem:
            self.fault = f"{shown} {problem}"
        return int(bool(self.fault))

    def _fault(self, name: bytes, shown: str, link: _Link) -> str:
        """Return why a link is refused; "" if it is not."""
        if self.count > MAX_LINKS or name.count(b"/") > MAX_DEPTH:
            return f"more than {MAX_LINKS} variables, or more than {MAX_DEPTH} groups within each other, at {shown}"
        if link.type == _EXTERNAL:
            return f"{shown} is an external link, to another file"
        if link.type != _HARD:
            return f"{shown} is a {'soft' if link.type == _SOFT else 'user-defined'} link"
        thing = self._library.H5Oopen(self._file, name, _DEFAULT)
        if thing < 0:
            raise OSError("is damaged")
        try:
            kind = self._library.H5Iget_type(thing)
            if kind == _GROUP:
                return self._fault_of_group(thing, shown)
            return self._fault_of_dataset(thing, shown) if kind == _DATASET else ""
        finally:
            self._library.H5Oclose(thing)

    def _fault_of_group(self, group: int, shown: str) -> str:
        """A group that is within itself would be read without end."""
        token = self._token(group)
        if token in self._groups:
            return f"the group {shown} is also at another place of the file"
        self._groups.add(token)
        return ""

    def _fault_of_dataset(self, dataset: int, shown: str) -> str:
        library = self._library
        properties = library.H5Dget_create_plist(dataset)
        if properties < 0:
            raise OSError("is damaged")
        try:
            if library.H5Pget_external_count(properties) > 0:
                return f"the values of {shown} are in another file (external storage)"
            if library.H5Pget_layout(properties) == _VIRTUAL:
                return f"the values of {shown} are in other files (a virtual dataset)"
            others = [one for one in self._filters(properties) if one not in FILTERS]
            return f"{shown} is compressed by the HDF5 filter {others[0]}, which netCDF does not have" if others else ""
        finally:
            library.H5Pclose(properties)

    def _filters(self, properties: int) -> list[int]:
        """Return the number of each filter."""
        return [
            self._library.H5Pget_filter2(
                properties,
                at,
                ctypes.byref(ctypes.c_uint()),
                ctypes.byref(ctypes.c_size_t(_PARAMETERS)),
                (ctypes.c_uint * _PARAMETERS)(),
                0,
                None,
                ctypes.byref(ctypes.c_uint()),
            )
            for at in range(self._library.H5Pget_nfilters(properties))
        ]

    def _token(self, thing: int) -> bytes:
        about = _Object()
        if self._library.H5Oget_info3(thing, ctypes.byref(about), _BASIC) < 0:
            raise OSError("is damaged")
        return bytes(about.token)


def _read_coordinates(path: Path, group: netCDF4.Dataset | netCDF4.Group) -> None:
    """Read all attributes and coordinates, as opening does."""
    for name in group.ncattrs():
        group.getncattr(name)
    for name, variable in group.variables.items():
        for attribute in variable.ncattrs():
            variable.getncattr(attribute)
        if variable.ndim > 1:
            continue
        if variable.size > MAX_COORDINATE:
            raise SourceError(
                f"{path}: expected coordinates of at most {MAX_COORDINATE} values, found {variable.size} in "
                f"{name!r}; {_REMEDY}."
            )
        variable.set_auto_maskandscale(False)
        variable[...]
    for inner in group.groups.values():
        _read_coordinates(path, inner)


READERS: Readers = {"check": check}

if __name__ == "__main__":
    serve(READERS)
