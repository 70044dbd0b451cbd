"""Scores of groups of sites, and their intervals from resampled clusters of sites."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypedDict, Unpack

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.bootstrap import INTERVALS, ResampledScores, interval, resample
from fluxcube.evaluation.groups import By, groups_of, label_of
from fluxcube.evaluation.sums import Sums
from fluxcube.moments import SCORES, Moments, pool, scores_of
from fluxcube.samples.clusters import cluster_sites

#: A distance in km, the cluster of each site, or None for no intervals.
Clusters = float | Mapping[str, object] | None


class IntervalOptions(TypedDict, total=False):
    """Options of intervals and differences, as `score_table` takes them."""

    clusters: Clusters
    draws: int
    seed: int
    level: float
    against: str | None


#: Statistics over the scores of single sites, by the ending of their names.
SITE_STATISTICS = {"_site_median": 50, "_site_p10": 10, "_site_p90": 90}


def group_scores(m: Moments) -> dict[str, float]:
    """Return the scores of one group: over all its pairs, and statistics over sites with a finite score.

    Parameters
    ----------
    m : Moments of (place,)
        Of one model.
    """
    pooled, each = scores_of(pool(m)), scores_of(m)
    out = {name: float(pooled[name]) for name in SCORES}
    finite = {name: values[np.isfinite(values)] for name, values in each.items()}
    for ending, percentile in SITE_STATISTICS.items():
        out |= {f"{name}{ending}": _percentile(finite[name], percentile) for name in SCORES}
    return out | {"n": int(m.n.sum()), "n_sites": int((m.n > 0).sum())}


def _percentile(values: np.ndarray, percentile: float) -> float:
    if len(values) < 2:
        return float(values[0]) if len(values) else np.nan
    return float(np.median(values) if percentile == 50 else np.percentile(values, percentile))


def reason_of(m: Moments) -> str:
    """Return why a score of one group is not defined, in words; "" if all scores are.

    Parameters
    ----------
    m : Moments of (place,)
        Of one model.
    """
    whole = pool(m)
    scores = scores_of(whole)
    if whole.n == 0:
        return "no common time step with an accepted observation"
    if whole.n == 1:
        return "one time step"
    if not np.isfinite(scores["nse"]):
        return "observations do not vary"
    return "" if np.isfinite(scores["corr2"]) else "predictions do not vary"


def of_model(m: Moments, model: int) -> Moments:
    """Return the moments (place,) of one model from those of all (place, model)."""
    return Moments(*(x[:, model] for x in m))


def interval_columns(
    sums: Sums,
    by: By = None,
    *,
    clusters: Clusters,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> dict[tuple[Hashable, ...], dict[str, float]]:
    """Return intervals of scores and of differences by (target, group, model).

    Parameters
    ----------
    sums : Sums
        Sums of the sites.
    by : str, sequence of str or None
        Groups.
    clusters, draws, seed, level, against
        As `fluxcube.evaluation.skill.score_table` takes them; None as clusters returns no intervals.

    Raises
    ------
    ConfigError
        If there are fewer than 100 draws, or the level is not between 0 and 1.
    UnknownNameError
        If `against` is not a model of the sums.
    """
    if against is not None and against not in sums.models:
        raise unknown("model", against, sums.models)
    if clusters is None:
        return {}
    if draws < 100 or not 0 < level < 1:
        raise ConfigError(f"expected draws of at least 100 and a level between 0 and 1, found {draws} and {level:g}.")
    reference = sums.models.index(against or sums.models[0])
    out: dict[tuple[Hashable, ...], dict[str, float]] = {}
    for target in sums.targets:
        labels = cluster_labels(sums.places[target], clusters)
        for key, (m, mask) in groups_of(sums, target, by).items():
            group = label_of(key)
            resampled = resample(m, labels[mask], draws=draws, seed=seed) if (m.n > 0).any() else None
            for i, model in enumerate(sums.models):
                out[target, group, model] = _interval_row(m, resampled, i, reference, level)
    return out


def interval_attrs(sums: Sums, **options: Unpack[IntervalOptions]) -> dict[str, object]:
    """Return the attributes that describe intervals; none without clusters."""
    if options.get("clusters") is None:
        return {}
    draws = options.get("draws", 1000)
    return {
        "intervals": f"{options.get('level', 0.95):.0%} from {draws} draws of whole clusters",
        "against": options.get("against") or sums.models[0],
        "draws": draws,
        "seed": options.get("seed", 0),
    }


def _interval_row(
    m: Moments, resampled: ResampledScores | None, model: int, reference: int, level: float
) -> dict[str, float]:
    """Return the bounds of one model's scores and of its differences from the reference, for one group."""
    scored, base = group_scores(of_model(m, model)), group_scores(of_model(m, reference))
    clusters = resampled.clusters if resampled else 0
    row: dict[str, float] = {"n_clusters": clusters}
    for score in INTERVALS:
        values = resampled.values[score] if resampled else np.full((1, m.n.shape[1]), np.nan)
        row |= _bounds(score, values[:, model], clusters, level)
        if model != reference:
            row[f"{score}_diff"] = float(scored[score] - base[score])
            row |= _bounds(f"{score}_diff", values[:, model] - values[:, reference], clusters, level)
    return row


def _bounds(name: str, draws: np.ndarray, clusters: int, level: float) -> dict[str, float]:
    low, high = interval(draws, clusters, level)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def cluster_labels(places: xr.Dataset, clusters: float | Mapping[str, object]) -> np.ndarray:
    """Return the number of each place's cluster, (place,).

    Parameters
    ----------
    places : xr.Dataset
        Coordinates of the places; `site` is required.
    clusters : float or mapping of str to label
        Distance in km within which sites are in one cluster, or the cluster of each site.

    Raises
    ------
    SchemaError
        If places are not sites, or sites lack the coordinates that distances need.
    ConfigError
        If a site has no cluster, or `clusters` is no distance.
    """
    if "site" not in places:
        raise SchemaError("expected scores of sites to cluster, found cells of a grid; leave clusters out.")
    sites = list(map(str, places["site"].values))
    if isinstance(clusters, Mapping | pd.Series):
        labels = dict(clusters)
        if missing := sorted(set(sites) - set(labels)):
            raise ConfigError(f"clusters: {len(missing)} sites have no cluster ({', '.join(missing[:5])}); add them.")
        return np.unique([str(labels[s]) for s in sites], return_inverse=True)[1]
    if isinstance(clusters, bool) or not isinstance(clusters, int | float) or not clusters >= 0:
        raise ConfigError(f"clusters: expected a distance in km or the cluster of each site, found {clusters!r}.")
    if clusters > 0 and not {"latitude", "longitude"} <= set(places):
        raise SchemaError(
            "clusters by distance need the coordinates latitude and longitude on each site, found "
            f"{sorted(map(str, places))}; add them, or pass the cluster of each site."
        )
    label = np.arange(len(sites))
    if clusters:
        label = cluster_sites(places["latitude"].values, places["longitude"].values, clusters)
    # Clusters are named after their first site, so that a seed draws the same clusters in any order of sites.
    names = {group: min(s for s, g in zip(sites, label, strict=True) if g == group) for group in set(label.tolist())}
    return np.unique([names[group] for group in label.tolist()], return_inverse=True)[1]
