"""Windows: the last T time steps up to a chosen one, cut out of flat arrays by integer offsets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import Block
from fluxcube.samples.images import NO_CHIP, Images

#: Room for one place's hours, negative ones included, in a sorted key (place, hour).
_SPAN = 4 * NO_CHIP
#: Position of a place's first hour in that room.
ZERO = 2 * NO_CHIP


@dataclass(frozen=True)
class Series:
    """Places of different lengths, end to end.

    Attributes
    ----------
    inputs : (N, V) float32
        Model inputs of the time steps of all places.
    start, hours : (n,) int64
        First time step and number of time steps of each place: a stretch without a hole at one tower or grid cell.
    numbers : (n, S) float32
    classes : (n, C) int64
    chips : (M, b, p) float32
        Chips (p = 64 pixels), or bands of one pixel, of all places, by place and time.
    chip_key : (M,) int64
        Owner and hour of each chip in one ascending number.
    chip_zero : (n,) int64
        Value of `chip_key` for the first time step of each place; stretches of one tower share the tower's chips.
    images : tuple of Images
        Images of other kinds: pixels (M, b, p) and keys (M,), as `chips` and `chip_key`.
    """

    inputs: np.ndarray
    start: np.ndarray
    hours: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    chips: np.ndarray
    chip_key: np.ndarray
    chip_zero: np.ndarray
    images: tuple[Images, ...] = ()


def flatten(block: Block) -> Series:
    """Return the places of a block end to end, without copying."""
    n, t, columns = block.inputs.shape
    zero = np.arange(n, dtype=np.int64) * _SPAN + ZERO
    return Series(
        inputs=block.inputs.reshape(n * t, columns),
        start=np.arange(n, dtype=np.int64) * t,
        hours=np.full(n, t, np.int64),
        numbers=block.numbers,
        classes=block.classes,
        chips=block.chips.reshape(block.chip_hour.size, *block.chips.shape[2:]),
        chip_key=(zero[:, None] + block.chip_hour).ravel(),
        chip_zero=zero,
        images=tuple(
            Images(one.pixels.reshape(one.hour.size, *one.pixels.shape[2:]), (zero[:, None] + one.hour).ravel())
            for one in block.images
        ),
    )


def join(parts: Iterable[Block | Series]) -> Series:
    """Concatenate the places of several parts, which may differ in length.

    Parts are copied one by one: from an iterator, RAM contains the data once and not twice.
    """
    arrays: dict[str, np.ndarray] = {}
    kinds = 0
    for part in parts:
        series = part if isinstance(part, Series) else flatten(part)
        places, rows = (len(arrays["hours"]), len(arrays["inputs"])) if arrays else (0, 0)
        kinds = len(series.images)
        shifts = {"start": rows, "chip_key": places * _SPAN, "chip_zero": places * _SPAN}
        shifts |= {f"{i} hour": places * _SPAN for i in range(kinds)}
        for name, array in _arrays(series).items():
            arrays[name] = _appended(arrays.get(name), array + shifts[name] if name in shifts else array)
    images = [Images(arrays.pop(f"{i} pixels"), arrays.pop(f"{i} hour")) for i in range(kinds)]
    return Series(**arrays, images=tuple(images))


def _arrays(series: Series) -> dict[str, np.ndarray]:
    """Return the arrays of a series by name, those of images by the number of their kind."""
    arrays = {name: array for name, array in vars(series).items() if name != "images"}
    for i, one in enumerate(series.images):
        arrays |= {f"{i} {name}": array for name, array in one._asdict().items()}
    return arrays


def _appended(out: np.ndarray | None, more: np.ndarray) -> np.ndarray:
    """Extend an array that has no other reference, in place where the operating system can move memory pages."""
    if out is None:
        return np.array(more, order="C")
    at = len(out)
    out.resize((at + len(more), *out.shape[1:]), refcheck=False)
    out[at:] = more
    return out


def gather(block: Block | Series, place: np.ndarray, stop: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Cut windows of `length` time steps that end before step `stop` of a place.

    Parameters
    ----------
    block : Block or Series
        Features.
    place : (B,) int
        Position of the place of each window.
    stop : (B,) int
        End of the window, exclusive, from 1 to the place's number of time steps. Steps before its first are NaN.
    length : int
        T.

    Returns
    -------
    dict
        inputs (B, T, V), images (B, K, b, p), image_step (B, K), numbers (B, S), classes (B, C), as
        `fluxcube.models.base.Batch` describes them; K = T // 24 + 2, or 0 where there are no chips. The
        latest chip at or before the window's first hour stands at step 0, each later one at its own hour. With images
        of other kinds, the K slots of each kind follow each other (the chips first, if there are bands of them), and
        images are (B, kinds x K, 1, F): each is flattened, and NaN from its own number of values on.

    Raises
    ------
    ConfigError
        If a window ends outside the time steps of its place.
    """
    series = flatten(block) if isinstance(block, Block) else block
    place, stop = np.asarray(place, np.int64), np.asarray(stop, np.int64)
    if len(stop) and (stop.min() < 1 or (stop > series.hours[place]).any()):
        raise ConfigError(f"a window must end within 1..{series.hours.max()} hours, found {stop.min()}..{stop.max()}.")
    images, step = _images(series, place, stop, length)
    return {
        "inputs": cut(series.inputs, series.start[place], stop, length),
        "images": images,
        "image_step": step,
        "numbers": series.numbers[place],
        "classes": series.classes[place],
    }


