"""Prediction options: which outputs a model returns, and how it computes them."""

from __future__ import annotations

from dataclasses import dataclass


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
    precision : {"float32", "bfloat16"}
        Precision of matrix products.
    uncertainty : bool
        Whether standard deviations are returned, too.
    applicability : bool
        Whether the dissimilarity to the training days is returned, too.
    """

    stride: int
    min_context: int
    precision: str = "float32"
    uncertainty: bool = False
    applicability: bool = False
