"""Axes of products in one form: time at the start of each period, ascending latitude, longitude from -180 to 180."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SourceError

_LATITUDE = ("latitude", "lat", "nav_lat")
_LONGITUDE = ("longitude", "lon", "long", "nav_lon")
_TIME = ("time", "t", "date")
HOUR = "hour"
#: Dimension of the hours of a mean diurnal cycle: its values are no hours of the days on the time axis.
CYCLE_HOUR = "hour_of_day"
#: Accepted difference of coordinates, as a share of the step of the grid.
_ROUNDING = 1e-2
_SINCE = re.compile(r"^\s*(months?|years?)\s+since\s+(\d{1,4})(?:-(\d{1,2}))?", re.IGNORECASE)
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Grid:
    """Cells of a product.

    Attributes
    ----------
    latitude, longitude : array of float
        Centres, ascending (degrees north and east, longitude from -180 to 180).
    names : tuple of str
        Dimensions of latitude and longitude in the file.
    orders : tuple of array of int or None
        Stored position of each row and column; None where they are in order.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    names: tuple[str, str]
    orders: tuple[np.ndarray | None, np.ndarray | None]


def grid_of(data: xr.Dataset, where: str) -> Grid:
    """Return the cells of a file.

    Names come before CF attributes: the monthly files of X-BASE call their longitude a latitude.

    Raises
    ------
    SourceError
        If there is no regular grid of latitude and longitude, or its values are none.
    """
    lat, lon = _find(data, _LATITUDE, "latitude", where), _find(data, _LONGITUDE, "longitude", where)
    rows, columns = np.asarray(data[lat].values, float), np.asarray(data[lon].values, float)
    if not (np.abs(rows) <= 90 + 1e-6).all():
        raise SourceError(f"{where}: expected latitudes from -90 to 90, found {rows.min():g} to {rows.max():g}.")
    if not ((columns >= -180 - 1e-6) & (columns <= 360 + 1e-6)).all():
        raise SourceError(f"{where}: expected longitudes in degrees, found {columns.min():g} to {columns.max():g}.")
    wrapped = (columns + 180.0) % 360.0 - 180.0
    # The last column of a grid that ends at 180 stays there.
    wrapped[(columns == 180.0) & (columns.min() < 0)] = 180.0
    row_order, column_order = _order(rows), _order(wrapped, circle=True)
    return Grid(
        rows if row_order is None else rows[row_order],
        wrapped if column_order is None else wrapped[column_order],
        (str(data[lat].dims[0]), str(data[lon].dims[0])),
        (row_order, column_order),
    )


def same_grid(one: Grid, other: Grid) -> bool:
    """Return whether two files have the same cells."""
    pairs = ((one.latitude, other.latitude), (one.longitude, other.longitude))
    return all(a.shape == b.shape and bool((np.abs(a - b) <= _ROUNDING * _step(a)).all()) for a, b in pairs)


def _step(values: np.ndarray) -> float:
    return float(np.abs(np.diff(values)).min()) if values.size > 1 else 1.0


def _order(values: np.ndarray, *, circle: bool = False) -> np.ndarray | None:
    """Return the order that makes values ascend; None if they do. A meridian that is there twice is used once."""
    order = np.argsort(values, kind="stable")
    if circle:
        order = order[np.concatenate([[True], np.diff(values[order]) > 0])]
    return None if np.array_equal(order, np.arange(values.size)) else order


def _find(data: xr.Dataset, names: Sequence[str], standard: str, where: str) -> str:
    """Return the coordinate of latitude or longitude, by its name, else by its CF standard name or units."""
    by_name = {str(name).lower(): str(name) for name in data.variables}
    found = next((by_name[name] for name in names if name in by_name), None)
    found = found or next((str(n) for n, v in data.variables.items() if v.attrs.get("standard_name") == standard), None)
    if found is None:
        raise SourceError(
            f"{where}: expected a coordinate {standard} (or {names[1]}), found {', '.join(map(str, data.variables))}; "
            "rename it and pass the Dataset."
        )
    if data[found].ndim != 1:
        raise SourceError(
            f"{where}: {found} has {data[found].ndim} dimensions; expected a regular grid with one-dimensional "
            "latitude and longitude: regrid the product first."
        )
    return found


def time_name(data: xr.Dataset, where: str) -> str:
    """Return the coordinate of time of a file (SourceError if it has none)."""
    by_name = {str(name).lower(): str(name) for name in data.variables}
    found = next((by_name[name] for name in _TIME if name in by_name), None)
    if found is None:
        raise SourceError(
            f"{where}: expected a coordinate time, found {', '.join(map(str, data.variables))}; a map without time "
            "cannot be compared with towers: add its time, ds.expand_dims(time=[...]), and pass the Dataset."
        )
    return found


def starts(data: xr.Dataset, where: str) -> np.ndarray:
    """Return the start of each period of a file as datetime64[ns]: its bounds if it has any, else its time stamps.

    Parameters
    ----------
    data : xr.Dataset
        File whose times are numbers.
    where : str
        Its name, for messages.

    Raises
    ------
    SourceError
        If the times cannot be decoded.
    """
    name = time_name(data, where)
    stamps = _decoded(data, name, data[name].attrs, where)
    bounds = str(data[name].attrs.get("bounds", f"{name}_bnds"))
    if bounds in data.variables and data[bounds].ndim == 2 and data[bounds].sizes[data[bounds].dims[1]] == 2:
        edges = _decoded(data, bounds, {**data[name].attrs, **data[bounds].attrs}, where)
        return edges[:, 0]
    return stamps


