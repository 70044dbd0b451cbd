"""Where ERA5 lies (NetCDF of either CDS layout, zips of it, Zarr) and what a file says of itself.

Members have ERA5's short names here, whatever the provider calls them. Nothing is read but headers and coordinates.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.era5.unpacked import unpack
from fluxcube.sources.towers.archives import list_members
from fluxcube.stores.reading import is_url

log = logging.getLogger(__name__)

STATIC = {"z": "m2 s-2", "lsm": "1"}
INSTANT = {
    "t2m": "K",
    "d2m": "K",
    "sp": "Pa",
    "u10": "m s-1",
    "v10": "m s-1",
    "zust": "m s-1",
    "fal": "1",
    "ishf": "W m-2",
    "stl1": "K",
    "stl2": "K",
    "stl3": "K",
    "stl4": "K",
    "swvl1": "m3 m-3",
    "swvl2": "m3 m-3",
    "swvl3": "m3 m-3",
    "swvl4": "m3 m-3",
}
ACCUMULATED = {
    "ssrd": "J m-2",
    "strd": "J m-2",
    "ssr": "J m-2",
    "str": "J m-2",
    "sshf": "J m-2",
    "slhf": "J m-2",
    "tp": "m",
}
UNITS = INSTANT | ACCUMULATED | STATIC
# Spellings of one unit that CDS, cfgrib and other converters use.
_SPELLINGS = {"kelvin": "K", "(0 - 1)": "1", "(0-1)": "1", "0-1": "1", "dimensionless": "1", "": "1", "~": "1"}
# Names of the CDS's requests, which ARCO-ERA5's stores use.
_LONG = {
    "2m_temperature": "t2m",
    "2m_dewpoint_temperature": "d2m",
    "surface_pressure": "sp",
    "10m_u_component_of_wind": "u10",
    "10m_v_component_of_wind": "v10",
    "friction_velocity": "zust",
    "forecast_albedo": "fal",
    "instantaneous_surface_sensible_heat_flux": "ishf",
    "surface_solar_radiation_downwards": "ssrd",
    "surface_thermal_radiation_downwards": "strd",
    "surface_net_solar_radiation": "ssr",
    "surface_net_thermal_radiation": "str",
    "surface_sensible_heat_flux": "sshf",
    "surface_latent_heat_flux": "slhf",
    "total_precipitation": "tp",
    "geopotential_at_surface": "z",
    "land_sea_mask": "lsm",
    **{f"soil_temperature_level_{i}": f"stl{i}" for i in range(1, 5)},
    **{f"volumetric_soil_water_layer_{i}": f"swvl{i}" for i in range(1, 5)},
}
_AXES = {"lat": "latitude", "lon": "longitude"}
_NETCDF = (".nc", ".nc4")
# What marks a Zarr group, of format 3 and 2.
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")


@dataclass(frozen=True)
class Source:
    """A NetCDF file, an entry of a zip, or a Zarr store.

    Attributes
    ----------
    path : str
        File, folder or URL.
    member : str
        Entry of a zip; "" otherwise.
    options : str
        What fsspec needs to reach a URL, as JSON.
    """

    path: str
    member: str = ""
    options: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else self.path

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store."""
        return not self.member and (is_url(self.path) or Path(self.path).is_dir())

    @property
    def changed(self) -> int:
        """When it was last written, ns; 0 for a URL."""
        if is_url(self.path):
            return 0
        path = Path(self.path)
        marks = [path / name for name in _ZARR if (path / name).is_file()] if path.is_dir() else [path]
        return max(mark.stat().st_mtime_ns for mark in marks)

    def open(self) -> xr.Dataset:
        """Open without reading values, with short names; kept open, because blocks come back to the same files.

        Raises
        ------
        SourceError
            If it cannot be opened.
        """
        return _open(self, self.changed)


