"""What every model takes and gives: a batch of windows in, scaled fluxes for their hours out."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from fluxcube.errors import ConfigError, unknown

T = TypeVar("T")


class Batch(NamedTuple):
    """Windows, as `fluxcube.samples.windows.gather` cuts them: all numpy arrays, or all torch tensors.

    Attributes
    ----------
    met : (B, T, V) float32
        Normalised predictors and memory columns; NaN is a masked token.
    images : (B, K, b, 64) float32
        Chips, pixels flattened; a band that is all NaN is a masked token. K may be 0.
    image_step : (B, K) int64
        Hour of the window (0..T-1) at which a chip stands, or -1 for none; no two chips share an hour.
    numbers : (B, S) float32
        Normalised static numbers; NaN is a masked token.
    classes : (B, C) int64
        Static classes as indices, or -1 for unknown.
    """

    met: np.ndarray
    images: np.ndarray
    image_step: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Batch:
        """Make a batch of what `gather` returns."""
        return cls(**{name: arrays[name] for name in cls._fields})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many of each input a model gets; which is which arrives as positions, never as names.

    Attributes
    ----------
    inputs : int
        V, met columns.
    bands : int
        b, bands of a chip.
    numbers : int
        S, static numbers.
    classes : tuple of int
        Number of classes of each static class.
    targets : int
        Fluxes per hour.
    protected : tuple of int
        Met columns that observational dropout spares (the clocks).
    means : int
        How many of the met columns, the last ones, are trailing means.
    cyclic : tuple of int
        Met columns normalised to [-1, 1) whose ends meet, for models that need to know it.
    """

    inputs: int
    bands: int = 0
    numbers: int = 0
    classes: tuple[int, ...] = ()
    targets: int = 1
    protected: tuple[int, ...] = ()
    means: int = 0
    cyclic: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping) -> Sizes:
        """Make sizes of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)

    def __post_init__(self):
        check_kinds(self)
        if self.inputs < 1 or self.targets < 1:
            raise ConfigError(f"a model needs an input and a target, found {self.inputs} and {self.targets}.")
        if any(not 0 <= column < self.inputs for column in self.protected):
            raise ConfigError(f"protected columns must lie in 0..{self.inputs - 1}, found {self.protected}.")


def from_known_keys(cls: type[T], values: Mapping) -> T:
    """Make a frozen config of a mapping as JSON gives it, refusing keys that `cls` does not have.

    Raises
    ------
    ConfigError
        If a value is not of its field's kind; see `check_kinds`.
    UnknownNameError
        Naming the nearest key.

    Examples
    --------
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
    kinds = typing.get_type_hints(cls)
    made = {key: _as_kind(value, kinds[key]) for key, value in values.items()}
    _check(kinds, made)
    return cls(**made)


def check_kinds(config: object) -> None:
    """Refuse a dataclass a value of which is of another kind than its field is declared.

    Text for a number would fail later and elsewhere, and text for a switch not at all: "False" is true.

    Raises
    ------
    ConfigError
        Naming the field; not finite numbers are refused, too.

    Examples
    --------
    >>> Sizes(inputs="3")
    Traceback (most recent call last):
    fluxcube.errors.ConfigError: inputs must be a whole number, found '3'.
    """
    _check(typing.get_type_hints(type(config)), vars(config))


def _check(kinds: Mapping[str, object], values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if name in kinds and not _fits(value, kinds[name]):
            raise ConfigError(f"{name} must be {_said(kinds[name])}, found {value!r}.")


def _as_kind(value: object, kind: object) -> object:
    """Make a tuple of a list, a number or words with commas between where one is wanted, and of 1e5 an int."""
    among = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if isinstance(value, list):
        return tuple(value)
    if lists := [typing.get_args(one) for one in among if typing.get_origin(one) is tuple]:
        if isinstance(value, str) and str in lists[0]:
            return tuple(word.strip() for word in value.split(","))
        return (value,) if isinstance(value, (int, float)) else value
    return int(value) if isinstance(value, float) and value.is_integer() and int in among else value


def _fits(value: object, kind: object) -> bool:
    """Whether a value is of a declared kind; true for kinds that are not looked into."""
    among = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in among)
    if typing.get_origin(kind) is tuple:
        each = among[:1] * len(value) if isinstance(value, tuple) and among[-1] is Ellipsis else among
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    switch = isinstance(value, (bool, np.bool_))
    if kind is float:
        return isinstance(value, numbers.Real) and not switch and math.isfinite(value)
    plain = {bool: switch, int: isinstance(value, numbers.Integral) and not switch, types.NoneType: value is None}
    return plain.get(kind, isinstance(value, kind) if kind is str else True)


def _said(kind: object) -> str:
    """A declared kind in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}
    among = [one for one in typing.get_args(kind) if one is not Ellipsis]
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_said, among))
    if typing.get_origin(kind) is tuple:
        return f"a list, [{', '.join(map(_said, among))}{', ...' if Ellipsis in typing.get_args(kind) else ''}]"
    return words.get(kind, str(kind))


@runtime_checkable
class Model(Protocol):
    """A model, as inference and checkpoints see it.

    Attributes
    ----------
    kind : str
        Its name in the registry.
    config : object
        Frozen dataclass of its settings, with `from_dict`.
    sizes : Sizes
        Numbers of inputs and targets.
    context : int
        Hours T of a window.
    n_targets : int
        Fluxes per hour.
    emits : int
        How many of a window's last hours `predict` fills: T for a dense head, 1 for others.
    """

    kind: str
    config: object
    sizes: Sizes
    context: int
    n_targets: int
    emits: int

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, n_targets) float32 in scaled units; NaN in the hours that are not emitted."""
        ...

    def weights(self) -> dict[str, bytes]:
        """Return the weights as files: name and content."""
        ...

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Take the weights that `weights` gave (ValueError or KeyError if they do not fit)."""
        ...


def quantities(model: Model) -> tuple[str, ...]:
    """Return what a model gives of each target: "mean"; "std" if it knows its error; "spread" if it has members.

    A model that gives more than the mean has the property `quantities` and the method `predict_all`, which returns
    (B, T, quantities x targets), all targets' means first.
    """
    return getattr(model, "quantities", ("mean",))


def predict_all(model: Model, batch: Batch) -> np.ndarray:
    """Return `quantities` of each target, (B, T, quantities x targets) float32 in scaled units."""
    return model.predict_all(batch) if len(quantities(model)) > 1 else model.predict(batch)


class RowModel:
    """A model whose estimate of an hour is a function of one row of numbers.

    Subclasses give `rows`, `fit` and `predict_rows`; only the last hour of a window is emitted.
    """

    sizes: Sizes
    context = 1
    emits = 1

    @property
    def n_targets(self) -> int:
        """Fluxes per hour."""
        return self.sizes.targets

    def rows(self, batch: Batch) -> np.ndarray:
        """Return the rows (B, F) float32 of a batch's windows."""
        raise NotImplementedError

    def fit(self, rows, targets, val_rows=None, val_targets=None, *, seed=0, progress=None) -> dict:
        """Learn from rows (N, F) and scaled targets (N, targets), NaN where not observed; return what to log."""
        raise NotImplementedError

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in all hours but the last."""
        out = np.full((*batch.met.shape[:2], self.n_targets), np.nan, np.float32)
        out[:, -1] = self.predict_rows(self.rows(batch))
        return out
