"""The NetCDF files of ERA5 and ERA5-Land: what they hold, whether it fits together, and reading boxes of it.

Only headers, static fields and small samples are read ahead; nothing here knows of tower variables or of Dask.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError, missing_package

log = logging.getLogger(__name__)

GRAVITY = 9.80665  # m s-2, by which ERA5 turns height into geopotential
_STATIC = {"z": "m2 s-2", "lsm": "1"}
_INSTANT = {
    "t2m": "K", "d2m": "K", "sp": "Pa", "u10": "m s-1", "v10": "m s-1", "zust": "m s-1", "fal": "1",
    "stl1": "K", "stl2": "K", "stl3": "K", "stl4": "K",
    "swvl1": "m3 m-3", "swvl2": "m3 m-3", "swvl3": "m3 m-3", "swvl4": "m3 m-3",
}  # fmt: skip
_ACCUMULATED = {
    "ssrd": "J m-2", "strd": "J m-2", "ssr": "J m-2", "str": "J m-2", "sshf": "J m-2", "slhf": "J m-2", "tp": "m",
}  # fmt: skip
_UNITS = _INSTANT | _ACCUMULATED | _STATIC
# Spellings of one unit that CDS, cfgrib and other converters use.
_SPELLINGS = {"kelvin": "K", "(0 - 1)": "1", "(0-1)": "1", "0-1": "1", "dimensionless": "1", "": "1"}
# Never negative by nature, best first: what tells an hour's accumulation from a day's running total. A day counts
# above the first number; a fall counts above the second, which packing stays below (4e-8 m, 500 J m-2).
_TELLING = {"ssrd": (1e5, 2e3), "strd": (1e5, 2e3), "tp": (1e-4, 1e-6)}


@dataclass(frozen=True)
class _Run:
    """Stamps without a gap of one member in one file: file indices from `start`, axis indices `at` to `stop`."""

    path: str
    start: int
    at: int
    stop: int


@dataclass(frozen=True, eq=False)
class Files:
    """What a set of ERA5 files holds: the grid, the stamps, and where each member's values are.

    Attributes
    ----------
    latitude, longitude : (latitude,), (longitude,) float64
        Degrees; latitudes in the files' order, longitudes from -180 to 180, ascending.
    rows, columns : (latitude,), (longitude,) int64
        The files' row and column of each latitude and longitude.
    stamps : (time + 1,) datetime64[ns]
        Dense hourly stamps; output hours begin at all but the last.
    members : mapping
        Runs of stamps by the name of the member.
    accumulation : {"hour", "day", ""}
        What accumulated members hold; "" where there are none.
    elevation, land_fraction : (latitude, longitude) float64
        m (NaN without ``z``); 0..1.
    masked : bool
        Whether `land_fraction` is ERA5's land-sea mask (``lsm``); without one it is 1 where there are values.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    stamps: np.ndarray
    members: Mapping[str, tuple[_Run, ...]]
    accumulation: str
    elevation: np.ndarray
    land_fraction: np.ndarray
    masked: bool

    @property
    def token(self) -> tuple:
        """What a block's values depend on beside its place, to name Dask keys by."""
        paths = sorted({run.path for runs in self.members.values() for run in runs})
        times = [Path(path).stat().st_mtime_ns for path in paths]
        return paths, times, self.accumulation, self.stamps, self.rows, self.columns

    @property
    def time(self) -> np.ndarray:
        """Starts of the UTC hours (time,) datetime64[ns]."""
        return self.stamps[:-1]

    def select(self, *, bbox: tuple | None = None, time: slice | tuple | None = None) -> Files:
        """Cut out a box and a time span, as `fluxcube.open_forcing` describes them."""
        rows, cols = _inside(bbox, self.latitude, self.longitude)
        hours = _hours(time, self.time)
        shifted = {
            name: tuple(replace(run, at=run.at - hours.start, stop=run.stop - hours.start) for run in runs)
            for name, runs in self.members.items()
        }
        return replace(
            self,
            latitude=self.latitude[rows],
            longitude=self.longitude[cols],
            rows=self.rows[rows],
            columns=self.columns[cols],
            stamps=self.stamps[hours.start : hours.stop + 1],
            members=shifted,
            elevation=self.elevation[np.ix_(rows, cols)],
            land_fraction=self.land_fraction[np.ix_(rows, cols)],
        )

    def read(self, member: str, stamps: slice, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Values (stamp, latitude, longitude) float64 of a member; NaN at stamps that no file holds."""
        out = np.full((stamps.stop - stamps.start, len(rows), len(columns)), np.nan)
        lines = slice(int(rows[0]), int(rows[-1]) + 1)
        for run in self.members[member]:
            a, b = max(run.at, stamps.start), min(run.stop, stamps.stop)
            if a >= b:
                continue
            here = slice(run.start + a - run.at, run.start + b - run.at)
            array = _plain(_open(run.path, Path(run.path).stat().st_mtime_ns)[member])
            for lo, hi in _stretches(columns):
                part = array[here, lines, slice(int(columns[lo]), int(columns[lo]) + hi - lo)]
                out[a - stamps.start : b - stamps.start, :, lo:hi] = part.values
        return out


def read_files(source: object, *, accumulation: str | None = None) -> Files:
    """Read the headers of ERA5 files, their static members, and a sample that tells the accumulation.

    Parameters and errors are those of `fluxcube.sources.era5.open_era5`. No Dask graph is made or computed.
    """
    if accumulation not in (None, "hour", "day"):
        raise ConfigError(f"accumulation must be 'hour' (ERA5) or 'day' (ERA5-Land), found {accumulation!r}.")
    headers = [header for path in _paths(source) if (header := _header(path)) is not None]
    if not any(header.members for header in headers):
        raise SourceError(
            f"nothing usable in {source}: expected hourly NetCDF with at least one of {', '.join(_INSTANT)}, "
            f"{', '.join(_ACCUMULATED)}."
        )
    first = headers[0]
    for other in headers[1:]:
        _check_same_grid(first, other)
    stamps, members = _join(headers)
    longitude, columns = _normal_longitude(first.longitude, first.path)
    found = _accumulation(headers, accumulation)
    elevation, land, masked = _static(headers, (len(first.latitude), len(first.longitude)))
    return Files(
        latitude=first.latitude,
        longitude=longitude,
        rows=np.arange(len(first.latitude)),
        columns=columns,
        stamps=stamps,
        members=members,
        accumulation=found,
        elevation=elevation[:, columns],
        land_fraction=land[:, columns],
        masked=masked,
    )


@dataclass(frozen=True, eq=False)
class _Header:
    path: str
    latitude: np.ndarray
    longitude: np.ndarray
    stamps: np.ndarray
    members: tuple[str, ...]
    static: tuple[str, ...]
    origin: str


def _paths(source: object) -> list[str]:
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: list[Path] = []
    for item in map(Path, items):
        if not item.exists():
            raise SourceError(f"{item} does not exist: give ERA5 NetCDF files or a folder of them.")
        found += sorted(p for p in item.rglob("*") if p.suffix in (".nc", ".nc4")) if item.is_dir() else [item]
    if not found:
        raise SourceError(f"no NetCDF file (*.nc) in {', '.join(map(str, items))}: give ERA5 files from the CDS.")
    return [str(path) for path in dict.fromkeys(found)]


@functools.lru_cache(maxsize=64)
def _open(path: str, changed: int) -> xr.Dataset:
    """Open a file without reading values; kept open, because blocks come back to the same files."""
    if importlib.util.find_spec("netCDF4") is None:
        raise missing_package("netCDF4", "grid", "reading ERA5 NetCDF")
    return xr.open_dataset(path, engine="netcdf4", cache=False, chunks=None)


def _header(path: str) -> _Header | None:
    """Read what a file holds; None where it has no member that is used."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"GRIB" or magic[:2] == b"PK":
        kind, what = ("GRIB", "request NetCDF") if magic == b"GRIB" else ("a zip", "unpack the NetCDF files in it")
        raise SourceError(f"{path} is {kind}, not NetCDF: {what}.")
    try:
        ds = _open(path, Path(path).stat().st_mtime_ns)
    except (OSError, ValueError) as problem:
        raise SourceError(f"{path}: cannot be read as NetCDF ({problem}): fetch it again.") from problem
    members = tuple(name for name in (*_INSTANT, *_ACCUMULATED) if name in ds)
    static = tuple(name for name in _STATIC if name in ds)
    if not members and not static:
        log.warning("%s holds no member that is used (%s): left out", path, ", ".join(map(str, ds.data_vars)))
        return None
    for name in (*members, *static):
        _check_member(path, name, ds[name])
    grid = [_degrees(ds[name]) for name in ("latitude", "longitude")]
    origin = " ".join(str(ds.attrs.get(key, "")) for key in ("title", "source", "history", "dataset"))
    return _Header(path, *grid, _stamps(path, ds) if members else np.empty(0, "datetime64[h]"), members, static, origin)


def _check_member(path: str, name: str, array: xr.DataArray) -> None:
    dims = set(array.dims) - {"expver", "number"}
    time = dims & {"time", "valid_time"}
    if {"latitude", "longitude"} | time != dims or (not time and name not in _STATIC):
        raise SourceError(
            f"{path}: {name} must have dims (time or valid_time, latitude, longitude), found {array.dims}: "
            "give the hourly NetCDF as the Climate Data Store delivers it."
        )
    if array.sizes.get("number", 1) > 1:
        raise SourceError(f"{path}: {name} holds {array.sizes['number']} ensemble members: select one of `number`.")
    units = str(array.attrs.get("units", "none" if _UNITS[name] != "1" else ""))
    plain = units.replace("**", "").replace("^", "").strip()
    if _SPELLINGS.get(plain, plain) != _UNITS[name]:
        raise SourceError(
            f"{path}: {name} must be in {_UNITS[name]}, found units {units!r}: give the file as the CDS delivers it."
        )


def _degrees(axis: xr.DataArray) -> np.ndarray:
    """Coordinates in float64; 9.292 stored as float32 comes back as 9.292, not 9.29199982."""
    return np.round(axis.values.astype("float64"), 4) if axis.dtype == np.float32 else axis.values.astype("float64")


def _stamps(path: str, ds: xr.Dataset) -> np.ndarray:
    """Hourly stamps of a file, datetime64[h]."""
    name = "valid_time" if "valid_time" in ds.dims else "time"
    exact = ds[name].values
    if not np.issubdtype(exact.dtype, np.datetime64):
        raise SourceError(f"{path}: {name} is not a time of the standard calendar ({exact.dtype}).")
    hours = exact.astype("datetime64[h]")
    steps = np.diff(exact)
    if (exact != hours).any() or (len(steps) and (steps <= np.timedelta64(0)).any()):
        raise SourceError(f"{path}: {name} must hold full hours, each after the last: sort the file and drop repeats.")
    if len(steps) and np.median(steps.astype("timedelta64[h]").astype(int)) != 1:
        found = np.median(steps.astype("timedelta64[m]").astype(int)) / 60
        raise SourceError(f"{path}: steps must be 1 hour, found {found:g} hours: request every hour of the day.")
    return hours


def _check_same_grid(one: _Header, other: _Header) -> None:
    for axis in ("latitude", "longitude"):
        a, b = getattr(one, axis), getattr(other, axis)
        if a.shape != b.shape or np.abs(a - b).max() > 1e-3:
            raise SourceError(
                f"files on different grids: {one.path} has {_span(a)} of {axis}, {other.path} has {_span(b)}. "
                "Open them one grid at a time."
            )


def _span(axis: np.ndarray) -> str:
    return f"{len(axis)} values from {axis[0]:g} to {axis[-1]:g}"


def _normal_longitude(longitude: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes from -180 to 180, ascending, and the file's column of each."""
    inside = np.where((longitude >= -180) & (longitude < 180), longitude, (longitude + 180) % 360 - 180)
    inside = np.round(inside, 6)
    columns = np.argsort(inside, kind="stable")
    if (np.diff(inside[columns]) < 1e-6).any():
        raise SourceError(f"{path}: a longitude appears twice on the circle ({_span(longitude)}): drop one.")
    return inside[columns], columns


def _join(headers: Sequence[_Header]) -> tuple[np.ndarray, dict[str, tuple[_Run, ...]]]:
    """Lay every member's stamps on one dense hourly axis."""
    begin = min(h.stamps[0] for h in headers if len(h.stamps))
    end = max(h.stamps[-1] for h in headers if len(h.stamps))
    size = int((end - begin).astype(int)) + 1
    if size < 2:
        where = next(h.path for h in headers if len(h.stamps))
        raise SourceError(f"{where} has only one stamp ({begin}): an hour needs those at its start and at its end.")
    members = {
        name: _runs(name, [h for h in headers if name in h.members], begin)
        for name in (*_INSTANT, *_ACCUMULATED)
        if any(name in h.members for h in headers)
    }
    stamps = (begin + np.arange(size)).astype("datetime64[ns]")
    for name, runs in members.items():
        _warn_of_gaps(name, runs, stamps)
    return stamps, members


def _runs(name: str, headers: Sequence[_Header], begin: np.datetime64) -> tuple[_Run, ...]:
    """Put the runs of one member in time order, without the hours that an earlier file already gave."""
    runs: list[_Run] = []
    for header in headers:
        at = (header.stamps - begin).astype(int)
        edges = np.flatnonzero(np.diff(at) != 1) + 1
        for start, stop in zip((0, *edges), (*edges, len(at)), strict=True):
            runs.append(_Run(header.path, int(start), int(at[start]), int(at[start]) + int(stop - start)))
    runs.sort(key=lambda run: (run.at, run.path))
    kept: list[_Run] = []
    for run in runs:
        for before in kept:
            if before.stop > run.at:
                _check_agree(name, before, run, begin)
        done = max((before.stop for before in kept), default=run.at)
        if run.stop > done:
            skip = max(done - run.at, 0)
            kept.append(_Run(run.path, run.start + skip, run.at + skip, run.stop))
    return tuple(kept)


def _check_agree(name: str, one: _Run, other: _Run, begin: np.datetime64) -> None:
    """Compare a sample of the hours that two files share; packing may differ, values may not."""
    a, b = max(one.at, other.at), min(one.stop, other.stop)
    hours = np.unique(np.linspace(a, b - 1, 24).astype(int))
    x, y = (_sample(run.path, name, hours - run.at + run.start) for run in (one, other))
    known = np.concatenate([x[np.isfinite(x)], y[np.isfinite(y)]])
    spread = np.ptp(known) if known.size else 0.0
    wrong = ~(np.isclose(x, y, rtol=1e-4, atol=1e-3 * spread, equal_nan=True)).all(axis=(1, 2))
    if wrong.any():
        raise SourceError(
            f"{one.path} and {other.path} both hold {name} of {begin + hours[wrong][0]} UTC, with different values: "
            "keep one of them (a preliminary and a final release of the same month do this)."
        )


def _warn_of_gaps(name: str, runs: Sequence[_Run], stamps: np.ndarray) -> None:
    edges = [0, *(edge for run in runs for edge in (run.at, run.stop)), len(stamps)]
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        if b > a:
            last = stamps[b - 1].astype("datetime64[h]")
            log.warning("%s has no stamps from %s to %s UTC: NaN there", name, stamps[a].astype("datetime64[h]"), last)


def _accumulation(headers: Sequence[_Header], said: str | None) -> str:
    """Tell what accumulated members hold: as said, or by the values and by what the files say of themselves."""
    if not any(set(h.members) & set(_ACCUMULATED) for h in headers):
        return ""
    if said is not None:
        return said
    seen = next((kind for name in _TELLING if (kind := _accumulation_seen(headers, name))), None)
    land = any("era5-land" in h.origin.lower().replace("_", "-").replace(" ", "-") for h in headers)
    if land and seen == "hour":
        where = next(h.path for h in headers if set(h.members) & set(_ACCUMULATED))
        raise SourceError(
            f"{where}: the files call themselves ERA5-Land, whose accumulations run from 00 UTC, but the values look "
            "like single hours: say accumulation='hour' or 'day'."
        )
    if seen is None and not land:
        where = next(h.path for h in headers if set(h.members) & set(_ACCUMULATED))
        raise SourceError(
            f"{where}: cannot tell whether accumulated values cover an hour (ERA5) or run from 00 UTC (ERA5-Land); "
            f"at least two whole UTC days of {', '.join(_TELLING)} that are not all zero are needed. "
            "Say accumulation='hour' or accumulation='day'."
        )
    return seen or "day"


def _accumulation_seen(headers: Sequence[_Header], name: str) -> str | None:
    """Test a member: a running total never falls from 01 to 24 UTC, an hour's amount does, when it has been above 0."""
    enough, rounding = _TELLING[name]
    falls = active = 0
    for header in (h for h in headers if name in h.members):
        hours = header.stamps.astype(int)
        starts = np.flatnonzero(hours % 24 == 1)
        starts = [s for s in starts if s + 24 <= len(hours) and hours[s + 23] - hours[s] == 23]
        for s in starts[:: max(1, len(starts) // 31)]:
            day = _sample(header.path, name, np.arange(s, s + 24))
            counts = np.nanmax(day, axis=0, initial=0.0) > enough
            active += int(counts.sum())
            falls += int((np.diff(day, axis=0) < -rounding).any(axis=0)[counts].sum())
        if active and len(starts) >= 2:
            break
    if not active:
        return None
    share = falls / active
    return "hour" if share > 0.5 else "day" if share == 0 else None


def _sample(path: str, name: str, stamps: np.ndarray) -> np.ndarray:
    """Values (stamp, latitude, longitude) at some stamps and at most 8 x 8 cells."""
    array = _plain(_open(path, Path(path).stat().st_mtime_ns)[name])
    steps = [slice(None, None, max(1, size // 8)) for size in array.shape[1:]]
    picked = array[slice(int(stamps[0]), int(stamps[-1]) + 1), *steps].values
    return picked[stamps - stamps[0]]


def _plain(array: xr.DataArray) -> xr.DataArray:
    """(time, latitude, longitude) without ensemble number, and with ERA5T (expver 5) where ERA5 (1) is missing."""
    if "number" in array.dims:
        array = array.isel(number=0)
    if "expver" in array.dims:
        parts = [array.isel(expver=i) for i in range(array.sizes["expver"])]
        array = functools.reduce(lambda one, other: one.fillna(other), parts)
    time = [dim for dim in array.dims if dim in ("time", "valid_time")]
    return array.transpose(*time, "latitude", "longitude")


def _static(headers: Sequence[_Header], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Elevation (m), land fraction and whether that is a mask; in the files' column order."""
    fields = {}
    for header in headers:
        for name in header.static:
            field = _plain(_open(header.path, Path(header.path).stat().st_mtime_ns)[name])
            fields.setdefault(name, (field[0] if field.ndim == 3 else field).values.astype("float64"))
    elevation = fields["z"] / GRAVITY if "z" in fields else np.full(shape, np.nan)
    if "lsm" in fields:
        return elevation, np.clip(np.nan_to_num(fields["lsm"]), 0.0, 1.0), True
    # ERA5-Land has no values over the sea, ERA5 has them everywhere; the first stamp of 1950 may lack accumulations.
    header = next(h for h in headers if h.members)
    one = _plain(_open(header.path, Path(header.path).stat().st_mtime_ns)[header.members[0]])
    return elevation, np.isfinite(one[min(1, len(one) - 1)].values).astype("float64"), False


def _inside(bbox: tuple | None, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns whose centres lie in (west, south, east, north); west > east crosses the antimeridian."""
    if bbox is None:
        return np.arange(len(latitude)), np.arange(len(longitude))
    west, south, east, north = (float(edge) for edge in bbox)
    if south > north:
        raise ConfigError(f"bbox must be (west, south, east, north); found south {south:g} above north {north:g}.")
    rows = np.flatnonzero((latitude >= south) & (latitude <= north))
    right, left = longitude >= west, longitude <= east
    cols = np.flatnonzero(right & left if west <= east else right | left)
    if not len(rows) or not len(cols):
        raise ConfigError(
            f"bbox (west, south, east, north) = {tuple(bbox)} holds no cell: the files cover latitudes "
            f"{latitude.min():g} to {latitude.max():g} and longitudes {longitude.min():g} to {longitude.max():g}."
        )
    return rows, cols


def _hours(time: slice | tuple | None, axis: np.ndarray) -> slice:
    """Positions of a span of labels, both ends included, as xarray selects them ("2019-07" is the whole month)."""
    import pandas as pd

    if time is None:
        return slice(0, len(axis))
    if isinstance(time, str) or (not isinstance(time, slice) and len(time) != 2):
        raise ConfigError(f"time must be slice(start, stop) or (start, stop), found {time!r}.")
    start, stop = (time.start, time.stop) if isinstance(time, slice) else time
    found = pd.DatetimeIndex(axis).slice_indexer(start, stop)
    if found.start >= found.stop:
        raise ConfigError(f"no hour from {start} to {stop}: the files cover {axis[0]} to {axis[-1]}.")
    return slice(found.start, found.stop)


def _stretches(columns: np.ndarray) -> Iterator[tuple[int, int]]:
    """Index ranges over which columns follow one another."""
    edges = np.flatnonzero(np.diff(columns) != 1) + 1
    yield from zip((0, *edges), (*edges, len(columns)), strict=True)
