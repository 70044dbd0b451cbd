"""Read and check the header of an ERA5 source: its grid, stamps and parameters."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError, to_type
from fluxcube.sources.era5.open import Source
from fluxcube.sources.era5.parameters import (
    ACCUMULATED,
    HOURLY,
    INSTANT,
    RATE,
    RATE_UNITS,
    SPELLINGS,
    STATIC,
    UNIT_WORDS,
    UNITS,
)
from fluxcube.units import convert

log = logging.getLogger(__name__)

_WORD = re.compile("[A-Za-z]+")
# Words and units of the other axis: a file that has them has exchanged latitude and longitude.
_EXCHANGED = {
    "latitude": ("longitude", "degrees_east", "degree_east", "x"),
    "longitude": ("latitude", "degrees_north", "degree_north", "y"),
}
_LIMITS = {"latitude": (-90.0, 90.0), "longitude": (-360.0, 540.0)}
#: Minimum distance of neighbouring cells as a share of the median one: tiles may share an edge row up to rounding.
_NARROWEST = 0.5
#: The same where there are this number of distances or fewer, since half of them may be gaps.
_NARROWEST_OF_FEW, _FEW = 0.02, 3


@dataclass(frozen=True, eq=False)
class Header:
    """The contents of a source: its grid, the hourly stamps for which it has values, and its parameters.

    Attributes
    ----------
    source : Source
    latitude, longitude : (row,), (column,) float64
        Degrees, in the order of the source.
    stamps : (stamp,) datetime64[h]
        Empty where the source has static fields only.
    first : int
        Position of the first of `stamps` on the source's own time axis.
    parameters, static : tuple of str
        Short names of the parameters in time, and of the static fields.
    hourly : tuple of str
        Those of `parameters` that are of the hour that ends at the stamp by their name: mean rates, and amounts of
        hours in Earth Engine.
    point : bool
        Whether it is the series of one point, without dimensions of latitude and longitude.
    origin : str
        Path and descriptive attributes, in which names such as ERA5-Land are searched for.
    """

    source: Source
    latitude: np.ndarray
    longitude: np.ndarray
    stamps: np.ndarray
    first: int
    parameters: tuple[str, ...]
    static: tuple[str, ...]
    hourly: tuple[str, ...]
    point: bool
    origin: str

    @property
    def land(self) -> bool:
        """Whether path or attributes contain the name ERA5-Land."""
        return "era5-land" in self.origin.lower().replace("_", "-").replace(" ", "-")

    def only(self, parameters: Collection[str]) -> Header:
        """Return the header with some of its parameters in time, and all static fields."""
        chosen = tuple(name for name in self.parameters if name in parameters)
        stamps = self.stamps if chosen else self.stamps[:0]
        hourly = tuple(name for name in self.hourly if name in chosen)
        return replace(self, parameters=chosen, hourly=hourly, stamps=stamps)


def read_header(source: Source) -> Header | None:
    """Read the header of a source; None where it has no parameter that is used.

    Raises
    ------
    SourceError
        If it is of another format, or a parameter has other dimensions or units than ERA5's.
    """
    ds = source.open()
    if ds.attrs.get("kind") == "era5" and ds.attrs.get("complete") is not True:
        raise SourceError(f"{source}: this copy of ERA5 was not finished: run the same copy_era5 again.")
    if "site" in ds.dims:
        how = to_type(python="fluxcube.predict", shell="`fluxcube evaluate`")
        raise SourceError(f"{source} has towers and no grid: pass ERA5 files or a forcing here, and towers to {how}.")
    parameters = tuple(name for name in (*INSTANT, *ACCUMULATED) if name in ds)
    static = tuple(name for name in STATIC if name in ds)
    if not parameters and not static:
        log.warning("%s has no parameter that is used (%s): ignored", source, ", ".join(map(str, ds.data_vars)))
        return None
    for name in (*parameters, *static):
        _check_parameter(source, name, ds.variables[name])
    origin = " ".join(str(ds.attrs.get(key, "")) for key in ("title", "source", "history", "dataset"))
    timed = parameters or any({"time", "valid_time"} & set(ds.variables[name].dims) for name in static)
    stamps, first = _stamps(source, ds, parameters) if timed else (np.empty(0, "datetime64[h]"), 0)
    return Header(
        source=source,
        latitude=_axis(source, ds, "latitude"),
        longitude=_axis(source, ds, "longitude"),
        stamps=stamps if parameters else stamps[:0],
        first=first,
        parameters=parameters,
        static=static,
        hourly=tuple(name for name in parameters if {RATE, HOURLY} & set(ds.variables[name].attrs)),
        point=not {"latitude", "longitude"} & set(ds.dims),
        origin=f"{source} {origin}",
    )


def _check_parameter(source: Source, name: str, array: xr.Variable) -> None:
    dims = set(array.dims) - {"expver", "number"}
    time = dims & {"time", "valid_time"}
    if dims - time - {"latitude", "longitude"} or len(time) > 1 or (not time and name not in STATIC):
        raise SourceError(
            f"{source}: {name} must have dims (time or valid_time, latitude, longitude), found {array.dims}: "
            + ("pass the GRIB file itself" if "step" in dims else "pass the hourly file")
            + " as the Climate Data Store delivers it."
        )
    if array.sizes.get("number", 1) > 1:
        raise SourceError(f"{source}: {name} has {array.sizes['number']} ensemble members: select one of `number`.")
    expected = RATE_UNITS[name] if RATE in array.attrs else UNITS[name]
    units = str(array.attrs.get("units", "none" if expected != "1" else ""))
    if not _same_units(units, expected):
        raise SourceError(
            f"{source}: {name} must be in {expected}, found units {units!r}: pass the file as the CDS delivers it."
        )


def _same_units(found: str, expected: str) -> bool:
    """Return whether two spellings mean the same units, such as ``J/m2`` and ``J m-2``."""
    found = _WORD.sub(lambda word: UNIT_WORDS.get(word[0].lower(), word[0]), found.strip())
    found = SPELLINGS.get(found, found)
    if found.replace("**", "").replace("^", "").strip() == expected:
        return True
    try:
        ends = convert(np.array([0.0, 1.0]), found, expected)
    except ConfigError:
        return False
    return bool(np.allclose(ends, [0.0, 1.0], atol=1e-12))


def _axis(source: Source, ds: xr.Dataset, name: str) -> np.ndarray:
    """Return the degrees of an axis (cell,) float64, in the order of the source.

    Raises
    ------
    SourceError
        If it is absent, is named as the other axis by its attributes, is not in degrees, is outside the globe, or has
        a latitude twice.
    """
    if name not in ds.variables or ds.variables[name].ndim > 1:
        raise SourceError(f"{source}: expected {name} of one dimension, or of a single point, found none; add it.")
    axis = ds.variables[name]
    described = {str(axis.attrs.get(key, "")).lower() for key in ("standard_name", "units", "axis")}
    if described & set(_EXCHANGED[name]):
        raise SourceError(
            f"{source}: {name} has the attributes {dict(axis.attrs)} of the other axis: latitude and longitude are "
            "exchanged; rename them, or download the file again."
        )
    units = str(axis.attrs.get("units", "degrees")).lower()
    degrees, (low, high) = np.atleast_1d(_degrees(axis)), _LIMITS[name]
    if not units.startswith("deg") and units not in ("", "1", "°"):
        raise SourceError(f"{source}: {name} must be in degrees, found units {units!r}: convert it.")
    if not (np.isfinite(degrees) & (degrees >= low - 1e-6) & (degrees <= high + 1e-6)).all():
        raise SourceError(
            f"{source}: {name} must be from {low:g} to {high:g} degrees, found {_few(degrees)}: correct the axis."
        )
    steps = np.diff(degrees)
    if name == "latitude" and len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        kind = "has a value twice" if (np.diff(np.sort(degrees)) == 0).any() else "is not in order"
        raise SourceError(
            f"{source}: latitude {kind}, found {_few(degrees)}: drop repeated rows, or sort the file by latitude."
        )
    _check_distances(source, name, degrees)
    return degrees


def _check_distances(source: Source, name: str, degrees: np.ndarray) -> None:
    """Refuse cells that are closer than the others; a gap in the axis is none of them."""
    apart = np.abs((np.diff(degrees) + 180.0) % 360.0 - 180.0)  # across the antimeridian, too
    usual = np.median(apart) if len(apart) else 0.0
    share = _NARROWEST if len(apart) > _FEW else _NARROWEST_OF_FEW
    if len(apart) and 0 < apart.min() < share * usual:
        at = int(apart.argmin())
        raise SourceError(
            f"{source}: {name} {degrees[at]:.6g} and {degrees[at + 1]:.6g} are closer than other cells ({usual:g} "
            "degrees): drop one of them."
        )


def _few(axis: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in axis[:6]) + (" ..." if len(axis) > 6 else "")


def _degrees(axis: xr.Variable) -> np.ndarray:
    """Return coordinates in float64; 9.292 stored as float32 becomes 9.292, not 9.29199982."""
    return np.round(axis.values.astype("float64"), 4) if axis.dtype == np.float32 else axis.values.astype("float64")


def _stamps(source: Source, ds: xr.Dataset, parameters: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return the hourly stamps of a source, datetime64[h], and the position of the first on its axis."""
    name = "valid_time" if "valid_time" in ds.dims or _labels_time(ds) else "time"
    try:
        exact = np.atleast_1d(ds.variables[name].values)
    except (ValueError, OverflowError) as problem:  # numbers that are too large for dates, which are decoded here
        reason = str(problem).partition("\n")[0]
        raise SourceError(f"{source}: {name} contains no times ({reason}): download it again.") from problem
    if not np.issubdtype(exact.dtype, np.datetime64):
        raise SourceError(
            f"{source}: {name} must be a time of the standard calendar, found {exact.dtype}: decode it as datetime64."
        )
    if parameters:
        _check_stamps(source, name, exact)
    hours = exact.astype("datetime64[h]")
    begin, end = _valid_period(ds, hours)
    return hours[begin:end], begin


