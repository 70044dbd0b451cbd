"""Settings: make a frozen configuration from a mapping, and check that each value has the type of its field."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from fluxcube.errors import ConfigError, unknown


class Settings:
    """Settings of a model: a base of frozen dataclasses whose values are checked, and that can be read from JSON.

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Shape(Settings):
    ...     width: int = 16
    >>> Shape.from_dict({"width": 8})
    Shape(width=8)
    """

    @classmethod
    def from_dict(cls, values: Mapping) -> Self:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)  # type: ignore[type-var]  # subclasses are dataclasses

    def __post_init__(self) -> None:
        check_types(self)


class DataClass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


C = TypeVar("C", bound=DataClass)


def from_known_keys(cls: type[C], values: Mapping) -> C:
    """Make a frozen configuration from a mapping as JSON stores it; unknown keys are refused.

    Raises
    ------
    ConfigError
        If a value does not have the type of its field; see `check_types`.
    UnknownNameError
        If a key is unknown; the message names the nearest known key.

    Examples
    --------
    >>> from fluxcube.models.base import Sizes
    >>> from_known_keys(Sizes, {"inputs": 3, "band": 9})
    Traceback (most recent call last):
    fluxcube.errors.UnknownNameError: unknown Sizes key 'band': did you mean 'bands'? Known: bands, ...
    >>> from_known_keys(Sizes, {"inputs": 3.0, "classes": 5}) == Sizes(inputs=3, classes=(5,))
    True
    """
    valid = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in valid:
            raise unknown(f"{cls.__name__} key", key, valid)
    declared = typing.get_type_hints(cls)
    converted = {key: _converted(value, declared[key]) for key, value in values.items()}
    _check(declared, converted)
    return cls(**converted)


def check_types(config: object) -> None:
    """Check that every value of a dataclass has the type that its field declares.

    Text in place of a number would fail later and elsewhere. Text in place of a boolean would not fail at all, since
    "False" is true.

    Raises
    ------
    ConfigError
        If a value has another type, or is a number that is not finite; the message names the field.

    Examples
    --------
    >>> from fluxcube.models.base import Sizes
    >>> Sizes(inputs="3")
    Traceback (most recent call last):
    fluxcube.errors.ConfigError: inputs must be a whole number, found '3'.
    """
    _check(typing.get_type_hints(type(config)), vars(config))


def _check(declared: Mapping[str, object], values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if name in declared and not _fits(value, declared[name]):
            raise ConfigError(f"{name} must be {_type_text(declared[name])}, found {value!r}.")


def _converted(value: object, kind: object) -> object:
    """Convert a value to its declared type: lists, numbers and comma-separated words to tuples, and 1e5 to an int."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if isinstance(value, list):
        return tuple(value)
    if lists := [typing.get_args(one) for one in options if typing.get_origin(one) is tuple]:
        if isinstance(value, str) and str in lists[0]:
            return tuple(word.strip() for word in value.split(","))
        return (value,) if isinstance(value, (int, float)) else value
    return int(value) if isinstance(value, float) and value.is_integer() and int in options else value


def _fits(value: object, kind: object) -> bool:
    """Return whether a value has a declared type; true for types that are not checked."""
    options = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in options)
    if typing.get_origin(kind) is tuple:
        each = options[:1] * len(value) if isinstance(value, tuple) and options[-1] is Ellipsis else options
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    boolean = isinstance(value, (bool, np.bool_))
    if kind is float:
        return isinstance(value, numbers.Real) and not boolean and math.isfinite(value)
    plain: dict[object, bool] = {
        bool: boolean,
        int: isinstance(value, numbers.Integral) and not boolean,
        types.NoneType: value is None,
    }
    return plain.get(kind, isinstance(value, kind) if kind is str else True)


def _type_text(kind: object) -> str:
    """Return a declared type in words."""
    words: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    words[types.NoneType] = "null"
    options = [one for one in typing.get_args(kind) if one is not Ellipsis]
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_type_text, options))
    if typing.get_origin(kind) is tuple:
        return f"a list, [{', '.join(map(_type_text, options))}{', ...' if Ellipsis in typing.get_args(kind) else ''}]"
    return words.get(kind, str(kind))
