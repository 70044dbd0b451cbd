"""Prediction options: which outputs a model returns, and how it computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fluxcube.devices import check_deterministic

#: Which measures of uncertainty are returned: all that a model has (True), one of them, or none (False).
Uncertainty = bool | Literal["std", "spread"]


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Options of a prediction, checked and completed by `Predictor.options`.

    Attributes
    ----------
    stride : int
        Number of time steps that one window emits.
    min_context : int
        Minimum number of time steps, its own included, from the start of the record to a predicted time step: the
        context of the model, or fewer to predict the first time steps, too.
    precision : {"float32", "tf32", "bfloat16"}
        Precision of matrix products.
    uncertainty : bool, "std" or "spread"
        Whether NAME_std and NAME_spread are returned, too, or one of them.
    applicability : bool
        Whether the dissimilarity to the training days is returned, too.
    device : str
        Device of the model as the user named it (`fluxcube.devices.check_device`).
    deterministic : bool
        Whether only algorithms that repeat their results bit by bit are used.
    members : tuple of PredictionOptions
        Options of each member of a mixed ensemble; empty for others.
    """

    stride: int
    min_context: int
    precision: str = "float32"
    uncertainty: Uncertainty = False
    applicability: bool = False
    device: str = "auto"
    deterministic: bool = False
    members: tuple[PredictionOptions, ...] = ()

    def __post_init__(self) -> None:
        check_deterministic(self.deterministic)

    @property
    def strides(self) -> str:
        """Number of time steps that one window emits, as text; of each member of a mixed ensemble."""
        return ", ".join(one.strides for one in self.members) or str(self.stride)