@dataclass(frozen=True, eq=False)
class Header:
    """What a source holds: its grid, the hourly stamps it has values of, and members.

    Attributes
    ----------
    first : int
        Position of the first of `stamps` on the source's own axis.
    """

    source: Source
    latitude: np.ndarray
    longitude: np.ndarray
    stamps: np.ndarray
    first: int
    members: tuple[str, ...]
    static: tuple[str, ...]
    origin: str


def find_sources(source: object, storage_options: Mapping[str, object] | None = None) -> list[Source]:
    """List what a path, folder, URL or list of these holds: NetCDF files, those in zips, and Zarr stores.

    Raises
    ------
    SourceError
        If a path does not exist, a zip is broken or unsafe, or nothing is found.
    """
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    options = json.dumps(dict(storage_options), sort_keys=True) if storage_options else ""
    found: list[Source] = []
    for item in items:
        if is_url(item):
            found.append(Source(str(item), options=options))
            continue
        path = Path(item)
        if not path.exists():
            raise SourceError(f"{item} does not exist: give ERA5 NetCDF files, a folder of them, or a Zarr store.")
        found += [one for file in _files(path) for one in _entries(file)]
    if not found:
        raise SourceError(
            f"no NetCDF file (*.nc), zip or Zarr store in {', '.join(map(str, items))}: give ERA5 files from the CDS."
        )
    return list(dict.fromkeys(found))


def read_header(source: Source) -> Header | None:
    """Read what a source holds; None where it has no member that is used.

    Raises
    ------
    SourceError
        If it is of another format, or a member has other dimensions or units than ERA5's.
    """
    if not source.zarr and not source.member:
        _check_format(source)
    ds = source.open()
    if ds.attrs.get("kind") == "era5" and ds.attrs.get("complete") is not True:
        raise SourceError(f"{source}: this copy of ERA5 was not finished: run what makes it again.")
    members = tuple(name for name in (*INSTANT, *ACCUMULATED) if name in ds)
    static = tuple(name for name in STATIC if name in ds)
    if not members and not static:
        log.warning("%s holds no member that is used (%s): left out", source, ", ".join(map(str, ds.data_vars)))
        return None
    for name in (*members, *static):
        _check_member(source, name, ds[name])
    grid = [_degrees(ds[name]) for name in ("latitude", "longitude")]
    origin = " ".join(str(ds.attrs.get(key, "")) for key in ("title", "source", "history", "dataset"))
    timed = members or any({"time", "valid_time"} & set(ds[name].dims) for name in static)
    stamps, first = _stamps(source, ds, members) if timed else (np.empty(0, "datetime64[h]"), 0)
    return Header(source, *grid, stamps if members else stamps[:0], first, members, static, f"{source} {origin}")


def read_box(source: Source, name: str, box: tuple[slice, ...]) -> np.ndarray:
    """Read values (time, latitude, longitude) of a member, or (latitude, longitude) of one without time.

    Without ensemble number, and with ERA5T (expver 5) where ERA5 (1) is missing.

    Parameters
    ----------
    source : Source
    name : str
    box : (slice, slice, slice)
        Positions along time, latitude and longitude; the first is not looked at where there is no time.

    Raises
    ------
    SourceError
        If the file cannot be read there.
    """
    array = source.open()[name]
    time = [dim for dim in array.dims if dim in ("time", "valid_time")]
    part = array.isel(dict(zip((*time, "latitude", "longitude"), box[1 - len(time) :], strict=True)))
    if "number" in part.dims:
        part = part.isel(number=0)
    try:
        if "expver" in part.dims:
            parts = [part.isel(expver=i) for i in range(part.sizes["expver"])]
            part = functools.reduce(lambda one, other: one.fillna(other), parts)
        return part.transpose(*time, "latitude", "longitude").values
    except (OSError, RuntimeError, ValueError, KeyError) as problem:
        raise SourceError(
            f"{source}: {name} at positions {box[0].start} to {box[0].stop} of its time axis cannot be read "
            f"({type(problem).__name__}: {problem}): fetch the file again."
        ) from problem


