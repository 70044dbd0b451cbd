"""Half-hours to UTC hours: what straddles two hours is split in proportion, and every part keeps its flag."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.variables import table

#: An hour needs this share observed to have a mean; a sum needs all of it.
MIN_COVERAGE = 0.5

_HOUR = 60


def to_hourly(record: xr.Dataset) -> xr.Dataset:
    """Turn a tower record at its own step into UTC hours.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step, to the minute, increasing; holes allowed); per variable ``NAME`` and its flag
        ``NAME_QC`` (-1 where there is no value); attribute ``step_minutes``.

    Returns
    -------
    xr.Dataset
        Dim time (every UTC hour from the first to the last that the record touches). Per variable ``NAME`` float32,
        ``NAME_QC`` int8 (the worst flag of what went in; -1 where there is no value) and ``NAME_COVERAGE`` float32
        (share of the hour that was observed, 0 to 1). An hour observed less than half is missing, and so is a sum
        unless all of it was; wind direction is averaged as a vector.

    Notes
    -----
    A step that straddles an hour's edge, as at offsets of 5.75 hours, gives each hour its share: means weigh it by
    overlap, sums are split. A record that is hourly and aligned passes through unchanged.

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
    arrays = {}
    for name in names:
        values, flags, coverage = parts.aggregate(
            record[name].values, record[f"{name}_QC"].values, table()[name].aggregate
        )
        arrays |= {name: values, f"{name}_QC": flags, f"{name}_COVERAGE": coverage}
    return xr.Dataset(
        {name: ("time", array) for name, array in arrays.items()}, coords={"time": parts.hours}, attrs=record.attrs
    )


class _Parts:
    """How the steps of a record fall into hours: each step gives minutes to one hour, or to two."""

    def __init__(self, time: np.ndarray, step: int):
        minute = time.astype("datetime64[m]").astype(np.int64)
        hour = minute // _HOUR
        inside = np.minimum(step, _HOUR - minute % _HOUR)  # minutes in the hour that the step begins in
        second = inside < step
        self._row = np.concatenate([np.arange(len(minute)), np.flatnonzero(second)])
        self._minutes = np.concatenate([inside, (step - inside)[second]]).astype(float)
        self._hour = np.concatenate([hour, hour[second] + 1])
        first = self._hour.min()
        self._hour -= first
        self._count = int(self._hour.max()) + 1
        self._step = step
        self._whole = step == _HOUR and not second.any()
        self.hours = (first + np.arange(self._count)).astype("datetime64[h]").astype("datetime64[ns]")

    def aggregate(self, values: np.ndarray, flags: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Aggregate one variable: values float32, flags int8 and coverage float32, each (hours,)."""
        if self._whole:
            present = np.isfinite(values)
            return self._placed(values, np.nan), self._placed(flags, -1), self._placed(present.astype(np.float32), 0)
        present = np.isfinite(values)[self._row]
        row, hour, minutes = self._row[present], self._hour[present], self._minutes[present]
        observed = np.bincount(hour, minutes, self._count)
        enough = observed >= (_HOUR if how == "sum" else MIN_COVERAGE * _HOUR)
        with np.errstate(invalid="ignore", divide="ignore"):
            out = self._reduce(values[row].astype(float), hour, minutes, observed, how)
        enough &= np.isfinite(out)
        worst = self._worst(flags[row], hour)
        return (
            np.where(enough, out, np.nan).astype(np.float32),
            np.where(enough, worst, -1).astype(np.int8),
            (observed / _HOUR).astype(np.float32),
        )

    def _placed(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Put values that are hours already on the axis of hours, bit by bit."""
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

    def _worst(self, flags: np.ndarray, hour: np.ndarray) -> np.ndarray:
        """Worst flag of each hour (hours,)."""
        return sum((np.bincount(hour[flags >= f], minlength=self._count) > 0).astype(np.int8) for f in (1, 2, 3))
