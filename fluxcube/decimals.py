"""Lossless compression of float32 columns that are multiples of a decimal step, as in the text files of towers.

If a file has three decimals, for example, the mean of two half-hours is a multiple of 0.0005. Such a column is stored
as integer multiples of its step, or as differences between successive integers where these are smaller. All other
columns are stored unchanged, so that every bit is recovered. docs/benchmarks.md compares the codec with others.

`DecimalColumns` is a Zarr (format 3) codec that is registered by an entry point: ``xarray.open_zarr`` can read such a
store wherever fluxcube is installed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

import numpy as np
from numcodecs.zstd import Zstd
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

#: Steps per unit that are tried: decimal digits, and halves and quarters of the last one (means of 2 or 4 values).
SCALES = tuple(10**digits * parts for digits in range(8) for parts in (1, 2, 4))
#: Largest integer: larger ones need more bits than the mantissa of a float32 has.
_MAX_INTEGER = 1 << 24
#: Number of values that are checked first, to reject most scales quickly.
_SAMPLE = 32
#: Minimum number of values from which a step can be inferred.
_MIN_VALUES = 100

_EMPTY, _RAW, _PLAIN, _DELTA = range(4)
_LEVEL = 6


def snap(values: np.ndarray) -> np.ndarray:
    """Return float32 values (time,) rounded to the nearest multiples of their decimal step, if they have one.

    Means of decimal fractions that are computed in float32 differ from a decimal fraction by a rounding error, which
    is removed. No value changes by more than the precision of a float32 at the typical size of the column.

    Examples
    --------
    >>> thirds = np.float32(np.arange(200) / 8 + 1e-7)
    >>> bool((snap(thirds) == np.arange(200) / 8).all()), bool((snap(np.sqrt(thirds)) == np.sqrt(thirds)).all())
    (True, True)
    """
    present = np.isfinite(values)
    x = values[present].astype(float)
    if len(x) < _MIN_VALUES:
        return values
    size = np.abs(x)
    tolerance = 2.0**-23 * np.maximum(size, np.quantile(size, 0.99))
    for scale in SCALES:
        if tolerance.max() > 0.3 / scale:
            break
        whole = np.rint(x * scale)
        if (np.abs(whole / scale - x) <= tolerance).all():
            out = values.copy()
            out[present] = (whole / scale).astype(np.float32)
            return out
    return values


def encode_columns(block: np.ndarray) -> bytes:
    """Return the compressed bytes of a float32 block (time, column)."""
    kinds, scales, masks, wholes, raws = bytearray(), bytearray(), [], [], []
    for column in np.ascontiguousarray(block.T):
        present = np.isfinite(column)
        scaled = _scale(column[present]) if not np.isinf(column).any() else None
        if not present.any() and np.array_equal(column.view(np.uint32), _nan(len(column)).view(np.uint32)):
            kinds.append(_EMPTY)
            continue
        if scaled is None or not _only_plain_nan(column, present):
            kinds.append(_RAW)
            raws.append(column)
            continue
        number, whole = scaled
        kind, coded = _smaller(whole)
        kinds.append(kind)
        scales.append(number)
        masks.append(present)
        padded = np.zeros(len(column), np.uint32)
        padded[: len(coded)] = coded
        wholes.append(padded)
    parts = [bytes(kinds), bytes(scales), np.packbits(np.array(masks, bool)).tobytes(), _planes(wholes), _planes(raws)]
    return Zstd(_LEVEL).encode(b"".join(parts))


def decode_columns(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Return the float32 block (time, column) of `shape` from the bytes that `encode_columns` returned."""
    steps, columns = shape
    text = memoryview(bytes(Zstd().decode(data)))
    kinds, text = np.frombuffer(text[:columns], np.uint8), text[columns:]
    coded = np.flatnonzero(kinds >= _PLAIN)
    scales, text = np.frombuffer(text[: len(coded)], np.uint8), text[len(coded) :]
    size = -(-len(coded) * steps // 8)
    masks = np.unpackbits(np.frombuffer(text[:size], np.uint8), count=len(coded) * steps).reshape(-1, steps) > 0
    text = text[size:]
    wholes, text = _from_planes(text, len(coded), steps), text[4 * len(coded) * steps :]
    out = np.empty((columns, steps), np.float32)
    out[kinds == _EMPTY] = np.nan
    out[kinds == _RAW] = _from_planes(text, int((kinds == _RAW).sum()), steps).view(np.float32)
    signed = (wholes >> 1).astype(np.int32) ^ -(wholes & 1).astype(np.int32)
    for at, number, mask, whole in zip(coded, scales, masks, signed, strict=True):
        whole = whole[: np.count_nonzero(mask)]
        whole = np.cumsum(whole, dtype=np.int64) if kinds[at] == _DELTA else whole
        out[at] = np.nan
        out[at, mask] = whole / SCALES[number]
    return out.T


def _nan(length: int) -> np.ndarray:
    return np.full(length, np.nan, np.float32)


def _only_plain_nan(column: np.ndarray, present: np.ndarray) -> bool:
    return bool((column[~present].view(np.uint32) == _nan(1).view(np.uint32)).all())


def _scale(x: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Return the index of the coarsest scale with integer values, and the integers; None if no scale fits."""
    if not len(x):
        return None
    if (np.signbit(x) & (x == 0)).any():  # an integer cannot represent negative zero
        return None
    wide, largest = x.astype(float), float(np.abs(x).max())
    for number, scale in enumerate(SCALES):
        if largest * scale >= _MAX_INTEGER:
            return None
        for part in (wide[:_SAMPLE], wide):
            whole = np.rint(part * scale)
            if not ((whole / scale).astype(np.float32) == x[: len(part)]).all():
                break
        else:
            return number, whole.astype(np.int32)
    return None


def _smaller(whole: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the kind and the values of integers or of their differences, whichever are smaller (zigzag-encoded)."""
    plain, delta = (_zigzag(values) for values in (whole, np.diff(whole, prepend=np.int32(0))))
    bits = [np.log2(1.0 + values).sum() for values in (plain, delta)]
    return (_DELTA, delta) if bits[1] < bits[0] else (_PLAIN, plain)


def _zigzag(values: np.ndarray) -> np.ndarray:
    return ((values << 1) ^ (values >> 31)).astype(np.uint32)


def _planes(arrays: list[np.ndarray]) -> bytes:
    """Return the first bytes of all numbers, then their second bytes, and so on."""
    if not arrays:
        return b""
    stacked = np.ascontiguousarray(np.stack(arrays)).astype(arrays[0].dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(stacked.view(np.uint8).reshape(-1, 4).T).tobytes()


def _from_planes(text: memoryview, count: int, steps: int) -> np.ndarray:
    planes = np.frombuffer(text[: 4 * count * steps], np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<u4").astype(np.uint32, copy=False).reshape(count, steps)


@dataclass(frozen=True)
class DecimalColumns(ArrayBytesCodec):
    """Zarr codec of float32 blocks whose last dimension is the columns, each with its own decimal step."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Return the codec from the metadata of an array."""
        parse_named_configuration(data, "fluxcube.decimals", require_configuration=False)
        return cls()

    def to_dict(self) -> dict[str, JSON]:
        """Return the metadata of the codec."""
        return {"name": "fluxcube.decimals"}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        shape = chunk_spec.shape
        block = await asyncio.to_thread(decode_columns, chunk_bytes.to_bytes(), (int(np.prod(shape[:-1])), shape[-1]))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(np.ascontiguousarray(block).reshape(shape))

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        block = chunk_array.as_numpy_array().reshape(-1, chunk_spec.shape[-1])
        data = await asyncio.to_thread(encode_columns, block)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError, because the size is not known before encoding."""
        raise NotImplementedError
