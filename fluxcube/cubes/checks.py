"""What a tower's record tells of itself: values that cannot be, a clock the sun contradicts, flags, places apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.normalisation import inside
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo

#: Hours that a clock may differ from the sun's, and that it may change by between seasons and over the record. The
#: 109 towers of FLUXNET2015 that these were set on differ by at most 0.56 h (AU-TTE), change by at most 0.20 h between
#: seasons and by 0.54 h over a record; any wrong hour, and daylight saving, is more.
SUN_LAG, SEASON_CHANGE, CLOCK_CHANGE = 0.6, 0.6, 0.75

#: Places farther apart than this, in km, are not one site.
SAME_SITE_KM = 10.0

_DAY = 1440
#: Days that the clear sky is looked for in; of these, so many must have been observed at each time of the day.
_WINDOW, _ENOUGH_DAYS = 15, 5
#: A window counts if the sun is that much (W m-2) higher at noon than at midnight, and its light looks like the sun's.
_MIN_RANGE, _MIN_CORRELATION = 200.0, 0.9
#: A season's lag is a median of at least so many windows.
_ENOUGH_WINDOWS = 3
#: Months that all countries with daylight saving have it in, or have it not.
_SEASONS = {"May to September": (5, 6, 7, 8, 9), "November to February": (11, 12, 1, 2)}
_EARTH_KM = 6371.0

#: Variables whose filled values are smooth at night beside measured ones, and how much a median second difference must
#: be to tell. At the 109 towers, measured NEE is at least as rough as what is flagged worst (0.97 times, AU-DaP; a
#: median of 14), TA at least 47 times; half as rough is nowhere near.
_ROUGH = {"NEE": 0.05, "TA": 0.05}
_REVERSED, _ENOUGH_TRIPLES = 0.5, 100


def within_bounds(record: xr.Dataset, names: Sequence[str]) -> tuple[xr.Dataset, dict[str, int]]:
    """Make values missing that are outside their variable's bounds, at the record's own step.

    Before any averaging, so that one impossible half-hour neither spoils its hour nor hides in it.

    Parameters
    ----------
    record : xr.Dataset
        Dim time; per variable ``NAME``, in the table's units, and its flag ``NAME_QC``.
    names : sequence of str
        Variables to check, where the record has them.

    Returns
    -------
    record : xr.Dataset
        With NaN and flag -1 in place of such values; arrays that had none are the same objects.
    counts : dict of str to int
        How many there were of each variable that had any.
    """
    counts, made = {}, {}
    for name in (name for name in names if name in record):
        values = record[name].values
        bad = np.isfinite(values) & ~inside(values[:, None], [name])[:, 0]
        if bad.any():
            counts[name] = int(bad.sum())
            made[name] = record[name].copy(data=np.where(bad, values.dtype.type(np.nan), values))
            flags = record[f"{name}_QC"]
            made[f"{name}_QC"] = flags.copy(data=np.where(bad, flags.dtype.type(-1), flags.values))
    return record.assign(made), counts


@dataclass(frozen=True, kw_only=True)
class SunLag:
    """How much later than the sun a tower's clock has its light.

    Attributes
    ----------
    hours : float
        Median over the windows, from -12 to 12; positive where measured light comes after the sun's.
    windows : int
        Half-months that tell.
    seasons : dict of str to float
        Medians of the months with and without daylight saving, where there are enough windows.
    years : dict of str to float
        Medians of each season of each year, likewise.
    """

    hours: float
    windows: int
    seasons: dict[str, float]
    years: dict[str, float]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is wrong with the clock, in words; nothing where it is right."""
        change = abs(np.diff(list(self.seasons.values())))
        if change.size and 24 - SEASON_CHANGE > change[0] > SEASON_CHANGE:
            lags = ", ".join(f"{lag:+.1f} h from {months}" for months, lag in self.seasons.items())
            return (
                f"its light is behind the sun by {lags}: stamps with daylight saving, where standard time was "
                "expected; set them back before building",
            )
        found = []
        low, high = (pick(self.years, key=self.years.get) if self.years else "" for pick in (min, max))
        if self.years and self.years[high] - self.years[low] > CLOCK_CHANGE:
            found.append(
                f"its clock changes: its light is behind the sun by {self.years[low]:+.1f} h in {low} and by "
                f"{self.years[high]:+.1f} h in {high}; give UTC_OFFSET with dates, or correct the stamps"
            )
        if abs(self.hours) > SUN_LAG:
            side = "behind" if self.hours > 0 else "ahead of"
            found.append(
                f"its light is {abs(self.hours):.1f} h {side} the sun: the stamps fit a UTC_OFFSET that is "
                f"{self.hours:+.1f} h from the one they were decoded with; correct it"
            )
        return tuple(found)


