"""Read and write UBJSON, the binary JSON in which XGBoost stores its trees.

XGBoost's own reader crashes the process on some damaged files. Files are therefore read here, where every length is
checked, and written again for XGBoost.
"""

from __future__ import annotations

import struct

import numpy as np

_INTEGERS = {"i": ">i1", "U": ">u1", "I": ">i2", "u": ">u2", "l": ">i4", "m": ">u4", "L": ">i8", "M": ">u8"}
_NUMBERS = {**_INTEGERS, "d": ">f4", "D": ">f8"}
_MARKS = {np.dtype(kind): mark for mark, kind in _NUMBERS.items()}
_CONSTANTS = {"Z": None, "T": True, "F": False}
#: Deepest nesting; XGBoost's files have eight levels.
_DEPTH = 64

#: Values that UBJSON can represent; an array of numbers of one type is a NumPy array.
Value = dict[str, "Value"] | list["Value"] | np.ndarray | str | int | float | bool | None


def read_ubjson(content: bytes) -> Value:
    """Return the value that a file contains.

    Parameters
    ----------
    content : bytes
        The whole file.

    Returns
    -------
    dict, list, numpy.ndarray, str, int, float, bool or None
        Arrays whose type is stored once are NumPy arrays, in the byte order of the machine.

    Raises
    ------
    ValueError
        If it is not UBJSON, ends early, or something follows its end.

    References
    ----------
    Universal Binary JSON, draft 12, https://ubjson.org

    Examples
    --------
    >>> read_ubjson(write_ubjson({"a": [1, "x"]}))
    {'a': [1, 'x']}
    """
    reader = _Reader(content)
    value = reader.value(reader.mark(), 0)
    if reader.at != len(content):
        raise ValueError(f"{len(content) - reader.at} bytes follow its end")
    return value


class _Reader:
    """Content, and the position of the next byte."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.content) - self.at:
            raise ValueError(f"it ends early, or the length {size} at byte {self.at} is wrong")
        self.at += size
        return self.content[self.at - size : self.at]

    def mark(self) -> str:
        return chr(self.take(1)[0])

    def number(self, mark: str) -> int | float:
        kind = np.dtype(_NUMBERS[mark])
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def length(self) -> int:
        mark = self.mark()
        if mark not in _INTEGERS:
            raise ValueError(f"a length of type {mark!r} at byte {self.at}")
        return int(self.number(mark))

    def text(self) -> str:
        return self.take(self.length()).decode("utf-8")

    def value(self, mark: str, depth: int) -> Value:
        if depth > _DEPTH:
            raise ValueError(f"more than {_DEPTH} levels")
        if mark in _NUMBERS:
            return self.number(mark)
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        if mark == "S":
            return self.text()
        if mark == "C":
            return self.mark()
        if mark == "[":
            return self._array(depth + 1)
        if mark == "{":
            return self._object(depth + 1)
        raise ValueError(f"the type {mark!r} at byte {self.at}")

    def _array(self, depth: int) -> Value:
        kind, count, mark = self._header()
        if kind in _NUMBERS and count is not None:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
        out: list[Value] = []
        while mark != "]" if count is None else len(out) < count:
            out.append(self.value(kind or mark or self.mark(), depth))
            mark = self.mark() if count is None else ""
        return out

    def _object(self, depth: int) -> dict[str, Value]:
        kind, count, mark = self._header()
        out: dict[str, Value] = {}
        while mark != "}" if count is None else len(out) < count:
            self.at -= bool(mark)  # the mark is the type of the key's length
            name = self.text()
            if name in out:
                raise ValueError(f"the name {name[:40]!r} is there twice")
            out[name] = self.value(kind or self.mark(), depth)
            mark = self.mark() if count is None else ""
        return out

    def _header(self) -> tuple[str, int | None, str]:
        """Return the common type ("" for none) and the number of elements (None if unknown), or the next mark."""
        kind, mark = "", self.mark()
        if mark == "$":
            kind, mark = self.mark(), self.mark()
            if mark != "#":
                raise ValueError(f"a type without a number of elements at byte {self.at}")
        if mark != "#":
            return "", None, mark
        if kind in _CONSTANTS:
            raise ValueError(f"elements without content at byte {self.at}")  # any number of them takes no bytes
        return kind, self.length(), ""


def write_ubjson(value: Value) -> bytes:
    """Return a value as UBJSON; see `read_ubjson`."""
    out = bytearray()
    _append(out, value)
    return bytes(out)


def _append(out: bytearray, value: Value) -> None:
    if isinstance(value, dict):
        out += b"{"
        for name, part in value.items():
            _append_text(out, name)
            _append(out, part)
        out += b"}"
    elif isinstance(value, np.ndarray):
        big = value.astype(value.dtype.newbyteorder(">"))
        out += b"[$" + _MARKS[big.dtype].encode() + b"#L" + struct.pack(">q", len(big)) + big.tobytes()
    elif isinstance(value, list):
        out += b"["
        for part in value:
            _append(out, part)
        out += b"]"
    else:
        _append_scalar(out, value)


def _append_scalar(out: bytearray, value: str | int | float | bool | None) -> None:
    if isinstance(value, str):
        out += b"S"
        _append_text(out, value)
    elif value is None or isinstance(value, bool):
        out += {None: b"Z", True: b"T", False: b"F"}[value]
    elif isinstance(value, int):
        out += b"L" + struct.pack(">q", value)
    else:
        out += b"D" + struct.pack(">d", value)


def _append_text(out: bytearray, text: str) -> None:
    content = text.encode()
    out += b"L" + struct.pack(">q", len(content)) + content
