"""Bootstrap intervals of scores and of their differences, by resampling clusters of sites.

The time steps of a tower, and nearby towers, have the same weather and ecosystem. They are no independent samples, so
whole clusters of sites are resampled, as sums of each site. All models are scored on the same draws, so that the choice
of towers does not add to the variance of a difference.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from fluxcube.moments import Moments, scores_of

#: Scores that have intervals.
INTERVALS = ("nse", "rmse", "nse_site_median")
#: Minimum number of clusters for an interval.
MIN_CLUSTERS = 3


class ResampledScores(NamedTuple):
    """Scores of resampled clusters.

    Attributes
    ----------
    values : dict of str to (draws, model) float
        Scores of each draw, by name of the score (`INTERVALS`).
    clusters : int
        Number of clusters that were resampled.
    """

    values: dict[str, np.ndarray]
    clusters: int


def draw_counts(clusters: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each draw contains each cluster, (draws, clusters) int.

    A draw consists of `clusters` clusters, drawn with replacement.
    """
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)


def resample(
    sites: Moments, clusters: np.ndarray, counts: np.ndarray | None = None, *, draws: int = 1000, seed: int = 0
) -> ResampledScores:
    """Compute the scores of resampled clusters of sites.

    Parameters
    ----------
    sites : Moments of (site, model)
        Sums of each site; sites without a pair are left out.
    clusters : (site,) int
        Cluster of each site.
    counts : (draws, clusters) int, optional
        How often each draw contains each cluster, in the order of their labels; drawn by default.
    draws, seed : int
        Number of draws, and seed of the random generator.

    Returns
    -------
    ResampledScores
    """
    scored = (sites.n > 0).any(1)
    sites = Moments(*(x[scored] for x in sites))
    labels, cluster = np.unique(np.asarray(clusters)[scored], return_inverse=True)
    if counts is None:
        counts = draw_counts(len(labels), draws, seed)
    weights = counts[:, cluster].astype(float)
    values = scores_of(_pooled(sites, weights))
    median = weighted_median(scores_of(sites)["nse"], counts[:, cluster])
    return ResampledScores({"nse": values["nse"], "rmse": values["rmse"], "nse_site_median": median}, len(labels))


def _pooled(sites: Moments, weights: np.ndarray) -> Moments:
    """Return the moments (draw, model) of sites (site, model) that are repeated `weights` (draw, site) times."""
    n = weights @ sites.n

    def centred(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean of each draw, and from the mean of all sites the deviations of sites and of draws."""
        # The sums of squares below are of deviations: a large mean would cost their last digits.
        known = np.where(sites.n > 0, mean, 0.0)
        centre = (sites.n * known).sum(0) / np.maximum(sites.n.sum(0), 1)
        deviation = np.where(sites.n > 0, known - centre, 0.0)
        shift = (weights @ (sites.n * deviation)) / np.where(n > 0, n, np.nan)
        return centre + shift, deviation, shift

    mean_obs, obs, obs_shift = centred(sites.obs)
    mean_pred, pred, pred_shift = centred(sites.pred)

    def second(within: np.ndarray, a: np.ndarray, b: np.ndarray, a_shift: np.ndarray, b_shift: np.ndarray):
        """Return sums of products of deviations from the mean of each draw."""
        total = weights @ (within + sites.n * a * b)
        rest = total - n * a_shift * b_shift
        return np.where(np.abs(rest) > 1e-13 * np.abs(total), rest, 0.0)  # a smaller rest is a rounding error

    return Moments(
        n,
        mean_obs,
        mean_pred,
        np.maximum(second(sites.obs2, obs, obs, obs_shift, obs_shift), 0.0),
        np.maximum(second(sites.pred2, pred, pred, pred_shift, pred_shift), 0.0),
        second(sites.cross, obs, pred, obs_shift, pred_shift),
        weights @ sites.sse,
        weights @ sites.sae,
    )


def weighted_median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the median of values that are repeated.

    Parameters
    ----------
    values : (site, model) float
        Values; NaN is left out.
    counts : (draws, site) int
        How often each value is repeated.

    Returns
    -------
    (draws, model) float
        Medians; NaN where no value is repeated.

    Examples
    --------
    >>> weighted_median(np.array([[1.0], [2.0], [9.0]]), np.array([[1, 1, 1], [2, 0, 2], [0, 0, 3]])).ravel().tolist()
    [2.0, 5.0, 9.0]
    """
    out = np.full((len(counts), values.shape[1]), np.nan)
    for m, column in enumerate(values.T):
        order = np.argsort(np.where(np.isfinite(column), column, np.inf), kind="stable")[: np.isfinite(column).sum()]
        cumulative = np.cumsum(counts[:, order], axis=1)
        if not order.size:
            continue
        total = cumulative[:, -1:]
        low, high = ((cumulative > at).argmax(1) for at in ((total - 1) // 2, total // 2))
        middle = (column[order][low] + column[order][high]) / 2
        out[:, m] = np.where(total[:, 0] > 0, middle, np.nan)
    return out


def interval(draws: np.ndarray, clusters: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of an expanded percentile interval along the first axis; NaN for fewer than 3 clusters.

    The percentile interval of a bootstrap is too narrow for few clusters, as is a normal interval with a variance whose
    divisor is n. The expanded interval has wider tails, those of Student's t distribution with clusters - 1 degrees of
    freedom.

    Parameters
    ----------
    draws : (draws, ...) float
        A score, or a difference of scores, of each draw.
    clusters : int
        Number of clusters that were resampled.
    level : float
        Nominal coverage.

    Returns
    -------
    tuple of two arrays (...) float
        Lower and upper bounds.

    References
    ----------
    Hesterberg 2015, "What Teachers Should Know About the Bootstrap", doi:10.1080/00031305.2015.1089789
    """
    shape = draws.shape[1:]
    if clusters < MIN_CLUSTERS:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    t = student_quantile((1 + level) / 2, clusters - 1)
    tail = NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * t)
    known = np.isfinite(draws).all(0)
    low, high = np.quantile(np.where(known, draws, 0.0), [tail, 1 - tail], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def student_quantile(p: float, degrees: int) -> float:
    """Return a quantile of Student's t distribution, by bisection.

    Parameters
    ----------
    p : float
        Probability, above 0.5.
    degrees : int
        Degrees of freedom.

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
    """Return the probability that |T| < t."""
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range((degrees - 1) // 2 if odd else degrees // 2):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k + 2 if odd else 2 * k + 1) / (2 * k + 3 if odd else 2 * k + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
