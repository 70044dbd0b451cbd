"""Surface features: model inputs computed from the reflectance of a point or area under a clear sky.

Towers and grids use the same functions. Features are computed once per local day and then indexed by time step. A view
of a local day is known from local solar noon of that day on (hourly), or on that day (daily); later views change
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from fluxcube.cubes.climatology import PERCENTILES, STATISTICS, view_statistics
from fluxcube.errors import ConfigError, unknown
from fluxcube.indices import INDICES, bands_of, bounds_of, index_of
from fluxcube.resolution import HOURLY, Resolution
from fluxcube.schema import SURFACE_BEFORE
from fluxcube.timestamps import DAY, solar_noon
from fluxcube.variables import SURFACE_BANDS

#: Columns of the surface reflectance that `fluxcube.fit` uses by default where the cube has it. Long-term percentiles
#: are not among them: they identify a tower, and cost skill at towers that are new (`docs/skill.md`).
DEFAULT_COLUMNS: Final = (
    *("NDVI_MEAN_16D", "NIRv_MEAN_16D", "LSWI_MEAN_16D", "CCI_MEAN_16D"),
    *("NDVI_MEAN_64D", "NIRv_MEAN_64D", "LSWI_MEAN_64D", "CCI_MEAN_64D"),
    *("NDVI_SEASON", "NIRv_SEASON", "LSWI_SEASON", "CCI_SEASON"),
)

#: Name of the column that contains the age of the latest clear view.
AGE: Final = "SURFACE_AGE"
#: Maximum age, in days, of a value that is carried forward.
OLDEST: Final = 32
#: Maximum number of days in the column `AGE`.
OLDEST_AGE: Final = 64
#: Maximum number of days of a mean: the days that cubes and forcings keep before their first hour.
LONGEST_MEAN: Final = int(SURFACE_BEFORE // DAY)
#: Bands that are both valid in a clear view, as counted by the column `AGE`.
CLEAR_BANDS: Final = ("red", "nir")
#: Larger values, in absolute value, are discarded: fill values, or an index whose denominator is near zero.
_WIDEST = 2.0
#: Values are rounded to multiples of 1 / _UNIT before they are summed, so that sums are exact and do not depend on the
#: day on which they start.
_UNIT = 2.0**20
_COLUMN = re.compile(r"([A-Za-z0-9]+)(?:_MEAN_([1-9][0-9]*)D|(_SEASON))?")
_STATIC = re.compile(r"([A-Za-z0-9]+)_P(10|50|90)")

Kind = Literal["latest", "mean", "season", "age"]


@dataclass(frozen=True)
class Column:
    """A model input that is computed from the surface reflectance; see `column_of`.

    Attributes
    ----------
    name : str
        Name of the column.
    feature : str
        Band or index; "" for the age.
    kind : {"latest", "mean", "season", "age"}
        Latest clear value, mean of the clear values of the last days, mean seasonal cycle, or age of the latest view.
    days : int
        Number of days before the present one, itself included, that the column depends on; 0 for a seasonal cycle.
    """

    name: str
    feature: str
    kind: Kind
    days: int

    @property
    def bounds(self) -> tuple[float, float]:
        """Limits (low, high) that scale the column for a model."""
        return (0.0, float(OLDEST_AGE)) if self.kind == "age" else bounds_of(self.feature)

    @property
    def units(self) -> str:
        """Units of the column before scaling."""
        return "d" if self.kind == "age" else "1"

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that the column is computed from."""
        return CLEAR_BANDS if self.kind == "age" else bands_of(self.feature)


