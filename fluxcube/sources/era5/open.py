"""Find and open ERA5 sources (NetCDF of either CDS layout, GRIB, zips of them, Zarr), and read boxes of their values.

Parameters have ECMWF's short names here, whatever the provider calls them, and mean rates are amounts of an hour.
Dimensions of size one, such as a pressure level, are dropped; a point has no dimensions of latitude and longitude.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError, StoreError, missing_package
from fluxcube.parsing import read_json
from fluxcube.sources.era5.clouds import (
    address_of,
    default_options,
    describe,
    extra_of,
    public_address,
    remote_errors,
    without_user,
)
from fluxcube.sources.era5.dialects import TIME, split_times, with_short_names
from fluxcube.sources.era5.grib import SUFFIXES, open_grib, read_index
from fluxcube.sources.era5.parameters import RATE, RATE_FACTORS
from fluxcube.sources.era5.point_tables import read_point_table
from fluxcube.sources.era5.unpacked import unpack
from fluxcube.sources.netcdf import BROKEN, OneHandle, check_netcdf
from fluxcube.sources.towers.archives import check_regular, list_members
from fluxcube.stores.manifest import STORE_ID
from fluxcube.stores.objects import Bucket, is_bucket
from fluxcube.stores.reading import is_url

ERA5Paths = str | os.PathLike | xr.Dataset | Sequence[str | os.PathLike | xr.Dataset]

# Values are selected by position: no index is needed, which saves a third of the time to open a file.
_LAZY: dict[str, Any] = {
    "cache": False,
    "chunks": None,
    "decode_timedelta": False,
    "decode_coords": False,
    "create_default_indexes": False,
}
_NETCDF = (".nc", ".nc4")
_GRIB = b"GRIB"
# Tables of one point: read where they are named, or alone in a zip, since folders contain other tables.
_TABLE = ".csv"
# Files that identify a folder as a Zarr group, of format 3 and 2.
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")


@dataclass(frozen=True, repr=False)
class Source:
    """A NetCDF file, a table of one point, some parameters of a GRIB file, an entry of a zip, or a Zarr store.

    Attributes
    ----------
    path : str
        File, folder or URL.
    entry : str
        Name of the entry of a zip; "" otherwise.
    parameters : tuple of str
        Of a GRIB file, those that have the same stamps, if it has several groups of them.
    options : str
        Storage options that fsspec needs to reach a URL, as JSON.
    """

    path: str
    entry: str = ""
    options: str = field(default="", repr=False)
    parameters: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return "!".join(part for part in (public_address(self.path), self.entry, self._group) if part)

    @property
    def _group(self) -> str:
        return ",".join(self.parameters)

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store."""
        return not self.entry and (is_url(self.path) or Path(self.path).is_dir())

    @property
    def changed(self) -> int:
        """Time of the last change, ns; 0 for a URL."""
        if is_url(self.path):
            return 0
        path = Path(self.path)
        files = [path / name for name in _ZARR if (path / name).is_file()] if path.is_dir() else [path]
        return max(file.stat().st_mtime_ns for file in files)

    @property
    def size(self) -> int:
        """Size of a file in bytes; 0 for a folder or a URL."""
        return 0 if is_url(self.path) or Path(self.path).is_dir() else Path(self.path).stat().st_size

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Path or URL, entry and parameters, time of change and size: what distinguishes the contents from others.

        The time of change of a Zarr store is that of its last written chunk, since its metadata may stay as they are. A
        store of fluxcube at a URL, where there are no such times, names its content.
        """
        path = public_address(self.path) if is_url(self.path) else os.path.abspath(self.path)
        folders = [folder for folder, _, _ in os.walk(path)] if self.zarr and not is_url(path) else []
        content = str(self.open().attrs.get(STORE_ID, "")) if is_url(self.path) else ""
        entry = "!".join(part for part in (self.entry, self._group, content) if part)
        return path, entry, max([self.changed, *(os.stat(f).st_mtime_ns for f in folders)]), self.size

    def open(self) -> xr.Dataset:
        """Open without reading values, with short names; the file stays open, because many blocks read from it.

        Raises
        ------
        SourceError
            If it cannot be opened.
        """
        return _open(self, self.changed)


@dataclass(frozen=True, repr=False)
class DatasetSource(Source):
    """An open Dataset, such as a virtual store, an Icechunk session or items of a STAC catalogue.

    Attributes
    ----------
    dataset : xr.Dataset
        As a file of it would be opened: short names, `latitude` and `longitude`. `path` contains a digest of it, by
        which two Datasets differ.
    """

    dataset: xr.Dataset = field(default_factory=xr.Dataset, compare=False, repr=False)

    @classmethod
    def of(cls, ds: xr.Dataset) -> DatasetSource:
        """Return a Dataset as a source; its values are not read, unless they are in RAM."""
        from dask.base import tokenize

        parts = [(str(name), contents_of(ds, array), str(array.attrs)) for name, array in ds.variables.items()]
        digest = tokenize(sorted(parts, key=lambda part: part[0]), ds.attrs)
        title = str(ds.encoding.get("source") or ds.attrs.get("title") or "")
        return cls(path=f"Dataset {title} {digest[:12]}".replace("  ", " "), dataset=with_short_names(ds))

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store: as far as reading is concerned, no file has to be checked."""
        return True

    @property
    def changed(self) -> int:
        """Time of the last change: a Dataset does not change."""
        return 0

    @property
    def size(self) -> int:
        """Size in bytes: not known."""
        return 0

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Name with the digest of its contents."""
        return self.path, "", 0, 0

    def open(self) -> xr.Dataset:
        """Return the Dataset."""
        return self.dataset


def contents_of(ds: xr.Dataset, array: xr.Variable) -> object:
    """Return what distinguishes the values of a variable of a Dataset: its values, or if they are lazy, their file.

    It is the same in each process, unlike the token of a lazy array.
    """
    if array.chunks:
        return array.data.name
    path = str(array.encoding.get("source") or ds.encoding.get("source") or "")
    if array._in_memory or not path:
        return array.values
    changed = 0 if is_url(path) or not Path(path).exists() else Source(path).changed
    return path, changed, array.dims, array.shape, str(array.dtype)


def find_sources(source: ERA5Paths, storage_options: Mapping[str, object] | None = None) -> list[Source]:
    """List the sources in a path, folder, URL, Dataset or list: NetCDF and GRIB files, those in zips, Zarr stores.

    Raises
    ------
    SourceError
        If a path does not exist, a zip is broken or unsafe, or nothing is found.
    """
    items = [source] if isinstance(source, (str, os.PathLike, xr.Dataset)) else list(source)
    options = json.dumps(dict(storage_options), sort_keys=True) if storage_options else ""
    found: list[Source] = []
    for item in items:
        if isinstance(item, xr.Dataset):
            found += [DatasetSource.of(part) for part in split_times(item)]
            continue
        if not isinstance(item, (str, os.PathLike)):
            raise SourceError(
                f"expected a path, a URL or an xr.Dataset of ERA5, found {type(item).__name__}; pass one."
            )
        address = item if Path(item).exists() else address_of(str(item))
        if is_url(address):
            own = options or json.dumps(dict(default_options(str(address))), sort_keys=True)
            found.append(Source(str(address), options=own if own != "{}" else ""))
            continue
        path = Path(item)
        if not path.exists():
            raise SourceError(
                f"{item} does not exist: pass ERA5 files (NetCDF or GRIB), a folder of them, or a Zarr store."
            )
        found += [one for file in _files(path) for one in _entries(file)]
    if not found:
        raise SourceError(
            f"no NetCDF file (*.nc), GRIB file (*.grib), zip or Zarr store in {', '.join(map(str, items))}: pass ERA5 "
            "files from the CDS."
        )
    return list(dict.fromkeys(found))


def read_box(source: Source, name: str, box: tuple[slice, ...]) -> np.ndarray:
    """Read values (time, latitude, longitude) of a parameter, or (latitude, longitude) of one without time.

    The ensemble number is dropped, and ERA5T (expver 5) fills hours that ERA5 (1) lacks.

    Parameters
    ----------
    source : Source
    name : str
    box : (slice, slice, slice)
        Positions along time, latitude and longitude; the first is ignored where there is no time.

    Raises
    ------
    SourceError
        If the file cannot be read there.
    """
    array = source.open().variables[name]
    time = [dim for dim in array.dims if dim in TIME]
    cells = [dim for dim in ("latitude", "longitude") if dim in array.dims]
    part = array.isel(
        dict(zip((*time, "latitude", "longitude"), box[1 - len(time) :], strict=True)), missing_dims="ignore"
    )
    if "number" in part.dims:
        part = part.isel(number=0)
    try:
        if part.chunks:  # a task of Dask must not wait for other tasks
            part = part.compute(scheduler="synchronous")
        if "expver" in part.dims:
            parts = [xr.DataArray(part.isel(expver=i)) for i in range(part.sizes["expver"])]
            part = functools.reduce(lambda one, other: one.fillna(other), parts).variable
        values = part.transpose(*time, *cells).values
    except remote_errors() as problem:
        remote = is_url(source.path)
        what = describe(problem) if remote else f"{type(problem).__name__}: {problem}"
        again = "try again, or copy the region first (fluxcube.copy_era5)" if remote else "download the file again"
        raise SourceError(
            f"{source}: {name} at positions {box[0].start} to {box[0].stop} of its time axis cannot be read "
            f"({what}): {again}."
        ) from (None if remote else problem)
    missing = tuple(axis for axis, dim in ((-2, "latitude"), (-1, "longitude")) if dim not in cells)
    values = np.expand_dims(values, missing) if missing else values
    return values.astype("float64") * RATE_FACTORS[name] if RATE in array.attrs else values


def extent(array: xr.DataArray | xr.Variable) -> tuple[int, int, int]:
    """Return the sizes of a parameter's time, latitude and longitude axes."""
    time, latitude, longitude = (array.sizes.get(dim, 1) for dim in ("time", "latitude", "longitude"))
    return array.sizes.get("valid_time", time), latitude, longitude


