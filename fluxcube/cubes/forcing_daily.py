"""Forcing of daily models: an hourly forcing cube in days of each cell's mean solar time, as days of towers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.localdays import needed_share
from fluxcube.errors import ConfigError
from fluxcube.resolution import check_resolution
from fluxcube.schema import validate_forcing, variable_coords
from fluxcube.solar import potential_radiation
from fluxcube.variables import BANDS, COMPUTED, Variable, predictors, table

_CELLS = ("latitude", "longitude")
_STEPWISE = ("time", "variable", "block", "day", "band", "y", "x")
_HOUR, _DAY, _HOURS = 60, 1440, 24
#: Hours of a block of cells in memory at once, where a month of them is no more, and the most days of a chunk.
_BYTES, _LEAST, _MOST = 128 << 20, 32, 366


def daily_forcing(forcing: xr.Dataset) -> xr.Dataset:
    """Turn an hourly forcing cube into days of local mean solar time, lazily.

    A day of a cell begins when UTC + longitude / 15 is midnight, to the minute; longitudes count from -180 to 180,
    so that the date changes at the antimeridian. An hour that straddles midnight gives each day its share.

    Parameters
    ----------
    forcing : xr.Dataset
        Hourly, as `fluxcube.open_forcing` gives it; in memory, or of Dask arrays.

    Returns
    -------
    xr.Dataset
        A forcing cube (`fluxcube.schema`) with ``resolution: daily``. ``predictors`` (latitude, longitude, time,
        variable) float32 has what `forcing` has of the daily variable table, in its units (P in mm d-1), TA_RANGE
        where there is TA, and DOY and SW_IN_POT always. ``time`` are local dates. Where there are chips, ``surface``
        (latitude, longitude, day, band) float32, as a daily cube of towers has it: the mean of the middle 4 x 4
        pixels, missing where fewer than half of them are valid; of several chips a cell, the mean by their weights.
        What does not depend on time is as in `forcing`.

    Raises
    ------
    SchemaError
        If `forcing` is no forcing cube.
    ConfigError
        If it is a daily one, or has no date of which every cell has all hours.

    Notes
    -----
    Its dates are those of which every cell has all 24 hours, so that no map is half empty: of a globe's year the first
    and the last date are missing, unless the forcing has twelve hours more at either end.

    Means, sums (P), ranges (TA_RANGE) and mean directions (WD) are those of a tower's days
    (`fluxcube.cubes.localdays.to_daily`), and so is what may be missing: nothing of a sum, a range or a variable that
    can be a target, a tenth of another mean. TA_RANGE is of hours whose middle lies in the day. SW_IN_POT is computed
    for the solar day, and not averaged.

    Towers' `surface` is MOD09GA under a clear sky; here it is what the chips are of, MCD43A4 as seen from above.

    A chunk reads the hours of its own days, and at most a day of the chunks before and after. It holds a year at most,
    and its hours no more than 128 MiB, or a month where that is more.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_forcing
    >>> days = daily_forcing(example_forcing(days=3))  # at 8 degrees east: 1 June began before the first hour
    >>> days.time.values.astype("datetime64[D]")
    array(['2018-06-02', '2018-06-03'], dtype='datetime64[D]')
    """
    validate_forcing(forcing)
    check_resolution(forcing, "hourly", "daily_forcing")
    shift = _shifts(forcing.longitude.values)
    first, last = _whole_dates(forcing.time.values, shift)
    columns = _Columns.of([str(name) for name in forcing["variable"].values])
    days = (first + np.arange(last - first + 1)).astype("datetime64[D]").astype("datetime64[ns]")
    still = forcing.drop_dims([dim for dim in _STEPWISE if dim in forcing.dims])
    out = still.assign(predictors=((*_CELLS, "time", "variable"), _predictors(forcing, columns, shift, first, last)))
    out = out.assign_coords(
        time=("time", days, {"long_name": "date, local mean solar time", "standard_name": "time"}),
        **variable_coords(columns.names, resolution="daily"),
    )
    if "modis" in forcing:
        out["surface"] = _surface(forcing.modis)
    title = str(forcing.attrs.get("title", "forcing"))
    attrs = {"title": f"{title}, in local days", "resolution": "daily", "clock": "solar"}
    return validate_forcing(out.assign_attrs({**forcing.attrs, **attrs}))


def _surface(chips: xr.DataArray) -> xr.DataArray:
    """Mean reflectance (latitude, longitude, day, band) of the 2 km in the middle of chips, as towers' `surface`."""
    middle = chips.sel(band=list(BANDS[:7])).isel(y=slice(2, 6), x=slice(2, 6)).drop_vars(["y", "x"], errors="ignore")
    there = middle.notnull().sum(("y", "x"))
    mean = middle.fillna(0).sum(("y", "x")) / there.where(there * 2 >= middle.sizes["y"] * middle.sizes["x"])
    if "block" in mean.dims:
        mean = mean.weighted(mean.block_weight.fillna(0)).mean("block").transpose(*_CELLS, "day", "band")
    of = f"Mean of the middle 4 x 4 pixels of chips: {chips.attrs.get('long_name', 'MODIS')}."
    attrs = {"long_name": "MODIS surface reflectance (bands 1-7)", "units": "1", "comment": of}
    return mean.astype("float32").assign_attrs(attrs)


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
    """Return the first and last date, counted from 1970, of which every cell has all hours."""
    begin, end = _minute(time[0]) + shift, _minute(time[-1]) + _HOUR + shift
    first, last = int((-(-begin // _DAY)).max()), int((end // _DAY).min()) - 1
    if last < first:
        raise ConfigError(
            f"daily_forcing: no date has all 24 hours in every cell: the forcing has {len(time)} hours from {time[0]}, "
            "and days begin at each longitude's own midnight. Open more hours, or fewer longitudes (bbox=)."
        )
    return first, last


@dataclass(frozen=True)
class _Columns:
    """What the days have, and the place of each in the hours."""

    names: tuple[str, ...]
    hourly: dict[str, int]

    @classmethod
    def of(cls, given: Sequence[str]) -> _Columns:
        known = {name: at for at, name in enumerate(given) if name in table("daily") and name not in COMPUTED}
        made = {*known, *(["TA_RANGE"] if "TA" in known else []), *COMPUTED}
        return cls(tuple(name for name in predictors("daily") if name in made), known)


def _predictors(forcing: xr.Dataset, columns: _Columns, shift: np.ndarray, first: int, last: int):
    """Lazy (latitude, longitude, time, variable): one task a block of cells and some hundred days."""
    import dask.array as da

    stack = forcing.predictors
    stack = stack if stack.chunks else stack.chunk(dict.fromkeys(_CELLS, 16) | {"time": -1})
    hours, (rows, cols) = stack.data, (stack.chunksizes[dim] for dim in _CELLS)
    begin = _minute(forcing.time.values[0])
    latitude, longitude = (forcing[dim].values.astype(float) for dim in _CELLS)
    length = _days_at_once(max(rows) * max(cols) * hours.shape[-1])
    strips = []
    for west, east in _spans(cols):
        near = shift[west:east]
        parts = []
        for start in range(first, last + 1, length):
            days = np.arange(start, min(start + length, last + 1))
            low = (days[0] * _DAY - int(near.max()) - begin) // _HOUR
            high = -(-((days[-1] + 1) * _DAY - int(near.min()) - begin) // _HOUR)
            block = hours[:, west:east, low:high].rechunk({2: -1, 3: -1})
            parts.append(
                da.map_blocks(
                    _block,
                    block,
                    columns=columns,
                    days=days,
                    begin=begin + low * _HOUR,
                    shift=near,
                    latitude=latitude,
                    longitude=longitude[west:east],
                    dtype="float32",
                    meta=np.empty((0,) * 4, "float32"),
                    chunks=(rows, (east - west,), (len(days),), (len(columns.names),)),
                )
            )
        strips.append(da.concatenate(parts, axis=2))
    return da.concatenate(strips, axis=1)


def _days_at_once(values: int) -> int:
    """Return how many days of so many values an hour fit into memory."""
    return int(np.clip(_BYTES // (4 * _HOURS * values), _LEAST, _MOST))


def _spans(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(lengths).tolist()
    return zip([0, *ends[:-1]], ends, strict=True)


def _block(
    hours: np.ndarray,
    columns: _Columns,
    days: np.ndarray,
    begin: int,
    shift: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    block_info=None,
) -> np.ndarray:
    """Days (latitude, longitude, day, variable) of the hours of some cells that begin at a minute since 1970."""
    rows = slice(*block_info[0]["array-location"][0]) if block_info else slice(None)
    out = np.empty((*hours.shape[:2], len(days), len(columns.names)), np.float32)
    for j, minutes in enumerate(shift):
        start, late = divmod(int(days[0]) * _DAY - int(minutes) - begin, _HOUR)
        column = _Hours(hours[:, j, start:], len(days), late / _HOUR)
        for at, name in enumerate(columns.names):
            if name in columns.hourly:
                out[:, j, :, at] = column.day(table("daily")[name], columns.hourly[name])
            elif name == "TA_RANGE":
                out[:, j, :, at] = column.range(columns.hourly["TA"])
        for name, values in _computed(days, latitude[rows], float(longitude[j])).items():
            out[:, j, :, columns.names.index(name)] = values
    return out


@dataclass(frozen=True)
class _Hours:
    """Hours (place, hour, variable) of places on one meridian, from the one that holds their first midnight.

    `late` is the share of that hour that is before midnight: 0 where hours and days begin together.
    """

    values: np.ndarray
    days: int
    late: float

    def day(self, row: Variable, at: int) -> np.ndarray:
        """Return the days (place, day) of a variable, NaN where too much of one is missing."""
        values = self.values[..., at]
        present = np.isfinite(values)
        known = np.where(present, values, 0).astype(float)
        observed = np.full(1, _HOURS, float) if present.all() else self._total(present.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            if row.aggregate == "sum":
                made = self._total(known)
            elif row.aggregate == "vector":
                angle = np.deg2rad(known)
                east, north = (self._total(np.where(present, part, 0)) for part in (np.sin(angle), np.cos(angle)))
                made = np.rad2deg(np.arctan2(east, north)) % 360
                made = np.where(np.hypot(east, north) < 1e-6 * observed, np.nan, made)  # as in days of towers
            else:
                made = self._total(known) / observed
        return np.where(observed >= needed_share(row) * _HOURS, made, np.nan)

    def range(self, at: int) -> np.ndarray:
        """Return the highest minus the lowest (place, day) of the 24 hours whose middle is in each day."""
        first = int(self.late > 0.5)
        hours = self.values[:, first : first + _HOURS * self.days, at].reshape(-1, self.days, _HOURS)
        return hours.max(2) - hours.min(2)

    def _total(self, amounts: np.ndarray) -> np.ndarray:
        """Sum (place, day) of amounts (place, hour), of the hours at both ends the share that is in the day."""
        end = _HOURS * self.days
        whole = amounts[:, :end].reshape(-1, self.days, _HOURS).sum(2)
        if not self.late:
            return whole
        return whole - self.late * amounts[:, :end:_HOURS] + self.late * amounts[:, _HOURS : end + 1 : _HOURS]


def _computed(days: np.ndarray, latitude: np.ndarray, longitude: float) -> dict[str, np.ndarray]:
    """DOY, and SW_IN_POT of the solar day, of places on one meridian: (place, day)."""
    date = days.astype("datetime64[D]")
    doy = (date - date.astype("datetime64[Y]")).astype(np.int64)
    # To the second, as the sun's clock is read: a midnight too early would have the declination of the day before.
    midnight = date.astype("datetime64[s]") - np.round(longitude * 240).astype("timedelta64[s]")
    sun = potential_radiation(midnight, latitude, longitude, hours=24)
    return {"DOY": np.broadcast_to(doy, sun.shape), "SW_IN_POT": sun}
