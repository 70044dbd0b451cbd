"""Forcing of daily models: aggregate an hourly forcing cube to days of each cell's mean solar time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.forcing import Forcing, as_forcing
from fluxcube.cubes.forcing_surface_grid import BAND as SURFACE_BAND
from fluxcube.cubes.forcing_surface_grid import DAY as SURFACE_DAY
from fluxcube.cubes.localdays import needed_share
from fluxcube.cubes.products import middle_of_chips
from fluxcube.cubes.satellite import satellite_product
from fluxcube.errors import ConfigError
from fluxcube.resolution import check_resolution
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.solar import potential_radiation
from fluxcube.stores.origin import derived
from fluxcube.variables import COMPUTED, Variable, predictors, table

if TYPE_CHECKING:
    import dask.array as da

SURFACE = "surface"
_CELLS = ("latitude", "longitude")
_STEPWISE = ("time", "variable", "block", "day", "band", SURFACE_DAY, SURFACE_BAND, "y", "x")
_HOUR, _DAY, _HOURS = 60, 1440, 24
#: Maximum number of bytes of a block's hours in RAM, unless a month needs more, and bounds of the days of a chunk.
_BYTES, _MIN_DAYS, _MAX_DAYS = 128 << 20, 32, 366


def daily_forcing(forcing: Forcing) -> xr.Dataset:
    """Aggregate an hourly forcing cube to days of local mean solar time, lazily.

    A day of a cell begins when UTC + longitude / 15 is midnight, to the minute; longitudes are counted from -180 to
    180, so that the date changes at the antimeridian. An hour that straddles midnight contributes to both days in
    proportion.

    Parameters
    ----------
    forcing : xr.Dataset, path or URL
        Hourly, as `fluxcube.open_forcing` returns it; in RAM, or of Dask arrays.

    Returns
    -------
    xr.Dataset
        A forcing cube (`fluxcube.schema`) with ``resolution: daily``. ``predictors`` (latitude, longitude, time,
        variable) float32 contains the variables of the daily variable table that `forcing` has, in its units (P in
        mm d-1), TA_RANGE if there is TA, and always DOY and SW_IN_POT. ``time`` are local dates. ``surface`` (latitude,
        longitude, day, band) float32, as in a daily tower cube, and its climatology are those of `forcing`; without
        them, but with chips, ``surface`` is the mean of the middle 4 x 4 pixels of chips, missing where fewer than half
        of these are valid. With several blocks per cell, it is the weighted mean over them. Arrays that do not depend
        on time are those of `forcing`.

    Raises
    ------
    SchemaError
        If `forcing` is not a forcing cube.
    ConfigError
        If it is daily, or has no date with all hours in every cell.

    Notes
    -----
    The dates are those with all 24 hours in every cell, so that no map is partly empty: from a global year, the first
    and the last date are missing, unless the forcing has twelve more hours at both ends.

    Means, sums (P), ranges (TA_RANGE) and mean directions (WD) are defined as for daily towers
    (`fluxcube.cubes.localdays.to_daily`), and so is what may be missing: nothing of a sum, a range or a variable that
    can be a target, a tenth of other means. TA_RANGE uses hours whose middle lies in the day. SW_IN_POT is computed for
    the solar day, not averaged.

    In tower cubes `surface` is usually MOD09GA under a clear sky, as in a forcing that was opened with ``surface=``.
    That of chips is MCD43A4 at nadir, which is its attribute `product`. `fluxcube.upscale` refuses a model that was
    trained on the other product.

    A chunk reads the hours of its own days, and at most one day of the chunks before and after. It contains at most a
    year, and at most 128 MiB of hours, unless a month needs more.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_forcing
    >>> days = daily_forcing(example_forcing(days=3))  # at 8 degrees east: 1 June began before the first hour
    >>> days.time.values.astype("datetime64[D]")
    array(['2018-06-02', '2018-06-03'], dtype='datetime64[D]')
    """
    forcing = as_forcing(forcing)
    validate_forcing(forcing)
    check_resolution(forcing, "hourly", "daily_forcing")
    shift = _shifts(forcing.longitude.values)
    first, last = _whole_dates(forcing.time.values, shift)
    columns = _Columns.of([str(name) for name in forcing["variable"].values])
    days = (first + np.arange(last - first + 1)).astype("datetime64[D]").astype("datetime64[ns]")
    constant = forcing.drop_dims([dim for dim in _STEPWISE if dim in forcing.dims])
    out = constant.assign(predictors=((*_CELLS, "time", "variable"), _predictors(forcing, columns, shift, first, last)))
    coords = {"time": ("time", days, {"long_name": "date, local mean solar time", "standard_name": "time"})}
    out = out.assign_coords(coords | variable_coords(columns.names, resolution="daily"))
    out = out.assign(_reflectance(forcing))
    title = str(forcing.attrs.get("title", "forcing"))
    attrs = {"title": f"{title}, in local days", "resolution": "daily", "clock": "solar"}
    return validate_forcing(derived(out.assign_attrs({**forcing.attrs, **attrs})))


def _reflectance(forcing: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the arrays of reflectance of a daily forcing: those of the hourly one, else the middle of its chips."""
    if SURFACE in forcing:
        names = [name for name in (SURFACE, f"{SURFACE}_quality", f"{SURFACE}_climatology") if name in forcing]
        return {name: _as_daily(forcing[name]) for name in names}
    if "modis" not in forcing:
        return {}
    surface = _surface(forcing.modis)
    if product := satellite_product(forcing):
        surface.attrs["product"] = product
    return {SURFACE: surface}


