"""Check the latitude of a tower against its measured radiation: seasonal cycle of day length and solar elevation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.solar import potential_radiation

#: A latitude is doubtful if potential radiation at another one correlates better with the clear-sky light by more than
#: this: first for the latitude of the other hemisphere, then for any latitude. At the 157 towers of FLUXNET2015 the
#: other hemisphere is better by at most 0.003, and the best of all latitudes by at most 0.003 (half-years: 0.011).
MIRROR_MARGIN, ANY_MARGIN = 0.015, 0.02
#: Minimum number of half-months for each of the two comparisons.
MIRROR_WINDOWS, ANY_WINDOWS = 3, 12
#: Maximum share of the light (W m-2) that may exceed potential radiation by more than `EXCESS` (of daily means:
#: `DAILY_EXCESS`). At the 157 towers the maximum is 0.047 (AR-Vir; median 0.00005), for daily means 0.003.
EXCESS_SHARE, EXCESS, DAILY_EXCESS = 0.1, 50.0, 10.0

#: Light below this (W m-2 or µmol m-2 s-1) is no light: sensors have offsets of some units.
_LIT = 50.0
#: Half-months whose clear-sky maximum is below this are not used: dawn of a polar night, a broken sensor.
_MIN_LIGHT = 100.0
#: Maximum number of half-months compared, of steps and of daily means: a year of them shows the seasons.
_MOST, _MOST_DAILY = 24, 96
#: Step of the latitudes compared, and of the first look for a better one, in degrees.
_COARSE, _LOOK = 10.0, 15.0
#: Minimum gain of a first look that starts the full comparison, and minimum correlation of a better latitude: less is
#: a broken sensor. The light of the 157 towers correlates with potential radiation by 0.965 at least.
_GAIN, _MIN_CORRELATION = 0.005, 0.9
#: Correlations of daily means that show the other hemisphere: minimum there, and minimum gain.
_DAILY_CORRELATION, _DAILY_GAIN = 0.8, 0.5
_DAY = 1440


@dataclass(frozen=True)
class BetterLatitude:
    """Latitude (degrees) that fits the light better than the tower's, and the two correlations."""

    latitude: float
    correlation: float
    correlation_here: float


def better_latitude(
    light: np.ndarray, start: np.ndarray, step: int, latitude: float, longitude: float
) -> BetterLatitude | None:
    """Return the latitude that fits clear-sky light clearly better than the tower's; None if there is none.

    The course of the clear-sky light through days and seasons is compared with that of potential radiation: their
    correlation, with each half-month at the shift of the clock that fits best, so that a wrong clock has no effect.

    Parameters
    ----------
    light : (window, slot) float
        Clear-sky light of half-months at each time of the day, in any unit.
    start : (window,) datetime64[m]
        UTC of the first slot on the middle day of each window.
    step : int
        Length of a slot in minutes; the slots are one day.
    latitude, longitude : float
        Degrees north and east.
    """
    lit = np.flatnonzero(light.max(1) > _MIN_LIGHT)
    if len(lit) < MIRROR_WINDOWS:
        return None
    chosen = lit[np.unique(np.linspace(0, len(lit) - 1, min(len(lit), _MOST)).round().astype(int))]
    light, start = light[chosen], start[chosen]

    def fit(at: float) -> float:
        return _correlation(light, _potential(start, light.shape[1], step, at, longitude))

    here, mirrored = fit(latitude), fit(-latitude)
    wide = len(chosen) >= ANY_WINDOWS
    looks = [fit(float(np.clip(latitude + way, -89, 89))) for way in (-_LOOK, _LOOK)] if wide else []
    if max([mirrored, *looks]) < here + _GAIN:
        return None
    others = {-latitude: mirrored}
    if wide:
        others |= {at: fit(at) for at in np.arange(-85.0, 86.0, _COARSE).tolist()}
    best = max(others, key=others.__getitem__)
    if others[best] < _MIN_CORRELATION:
        return None
    # The mirrored latitude is named if the fit cannot tell it from the best one: a lost sign is the likeliest error.
    if mirrored > here + MIRROR_MARGIN and mirrored > others[best] - MIRROR_MARGIN:
        return BetterLatitude(-latitude, mirrored, here)
    return BetterLatitude(best, others[best], here) if others[best] > here + ANY_MARGIN else None


