"""Calibration of standard deviations on the validation towers: one factor per target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fluxcube.models.base import Batch, Model
from fluxcube.samples.loader import Windows

#: Probabilities of the prediction intervals.
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Minimum number of measured values for a calibration.
_MIN_VALUES = 20


def calibrate(
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
        out[name] = _one(ratio, site[seen])
    return out


def _one(ratio: np.ndarray, site: np.ndarray) -> dict:
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
    logs = [math.log(max(float(np.quantile(ratio, level)), 1e-12) / _half_width(level)) for level in LEVELS]
    return math.exp(sum(logs) / len(logs))


def _coverage(ratio: np.ndarray) -> dict[str, float]:
    """Return the fraction of values within the interval of each level."""
    return {f"{level:g}": float((ratio <= _half_width(level)).mean()) for level in LEVELS}


def _half_width(level: float) -> float:
    """Return half the width of an interval in standard deviations."""
    return NormalDist().inv_cdf(0.5 + level / 2)


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
    return calibrate(measured, pred[:, :n], pred[:, n : 2 * n], np.concatenate(site), names)


def summary(calibration: dict[str, dict]) -> str:
    """Return one line with the coverage of calibrated 80 % intervals at towers that did not calibrate them."""
    parts = []
    for name, found in calibration.items():
        coverage = found.get("held_out") or found.get("calibrated")
        if coverage:
            parts.append(f"{name} {coverage['0.8']:.0%}")
    return f"coverage of 80 % intervals: {', '.join(parts)}" if parts else ""
