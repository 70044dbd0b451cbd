"""Means over sites of each site's score, as studies of days tell them: every tower counts once, however long it ran."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.bootstrap import draw_counts, interval
from fluxcube.evaluation.kernels import Moments, pool, scores
from fluxcube.evaluation.skill import cluster_labels
from fluxcube.evaluation.sums import Sums
from fluxcube.variables import table

_SCORES = ("rmse", "nse")


def site_mean_table(
    sums: Sums,
    *,
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
    least: int = 30,
    against: str | None = None,
) -> pd.DataFrame:
    """Average RMSE and NSE over sites, with paired intervals from whole clusters of sites.

    Parameters
    ----------
    sums : Sums
        As `fluxcube.evaluation.sums.site_sums` makes them.
    clusters : float
        Sites within so many km of each other are drawn together; 0 draws each alone.
    draws, seed : int
        Resampled sets, and of which generator.
    least : int
        Sites with fewer rows do not count: the NSE of a few days is of any size.
    against : str, optional
        Model that the others are compared with; by default the first.

    Returns
    -------
    pd.DataFrame
        A row per target and model: target, units, model, n_sites, n_clusters; rmse and nse (means over sites) with
        ``_low`` and ``_high``; rmse_change, the mean RMSE over that of `against`, less 1, and nse_diff, likewise
        bounded. Both models of a change are drawn together.

    Raises
    ------
    ConfigError
        If no site has so many rows.
    UnknownNameError
        If `against` is none of the models.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026 (Table 1), arXiv:2603.09974
    """
    if against is not None and against not in sums.models:
        raise unknown("model", against, sums.models)
    base = sums.models.index(against or sums.models[0])
    rows = [row for target in sums.targets for row in _rows(sums, target, base, clusters, draws, seed, least)]
    out = pd.DataFrame(rows)
    out.attrs = dict(sums.attrs) | {"against": sums.models[base], "least_rows": least, "draws": draws, "seed": seed}
    return out


def _rows(sums: Sums, target: str, base: int, clusters: float, draws: int, seed: int, least: int) -> list[dict]:
    m = pool(sums.moments[target], axis=1)
    kept = (m.n >= least).all(1)
    if not kept.any():
        raise ConfigError(f"{target}: no site has {least} rows to score; give a smaller least.")
    found = scores(Moments(*(x[kept] for x in m)))
    labels = cluster_labels(sums.places[target], clusters)[kept]
    labels = np.unique(labels, return_inverse=True)[1]
    n = int(labels.max()) + 1
    weight = draw_counts(n, draws, seed)[:, labels]
    units = table(sums.attrs.get("resolution", "hourly"))[target].units
    out = []
    for i, model in enumerate(sums.models):
        row = {"target": target, "units": units, "model": model, "n_sites": int(kept.sum()), "n_clusters": n}
        drawn = {name: [_mean(found[name][:, k], weight) for k in (i, base)] for name in _SCORES}
        for name in _SCORES:
            row[name] = float(np.nanmean(found[name][:, i]))
            row |= _bounds(name, drawn[name][0], n)
        row["rmse_change"] = row["rmse"] / float(np.nanmean(found["rmse"][:, base])) - 1
        row |= _bounds("rmse_change", drawn["rmse"][0] / drawn["rmse"][1] - 1, n)
        row["nse_diff"] = row["nse"] - float(np.nanmean(found["nse"][:, base]))
        row |= _bounds("nse_diff", drawn["nse"][0] - drawn["nse"][1], n)
        out.append(row)
    return out


def _mean(each: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean over sites of each draw (draws,); a site whose score is not defined plays no part."""
    known = np.isfinite(each)
    return weight[:, known] @ each[known] / weight[:, known].sum(1)


def _bounds(name: str, drawn: np.ndarray, clusters: int) -> dict[str, float]:
    low, high = interval(drawn, clusters)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
