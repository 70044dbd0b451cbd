"""Support windows: windows of a place's own model inputs, from which a model computes an embedding of the place.

For predictions they are chosen by the time axis alone, and are the same each time. For training they are drawn from
days that do not overlap with the windows that are learned from. They never contain a flux.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.features import Block
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import Series, cut, flatten

#: Distinguishes the random draws of support windows from those of windows.
_DRAWS = 2
#: Minimum fraction of the days of a support window that have an observed input.
_MIN_OBSERVED = 0.5


def support_stops(
    days: np.ndarray, length: int, count: int, *, years: Sequence[int] = (), observed: np.ndarray | None = None
) -> np.ndarray:
    """Choose windows spread evenly over a time axis, or over some calendar years of it.

    Parameters
    ----------
    days : (t,) datetime64
        Consecutive days.
    length : int
        Number of days of a window.
    count : int
        Number of windows; if there are fewer, some are used more than once.
    years : sequence of int
        Calendar years that must contain the whole window; by default all.
    observed : (t,) bool, optional
        Days with an observed input: a window needs them on at least half of its days.

    Returns
    -------
    (count,) int64
        Ends of the windows, exclusive; empty if there is no such window.

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
        fits &= _of_window(np.asarray(observed, bool), length) >= _MIN_OBSERVED * length
    stops = np.flatnonzero(fits) + length
    if not len(stops):
        return stops
    return stops[np.linspace(0, len(stops) - 1, count).astype(np.int64)]


def _of_window(flags: np.ndarray, length: int) -> np.ndarray:
    """Return the number of flags in each window (t - length + 1,)."""
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
    """Return the support windows of each place.

    Parameters
    ----------
    series : Series
        Daily inputs of n places.
    first_day : (n,) int
        First day of each place, in days since 1970.
    observed : (N,) bool
        Days with an observed input, as in `Block.observed`.
    length, count, years
        As `support_stops` takes them.
    names : sequence of str
        Names of the places, for messages.

    Returns
    -------
    (n, count, length, V) float32
        Normalised model inputs; all NaN for a place that has no window.

    Raises
    ------
    ConfigError
        If a place has no window in the requested years.
    """
    out = np.full((len(series.hours), count, length, series.inputs.shape[1]), np.nan, np.float32)
    shared: dict[tuple, np.ndarray] = {}
    for place, (start, hours) in enumerate(zip(series.start, series.hours, strict=True)):
        seen = observed[start : start + hours]
        days = np.datetime64(int(first_day[place]), "D") + np.arange(hours)
        key = (int(first_day[place]), seen.tobytes())
        if key not in shared:
            shared[key] = support_stops(days, length, count, years=years, observed=seen)
        stops = shared[key]
        if len(stops):
            out[place] = cut(series.inputs, np.full(count, start), stops, length)
        elif len(years):
            raise _no_support(names[place] if len(names) else f"place {place + 1}", length, years, days)
    return out


def _no_support(who: str, length: int, years: Sequence[int], days: np.ndarray) -> ConfigError:
    return ConfigError(
        f"{who} has no {length} consecutive days with observed inputs in {', '.join(map(str, years))}: it runs "
        f"from {days[0]} to {days[-1]}; choose other support years, or none for the whole record."
    )


def block_with_embeddings(
    block: Block, model: Encoder, *, years: Sequence[int] = (), names: Sequence[str] = ()
) -> Block:
    """Return a daily block with the embeddings of its places after their static numbers.

    Parameters
    ----------
    block : Block
        Features of n places.
    model : Model
        A model with support windows, or an ensemble of such.
    years, names
        As `series_support` takes them.
    """
    first = np.full(len(block.inputs), block.first_hour)
    support = series_support(
        flatten(block), first, block.observed.ravel(), model.context, model.support_windows, years=years, names=names
    )
    return with_embeddings(block, model.encode(support))


def with_embeddings(block: Block, embeddings: np.ndarray) -> Block:
    """Return a block with embeddings (n, embedding_size) of its places after their static numbers."""
    return dataclasses.replace(block, numbers=np.concatenate([block.numbers, embeddings], 1, dtype=np.float32))