def storage_chunks(array: xr.DataArray | xr.Variable) -> tuple[int, int, int] | None:
    """Return the chunks (time, latitude, longitude) in which values are stored; None where they are contiguous."""
    chunks = array.encoding.get("chunks") or array.encoding.get("chunksizes")
    if not chunks or len(chunks) != array.ndim:
        return None
    sizes = {{"valid_time": "time"}.get(str(dim), str(dim)): int(n) for dim, n in zip(array.dims, chunks, strict=True)}
    return sizes.get("time", 1), sizes.get("latitude", 1), sizes.get("longitude", 1)


def _files(path: Path) -> list[Path]:
    """Return the NetCDF files, zips and Zarr stores in a folder and its subfolders; or the path itself."""
    if not path.is_dir() or _is_zarr(path):
        return [path]
    found: list[Path] = []
    for item in sorted(path.iterdir()):
        if item.is_dir():  # hidden ones contain what fetch has not completed
            found += [] if item.name.startswith(".") else _files(item)
        elif item.suffix.lower() in (*_NETCDF, *SUFFIXES, ".zip"):
            found.append(item)
    return found


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in _ZARR)


def _entries(path: Path) -> list[Source]:
    """Return the file itself, or the files in it if it is a zip, whatever its suffix; GRIB by groups of parameters."""
    if path.is_dir() or _magic(path)[:2] != b"PK":
        return _groups(Source(str(path)))
    members = list_members(path)
    by_kind = ([name for name in members if name.lower().endswith(kind)] for kind in ((*_NETCDF, *SUFFIXES), _TABLE))
    names = next((names for names in by_kind if names), [])
    if not names:
        raise SourceError(f"{path} is a zip without NetCDF files (*.nc) in it: request NetCDF from the CDS.")
    return [one for name in names for one in _groups(Source(str(path), name))]


