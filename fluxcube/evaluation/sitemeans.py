"""Site means: scores of each site and their means over sites, as studies of daily fluxes report them.

Every tower has the same weight, whatever the length of its record.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.bootstrap import draw_counts, interval
from fluxcube.evaluation.intervals import cluster_labels
from fluxcube.evaluation.skill import MIN_SITES
from fluxcube.evaluation.sums import Sums
from fluxcube.moments import Moments, scores_of
from fluxcube.samples.features import class_of

#: Coordinates by which sites can be grouped.
GROUPS = ("igbp", "koppen")
_SCORES = ("rmse", "nse", "corr2")


def site_scores(sums: Sums, *, min_steps: int = 30) -> pd.DataFrame:
    """Compute the scores of each site, which `site_mean_table` averages.

    Parameters
    ----------
    sums : Sums
        Sums that `fluxcube.evaluation.sums.site_sums` returns.
    min_steps : int
        Minimum number of scored time steps of a site; other sites are left out.

    Returns
    -------
    pd.DataFrame
        A row per target, site and model with columns target, units, site, those of igbp, koppen, network, latitude,
        longitude and elevation that are known, model, n (time steps), rmse (in `units`), nse and corr2 (the squared
        correlation).

    Raises
    ------
    ConfigError
        If no site has `min_steps` time steps.
    """
    frames = []
    for target in sums.targets:
        m, enough = _enough(sums, target, min_steps)
        by_score = scores_of(m)
        places = sums.places[target].to_dataframe()[enough].reset_index(drop=True)
        for i, model in enumerate(sums.models):
            one = {"model": model, "n": m.n[:, i].astype(int), **{name: by_score[name][:, i] for name in _SCORES}}
            frames.append(places.assign(**one, target=target, units=sums.units_of(target)))
    out = pd.concat(frames, ignore_index=True)
    first = ["target", "units", "site"]
    out = out[first + [name for name in out if name not in first]]
    out.attrs = dict(sums.attrs) | {"against": sums.models[0], "min_steps": min_steps}
    return out


def site_mean_table(
    sums: Sums,
    *,
    by: str | None = None,
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
    min_steps: int = 30,
    against: str | None = None,
) -> pd.DataFrame:
    """Average RMSE and NSE over all sites or those of each class, with paired intervals from clusters of sites.

    Parameters
    ----------
    sums : Sums
        Sums that `fluxcube.evaluation.sums.site_sums` returns.
    by : {"igbp", "koppen"}, optional
        Average over each IGBP class, or each main climate of the Köppen classification, instead of all sites. The
        clusters of a class are then resampled.
    clusters : float
        Distance in km within which sites are in one cluster; 0: each site is a cluster.
    draws, seed : int
        Number of resampled sets, and seed of the random generator.
    min_steps : int
        Minimum number of scored time steps of a site. Other sites are left out, since an NSE of a few days is
        meaningless.
    against : str, optional
        Reference model of the changes and differences; by default the first.

    Returns
    -------
    pd.DataFrame
        A row per target, group and model with columns target, units, group ("all", or the class), model, n_sites,
        n_clusters; rmse, nse and corr2 (means over sites); nse_median and corr2_median (medians over sites);
        rmse_change, the mean RMSE divided by that of `against`, minus 1; nse_diff, the mean NSE minus that of
        `against`. The bounds of all but the medians end in ``_low`` and ``_high``. Changes and differences use the same
        draws for both models. With `by`, `counted` is false for classes of fewer than 5
        sites; a class without a scored site has 0 sites and no score.

    Raises
    ------
    ConfigError
        If no site has `min_steps` time steps.
    SchemaError
        If the sites lack the coordinate `by`.
    UnknownNameError
        If `against` is not a model of the sums, or `by` is another coordinate.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026 (Table 1, Figure 4), arXiv:2603.09974
    """
    if against is not None and against not in sums.models:
        raise unknown("model", against, sums.models)
    if by is not None and by not in GROUPS:
        raise unknown("group", by, GROUPS)
    base = sums.models.index(against or sums.models[0])
    rows = []
    for target in sums.targets:
        m, enough = _enough(sums, target, min_steps)
        labels = cluster_labels(sums.places[target], clusters)[enough]
        for group, mask in _groups(sums, target, by).items():
            chosen = mask[enough]
            about = {"target": target, "units": sums.units_of(target), "group": group}
            group_rows = _group_rows(sums.models, Moments(*(x[chosen] for x in m)), labels[chosen], base, draws, seed)
            rows += [about | row for row in group_rows]
    out = pd.DataFrame(rows)
    if by is not None:
        out.insert(list(out).index("n_sites") + 1, "counted", out["n_sites"] >= MIN_SITES)
    out.attrs = dict(sums.attrs) | {"against": sums.models[base], "min_steps": min_steps, "draws": draws, "seed": seed}
    return out


def _enough(sums: Sums, target: str, min_steps: int) -> tuple[Moments, np.ndarray]:
    """Return moments (site, model) of the sites with enough time steps, and a mask of these sites."""
    m = sums.whole(target)
    enough = np.all(m.n >= min_steps, axis=1)
    if not enough.any():
        raise ConfigError(f"{target}: no site has {min_steps} scored time steps; pass a smaller min_steps.")
    return Moments(*(x[enough] for x in m)), enough


def _groups(sums: Sums, target: str, by: str | None) -> dict[str, np.ndarray]:
    """Return a mask of the places of each class, in alphabetical order."""
    places = sums.places[target]
    if by is None:
        return {"all": np.ones(places.sizes["place"], bool)}
    if by not in places:
        raise SchemaError(f"by={by!r} needs the coordinate {by} on each site; found {sorted(map(str, places))}.")
    labels = np.array([class_of(by, code) for code in places[by].values], object)
    return {name or "unknown": labels == name for name in sorted(set(labels))}


def _group_rows(
    models: Sequence[str], m: Moments, labels: np.ndarray, base: int, draws: int, seed: int
) -> list[dict[str, object]]:
    """Return one table row per model: means over the sites of one group, from the clusters of the group."""
    by_score = scores_of(m)
    names, labels = np.unique(labels, return_inverse=True)
    n = len(names)
    weight = draw_counts(n, draws, seed)[:, labels] if n else np.zeros((draws, 0), int)
    whole = np.ones((1, len(labels)), int)
    mean = {name: _mean(by_score[name], whole)[0] for name in _SCORES}
    drawn = {name: _mean(by_score[name], weight) for name in _SCORES}
    out = []
    for i, model in enumerate(models):
        row: dict[str, object] = {"model": model, "n_sites": len(labels), "n_clusters": n}
        for name in _SCORES:
            row[name] = float(mean[name][i])
            row |= _bounds(name, drawn[name][:, i], n)
        row |= {f"{name}_median": _median(by_score[name][:, i]) for name in ("nse", "corr2")}
        row["rmse_change"] = float(mean["rmse"][i] / mean["rmse"][base] - 1)
        row |= _bounds("rmse_change", drawn["rmse"][:, i] / drawn["rmse"][:, base] - 1, n)
        row["nse_diff"] = float(mean["nse"][i] - mean["nse"][base])
        row |= _bounds("nse_diff", drawn["nse"][:, i] - drawn["nse"][:, base], n)
        out.append(row)
    return out


def _mean(each: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the mean over sites of each draw (draws, model), of the finite scores (site, model)."""
    known = np.isfinite(each)
    number = weight @ known.astype(float)
    return np.divide(weight @ np.where(known, each, 0.0), number, out=np.full(number.shape, np.nan), where=number > 0)


def _median(each: np.ndarray) -> float:
    """Return the median over sites of the finite scores; NaN if there is none."""
    known = each[np.isfinite(each)]
    return float(np.median(known)) if len(known) else float("nan")


def _bounds(name: str, drawn: np.ndarray, clusters: int) -> dict[str, float]:
    low, high = interval(drawn, clusters)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
