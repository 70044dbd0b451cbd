"""Time steps of maps at towers and of observations: the finer data are averaged over the steps of the coarser ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.localdays import to_daily
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.common_units import units_of
from fluxcube.resolution import DAILY, HOURLY, Default, QualityLimit, Resolution, quality_limit
from fluxcube.samples.quality import best_flags
from fluxcube.units import convert, same_unit
from fluxcube.variables import table

logger = logging.getLogger(__name__)

Labelled = xr.Dataset | xr.DataArray
Arrays = dict[str, xr.DataArray]
#: Attribute of sums and scores that describes averages over time; absent where nothing was averaged.
AVERAGING = "averaging"
_DAY = np.timedelta64(1, "D")
#: Minimum number of days of a month and of a year; of other periods it is half of their days, rounded up.
_MONTH, _YEAR = 15, 183
#: A flux of which daily means have the units of hourly ones: it stands for every flux, whose units are converted apart.
_ANY_FLUX = "LE"
#: Largest distance of a clock from UTC, hours.
_CLOCKS = 14


@dataclass(frozen=True, eq=False)
class Periods:
    """Days or longer periods, over which data are averaged.

    Attributes
    ----------
    start, stop : (period,) datetime64[D]
        First day of each period, and the day after its last one; in increasing order.
    """

    start: np.ndarray
    stop: np.ndarray

    @property
    def days(self) -> np.ndarray:
        """Number of days (period,) of each period."""
        return (self.stop - self.start).astype(int)

    @property
    def needed(self) -> np.ndarray:
        """Minimum number of days (period,) for a mean."""
        days = self.days
        month, year = (days >= 28) & (days <= 31), days >= 365
        return np.where(month, _MONTH, np.where(year, _YEAR, -(-days // 2)))

    @classmethod
    def of(cls, data: Labelled) -> Periods:
        """Return the periods of data with steps longer than a day, from their time bounds or the distance of stamps."""
        time = data["time"].values.astype("datetime64[D]")
        if (bounds := _bounds(data)) is not None:
            stop = (bounds[:, 1] + np.timedelta64(43200, "s")).astype("datetime64[D]")  # may end at 23:59
            return cls(bounds[:, 0].astype("datetime64[D]"), stop)
        steps = np.diff(time).astype(int)
        if len(steps) and steps.min() >= 28:
            unit = "Y" if steps.min() >= 360 else "M"
            first = time.astype(f"datetime64[{unit}]")
            if len(np.unique(first)) == len(first):
                return cls(first.astype("datetime64[D]"), (first + 1).astype("datetime64[D]"))
        if not len(steps):
            raise SchemaError(
                f"the length of the single time step {time[0]} of the maps is unknown: assign the coordinate time_bnds."
            )
        return cls(time, np.append(time[1:], time[-1] + np.timedelta64(int(np.median(steps)), "D")))


@dataclass(frozen=True, eq=False)
class CommonSteps:
    """Observations and predictions with the same time steps.

    Attributes
    ----------
    observed, flags : dict of str to xr.DataArray
        Observations, and their flags or qualities, by target.
    predicted : dict of str to dict
        Predictions by model and target.
    resolution : Resolution
        Resolution of the observations: daily for averages over days and longer periods.
    limit : QualityLimit
        Limit of quality.
    note : str
        What was averaged, in words; "" for nothing.
    """

    observed: Arrays
    flags: Arrays
    predicted: dict[str, Arrays]
    resolution: Resolution
    limit: QualityLimit
    note: str = ""


def step_days(data: Labelled) -> float:
    """Return the length of the time steps in days, NaN if it is unknown: by their bounds, else by their distance."""
    if data["time"].dtype.kind != "M" or not data.sizes["time"]:
        return float("nan")
    if (bounds := _bounds(data)) is not None:
        return float(np.median((bounds[:, 1] - bounds[:, 0]) / _DAY))
    if data.sizes["time"] > 1:
        return float(np.diff(np.sort(data["time"].values)).min() / _DAY)
    return 1.0 if data.attrs.get("resolution") == DAILY.name else float("nan")


def _bounds(data: Labelled) -> np.ndarray | None:
    """Return the time bounds (time, 2) datetime64[s]; None without bounds."""
    bounds = data.coords.get("time_bnds")
    if bounds is None or bounds.dims[:1] != ("time",) or bounds.shape[1:] != (2,) or bounds.dtype.kind != "M":
        return None
    return bounds.values.astype("datetime64[s]")


def longest_step(obs: Labelled, predictions: Mapping[str, Labelled]) -> float:
    """Return the length, in days, of the longest time steps of observations and predictions.

    Steps of several hours count as days, since daily means are the next longer ones that fluxcube computes.
    """
    steps = [step_days(data) for data in (obs, *predictions.values())]
    longest = max((step for step in steps if np.isfinite(step)), default=float("nan"))
    return 1.0 if HOURLY.step / _DAY * 1.01 < longest < 1 else longest


def in_common_steps(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    observed: Arrays,
    flags: Arrays,
    predicted: Mapping[str, Arrays],
    resolution: Resolution,
    max_qc: int | Default | None,
    min_quality: float | Default | None,
) -> CommonSteps:
    """Average the finer of observations and predictions over the time steps of the coarser, if some are maps.

    Days are those of a daily cube (local standard time); of an hourly cube they are those of local mean solar time, or
    of UTC if the maps state this (attribute ``averaged_clock``, or UTC in the long name of time). A day needs all of
    its hours, gap-filled ones included; its quality is the measured or well filled share of them. A longer period has
    the mean of its days within the limit of quality, at least 15 of a month, 183 of a year and half of others.

    Parameters
    ----------
    obs, predictions : xr.Dataset or xr.DataArray
        Data with their time bounds and attributes; maps are sampled at towers already.
    observed, flags, predicted
        The arrays of each target in them.
    resolution : Resolution
        Resolution of the observations.
    max_qc, min_quality
        As `fluxcube.evaluate` takes them; they refer to the common time steps.

    Returns
    -------
    CommonSteps

    Raises
    ------
    SchemaError
        If two predictions have different steps longer than a day.
    ConfigError
        If `max_qc` is passed and the common steps are days or longer: then `min_quality` limits the quality.
    """
    sampled = [name for name, data in predictions.items() if "cell_distance" in data.coords]
    longest = longest_step(obs, predictions) if sampled else float("nan")
    steps = {name: step_days(data) for name, data in predictions.items()}
    unequal = any(step < 0.99 * longest for step in (step_days(obs), *steps.values()))
    shared = [target for target in observed if all(target in arrays for arrays in predicted.values())]
    if not unequal or not shared:
        limit = quality_limit(resolution, max_qc, min_quality, default=resolution.measured)
        return CommonSteps(observed, flags, dict(predicted), resolution, limit)
    limit = quality_limit(DAILY, max_qc, min_quality, default=DAILY.measured)
    if unknown := [name for name, step in steps.items() if not np.isfinite(step)]:
        raise SchemaError(f"the length of the time steps of {unknown[0]} is unknown: assign the coordinate time_bnds.")
    clock = _Clock.of(obs, predictions, steps)
    observed, flags = ({t: arrays[t] for t in shared if t in arrays} for arrays in (observed, flags))
    predicted = {model: {t: arrays[t] for t in shared} for model, arrays in predicted.items()}
    if step_days(obs) < 0.99:
        observed, flags = _observed_days(observed, flags, clock)
    daily = {
        model: arrays if steps[model] >= 0.99 else _predicted_days(arrays, predictions[model], clock)
        for model, arrays in predicted.items()
    }
    note = f"daily means over {clock.name}"
    if longest > 1.5:
        observed, flags, daily = _in_periods(obs, predictions, observed, flags, daily, limit)
        note = f"means over periods of {longest:g} days, from {note}"
    logger.info("scored after averaging: %s", note)
    return CommonSteps(observed, flags, daily, DAILY, limit, note)


def _in_periods(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    observed: Arrays,
    flags: Arrays,
    predicted: Mapping[str, Arrays],
    limit: QualityLimit,
) -> tuple[Arrays, Arrays, dict[str, Arrays]]:
    """Return daily observations and predictions as means over the periods of those that have longer steps."""
    own = {name: Periods.of(data) for name, data in predictions.items() if step_days(data) > 1.5}
    of_obs = Periods.of(obs) if step_days(obs) > 1.5 else None
    periods = of_obs or next(iter(own.values()))
    _check_same_periods(periods, own)
    if of_obs is None:
        observed, flags = _observed_periods(observed, flags, limit, periods)
    else:
        observed, flags = ({t: _labelled(a, of_obs) for t, a in arrays.items()} for arrays in (observed, flags))
    out = {
        model: {t: _labelled(a, own[model]) if model in own else _period_means(a, periods) for t, a in arrays.items()}
        for model, arrays in predicted.items()
    }
    return observed, flags, out


@dataclass(frozen=True, eq=False)
class _Clock:
    """Clock of the days over which hours are averaged.

    Attributes
    ----------
    name : str
        In words.
    offset : (site,) xr.DataArray
        Hours by which the clock is ahead of UTC.
    """

    name: str
    offset: xr.DataArray

    @classmethod
    def of(cls, obs: Labelled, predictions: Mapping[str, Labelled], steps: Mapping[str, float]) -> _Clock:
        """Return the clock of the daily data: of the observations if they are daily, else of the maps."""
        if step_days(obs) >= 0.99:
            known = "utc_offset" in obs.coords
            offset = obs["utc_offset"].reset_coords(drop=True) if known else (_longitude(obs) / 15).round()
            return cls("days of local standard time", offset)
        coarse = [predictions[name] for name, step in steps.items() if step >= 0.99]
        if any(_in_utc(data) for data in coarse):
            return cls("days of UTC", _longitude(obs) * 0.0)
        return cls("days of local mean solar time", _longitude(obs) / 15)

    def at(self, array: xr.DataArray) -> xr.DataArray:
        """Return the offsets (site,) of the sites of an array; 0 for sites without observations."""
        return self.offset.reindex(site=array["site"]).fillna(0.0)


def _in_utc(data: Labelled) -> bool:
    """Return whether days are those of UTC: by the attribute of `mean_maps`, else by the name of the time axis."""
    clock = str(data.attrs.get("averaged_clock", ""))
    return clock.lower() == "utc" or (not clock and "UTC" in str(data["time"].attrs.get("long_name", "")))


def _longitude(obs: Labelled) -> xr.DataArray:
    if "longitude" not in obs.coords:
        raise SchemaError("daily means at towers need the coordinate longitude of each site: assign it.")
    return (obs["longitude"].reset_coords(drop=True) + 180) % 360 - 180


def _observed_days(observed: Arrays, flags: Arrays, clock: _Clock) -> tuple[Arrays, Arrays]:
    """Return daily means of hourly observations in the units of daily data, and the quality of each day."""
    values, quality = {}, {}
    for target, array in observed.items():
        known = flags.get(target)
        if known is not None:
            best = xr.DataArray(best_flags(array), dims="site" if "site" in array.dims else ())
            known = xr.where((known >= 0) & (known <= best), 0, known)
        mean, good = _days(array, known, clock)
        values[target] = _in_daily_units(mean, target, units_of(array))
        if known is not None:
            quality[target] = good
    return values, quality


def _predicted_days(arrays: Arrays, data: Labelled, clock: _Clock) -> Arrays:
    """Return daily means of predictions in steps of hours, in the units of daily data."""
    minutes = round(step_days(data) * 1440)
    means = {target: _days(array, None, clock, minutes=minutes)[0] for target, array in arrays.items()}
    return {target: _in_daily_units(mean, target, units_of(arrays[target])) for target, mean in means.items()}


def _in_daily_units(array: xr.DataArray, target: str, units: str) -> xr.DataArray:
    """Return an array in the units of daily data; without units it has those of hourly data."""
    hourly, daily = table().get(target), table("daily").get(target)
    units = units or (hourly.units if hourly else "")
    others = [name for name in ("units", "target_units") if name in array.coords]
    array = array.drop_vars(others).assign_attrs(units=units) if units else array
    if daily is None or not units or same_unit(units, daily.units):
        return array
    try:
        factor = float(convert(np.array([1.0]), units, daily.units, name=target)[0])
    except ConfigError:
        return array  # refused, with its name, where units are compared
    changed = (array * factor).assign_attrs(units=daily.units)
    changed.attrs.pop("standard_name", None)  # of another quantity than that of daily data
    return changed


def _days(
    array: xr.DataArray, flags: xr.DataArray | None, clock: _Clock, *, minutes: int = 60
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return daily means (site, time) of steps of hours, and the measured or well filled share of each day."""
    array = array.sortby("time").chunk({"time": -1}) if array.chunks is not None else array.sortby("time")
    time = array["time"].values
    reach = np.timedelta64(_CLOCKS, "h")
    days = np.arange((time[0] - reach).astype("datetime64[D]"), (time[-1] + reach).astype("datetime64[D]") + _DAY)
    flags = xr.zeros_like(array, dtype=np.int8) if flags is None else flags.reindex(time=array["time"], fill_value=-1)
    flags = flags.chunk({"time": -1}) if flags.chunks is not None else flags
    mean, good = xr.apply_ufunc(
        _site_days,
        array,
        flags.reset_coords(drop=True),
        clock.at(array),
        kwargs={"time": time, "days": days, "minutes": minutes},
        input_core_dims=[["time"], ["time"], []],
        output_core_dims=[["day"], ["day"]],
        exclude_dims={"time"},
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.float32, np.float32],
        dask_gufunc_kwargs={"output_sizes": {"day": len(days)}},
        keep_attrs=True,
    )
    dates = {"time": days.astype("datetime64[ns]")}
    return mean.rename(day="time").assign_coords(dates), good.rename(day="time").assign_coords(dates)