def _groups(source: Source) -> list[Source]:
    """Return a source, or one for each group of parameters of a GRIB file."""
    named = source.entry.lower().endswith(SUFFIXES)  # other entries are not unpacked before they are opened
    if source.zarr or (source.entry and not named) or _magic(file := _local_file(source)) != _GRIB:
        return [source]
    groups = read_index(Path(file)).groups
    return [replace(source, parameters=group) for group in groups] if len(groups) > 1 else [source]


def _local_file(source: Source) -> str | Path:
    """Return the file of a source, unpacked if it is in a zip."""
    return unpack(source.path, source.entry) if source.entry else source.path


def _magic(path: str | os.PathLike) -> bytes:
    check_regular(Path(path))
    with open(path, "rb") as file:
        return file.read(4)


@functools.lru_cache(maxsize=64)
def _open(source: Source, changed: int) -> xr.Dataset:
    return with_short_names(_open_zarr(source) if source.zarr else _open_file(source))


def _open_file(source: Source) -> xr.Dataset:
    path = _local_file(source)
    if _magic(path) == _GRIB:
        return open_grib(Path(path), source.parameters)
    if importlib.util.find_spec("netCDF4") is None:
        raise missing_package("netCDF4", "grid", "reading ERA5 NetCDF")
    if str(path).lower().endswith(_TABLE):
        return read_point_table(path, str(source))
    try:
        check_netcdf(path)
        with contextlib.suppress(RuntimeError):
            return xr.open_dataset(path, engine=OneHandle, **_LAZY)
        # HDF5 knows an open file by its number on the disk: if it fails to read one of its handles, it fails with all
        # others of this file, under any path, until the process ends. In RAM the file is another one.
        return _with_source(xr.open_dataset(Path(path).read_bytes(), engine="netcdf4", **_LAZY), path)
    except SourceError:
        raise
    except BROKEN as problem:
        raise SourceError(f"{source}: cannot be read as NetCDF ({problem}): download it again.") from problem


