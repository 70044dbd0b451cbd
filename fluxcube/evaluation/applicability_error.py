"""Errors by dissimilarity: whether a model is worse where its inputs are unlike those of its training."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.evaluation.common_rows import Observed, Predictions, rows_in_common
from fluxcube.evaluation.sums import QualityOptions

_COLUMNS = (
    "target",
    "units",
    "model",
    "decile",
    "low",
    "high",
    "dissimilarity",
    "n",
    "n_sites",
    "rmse",
    "mae",
    "bias",
    "observed_std",
)


def applicability_error(
    obs: Observed, predictions: Predictions = None, *, bins: int = 10, limits: QualityOptions | None = None
) -> pd.DataFrame:
    """Compute errors in classes of dissimilarity of equal size: deciles, unless `bins` is another number.

    Dissimilarity is the distance of the inputs of a day from the nearest training day
    (``fluxcube.predict(..., applicability=True)``). If it is a useful measure, errors grow with it. Errors also grow
    with the flux itself: compare them with observed_std, the standard deviation of the observations of the same rows.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions. Models
        without `dissimilarity` are left out.
    bins : int
        Number of classes, each with the same number of rows of a model and flux.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    pd.DataFrame
        A row per target, model and class with columns target, units, model, decile (from 1), low, high and
        dissimilarity (its bounds and its median), n, n_sites, rmse, mae, bias (prediction minus observation) and
        observed_std. Empty if no prediction has a dissimilarity. Classes without a row, which ties cause, are absent.

    Raises
    ------
    ConfigError
        If there is no class.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ConfigError(f"bins={bins!r}: expected a whole number of at least 1.")
    rows = rows_in_common(obs, predictions, **(limits or {}))
    out = []
    for target, one in rows.targets.items():
        for model, index in one.dissimilarity.items():
            known = np.isfinite(index)
            values = one.values[known][:, [0, 1 + rows.models.index(model)]].astype(float)
            about = {"target": target, "units": one.units, "model": model}
            out += [about | row for row in _classes(index[known], values, one.site[known], bins)]
    table = pd.DataFrame(out, columns=list(_COLUMNS))
    table.attrs = dict(rows.attrs)
    return table


def _classes(index: np.ndarray, values: np.ndarray, site: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Return errors in classes of dissimilarity (N,), of observed and predicted values (N, 2)."""
    if not len(index):
        return []
    edges = np.quantile(index, np.linspace(0, 1, bins + 1))
    at = np.clip(np.searchsorted(edges, index, side="right") - 1, 0, bins - 1)
    out = []
    for i in range(bins):
        here = at == i
        if not here.any():
            continue
        error = values[here, 1] - values[here, 0]
        out.append(
            {
                "decile": i + 1,
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "dissimilarity": float(np.median(index[here])),
                "n": int(here.sum()),
                "n_sites": len(np.unique(site[here])),
                "rmse": float(np.sqrt((error**2).mean())),
                "mae": float(np.abs(error).mean()),
                "bias": float(error.mean()),
                "observed_std": float(values[here, 0].std()),
            }
        )
    return out