def cut(rows: np.ndarray, start: np.ndarray, stop: np.ndarray, length: int) -> np.ndarray:
    """Cut stretches of `length` rows out of places that lie end to end.

    Parameters
    ----------
    rows : (N, C) float32
        Rows of all places.
    start : (B,) int64
        First row of each stretch's place.
    stop : (B,) int64
        End of each stretch, exclusive, counted from `start`.
    length : int
        L.

    Returns
    -------
    (B, L, C) float32
        NaN before the first row of the place.
    """
    first = start + stop - length
    short = stop < length
    if len(rows) < length:
        out = np.empty((len(first), length, rows.shape[1]), rows.dtype)
    else:  # every stretch of rows is one long row of this view: a window is copied at once, not hour by hour
        rows = np.ascontiguousarray(rows)
        stretches = (len(rows) - length + 1, length * rows.shape[1])
        view = np.lib.stride_tricks.as_strided(rows, stretches, (rows.strides[0], rows.itemsize), writeable=False)
        out = view[np.maximum(first, 0)].reshape(len(first), length, rows.shape[1])
    if short.any():
        hour = (stop[short] - length)[:, None] + np.arange(length)
        part = rows[start[short][:, None] + np.maximum(hour, 0)]
        part[hour < 0] = np.nan
        out[short] = part
    return out


def _images(series: Series, place: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of each window and their time steps in the window, as `gather` does."""
    count = length // HOURLY.steps_per_day + 2
    origin, first = series.chip_zero[place], stop - length
    chips = Images(series.chips, series.chip_key)
    if not series.images:
        return _slots(chips, origin, first, stop, count if len(series.chip_key) else 0)
    every = (chips, *series.images) if series.chips.shape[1] else series.images
    parts = [_slots(kind, origin, first, stop, count) for kind in every]
    flat = [images.reshape(len(place), count, -1) for images, _ in parts]
    packed = np.full((len(place), len(parts) * count, 1, max(x.shape[-1] for x in flat)), np.nan, np.float32)
    for i, x in enumerate(flat):
        packed[:, i * count : (i + 1) * count, 0, : x.shape[-1]] = x
    return packed, np.concatenate([step for _, step in parts], 1)


def _slots(
    kind: Images, origin: np.ndarray, first: np.ndarray, stop: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of one kind of each window (B, count, b, p), and their time steps in the window (B, count)."""
    pixels, key = kind
    if not count or not len(key):
        shape = (len(stop), count)
        return np.full((*shape, *pixels.shape[1:]), np.nan, np.float32), np.full(shape, -1, np.int64)
    latest = np.searchsorted(key, origin + first, side="right") - 1
    index = latest[:, None] + np.arange(count)
    inside = (index >= 0) & (index < len(key))
    index = np.where(inside, index, 0)
    hour = key[index] - origin[:, None]
    inside &= (hour >= -ZERO) & (hour < stop[:, None])
    images = pixels.take(index.ravel(), axis=0).reshape(*index.shape, *pixels.shape[1:])
    images[~inside] = np.nan
    return images, np.where(inside, np.maximum(hour - first[:, None], 0), -1)
