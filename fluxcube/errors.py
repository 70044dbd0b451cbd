"""What can go wrong, by kind: each error is also the builtin a caller would expect.

A message says what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Names that a message lists: all of a table, but not hundreds of sites.
_MOST = 60


class FluxcubeError(Exception):
    """Base of every error that fluxcube raises on purpose."""


class SourceError(FluxcubeError, ValueError):
    """A file of a provider is not what its name or its format promises."""


class SchemaError(FluxcubeError, ValueError):
    """A Dataset lacks a dimension, coordinate or variable that its kind must have."""


class StoreError(FluxcubeError, OSError):
    """A store is missing, unfinished, in the way, or cannot be written."""


class ConfigError(FluxcubeError, ValueError):
    """An option has a value it cannot have, or does not fit another option."""


class SplitError(FluxcubeError, ValueError):
    """Sites cannot be split as asked."""


class CheckpointError(FluxcubeError, ValueError):
    """A run folder holds no model that can be read."""


class TrainingError(FluxcubeError, ArithmeticError):
    """A loss or a gradient is not a finite number: training cannot go on."""


class UnknownNameError(FluxcubeError, KeyError):
    """A name that no table holds."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should stay one.
        return str(self.args[0]) if self.args else ""


class MissingPackageError(FluxcubeError, ImportError):
    """An optional package is needed and not installed."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> UnknownNameError:
    """Make the error for a name that is not in a table, naming the nearest valid one.

    Examples
    --------
    >>> raise unknown("variable", "SW_INN", ["SW_IN", "TA"])
    Traceback (most recent call last):
    fluxcube.errors.UnknownNameError: unknown variable 'SW_INN': did you mean 'SW_IN'? Known: SW_IN, TA.
    """
    valid = sorted(map(str, valid))
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f" did you mean {near[0]!r}?" if near else ""
    more = f" and {len(valid) - _MOST} more" if len(valid) > _MOST else ""
    return UnknownNameError(f"unknown {kind} {name!r}:{hint} Known: {', '.join(valid[:_MOST]) or 'none'}{more}.")


def missing_package(package: str, extra: str, what: str) -> MissingPackageError:
    """Make the error for an optional package that is not installed.

    Examples
    --------
    >>> raise missing_package("torch", "train", "training EcoPerceiver")
    Traceback (most recent call last):
    fluxcube.errors.MissingPackageError: training EcoPerceiver needs torch: pip install 'fluxcube[train]'.
    """
    return MissingPackageError(f"{what} needs {package}: pip install 'fluxcube[{extra}]'.")
