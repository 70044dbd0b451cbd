"""Windows: the last T hours before each chosen hour, cut out of flat arrays by integer offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.features import NO_CHIP, Block

#: Room for one place's hours, negative ones included, in a sorted key (place, hour).
_SPAN = 4 * NO_CHIP
_ZERO = 2 * NO_CHIP


@dataclass(frozen=True)
class Series:
    """Places of different lengths, end to end.

    Attributes
    ----------
    met : (N, V) float32
        Hours of all places.
    start, hours : (n,) int64
        First row and number of rows of each place.
    numbers : (n, S) float32
    classes : (n, C) int64
    chips : (M, b, 64) float32
        Chips of all places, by place and time.
    chip_key : (M,) int64
        Place and hour of each chip in one ascending number.
    """

    met: np.ndarray
    start: np.ndarray
    hours: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    chips: np.ndarray
    chip_key: np.ndarray


def flatten(block: Block) -> Series:
    """Return the places of a block end to end, without copying."""
    n, t, columns = block.met.shape
    return Series(
        met=block.met.reshape(n * t, columns),
        start=np.arange(n, dtype=np.int64) * t,
        hours=np.full(n, t, np.int64),
        numbers=block.numbers,
        classes=block.classes,
        chips=block.chips.reshape(block.chip_hour.size, *block.chips.shape[2:]),
        chip_key=(np.arange(n, dtype=np.int64)[:, None] * _SPAN + _ZERO + block.chip_hour).ravel(),
    )


def join(blocks: Sequence[Block]) -> Series:
    """Put the places of several blocks, which may differ in length, end to end."""
    parts = [flatten(block) for block in blocks]
    places = np.cumsum([0, *(len(p.hours) for p in parts)])
    rows = np.cumsum([0, *(len(p.met) for p in parts)])
    return Series(
        met=np.concatenate([p.met for p in parts]),
        start=np.concatenate([p.start + row for p, row in zip(parts, rows, strict=False)]),
        hours=np.concatenate([p.hours for p in parts]),
        numbers=np.concatenate([p.numbers for p in parts]),
        classes=np.concatenate([p.classes for p in parts]),
        chips=np.concatenate([p.chips for p in parts]),
        chip_key=np.concatenate([p.chip_key + place * _SPAN for p, place in zip(parts, places, strict=False)]),
    )


def gather(block: Block | Series, place: np.ndarray, stop: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Cut windows of `length` hours that end before hour `stop` of a place.

    Parameters
    ----------
    block : Block or Series
        Features.
    place : (B,) int
        Which place.
    stop : (B,) int
        End of the window, exclusive, 1..hours of the place. Hours before the place's first are NaN.
    length : int
        T.

    Returns
    -------
    dict
        met (B, T, V), images (B, K, b, 64), image_step (B, K), numbers (B, S), classes (B, C), as
        `fluxcube.models.base.Batch` describes them; K = T // 24 + 2, or 0 where there are no chips. The
        latest chip at or before the window's first hour stands at step 0, each later one at its own hour.

    Raises
    ------
    ConfigError
        If a window ends outside its place's hours.
    """
    series = flatten(block) if isinstance(block, Block) else block
    place, stop = np.asarray(place, np.int64), np.asarray(stop, np.int64)
    if len(stop) and (stop.min() < 1 or (stop > series.hours[place]).any()):
        raise ConfigError(f"a window must end within 1..{series.hours.max()} hours, found {stop.min()}..{stop.max()}.")
    images, step = _images(series, place, stop, length)
    return {
        "met": _met(series, place, stop, length),
        "images": images,
        "image_step": step,
        "numbers": series.numbers[place],
        "classes": series.classes[place],
    }


def _met(series: Series, place: np.ndarray, stop: np.ndarray, length: int) -> np.ndarray:
    hour = (stop - length)[:, None] + np.arange(length)
    rows = series.start[place][:, None] + np.maximum(hour, 0)
    met = series.met.take(rows.ravel(), axis=0).reshape(*rows.shape, -1)
    if (short := stop < length).any():
        met[short] = np.where(hour[short][..., None] < 0, np.float32(np.nan), met[short])
    return met


def _images(series: Series, place: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Chips of each window (B, K, b, 64), and the steps at which they stand (B, K)."""
    count = length // 24 + 2 if len(series.chip_key) else 0
    if not count:
        return np.empty((len(place), 0, *series.chips.shape[1:]), np.float32), np.empty((len(place), 0), np.int64)
    origin = place * _SPAN + _ZERO
    first = stop - length
    latest = np.searchsorted(series.chip_key, origin + first, side="right") - 1
    index = latest[:, None] + np.arange(count)
    inside = (index >= 0) & (index < len(series.chip_key))
    index = np.where(inside, index, 0)
    hour = series.chip_key[index] - origin[:, None]
    inside &= (hour >= -_ZERO) & (hour < stop[:, None])
    images = series.chips.take(index.ravel(), axis=0).reshape(*index.shape, *series.chips.shape[1:])
    images[~inside] = np.nan
    return images, np.where(inside, np.maximum(hour - first[:, None], 0), -1)
