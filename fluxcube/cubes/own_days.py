"""Time steps of a user's own predictor: dates that are known later and held for some days, hours, and daily means."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.own_values import DATE_DIM
from fluxcube.errors import ConfigError
from fluxcube.resolution import resolution_of
from fluxcube.variables import Variable

if TYPE_CHECKING:
    import dask.array as da

_DAY = 86400
_PER_DAY = 24
_CELLS = ("latitude", "longitude")
#: Number of cells along each side of a Dask chunk, for a forcing that is in RAM, and number of its time steps.
_CHUNK, _STEPS = 16, 2208
#: Minimum share of the hours of a day that a daily mean needs.
_SHARE = 0.9


def check_options(row: Variable, hold_days: int, delay_days: int | None) -> int:
    """Return the number of days after which a value is known.

    Raises
    ------
    ConfigError
        If the options are not whole numbers of days, or the predictor is not daily.
    """
    delay = hold_days if delay_days is None else delay_days
    for option, value, low in (("hold_days", hold_days, 1), ("delay_days", delay, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ConfigError(f"{row.name}: {option}={value!r}: expected a whole number of days of at least {low}.")
    if row.kind != "daily" and (hold_days != 1 or delay_days is not None):
        raise ConfigError(f"{row.name} is declared {row.kind}: hold_days and delay_days apply to daily predictors.")
    return int(delay)


def add_steps(cube: xr.Dataset, values: xr.DataArray, row: Variable, hold: int, delay: int) -> xr.DataArray:
    """Return the values of each time step of a cube, lazily.

    Parameters
    ----------
    cube : xr.Dataset
        Tower cube or forcing.
    values : xr.DataArray
        (site, date) or (latitude, longitude, date), on the sites or cells of the cube.
    row : Variable
        Declaration.
    hold, delay : int
        Of a daily predictor: number of days for which a value is used, and after which it is known.

    Returns
    -------
    xr.DataArray
        (site, time) or (latitude, longitude, time).

    Raises
    ------
    ConfigError
        If a daily forcing gets hourly values.
    """
    places = ("site",) if "site" in values.dims else ("latitude", "longitude")
    values = values.transpose(*places, DATE_DIM)
    resolution = resolution_of(cube)
    if row.kind == "hourly" and resolution.name == "daily":
        if places != ("site",):
            raise ConfigError(
                f"{row.name} is hourly and the forcing is daily: add it to the hourly forcing, and aggregate that with "
                "fluxcube.daily_forcing."
            )
        values, hold, delay = _daily(values, cube.utc_offset.values, row), 1, 0
    elif row.kind == "hourly":
        return values.reindex({DATE_DIM: cube.time.values}).rename({DATE_DIM: "time"})
    east = (cube.longitude.values.astype(float) + 180) % 360 - 180
    shift = resolution.solar_shift(east).astype(np.int64)
    sizes = _sizes(cube)
    lazy = values.data if values.chunks else values.chunk(dict.fromkeys(places, -1)).data
    lazy = lazy.rechunk({axis: sizes[dim] for axis, dim in enumerate(places)})
    dates = values[DATE_DIM].values.astype("datetime64[D]").astype(np.int64)
    steps = _spread(lazy, dates, shift, cube.time.values, sizes["time"], hold, delay)
    return xr.DataArray(steps, dims=(*places, "time"))


def _sizes(cube: xr.Dataset) -> dict[str, tuple[int, ...]]:
    """Return the chunk sizes of the predictors of a cube, or those that they get if they are in RAM."""
    stack = cube.predictors
    stack = stack if stack.chunks else stack.chunk(chunks_of(stack))
    return {str(dim): sizes for dim, sizes in stack.chunksizes.items()}


def _spread(
    values: da.Array,
    dates: np.ndarray,
    shift: np.ndarray,
    time: np.ndarray,
    sizes: tuple[int, ...],
    hold: int,
    delay: int,
) -> da.Array:
    """Return lazy time steps (..., place, time) of values (..., place, date), one block for each chunk of time."""
    import dask.array as da

    seconds = time.astype("datetime64[s]").astype(np.int64)
    ahead = da.from_array(shift, chunks=(values.chunks[-2],))
    edges = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    first = "" if values.ndim == 2 else "y"
    parts = []
    for start, stop in itertools.pairwise(edges):
        low = (seconds[start] + int(shift.min())) // _DAY - delay - hold + 1
        high = (seconds[stop - 1] + int(shift.max())) // _DAY - delay + 1
        some = slice(*np.searchsorted(dates, [low, high]))
        parts.append(
            da.blockwise(
                _at_steps,
                f"{first}xt",
                values[..., some].rechunk({-1: -1}),
                f"{first}xd",
                ahead,
                "x",
                new_axes={"t": stop - start},
                concatenate=True,
                dtype="float32",
                meta=np.empty((0,) * values.ndim, "float32"),
                dates=dates[some],
                seconds=seconds[start:stop],
                hold=hold,
                delay=delay,
            )
        )
    return da.concatenate(parts, axis=-1)


def _at_steps(
    values: np.ndarray, shift: np.ndarray, *, dates: np.ndarray, seconds: np.ndarray, hold: int, delay: int
) -> np.ndarray:
    """Return the latest value (..., place, time) that is known at each time step and at most `hold` days old.

    Parameters
    ----------
    values : (..., place, date) float
        NaN is missing.
    shift : (place,) int
        Seconds by which local time is ahead of the time axis.
    dates : (date,) int
        Dates of the values, counted from 1970, ascending.
    seconds : (time,) int
        Start of each time step, counted from 1970.
    hold, delay : int
        Number of days for which a value is used, and after which it is known.

    Examples
    --------
    >>> known = dict(dates=np.array([0, 2]), seconds=np.arange(5) * 86400, hold=2, delay=1)
    >>> _at_steps(np.array([[1.0, 3.0]]), np.array([0]), **known)
    array([[nan,  1.,  1.,  3.,  3.]], dtype=float32)
    """
    local = (seconds + shift[:, None]) // _DAY - delay
    low = int(local.min()) - hold + 1
    dense = np.full((*values.shape[:-1], int(local.max()) - low + 1), np.nan, np.float32)
    at = dates - low
    inside = (at >= 0) & (at < dense.shape[-1])
    dense[..., at[inside]] = values[..., inside]
    dense = _filled_forward(dense, hold)
    return np.take_along_axis(dense, np.broadcast_to(local - low, (*dense.shape[:-1], len(seconds))), -1)


def _filled_forward(days: np.ndarray, hold: int) -> np.ndarray:
    """Return daily values (..., day) in which a missing one is the latest of the `hold` - 1 days before it."""
    if hold == 1:
        return days
    index = np.arange(days.shape[-1])
    latest = np.maximum.accumulate(np.where(np.isfinite(days), index, -1), axis=-1)
    filled = np.take_along_axis(days, np.maximum(latest, 0), -1)
    return np.where((latest >= 0) & (index - latest < hold), filled, np.float32(np.nan))


def _daily(values: xr.DataArray, utc_offset: np.ndarray, row: Variable) -> xr.DataArray:
    """Return means, sums or mean directions (site, date) over local days of hourly values (site, UTC hour)."""
    hours = values[DATE_DIM].values.astype("datetime64[h]").astype(np.int64)
    offsets = np.floor(np.asarray(utc_offset, float)).astype(np.int64)
    local = (hours + offsets[:, None]) // _PER_DAY
    first, count = int(local.min()), int(np.ptp(local)) + 1
    out = np.full((len(offsets), count), np.nan)
    for place, (series, day) in enumerate(zip(values.values.astype(float), local - first, strict=True)):
        seen = np.isfinite(series)
        counts = np.bincount(day[seen], minlength=count)
        out[place] = _aggregate(series[seen], day[seen], counts, row)
        out[place, counts < _PER_DAY * (1 if row.aggregate == "sum" else _SHARE)] = np.nan
    dates = (first + np.arange(count)).astype("datetime64[D]").astype("datetime64[ns]")
    return xr.DataArray(out, {"site": values.site.values, DATE_DIM: dates}, ("site", DATE_DIM))


def _aggregate(series: np.ndarray, day: np.ndarray, counts: np.ndarray, row: Variable) -> np.ndarray:
    """Return the aggregate (day,) of hours (hour,) of each day, as declared."""

    def total(hours: np.ndarray) -> np.ndarray:
        return np.bincount(day, hours, len(counts))

    if row.aggregate == "vector":
        low, high = row.bounds
        angle = (series - low) / (high - low) * 2 * np.pi
        turn = np.arctan2(total(np.sin(angle)), total(np.cos(angle))) / (2 * np.pi) % 1
        return low + turn * (high - low)
    return total(series) if row.aggregate == "sum" else total(series) / np.maximum(counts, 1)


def chunks_of(array: xr.DataArray) -> dict[str, int]:
    """Return chunk sizes for an array in RAM: single sites, or blocks of cells and three months."""
    sizes = {"site": 1, **dict.fromkeys(_CELLS, _CHUNK)}
    if "site" not in array.dims:
        sizes["time"] = _STEPS
    return {str(dim): min(sizes.get(str(dim), array.sizes[dim]), array.sizes[dim]) for dim in array.dims}
