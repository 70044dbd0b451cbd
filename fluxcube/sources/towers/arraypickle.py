"""Read arrays from a Python pickle without executing it: its opcodes are read as data, and few of them are allowed.

A pickle is a program, and the usual way to read one executes it. Here `pickletools` lists its opcodes, and a small
interpreter follows the list. It builds numbers, text, bytes, dates, lists, tuples, dicts, and NumPy arrays and scalars
of numbers, and never calls a function that the file names. Everything else is refused with its name.
"""

from __future__ import annotations

import math
import pickletools
import reprlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

import numpy as np

from fluxcube.errors import SourceError

#: Maximum size of a pickle in bytes: 25 years of daily chips of 9 x 10 x 10 float64 are 66 MB.
MAX_BYTES = 512 << 20
#: Maximum number of opcodes: a chip takes about 30. With at most one small object each, they cannot fill the RAM.
MAX_OPS = 2_000_000

_MARK = object()
_DTYPE = "biuf"  # admitted kinds of an array's elements: bool, integers, floats; no objects, text, dates or records
_KEYS = (str, bytes, int, float, np.datetime64, np.generic, type(None))
_BYTE_ORDERS: dict[str, Literal["<", ">", "|", "="]] = {"<": "<", ">": ">", "|": "|", "=": "="}
_Container = TypeVar("_Container", list, dict)
_SKIPPED = {"PROTO", "FRAME"}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SHORT_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LITERAL = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}


def read_array_pickle(data: bytes, where: object) -> object:
    """Return the content of a pickle of arrays, scalars, text, dates and plain containers; refuse any other pickle.

    Parameters
    ----------
    data : bytes
        The pickle, of protocol 0 to 5.
    where : object
        Where the pickle comes from, for messages.

    Returns
    -------
    object
        Lists, tuples and dicts of numbers, str, bytes, None, datetime64 and NumPy arrays of bools, integers and
        floats. Dates (``datetime.datetime`` and ``pandas.Timestamp`` without time zone) are returned as datetime64;
        arrays are read-only.

    Raises
    ------
    SourceError
        If the pickle names any other class or function (which the message contains), uses an opcode that plain data do
        not need, is cut, or exceeds `MAX_BYTES` or `MAX_OPS`.

    Notes
    -----
    Admitted globals: ``numpy.ndarray``, ``numpy.dtype``, ``numpy.core.multiarray._reconstruct`` and ``.scalar``,
    ``numpy.core.numeric._frombuffer`` (and their ``numpy._core`` names), ``_codecs.encode`` and ``bytes`` (as protocols
    0 to 2 write bytes), ``datetime.datetime``, and pandas' ``Timestamp`` and ``_unpickle_timestamp``. None of them is
    called: each is replaced by a function of this module that checks its arguments.

    Examples
    --------
    >>> import pickle
    >>> read_array_pickle(pickle.dumps({"a": [1, 2.5, None]}), "a.pkl")
    {'a': [1, 2.5, None]}
    """
    if len(data) > MAX_BYTES:
        raise SourceError(
            f"{where}: {len(data) >> 20} MiB, more than {MAX_BYTES >> 20} MiB, the maximum of such a file; get it from "
            "its publisher"
        )
    machine = _Machine(where)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MAX_OPS:
                raise machine.refused(f"more than {MAX_OPS} opcodes")
            machine.step(opcode.name, argument)
        return machine.result()
    except SourceError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise SourceError(f"{where}: cut or broken pickle ({str(error)[:100]}); get the file again") from error


