"""Clocks: UTC hours, the standard time that towers stamp, and the solar time that models see."""

from __future__ import annotations

import numpy as np

HOUR = np.timedelta64(1, "h")
DAY = np.timedelta64(1, "D")


def hour_axis(start: np.datetime64, stop: np.datetime64) -> np.ndarray:
    """Return every UTC hour from `start` up to, not including, `stop`, as datetime64[ns] (time,)."""
    return np.arange(start.astype("datetime64[h]"), stop.astype("datetime64[h]"), HOUR).astype("datetime64[ns]")


def standard_to_utc(stamps: np.ndarray, utc_offset: float | np.ndarray) -> np.ndarray:
    """Turn local *standard* time into UTC.

    Parameters
    ----------
    stamps : (time,) datetime64
        Local standard time, as towers write it: no daylight saving.
    utc_offset : float or (time,) float
        Hours east of UTC, which may be fractional (India +5.5, Nepal +5.75).

    Returns
    -------
    (time,) datetime64[m]
        To the minute: no civil offset is finer.

    Examples
    --------
    >>> standard_to_utc(np.array(["2012-01-01T00:00"], "datetime64[m]"), 9.5)
    array(['2011-12-31T14:30'], dtype='datetime64[m]')
    """
    minutes = np.round(np.asarray(utc_offset, float) * 60).astype("timedelta64[m]")
    return np.asarray(stamps).astype("datetime64[m]") - minutes


def local_clock(time: np.ndarray, offset: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return day of year and time of day on a clock `offset` hours ahead of UTC.

    With ``offset = longitude / 15`` this is local mean solar time, fluxcube's clock for towers and
    grids alike; with the civil offset it is the standard time of the CarbonSense paper.

    Parameters
    ----------
    time : (time,) datetime64
        UTC, at the start of the hour.
    offset : float or array
        Hours ahead of UTC; an array of shape ``place`` gives results ``(..., time)``.

    Returns
    -------
    doy : (..., time) float64
        Day of year counted from 0, fraction kept: 0 <= doy < 366.
    tod : (..., time) float64
        Hour of the day, fraction kept: 0 <= tod < 24.

    Examples
    --------
    >>> local_clock(np.array(["2020-01-01T00"], "datetime64[h]"), 150 / 15)
    (array([0.41666667]), array([10.]))
    """
    seconds = np.asarray(time).astype("datetime64[s]").astype(np.int64)
    shift = np.round(np.asarray(offset, float) * 3600).astype(np.int64)
    local = (seconds + shift[..., None]).astype("datetime64[s]")
    into_year = (local - local.astype("datetime64[Y]").astype("datetime64[s]")).astype(np.int64)
    return into_year / 86400.0, (into_year % 86400) / 3600.0


def solar_noon(day: np.ndarray, longitude: float | np.ndarray) -> np.ndarray:
    """Return the UTC hour that holds local mean solar noon of each local day.

    Parameters
    ----------
    day : (day,) datetime64
        Local dates.
    longitude : float or array of shape ``place``
        Degrees east.

    Returns
    -------
    (..., day) datetime64[h]
        Start of the hour.
    """
    minutes = np.round((12.0 - np.asarray(longitude, float) / 15.0) * 60).astype("timedelta64[m]")
    noon = np.asarray(day).astype("datetime64[D]").astype("datetime64[m]") + minutes[..., None]
    return noon.astype("datetime64[h]")