def _with_source(ds: xr.Dataset, path: str | Path) -> xr.Dataset:
    """Return a Dataset that was opened in RAM, with the path of its file."""
    ds.encoding["source"] = str(path)
    for name in ds.variables:
        ds[name].encoding["source"] = str(path)
    return ds


def _open_zarr(source: Source) -> xr.Dataset:
    options = json.loads(source.options) if source.options else {}
    keywords: dict[str, Any] = {}
    if is_url(source.path) and "?" in source.path:
        raise SourceError(
            f"{source}: the files of a Zarr store cannot be reached by a signed address: pass the address without its "
            "query, and the credentials in storage_options, or pass an open Dataset."
        )
    if not is_url(source.path):
        keywords["consolidated"] = is_consolidated(Path(source.path))
    try:
        address, options = without_user(source.path, options)
        keywords |= {"storage_options": options} if options else {}
        if is_bucket(address):
            keywords["consolidated"] = _is_consolidated_object(address, options)
        return xr.open_dataset(address, engine="zarr", **_LAZY, **keywords)
    except ImportError as problem:
        package = str(getattr(problem, "name", None) or "fsspec")
        raise missing_package(package, extra_of(source.path), f"opening {source}") from None
    except remote_errors() as problem:
        # For a URL only the class is named: another library's message might repeat credentials.
        what = describe(problem) if is_url(source.path) else problem
        raise SourceError(f"{source}: cannot be opened as Zarr ({what}): check the address and its contents.") from (
            None if is_url(source.path) else problem
        )


def _is_consolidated_object(url: str, options: Mapping[str, object]) -> bool | None:
    """Return whether a store in a bucket has consolidated metadata; None if it is not of Zarr format 3."""
    try:
        root = Bucket(url, options).read("zarr.json")
        return None if root is None else json.loads(root).get("consolidated_metadata") is not None
    except (StoreError, ValueError, AttributeError):  # xarray reports what is wrong
        return None


def is_consolidated(path: Path) -> bool:
    """Return whether a store has consolidated metadata; xarray warns where it searches for them in vain."""
    root = path / "zarr.json"
    if not root.is_file():
        return (path / ".zmetadata").is_file()
    try:
        return read_json(root, dict).get("consolidated_metadata") is not None
    except (OSError, ValueError) as error:
        raise SourceError(f"{root} is damaged ({error}): copy or download the store again.") from error
