"""Checks of a tower's record: impossible values, a wrong clock or latitude, reversed flags, contradictory locations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.latitude import better_latitude, excess_share, latitude_doubts
from fluxcube.cubes.places import location
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.codes import (
    Codes,
    added,
    possible,
    without_impossible_values,
    without_known_codes,
)

#: Maximum difference, in hours, of a clock from the sun's, and of its changes between seasons and over the record. The
#: 109 towers of FLUXNET2015 from which these were derived differ by at most 0.56 h (AU-TTE), change by at most 0.20 h
#: between seasons and by 0.54 h over a record; any wrong hour, and daylight saving, exceeds this.
SUN_LAG, SEASON_CHANGE, CLOCK_CHANGE = 0.6, 0.6, 0.75

#: Locations farther apart than this, in km, do not belong to one site.
SAME_SITE_KM = 10.0

_DAY = 1440
#: Window length in days for clear-sky values, and minimum number of days with a value at a time of day.
_WINDOW, _ENOUGH_DAYS = 15, 5
#: A window is used if potential radiation varies by more than this (W m-2), and measured light correlates with it.
_MIN_RANGE, _MIN_CORRELATION = 200.0, 0.9
#: Minimum number of windows for the lag of a season, and of a record from the values with its best flag.
ENOUGH_WINDOWS = 3
#: Months in which all countries with daylight saving time have it, or do not have it.
_SEASONS = {"May to September": (5, 6, 7, 8, 9), "November to February": (11, 12, 1, 2)}
_EARTH_KM = 6371.0

#: Variables whose filled values are smoother at night than measured ones, and the minimum median second difference for
#: the check. At the 109 towers, measured NEE is about as rough as, or rougher than, values with the worst flag (minimum
#: ratio 0.97, AU-DaP; median 14), TA at least 47 times; a ratio of 0.5 is far below.
_ROUGH = {"NEE": 0.05, "TA": 0.05}
_REVERSED, _ENOUGH_TRIPLES = 0.5, 100


def within_bounds(record: xr.Dataset, names: Sequence[str]) -> tuple[xr.Dataset, dict[str, int]]:
    """Make values outside the physical limits of their variable missing, at the record's own step.

    This precedes any averaging, so that one impossible half-hour neither spoils its hour nor remains hidden in it.

    Parameters
    ----------
    record : xr.Dataset
        Dim time; per variable ``NAME``, in the table's units, and its flag ``NAME_QC``.
    names : sequence of str
        Variables to check, if the record has them.

    Returns
    -------
    record : xr.Dataset
        With NaN and flag -1 instead of such values; arrays without any are the same objects.
    counts : dict of str to int
        Number of such values of each variable that has any.
    """
    counts, changed = {}, {}
    for name in (name for name in names if name in record):
        values = record[name].values
        bad = np.isfinite(values) & ~possible(values, name)
        if bad.any():
            counts[name] = int(bad.sum())
            changed[name] = record[name].copy(data=np.where(bad, values.dtype.type(np.nan), values))
            flags = record[f"{name}_QC"]
            changed[f"{name}_QC"] = flags.copy(data=np.where(bad, flags.dtype.type(-1), flags.values))
    return record.assign(changed), counts


def without_codes(record: xr.Dataset, names: Sequence[str]) -> tuple[xr.Dataset, dict[str, Codes]]:
    """Make codes for missing values and impossible values missing, whatever reader or user made the record.

    Parameters
    ----------
    record, names
        As in `within_bounds`.

    Returns
    -------
    record : xr.Dataset
        With NaN and flag -1 instead of such values; arrays without any are the same objects.
    codes : dict of str to dict of str to int
        Number of such values by variable and code.
    """
    found, changed = {}, {}
    for name in (name for name in names if name in record):
        values, codes = without_known_codes(name, record[name].values)
        values, others = without_impossible_values(name, values)
        if codes or others:
            found[name] = added(codes, others)
            changed[name] = record[name].copy(data=values)
            flags = record[f"{name}_QC"]
            changed[f"{name}_QC"] = flags.copy(data=np.where(np.isnan(values), flags.dtype.type(-1), flags.values))
    return record.assign(changed), found


@dataclass(frozen=True, kw_only=True)
class SunLag:
    """Delay of the measured light relative to the sun, according to a tower's clock.

    Attributes
    ----------
    hours : float
        Median over the windows, from -12 to 12; positive where measured light comes after the sun's.
    windows : int
        Number of half-months used.
    seasons : dict of str to float
        Medians over the months with and without daylight saving time, if there are enough windows.
    years : dict of str to float
        Medians over each season of each year, if there are enough windows.
    place_doubts : tuple of str
        Sentences on a latitude that the light contradicts.
    hint : str
        End of the sentence on a wrong clock, where the longitude may be wrong instead.
    """

    hours: float
    windows: int
    seasons: dict[str, float]
    years: dict[str, float]
    place_doubts: tuple[str, ...] = ()
    hint: str = ""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Sentences on what is wrong with the clock or the place; empty if both are right."""
        return (*(evidence + remedy for evidence, remedy in self.clock_faults), *self.place_doubts)

    @property
    def clock_faults(self) -> tuple[tuple[str, str], ...]:
        """What is wrong with the clock: the evidence, and the rest of the sentence, with what to do in a build."""
        change = abs(np.diff(list(self.seasons.values())))
        if change.size and 24 - SEASON_CHANGE > change[0] > SEASON_CHANGE:
            lags = ", ".join(f"{lag:+.1f} h from {months}" for months, lag in self.seasons.items())
            evidence = (
                f"its light is behind the sun by {lags}: stamps with daylight saving, where standard time was expected"
            )
            return ((evidence, "; set them back before building"),)
        faults = []
        low, high = (pick(self.years, key=self.years.__getitem__) if self.years else "" for pick in (min, max))
        if self.years and self.years[high] - self.years[low] > CLOCK_CHANGE:
            evidence = (
                f"its clock changes: its light is behind the sun by {self.years[low]:+.1f} h in {low} and by "
                f"{self.years[high]:+.1f} h in {high}"
            )
            faults.append((evidence, "; give UTC_OFFSET with dates, or correct the stamps"))
        if abs(self.hours) > SUN_LAG:
            side = "behind" if self.hours > 0 else "ahead of"
            remedy = (
                f": the stamps fit a UTC_OFFSET that is {self.hours:+.1f} h from the one they were decoded with; "
                f"correct it{self.hint}"
            )
            faults.append((f"its light is {abs(self.hours):.1f} h {side} the sun", remedy))
        return tuple(faults)