def excess_share(light: np.ndarray, potential: np.ndarray, excess: float = EXCESS) -> float:
    """Return the share of light (W m-2) that is more than `excess` above potential radiation, which no sky allows.

    Examples
    --------
    >>> excess_share(np.array([0.0, 300.0, 800.0, np.nan]), np.array([100.0, 400.0, 700.0, 9.0]))
    0.5
    """
    with np.errstate(invalid="ignore"):
        lit = light > _LIT
        return float((lit & (light > potential + excess)).sum() / max(int(lit.sum()), 1))


def latitude_doubts(
    better: BetterLatitude | None, share: float, latitude: float, excess: float = EXCESS, longitude: float = np.nan
) -> tuple[str, ...]:
    """Return a sentence on a latitude that the light contradicts; none if it does not.

    Parameters
    ----------
    better : BetterLatitude or None
        From `better_latitude`.
    share : float
        From `excess_share`.
    latitude, longitude : float
        Degrees north and east, as the metadata have them.
    excess : float
        As in `excess_share`.
    """
    evidence, likely = [], ""
    if share > EXCESS_SHARE:
        evidence.append(
            f"{100 * share:.0f} % of its light is more than {excess:g} W m-2 above the radiation at the top of the "
            f"atmosphere at latitude {latitude:g}, which no sky allows"
        )
        likely = "the latitude or the unit of the light is wrong"
    if better is not None:
        evidence.append(
            f"its clear-sky light fits latitude {better.latitude:g} (correlation {better.correlation:.3f}) better than "
            f"{latitude:g} ({better.correlation_here:.3f})"
        )
        likely = "the latitude is wrong"
        if better.latitude == -latitude:
            likely = f"the sign of the latitude is wrong ({-latitude:g} instead of {latitude:g}?)"
        elif abs(better.latitude - longitude) < _COARSE:
            likely = "latitude and longitude may be exchanged"
    return (f"{'; '.join(evidence)}: {likely}; correct its metadata",) if evidence else ()


def daily_doubts(date: np.ndarray, light: np.ndarray, latitude: float) -> tuple[str, ...]:
    """Return a sentence on a latitude that daily means of light contradict; none if they do not.

    Parameters
    ----------
    date : (day,) datetime64
        Local dates.
    light : (day,) float
        Measured daily means of SW_IN, W m-2; NaN where missing.
    latitude : float
        Degrees north.
    """
    window = date.astype("datetime64[D]").astype(np.int64) // 15
    known = np.isfinite(light)
    windows, count = np.unique(window[known], return_counts=True)
    windows = windows[count >= 5]
    windows = windows[np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _MOST_DAILY)).round().astype(int))]
    if len(windows) < MIRROR_WINDOWS:
        return ()
    at = np.searchsorted(windows, window).clip(0, len(windows) - 1)
    used = known & (windows[at] == window)
    clear = np.full(len(windows), -np.inf)
    np.maximum.at(clear, at[used], light[used])
    # At longitude 0 the dates are local: daily means do not depend on the longitude.
    start = (windows * 15 + 7).astype("datetime64[D]").astype("datetime64[m]")
    here, mirrored = (_potential(start, 24, 60, lat, 0.0).mean(1) for lat in (latitude, -latitude))
    share = excess_share(light[used], here[at[used]], DAILY_EXCESS)
    better = None
    if len(windows) >= ANY_WINDOWS:
        one, other = (_correlation(clear[:, None], potential[:, None]) for potential in (here, mirrored))
        if other > max(_DAILY_CORRELATION, one + _DAILY_GAIN):
            better = BetterLatitude(-latitude, other, one)
    return latitude_doubts(better, share, latitude, DAILY_EXCESS)


def _potential(start: np.ndarray, slots: int, step: int, latitude: float, longitude: float) -> np.ndarray:
    """Return potential radiation (window, slot) on the days that begin at `start`."""
    times = start[:, None] + (step * np.arange(slots)).astype("timedelta64[m]")
    return potential_radiation(times.ravel(), latitude, longitude, hours=step / 60).reshape(-1, slots)


def _correlation(light: np.ndarray, potential: np.ndarray) -> float:
    """Return the correlation of two fields (window, slot), each window at the shift of the clock that fits best."""
    light, potential = light - light.mean(), potential - potential.mean()
    norm = float(np.sqrt((light**2).sum() * (potential**2).sum()))
    if light.shape[1] == 1:
        return float((light * potential).sum()) / max(norm, 1e-9)
    spectrum = np.fft.rfft(light) * np.conj(np.fft.rfft(potential))
    return float(np.fft.irfft(spectrum, light.shape[1]).max(1).sum()) / max(norm, 1e-9)