class _Machine:
    """The stack and the memo of a pickle, and the effect of each admitted opcode on them."""

    def __init__(self, where: object):
        self._where, self._stopped = where, False
        self._stack: list[Any] = []  # values of the pickle, whose types each opcode checks
        self._memo: dict[int, Any] = {}

    def refused(self, what: str) -> SourceError:
        return SourceError(
            f"{self._where}: {what}, where only NumPy arrays and plain containers are read; the file is not as "
            "CarbonSense publishes it: do not open it with pickle, get it from its publisher"
        )

    def result(self) -> object:
        if not self._stopped or len(self._stack) != 1 or self._stack[0] is _MARK:
            raise ValueError("its end is missing")
        self._check_finished(self._stack[0])
        return self._stack[0]

    def _check_finished(self, value: object) -> None:
        """Refuse names and unfinished arrays among the values; each container is searched once."""
        waiting, seen = [value], set()
        while waiting:
            item = waiting.pop()
            if isinstance(item, _Named):
                raise self.refused(f"{item.name} as a value")
            if isinstance(item, _Array | _Type):
                raise self.refused("an array without its bytes as a value")
            if isinstance(item, list | tuple | dict) and id(item) not in seen:
                seen.add(id(item))
                waiting.extend(item.values() if isinstance(item, dict) else item)

    def step(self, name: str, argument: object) -> None:
        if name in _LITERAL:
            self._stack.append(argument)
        elif name in _CONSTANT:
            self._stack.append(_CONSTANT[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLE:
            self._stack.append(tuple(self._pop(_SHORT_TUPLE[name])))
        elif name == "STOP":
            self._stopped = True
        elif name not in _SKIPPED:
            self._other(name, argument)

    def _other(self, name: str, argument: object) -> None:
        method: Callable[[object], None] | None = getattr(self, f"_do_{name.lower()}", None)
        if method is None:
            raise self.refused(f"opcode {name}")
        method(argument)

    def _pop(self, count: int = 1) -> list:
        if len(self._stack) < count:
            raise IndexError("its stack is empty")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        if any(item is _MARK for item in items):
            raise IndexError("a mark where a value is needed")
        return items

    def _pop_to_mark(self) -> list:
        for back in range(len(self._stack) - 1, -1, -1):
            if self._stack[back] is _MARK:
                items = self._stack[back + 1 :]
                del self._stack[back:]
                return items
        raise IndexError("no mark")

    def _top(self, kind: type[_Container]) -> _Container:
        top = self._stack[-1] if self._stack else None
        if type(top) is not kind:
            raise TypeError(f"no {kind.__name__} to add to")
        return top

    # --- stack and memo -----------------------------------------------------------------------------------------

    def _do_mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def _do_pop(self, _: object) -> None:
        self._stack.pop()

    def _do_pop_mark(self, _: object) -> None:
        self._pop_to_mark()

    def _do_dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _do_memoize(self, _: object) -> None:
        self._do_put(len(self._memo))

    def _do_put(self, index: int) -> None:
        self._memo[index] = top = self._stack[-1]
        if isinstance(top, _Array):
            top.memo = index

    def _do_get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _do_binput = _do_long_binput = _do_put
    _do_binget = _do_long_binget = _do_get

    # --- containers ---------------------------------------------------------------------------------------------

    def _do_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _do_list(self, _: object) -> None:
        self._stack.append(self._pop_to_mark())

    def _do_append(self, _: object) -> None:
        items = self._pop()
        self._top(list).extend(items)

    def _do_appends(self, _: object) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _do_dict(self, _: object) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set(items)

    def _do_setitem(self, _: object) -> None:
        self._set(self._pop(2))

    def _do_setitems(self, _: object) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):  # hashing a tuple that is nested in itself never ends
                raise self.refused(f"a {type(key).__name__} as key of a dict")
            target[key] = value

    # --- names of functions and classes -------------------------------------------------------------------------

    def _do_global(self, text: str) -> None:
        self._stack.append(self._find(*text.split(" ", 1)))

    def _do_stack_global(self, _: object) -> None:
        self._stack.append(self._find(*self._pop(2)))

    def _find(self, module: object, name: object = "") -> _Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refused("a global whose name is no text")
        named = f"{module}.{name}"
        if named not in _GLOBALS:
            raise self.refused(f"the global {_short(named)!r}")
        return _Named(_GLOBALS[named], named)

    def _do_reduce(self, _: object) -> None:
        function, arguments = self._pop(2)
        if not isinstance(function, _Named) or not isinstance(arguments, tuple):
            raise self.refused("a call of something that is not an admitted name")
        self._stack.append(self._checked(function.make, function.name, arguments))

    def _do_build(self, _: object) -> None:
        target, state = self._pop(2)
        if not isinstance(target, _Array | _Type) or not isinstance(state, tuple):
            raise self.refused(f"state for a {type(target).__name__}")
        array = self._checked(target.set, "the state of an array", state)
        self._stack.append(array)
        if isinstance(target, _Array) and target.memo is not None:
            self._memo[target.memo] = array  # later references are to the finished array

    def _checked(self, make: Callable[..., object], name: str, arguments: tuple) -> object:
        try:
            return make(*arguments)
        except _NotPlain as error:
            raise self.refused(f"{name}: {error}") from error


class _NotPlain(Exception):
    """An admitted name was used with arguments that do not produce plain data."""


class _Named:
    """A global that the pickle named, and the function of this module that replaces it."""

    def __init__(self, make: Callable[..., object], name: str):
        self.make, self.name = make, name


class _Type:
    """A dtype before its state is set."""

    def __init__(self, text: object, *_: object):
        kind = np.dtype(text) if isinstance(text, str) and len(text) < 8 else None
        if kind is None or kind.kind not in _DTYPE:
            raise _NotPlain(f"elements of type {_short(text)!r}")
        self.dtype = kind

    def set(self, version: int, order: str, *rest: object) -> _Type:
        if any(item is not None for item in rest[:3]) or order not in _BYTE_ORDERS:
            raise _NotPlain("a record or sub-array type")
        self.dtype = self.dtype.newbyteorder(_BYTE_ORDERS[order])
        return self


class _Array:
    """An array before its state is set."""

    def __init__(self, kind: object, *_: object):
        if not isinstance(kind, _Named) or kind.name != "numpy.ndarray":
            raise _NotPlain("a subclass of an array")
        self.memo: int | None = None

    def set(self, version: int, shape: tuple, kind: _Type, fortran: bool, raw: object) -> np.ndarray:
        return _from_bytes(raw, kind, shape, "F" if fortran else "C")


def _from_bytes(raw: object, kind: object, shape: tuple, order: str = "C", *_: object) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(raw, bytes | bytearray | str):
        raise _NotPlain("elements that are not plain numbers")
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    whole = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
    if not whole or order not in ("C", "F") or math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise ValueError("an array's bytes do not fill its shape")
    flat = np.frombuffer(bytes(raw), kind.dtype)
    return flat.reshape(shape) if order == "C" else flat.reshape(shape, order="F")


def _array_type(*_: object) -> None:
    raise _NotPlain("arrays are built from bytes only")


def _scalar(kind: object, raw: object = None) -> object:
    return _from_bytes(raw, kind, ())[()]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _NotPlain("a codec other than latin1")
    return text.encode("latin-1")


def _no_bytes(*arguments: object) -> bytes:
    """Return empty bytes, which protocols 0 to 2 write as a call of bytes()."""
    if arguments:
        raise _NotPlain("bytes with arguments")
    return b""


def _datetime(state: object, *rest: object) -> np.datetime64:
    """Read the ten bytes of a pickled datetime.datetime."""
    raw = state.encode("latin-1") if isinstance(state, str) else state
    if not isinstance(raw, bytes) or len(raw) != 10 or rest:
        raise _NotPlain("a date with a time zone, or not of ten bytes")
    year, (month, day, hour, minute, second) = raw[0] * 256 + raw[1], raw[2:7]
    return np.datetime64(datetime(year, month & 0x7F, day, hour, minute, second), "ns")


def _timestamp(value: object, freq: object = None, zone: object = None, unit: object = 10) -> object:
    """Read a pandas.Timestamp: a number of units since 1970, without time zone."""
    units = {10: "ns", 9: "us", 8: "ms", 7: "s"}
    if type(value) is not int or zone is not None or not isinstance(unit, int) or unit not in units:
        raise _NotPlain("a time with a time zone, or not a whole number")
    return np.array(value).astype(f"datetime64[{units[unit]}]").astype("datetime64[ns]")[()]


_GLOBALS: dict[str, Callable[..., object]] = {
    "numpy.ndarray": _array_type,
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "datetime.datetime": _datetime,
    "pandas._libs.tslibs.timestamps.Timestamp": _timestamp,
    "pandas._libs.tslibs.timestamps._unpickle_timestamp": _timestamp,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in (
            ("multiarray._reconstruct", _Array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_bytes),
        )
    },
}


def _short(thing: object) -> str:
    """Return the beginning of a value as text; of nested containers only the outer levels, which may be endless."""
    return thing[:100] if isinstance(thing, str) else reprlib.repr(thing)[:100]