def sun_lag(record: xr.Dataset, latitude: float, longitude: float) -> SunLag | None:
    """Find how much a record's clock differs from the sun's.

    The highest light measured at each time of the day in half a month, which is nearly that of a clear sky, is compared
    with potential radiation: the lag of their highest cross-correlation over the cycle of a day. The lag of the record
    is the median over its half-months, so that clouds, shade and broken sensors of some do not matter.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step); ``SW_IN`` and ``SW_IN_QC``, or ``PPFD_IN`` and its flags; attribute
        ``step_minutes``. Only measured values count: a filled one may come from a reanalysis, whose clock is right.
    latitude, longitude : float
        Degrees north and east.

    Returns
    -------
    SunLag or None
        None where there is too little light to tell: few days, polar night, no sensor.

    References
    ----------
    Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3 (their check of time stamps against potential radiation).
    """
    step = int(record.attrs["step_minutes"])
    for name in ("SW_IN", "PPFD_IN"):
        if name in record and _DAY % step == 0:
            values = np.where(record[f"{name}_QC"].values == 0, record[name].values, np.float32(np.nan))
            lags, days = _lags(record.time.values, values, step, latitude, longitude)
            if len(lags):
                return _summary(lags, days)
    return None


def _lags(
    time: np.ndarray, light: np.ndarray, step: int, latitude: float, longitude: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lag in hours of each half-month that tells (n,), and its middle day (n,) datetime64[D]."""
    minute = time.astype("datetime64[m]").astype(np.int64)
    past = int(minute[-1] % step)  # of a step's start, which at odd offsets is not on the hour
    day, slot = np.divmod(minute - past, _DAY)
    slots, first = _DAY // step, int(day[0])
    windows = int(day[-1] - first) // _WINDOW + 1
    grid = np.full((windows * _WINDOW, slots), np.nan, np.float32)
    grid[day - first, slot // step] = light
    grid = grid.reshape(windows, _WINDOW, slots)
    middle = first + _WINDOW * np.arange(windows) + _WINDOW // 2
    told = (np.isfinite(grid).sum(1) >= _ENOUGH_DAYS).all(1)
    clear, middle = np.fmax.reduce(grid[told], 1).astype(float), middle[told]
    times = (middle[:, None] * _DAY + past + step * np.arange(slots)).astype("datetime64[m]")
    potential = potential_radiation(times.ravel(), latitude, longitude, hours=step / 60).reshape(-1, slots)
    lag, correlation = _alignment(clear, potential)
    kept = (np.ptp(potential, 1) > _MIN_RANGE) & (correlation > _MIN_CORRELATION)
    return lag[kept] * step / 60, middle[kept].astype("datetime64[D]")


def _alignment(light: np.ndarray, potential: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps (n,) that curves (n, slots) over a day come after others, to a part of a step, and their correlation."""
    slots = light.shape[1]
    light, potential = (curve - curve.mean(1, keepdims=True) for curve in (light, potential))
    spectrum = np.fft.rfft(light) * np.conj(np.fft.rfft(potential))
    norm = np.sqrt((light**2).sum(1) * (potential**2).sum(1))
    products = np.fft.irfft(spectrum, slots) / np.maximum(norm, 1e-9)[:, None]
    rows, best = np.arange(len(products)), products.argmax(1)
    before, at, after = (products[rows, (best + k) % slots] for k in (-1, 0, 1))
    # The vertex of the parabola through the highest product and its neighbours.
    bend = np.minimum(before - 2 * at + after, -1e-12)
    lag = best + 0.5 * (before - after) / bend
    return (lag + slots / 2) % slots - slots / 2, at


def _summary(lags: np.ndarray, days: np.ndarray) -> SunLag:
    months = days.astype("datetime64[M]").astype(int)
    middle = _circular_median(lags)
    lags = middle + (lags - middle + 12) % 24 - 12  # a clock 12 h off is not now ahead, now behind
    seasons, years = {}, {}
    for name, held in _SEASONS.items():
        within = np.isin(months % 12 + 1, held)
        if within.sum() >= _ENOUGH_WINDOWS:
            seasons[name] = float(np.median(lags[within]))
        year = (months + (1 if 1 in held else 0)) // 12 + 1970
        for one in np.unique(year[within]):
            if (within & (year == one)).sum() >= _ENOUGH_WINDOWS:
                years[f"{name} {one}"] = float(np.median(lags[within & (year == one)]))
    return SunLag(hours=float(middle), windows=len(lags), seasons=seasons, years=years)


def _circular_median(lags: np.ndarray) -> float:
    """Median of hours on a clock's face: of their differences from their mean direction."""
    mean = float(np.angle(np.exp(1j * np.pi * lags / 12).mean()) * 12 / np.pi)
    return float((mean + np.median((lags - mean + 12) % 24 - 12) + 12) % 24 - 12)


def reversed_flags(record: xr.Dataset, longitude: float) -> tuple[str, ...]:
    """Say which flags look as if they were of the opposite sense, as those of daily and coarser files are.

    A filled value is a mean over similar hours, or a reanalysis: from step to step it changes less than a measured one
    does. At night, where the sun does not drive all values alike, the median second difference of values under the
    best flag must not be less than half of that under the worst one.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step); ``NEE`` and ``TA`` with their flags, as far as it has them.
    longitude : float
        Degrees east.

    Returns
    -------
    tuple of str
        One sentence a variable; nothing where there are too few values of two flags to tell.
    """
    minute = record.time.values.astype("datetime64[m]").astype(np.int64)
    night = (minute + round(longitude * 4) + 180) % _DAY < 360  # from 21 to 3 o'clock
    found = []
    for name in (name for name in _ROUGH if name in record):
        flags = record[f"{name}_QC"].values
        same = night[1:-1] & (flags[2:] == flags[1:-1]) & (flags[1:-1] == flags[:-2]) & (flags[1:-1] >= 0)
        # Holes in the record make some triples longer; they are few.
        at = np.flatnonzero(same)
        if len(at) < 2 * _ENOUGH_TRIPLES:
            continue
        values, flag = record[name].values, flags[at]
        rough = np.abs(values[at + 2] - 2 * values[at + 1] + values[at])
        medians = {f: float(np.median(rough[flag == f])) for f in range(4) if (flag == f).sum() >= _ENOUGH_TRIPLES}
        if len(medians) > 1 and _ROUGH[name] < medians[max(medians)] > medians[min(medians)] / _REVERSED:
            found.append(
                f"the flags of {name} look reversed: values flagged {min(medians)} are smoother from step to step than "
                f"those flagged {max(medians)}, as only filled values are (median second differences at night "
                f"{medians[min(medians)]:.2g} and {medians[max(medians)]:.2g}); 0 must mean measured, 3 poorly filled"
            )
    return tuple(found)


def distance_km(one: SiteInfo, other: SiteInfo) -> float:
    """Return the great-circle distance of two places in km.

    Examples
    --------
    >>> round(distance_km(SiteInfo(site="a", latitude=0, longitude=179.5),
    ...                   SiteInfo(site="a", latitude=0, longitude=-179.5)))
    111
    """
    lat1, lon1, lat2, lon2 = np.deg2rad([one.latitude, one.longitude, other.latitude, other.longitude])
    chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return float(2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))


def places_apart(info: SiteInfo, places: Mapping[str, SiteInfo | None]) -> tuple[str, ...]:
    """Say which sources have a site of this name elsewhere, farther than `SAME_SITE_KM`.

    Parameters
    ----------
    info : SiteInfo
        The place that is used.
    places : mapping of str to SiteInfo or None
        What each source tells of the site; without both coordinates it tells nothing.

    Returns
    -------
    tuple of str
        One sentence a source.
    """
    found = []
    for source, place in places.items():
        if place is None or None in (place.latitude, place.longitude, info.latitude, info.longitude):
            continue
        km = distance_km(info, place)
        if km > SAME_SITE_KM:
            found.append(
                f"{source} has {info.site} at {place.latitude:g}, {place.longitude:g}, {km:.0f} km from "
                f"{info.latitude:g}, {info.longitude:g}, which is used: two sites of one name, or a wrong coordinate; "
                "build them apart, or correct the metadata"
            )
    return tuple(found)
