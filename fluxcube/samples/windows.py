"""Windows: the last T time steps up to a chosen one, cut out of flat arrays by integer offsets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def gather(
    block: Block | Series,
    place: np.ndarray,
    stop: np.ndarray,
    length: int,
    *,
    repeat_images: bool = False,
    table: bool = False,
) -> dict[str, np.ndarray]:
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
    repeat_images : bool
        Whether the latest image stands at the same hour of every day until a newer one follows, instead of once, and
        none at step 0. What a time step sees then does not depend on where its window begins, as models with streams
        require.
    table : bool
        Whether images that several windows show are returned once, for models with `image_table`.

    Returns
    -------
    dict
        inputs (B, T, V), images (B, K, b, p), image_step (B, K), numbers (B, S), classes (B, C), as
        `fluxcube.models.base.Batch` describes them; K = T // 24 + 2, or 0 where there are no chips. The
        latest chip at or before the window's first hour stands at step 0, each later one at its own hour. With images
        of other kinds, the K slots of each kind follow each other (the chips first, if there are bands of them), and
        images are (B, kinds x K, 1, F): each is flattened, and NaN from its own number of values on. With `table`,
        images are (M, b, p), or (M, 1, F), and the image of each slot is that in row image_row (B, K).

    Raises
    ------
    ConfigError
        If a window ends outside the time steps of its place.
    """
    series = flatten(block) if isinstance(block, Block) else block
    place, stop = np.asarray(place, np.int64), np.asarray(stop, np.int64)
    if len(stop) and (stop.min() < 1 or (stop > series.hours[place]).any()):
        raise ConfigError(f"a window must end within 1..{series.hours.max()} hours, found {stop.min()}..{stop.max()}.")
    arrays = {
        "inputs": cut(series.inputs, series.start[place], stop, length),
        "numbers": series.numbers[place],
        "classes": series.classes[place],
    }
    slots = _slots(series, place, stop, length, repeat_images)
    step = np.concatenate([np.where(slot.present, slot.step, -1) for slot in slots], 1)
    if not table:
        return arrays | {"images": _packed([slot.images() for slot in slots], bool(series.images)), "image_step": step}
    tables, rows = zip(*(slot.table() for slot in slots), strict=True)
    starts = np.cumsum([0, *map(len, tables)])
    row = np.concatenate([own + start for own, start in zip(rows, starts, strict=False)], 1)
    return arrays | {"images": _packed(tables, bool(series.images)), "image_step": step, "image_row": row}


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


class _Slots(NamedTuple):
    """Slots of the images of one kind in each window.

    Attributes
    ----------
    pixels : (M, b, p) float32
        Images of all places.
    chosen : (B, K) int64
        Image of each slot.
    present : (B, K) bool
        Whether the slot has an image.
    step : (B, K) int64
        Time step of the window from which on the image is known.
    """

    pixels: np.ndarray
    chosen: np.ndarray
    present: np.ndarray
    step: np.ndarray

    def images(self) -> np.ndarray:
        """Return the image of each slot (B, K, b, p), NaN where there is none."""
        shape = (*self.chosen.shape, *self.pixels.shape[1:])
        if not self.present.any():
            return np.full(shape, np.nan, np.float32)
        out = self.pixels.take(self.chosen.ravel(), axis=0).reshape(shape)
        out[~self.present] = np.nan
        return out

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct images (M, b, p), at least one, and the row of each slot among them (B, K)."""
        used = self.chosen[self.present]
        if not used.size:
            return np.full((1, *self.pixels.shape[1:]), np.nan, np.float32), np.zeros(self.chosen.shape, np.int64)
        low, high = int(used.min()), int(used.max())
        if high - low < used.size:  # windows of neighbouring time steps: a part of the images, without a copy
            return self.pixels[low : high + 1], np.where(self.present, self.chosen - low, 0)
        distinct, of_used = np.unique(used, return_inverse=True)
        row = np.zeros(self.chosen.shape, np.int64)
        row[self.present] = of_used
        return self.pixels[distinct], row


def _slots(series: Series, place: np.ndarray, stop: np.ndarray, length: int, repeat: bool) -> list[_Slots]:
    """Return the slots of each kind of images of windows; of chips alone, none where a series has no chips."""
    count = length // HOURLY.steps_per_day + 2
    origin, first = series.chip_zero[place], stop - length
    chips, slots_of = Images(series.chips, series.chip_key), _repeated if repeat else _once
    if not series.images:
        return [slots_of(chips, origin, first, stop, count if len(series.chip_key) else 0)]
    every = (chips, *series.images) if series.chips.shape[1] else series.images
    return [slots_of(kind, origin, first, stop, count) for kind in every]


def _once(kind: Images, origin: np.ndarray, first: np.ndarray, stop: np.ndarray, count: int) -> _Slots:
    """Return the slots (B, count) of the images of one kind, each image once."""
    pixels, key = kind
    if not count or not len(key):
        return _empty(pixels, len(stop), count)
    latest = np.searchsorted(key, origin + first, side="right") - 1
    index = latest[:, None] + np.arange(count)
    present = (index >= 0) & (index < len(key))
    index = np.where(present, index, 0)
    hour = key[index] - origin[:, None]
    present &= (hour >= -ZERO) & (hour < stop[:, None])
    return _Slots(pixels, index, present, np.maximum(hour - first[:, None], 0))


def _repeated(kind: Images, origin: np.ndarray, first: np.ndarray, stop: np.ndarray, count: int) -> _Slots:
    """Return the slots (B, count) of the images of one kind, the latest one at the same hour of every day."""
    pixels, key = kind
    if not count or not len(key):
        return _empty(pixels, len(stop), count)
    day = HOURLY.steps_per_day
    # All images of a place stand at one hour of the day, that of its solar noon.
    earliest = key[np.searchsorted(key, origin - ZERO).clip(max=len(key) - 1)] - origin
    step = ((earliest - first) % day)[:, None] + day * np.arange(count)
    hour = first[:, None] + step
    index = np.searchsorted(key, origin[:, None] + hour, side="right") - 1
    present = (index >= 0) & (hour < stop[:, None])
    index = np.where(present, index, 0)
    present &= key[index] - origin[:, None] >= -ZERO
    return _Slots(pixels, index, present, step)


def _empty(pixels: np.ndarray, windows: int, count: int) -> _Slots:
    """Return slots without an image."""
    absent = np.zeros((windows, count), np.int64)
    return _Slots(pixels, absent, absent > 0, absent)


def _packed(parts: Sequence[np.ndarray], several: bool) -> np.ndarray:
    """Return the images (..., K, b, p) of chips alone, or those of several kinds behind each other.

    The latter are flattened, (..., kinds x K, 1, F), NaN from their own number of values on.
    """
    if not several:
        return parts[0]
    flat = [part.reshape(*part.shape[:-2], 1, part.shape[-2] * part.shape[-1]) for part in parts]
    starts = np.cumsum([0, *(part.shape[-3] for part in flat)])
    width = max(part.shape[-1] for part in flat)
    out = np.full((*flat[0].shape[:-3], starts[-1], 1, width), np.nan, np.float32)
    for part, start in zip(flat, starts, strict=False):
        out[..., start : start + part.shape[-3], :, : part.shape[-1]] = part
    return out
