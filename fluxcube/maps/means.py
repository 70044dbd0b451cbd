"""Means of flux maps over days, months and years, and mean diurnal cycles."""

from __future__ import annotations

import calendar
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.maps.periods import check_every, steps_of
from fluxcube.maps.store import Maps, as_maps
from fluxcube.stores.origin import derived_attrs

_DIMS = ("time", "latitude", "longitude")
_CLOCKS = {"utc": "UTC", "solar": "local mean solar time (UTC + longitude / 15), by the start of the hour"}
_DAY = np.timedelta64(1, "D")
_HOUR = 3600
#: Ending of the name of a standard deviation of errors.
_STD = "_std"


def mean_maps(
    maps: Maps, every: str | None = "day", *, clock: str = "utc", min_coverage: float | None = None
) -> xr.Dataset:
    """Average flux maps over days, months or years; the result is lazy if the maps are.

    The mean of a month or year is the mean over the hours of its mean day, so that an hour that is missing on one day
    does not shift it. A period of which the maps cover less than `min_coverage` has no mean.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        Flux maps (time, latitude, longitude) in regular steps of a day or of hours that divide a day.
    every : {"day", "month", "year"} or None
        Calendar period; None for the mean of the whole period.
    clock : {"utc", "solar"}
        Clock that defines the days: UTC, or each column's local mean solar time (UTC + longitude / 15; an hour belongs
        to the day in which it begins). Daily maps have local dates already, and need "utc".
    min_coverage : float, optional
        Minimum share of a period's steps that must have a value, in each cell. Default: 1 for days, 0.9 for longer
        periods. Above 0, means over longer periods also need a value of every hour of the day.

    Returns
    -------
    xr.Dataset
        float32 (time, latitude, longitude), without time where `every` is None; times are the starts of the periods.
        Fluxes, NAME_spread (its mean: the spread of the mean flux if the errors of a member are equal at all times, an
        upper bound), dissimilarity, and applicable as a share. NAME_std is left out: it describes single hours.

    Raises
    ------
    SchemaError
        If the steps are not regular or do not divide a day, or no period is covered.
    ConfigError
        If the value of an option is not valid.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_maps
    >>> mean_maps(example_maps(days=3), "day").NEE.shape
    (3, 3, 4)
    """
    maps = as_maps(maps)
    check_every(every, ("day", "month", "year"))
    axis = _DayAxis.of(maps, clock, every, _share(min_coverage, 1.0 if every == "day" else 0.9))
    out = {name: axis.labelled(_mean(axis, array), array, "time: mean") for name, array in _averaged(maps).items()}
    return _finished(xr.Dataset(out), maps, axis)


def mean_cycle(
    maps: Maps, every: str | None = None, *, clock: str = "solar", min_coverage: float | None = None
) -> xr.Dataset:
    """Compute mean diurnal cycles of flux maps; the result is lazy if the maps are.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        As in `mean_maps`, in steps shorter than a day.
    every : {"month", "year"} or None
        One mean day for each month or year; None for one of the whole period.
    clock : {"solar", "utc"}
        Clock of the hours: in local mean solar time noon is at 12 in every cell.
    min_coverage : float, optional
        Minimum share of a period's days that must have a value at an hour. Default 0.9.

    Returns
    -------
    xr.Dataset
        float32 (time, hour, latitude, longitude), without time where `every` is None; `hour` is the start of the hour,
        its bounds hour_bnds.

    Raises
    ------
    SchemaError, ConfigError
        As in `mean_maps`.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_maps
    >>> day = mean_cycle(example_maps()).NEE.mean(("latitude", "longitude"))
    >>> float(day.sel(hour=12)) < 0 < float(day.sel(hour=0))
    True
    """
    maps = as_maps(maps)
    check_every(every, ("month", "year"))
    axis = _DayAxis.of(maps, clock, every, _share(min_coverage, 0.9))
    if axis.slots == 1:
        raise SchemaError("a mean day needs maps of hours; found daily maps: use mean_maps.")
    methods = "time: mean within days time: mean over days"
    out = {name: axis.labelled(_cycle(axis, array), array, methods) for name, array in _averaged(maps).items()}
    return _finished(xr.Dataset(out), maps, axis)