def _labels_time(ds: xr.Dataset) -> bool:
    """Return whether `valid_time` is the time of each value, and `time` that of the forecast's start."""
    return "valid_time" in ds.variables and ds.variables["valid_time"].dims == ("time",)


def _valid_period(ds: xr.Dataset, hours: np.ndarray) -> tuple[int, int]:
    """Return the positions for which a store declares values: the axis of ARCO-ERA5 runs from 1900 to 2050."""
    first, last = (ds.attrs.get(key) for key in ("valid_time_start", "valid_time_stop"))
    begin = 0 if first is None else int(np.searchsorted(hours, np.datetime64(str(first)[:10], "h")))
    if last is None:
        return begin, len(hours)
    day_after = np.datetime64(str(last)[:10], "D") + np.timedelta64(1, "D")
    return begin, int(np.searchsorted(hours, day_after.astype("datetime64[h]")))


def _check_stamps(source: Source, name: str, exact: np.ndarray) -> None:
    """Refuse repeats, unsorted stamps, and steps other than an hour, each with its own message."""
    steps = np.diff(exact)
    usual = np.median(steps.astype("timedelta64[s]").astype(float)) / 3600 if len(steps) else 1.0
    if len(steps) and (steps == np.timedelta64(0)).any():
        at = exact[:-1][steps == np.timedelta64(0)][0].astype("datetime64[m]")
        raise SourceError(
            f"{source}: {name} must contain full hours in ascending order: {at} appears twice; drop repeats."
        )
    if (steps < np.timedelta64(0)).any():
        at = exact[1:][steps < np.timedelta64(0)][0].astype("datetime64[m]")
        raise SourceError(
            f"{source}: {name} must contain full hours in ascending order: {at} is out of order; sort the file."
        )
    if 0 < usual < 1:
        raise SourceError(
            f"{source}: steps must be 1 hour, found {usual * 60:g} minutes (sub-hourly): average to full hours first."
        )
    if usual != 1:
        kind = " (daily: hourly models need hourly data)" if usual >= 24 else ""
        raise SourceError(f"{source}: steps must be 1 hour, found {usual:g} hours{kind}: request all 24 hours.")
    if (exact != exact.astype("datetime64[h]")).any():
        raise SourceError(
            f"{source}: {name} must contain full hours, found {exact[0].astype('datetime64[m]')}: "
            "download the hourly file again."
        )
