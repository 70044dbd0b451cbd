"""Aggregate half-hours and hours to local days, gap-filled hours included, and the share of each day that is good."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.timestamps import Offset, dated_offsets
from fluxcube.variables import Variable, table

#: Grams of carbon a day in one µmol of CO2 a second: 12.011e-6 * 86400 = 1.0377.
GRAMS_OF_CARBON = 12.011e-6 * 86400

#: Minimum share of a day that must be observed for a mean; a flux, a sum and a range need the whole day.
MIN_COVERAGE = 0.9

_HOUR, _DAY = 60, 1440
#: The whole day, within the rounding errors of sums of float32 shares.
_ALL = 0.9999


def to_daily(record: xr.Dataset, *, utc_offset: Offset) -> xr.Dataset:
    """Aggregate the half-hours or hours of a tower to local days.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step, increasing; gaps allowed). Either at its own step, as
        `fluxcube.sources.towers.readers.read_archive` returns it (attribute ``step_minutes``), or UTC hours, as
        `fluxcube.cubes.hourly.to_hourly` returns them (``<NAME>_COVERAGE``).
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the site's standard time, or dated entries; those that its time stamps were decoded with.

    Returns
    -------
    xr.Dataset
        Dim time (every local date from the first to the last that the record overlaps). Per variable of the daily table
        ``<NAME>`` float32 in its units, ``<NAME>_QUALITY`` float32 (share of the day with flag 0 or 1, measured or good
        fill; NaN where there is no value), and ``<NAME>_RANDUNC`` and ``<NAME>_JOINTUNC`` where the record has them;
        TA_RANGE is computed from TA. Attributes are the record's, except ``step_minutes`` (1440).

    Notes
    -----
    The value of a day is the mean (P: the sum; WD: the vector mean) of *all* of its hours, gap-filled ones included.
    Gaps occur more often at night than by day: at 109 FLUXNET2015 towers the mean of measured hours alone, on days with
    at least half of them, has 1.07 gC m-2 d-1 less NEE on average (1.0 at the median tower, up to 4.2). A step that
    straddles midnight contributes to both days in proportion.

    Fluxes that are targets, sums and TA_RANGE need the whole day. Other means need 90 % of it: with one gap of 10 %
    the error of a daily mean is 0.07 (TA), 0.10 (VPD) and 0.4 (SW_IN) of the standard deviation of daily means (six
    FLUXNET2015 towers); with half of the day missing, which ONEFlux allows for variables that it does not fill, it is
    0.4, 0.5 and 2.

    TA_RANGE is the maximum minus the minimum of the means of local clock hours; steps that straddle such hours, as UTC
    hours at an offset of +5:30 do, count for the hour that contains their middle, since averaging two of them would
    make ranges smaller. Where dated offsets change, days follow the offset in force; a day that lost hours because of
    the change is not complete.

    Uncertainties follow ONEFlux: random errors are independent, so that of a day is sqrt(sum u_i^2) / n over the n
    steps that have one (those measured); the other part of the joint uncertainty, that of the USTAR threshold, is the
    same in all steps, and is averaged. A day has an uncertainty only where it has a value.

    References
    ----------
    Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3; ONEFlux's list of daily variables.

    Examples
    --------
    >>> time = np.datetime64("2020-06-01T06", "ns") + np.arange(48) * np.timedelta64(30, "m")
    >>> nee = np.where(np.arange(48) < 24, 2.0, -4.0).astype(np.float32)
    >>> record = xr.Dataset(
    ...     {"NEE": ("time", nee), "NEE_QC": ("time", np.repeat(np.int8([0, 2]), 24))},
    ...     coords={"time": time}, attrs={"step_minutes": 30})
    >>> day = to_daily(record, utc_offset=-6)
    >>> str(day.time.values[0])[:10], round(float(day.NEE[0]), 4), float(day.NEE_QUALITY[0])
    ('2020-06-01', -1.0378, 0.5)
    """
    rows = table("daily")
    hourly = any(str(name).endswith("_COVERAGE") for name in record.data_vars)
    step = _HOUR if hourly else _step(record)
    minutes = _local_minutes(record.time.values, utc_offset)
    bins = _Bins(minutes, step, _DAY)
    arrays: dict[str, tuple] = {}
    for name in (str(name) for name in record.data_vars if name in rows):
        columns = _aggregate(record, rows[name], bins)
        arrays |= {name + ending: ("time", array.astype(np.float32)) for ending, array in columns.items()}
    if "TA" in record:
        spread = _range(record.TA.values, _clock_hours(minutes, step, bins))
        quality = np.where(np.isfinite(spread), _good_share(record, "TA", bins), np.nan)
        arrays |= {"TA_RANGE": ("time", spread), "TA_RANGE_QUALITY": ("time", quality.astype(np.float32))}
    days = (bins.first + np.arange(bins.count)).astype("datetime64[D]").astype("datetime64[ns]")
    out = xr.Dataset(arrays, coords={"time": days}, attrs={**record.attrs, "step_minutes": _DAY})
    for name in rows.keys() & arrays.keys():
        out[name].attrs.update(rows[name].attrs)
    return out


def needed_share(row: Variable) -> float:
    """Return the minimum share of a day for a variable, reduced slightly to allow for rounding of float32 shares."""
    whole = row.aggregate == "sum" or "target" in row.roles
    return _ALL if whole else MIN_COVERAGE * _ALL


def _step(record: xr.Dataset) -> int:
    if "step_minutes" not in record.attrs:
        raise ConfigError(
            "to_daily: expected a record with the attribute step_minutes, as read_archive returns it, or with "
            "<NAME>_COVERAGE, as to_hourly returns it; found neither"
        )
    return int(record.attrs["step_minutes"])


class _Bins:
    """Assignment of steps, in local minutes, to bins (hours or days): the minutes of each belong to one, or to two.

    Attributes
    ----------
    first : int
        The first bin, counted from 1970.
    count : int
        Number of bins.
    """

    def __init__(self, minutes: np.ndarray, step: int, width: int, *, first: int | None = None, count: int = 0):
        index = minutes // width
        inside = np.minimum(step, width - minutes % width)
        second = inside < step
        self._row = np.concatenate([np.arange(len(minutes)), np.flatnonzero(second)])
        self._minutes = np.concatenate([inside, (step - inside)[second]]).astype(float)
        index = np.concatenate([index, index[second] + 1])
        self.first = int(index.min()) if first is None else first
        self.count = count or int(index.max()) - self.first + 1
        self.step, self.width = step, width
        self._index = index - self.first

    def total(self, amounts: np.ndarray) -> np.ndarray:
        """Return the sums (bins,) of amounts per minute (time,), ignoring NaN."""
        return np.bincount(self._index, np.nan_to_num(amounts)[self._row] * self._minutes, self.count)

    def total_squares(self, amounts: np.ndarray) -> np.ndarray:
        """Return the sums (bins,) of squares of amounts per minute (time,) times minutes, ignoring NaN."""
        return np.bincount(self._index, (np.nan_to_num(amounts)[self._row] * self._minutes) ** 2, self.count)


def _aggregate(record: xr.Dataset, row: Variable, bins: _Bins) -> dict[str, np.ndarray]:
    """Return the arrays (days,) of a variable by the ending of their names."""
    values = record[row.name].values.astype(float)
    share = _observed_share(record, row.name)
    observed = bins.total(share)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = _reduce(values, share, observed, row, bins)
    enough = (observed >= needed_share(row) * _DAY) & np.isfinite(out)
    factor = _factor(row)
    columns = {"": out * factor, "_QUALITY": _good_share(record, row.name, bins)}
    columns |= {ending: spread * factor for ending, spread in _uncertainties(record, row.name, share, bins).items()}
    return {ending: np.where(enough, array, np.nan) for ending, array in columns.items()}


def _observed_share(record: xr.Dataset, name: str) -> np.ndarray:
    """Return the share of each step (time,) that has a value."""
    present = np.isfinite(record[name].values)
    coverage = record.get(f"{name}_COVERAGE")
    return present.astype(float) if coverage is None else np.where(present, coverage.values, 0.0)


def _reduce(values: np.ndarray, share: np.ndarray, observed: np.ndarray, row: Variable, bins: _Bins) -> np.ndarray:
    if row.aggregate == "sum":
        return bins.total(values / bins.step)
    if row.aggregate == "vector":
        angle = np.deg2rad(values)
        east, north = bins.total(share * np.sin(angle)), bins.total(share * np.cos(angle))
        calm = np.hypot(east, north) < 1e-6 * observed  # opposite winds have no mean direction
        return np.where(calm, np.nan, np.rad2deg(np.arctan2(east, north)) % 360)
    return bins.total(values * share) / observed


def _good_share(record: xr.Dataset, name: str, bins: _Bins) -> np.ndarray:
    """Return the share of each day (days,) that is measured or well filled; missing hours are neither."""
    flags = record[f"{name}_QC"].values
    good = (flags >= 0) & (flags <= 1)
    return np.minimum(bins.total(_observed_share(record, name) * good) / _DAY, 1.0)


def _factor(row: Variable) -> float:
    """Return the factor that converts a mean from the units of the hourly table to those of the daily one."""
    units = table()[row.name].units, row.units
    if row.aggregate == "sum" or units[0] == units[1]:
        return 1.0
    return {("umol m-2 s-1", "gC m-2 d-1"): GRAMS_OF_CARBON}[units]


def _uncertainties(record: xr.Dataset, name: str, share: np.ndarray, bins: _Bins) -> dict[str, np.ndarray]:
    """Return the uncertainties of each day's mean (days,), NaN where no step has one."""
    uncertainties = {}
    random, joint = (record.get(f"{name}_{kind}") for kind in ("RANDUNC", "JOINTUNC"))
    if random is not None:
        uncertainties["_RANDUNC"] = _independent(random.values, share, bins)
    if joint is not None:
        own = joint.values if random is None else np.sqrt(np.maximum(joint.values**2 - random.values**2, 0))
        alike = _mean(own, share, bins)
        uncertainties["_JOINTUNC"] = alike if random is None else np.hypot(alike, uncertainties["_RANDUNC"])
    return uncertainties