def towers_with_embeddings(towers: Towers, model: Encoder) -> Towers:
    """Return towers with the embeddings of their whole records, replacing any that they had."""
    series = towers.series
    observed = np.isfinite(series.inputs).any(1)
    support = series_support(series, towers.first_hour, observed, model.context, model.support_windows)
    own = series.numbers[:, : len(towers.spec.numbers)]
    numbers = np.concatenate([own, model.encode(support)], 1, dtype=np.float32)
    return dataclasses.replace(towers, series=dataclasses.replace(series, numbers=numbers))


class Encoder(Protocol):
    """A model that computes embeddings from support windows."""

    @property
    def context(self) -> int: ...  # noqa: D102

    @property
    def support_windows(self) -> int: ...  # noqa: D102

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return embeddings (n, embedding_size) float32 of the support windows (n, K, T, V) of n places."""
        ...


class Draws:
    """Random support windows for training, shared by windows that end within some days of each other.

    They overlap with none of the windows that share them.

    Parameters
    ----------
    series : Series
        Daily inputs of the places.
    length, count : int
        Number of days of a support window, and number of support windows.
    span : int
        Windows of a place that end within this number of days, from a day drawn per place and epoch, share their
        support windows.
    seed : int
        Seed of the draws, which depend on it, the epoch and the days of the place alone.
    """

    def __init__(self, series: Series, length: int, count: int, span: int, seed: int):
        self.series, self.length, self.count, self.span, self.seed = series, length, count, span, seed
        self._drawn: tuple[int, np.ndarray] | None = None

    def possible(self) -> np.ndarray:
        """Return which days (N,) end a window that leaves room for a support window, whichever windows share it."""
        place, stop = _place_stop(self.series, np.arange(len(self.series.inputs)))
        before, _ = self._room(place, stop - self.span + 1)
        _, after = self._room(place, stop)
        return before + after > 0

    def group(self, ends: np.ndarray, epoch: int) -> np.ndarray:
        """Return group numbers (B,), equal for windows ending on these days that share their support windows."""
        place, stop = _place_stop(self.series, ends)
        phase = np.random.default_rng((self.seed, epoch, _DRAWS)).integers(0, self.span, len(self.series.hours))[place]
        first = (stop - phase) // self.span * self.span + phase  # of the stops that share them, above -span
        return place * self._room_of_key + first + self.span

    @property
    def _room_of_key(self) -> int:
        return int(self.series.hours.max()) + 2 * self.span

    def of(self, ends: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return support windows (G, K, T, V) for the windows ending on these days, and the group of each (B,)."""
        keys, which = np.unique(self.group(ends, epoch), return_inverse=True)
        place, stop = np.divmod(keys, self._room_of_key)
        stop -= self.span
        before, after = self._room(place, stop)
        row = np.clip(self.series.start[place] + stop, 0, len(self.series.inputs) - 1)
        chosen = np.floor(self._uniform(epoch)[row] * (before + after)[:, None]).astype(np.int64)
        late = chosen + (stop + self.span - 1 + self.length - before)[:, None]
        stops = np.where(chosen < before[:, None], chosen + self.length, late)
        start = np.repeat(self.series.start[place], self.count)
        windows = cut(self.series.inputs, start, stops.ravel(), self.length)
        return windows.reshape(len(keys), self.count, self.length, -1), which.ravel()

    def _uniform(self, epoch: int) -> np.ndarray:
        """Return the random numbers (N, K) of an epoch; those of the latest epoch are cached."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, _DRAWS, 1))
            self._drawn = epoch, rng.random((len(self.series.inputs), self.count), np.float32)
        return self._drawn[1]

    def _room(self, place: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of whole windows before and after those that end within `span` days from `stop` on."""
        before = np.maximum(stop - 2 * self.length + 1, 0)
        after = np.maximum(self.series.hours[place] - (stop + self.span - 1) - self.length + 1, 0)
        return before, after


def _place_stop(series: Series, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.searchsorted(series.start, ends, side="right") - 1
    return place, ends - series.start[place] + 1