def extent(array: xr.DataArray) -> tuple[int, int, int]:
    """Sizes of a member: time, latitude, longitude."""
    return array.sizes.get("time", array.sizes.get("valid_time", 1)), array.sizes["latitude"], array.sizes["longitude"]


def storage_chunks(array: xr.DataArray) -> tuple[int, int, int] | None:
    """Chunks (time, latitude, longitude) in which values are stored; None where they lie in one piece."""
    chunks = array.encoding.get("chunks") or array.encoding.get("chunksizes")
    if not chunks or len(chunks) != array.ndim:
        return None
    sizes = {{"valid_time": "time"}.get(str(dim), str(dim)): int(n) for dim, n in zip(array.dims, chunks, strict=True)}
    return sizes.get("time", 1), sizes["latitude"], sizes["longitude"]


def _files(path: Path) -> list[Path]:
    """NetCDF files, zips and Zarr stores in a folder, not looking into the latter; or the path itself."""
    if not path.is_dir() or _is_zarr(path):
        return [path]
    found: list[Path] = []
    for item in sorted(path.iterdir()):
        if item.is_dir():
            found += _files(item)
        elif item.suffix.lower() in (*_NETCDF, ".zip"):
            found.append(item)
    return found


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in _ZARR)


def _entries(path: Path) -> list[Source]:
    """The file itself, or the NetCDF files in it if it is a zip, whatever its name says."""
    if path.is_dir() or _magic(path)[:2] != b"PK":
        return [Source(str(path))]
    names = [name for name in list_members(path) if name.lower().endswith(_NETCDF)]
    if not names:
        raise SourceError(f"{path} is a zip without NetCDF files (*.nc) in it: request NetCDF from the CDS.")
    return [Source(str(path), name) for name in names]


