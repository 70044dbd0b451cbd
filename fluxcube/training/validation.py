"""Validation during training: the score of each epoch, the best one, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from fluxcube.models.base import Batch, Model
from fluxcube.moments import moments, scores_of
from fluxcube.samples.loader import Windows
from fluxcube.samples.support import towers_with_embeddings
from fluxcube.samples.towers import Towers

#: Minimum number of hours of history of each validated hour of a dense head.
_HISTORY = 24


@dataclass(frozen=True)
class Validation:
    """Fixed windows of the validation towers, of which the last time steps are scored.

    Attributes
    ----------
    windows : Windows
        Windows of the validation towers, with measured fluxes only; those of the first epoch are scored.
    """

    windows: Windows

    def score(self, model: Model, check: Callable[[], None] | None = None) -> dict[str, float]:
        """Return the NSE of each target over all scored time steps; NaN where nothing was measured.

        Parameters
        ----------
        model : Model
        check : callable, optional
            Called before each batch; it may raise an error to stop the validation.
        """
        names = self.windows.spec.targets
        embed_windows(model, self.windows)
        estimates, measured = [], []
        self.windows.set_epoch(0)
        for batch in self.windows:
            if check is not None:
                check()
            estimates.append(model.predict(Batch.of(batch))[:, -self.windows.emits :])
            measured.append(batch["targets"])
        obs, pred = (np.concatenate(parts).reshape(-1, len(names)) for parts in (measured, estimates))
        return {name: observed_nse(obs[:, i], pred[:, i]) for i, name in enumerate(names)}


def validation_windows(
    model: Model, val: Towers | None, limit: int | None, batch_size: int, seed: int
) -> Windows | None:
    """Return the fixed windows of validation towers that a model is scored on, each hour with a day of history.

    Daily windows are complete, as they are in predictions.
    """
    if val is None:
        return None
    windows = Windows(
        val,
        **scored_windows(model),
        limit=limit,
        batch_size=batch_size,
        partial=val.spec.time_resolution.partial_windows,
        seed=seed,
    )
    embed_windows(model, windows)
    return windows


class ScoredWindows(TypedDict):
    """Options of `fluxcube.samples.loader.Windows` whose last time steps are scored."""

    length: int
    emits: int
    repeat_images: bool


def scored_windows(model: Model) -> ScoredWindows:
    """Return the settings of windows whose last time steps are scored.

    These steps have a day of history; of a model with streams, all `context` steps.
    """
    if model.streams:
        emits = model.training_stride
        return {"length": model.context - 1 + emits, "emits": emits, "repeat_images": True}
    emits = min(model.emits, max(1, model.context - _HISTORY))
    return {"length": model.context, "emits": emits, "repeat_images": False}


def embed_windows(model: Model, windows: Windows) -> None:
    """Add the embeddings that a model computes to the towers of windows, if the model uses any."""
    if model.embedding_size:
        windows.towers = towers_with_embeddings(windows.towers, model)


def observed_nse(obs: np.ndarray, pred: np.ndarray) -> float:
    """Return the NSE over observed values; NaN if there are none, or if an estimate for one is not finite."""
    seen = np.isfinite(obs)
    obs, pred = obs[seen].astype(float), pred[seen].astype(float)
    return float(scores_of(moments(obs, pred))["nse"]) if np.isfinite(pred).all() else math.nan


def scored_epochs(history: Sequence[Mapping]) -> list[Mapping]:
    """Return the log entries of the epochs from which the best is chosen: those after pre-training."""
    return [row for row in history if row.get("stage", 2) == 2]


def mean_nse(row: Mapping) -> float:
    """Return the mean of an epoch's finite validation scores; minus infinity if there is none."""
    values = [v for k, v in row.items() if k.startswith("val_nse_") and math.isfinite(v)]
    return sum(values) / len(values) if values else -math.inf


def stalled(history: Sequence[Mapping], patience: int | None) -> bool:
    """Return whether the best validation score is `patience` epochs old.

    Examples
    --------
    >>> rows = [{"val_nse_NEE": v} for v in (0.1, 0.4, 0.3, 0.2)]
    >>> stalled(rows, 2), stalled(rows, 3), stalled(rows, None)
    (True, False, False)
    """
    if patience is None or not history:
        return False
    scores = [mean_nse(row) for row in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience
