"""Read small text files that users, other programs or a bad disk may have changed: JSON, YAML and plain text.

Each function raises an OSError or a ValueError with one sentence, whatever the file contains: a file that is too large
or no file at all (a pipe would block for ever), other characters than UTF-8, thousands of nested lists, other types
than expected. The caller raises its own error from it, which names the file and what to do.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

#: What pandas raises for a damaged table, also for a compressed one.
TABLE_FAULTS = (ValueError, OSError, EOFError, zlib.error, csv.Error, OverflowError, MemoryError)
#: What xarray and the NetCDF library raise for a damaged file.
FILE_FAULTS = (*TABLE_FAULTS, RuntimeError, LookupError, TypeError, AttributeError)

#: Maximum size of a file, and of the nesting of its lists and mappings.
MAX_BYTES, MAX_DEPTH = 1 << 28, 100
_MAX_VALUES = 1_000_000


def file_size(path: str | os.PathLike) -> int:
    """Return the size of a regular file; errors as of `read_bytes`, before a library waits for a pipe."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("expected a file, found a pipe or a device")
    return found.st_size


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file of limited size.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is a pipe or a device, or too large.
    """
    if (size := file_size(path)) > max_bytes:
        raise ValueError(f"expected at most {max_bytes} bytes, found {size}")
    return Path(path).read_bytes()


def read_text(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> str:
    """Return a text in UTF-8, without its byte order mark; errors as of `read_bytes`, also for other characters."""
    return read_bytes(path, max_bytes).decode("utf-8-sig")


def read_json(path: str | os.PathLike, expected: type[T], max_bytes: int = MAX_BYTES) -> T:
    """Return the JSON of a file; errors as of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, max_bytes), expected)


def parse_json(text: str | bytes, expected: type[T]) -> T:
    """Return the value of a JSON text.

    Parameters
    ----------
    text : str or bytes
        In UTF-8.
    expected : type
        Type of the value: dict, list, str, int, float or bool.

    Raises
    ------
    ValueError
        If it is not JSON, of another type, or nested more than `MAX_DEPTH` times.

    Examples
    --------
    >>> parse_json('{"a": [1, 2]}', dict)
    {'a': [1, 2]}
    >>> parse_json("[1]", dict)
    Traceback (most recent call last):
    ValueError: expected a mapping, found a list
    """
    try:
        value = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} times") from None
    return _checked(value, expected)


def parse_yaml(text: str, expected: type[T]) -> T:
    """Return the value of a YAML text.

    Parameters
    ----------
    text : str
        YAML of plain values (no tags of Python).
    expected : type
        Type of the value; `object` for any.

    Raises
    ------
    ValueError
        If it is not YAML, of another type, nested more than `MAX_DEPTH` times, or of more than a million values
        through references, which a few lines could expand to any number.

    Examples
    --------
    >>> parse_yaml("a: [1, x]", dict)
    {'a': [1, 'x']}
    """
    try:
        value = _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} times") from None
    return _checked(value, expected)


class _PlainLoader(yaml.SafeLoader):
    """Loader of plain values that limits what references to earlier values can expand to."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_reference, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if is_reference and id(node) not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "a value that contains itself", mark)
        size = self._sizes.setdefault(id(node), 1 + sum(self._sizes[id(part)] for part in _parts(node)))
        if size > _MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"references to more than {_MAX_VALUES} values", mark)
        return node


def _parts(node: yaml.Node | None) -> list[yaml.Node]:
    """Return the nodes within a node of YAML."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


_WORDS = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}


def _checked(value: object, expected: type[T]) -> T:
    """Return a value of the expected type and a limited depth (ValueError otherwise)."""
    if not isinstance(value, expected):
        words = [_WORDS.get(kind, kind.__name__) for kind in (expected, type(value))]
        raise ValueError(f"expected {words[0]}, found {words[1]}")
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        nested = [one for one in level if isinstance(one, dict | list)]
        level = [part for one in nested for part in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {MAX_DEPTH} times")
