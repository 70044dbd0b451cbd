"""Time conversions: UTC hours, local standard time of tower files, and solar time of the model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from fluxcube.errors import ConfigError

HOUR = np.timedelta64(1, "h")
DAY = np.timedelta64(1, "D")

#: Hours east of UTC of a site's standard time, or dated entries (local start, hours).
Offset = float | Sequence[tuple[object, float]]


def hour_axis(start: np.datetime64, stop: np.datetime64) -> np.ndarray:
    """Return every UTC hour from `start` up to, not including, `stop`, as datetime64[ns] (time,)."""
    return np.arange(start.astype("datetime64[h]"), stop.astype("datetime64[h]"), HOUR).astype("datetime64[ns]")


def standard_to_utc(stamps: np.ndarray, utc_offset: float | np.ndarray) -> np.ndarray:
    """Convert local *standard* time to UTC.

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


def dated_offsets(utc_offset: Offset) -> tuple[np.ndarray, np.ndarray]:
    """Return start times (entry,) datetime64[m], local, and the offsets in hours east of UTC (entry,) from then on.

    Parameters
    ----------
    utc_offset : float or sequence of (start, float)
        Hours, or pairs of a local start date and hours; None is the start date of the first entry.

    Raises
    ------
    ConfigError
        If there is no entry, a start is not a date, or hours are outside -14 to 14.

    Examples
    --------
    >>> dated_offsets([("2012-05-31", 8), (None, 7)])[1]
    array([7., 8.])
    """
    if isinstance(utc_offset, (int, float, np.number)):
        utc_offset = [(None, utc_offset)]
    entries = sorted((_since(since), _hours(hours)) for since, hours in utc_offset)
    if not entries:
        raise ConfigError("utc_offset: expected hours east of UTC, or at least one (start, hours); found none")
    since, hours = zip(*entries, strict=True)
    return np.array(since), np.array(hours)


def _since(value: object) -> np.datetime64:
    start = "0000" if value is None else value
    expected = f"utc_offset: expected a start date such as '2012-05-31', or None, found {value!r}; correct this entry."
    if not isinstance(start, (str, date, np.datetime64)):
        raise ConfigError(expected)
    try:
        return np.datetime64(start).astype("datetime64[m]")
    except ValueError as error:
        raise ConfigError(expected) from error


def _hours(hours: float) -> float:
    if not -14 <= float(hours) <= 14:
        raise ConfigError(f"utc_offset={hours!r}: expected hours east of UTC, from -14 to 14")
    return float(hours)


def offsets_at(local: np.ndarray, utc_offset: Offset) -> np.ndarray:
    """Return the offset in hours east of UTC (time,) that applies at each local time (time,).

    Examples
    --------
    >>> days = np.array(["2012-05-30", "2012-05-31"], "datetime64[D]")
    >>> offsets_at(days, [(None, 7), ("2012-05-31", 8)])
    array([7., 8.])
    """
    since, hours = dated_offsets(utc_offset)
    return hours[np.searchsorted(since[1:], np.asarray(local).astype("datetime64[m]"), side="right")]


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
    """Return the UTC hour that contains local mean solar noon of each local day.

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
