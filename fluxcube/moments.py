"""Moments of predictions and observations, from which every score follows, and which can be pooled over parts.

Observations come first. A pair counts where both values are finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: The scores, in the order tables show them.
SCORES = ("nse", "rmse", "mae", "bias", "corr2")

Axis = int | tuple[int, ...] | None


class Moments(NamedTuple):
    """Sums over pairs of values from which every score is computed; float64 arrays of one shape.

    Attributes
    ----------
    n : ndarray
        Number of pairs.
    obs, pred : ndarray
        Means.
    obs2, pred2, cross : ndarray
        Sums of squared deviations from the means, and of their products.
    sse, sae : ndarray
        Sums of squared and of absolute errors.
    """

    n: np.ndarray
    obs: np.ndarray
    pred: np.ndarray
    obs2: np.ndarray
    pred2: np.ndarray
    cross: np.ndarray
    sse: np.ndarray
    sae: np.ndarray


def moments(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> Moments:
    """Return the moments of pairs along `axis` (all axes by default).

    Parameters
    ----------
    obs, pred : array
        Of one shape, or broadcastable; in one unit. NaN is missing.
    axis : int or tuple of int, optional
        Axes to reduce.
    """
    obs, pred = np.broadcast_arrays(np.asarray(obs, float), np.asarray(pred, float))
    valid = np.isfinite(obs) & np.isfinite(pred)
    n = valid.sum(axis=axis, dtype=float)
    mean_obs, mean_pred = (_mean(x, valid, n, axis) for x in (obs, pred))
    error = np.where(valid, pred - obs, 0.0)
    from_obs, from_pred = (
        np.where(valid, x - _spread(mean, axis, x.ndim), 0.0) for x, mean in ((obs, mean_obs), (pred, mean_pred))
    )
    sums = (from_obs**2, from_pred**2, from_obs * from_pred, error**2, np.abs(error))
    obs2, pred2, cross, sse, sae = (s.sum(axis=axis) for s in sums)
    return Moments(n, mean_obs, mean_pred, obs2, pred2, cross, sse, sae)


def pool(parts: Moments, axis: Axis = None) -> Moments:
    """Return the moments of all pairs of `parts` together, along `axis`.

    Parts without a pair add nothing. Up to rounding, pooling the parts of a set returns the moments of the set.

    Parameters
    ----------
    parts : Moments
        Of parts without common pairs.
    axis : int or tuple of int, optional
        Axes to reduce; all by default.

    References
    ----------
    Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", doi:10.1080/00031305.1983.10483115
    """
    n = parts.n.sum(axis=axis)
    weighted = [np.where(parts.n > 0, parts.n * mean, 0.0).sum(axis=axis) for mean in (parts.obs, parts.pred)]
    mean_obs, mean_pred = (_divide(total, n) for total in weighted)
    shift_obs, shift_pred = (
        np.where(parts.n > 0, part - _spread(whole, axis, parts.n.ndim), 0.0)
        for part, whole in zip((parts.obs, parts.pred), (mean_obs, mean_pred), strict=True)
    )
    return Moments(
        n,
        mean_obs,
        mean_pred,
        (parts.obs2 + parts.n * shift_obs**2).sum(axis=axis),
        (parts.pred2 + parts.n * shift_pred**2).sum(axis=axis),
        (parts.cross + parts.n * shift_obs * shift_pred).sum(axis=axis),
        parts.sse.sum(axis=axis),
        parts.sae.sum(axis=axis),
    )


def scores_of(m: Moments) -> dict[str, np.ndarray]:
    """Return every score of `SCORES` by name, from moments; NaN where a score is not defined."""
    return {
        "nse": 1.0 - _divide(m.sse, _significant(m.obs2, m.n, m.obs)),
        "rmse": np.sqrt(_divide(m.sse, m.n)),
        "mae": _divide(m.sae, m.n),
        "bias": m.pred - m.obs,
        "corr2": _divide(m.cross**2, _significant(m.obs2, m.n, m.obs) * _significant(m.pred2, m.n, m.pred)),
    }


def efficiency(mse: float, variance: float) -> float:
    """Return the Nash-Sutcliffe efficiency from a mean squared error and the variance of the same observations.

    NaN where the observations do not vary.

    Examples
    --------
    >>> efficiency(0.5, 2.0)
    0.75
    """
    return float(1 - mse / variance) if variance > 0 else float("nan")


def _mean(x: np.ndarray, valid: np.ndarray, n: np.ndarray, axis: Axis) -> np.ndarray:
    return _divide(np.where(valid, x, 0.0).sum(axis=axis), n)


def _spread(reduced: np.ndarray, axis: Axis, ndim: int) -> np.ndarray:
    """Restore the reduced axes with length 1, so that a mean can be subtracted from its values."""
    return np.expand_dims(reduced, tuple(range(ndim)) if axis is None else axis)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a quotient, or NaN where the divisor is 0 or NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / np.where(b > 0, b, 1.0), np.nan)


def _significant(squares: np.ndarray, n: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return sums of squared deviations, set to 0 where they are only rounding errors of the mean of a constant."""
    return np.where(squares > n * (1e-13 * np.abs(mean)) ** 2, squares, 0.0)