def _independent(spread: np.ndarray, share: np.ndarray, bins: _Bins) -> np.ndarray:
    there = np.where(np.isfinite(spread), share, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(bins.total_squares(spread * there)) / bins.total(there)


def _mean(spread: np.ndarray, share: np.ndarray, bins: _Bins) -> np.ndarray:
    there = np.where(np.isfinite(spread), share, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return bins.total(spread * there) / bins.total(there)


def _clock_hours(minutes: np.ndarray, step: int, days: _Bins) -> _Bins:
    """Return the assignment of steps to the hours of local days, each step to one hour."""
    nearest = (minutes + step // 2) // step * step
    return _Bins(nearest, step, _HOUR, first=days.first * 24, count=days.count * 24)


def _range(values: np.ndarray, hours: _Bins) -> np.ndarray:
    """Return the range of hourly means of each day (days,) float32; NaN unless half of each hour was observed."""
    observed = hours.total(np.isfinite(values).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(observed >= _HOUR / 2, hours.total(values.astype(float)) / observed, np.nan)
    means = means.reshape(-1, 24)
    return (means.max(1) - means.min(1)).astype(np.float32)  # NaN, which both propagate, where an hour is missing


def _local_minutes(time: np.ndarray, utc_offset: Offset) -> np.ndarray:
    """Convert UTC times to minutes since 1970 (time,) int64 on the site's clock."""
    since, hours = dated_offsets(utc_offset)
    shift = np.round(hours * 60).astype(np.int64)
    minutes = time.astype("datetime64[m]").astype(np.int64)
    # The first stamp with a new offset appears when the clock with the old offset has reached it.
    begins = since.astype(np.int64)[1:] - np.minimum(shift[:-1], shift[1:])
    return minutes + shift[np.searchsorted(begins, minutes, side="right")]
