"""Are intervals as wide as they should be? Asked of the validation towers, and set right by one factor a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fluxcube.models.base import Batch, Model, predict_all
from fluxcube.samples.loader import Windows

#: Shares of the measured values that intervals are to hold.
LEVELS = (0.5, 0.8, 0.9, 0.95)
_FEWEST = 20


def calibrate(
    obs: np.ndarray, mean: np.ndarray, std: np.ndarray, site: np.ndarray, names: Sequence[str]
) -> dict[str, dict]:
    """Find what standard deviations must be multiplied by, and what share of values their intervals hold.

    The factor of a target is the geometric mean, over levels of 50, 80, 90 and 95 %, of the one that makes an interval
    hold exactly its share: errors of fluxes have longer tails than a Gaussian's, and no factor serves all levels.

    Parameters
    ----------
    obs, mean, std : (N, targets) float
        Measured values (NaN is none), estimates and their standard deviations, in one unit.
    site : (N,) int
        Tower of each row.
    names : sequence of str
        Targets.

    Returns
    -------
    dict
        Target to "factor"; "hours" and "sites" it was found on; and the shares of values that intervals hold, as
        mappings of level to share: "as_given", "calibrated" (both on all sites), and "held_out", each site's with the
        factor of the others, which is what to expect at a new site (absent for one site). Factor 1 and nothing else
        where fewer than 20 hours are measured.

    References
    ----------
    Kuleshov et al. 2018 (calibrated regression), arXiv:1807.00263.
    """
    out = {}
    for i, name in enumerate(names):
        seen = np.isfinite(obs[:, i]) & (std[:, i] > 0)
        if seen.sum() < _FEWEST:
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
        "as_given": _held(ratio),
        "calibrated": _held(ratio / factor),
    }
    if len(sites) > 1:
        alone = ratio.copy()
        for one in sites:
            alone[site == one] /= _factor(ratio[site != one])
        found["held_out"] = _held(alone)
    return found


def _factor(ratio: np.ndarray) -> float:
    logs = [math.log(max(float(np.quantile(ratio, level)), 1e-12) / _half_width(level)) for level in LEVELS]
    return math.exp(sum(logs) / len(logs))


def _held(ratio: np.ndarray) -> dict[str, float]:
    """Share of values within each level's interval."""
    return {f"{level:g}": float((ratio <= _half_width(level)).mean()) for level in LEVELS}


def _half_width(level: float) -> float:
    """Half the width of an interval in standard deviations."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def calibrate_on(model: Model, windows: Windows) -> dict[str, dict]:
    """Calibrate a model's standard deviations on the windows of validation towers' first epoch."""
    names, n = windows.spec.targets, len(windows.spec.targets)
    given, obs, site = [], [], []
    windows.set_epoch(0)
    for batch in windows:
        given.append(predict_all(model, Batch.of(batch))[:, -windows.emits :])
        obs.append(batch["targets"])
        site.append(np.repeat(batch["site"], windows.emits))
    rows, wanted = (np.concatenate(a).reshape(-1, a[0].shape[-1]) for a in (given, obs))
    return calibrate(wanted, rows[:, :n], rows[:, n : 2 * n], np.concatenate(site), names)


def summary(calibration: dict[str, dict]) -> str:
    """One line: of each target the share of values that calibrated 80 % intervals hold at towers not calibrated on."""
    parts = []
    for name, found in calibration.items():
        held = found.get("held_out") or found.get("calibrated")
        if held:
            parts.append(f"{name} {held['0.8']:.0%}")
    return f"80 % intervals hold {', '.join(parts)}" if parts else ""