def sun_lag(record: xr.Dataset, latitude: float, longitude: float) -> SunLag | None:
    """Estimate the difference of a record's clock from the sun's, and check its latitude.

    The maximum light measured at each time of the day in half a month, which is nearly that of a clear sky, is compared
    with potential radiation; the lag is that of their highest cross-correlation over the daily cycle. The lag of the
    record is the median over its half-months, so that clouds, shade and broken sensors in some of them have no effect.
    Where the light contradicts the latitude (`fluxcube.cubes.latitude`), the lag is that at the latitude it fits.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step); ``SW_IN`` and ``SW_IN_QC``, or ``PPFD_IN`` and its flags; attribute
        ``step_minutes``. Values with the best flag are used, and those with a worse one, which may come from a
        reanalysis whose clock is right, only if the better ones are too few for `ENOUGH_WINDOWS` half-months.
    latitude, longitude : float
        Degrees north and east.

    Returns
    -------
    SunLag or None
        None if there is too little light for an estimate: few days, polar night, no sensor.

    References
    ----------
    Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3 (the check of time stamps against potential radiation).
    """
    step = int(record.attrs["step_minutes"])
    for name in ("SW_IN", "PPFD_IN"):
        if name in record and _DAY % step == 0:
            lag = _best_lag(record, name, step, latitude, longitude)
            if lag is not None:
                return lag
    return None


def _best_lag(record: xr.Dataset, name: str, step: int, latitude: float, longitude: float) -> SunLag | None:
    """Return the lag of the light with the best flags that are enough for an estimate; None if there is none.

    Published CarbonSense has no flag 0 (v1: 1, v2: 2), and a record may have few measured values.
    """
    flags, best = record[f"{name}_QC"].values, None
    for worst in np.unique(flags[flags >= 0]):
        values = np.where((flags >= 0) & (flags <= worst), record[name].values, np.float32(np.nan))
        grid, start = _half_months(record.time.values, values, step)
        lag = _lag_of(grid, start, step, latitude, longitude, watts=name == "SW_IN") if len(grid) else None
        if lag is not None and (lag.windows >= ENOUGH_WINDOWS or lag.place_doubts):
            return lag
        if lag is not None and (best is None or lag.windows > best.windows):
            best = lag
    return best


