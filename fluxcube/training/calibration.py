"""Calibration of standard deviations: a factor per target, or an error model from held-out predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from fluxcube.models.base import Batch, Model
from fluxcube.models.errormodel import ErrorModel
from fluxcube.samples.loader import Windows

#: Probabilities of the prediction intervals.
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Minimum number of measured values for a calibration.
_MIN_VALUES = 20
#: Level at which the intervals of an error model contain exactly that share of the values.
LEVEL = 0.8
#: Maximum number of groups of clusters that are left out in turn, for the coverage at new places.
_GROUPS = 10
#: Number of times that an error model is fitted, with the weights of the fit before.
_FITS = 8
#: Smallest floor of an error model, relative to a constant standard deviation of the same coverage.
_MIN_FLOOR = 0.1


def calibration_factors(
    obs: np.ndarray, mean: np.ndarray, std: np.ndarray, site: np.ndarray, names: Sequence[str]
) -> dict[str, dict]:
    """Return the factors that calibrate standard deviations, and the coverage of the prediction intervals.

    The factor of a target is the geometric mean, over levels of 50, 80, 90 and 95 %, of the factor for which an
    interval contains exactly that fraction of the values: errors of fluxes have longer tails than a Gaussian
    distribution, so that no factor suits all levels.

    Parameters
    ----------
    obs, mean, std : (N, targets) float
        Measured values (NaN is missing), estimates and their standard deviations, in one unit.
    site : (N,) int
        Tower of each value.
    names : sequence of str
        Targets.

    Returns
    -------
    dict
        For each target "factor"; the numbers of "hours" and "sites" it was computed from; and the fraction of values
        within the intervals, as mappings of level to fraction: "as_given" (uncalibrated) and "calibrated", both on all
        sites, and "held_out", for each site with the factor of the others, which is expected at a new site (absent for
        one site). Only the factor 1 if fewer than 20 values are measured.

    References
    ----------
    Kuleshov et al. 2018 (calibrated regression), arXiv:1807.00263.
    """
    out = {}
    for i, name in enumerate(names):
        seen = np.isfinite(obs[:, i]) & (std[:, i] > 0)
        if seen.sum() < _MIN_VALUES:
            out[name] = {"factor": 1.0}
            continue
        ratio = np.abs(obs[seen, i].astype(float) - mean[seen, i]) / std[seen, i]
        out[name] = _factor_and_coverage(ratio, site[seen])
    return out


def _factor_and_coverage(ratio: np.ndarray, site: np.ndarray) -> dict:
    factor, sites = _factor(ratio), np.unique(site)
    found = {
        "factor": factor,
        "hours": len(ratio),
        "sites": len(sites),
        "as_given": _coverage(ratio),
        "calibrated": _coverage(ratio / factor),
    }
    if len(sites) > 1:
        alone = ratio.copy()
        for one in sites:
            alone[site == one] /= _factor(ratio[site != one])
        found["held_out"] = _coverage(alone)
    return found


def _factor(ratio: np.ndarray) -> float:
    logs = [math.log(max(float(np.quantile(ratio, level)), 1e-12) / half_width(level)) for level in LEVELS]
    return math.exp(sum(logs) / len(logs))


def _coverage(ratio: np.ndarray, levels: Sequence[float] = LEVELS) -> dict[str, float]:
    """Return the fraction of values within the interval of each level."""
    return {f"{level:g}": float((ratio <= half_width(level)).mean()) for level in levels}


def half_width(level: float) -> float:
    """Return half the width of an interval in standard deviations."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def fit_error_model(residual: np.ndarray, estimates: Mapping[str, np.ndarray]) -> ErrorModel:
    """Fit an error model to residuals: non-negative least squares of |residual|, scaled to a coverage of 80 %.

    Each value is weighted by the inverse square of its fitted standard deviation. The floor is at least a tenth of the
    constant standard deviation whose intervals contain 80 % of the residuals.

    Parameters
    ----------
    residual : (N,) float
        Measured values minus estimates, all finite.
    estimates : mapping of str to (N,) float
        "mean", and "spread" and "std" if the model has them.

    Returns
    -------
    ErrorModel

    References
    ----------
    Richardson et al. 2006, doi:10.1016/j.agrformet.2006.01.007
    """
    size = np.abs(np.asarray(residual, np.float64))
    names = ["mean", *(name for name in ("spread", "std") if name in estimates)]
    terms = np.stack([np.ones_like(size), *(np.abs(np.asarray(estimates[name], np.float64)) for name in names)], 1)
    constant = _scale(size)
    lowest = _MIN_FLOOR * constant
    fitted = np.array([constant, *[0.0] * len(names)])
    for _ in range(_FITS):
        fitted = _non_negative(terms, size, terms @ fitted)
        fitted[0] = max(fitted[0], lowest)
    fitted *= _scale(size / (terms @ fitted))
    named = dict(zip(names, map(float, fitted[1:]), strict=True))
    return ErrorModel(floor=max(float(fitted[0]), lowest), flux=named.pop("mean"), **named)


