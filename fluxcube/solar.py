"""Potential radiation: sunlight at the top of the atmosphere, as ONEFlux computes SW_IN_POT."""

from __future__ import annotations

import numpy as np

from fluxcube.timestamps import local_clock

#: Solar constant of ONEFlux, W m-2 (common.c, get_daily_rpot); newer estimates are near 1361.
SOLAR_CONSTANT = 1376.0


def _year_angle(doy: np.ndarray) -> np.ndarray:
    """Angle of the year (radians) of a day of year counted from 0."""
    return 2 * np.pi * doy / 365.0


def declination(doy: np.ndarray) -> np.ndarray:
    """Solar declination (radians) of a day of year counted from 0 (Spencer 1971)."""
    a = _year_angle(doy)
    return (
        0.006918
        - 0.399912 * np.cos(a)
        + 0.070257 * np.sin(a)
        - 0.006758 * np.cos(2 * a)
        + 0.000907 * np.sin(2 * a)
        - 0.002697 * np.cos(3 * a)
        + 0.00148 * np.sin(3 * a)
    )


def distance_factor(doy: np.ndarray) -> np.ndarray:
    """Inverse square of the Earth-Sun distance, relative to its mean (Spencer 1971)."""
    a = _year_angle(doy)
    return 1.00011 + 0.034221 * np.cos(a) + 0.00128 * np.sin(a) + 0.000719 * np.cos(2 * a) + 0.000077 * np.sin(2 * a)


def equation_of_time(doy: np.ndarray) -> np.ndarray:
    """Minutes by which the true sun is ahead of the mean sun (NOAA, after Spencer 1971)."""
    a = _year_angle(doy)
    return 229.18 * (
        0.000075 + 0.001868 * np.cos(a) - 0.032077 * np.sin(a) - 0.014615 * np.cos(2 * a) - 0.040849 * np.sin(2 * a)
    )


def potential_radiation(
    time: np.ndarray, latitude: float | np.ndarray, longitude: float | np.ndarray, *, hours: float = 1.0
) -> np.ndarray:
    """Mean radiation on a horizontal plane at the top of the atmosphere (SW_IN_POT).

    The cosine of the solar zenith is integrated in closed form over each step, cut off at the horizon,
    which is what ONEFlux's mean over minutes converges to.

    Parameters
    ----------
    time : (time,) datetime64
        UTC, at the start of the step.
    latitude, longitude : float or arrays of one shape ``place``
        Degrees north and east.
    hours : float
        Length of a step.

    Returns
    -------
    (..., time) float64
        W m-2, never negative.

    References
    ----------
    ONEFlux, common.c, get_daily_rpot (https://github.com/fluxnet/ONEFlux); Spencer 1971, "Fourier series
    representation of the position of the sun"; Pastorello et al. 2020, doi:10.1038/s41597-020-0534-3.

    Examples
    --------
    >>> noon = np.array(["2020-03-20T12:00"], "datetime64[m]") - np.timedelta64(23, "m")
    >>> potential_radiation(noon, 0.0, 0.0).round()
    array([1383.])
    """
    longitude = np.asarray(longitude, float)
    doy, tod = local_clock(time, longitude / 15.0)
    doy = np.floor(doy)  # ONEFlux holds declination and distance through a day: 0.06 W m-2 at CH-Cha's noon, else 0.9
    true_time = tod + equation_of_time(doy) / 60.0
    phi = np.deg2rad(np.asarray(latitude, float))[..., None]
    delta = declination(doy)
    mean_cosine = _mean_positive_cosine(
        np.sin(delta) * np.sin(phi),
        np.cos(delta) * np.cos(phi),
        np.deg2rad(15.0 * (true_time - 12.0)),
        np.deg2rad(15.0 * hours),
    )
    return SOLAR_CONSTANT * distance_factor(doy) * mean_cosine


def _mean_positive_cosine(a: np.ndarray, b: np.ndarray, start: np.ndarray, width: float) -> np.ndarray:
    """Mean of max(0, a + b cos w) for hour angles w from `start` to `start + width` (radians), b >= 0."""
    start = (start + np.pi) % (2 * np.pi) - np.pi
    # Above the horizon for |w| < sunset; b = 0 at the poles, where the sign of a decides.
    sunset = np.arccos(np.clip(-a / np.maximum(b, 1e-12), -1.0, 1.0))
    total = 0.0
    for turn in (0.0, 2 * np.pi):  # a step may run past midnight into the next day's light
        low = np.clip(start, turn - sunset, turn + sunset)
        high = np.clip(start + width, turn - sunset, turn + sunset)
        total = total + a * (high - low) + b * (np.sin(high) - np.sin(low))
    return np.maximum(total / width, 0.0)
