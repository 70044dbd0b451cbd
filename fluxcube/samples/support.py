"""Support: windows of a place's own drivers, of which a model is told what place it is at.

For predictions they are chosen by the time axis alone, and are the same each time; for training they are drawn from
days that share none with the window that is learned from. No flux is ever in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.features import Block
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import Series, cut, flatten

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


def series_support(
    series: Series,
    first_day: np.ndarray,
    observed: np.ndarray,
    length: int,
    count: int,
    *,
    years: Sequence[int] = (),
    names: Sequence[str] = (),
) -> np.ndarray:
    """Cut the support of each place out of days.

    Parameters
    ----------
    series : Series
        Of n places.
    first_day : (n,) int
        Days from 1970 to each place's first.
    observed : (N,) bool
        Days with a driver, as `Block.observed`.
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
    out = np.full((len(series.hours), count, length, series.met.shape[1]), np.nan, np.float32)
    shared: dict[tuple, np.ndarray] = {}
    for place, (start, hours) in enumerate(zip(series.start, series.hours, strict=True)):
        seen = observed[start : start + hours]
        days = np.datetime64(int(first_day[place]), "D") + np.arange(hours)
        key = (int(first_day[place]), seen.tobytes())
        if key not in shared:
            shared[key] = support_stops(days, length, count, years=years, observed=seen)
        stops = shared[key]
        if len(stops):
            out[place] = cut(series.met, np.full(count, start), stops, length)
        elif len(years):
            raise _no_support(names[place] if len(names) else f"place {place + 1}", length, years, days)
    return out


def _no_support(who: str, length: int, years: Sequence[int], days: np.ndarray) -> ConfigError:
    return ConfigError(
        f"{who} has no {length} days in a row with drivers in {', '.join(map(str, years))}: its record runs from "
        f"{days[0]} to {days[-1]}; choose other support years, or none, which takes the whole record."
    )


def block_with_codes(block: Block, model, *, years: Sequence[int] = (), names: Sequence[str] = ()) -> Block:
    """Return a block of days whose places bring their embeddings along, after their static numbers.

    Parameters
    ----------
    block : Block
        Of n places.
    model : TAMRL, or an ensemble of such
        What encodes: its `encode`, `context` and `support`.
    years, names
        As `series_support` takes them.
    """
    first = np.full(len(block.met), block.first_hour)
    support = series_support(
        flatten(block), first, block.observed.ravel(), model.context, model.support, years=years, names=names
    )
    return with_codes(block, model.encode(support))


def with_codes(block: Block, codes: np.ndarray) -> Block:
    """Return a block whose places bring their embeddings (n, code) along, after their static numbers."""
    return dataclasses.replace(block, numbers=np.concatenate([block.numbers, codes], 1, dtype=np.float32))


def towers_with_codes(towers: Towers, model) -> Towers:
    """Return towers whose places bring the embeddings of their whole records along, in place of any they had."""
    series = towers.series
    observed = np.isfinite(series.met).any(1)
    support = series_support(series, towers.first_hour, observed, model.context, model.support)
    own = series.numbers[:, : len(towers.spec.numbers)]
    numbers = np.concatenate([own, model.encode(support)], 1, dtype=np.float32)
    return dataclasses.replace(towers, series=dataclasses.replace(series, numbers=numbers))


class Draws:
    """Support windows of training: windows that end within some days of each other share one, days apart from them all.

    Parameters
    ----------
    series : Series
        Drivers.
    length, count : int
        Days of a window, and how many of them.
    span : int
        Windows of a place that end within so many days, from a day that is drawn anew per place and epoch, share one.
    seed : int
        Of the draws, which depend on it, the epoch and the place's days alone.
    """

    def __init__(self, series: Series, length: int, count: int, span: int, seed: int):
        self.series, self.length, self.count, self.span, self.seed = series, length, count, span, seed
        self._drawn: tuple[int, np.ndarray] | None = None

    def possible(self) -> np.ndarray:
        """Return which rows (N,) end a window that leaves room for another beside it, whatever it shares."""
        place, stop = _place_stop(self.series, np.arange(len(self.series.met)))
        before, _ = self._room(place, stop - self.span + 1)
        _, after = self._room(place, stop)
        return before + after > 0

    def group(self, ends: np.ndarray, epoch: int) -> np.ndarray:
        """Return numbers (B,), equal for windows ending with these rows that share their support."""
        place, stop = _place_stop(self.series, ends)
        phase = np.random.default_rng((self.seed, epoch, _DRAWS)).integers(0, self.span, len(self.series.hours))[place]
        first = (stop - phase) // self.span * self.span + phase  # of the stops that share, above -span
        return place * self._room_of_key + first + self.span

    @property
    def _room_of_key(self) -> int:
        return int(self.series.hours.max()) + 2 * self.span

    def of(self, ends: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the support (G, K, T, V) of the windows that end with these rows, and which is whose (B,)."""
        keys, which = np.unique(self.group(ends, epoch), return_inverse=True)
        place, stop = np.divmod(keys, self._room_of_key)
        stop -= self.span
        before, after = self._room(place, stop)
        row = np.clip(self.series.start[place] + stop, 0, len(self.series.met) - 1)
        chosen = np.floor(self._uniform(epoch)[row] * (before + after)[:, None]).astype(np.int64)
        late = chosen + (stop + self.span - 1 + self.length - before)[:, None]
        stops = np.where(chosen < before[:, None], chosen + self.length, late)
        start = np.repeat(self.series.start[place], self.count)
        windows = cut(self.series.met, start, stops.ravel(), self.length)
        return windows.reshape(len(keys), self.count, self.length, -1), which.ravel()

    def _uniform(self, epoch: int) -> np.ndarray:
        """Draws (N, K) of an epoch; the latest is kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, _DRAWS, 1))
            self._drawn = epoch, rng.random((len(self.series.met), self.count), np.float32)
        return self._drawn[1]

    def _room(self, place: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of whole windows before those that end from `stop` on, for `span` days, and of those after."""
        before = np.maximum(stop - 2 * self.length + 1, 0)
        after = np.maximum(self.series.hours[place] - (stop + self.span - 1) - self.length + 1, 0)
        return before, after


def _place_stop(series: Series, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.searchsorted(series.start, ends, side="right") - 1
    return place, ends - series.start[place] + 1
