"""Support: windows of a place's own drivers, of which a model is told what place it is at.

For predictions they are chosen by the time axis alone, and are the same each time; for training they are drawn from
days that share none with the window that is learned from. No flux is ever in them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.features import Block
from fluxcube.samples.windows import Series, cut, flatten

log = logging.getLogger(__name__)

#: Sets the draws of support apart from those of windows.
_DRAWS = 2
#: A window counts as one of a place's where so much of it has drivers.
_LEAST = 0.5


def support_stops(
    days: np.ndarray, length: int, count: int, *, years: Sequence[int] = (), observed: np.ndarray | None = None
) -> np.ndarray:
    """Choose windows spread evenly over an axis, or over the given years of it.

    Parameters
    ----------
    days : (t,) datetime64
        Consecutive days.
    length : int
        Days of a window.
    count : int
        Windows; where there are fewer, some are taken more than once.
    years : sequence of int
        Windows lie within these calendar years whole; by default anywhere.
    observed : (t,) bool, optional
        Days with a driver: a window has them on half of its days at least.

    Returns
    -------
    (count,) int64
        Ends of the windows, exclusive; none, where there is no such window.

    Examples
    --------
    >>> days = np.arange("2001-01-01", "2003-01-01", dtype="datetime64[D]")
    >>> support_stops(days, 45, 3)
    array([ 45, 387, 730])
    >>> support_stops(days, 45, 3, years=[2002])
    array([410, 570, 730])
    """
    year = np.asarray(days).astype("datetime64[Y]").astype(np.int64) + 1970
    fits = _of_window(np.isin(year, list(years)) if len(years) else np.ones(len(year), bool), length) == length
    if observed is not None:
        fits &= _of_window(np.asarray(observed, bool), length) >= _LEAST * length
    stops = np.flatnonzero(fits) + length
    if not len(stops):
        return stops
    return stops[np.linspace(0, len(stops) - 1, count).astype(np.int64)]


def _of_window(flags: np.ndarray, length: int) -> np.ndarray:
    """Count the flags in each window (t - length + 1,)."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[length:] - total[:-length] if len(total) > length else np.zeros(0, np.int64)


def block_support(
    block: Block, length: int, count: int, *, years: Sequence[int] = (), names: Sequence[str] = ()
) -> np.ndarray:
    """Cut the support of each place out of a block of days.

    Parameters
    ----------
    block : Block
        Of n places, days.
    length, count, years
        As `support_stops` takes them.
    names : sequence of str
        Of the places, for messages.

    Returns
    -------
    (n, count, length, V) float32
        Normalised drivers; all NaN for a place that has no window.

    Raises
    ------
    ConfigError
        If a place has no window in the years that are asked for.
    """
    series, (n, t, columns) = flatten(block), block.met.shape
    days = np.datetime64(block.first_hour, "D") + np.arange(t)
    out = np.full((n, count, length, columns), np.nan, np.float32)
    shared: dict[bytes, np.ndarray] = {}
    for place in range(n):
        seen = block.observed[place]
        key = seen.tobytes()
        if key not in shared:
            shared[key] = support_stops(days, length, count, years=years, observed=seen)
        stops = shared[key]
        if len(stops):
            out[place] = cut(series.met, np.full(count, series.start[place]), stops, length)
        elif len(years):
            who = names[place] if len(names) else f"place {place + 1}"
            raise ConfigError(
                f"{who} has no {length} days in a row with drivers in {', '.join(map(str, years))}: its record runs "
                f"from {days[0]} to {days[-1]}; choose other support years, or none, which takes the whole record."
            )
    return out


def with_codes(block: Block, codes: np.ndarray) -> Block:
    """Return a block whose places bring their embeddings (n, code) along, after their static numbers."""
    return dataclasses.replace(block, numbers=np.concatenate([block.numbers, codes], 1, dtype=np.float32))


class Draws:
    """Support windows of training: for each window some of the same place, days apart from it.

    Parameters
    ----------
    series : Series
        Drivers.
    length, count : int
        Days of a window, and how many of them.
    seed : int
        Of the draws, which depend on it, the epoch and the window alone.
    """

    def __init__(self, series: Series, length: int, count: int, seed: int):
        self.series, self.length, self.count, self.seed = series, length, count, seed
        self._drawn: tuple[int, np.ndarray] | None = None

    def possible(self) -> np.ndarray:
        """Return which rows (N,) end a window that leaves room for another beside it."""
        place, stop = _place_stop(self.series, np.arange(len(self.series.met)))
        before, after = self._room(place, stop)
        return before + after > 0

    def of(self, ends: np.ndarray, epoch: int) -> np.ndarray:
        """Return the support (B, K, T, V) of the windows that end with these rows."""
        place, stop = _place_stop(self.series, ends)
        before, after = self._room(place, stop)
        chosen = np.floor(self._uniform(epoch)[ends] * (before + after)[:, None]).astype(np.int64)
        early = chosen < before[:, None]
        stops = chosen + self.length + np.where(early, 0, (stop - before)[:, None])
        start = np.repeat(self.series.start[place], self.count)
        windows = cut(self.series.met, start, stops.ravel(), self.length)
        return windows.reshape(len(ends), self.count, self.length, -1)

    def _room(self, place: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of whole windows that end before each window begins, and that begin after it ends."""
        before = np.maximum(stop - 2 * self.length + 1, 0)
        after = np.maximum(self.series.hours[place] - stop - self.length + 1, 0)
        return before, after

    def _uniform(self, epoch: int) -> np.ndarray:
        """Draws (N, K) of an epoch; the latest is kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, _DRAWS))
            self._drawn = epoch, rng.random((len(self.series.met), self.count), np.float32)
        return self._drawn[1]


def _place_stop(series: Series, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.searchsorted(series.start, ends, side="right") - 1
    return place, ends - series.start[place] + 1