def column_of(name: str) -> Column:
    """Return the column of a name.

    Parameters
    ----------
    name : str
        ``X``, a band or an index (latest clear value, at most 32 days old); ``X_MEAN_8D`` or any other number of days;
        ``X_SEASON``; or ``SURFACE_AGE``.

    Raises
    ------
    UnknownNameError
        If it is no such name.
    ConfigError
        If a mean is over more days than cubes and forcings keep before their first hour.

    Examples
    --------
    >>> column_of("NDVI_MEAN_64D")
    Column(name='NDVI_MEAN_64D', feature='NDVI', kind='mean', days=64)
    """
    if name == AGE:
        return Column(name, "", "age", OLDEST_AGE + 1)
    match = _COLUMN.fullmatch(name)
    if match is None or match[1] not in (*SURFACE_BANDS, *INDICES):
        raise unknown("surface column", name, (*SURFACE_BANDS, *INDICES, AGE, *DEFAULT_COLUMNS))
    if match[2]:
        if int(match[2]) > LONGEST_MEAN:
            raise ConfigError(
                f"{name}: expected a mean of at most {LONGEST_MEAN} days, as cubes and forcings keep no earlier days "
                f"before their first hour; use a shorter mean, or {match[1]}_SEASON."
            )
        return Column(name, match[1], "mean", int(match[2]))
    return Column(name, match[1], "season", 0) if match[3] else Column(name, match[1], "latest", OLDEST + 1)


def static_feature(name: str) -> tuple[str, str] | None:
    """Return the band or index and the percentile of a static number such as "NDVI_P10"; None for another name.

    Examples
    --------
    >>> static_feature("NDVI_P10"), static_feature("latitude")
    (('NDVI', 'p10'), None)
    """
    match = _STATIC.fullmatch(name)
    if match is None or match[1] not in (*SURFACE_BANDS, *INDICES):
        return None
    return match[1], f"p{match[2]}"