def _scale(size: np.ndarray) -> float:
    """Return the standard deviation whose 80 % interval contains 80 % of the absolute values."""
    return max(float(np.quantile(size, LEVEL)) / half_width(LEVEL), float(np.finfo(np.float32).tiny))


def _non_negative(terms: np.ndarray, size: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the coefficients of 0 or more of weighted least squares of `size`; all sets of the few terms are tried."""
    weighted = terms / np.square(std)[:, None]
    square, cross = weighted.T @ terms, weighted.T @ size
    best, explained = np.zeros(terms.shape[1]), -np.inf
    for count in range(1, terms.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(terms.shape[1]), count)):
            part = np.linalg.lstsq(square[np.ix_(chosen, chosen)], cross[chosen], rcond=None)[0]
            if (part >= 0).all() and (gain := float(part @ cross[chosen])) > explained:
                explained, best = gain, np.zeros(terms.shape[1])
                best[chosen] = part
    return best


def error_calibration(
    residual: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    site: np.ndarray,
    cluster: np.ndarray,
    group: np.ndarray,
) -> dict:
    """Fit the error model of one target, and compute the coverage of its intervals.

    Parameters
    ----------
    residual : (N,) float
        Measured values minus estimates; NaN is missing.
    estimates : mapping of str to (N,) float
        "mean", and "spread" and "std" if the model has them.
    site, cluster : (N,) int
        Tower of each value, and cluster of neighbouring towers.
    group : (N,) str
        Class of each value's tower; "" is unknown.

    Returns
    -------
    dict
        "error_model", the coefficients; "hours", "sites" and "clusters" they were fitted on; the share of values within
        the intervals of each level, "calibrated" on the same towers and "held_out", in which each cluster was
        calibrated without itself (in up to ten groups of clusters; absent for one cluster); and "by_class": hours,
        sites and the coverage of 80 % intervals of each class, held out where possible. {} if fewer than 20 values are
        measured.
    """
    seen = np.isfinite(residual) & np.logical_and.reduce([np.isfinite(values) for values in estimates.values()])
    if seen.sum() < _MIN_VALUES:
        return {}
    size, site, cluster, group = (np.asarray(values)[seen] for values in (np.abs(residual), site, cluster, group))
    estimates = {name: np.asarray(values)[seen] for name, values in estimates.items()}
    model = fit_error_model(size, estimates)
    ratio = size / model.apply(estimates)
    clusters = np.unique(cluster)
    found = {
        "error_model": model.to_dict(),
        "hours": len(size),
        "sites": len(np.unique(site)),
        "clusters": len(clusters),
        "calibrated": _coverage(ratio),
    }
    if len(clusters) > 1:
        ratio = _held_out(size, estimates, np.searchsorted(clusters, cluster) % _GROUPS)
        found["held_out"] = _coverage(ratio)
    classes = [name for name in np.unique(group).tolist() if name]
    parts = {name: group == name for name in classes}
    found["by_class"] = {
        name: {"hours": int(part.sum()), "sites": len(np.unique(site[part])), **_coverage(ratio[part], (LEVEL,))}
        for name, part in parts.items()
    }
    return found


def _held_out(size: np.ndarray, estimates: Mapping[str, np.ndarray], fold: np.ndarray) -> np.ndarray:
    """Return each |residual| in standard deviations of an error model that was fitted without its fold."""
    out = np.empty_like(size, dtype=np.float64)
    for one in np.unique(fold):
        at, others = fold == one, fold != one
        model = fit_error_model(size[others], {name: values[others] for name, values in estimates.items()})
        out[at] = size[at] / model.apply({name: values[at] for name, values in estimates.items()})
    return out


def calibrate_on(model: Model, windows: Windows) -> dict[str, dict]:
    """Calibrate the standard deviations of a model on the first epoch of the windows of validation towers."""
    names, n = windows.spec.targets, len(windows.spec.targets)
    estimates, obs, site = [], [], []
    windows.set_epoch(0)
    for batch in windows:
        estimates.append(model.predict_all(Batch.of(batch))[:, -windows.emits :])
        obs.append(batch["targets"])
        site.append(np.repeat(batch["site"], windows.emits))
    pred, measured = (np.concatenate(a).reshape(-1, a[0].shape[-1]) for a in (estimates, obs))
    return calibration_factors(measured, pred[:, :n], pred[:, n : 2 * n], np.concatenate(site), names)


def summary(calibration: dict[str, dict]) -> str:
    """Return one line with the coverage of calibrated 80 % intervals at towers that did not calibrate them."""
    parts = []
    for name, found in calibration.items():
        coverage = found.get("held_out") or found.get("calibrated")
        if coverage:
            parts.append(f"{name} {coverage['0.8']:.0%}")
    return f"coverage of 80 % intervals: {', '.join(parts)}" if parts else ""
