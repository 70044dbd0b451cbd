"""What every model takes and gives: a batch of windows in, scaled fluxes for their hours out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


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


@runtime_checkable
class Model(Protocol):
    """A trained model.

    Attributes
    ----------
    context : int
        Hours T of a window.
    n_targets : int
        Fluxes per hour.
    emits : int
        How many of a window's last hours `predict` fills: T for a dense head, 1 for others.
    """

    context: int
    n_targets: int
    emits: int

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, n_targets) float32 in scaled units; NaN in the hours that are not emitted."""
        ...
