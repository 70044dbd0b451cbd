"""Half-hours and hours to local days: all of a day, gap-filled hours included, and the share of it that is good."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.timestamps import Offset, dated_offsets
from fluxcube.variables import Variable, table

#: Grams of carbon a day in one µmol of CO2 a second: 12.011e-6 * 86400 = 1.0377.
GRAMS_OF_CARBON = 12.011e-6 * 86400

#: A mean needs this share of the day; a flux, a sum and a range need all of it.
MIN_COVERAGE = 0.9

_HOUR, _DAY = 60, 1440
#: All of a day, within what shares kept as float32 add up to.
_ALL = 0.9999


def to_daily(record: xr.Dataset, *, utc_offset: Offset) -> xr.Dataset:
    """Turn a tower's half-hours or hours into local days.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step, increasing; holes allowed). Either at its own step, as
        `fluxcube.sources.towers.readers.read_archive` gives it (attribute ``step_minutes``), or UTC hours, as
        `fluxcube.cubes.hourly.to_hourly` gives them (``<NAME>_COVERAGE``).
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the site's standard time, or dated entries; the same that decoded its stamps.

    Returns
    -------
    xr.Dataset
        Dim time (every local date from the first to the last that the record touches). Per variable of the daily table
        ``<NAME>`` float32 in its units, ``<NAME>_QUALITY`` float32 (share of the day with flag 0 or 1, measured or good
        fill; NaN where there is no value), and ``<NAME>_RANDUNC`` and ``<NAME>_JOINTUNC`` where the record has them;
        TA_RANGE is made of TA. Attributes are the record's, but for ``step_minutes`` (1440).

    Notes
    -----
    A day's value is the mean (P: the sum; WD: the vector mean) of *all* of its hours, gap-filled ones included. Gaps
    are nights more often than days: at 109 FLUXNET2015 towers the mean of measured hours alone, on days with at least
    half of them, has 1.07 gC m-2 d-1 less NEE on average (1.0 at the median tower, up to 4.2). A step that straddles
    midnight gives each day its share.

    Fluxes that are targets, sums and TA_RANGE need the whole day. Other means need 90 % of it: with one gap of 10 %
    the error of a day's mean is 0.07 (TA), 0.10 (VPD) and 0.4 (SW_IN) of the standard deviation of daily means (six
    FLUXNET2015 towers); with half of the day missing, which ONEFlux allows for variables that it does not fill, it is
    0.4, 0.5 and 2.

    TA_RANGE is the highest minus the lowest mean of an hour of the local clock; steps that straddle such hours, as UTC
    hours of an offset of +5:30 do, count for the hour that has their middle, since blending two of them would make
    ranges smaller. Where dated offsets change, the days are those of the offset that held; the day that lost hours to
    the change is not whole.

    Uncertainties are ONEFlux's for a day: random errors are independent, so the day's is sqrt(sum u_i^2) / n over the
    n steps that have one (those measured); what the joint uncertainty holds beside it, the USTAR threshold, errs alike
    in all steps, and is averaged. The day has one only where it has a value.

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
        made = _aggregate(record, rows[name], bins)
        arrays |= {name + ending: ("time", array.astype(np.float32)) for ending, array in made.items()}
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
    """Return the share of a day that a variable's day needs, a little less than it for shares that are float32."""
    whole = row.aggregate == "sum" or "target" in row.roles
    return _ALL if whole else MIN_COVERAGE * _ALL


def _step(record: xr.Dataset) -> int:
    if "step_minutes" not in record.attrs:
        raise ConfigError(
            "to_daily: expected a record with the attribute step_minutes, as read_archive gives it, or with "
            "<NAME>_COVERAGE, as to_hourly does; found neither"
        )
    return int(record.attrs["step_minutes"])