def _magic(path: str | os.PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def _check_format(source: Source) -> None:
    if _magic(source.path) == b"GRIB":
        raise SourceError(f"{source} is GRIB, not NetCDF: request NetCDF.")


@functools.lru_cache(maxsize=64)
def _open(source: Source, changed: int) -> xr.Dataset:
    ds = _open_zarr(source) if source.zarr else _open_netcdf(source)
    names = {long: short for long, short in _LONG.items() if long in ds and short not in ds}
    return ds.rename(names | {old: new for old, new in _AXES.items() if old in ds.variables or old in ds.dims})


def _open_netcdf(source: Source) -> xr.Dataset:
    if importlib.util.find_spec("netCDF4") is None:
        raise missing_package("netCDF4", "grid", "reading ERA5 NetCDF")
    path = unpack(source.path, source.member) if source.member else source.path
    try:
        return xr.open_dataset(path, engine="netcdf4", cache=False, chunks=None)
    except (OSError, ValueError) as problem:
        raise SourceError(f"{source}: cannot be read as NetCDF ({problem}): fetch it again.") from problem


def _open_zarr(source: Source) -> xr.Dataset:
    options = json.loads(source.options) if source.options else None
    given = {"storage_options": options} if options else {}
    if not is_url(source.path):
        given["consolidated"] = _is_consolidated(Path(source.path))
    try:
        return xr.open_dataset(source.path, engine="zarr", cache=False, chunks=None, **given)
    except ImportError as problem:
        package = str(getattr(problem, "name", None) or "fsspec")
        raise missing_package(package, "s3", f"opening {source}") from problem
    except (OSError, ValueError, KeyError, TypeError) as problem:
        # Of a URL the class only: a message of another library might repeat what it was given to sign in with.
        what = type(problem).__name__ if is_url(source.path) else problem
        raise SourceError(f"{source}: cannot be opened as Zarr ({what}): check the address and what it holds.") from (
            None if is_url(source.path) else problem
        )


def _is_consolidated(path: Path) -> bool:
    """Whether a store keeps all metadata in one place, which xarray else warns of looking for in vain."""
    root = path / "zarr.json"
    if not root.is_file():
        return (path / ".zmetadata").is_file()
    return json.loads(root.read_text("utf-8")).get("consolidated_metadata") is not None


def _check_member(source: Source, name: str, array: xr.DataArray) -> None:
    dims = set(array.dims) - {"expver", "number"}
    time = dims & {"time", "valid_time"}
    if {"latitude", "longitude"} | time != dims or len(time) > 1 or (not time and name not in STATIC):
        raise SourceError(
            f"{source}: {name} must have dims (time or valid_time, latitude, longitude), found {array.dims}: "
            "give the hourly NetCDF as the Climate Data Store delivers it."
        )
    if array.sizes.get("number", 1) > 1:
        raise SourceError(f"{source}: {name} holds {array.sizes['number']} ensemble members: select one of `number`.")
    units = str(array.attrs.get("units", "none" if UNITS[name] != "1" else ""))
    spelled = units.replace("**", "").replace("^", "").strip()
    if _SPELLINGS.get(spelled, spelled) != UNITS[name]:
        raise SourceError(
            f"{source}: {name} must be in {UNITS[name]}, found units {units!r}: give the file as the CDS delivers it."
        )


def _degrees(axis: xr.DataArray) -> np.ndarray:
    """Coordinates in float64; 9.292 stored as float32 comes back as 9.292, not 9.29199982."""
    return np.round(axis.values.astype("float64"), 4) if axis.dtype == np.float32 else axis.values.astype("float64")


def _stamps(source: Source, ds: xr.Dataset, members: Iterable[str]) -> tuple[np.ndarray, int]:
    """Hourly stamps of a source, datetime64[h], and the position of the first on its axis."""
    name = "valid_time" if "valid_time" in ds.dims else "time"
    exact = ds[name].values
    if not np.issubdtype(exact.dtype, np.datetime64):
        raise SourceError(f"{source}: {name} is not a time of the standard calendar ({exact.dtype}).")
    if members:
        _check_stamps(source, name, exact)
    hours = exact.astype("datetime64[h]")
    begin, end = _valid_period(ds, hours)
    return hours[begin:end], begin


def _valid_period(ds: xr.Dataset, hours: np.ndarray) -> tuple[int, int]:
    """Positions that a store says it has values of: the axis of ARCO-ERA5 runs from 1900 to 2050."""
    first, last = (ds.attrs.get(key) for key in ("valid_time_start", "valid_time_stop"))
    begin = 0 if first is None else int(np.searchsorted(hours, np.datetime64(str(first)[:10], "h")))
    if last is None:
        return begin, len(hours)
    day_after = np.datetime64(str(last)[:10], "D") + np.timedelta64(1, "D")
    return begin, int(np.searchsorted(hours, day_after.astype("datetime64[h]")))


def _check_stamps(source: Source, name: str, exact: np.ndarray) -> None:
    """Refuse repeats, unsorted stamps, and steps other than an hour, each by its name."""
    steps = np.diff(exact)
    usual = np.median(steps.astype("timedelta64[s]").astype(float)) / 3600 if len(steps) else 1.0
    if len(steps) and (steps == np.timedelta64(0)).any():
        at = exact[:-1][steps == np.timedelta64(0)][0].astype("datetime64[m]")
        raise SourceError(
            f"{source}: {name} must hold full hours, each after the last: {at} is there twice; drop repeats."
        )
    if (steps < np.timedelta64(0)).any():
        at = exact[1:][steps < np.timedelta64(0)][0].astype("datetime64[m]")
        raise SourceError(f"{source}: {name} must hold full hours, each after the last: {at} comes late; sort it.")
    if 0 < usual < 1:
        raise SourceError(
            f"{source}: steps must be 1 hour, found {usual * 60:g} minutes (sub-hourly): average to full hours first."
        )
    if usual != 1:
        kind = " (daily: models of hours need hours)" if usual >= 24 else ""
        raise SourceError(f"{source}: steps must be 1 hour, found {usual:g} hours{kind}: request all 24 hours.")
    if (exact != exact.astype("datetime64[h]")).any():
        raise SourceError(f"{source}: {name} must hold full hours; found {exact[0].astype('datetime64[m]')}.")