def _site_days(
    values: np.ndarray, flags: np.ndarray, offset: float, *, time: np.ndarray, days: np.ndarray, minutes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (day,) and qualities (day,) of one site by the rules of daily cubes."""
    arrays = {_ANY_FLUX: ("time", values), f"{_ANY_FLUX}_QC": ("time", flags)}
    record = xr.Dataset(arrays, {"time": time}, {"step_minutes": minutes})
    daily = to_daily(record, utc_offset=float(offset)).reindex(time=days.astype("datetime64[ns]"))
    return daily[_ANY_FLUX].values, daily[f"{_ANY_FLUX}_QUALITY"].values


def _observed_periods(observed: Arrays, flags: Arrays, limit: QualityLimit, periods: Periods) -> tuple[Arrays, Arrays]:
    """Return means of the days of each period whose quality is sufficient, and the mean quality of these days."""
    values, quality = {}, {}
    for target, array in observed.items():
        share = flags.get(target)
        if share is not None:
            share = share.reindex(time=array["time"])
            limit_accepts = xr.apply_ufunc(limit.accepts, share, dask="parallelized", output_dtypes=[bool])
            array = array.where(limit_accepts)
            quality[target] = _period_means(share.where(limit_accepts & np.isfinite(array)), periods)
        values[target] = _period_means(array, periods)
    return values, quality


def _period_means(array: xr.DataArray, periods: Periods) -> xr.DataArray:
    """Return the means (site, time) of daily values over periods with enough days."""
    array = array.chunk({"time": -1}) if array.chunks is not None else array
    day = array["time"].values.astype("datetime64[D]")
    period = np.searchsorted(periods.start, day, side="right") - 1
    inside = (period >= 0) & (day < periods.stop[np.maximum(period, 0)])
    out = xr.apply_ufunc(
        _means_by_label,
        array,
        kwargs={"label": np.where(inside, period, -1), "needed": periods.needed},
        input_core_dims=[["time"]],
        output_core_dims=[["period"]],
        exclude_dims={"time"},
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"period": len(periods.start)}},
        keep_attrs=True,
    )
    return _labelled(out.rename(period="time"), periods)


def _means_by_label(values: np.ndarray, *, label: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Return the means (..., label) of values (..., time) by label; NaN for fewer finite values than needed."""
    finite = np.isfinite(values) & (label >= 0)
    flat, known = np.where(finite, values, 0.0).reshape(-1, len(label)), finite.reshape(-1, len(label))
    total, count = np.zeros((2, len(flat), len(needed)))
    for i in range(len(flat)):
        at = label[known[i]]
        total[i] = np.bincount(at, flat[i, known[i]], len(needed))
        count[i] = np.bincount(at, minlength=len(needed))
    means = np.where(count >= np.maximum(needed, 1), total / np.maximum(count, 1), np.nan)
    return means.reshape(*values.shape[:-1], len(needed))


def _labelled(array: xr.DataArray, periods: Periods) -> xr.DataArray:
    """Return an array whose time stamps are the first days of the periods."""
    return array.assign_coords(time=periods.start.astype("datetime64[ns]"))


def _check_same_periods(periods: Periods, others: Mapping[str, Periods]) -> None:
    """Refuse periods of different length, such as of 8 days and of months."""
    typical = np.median(periods.days)
    for name, other in others.items():
        found = float(np.median(other.days))
        if abs(found - typical) > 0.2 * typical:
            raise SchemaError(
                f"there are time steps of {typical:g} and of {found:g} days ({name}), which cannot be averaged over "
                "each other: compare these predictions one by one."
            )


def check_days(attrs: Mapping[str, object], what: str) -> None:
    """Refuse scores of means over periods longer than a day (SchemaError), from the attributes of sums."""
    if str(attrs.get(AVERAGING, "")).startswith("means over periods"):
        raise SchemaError(f"{what} need hourly or daily data, and these maps have longer time steps: leave them out.")


def check_unaveraged(attrs: Mapping[str, object], what: str) -> None:
    """Refuse scores of averaged data (SchemaError), from the attributes of sums."""
    if AVERAGING in attrs:
        raise SchemaError(
            f"{what} need predictions with the time steps of the observations, found {attrs[AVERAGING]}: pass a daily "
            "cube, or maps in its time steps."
        )