class _Bins:
    """How steps of local minutes fall into hours or days: each gives minutes to one, or to two.

    Attributes
    ----------
    first : int
        The first one, counted from 1970; `count` is how many there are.
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
        """Sum (bins,) of amounts a minute (time,), NaN counting as nothing."""
        return np.bincount(self._index, np.nan_to_num(amounts)[self._row] * self._minutes, self.count)

    def total_squares(self, amounts: np.ndarray) -> np.ndarray:
        """Sum (bins,) of squares of amounts a minute (time,) times minutes, NaN counting as nothing."""
        return np.bincount(self._index, (np.nan_to_num(amounts)[self._row] * self._minutes) ** 2, self.count)


def _aggregate(record: xr.Dataset, row: Variable, bins: _Bins) -> dict[str, np.ndarray]:
    """Return a variable's arrays (days,) by the ending of their names."""
    values = record[row.name].values.astype(float)
    share = _observed_share(record, row.name)
    observed = bins.total(share)
    with np.errstate(invalid="ignore", divide="ignore"):
        out = _reduce(values, share, observed, row, bins)
    enough = (observed >= needed_share(row) * _DAY) & np.isfinite(out)
    factor = _factor(row)
    made = {"": out * factor, "_QUALITY": _good_share(record, row.name, bins)}
    made |= {ending: spread * factor for ending, spread in _uncertainties(record, row.name, share, bins).items()}
    return {ending: np.where(enough, array, np.nan) for ending, array in made.items()}


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
    """Return the share of each day (days,) that is measured or good fill; a missing hour is neither."""
    flags = record[f"{name}_QC"].values
    good = (flags >= 0) & (flags <= 1)
    return np.minimum(bins.total(_observed_share(record, name) * good) / _DAY, 1.0)


def _factor(row: Variable) -> float:
    """Return what turns a mean of the hourly table's units into the daily table's."""
    units = table()[row.name].units, row.units
    if row.aggregate == "sum" or units[0] == units[1]:
        return 1.0
    return {("umol m-2 s-1", "gC m-2 d-1"): GRAMS_OF_CARBON}[units]


def _uncertainties(record: xr.Dataset, name: str, share: np.ndarray, bins: _Bins) -> dict[str, np.ndarray]:
    """Return the uncertainties of each day's mean (days,), NaN where no step has one."""
    found = {}
    random, joint = (record.get(f"{name}_{kind}") for kind in ("RANDUNC", "JOINTUNC"))
    if random is not None:
        found["_RANDUNC"] = _independent(random.values, share, bins)
    if joint is not None:
        own = joint.values if random is None else np.sqrt(np.maximum(joint.values**2 - random.values**2, 0))
        alike = _mean(own, share, bins)
        found["_JOINTUNC"] = alike if random is None else np.hypot(alike, found["_RANDUNC"])
    return found


def _independent(spread: np.ndarray, share: np.ndarray, bins: _Bins) -> np.ndarray:
    there = np.where(np.isfinite(spread), share, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(bins.total_squares(spread * there)) / bins.total(there)


def _mean(spread: np.ndarray, share: np.ndarray, bins: _Bins) -> np.ndarray:
    there = np.where(np.isfinite(spread), share, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return bins.total(spread * there) / bins.total(there)


def _clock_hours(minutes: np.ndarray, step: int, days: _Bins) -> _Bins:
    """Return the hours of the local days that steps belong to, each to one."""
    nearest = (minutes + step // 2) // step * step
    return _Bins(nearest, step, _HOUR, first=days.first * 24, count=days.count * 24)


def _range(values: np.ndarray, hours: _Bins) -> np.ndarray:
    """Return the highest minus the lowest hour of each day (days,) float32, NaN unless all 24 have at least half."""
    observed = hours.total(np.isfinite(values).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(observed >= _HOUR / 2, hours.total(values.astype(float)) / observed, np.nan)
    means = means.reshape(-1, 24)
    return (means.max(1) - means.min(1)).astype(np.float32)  # NaN, which both hand on, where an hour is missing


def _local_minutes(time: np.ndarray, utc_offset: Offset) -> np.ndarray:
    """Return minutes since 1970 (time,) int64 on the site's clock of UTC times."""
    since, hours = dated_offsets(utc_offset)
    shift = np.round(hours * 60).astype(np.int64)
    minutes = time.astype("datetime64[m]").astype(np.int64)
    # A clock that goes on to a new offset shows its first stamp when the old one has run up to it.
    begins = since.astype(np.int64)[1:] - np.minimum(shift[:-1], shift[1:])
    return minutes + shift[np.searchsorted(begins, minutes, side="right")]