@dataclass(frozen=True)
class _DayAxis:
    """Assignment of time steps to days of a clock, and of days to periods.

    Attributes
    ----------
    slots : int
        Number of steps in a day.
    shift : (longitude,) int64
        Number of steps by which the clock of each column is ahead of UTC.
    before, count : int
        Number of steps of the first day before the first step of the maps (in a column without shift), and number of
        days.
    periods : list of slice
        Days of each period, as positions on the axis.
    steps : (period,) array of int
        Number of steps in a whole period.
    start, stop : (period,) datetime64[D]
        Start and end of each period.
    """

    every: str | None
    clock: str
    min_coverage: float
    slots: int
    shift: np.ndarray
    before: int
    count: int
    periods: list[slice]
    steps: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, maps: xr.Dataset, clock: str, every: str | None, min_coverage: float) -> _DayAxis:
        names = list(_averaged(maps))
        if not names:
            for name in maps.data_vars:
                refuse_standard_deviation(str(name))
            raise SchemaError(
                f"no array to average: expected dims {_DIMS}, found {', '.join(map(str, maps.data_vars))}."
            )
        if clock not in _CLOCKS:
            raise ConfigError(f"clock: expected utc or solar, found {clock!r}.")
        first, slots, total = _regular(maps, names[0])
        shift = _shifts(maps.longitude.values, slots, clock)
        day = first.astype("datetime64[D]")
        at = int((first - day).astype(np.int64)) * slots // (24 * _HOUR)
        low, high = at + int(shift.min()), at + int(shift.max()) + total
        origin = day + low // slots * _DAY
        before, count = at - low // slots * slots, -(-high // slots) - low // slots
        days = origin + np.arange(count)
        parts, steps = _periods(days, every, slots, total)
        covered = _covered(parts, before + shift, total, slots)
        kept = [i for i in range(len(parts)) if covered[i] >= min_coverage * steps[i] - 1e-6]
        if not kept:
            raise SchemaError(
                f"no whole {every or 'day'}: the maps run from {first} for {total} steps of {24 / slots:g} hours, and "
                f"min_coverage={min_coverage:g} of a {every or 'day'} must be covered. Choose a smaller "
                "min_coverage, or 0."
            )
        parts = [parts[i] for i in kept]
        start = np.array([days[p.start] for p in parts])
        stop = np.array([days[p.stop - 1] + _DAY for p in parts])
        if every is not None and every != "day":
            start = start.astype(f"datetime64[{every[0].upper()}]")
            start, stop = start.astype("datetime64[D]"), (start + 1).astype("datetime64[D]")
        return cls(every, clock, min_coverage, slots, shift, before, count, parts, np.array(steps)[kept], start, stop)

    def by_day(self, array: xr.DataArray) -> da.Array:
        """Return a Dask array (day, slot, latitude, longitude) on the clock; NaN where the maps do not reach."""
        lazy = da.asarray(array.transpose(*_DIMS).data)
        length = max(1, round(lazy.chunksize[0] / self.slots)) * self.slots
        columns = np.split(np.arange(len(self.shift)), np.flatnonzero(np.diff(self.shift)) + 1)
        out = []
        for part in columns:
            values = lazy[:, :, part[0] : part[-1] + 1].astype("float32")
            before = self.before + int(self.shift[part[0]])
            pads = before, self.count * self.slots - before - values.shape[0]
            blank = [da.full((n, *values.shape[1:]), np.float32(np.nan), chunks=(-1, *values.chunks[1:])) for n in pads]
            values = da.concatenate([blank[0], values, blank[1]]).rechunk({0: length})
            out.append(values.reshape(self.count, self.slots, *values.shape[1:]))
        return da.concatenate(out, axis=-1).rechunk({3: lazy.chunks[2]})

    def labelled(self, values: da.Array, like: xr.DataArray, methods: str) -> xr.DataArray:
        """Name the dimensions of (period, [slot,] latitude, longitude), and compute it if `like` is not lazy."""
        dims = ("time", *(("hour",) if values.ndim == 4 else ()), *_DIMS[1:])
        data = values.compute() if like.chunks is None else values
        attrs = {k: v for k, v in like.attrs.items() if k not in ("flag_values", "flag_meanings", "cell_methods")}
        over = self.every or f"{self.start[0]} to {self.stop[0] - _DAY}"
        return xr.DataArray(data, dims=dims, attrs=attrs | {"cell_methods": methods, "averaged_over": over})


