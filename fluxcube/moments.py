"""Moments of predictions and observations, from which every score follows, and which can be pooled over parts.

Observations come first. A pair counts where both values are finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: The scores, in the order tables show them.
SCORES = ("nse", "rmse", "mae", "bias", "corr2")
#: Mean of observations, in their standard deviations, below which a ratio of means says little.
_NEAR_ZERO = 0.1

Axis = int | tuple[int, ...] | None


class Moments(NamedTuple):
    """Sums over pairs of values from which every score is computed; float64 arrays of one shape.

    Attributes
    ----------
    n : ndarray
        Number of pairs, or the sum of their weights.
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


def moments(
    obs: np.ndarray, pred: np.ndarray, axis: Axis = None, *, weights: np.ndarray | None = None, skipna: bool = True
) -> Moments:
    """Return the moments of pairs along `axis` (all axes by default).

    Parameters
    ----------
    obs, pred : array
        Of one shape, or broadcastable; in one unit. NaN is missing.
    axis : int or tuple of int, optional
        Axes to reduce.
    weights : array, optional
        Weight of each pair, 0 or more; a pair without a finite weight is missing. `n` is then the sum of the weights.
    skipna : bool
        Whether missing pairs are left out; if not, a missing pair makes the moments NaN.
    """
    arrays = [np.asarray(x, float) for x in ((obs, pred) if weights is None else (obs, pred, weights))]
    obs, pred, *weight = np.broadcast_arrays(*arrays)
    valid = np.isfinite(obs) & np.isfinite(pred)
    for one in weight:
        valid = valid & np.isfinite(one)
    if not skipna:
        complete = valid.all(axis=axis)
    weighted = [np.where(valid, one, 0.0) for one in weight]

    def total(x: np.ndarray) -> np.ndarray:
        return (x * weighted[0] if weighted else x).sum(axis=axis, dtype=float)

    n = total(valid)
    mean_obs, mean_pred = (_divide(total(np.where(valid, x, 0.0)), n) for x in (obs, pred))
    error = np.where(valid, pred - obs, 0.0)
    from_obs, from_pred = (
        np.where(valid, x - _spread(mean, axis, x.ndim), 0.0) for x, mean in ((obs, mean_obs), (pred, mean_pred))
    )
    squares = (from_obs**2, from_pred**2, from_obs * from_pred, error**2, np.abs(error))
    out = Moments(n, mean_obs, mean_pred, *map(total, squares))
    return out if skipna else Moments(*(np.where(complete, x, np.nan) for x in out))


def grouped_moments(obs: np.ndarray, pred: np.ndarray, label: np.ndarray, groups: int) -> Moments:
    """Return the moments of each group of pairs along the last axis, in one pass over the pairs.

    Parameters
    ----------
    obs, pred : (..., T) array
        In one unit. NaN is missing.
    label : (..., T) or (T,) int
        Group of each pair, from 0 to `groups` - 1; a pair with a negative label is in no group.
    groups : int
        Number of groups.

    Returns
    -------
    Moments of (..., groups)
    """
    obs, pred = np.broadcast_arrays(np.asarray(obs, float), np.asarray(pred, float))
    label = np.broadcast_to(label, obs.shape)
    valid = np.isfinite(obs) & np.isfinite(pred) & (label >= 0)
    shape = (*obs.shape[:-1], groups)
    rows = np.arange(int(np.prod(shape[:-1]))).reshape(*shape[:-1], 1) * groups
    at = (rows + label)[valid]
    obs, pred = obs[valid], pred[valid]

    def total(x: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(at, x, int(np.prod(shape))).astype(float)

    n = total()
    mean_obs, mean_pred = (_divide(total(x), n) for x in (obs, pred))
    error, from_obs, from_pred = pred - obs, obs - mean_obs[at], pred - mean_pred[at]
    squares = (from_obs**2, from_pred**2, from_obs * from_pred, error**2, np.abs(error))
    return Moments(*(x.reshape(shape) for x in (n, mean_obs, mean_pred, *map(total, squares))))


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


def kling_gupta(m: Moments, variant: str = "2009") -> np.ndarray:
    """Return the Kling-Gupta efficiency from moments; NaN where observations or predictions do not vary.

    Parameters
    ----------
    m : Moments
        Of any shape.
    variant : {"2009", "2021"}
        How the means are compared: their ratio (2009), or their difference in standard deviations of the observations
        (2021), which is defined for means near 0, too.

    References
    ----------
    Gupta et al. 2009, doi:10.1016/j.jhydrol.2009.08.003; Tang et al. 2021, doi:10.1175/JCLI-D-21-0067.1
    """
    obs2, pred2 = _significant(m.obs2, m.n, m.obs), _significant(m.pred2, m.n, m.pred)
    correlation = _divide(m.cross, np.sqrt(obs2 * pred2))
    spread = np.sqrt(_divide(pred2, obs2))
    if variant == "2021":
        level = _divide(m.pred - m.obs, np.sqrt(_divide(obs2, m.n)))
    else:
        level = _divide(m.pred * np.sign(m.obs), np.abs(m.obs)) - 1
    return 1 - np.sqrt((correlation - 1) ** 2 + (spread - 1) ** 2 + level**2)


def mean_near_zero(m: Moments) -> np.ndarray:
    """Return whether the mean of the observations is within 0.1 of their standard deviations of 0."""
    return np.abs(m.obs) < _NEAR_ZERO * np.sqrt(_divide(m.obs2, m.n))


def efficiency(mse: float, variance: float) -> float:
    """Return the Nash-Sutcliffe efficiency from a mean squared error and the variance of the same observations.

    NaN where the observations do not vary.

    Examples
    --------
    >>> efficiency(0.5, 2.0)
    0.75
    """
    return float(1 - mse / variance) if variance > 0 else float("nan")


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
