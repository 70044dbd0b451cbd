"""Intervals of scores and of their differences, by resampling clusters of sites: sums are drawn, never rows.

Hours of a tower, and towers next to each other, share weather and ecosystem; the cluster is what another study would
draw anew. All models are scored on the same draws, so that a difference is not blurred by which towers were drawn.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from fluxcube.scores import Moments, scores

#: What gets an interval.
INTERVALS = ("nse", "rmse", "nse_site_median")
#: Fewer clusters than this say nothing of their spread.
LEAST_CLUSTERS = 3


class Drawn(NamedTuple):
    """Scores of resampled clusters.

    Attributes
    ----------
    values : dict of str to (draws, model) float
        By score, those of `INTERVALS`.
    clusters : int
        How many were drawn from.
    """

    values: dict[str, np.ndarray]
    clusters: int


def draw_counts(clusters: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each draw takes each cluster, (draws, clusters): as many as there are, with replacement."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)


def resample(sites: Moments, clusters: np.ndarray, counts: np.ndarray | None = None, *, draws=1000, seed=0) -> Drawn:
    """Score resampled clusters of sites.

    Parameters
    ----------
    sites : Moments of (site, model)
        Sums of each site; sites without a pair play no part.
    clusters : (site,) int
        Cluster of each site.
    counts : (draws, clusters) int, optional
        How often each draw takes each cluster, in the order of their labels; drawn by default.
    draws, seed : int
        How many draws, and of which generator.

    Returns
    -------
    Drawn
    """
    scored = (sites.n > 0).any(1)
    sites = Moments(*(x[scored] for x in sites))
    labels, of = np.unique(np.asarray(clusters)[scored], return_inverse=True)
    if counts is None:
        counts = draw_counts(len(labels), draws, seed)
    weights = counts[:, of].astype(float)
    values = scores(_pooled(sites, weights))
    median = weighted_median(scores(sites)["nse"], counts[:, of])
    return Drawn({"nse": values["nse"], "rmse": values["rmse"], "nse_site_median": median}, len(labels))


def _pooled(sites: Moments, weights: np.ndarray) -> Moments:
    """Moments (draw, model) of sites (site, model) taken so often as `weights` (draw, site) say."""
    n = weights @ sites.n
    means, shifts = [], []
    for mean in (sites.obs, sites.pred):
        held = np.where(sites.n > 0, mean, 0.0)
        # Deviations from the mean of all sites: the sums of squares below then lose nothing to a large mean.
        centre = (sites.n * held).sum(0) / np.maximum(sites.n.sum(0), 1)
        off = np.where(sites.n > 0, held - centre, 0.0)
        shift = (weights @ (sites.n * off)) / np.where(n > 0, n, np.nan)
        means.append(centre + shift)
        shifts.append((off, shift))
    (obs, obs_shift), (pred, pred_shift) = shifts

    def second(within, a, b, a_shift, b_shift):
        whole = weights @ (within + sites.n * a * b)
        left = whole - n * a_shift * b_shift
        return np.where(np.abs(left) > 1e-13 * np.abs(whole), left, 0.0)  # else it is only rounding

    return Moments(
        n,
        *means,
        np.maximum(second(sites.obs2, obs, obs, obs_shift, obs_shift), 0.0),
        np.maximum(second(sites.pred2, pred, pred, pred_shift, pred_shift), 0.0),
        second(sites.cross, obs, pred, obs_shift, pred_shift),
        weights @ sites.sse,
        weights @ sites.sae,
    )


def weighted_median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Median of values taken several times each.

    Parameters
    ----------
    values : (site, model) float
        NaN is left out.
    counts : (draws, site) int
        How often each is taken.

    Returns
    -------
    (draws, model) float
        NaN where nothing is taken.

    Examples
    --------
    >>> weighted_median(np.array([[1.0], [2.0], [9.0]]), np.array([[1, 1, 1], [2, 0, 2], [0, 0, 3]])).ravel().tolist()
    [2.0, 5.0, 9.0]
    """
    out = np.full((len(counts), values.shape[1]), np.nan)
    for m, column in enumerate(values.T):
        order = np.argsort(np.where(np.isfinite(column), column, np.inf), kind="stable")[: np.isfinite(column).sum()]
        upto = np.cumsum(counts[:, order], axis=1)
        if not order.size:
            continue
        total = upto[:, -1:]
        low, high = ((upto > at).argmax(1) for at in ((total - 1) // 2, total // 2))
        middle = (column[order][low] + column[order][high]) / 2
        out[:, m] = np.where(total[:, 0] > 0, middle, np.nan)
    return out


def interval(drawn: np.ndarray, clusters: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of an expanded percentile interval along the first axis, NaN of fewer than 3 clusters.

    The plain percentiles of a bootstrap are too narrow for few clusters, as a normal interval with the n-divisor's
    variance would be; their tails are widened to what Student's t with clusters - 1 degrees asks for.

    Parameters
    ----------
    drawn : (draws, ...) float
        A score, or a difference, of each draw.
    clusters : int
        How many were drawn from.
    level : float
        Nominal coverage.

    References
    ----------
    Hesterberg 2015, "What Teachers Should Know About the Bootstrap", doi:10.1080/00031305.2015.1089789
    """
    shape = drawn.shape[1:]
    if clusters < LEAST_CLUSTERS:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    t = student_quantile((1 + level) / 2, clusters - 1)
    tail = NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * t)
    known = np.isfinite(drawn).all(0)
    bounds = np.quantile(np.where(known, drawn, 0.0), [tail, 1 - tail], axis=0)
    return tuple(np.where(known, bound, np.nan) for bound in bounds)


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t for whole degrees of freedom, p above a half, by bisection of its distribution.

    References
    ----------
    Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    Examples
    --------
    >>> [round(student_quantile(0.975, n), 3) for n in (1, 2, 4, 30)]
    [12.706, 4.303, 2.776, 2.042]
    """
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, degrees) < 2 * p - 1 else (low, middle)
    return (low + high) / 2


def _student(t: float, degrees: int) -> float:
    """Probability that |T| < t."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range((degrees - 1) // 2 if odd else degrees // 2):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k + 2 if odd else 2 * k + 1) / (2 * k + 3 if odd else 2 * k + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
