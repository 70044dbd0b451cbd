"""Periods of a site's record: years used for training, validation and testing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fluxcube.resolution import HOURLY, resolution_of

#: One stretch of time, first included and stop not, in UTC as ISO text of whole seconds or less.
Period = tuple[str, str]

_HALF_YEAR = np.timedelta64(182, "D")


def calendar(cube) -> dict[str, tuple[np.datetime64, np.datetime64, np.timedelta64]]:
    """Return each site's record, first and stop in UTC, and its clock's offset (`utc_offset`, else longitude / 15)."""
    first = np.maximum(cube["time_start"].values, cube["time"].values[0])
    stop = np.minimum(cube["time_stop"].values, cube["time"].values[-1] + _step(cube["time"].values))
    hours = (cube["utc_offset"] if "utc_offset" in cube.coords else cube["longitude"] / 15).values
    hours = np.where(np.isfinite(hours), hours, cube["longitude"].values / 15)
    hours = hours * (not resolution_of(cube).local)
    offset = np.round(hours * 3600).astype("timedelta64[s]")
    names = map(str, cube["site"].values)
    return {n: (a, b, c) for n, a, b, c in zip(names, first, stop, offset, strict=True)}


def _step(time: np.ndarray) -> np.timedelta64:
    return np.diff(time).min() if len(time) > 1 else HOURLY.step


def years(first: np.datetime64, stop: np.datetime64, offset: np.timedelta64) -> list[int]:
    """Return the years of a site's own calendar of which its record covers at least half.

    Examples
    --------
    >>> hour = np.timedelta64(1, "h")
    >>> years(np.datetime64("2003-05-01"), np.datetime64("2006-03-01"), 10 * hour)
    [2003, 2004, 2005]
    """
    if stop <= first:
        return []
    span = range(_year(first + offset), _year(stop + offset) + 1)
    inside = (min(stop, new_year(y + 1, offset)) - max(first, new_year(y, offset)) for y in span)
    return [y for y, length in zip(span, inside, strict=True) if length >= _HALF_YEAR]


def _year(time: np.datetime64) -> int:
    return int(time.astype("datetime64[Y]").astype(int)) + 1970


def new_year(year: int, offset: np.timedelta64) -> np.datetime64:
    """Return the start of a year in a site's local time, as UTC."""
    return np.datetime64(f"{year:04d}-01-01", "s") - offset


def cut(
    first: np.datetime64, stop: np.datetime64, edges: Sequence[np.datetime64], gap: np.timedelta64
) -> list[Period | None]:
    """Cut a record at `edges`; each piece but the last ends `gap` before its edge. An empty piece is None.

    The gap is taken from the earlier piece, so that test periods keep whole years.
    """
    ends = [edge - gap for edge in edges]
    pieces = zip([first, *(max(first, e) for e in edges)], [*(min(stop, e) for e in ends), stop], strict=True)
    return [(_text(a), _text(b)) if a < b else None for a, b in pieces]


def _text(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]"))


def inside(periods: Iterable[Period], time: np.ndarray) -> np.ndarray:
    """Return a mask (T,) of the time steps within any of the periods."""
    out = np.zeros(len(time), bool)
    for first, stop in periods:
        out |= (time >= np.datetime64(first)) & (time < np.datetime64(stop))
    return out


def overlap(one: Iterable[Period], other: Iterable[Period]) -> bool:
    """Return whether two sets of periods overlap."""
    later = list(other)
    return any(
        max(np.datetime64(a), np.datetime64(c)) < min(np.datetime64(b), np.datetime64(d))
        for a, b in one
        for c, d in later
    )


def normal(periods: Mapping[str, Mapping[str, Iterable[Iterable[str]]]]) -> dict:
    """Return part -> site -> tuple of (first, stop), from nested sequences (ValueError if a period is invalid)."""
    out: dict = {}
    for part, sites in periods.items():
        out[part] = {}
        for site, several in sites.items():
            out[part][site] = tuple((str(first), str(stop)) for first, stop in several)
            for first, stop in out[part][site]:
                if not np.datetime64(first) < np.datetime64(stop):
                    raise ValueError(f"{part} of {site}: the period {first} to {stop} is empty or runs backwards")
    return out
