"""Metrics of CarbonFluxBench, as its code computes them for each site (arXiv:2603.09868)."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: Metrics of the benchmark, by its own names.
METRICS = ("R2", "RMSE", "nMAE", "RAE")
#: Quantiles over sites that the benchmark reports.
QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}
#: Added to the mean that divides nMAE, as in the benchmark's code.
_TINY = 1e-9


def site_metrics(obs: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """Return the benchmark's metrics of one site.

    Parameters
    ----------
    obs, pred : (days,) float
        Without missing values.

    Returns
    -------
    dict of str to float
        R2, 1 - SSE / SST (of constant observations 1 for a perfect prediction and else 0, as scikit-learn has it; NaN
        for fewer than two days); RMSE; nMAE; RAE (inf for constant observations).

    Examples
    --------
    >>> {name: round(value, 3) for name, value in site_metrics(np.array([1.0, 3.0]), np.array([1.0, 2.0])).items()}
    {'R2': 0.5, 'RMSE': 0.707, 'nMAE': 0.25, 'RAE': 0.5}
    """
    if not len(obs):
        return dict.fromkeys(METRICS, float("nan"))
    error, spread = pred - obs, obs - obs.mean()
    sse, sst, mae = float((error**2).sum()), float((spread**2).sum()), float(np.abs(error).mean())
    if np.ptp(obs) == 0:
        sst = 0.0
    r2 = (1 - sse / sst) if sst > 0 else float(sse == 0)
    naive = float(np.abs(spread).mean()) if sst > 0 else 0.0
    return {
        "R2": r2 if len(obs) > 1 else float("nan"),
        "RMSE": float(np.sqrt((error**2).mean())),
        "nMAE": mae / (abs(float(obs.mean())) + _TINY),
        "RAE": mae / naive if naive > 0 else float("inf"),
    }


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the quartiles over sites of each metric.

    Parameters
    ----------
    scores : pd.DataFrame
        Columns target, setting, model and `METRICS`; a row per site.

    Returns
    -------
    pd.DataFrame
        Columns target, setting, model, n_sites, then ``<metric>_q25``, ``_median`` and ``_q75``.
    """
    groups = scores.groupby(["target", "setting", "model"], sort=False)
    out = groups.agg(n_sites=("site", "size"))
    for metric in METRICS:
        for name, share in QUANTILES.items():
            out[f"{metric}_{name}"] = groups[metric].quantile(share)
    return out.reset_index()


def by_class(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the mean over the sites of each class of each metric, as the benchmark's heat maps show it.

    Parameters
    ----------
    scores : pd.DataFrame
        A row per site with columns target, setting, model, IGBP and Koppen, and `METRICS`.
    column : {"IGBP", "Koppen"}
        Classification.

    Returns
    -------
    pd.DataFrame
        Columns target, setting, model, the classification, n_sites and `METRICS`.
    """
    groups = scores.groupby(["target", "setting", "model", column], sort=True)
    out = groups[list(METRICS)].mean()
    out.insert(0, "n_sites", groups.size())
    return out.reset_index()
