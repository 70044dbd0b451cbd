"""Means over sites of each site's score, as studies of days tell them: every tower counts once, however long it ran."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.bootstrap import draw_counts, interval
from fluxcube.evaluation.skill import LEAST_SITES, cluster_labels
from fluxcube.evaluation.sums import Sums
from fluxcube.samples.features import class_of
from fluxcube.scores import Moments, pool, scores
from fluxcube.variables import table

#: What sites can be grouped by.
GROUPS = ("igbp", "koppen")
_SCORES = ("rmse", "nse")


def site_scores(sums: Sums, *, least: int = 30) -> pd.DataFrame:
    """Score each site: the numbers that `site_mean_table` averages.

    Parameters
    ----------
    sums : Sums
        As `fluxcube.evaluation.sums.site_sums` makes them.
    least : int
        Sites with fewer rows are left out.

    Returns
    -------
    pd.DataFrame
        A row per target, site and model: target, units, site, what of igbp, koppen, network, latitude, longitude and
        elevation is known, model, n (rows), rmse (in `units`) and nse.

    Raises
    ------
    ConfigError
        If no site has so many rows.
    """
    frames = []
    for target in sums.targets:
        m, kept = _kept(sums, target, least)
        found = scores(m)
        places = sums.places[target].to_dataframe()[kept].reset_index(drop=True)
        for i, model in enumerate(sums.models):
            one = {"model": model, "n": m.n[:, i].astype(int), **{name: found[name][:, i] for name in _SCORES}}
            frames.append(places.assign(**one, target=target, units=_units(sums, target)))
    out = pd.concat(frames, ignore_index=True)
    first = ["target", "units", "site"]
    out = out[first + [name for name in out if name not in first]]
    out.attrs = dict(sums.attrs) | {"against": sums.models[0], "least_rows": least}
    return out


def site_mean_table(
    sums: Sums,
    *,
    by: str | None = None,
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
    least: int = 30,
    against: str | None = None,
) -> pd.DataFrame:
    """Average RMSE and NSE over sites, of all or of each class, with paired intervals from whole clusters of sites.

    Parameters
    ----------
    sums : Sums
        As `fluxcube.evaluation.sums.site_sums` makes them.
    by : {"igbp", "koppen"}, optional
        Means of each IGBP class, or main climate of Köppen's, instead of all sites; clusters are then drawn among
        those of the class.
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
        A row per target, group and model: target, units, group ("all", or the class), model, n_sites, n_clusters;
        rmse and nse (means over sites) with ``_low`` and ``_high``; rmse_change, the mean RMSE over that of `against`,
        less 1, and nse_diff, likewise bounded. Both models of a change are drawn together. With `by`, `counted` is
        false of classes of fewer than 5 sites; one whose sites all lack rows is there with 0 sites and no score.

    Raises
    ------
    ConfigError
        If no site has so many rows.
    SchemaError
        If the sites have no such classes.
    UnknownNameError
        If `against` is none of the models, or `by` none of the groups.

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
        m, kept = _kept(sums, target, least)
        labels = cluster_labels(sums.places[target], clusters)[kept]
        for group, within in _groups(sums, target, by).items():
            at = within[kept]
            about = {"target": target, "units": _units(sums, target), "group": group}
            found = _group_rows(sums.models, Moments(*(x[at] for x in m)), labels[at], base, draws, seed)
            rows += [about | row for row in found]
    out = pd.DataFrame(rows)
    if by is not None:
        out.insert(list(out).index("n_sites") + 1, "counted", out["n_sites"] >= LEAST_SITES)
    out.attrs = dict(sums.attrs) | {"against": sums.models[base], "least_rows": least, "draws": draws, "seed": seed}
    return out


def _kept(sums: Sums, target: str, least: int) -> tuple[Moments, np.ndarray]:
    """Moments (site, model) of the sites with rows enough, and which those are."""
    m = pool(sums.moments[target], axis=1)
    kept = (m.n >= least).all(1)
    if not kept.any():
        raise ConfigError(f"{target}: no site has {least} rows to score; give a smaller least.")
    return Moments(*(x[kept] for x in m)), kept


def _units(sums: Sums, target: str) -> str:
    return table(sums.attrs.get("resolution", "hourly"))[target].units


def _groups(sums: Sums, target: str, by: str | None) -> dict[str, np.ndarray]:
    """Which places are of each class, in alphabetical order."""
    places = sums.places[target]
    if by is None:
        return {"all": np.ones(places.sizes["place"], bool)}
    if by not in places:
        raise SchemaError(f"by={by!r} needs the coordinate {by} on each site; found {sorted(map(str, places))}.")
    labels = np.array([class_of(by, code) for code in places[by].values], object)
    return {name or "unknown": labels == name for name in sorted(set(labels))}


def _group_rows(models, m: Moments, labels: np.ndarray, base: int, draws: int, seed: int) -> list[dict]:
    """Means over the sites of one group, a row per model; clusters are those of the group."""
    found = scores(m)
    names, labels = np.unique(labels, return_inverse=True)
    n = len(names)
    weight = draw_counts(n, draws, seed)[:, labels] if n else np.zeros((draws, 0), int)
    whole = np.ones((1, len(labels)), int)
    mean = {name: _mean(found[name], whole)[0] for name in _SCORES}
    drawn = {name: _mean(found[name], weight) for name in _SCORES}
    out = []
    for i, model in enumerate(models):
        row = {"model": model, "n_sites": len(labels), "n_clusters": n}
        for name in _SCORES:
            row[name] = float(mean[name][i])
            row |= _bounds(name, drawn[name][:, i], n)
        row["rmse_change"] = float(mean["rmse"][i] / mean["rmse"][base] - 1)
        row |= _bounds("rmse_change", drawn["rmse"][:, i] / drawn["rmse"][:, base] - 1, n)
        row["nse_diff"] = float(mean["nse"][i] - mean["nse"][base])
        row |= _bounds("nse_diff", drawn["nse"][:, i] - drawn["nse"][:, base], n)
        out.append(row)
    return out


def _mean(each: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean over sites of each draw (draws, model), of scores (site, model); a score not defined plays no part."""
    known = np.isfinite(each)
    number = weight @ known.astype(float)
    return np.divide(weight @ np.where(known, each, 0.0), number, out=np.full(number.shape, np.nan), where=number > 0)


def _bounds(name: str, drawn: np.ndarray, clusters: int) -> dict[str, float]:
    low, high = interval(drawn, clusters)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