def _as_daily(array: xr.DataArray) -> xr.DataArray:
    """Return an array of reflectance under the names of a daily forcing, the mean over the blocks of a cell."""
    dims = {old: new for old, new in ((SURFACE_DAY, "day"), (SURFACE_BAND, "band")) if old in array.dims}
    if "block" in array.dims:
        rest = [dim for dim in array.dims if dim not in (*_CELLS, "block")]
        mean = array.weighted(array.block_weight.fillna(0)).mean("block").transpose(*_CELLS, *rest)
        array = _named(mean.astype("float32"), array).assign_attrs(array.attrs)
    return array.rename(dims)


def _surface(chips: xr.DataArray) -> xr.DataArray:
    """Return the mean reflectance (latitude, longitude, day, band) of the central 2 km of chips."""
    mean = middle_of_chips(chips)
    if "block" in mean.dims:
        mean = mean.weighted(mean.block_weight.fillna(0)).mean("block").transpose(*_CELLS, "day", "band")
    of = f"Mean of the middle 4 x 4 pixels of chips: {chips.attrs.get('long_name', 'MODIS')}."
    attrs = {"long_name": "MODIS surface reflectance (bands 1-7)", "units": "1", "comment": of}
    return _named(mean.astype("float32"), chips).assign_attrs(attrs)


def _named(surface: xr.DataArray, chips: xr.DataArray) -> xr.DataArray:
    """Return lazy reflectance under a name that depends on its chips alone, by which a stopped run knows its inputs.

    The name that xarray's weighted mean has differs from process to process.
    """
    if "block" not in chips.dims or chips.chunks is None:
        return surface
    from dask.base import tokenize

    name = f"surface-{tokenize(chips.data.name, chips.block_weight.values)}"
    return surface.copy(data=surface.data.map_blocks(np.asarray, dtype="float32", name=name))


def _shifts(longitude: np.ndarray) -> np.ndarray:
    """Return the minutes (place,) int64 by which mean solar time is ahead of UTC, from -720 to 719.

    Examples
    --------
    >>> _shifts(np.array([0.0, 15.0, 179.9, 180.0, 350.0]))
    array([   0,   60,  720, -720,  -40])
    """
    east = (np.asarray(longitude, float) + 180) % 360 - 180
    return np.round(east * 4).astype(np.int64)


def _minute(time: np.datetime64) -> int:
    return int(time.astype("datetime64[m]").astype(np.int64))