def _decoded(data: xr.Dataset, name: str, attrs: dict[str, object], where: str) -> np.ndarray:
    """Return times as datetime64[ns]; xarray decodes no months and years, which have no fixed length."""
    numbers = np.atleast_1d(data[name].values)
    if numbers.dtype.kind == "M":
        return numbers.astype("datetime64[ns]")
    units = str(attrs.get("units", ""))
    if match := _SINCE.match(units):
        return _months(numbers, match)
    kept = {key: attrs[key] for key in ("units", "calendar") if key in attrs}
    dims = [f"d{n}" for n in range(numbers.ndim)]
    try:
        decoded = xr.decode_cf(xr.Dataset({"t": (dims, numbers, kept)}))["t"].values
        if decoded.dtype.kind == "O":  # another calendar, such as one without leap days: its dates exist in ours
            texts = [one.strftime("%Y-%m-%dT%H:%M:%S") for one in decoded.ravel()]
            decoded = np.array(texts, "datetime64[ns]").reshape(decoded.shape)
        if decoded.dtype.kind != "M":
            raise ValueError(f"no units such as 'days since 2001-01-01', but {units!r}")
        return decoded.astype("datetime64[ns]")
    except (ValueError, OverflowError) as problem:
        raise SourceError(
            f"{where}: the times of {name} cannot be decoded ({problem}); assign the time axis yourself, "
            'ds.assign_coords(time=pd.date_range("2001-01-01", periods=12, freq="MS")), and pass the Dataset.'
        ) from problem


def _months(numbers: np.ndarray, match: re.Match[str]) -> np.ndarray:
    """Return the month of each number of months or years since a date."""
    first = np.datetime64(f"{int(match[2]):04d}-{int(match[3] or 1):02d}", "M")
    months = np.floor(np.asarray(numbers, float) * (12 if match[1].lower().startswith("year") else 1))
    return (first + months.astype(int)).astype("datetime64[ns]")


def step_of(time: np.ndarray, hint: str) -> str:
    """Return the time step of sorted times: hourly, daily, monthly, annual or a number of days, such as 8-daily.

    Parameters
    ----------
    time : array of datetime64
        Starts or stamps of periods, ascending.
    hint : str
        Name and frequency of the file, which are used for a single time.

    Examples
    --------
    >>> step_of(np.array(["2001-01-01", "2001-02-01", "2001-03-01"], "datetime64[ns]"), "")
    'monthly'
    >>> step_of(np.array(["2001-01-01"], "datetime64[ns]"), "GPP_daily.nc")
    'daily'
    """
    if time.size < 2:
        words = {"8daily": "8-daily", "8-daily": "8-daily", "monthly": "monthly", "1mo": "monthly", "daily": "daily"}
        words |= {"1d": "daily", "hourly": "hourly", "1h": "hourly", "annual": "annual", "yearly": "annual"}
        return next((step for word, step in words.items() if word in hint.lower()), "unknown")
    days = float(np.median(np.diff(time)) / _DAY)
    for step, low, high in (
        ("hourly", 0, 1.5 / 24),
        ("daily", 0.99, 1.01),
        ("monthly", 27.5, 31.5),
        ("annual", 360, 370),
    ):
        if low < days <= high:
            return step
    return f"{days:g}-daily" if days > 1 else f"{days * 24:g}-hourly"


def at_start(time: np.ndarray, step: str) -> np.ndarray:
    """Return the start of the hour, day, month or year of each time; times of other steps are returned as they are."""
    unit = {"hourly": "h", "daily": "D", "monthly": "M", "annual": "Y"}.get(step)
    return time if unit is None else time.astype(f"datetime64[{unit}]").astype("datetime64[ns]")


def hour_starts(data: xr.Dataset, where: str) -> np.ndarray:
    """Return the start of each hour (0 to 23) of the dimension `hour`.

    Its bounds decide, else its values: 0 to 23 are starts, 0.5 to 23.5 middles, 1 to 24 ends.

    Raises
    ------
    SourceError
        If the hours are not the 24 of a day in order, or their bounds contradict them.
    """
    label = np.asarray(data[HOUR].values, float) if HOUR in data.variables else np.arange(data.sizes[HOUR], dtype=float)
    bounds = str(data[HOUR].attrs.get("bounds", f"{HOUR}_bnds")) if HOUR in data.variables else ""
    hours = np.arange(24.0)
    if bounds in data.variables:
        edges = np.asarray(data[bounds].values, float)
        inside = bool(((edges[:, 0] <= label) & (label <= edges[:, 1])).all())
        if not (inside and np.array_equal(edges[:, 0], hours)):
            raise SourceError(
                f"{where}: expected {bounds} with the 24 hours of a day around {HOUR}, found {edges[:3].tolist()}."
            )
        return hours.astype(int)
    for shift in (0.0, 0.5, 1.0):
        if np.array_equal(label - shift, hours):
            return hours.astype(int)
    raise SourceError(f"{where}: expected the 24 hours of a day in {HOUR}, found {label.tolist()}.")


def days_of(time: np.ndarray, period: str) -> np.ndarray:
    """Return the length in days of the month, the year or the eight days that begin at each time.

    The last eight days of a year end with it, as those of MODIS do.

    Examples
    --------
    >>> days_of(np.array(["2020-02-01"], "datetime64[ns]"), "month").tolist()
    [29.0]
    """
    index = pd.DatetimeIndex(time)
    if period == "month":
        return np.asarray(index.days_in_month, float)
    year = np.where(index.is_leap_year, 366.0, 365.0)
    return year if period == "year" else np.minimum(8.0, year - np.asarray(index.day_of_year) + 1.0)
