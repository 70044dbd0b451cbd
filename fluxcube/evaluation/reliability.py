"""Reliability and sharpness: the share of measured values within prediction intervals, their width, and the CRPS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.evaluation.common_rows import Observed, Predictions, groups_of, rows_in_common
from fluxcube.evaluation.sums import QualityOptions
from fluxcube.scores import normal_crps
from fluxcube.training.calibration import half_width

#: Probabilities of the intervals.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_COLUMNS = ("target", "units", "group", "model", "level", "coverage", "width", "n", "n_sites", "crps", "mae")


def reliability(
    obs: Observed,
    predictions: Predictions = None,
    *,
    levels: Sequence[float] = LEVELS,
    by: str | None = None,
    limits: QualityOptions | None = None,
) -> pd.DataFrame:
    """Compute how many measured values lie within the intervals of each level, and how wide these intervals are.

    An interval is that of a Gaussian distribution with the standard deviation NAME_std. A model is reliable if the
    coverage is the level, and of two reliable models the sharper one, with the narrower intervals, is better.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions.
    levels : sequence of float
        Probabilities of the intervals, between 0 and 1.
    by : str, optional
        Coordinate of the groups, as in `fluxcube.evaluation.cycles.mean_cycles`. Default: all sites together.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    pd.DataFrame
        A row per target, group, model with NAME_std, and level, with columns target, units, group, model, level,
        coverage, width (mean width of the interval, in `units`), n, n_sites, crps (continuous ranked probability score,
        in `units`; the same for all levels) and mae, which the CRPS of a forecast without a spread is. Empty if no
        prediction has a standard deviation.

    Raises
    ------
    ConfigError
        If a level is not between 0 and 1.

    References
    ----------
    Gneiting & Raftery 2007 (CRPS), doi:10.1198/016214506000001437
    """
    if bad := [level for level in levels if not 0 < level < 1]:
        raise ConfigError(f"levels: expected probabilities between 0 and 1, found {bad[0]}.")
    rows = rows_in_common(obs, predictions, **(limits or {}))
    out = []
    for target, one in rows.targets.items():
        for model, std in one.std.items():
            error = one.values[:, 1 + rows.models.index(model)] - one.values[:, 0]
            for group, mask in groups_of(one.places, by).items():
                chosen = mask[one.site] & (std > 0)
                about: dict[str, object] = {"target": target, "units": one.units, "group": group, "model": model}
                about["n_sites"] = len(np.unique(one.site[chosen]))
                out += [about | row for row in _levels(error[chosen], std[chosen], levels)]
    table = pd.DataFrame(out, columns=list(_COLUMNS))
    table.attrs = dict(rows.attrs)
    return table


def _levels(error: np.ndarray, std: np.ndarray, levels: Sequence[float]) -> list[dict[str, float]]:
    """Return coverage, width and scores at each level, of errors and standard deviations (N,)."""
    n = len(error)
    error, std = error.astype(float), std.astype(float)
    ratio = np.abs(error) / std
    crps, mae = (float(x.mean()) if n else math.nan for x in (normal_crps(np.zeros(n), error, std), np.abs(error)))
    width = float(std.mean()) if n else math.nan
    # Sorted once: each level is then the number of ratios up to its half-width.
    ordered = np.sort(ratio)
    within = {level: np.searchsorted(ordered, half_width(level), side="right") for level in levels}
    shares = {level: float(number / n) if n else math.nan for level, number in within.items()}
    return [
        {"level": level, "coverage": share, "width": 2 * half_width(level) * width, "n": n, "crps": crps, "mae": mae}
        for level, share in shares.items()
    ]