def _whole_dates(time: np.ndarray, shift: np.ndarray) -> tuple[int, int]:
    """Return the first and last date, counted from 1970, with all hours in every cell."""
    begin, end = _minute(time[0]) + shift, _minute(time[-1]) + _HOUR + shift
    first, last = int((-(-begin // _DAY)).max()), int((end // _DAY).min()) - 1
    if last < first:
        raise ConfigError(
            f"daily_forcing: no date has all 24 hours in every cell: the forcing has {len(time)} hours from {time[0]}, "
            "and days begin at the solar midnight of each longitude. Open more hours, or fewer longitudes (bbox=)."
        )
    return first, last


@dataclass(frozen=True)
class _Columns:
    """Names of the daily variables, the index of each in the hourly ones, and its row of the variable table.

    A worker process need not have declared the predictors of the user.
    """

    names: tuple[str, ...]
    hourly: dict[str, int]
    rows: dict[str, Variable]

    @classmethod
    def of(cls, hourly: Sequence[str]) -> _Columns:
        """Return the daily variables that hourly ones yield."""
        rows = table("daily")
        known = {name: at for at, name in enumerate(hourly) if name in rows and name not in COMPUTED}
        daily = {*known, *(["TA_RANGE"] if "TA" in known else []), *COMPUTED}
        return cls(
            tuple(name for name in predictors("daily") if name in daily), known, {name: rows[name] for name in known}
        )


@dataclass(frozen=True, eq=False)
class _Strip:
    """Days to compute for a strip of cells from north to south.

    Attributes
    ----------
    columns : _Columns
        Variables.
    days : (day,) int
        Dates, counted from 1970.
    begin : int
        Minute of the first hour, counted from 1970.
    shift : (longitude,) int64
        Minutes by which mean solar time is ahead of UTC.
    latitude, longitude : (latitude,), (longitude,) float
        Degrees.
    """

    columns: _Columns
    days: np.ndarray
    begin: int
    shift: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray


def _predictors(forcing: xr.Dataset, columns: _Columns, shift: np.ndarray, first: int, last: int) -> da.Array:
    """Return lazy predictors (latitude, longitude, time, variable), one task per block of cells and days."""
    import dask.array as da

    stack = forcing.predictors
    stack = stack if stack.chunks else stack.chunk(dict.fromkeys(_CELLS, 16) | {"time": -1})
    hours, (rows, cols) = stack.data, (stack.chunksizes[dim] for dim in _CELLS)
    begin = _minute(forcing.time.values[0])
    latitude, longitude = (forcing[dim].values.astype(float) for dim in _CELLS)
    length = _days_at_once(max(rows) * max(cols) * hours.shape[-1])
    strips = []
    for west, east in _spans(cols):
        near, parts = shift[west:east], []
        for start in range(first, last + 1, length):
            days = np.arange(start, min(start + length, last + 1))
            low = (days[0] * _DAY - int(near.max()) - begin) // _HOUR
            high = -(-((days[-1] + 1) * _DAY - int(near.min()) - begin) // _HOUR)
            strip = _Strip(columns, days, int(begin + low * _HOUR), near, latitude, longitude[west:east])
            parts.append(_lazy_strip(hours[:, west:east, low:high], strip, rows))
        strips.append(da.concatenate(parts, axis=2))
    return da.concatenate(strips, axis=1)


def _lazy_strip(hours: da.Array, strip: _Strip, rows: tuple[int, ...]) -> da.Array:
    """Return the lazy days (latitude, longitude, day, variable) of a strip in blocks of some numbers of rows."""
    import dask.array as da

    return da.map_blocks(
        _block,
        hours.rechunk({2: -1, 3: -1}),
        strip=strip,
        dtype="float32",
        meta=np.empty((0,) * 4, "float32"),
        chunks=(rows, (len(strip.longitude),), (len(strip.days),), (len(strip.columns.names),)),
    )


def _days_at_once(values: int) -> int:
    """Return the number of days per chunk for a number of values per hour."""
    return int(np.clip(_BYTES // (4 * _HOURS * values), _MIN_DAYS, _MAX_DAYS))


def _spans(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(lengths).tolist()
    return zip([0, *ends[:-1]], ends, strict=True)


def _block(hours: np.ndarray, strip: _Strip, block_info: Mapping | None = None) -> np.ndarray:
    """Aggregate hours (latitude, longitude, hour, variable) of some cells of a strip to days."""
    rows = slice(*block_info[0]["array-location"][0]) if block_info else slice(None)
    columns, days = strip.columns, strip.days
    out = np.empty((*hours.shape[:2], len(days), len(columns.names)), np.float32)
    for j, minutes in enumerate(strip.shift):
        start, late = divmod(int(days[0]) * _DAY - int(minutes) - strip.begin, _HOUR)
        column = _Hours(hours[:, j, start:], len(days), late / _HOUR)
        for at, name in enumerate(columns.names):
            if name in columns.hourly:
                out[:, j, :, at] = column.day(columns.rows[name], columns.hourly[name])
            elif name == "TA_RANGE":
                out[:, j, :, at] = column.range(columns.hourly["TA"])
        for name, values in _computed(days, strip.latitude[rows], float(strip.longitude[j])).items():
            out[:, j, :, columns.names.index(name)] = values
    return out


@dataclass(frozen=True)
class _Hours:
    """Hours (place, hour, variable) of places on one meridian, from the one that contains their first midnight.

    `late` is the share of that hour before midnight: 0 if hours and days begin together.
    """

    values: np.ndarray
    days: int
    late: float

    def day(self, row: Variable, at: int) -> np.ndarray:
        """Return the daily values (place, day) of a variable, NaN where too much of a day is missing."""
        values = self.values[..., at]
        present = np.isfinite(values)
        known = np.where(present, values, 0).astype(float)
        observed = np.full(1, _HOURS, float) if present.all() else self._total(present.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            if row.aggregate == "sum":
                daily = self._total(known)
            elif row.aggregate == "vector":
                angle = np.deg2rad(known)
                east, north = (self._total(np.where(present, part, 0)) for part in (np.sin(angle), np.cos(angle)))
                daily = np.rad2deg(np.arctan2(east, north)) % 360
                daily = np.where(np.hypot(east, north) < 1e-6 * observed, np.nan, daily)  # as for daily towers
            else:
                daily = self._total(known) / observed
        return np.where(observed >= needed_share(row) * _HOURS, daily, np.nan)

    def range(self, at: int) -> np.ndarray:
        """Return the range (place, day) of the 24 hours whose middle is in each day."""
        first = int(self.late > 0.5)
        hours = self.values[:, first : first + _HOURS * self.days, at].reshape(-1, self.days, _HOURS)
        return hours.max(2) - hours.min(2)

    def _total(self, amounts: np.ndarray) -> np.ndarray:
        """Return the sums (place, day) of amounts (place, hour); hours at both ends count in proportion."""
        end = _HOURS * self.days
        whole = amounts[:, :end].reshape(-1, self.days, _HOURS).sum(2)
        if not self.late:
            return whole
        return whole - self.late * amounts[:, :end:_HOURS] + self.late * amounts[:, _HOURS : end + 1 : _HOURS]


def _computed(days: np.ndarray, latitude: np.ndarray, longitude: float) -> dict[str, np.ndarray]:
    """Return DOY, and SW_IN_POT of the solar day, of places on one meridian: (place, day)."""
    date = days.astype("datetime64[D]")
    doy = (date - date.astype("datetime64[Y]")).astype(np.int64)
    # Rounded to the second: a midnight too early would have the declination of the day before.
    midnight = date.astype("datetime64[s]") - np.round(longitude * 240).astype("timedelta64[s]")
    sun = potential_radiation(midnight, latitude, longitude, hours=24)
    return {"DOY": np.broadcast_to(doy, sun.shape), "SW_IN_POT": sun}