def _share(share: float | None, default: float) -> float:
    if share is not None and not 0 <= share <= 1:
        raise ConfigError(f"min_coverage: expected 0 to 1, found {share!r}.")
    return default if share is None else share


def _averaged(maps: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the arrays whose mean in time is meaningful."""
    names = (str(n) for n, a in maps.data_vars.items() if set(a.dims) == set(_DIMS) and a.dtype.kind in "fiub")
    return {name: maps[name] for name in names if not name.endswith(_STD)}


def refuse_standard_deviation(name: str) -> None:
    """Refuse to add up or average NAME_std, the error of single time steps (ConfigError); other names pass."""
    flux = name.removesuffix(_STD)
    if name == flux:
        return
    raise ConfigError(
        f"{name} is the standard deviation of the error of single time steps at the scale of a tower. It has no mean "
        "or total, since the correlation of these errors in time and space is not known: write it for single time "
        f"steps (without --every and --cycle), or use {flux}_spread (uncertainty='spread'), whose mean and total are "
        "upper bounds of the spread of the members' own."
    )


def _regular(maps: xr.Dataset, name: str) -> tuple[np.datetime64, int, int]:
    """Return the start of the first step, the number of steps in a day, and the number of steps."""
    steps = steps_of(maps, name)
    length = steps.seconds[0]
    if (steps.seconds != length).any() or (steps.start[1:] != steps.stop[:-1]).any():
        at = int(np.argmax(steps.start[1:] != steps.stop[:-1]))
        raise SchemaError(f"means need steps of one length without holes; found another one after {steps.start[at]}.")
    into = (steps.start[0] - steps.start[0].astype("datetime64[D]")).astype(np.int64)
    if (24 * _HOUR) % length or into % length:
        raise SchemaError(
            f"means need steps of hours that divide a day, or of a day; found steps of {length / _HOUR:g} hours."
        )
    return steps.start[0], int(24 * _HOUR // length), len(steps.start)


def _shifts(longitude: np.ndarray, slots: int, clock: str) -> np.ndarray:
    """Return the whole steps by which local mean solar time at the start of a step is ahead of UTC."""
    if clock == "utc":
        return np.zeros(len(longitude), np.int64)
    if slots == 1:
        raise ConfigError("clock='solar' needs hourly maps, since days cannot be divided: use clock='utc'.")
    turns = ((np.asarray(longitude, float) + 180) % 360 - 180) / 360
    return np.floor(np.round(turns * slots, 9)).astype(np.int64)


def _periods(days: np.ndarray, every: str | None, slots: int, total: int) -> tuple[list[slice], list[int]]:
    """Return the days of each period, and the number of steps in a whole period."""
    if every is None:
        return [slice(0, len(days))], [total]
    units = days.astype(f"datetime64[{every[0].upper()}]")
    edges = [0, *(np.flatnonzero(np.diff(units.astype(np.int64))) + 1).tolist(), len(days)]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return parts, [slots * _length(units[p.start], every) for p in parts]


def _length(unit: np.datetime64, every: str) -> int:
    """Return the number of days in a period."""
    year, month, *_ = (int(part) for part in str(unit.astype("datetime64[D]")).split("-"))
    return {"day": 1, "month": calendar.monthrange(year, month)[1], "year": 365 + calendar.isleap(year)}[every]


def _covered(parts: list[slice], before: np.ndarray, total: int, slots: int) -> list[int]:
    """Return the maximum, over columns, of the number of steps of each period that the maps cover."""
    low, high = int(before.min()), int(before.max())
    reach = [
        max(0, min(p.stop * slots, at + total) - max(p.start * slots, at)) for p in parts for at in range(low, high + 1)
    ]
    return np.reshape(reach, (len(parts), -1)).max(1).tolist()


def _sums(block: da.Array) -> tuple[da.Array, da.Array]:
    """Return the sum and the number of values of (day, slot, ...) over days."""
    return da.nansum(block, axis=0, dtype="float64"), da.isfinite(block).sum(axis=0)


def _mean(axis: _DayAxis, array: xr.DataArray) -> da.Array:
    days = axis.by_day(array)
    if axis.every == "day":
        there = da.isfinite(days).sum(axis=1)
        mean = da.nansum(days, axis=1, dtype="float64") / da.where(there > 0, there, np.nan)
        kept = there >= max(1, np.ceil(axis.min_coverage * axis.slots - 1e-6))
        return da.where(kept, mean, np.nan).astype("float32")[[p.start for p in axis.periods]]
    out = []
    for part, steps in zip(axis.periods, axis.steps, strict=True):
        total, count = _sums(days[part])
        slots = total / da.where(count > 0, count, np.nan)
        kept = count.sum(axis=0) >= axis.min_coverage * steps - 1e-6
        kept = kept & (count > 0).all(axis=0) if axis.min_coverage > 0 else kept
        out.append(da.where(kept, da.nanmean(slots, axis=0), np.nan).astype("float32"))
    return da.stack(out)


def _cycle(axis: _DayAxis, array: xr.DataArray) -> da.Array:
    days, out = axis.by_day(array), []
    for part, steps in zip(axis.periods, axis.steps, strict=True):
        total, count = _sums(days[part])
        kept = count >= np.maximum(axis.min_coverage * steps / axis.slots - 1e-6, 1e-6)
        out.append(da.where(kept, total / da.where(count > 0, count, np.nan), np.nan).astype("float32"))
    return da.stack(out)


def _finished(out: xr.Dataset, maps: xr.Dataset, axis: _DayAxis) -> xr.Dataset:
    """Add coordinates and attributes to means."""
    coords: dict[str, object] = {
        str(name): coord for name, coord in maps.coords.items() if not {"time", "day"} & set(coord.dims)
    }
    start, stop = (edge.astype("datetime64[ns]") for edge in (axis.start, axis.stop))
    clock = "local mean solar date" if axis.clock == "solar" else "UTC"
    long_name = f"first moment of the {axis.every or 'period'}, {clock}"
    attrs = {"standard_name": "time", "axis": "T", "long_name": long_name}
    coords |= {"time": ("time", start, attrs), "time_bnds": (("time", "bnds"), np.stack([start, stop], 1))}
    if "hour" in out.dims:
        hour = np.arange(axis.slots) * 24.0 / axis.slots
        attrs = {"long_name": f"start of the hour, {_CLOCKS[axis.clock]}", "units": "h", "bounds": "hour_bnds"}
        coords |= {"hour": ("hour", hour, attrs)}
        coords |= {"hour_bnds": (("hour", "bnds"), np.stack([hour, hour + 24.0 / axis.slots], 1))}
    out = out.assign_coords(coords).assign_attrs(_attrs(maps.attrs, axis))
    return out if axis.every else out.isel(time=0)


def _attrs(attrs: Mapping[str, object], axis: _DayAxis) -> dict[str, object]:
    kept = {k: v for k, v in derived_attrs(attrs).items() if k not in ("kind", "complete")}
    return kept | {
        "averaged_over": axis.every or "the whole period",
        "averaged_clock": axis.clock,
        "averaged_min_coverage": axis.min_coverage,
    }