def bands_needed(columns: Iterable[str], statics: Iterable[str] = (), bands: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the bands, in the order of `SURFACE_BANDS`, that columns, static numbers and band tokens need.

    Examples
    --------
    >>> bands_needed(["LSWI"], ["NDVI_P10", "latitude"])
    ('red', 'nir', 'swir2')
    """
    needed = {band for name in columns for band in column_of(name).bands} | set(bands)
    for pair in map(static_feature, statics):
        needed |= set(bands_of(pair[0])) if pair else set()
    return tuple(band for band in SURFACE_BANDS if band in needed)


@dataclass(frozen=True)
class SurfaceRecord:
    """Reflectance of several places under a clear sky, in RAM.

    Attributes
    ----------
    values : (n, d, b) float32
        Reflectance from 0 to 1; NaN is not clear or missing.
    days : (d,) datetime64
        Local dates, ascending.
    bands : tuple of str
        Names of the b bands, in any order.
    climatology : (n, statistic, feature) float32 or None
        Long-term statistics of each place, in the order of `STATISTICS`; None computes them from `values`.
    features : tuple of str
        Names of the bands and indices of `climatology`.
    """

    values: np.ndarray
    days: np.ndarray
    bands: tuple[str, ...]
    climatology: np.ndarray | None = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.shape[1:] != (len(self.days), len(self.bands)):
            raise ConfigError(
                f"expected surface reflectance (n, {len(self.days)}, {len(self.bands)}), one entry for each day and "
                f"band, found {self.values.shape}; pass the days and bands of the array."
            )
        days = np.asarray(self.days).astype("datetime64[D]")
        if (wrong := np.flatnonzero(np.diff(days) <= np.timedelta64(0, "D"))).size:
            raise ConfigError(
                f"expected ascending days of surface reflectance, each once, found {days[wrong[0] + 1]} after "
                f"{days[wrong[0]]}; sort them and leave out duplicates."
            )
        shape = (len(self.values), len(STATISTICS), len(self.features))
        if self.climatology is not None and self.climatology.shape != shape:
            raise ConfigError(
                f"expected a climatology {shape}, one entry for each of the statistics {', '.join(STATISTICS)} and "
                f"features, found {self.climatology.shape}; pass all statistics in this order."
            )

    def feature(self, name: str, days: slice = slice(None)) -> np.ndarray:
        """Return a band or an index (n, d) float64 of some days; NaN where it is not clear or not plausible."""
        bands = {band: self._band(band, days) for band in bands_of(name)}
        return _plausible(index_of(name, bands))

    def _band(self, name: str, days: slice) -> np.ndarray:
        """Return a band (n, d) float64, all NaN if the record lacks it."""
        if name not in self.bands:
            return np.full((len(self.values), len(self.days[days])), np.nan)
        return _plausible(self.values[:, days, self.bands.index(name)].astype(float))

    def statistics(self, name: str) -> np.ndarray:
        """Return the statistics (n, statistic) of a band or an index, computed from the record if there are none."""
        if self.climatology is not None and name in self.features:
            return self.climatology[..., self.features.index(name)]
        return view_statistics(self.feature(name)[:, None], self.days)[:, 0]


def _plausible(values: np.ndarray) -> np.ndarray:
    """Return values, NaN where they are too large: fill values, or an index whose denominator is near zero."""
    return np.where(np.abs(values) <= _WIDEST, values, np.nan)


def surface_statics(record: SurfaceRecord | None, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the long-term numbers (n,) among some static inputs, in their units; none without a record."""
    pairs = {name: pair for name in names if (pair := static_feature(name))}
    if record is None:
        return {}
    return {name: record.statistics(x)[:, STATISTICS.index(p)] for name, (x, p) in pairs.items()}


def surface_columns(
    record: SurfaceRecord | None,
    names: Sequence[str],
    time: np.ndarray,
    longitude: np.ndarray,
    *,
    resolution: Resolution = HOURLY,
    lookahead: int = 0,
    scaled: bool = False,
) -> np.ndarray:
    """Return columns of the surface reflectance on a time axis.

    Parameters
    ----------
    record : SurfaceRecord or None
        Reflectance of n places; None is missing.
    names : sequence of str
        Columns, as `column_of` takes them.
    time : (t,) datetime64
        Consecutive UTC hours, or local dates.
    longitude : (n,) float
        Degrees east.
    resolution : Resolution
        Of the time axis.
    lookahead : int
        Number of days by which views are known earlier.
    scaled : bool
        Whether columns are scaled by their bounds to [-0.5, 0.5], or in their units.

    Returns
    -------
    (n, t, names) float32
        NaN where there is no clear view that is recent enough.

    Examples
    --------
    >>> days = np.array(["2020-01-02"], "datetime64[D]")
    >>> record = SurfaceRecord(np.full((1, 1, 1), 0.25, np.float32), days, ("red",))
    >>> hours = np.arange("2020-01-02T10", "2020-01-02T14", dtype="datetime64[h]")
    >>> surface_columns(record, ["red"], hours, np.array([0.0])).ravel()
    array([ nan,  nan, 0.25, 0.25], dtype=float32)
    """
    n = len(longitude)
    columns = [column_of(name) for name in names]
    if record is None or not len(time) or not columns:
        return np.full((n, len(time), len(columns)), np.nan, np.float32)
    day = _day_of(time, longitude, resolution)
    first, last = int(day.min()), int(day.max())
    daily = _daily(record, columns, first, last, lookahead)
    if scaled:
        bounds = np.array([column.bounds for column in columns], np.float32)
        daily = (daily - bounds.mean(1)) / (bounds[:, 1] - bounds[:, 0])
    if len(daily[0]) == len(time) and resolution.steps_per_day == 1:
        return daily
    at = day - first + np.arange(n)[:, None] * daily.shape[1]
    return daily.reshape(-1, len(columns)).take(at, axis=0)


def _day_of(time: np.ndarray, longitude: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Return the latest local day (n, t), in days since 1970, whose view is known in each time step."""
    steps = np.asarray(time).astype(f"datetime64[{resolution.unit}]").astype(np.int64)
    if resolution.local:
        return np.broadcast_to(steps, (len(longitude), len(steps)))
    noon = solar_noon(np.zeros(1, "datetime64[D]"), np.asarray(longitude, float)).astype(np.int64)
    return (steps - noon) // resolution.steps_per_day


def _daily(record: SurfaceRecord, columns: Sequence[Column], first: int, last: int, lookahead: int) -> np.ndarray:
    """Return the columns (n, days, columns) float32 on all days from `first` to `last`."""
    before = max((column.days for column in columns), default=0)
    views = _Views.of(record, first + lookahead - before, last + lookahead)
    out = np.empty((len(record.values), last - first + 1, len(columns)), np.float32)
    for i, column in enumerate(columns):
        if column.kind == "season":
            months = record.statistics(column.feature)[:, len(PERCENTILES) :]
            out[..., i] = _season(months, np.arange(first, last + 1))
        elif column.kind == "mean":
            out[..., i] = _trailing(views.feature(column.feature), column.days)[:, before:]
        else:
            latest = views.latest(column.feature)
            age = views.days - latest
            value = (
                age
                if column.kind == "age"
                else np.take_along_axis(views.feature(column.feature), np.maximum(latest, 0), 1)
            )
            out[..., i] = np.where((latest >= 0) & (age < column.days), value, np.nan)[:, before:]
    return out


@dataclass(frozen=True)
class _Views:
    """Views of a record on consecutive days.

    Attributes
    ----------
    record : SurfaceRecord
    part : slice
        Days of the record that lie among the consecutive days.
    at : (k,) int64
        Position of each of these among the consecutive days.
    count : int
        Number of consecutive days.
    """

    record: SurfaceRecord
    part: slice
    at: np.ndarray
    count: int
    cache: dict[str, np.ndarray]

    @classmethod
    def of(cls, record: SurfaceRecord, first: int, last: int) -> _Views:
        """Return the views from `first` to `last`, in days since 1970."""
        days = np.asarray(record.days).astype("datetime64[D]").astype(np.int64)
        start, stop = np.searchsorted(days, (first, last + 1))
        return cls(record, slice(int(start), int(stop)), days[start:stop] - first, last - first + 1, {})

    @property
    def days(self) -> np.ndarray:
        """Positions of the consecutive days."""
        return np.arange(self.count)

    def feature(self, name: str) -> np.ndarray:
        """Return a band or an index (n, count) on the consecutive days."""
        if name not in self.cache:
            out = np.full((len(self.record.values), self.count), np.nan)
            out[:, self.at] = self.record.feature(name, self.part)
            self.cache[name] = out
        return self.cache[name]

    def latest(self, name: str) -> np.ndarray:
        """Return the position (n, count) of the latest clear value up to each day; of any clear view without a name."""
        names = (name,) if name else CLEAR_BANDS
        seen = np.all([np.isfinite(self.feature(x)) for x in names], axis=0)
        return np.maximum.accumulate(np.where(seen, self.days, -1), axis=1)


def _trailing(values: np.ndarray, days: int) -> np.ndarray:
    """Return the mean (n, d) of the values of the last `days` days, itself included; NaN if there is none."""
    seen = np.isfinite(values)
    total = np.cumsum(np.rint(np.where(seen, values, 0.0) * _UNIT), axis=1)
    count = np.cumsum(seen, axis=1)
    for sums in (total, count):
        sums[:, days:] -= sums[:, :-days].copy()
    return np.where(count > 0, total / _UNIT / np.maximum(count, 1), np.nan)


def _season(months: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the monthly means (n, 12) interpolated to days (n, d), linearly between the middles of months."""
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    middle = [_middle(month + k) for k in (-1, 0, 1)]
    present = days + 0.5
    later = present >= middle[1]
    low, high = np.where(later, middle[1], middle[0]), np.where(later, middle[2], middle[1])
    weight = (present - low) / (high - low)
    index = month.astype(np.int64)
    before, after = (index - ~later) % 12, (index + later) % 12
    return months[:, before] * (1 - weight) + months[:, after] * weight


def _middle(month: np.ndarray) -> np.ndarray:
    """Return the middle of months, in days since 1970."""
    start, end = (m.astype("datetime64[D]").astype(np.int64) for m in (month, month + 1))
    return (start + end) / 2