def _half_months(time: np.ndarray, light: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the light (n, day, slot) of each half-month with enough of it, and the start of its middle day (n,)."""
    minute = time.astype("datetime64[m]").astype(np.int64)
    past = int(minute[-1] % step)  # minutes past the step at which steps begin, not 0 at odd offsets
    day, slot = np.divmod(minute - past, _DAY)
    slots, first = _DAY // step, int(day[0])
    windows = int(day[-1] - first) // _WINDOW + 1
    days = np.full((windows * _WINDOW, slots), np.nan, np.float32)
    days[day - first, slot // step] = light
    grid = days.reshape(windows, _WINDOW, slots)
    middle = first + _WINDOW * np.arange(windows) + _WINDOW // 2
    enough = (np.isfinite(grid).sum(1) >= _ENOUGH_DAYS).all(1)
    return grid[enough], (middle[enough] * _DAY + past).astype("datetime64[m]")


def _lag_of(
    grid: np.ndarray, start: np.ndarray, step: int, latitude: float, longitude: float, *, watts: bool
) -> SunLag | None:
    """Return the lag of half-months (n, day, slot) that begin at `start` (n,), and what is doubtful about the place."""
    slots = grid.shape[-1]
    clear = np.fmax.reduce(grid, 1).astype(float)
    times = (start[:, None] + (step * np.arange(slots)).astype("timedelta64[m]")).ravel()

    def potential_at(at: float) -> np.ndarray:
        return potential_radiation(times, at, longitude, hours=step / 60).reshape(-1, slots)

    potential = potential_at(latitude)
    share = excess_share(grid, _shifted(potential, _alignment(clear, potential)[0])[:, None, :]) if watts else 0.0
    better = better_latitude(clear, start, step, latitude, longitude)
    doubts = latitude_doubts(better, share, latitude, longitude=longitude)
    if better is not None:
        potential = potential_at(better.latitude)
    lag, correlation = _alignment(clear, potential)
    kept = (np.ptp(potential, 1) > _MIN_RANGE) & (correlation > _MIN_CORRELATION)
    if not kept.any():
        return SunLag(hours=0.0, windows=0, seasons={}, years={}, place_doubts=doubts) if doubts else None
    lags, days = lag[kept] * step / 60, start[kept].astype("datetime64[D]")
    return _summary(lags, days, longitude, doubts)


def _alignment(light: np.ndarray, potential: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lags (n,) of daily curves (n, slots) behind others, in fractions of steps, and their correlations."""
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


def _shifted(curves: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return daily curves (n, slots) float32, each delayed by its lag (n,) in slots, as a wrong clock does."""
    slots = curves.shape[1]
    at = (np.arange(slots) - np.round(lags).astype(int)[:, None]) % slots
    return np.take_along_axis(curves, at, 1).astype(np.float32)


def _summary(lags: np.ndarray, days: np.ndarray, longitude: float, doubts: tuple[str, ...]) -> SunLag:
    """Return the medians of lags (n,) over all windows, seasons and years."""
    months = days.astype("datetime64[M]").astype(int)
    middle = _circular_median(lags)
    lags = middle + (lags - middle + 12) % 24 - 12  # avoids jumps between -12 and 12 h
    seasons, years = {}, {}
    for name, members in _SEASONS.items():
        within = np.isin(months % 12 + 1, members)
        if within.sum() >= ENOUGH_WINDOWS:
            seasons[name] = float(np.median(lags[within]))
        year = (months + (1 if 1 in members else 0)) // 12 + 1970
        for one in np.unique(year[within]):
            if (within & (year == one)).sum() >= ENOUGH_WINDOWS:
                years[f"{name} {one}"] = float(np.median(lags[within & (year == one)]))
    shift = 2 * longitude / 15  # hours by which a lost sign of the longitude shifts the light
    turned = min(abs(middle), abs(shift)) > SUN_LAG > abs((middle - shift + 12) % 24 - 12)
    hint = f", or the sign of the longitude: the light fits {-longitude:g} as well" if turned else ""
    return SunLag(hours=float(middle), windows=len(lags), seasons=seasons, years=years, place_doubts=doubts, hint=hint)


def _circular_median(lags: np.ndarray) -> float:
    """Return the circular median of hours: the median of their differences from their mean direction."""
    mean = float(np.angle(np.exp(1j * np.pi * lags / 12).mean()) * 12 / np.pi)
    return float((mean + np.median((lags - mean + 12) % 24 - 12) + 12) % 24 - 12)


def reversed_flags(record: xr.Dataset, longitude: float) -> tuple[str, ...]:
    """Find flags that seem to have the opposite sense, as those of daily and coarser files do.

    A filled value is a mean over similar hours, or from a reanalysis: it changes less from step to step than a measured
    one. At night, when the sun does not drive all values, the median second difference of values with the best flag
    must not be less than half of that of values with the worst one.

    Parameters
    ----------
    record : xr.Dataset
        Dim time (UTC start of each step); ``NEE`` and ``TA`` with their flags, if it has them.
    longitude : float
        Degrees east.

    Returns
    -------
    tuple of str
        One sentence for each such variable; none if there are too few values with two flags.
    """
    minute = record.time.values.astype("datetime64[m]").astype(np.int64)
    night = (minute + round(longitude * 4) + 180) % _DAY < 360  # from 21 to 3 o'clock
    sentences = []
    for name in (name for name in _ROUGH if name in record):
        flags = record[f"{name}_QC"].values
        same = night[1:-1] & (flags[2:] == flags[1:-1]) & (flags[1:-1] == flags[:-2]) & (flags[1:-1] >= 0)
        # Gaps in the record make a few triples longer.
        at = np.flatnonzero(same)
        if len(at) < 2 * _ENOUGH_TRIPLES:
            continue
        values, flag = record[name].values, flags[at]
        rough = np.abs(values[at + 2] - 2 * values[at + 1] + values[at])
        medians = {f: float(np.median(rough[flag == f])) for f in range(4) if (flag == f).sum() >= _ENOUGH_TRIPLES}
        if len(medians) > 1 and _ROUGH[name] < medians[max(medians)] > medians[min(medians)] / _REVERSED:
            sentences.append(
                f"the flags of {name} look reversed: values flagged {min(medians)} are smoother from step to step than "
                f"those flagged {max(medians)}, as only filled values are (median second differences at night "
                f"{medians[min(medians)]:.2g} and {medians[max(medians)]:.2g}); 0 must mean measured, 3 poorly filled"
            )
    return tuple(sentences)


def distance_km(one: SiteInfo, other: SiteInfo) -> float:
    """Return the great-circle distance of two sites in km.

    Raises
    ------
    SourceError
        If a site has no latitude or longitude.

    Examples
    --------
    >>> round(distance_km(SiteInfo(site="a", latitude=0, longitude=179.5),
    ...                   SiteInfo(site="a", latitude=0, longitude=-179.5)))
    111
    """
    lat1, lon1, lat2, lon2 = np.deg2rad([*location(one), *location(other)])
    chord = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return float(2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))


def places_apart(info: SiteInfo, places: Mapping[str, SiteInfo | None]) -> tuple[str, ...]:
    """Find sources whose location of the site is farther than `SAME_SITE_KM` from the one used.

    Parameters
    ----------
    info : SiteInfo
        Metadata with the location that is used.
    places : mapping of str to SiteInfo or None
        Metadata of the site by source; those without both coordinates are ignored.

    Returns
    -------
    tuple of str
        One sentence for each such source.
    """
    sentences = []
    for source, place in places.items():
        if place is None or None in (place.latitude, place.longitude, info.latitude, info.longitude):
            continue
        km = distance_km(info, place)
        if km > SAME_SITE_KM:
            sentences.append(
                f"{source} has {info.site} at {place.latitude:g}, {place.longitude:g}, {km:.0f} km from "
                f"{info.latitude:g}, {info.longitude:g}, which is used: two sites of one name, or a wrong coordinate; "
                "build them apart, or correct the metadata"
            )
    return tuple(sentences)
