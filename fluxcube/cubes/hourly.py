"""Aggregate half-hours to UTC hours: steps that straddle two hours are split, and the parts keep their flags."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.variables import table

#: Minimum share of an hour that must be observed for a mean; a sum needs the whole hour.
MIN_COVERAGE = 0.5

#: Endings of a variable's uncertainties: random, and joint (random and USTAR filtering).
UNCERTAINTIES = ("_RANDUNC", "_JOINTUNC")

_HOUR = 60


def to_hourly(record: xr.Dataset) -> xr.Dataset:
    """Aggregate a tower record at its own step to UTC hours.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step, to the minute, increasing; gaps allowed); per variable ``NAME``, its flag
        ``NAME_QC`` (-1 where there is no value) and, where known, ``NAME_RANDUNC`` and ``NAME_JOINTUNC`` (one standard
        deviation, in its units); attribute ``step_minutes``.

    Returns
    -------
    xr.Dataset
        Dim time (every UTC hour from the first to the last that the record overlaps). Per variable ``NAME`` float32,
        ``NAME_QC`` int8 (the worst flag of the values used; -1 where there is no value) and ``NAME_COVERAGE`` float32
        (share of the hour that was observed, 0 to 1), and ``NAME_RANDUNC`` and ``NAME_JOINTUNC`` float32 where the
        record has them. An hour of which less than half was observed is missing; a sum is missing unless the whole hour
        was observed; wind direction is averaged as a vector. Attributes of ``NAME``, as numbers of native steps:
        ``values`` (with a value), ``steps_split`` (that overlap two hours) and ``steps_lost`` (in an hour that is
        missing; a part of a step counts as a fraction).

    Notes
    -----
    A step that straddles two hours, as at offsets of 5.75 hours, contributes to each: means weight it by overlap, sums
    are split. A record that is hourly and aligned is returned unchanged.

    Random errors of two half-hours are independent of each other (Hollinger & Richardson 2005): with weights w_i that
    add up to 1, the random error of an hour is sqrt(sum((w_i u_i)^2)). The joint uncertainty also includes that of the
    USTAR threshold, whose error is the same in all half-hours (Pastorello et al. 2020); it is treated as if all of it
    were: that of an hour is the weighted mean, sum(w_i u_i), which is never too small, and too large by the independent
    part. An hour has an uncertainty only if every value used had one.

    References
    ----------
    Hollinger & Richardson 2005, doi:10.1093/treephys/25.7.873; Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3.

    Examples
    --------
    >>> time = np.datetime64("2020-01-01T00:15", "ns") + np.arange(4) * np.timedelta64(30, "m")
    >>> record = xr.Dataset(
    ...     {"TA": ("time", np.float32([1, 2, 3, 4])), "TA_QC": ("time", np.int8([0, 0, 1, 0]))},
    ...     coords={"time": time}, attrs={"step_minutes": 30})
    >>> hourly = to_hourly(record)
    >>> hourly.TA.values, hourly.TA_QC.values
    (array([1.3333334, 3.       ,       nan], dtype=float32), array([ 0,  1, -1], dtype=int8))
    """
    names = [str(name) for name in record.data_vars if name in table()]
    parts = _Parts(record.time.values, int(record.attrs["step_minutes"]))
    arrays: dict[str, tuple] = {}
    for name in names:
        spread = {end: record[name + end].values for end in UNCERTAINTIES if name + end in record}
        columns, counts = parts.aggregate(
            record[name].values, record[f"{name}_QC"].values, table()[name].aggregate, spread
        )
        arrays |= {name + end: ("time", array) for end, array in columns.items()}
        arrays[name] = ("time", columns[""], counts)
    return xr.Dataset(arrays, coords={"time": parts.hours}, attrs=record.attrs)


class _Parts:
    """Assignment of the steps of a record to hours: the minutes of each step belong to one hour, or to two."""

    def __init__(self, time: np.ndarray, step: int):
        minute = time.astype("datetime64[m]").astype(np.int64)
        hour = minute // _HOUR
        inside = np.minimum(step, _HOUR - minute % _HOUR)  # minutes in the hour that the step begins in
        self._second = inside < step
        self._row = np.concatenate([np.arange(len(minute)), np.flatnonzero(self._second)])
        self._minutes = np.concatenate([inside, (step - inside)[self._second]]).astype(float)
        self._hour = np.concatenate([hour, hour[self._second] + 1])
        first = self._hour.min()
        self._hour -= first
        self._count = int(self._hour.max()) + 1
        self._step = step
        self._straddles = bool(self._second.any())
        self._whole = step == _HOUR and not self._straddles
        aligned = _HOUR % step == 0 and not (minute % step).any()
        self._slots = self._hour * (_HOUR // step) + minute % _HOUR // step if aligned and step < _HOUR else None
        self.hours = (first + np.arange(self._count)).astype("datetime64[h]").astype("datetime64[ns]")

    def aggregate(
        self, values: np.ndarray, flags: np.ndarray, how: str, spread: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return arrays (hours,) of one variable and its uncertainties by ending, and counts of native steps."""
        present = np.isfinite(values)
        if self._whole:
            columns = {"": self._placed(values, np.nan), "_QC": self._placed(flags, -1)}
            columns["_COVERAGE"] = self._placed(present.astype(np.float32), 0)
            columns |= {
                end: self._placed(np.where(present, u, np.float32(np.nan)), np.nan) for end, u in spread.items()
            }
            return columns, {"values": int(present.sum()), "steps_split": 0, "steps_lost": 0.0}
        if self._slots is not None and how != "vector" and not spread:
            return self._in_slots(values, flags, how)
        there = present[self._row]
        row, hour, minutes = self._row[there], self._hour[there], self._minutes[there]
        observed = np.bincount(hour, minutes, self._count)
        enough = observed >= (_HOUR if how == "sum" else MIN_COVERAGE * _HOUR)
        with np.errstate(invalid="ignore", divide="ignore"):
            out = self._reduce(values[row].astype(float), hour, minutes, observed, how)
            spread = {
                end: self._spread(u[row].astype(float), hour, minutes, observed, end) for end, u in spread.items()
            }
        enough &= np.isfinite(out)
        columns = {"": np.where(enough, out, np.nan).astype(np.float32)}
        columns["_QC"] = np.where(enough, self._worst(flags[row], hour), -1).astype(np.int8)
        columns["_COVERAGE"] = (observed / _HOUR).astype(np.float32)
        columns |= {end: np.where(enough, u, np.nan).astype(np.float32) for end, u in spread.items()}
        return columns, {
            "values": int(present.sum()),
            "steps_split": int((present & self._second).sum()) if self._straddles else 0,
            "steps_lost": float(observed[~enough].sum() / self._step),
        }

    def _in_slots(
        self, values: np.ndarray, flags: np.ndarray, how: str
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Aggregate steps that do not straddle hours, in columns: faster, with results equal to the last bit."""
        each = _HOUR // self._step
        grid, worst = np.full(self._count * each, np.nan, values.dtype), np.full(self._count * each, -1, np.int8)
        grid[self._slots] = values
        worst[self._slots] = np.where(np.isfinite(values), flags, -1)
        steps, total, flag = np.zeros(self._count, np.int16), np.zeros(self._count), np.full(self._count, -1, np.int8)
        share = 1 if how == "sum" else self._step
        for i in range(each):  # a loop over columns, because numpy is slow along axes this short
            present = np.isfinite(grid[i::each])
            steps += present
            total += np.where(present, grid[i::each], 0).astype(float) * share
            np.maximum(flag, worst[i::each], out=flag)
        observed = steps * float(self._step)
        enough = observed >= (_HOUR if how == "sum" else MIN_COVERAGE * _HOUR)
        out = total if how == "sum" else total / np.maximum(observed, 1)
        return {
            "": np.where(enough, out, np.nan).astype(np.float32),
            "_QC": np.where(enough, flag, np.int8(-1)),
            "_COVERAGE": (observed / _HOUR).astype(np.float32),
        }, {"values": int(steps.sum()), "steps_split": 0, "steps_lost": float(steps[~enough].sum())}

    def _placed(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Return values that are already hourly, unchanged, at their positions on the axis of hours."""
        out = np.full(self._count, fill, values.dtype)
        out[self._hour] = values
        return out

    def _reduce(self, values, hour, minutes, observed, how: str) -> np.ndarray:
        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(hour, weights, self._count)

        if how == "sum":
            return total(values * minutes / self._step)
        if how == "vector":
            angle = np.deg2rad(values)
            east, north = total(minutes * np.sin(angle)), total(minutes * np.cos(angle))
            calm = np.hypot(east, north) < 1e-6 * observed  # opposite winds have no mean direction
            return np.where(calm, np.nan, np.rad2deg(np.arctan2(east, north)) % 360)
        return total(values * minutes) / observed

    def _spread(self, uncertainty, hour, minutes, observed, ending: str) -> np.ndarray:
        """Return the uncertainty of each hour's mean (hours,); NaN, which sums propagate, where a value has none."""
        share = uncertainty.astype(float) * minutes
        if ending == "_RANDUNC":
            return np.sqrt(np.bincount(hour, share**2, self._count)) / observed
        return np.bincount(hour, share, self._count) / observed

    def _worst(self, flags: np.ndarray, hour: np.ndarray) -> np.ndarray:
        """Return the worst flag of each hour (hours,)."""
        worse = [np.bincount(hour[flags >= f], minlength=self._count) > 0 for f in (1, 2, 3)]
        return np.stack(worse).sum(0, dtype=np.int8)
