"""Memory: trailing means of the model inputs, which represent past weeks without a longer window."""

from __future__ import annotations

import numpy as np


def trailing_mean(values: np.ndarray, steps: int, *, share: float = 0.5) -> np.ndarray:
    """Return the mean of the observed values among the last `steps` time steps, including the current one.

    Parameters
    ----------
    values : (..., time) float
        NaN where missing.
    steps : int
        Number of time steps of the mean.
    share : float
        Minimum fraction of the time steps that must be observed; those before the record count as missing.

    Returns
    -------
    (..., time) float32
        NaN where less than `share` of the span is observed.

    Examples
    --------
    >>> trailing_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2)
    array([1., 2., 3., 5.], dtype=float32)
    """
    present = np.isfinite(values)
    total = _trailing_sum(np.where(present, values, 0.0).astype(np.float64), steps)
    count = _trailing_sum(present.astype(np.int64), steps)
    enough = (count > 0) & (count >= share * steps)
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _trailing_sum(values: np.ndarray, steps: int) -> np.ndarray:
    """Return the sum over the last `steps` entries of the last axis, fewer at its start."""
    total = np.cumsum(values, axis=-1)
    out = total.copy()
    out[..., steps:] -= total[..., :-steps]
    return out
