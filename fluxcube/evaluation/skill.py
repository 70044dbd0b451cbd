"""Labelled scores: any prediction against any observation, per class, site, season or network, on one row mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.bootstrap import INTERVALS, interval, resample
from fluxcube.evaluation.sums import SEASONS, Labelled, Sums, common_rows, site_sums
from fluxcube.resolution import DEFAULT, Default
from fluxcube.samples.clusters import cluster_sites
from fluxcube.scores import SCORES, Moments, pool, scores
from fluxcube.variables import table

__all__ = [
    "GROUPS",
    "LEAST_SITES",
    "SEASONS",
    "class_means",
    "common_rows",
    "compare",
    "evaluate",
    "score_table",
    "site_sums",
    "skill_table",
]

#: What predictions can be grouped by.
GROUPS = ("igbp", "koppen", "site", "season", "network")
#: A class of fewer sites is shown, but does not count in means over classes.
LEAST_SITES = 5

_LONG_NAMES = {
    "nse": "Nash-Sutcliffe efficiency",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "bias": "mean of prediction minus observation",
    "corr2": "squared Pearson correlation",
}
Clusters = float | Mapping[str, object] | None


def evaluate(
    obs: Labelled,
    pred: Labelled,
    *,
    by: str | None = None,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seen: Iterable[str] | None = None,
) -> xr.Dataset:
    """Score a prediction: pooled over all rows of a group, and as the median over its sites.

    Lazy inputs are computed once, block by block; predictors and chips are never loaded.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        A tower cube (its `fluxes` and `fluxes_qc` are used), a Dataset with one variable per flux, with
        flags as ``<NAME>_QC`` where it has them, or an array (site, time[, target]). Maps
        (time, latitude, longitude) do as well: each cell is then a site.
    pred : xr.Dataset or xr.DataArray
        One variable per flux, as `fluxcube.predict` and `fluxcube.upscale` return, or an array named after its
        flux or with dimension target; in the observation's unit.
    by : {"igbp", "koppen", "site", "season", "network"}, optional
        Coordinate to group by. Seasons are local: by solar month, and southern sites half a year later. A site
        of several networks counts in each. Default: all rows in one.
    qc : xr.DataArray, optional
        Flags of `obs`, where it is an array without its own.
    max_qc : int, None or "default"
        Maximum flag of hourly observations that are scored, by default 0 (measured); None scores every finite value.
        At sites whose publication kept no better flag (CarbonSense v1: 1, v2: 2), that flag counts as measured, and
        the row mask names them.
    min_quality : float, None or "default"
        Minimum quality of daily observations that are scored, by default 1 (whole days); None scores every finite
        value.
    seen : iterable of str, optional
        Classes that training saw (``by="igbp"`` or ``"koppen"``); the others are marked `zero_shot`.

    Returns
    -------
    xr.Dataset
        nse, rmse, mae, bias (pred - obs), corr2 of all rows together, as in the CarbonSense paper's Table 1;
        ``<score>_site_median`` over sites; n (hours) and n_sites; dims (group, target), or (target,) without
        `by`. Attributes record the row mask.

    Raises
    ------
    SchemaError
        If the two share no flux, no site or no hour, or lack the coordinate to group by.
    UnknownNameError
        If `by` is none of the above.

    References
    ----------
    Nash and Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube()
    >>> scores = evaluate(cube, cube.fluxes, by="igbp")
    >>> float(scores.nse.sel(group="DBF", target="NEE"))
    1.0
    """
    _check_group(by)
    sums = site_sums(obs, {"pred": pred}, qc=qc, max_qc=max_qc, min_quality=min_quality, seasons=by == "season")
    return _scored(sums, by, seen)["pred"]


def compare(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    by: str | None = None,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seen: Iterable[str] | None = None,
    clusters: Clusters = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> pd.DataFrame:
    """Score several predictions on one row mask: a row counts where every one of them has a value.

    Parameters
    ----------
    obs, by, qc, max_qc, min_quality, seen
        As `evaluate` takes them.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        By model name. Fluxes that all of them have are scored.
    clusters, draws, seed, level, against
        As `score_table` takes them: intervals, and differences from one of the models.

    Returns
    -------
    pd.DataFrame
        As `skill_table`, with what `score_table` adds; its ``attrs`` record the row mask.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=8, days=4)
    >>> worse = cube.fluxes + 1
    >>> table = compare(cube, {"worse": worse, "same": cube.fluxes}, clusters=50)
    >>> row = table.query("target == 'NEE' and model == 'same'").iloc[0]
    >>> [round(float(row[name]), 3) for name in ("rmse_diff", "rmse_diff_low", "rmse_diff_high")], int(row.n_clusters)
    ([-1.0, -1.0, -1.0], 8)
    """
    _check_group(by)
    if not predictions:
        raise ConfigError("compare needs at least one prediction, by model name.")
    sums = site_sums(obs, dict(predictions), qc=qc, max_qc=max_qc, min_quality=min_quality, seasons=by == "season")
    about = {"clusters": clusters, "draws": draws, "seed": seed, "level": level, "against": against}
    return score_table(sums, by=by, seen=seen, **about)


def score_table(
    sums: Sums,
    *,
    by: str | None = None,
    seen: Iterable[str] | None = None,
    clusters: Clusters = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> pd.DataFrame:
    """Make the table of scores from sums of sites, with intervals where clusters are given.

    Parameters
    ----------
    sums : Sums
        As `site_sums` makes them; `Sums.join` puts folds together.
    by, seen
        As `evaluate` takes them.
    clusters : float or mapping of str to label, optional
        Resample clusters of sites for intervals: sites within so many km of each other (single linkage; 0: each site
        alone), or a cluster for each site.
    draws, seed : int
        Resampled sets, and of which generator.
    level : float
        Nominal coverage of an interval.
    against : str, optional
        Model that the others are compared with; by default the first.

    Returns
    -------
    pd.DataFrame
        As `skill_table`. With clusters also `n_clusters`, and for nse, rmse and nse_site_median: ``<score>_low`` and
        ``_high``; ``<score>_diff``, the row's score minus that of `against` on the same rows, and its ``_diff_low``
        and ``_diff_high``, from draws that both share. NaN where a group has fewer than 3 clusters. They tell what
        other towers would have given the same trained models; what other training towers or seeds would have made of
        the models is not in them.

    References
    ----------
    Hesterberg 2015, doi:10.1080/00031305.2015.1089789 (expanded percentile intervals)
    """
    _check_group(by)
    if against is not None and against not in sums.models:
        raise unknown("model", against, sums.models)
    out = skill_table(_scored(sums, by, seen))
    if by in ("igbp", "koppen"):
        out.insert(list(out).index("n_sites") + 1, "counted", out["n_sites"] >= LEAST_SITES)
    if clusters is None:
        return out
    if draws < 100 or not 0 < level < 1:
        raise ConfigError(f"intervals need 100 draws or more and a level between 0 and 1, found {draws} and {level:g}.")
    against = against or sums.models[0]
    rows = _intervals(sums, by, clusters, draws, seed, level, against)
    added = pd.DataFrame([rows[key] for key in zip(out["target"], out["group"], out["model"], strict=True)])
    attrs = out.attrs | {
        "intervals": f"{level:.0%} from {draws} draws of whole clusters",
        "against": against,
        "draws": draws,
        "seed": seed,
    }
    out = pd.concat([out, added], axis=1)
    out.attrs = attrs
    return out


def class_means(table: pd.DataFrame) -> pd.DataFrame:
    """Average scores over classes, each counting once; classes of fewer than 5 sites do not count.

    Parameters
    ----------
    table : pd.DataFrame
        As `compare` makes it with ``by="igbp"`` or ``by="koppen"``.

    Returns
    -------
    pd.DataFrame
        Columns target, model, n_classes, nse, rmse, nse_site_median.
    """
    if "counted" not in table:
        raise ConfigError('means over classes need a table by="igbp" or by="koppen".')
    kept = table[table["counted"] & table["nse"].notna()]
    groups = kept.groupby(["target", "model"], sort=False)
    means = groups[["nse", "rmse", "nse_site_median"]].mean()
    return means.assign(n_classes=groups.size()).reset_index()


def skill_table(scored: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Lay the results of `evaluate` out as one table: a row per target, group and model.

    Parameters
    ----------
    scored : mapping of str to xr.Dataset
        By model name.

    Returns
    -------
    pd.DataFrame
        Columns target, units, group, [zero_shot,] model, n, n_sites, then the scores. Its ``attrs`` are those
        of the first Dataset.
    """
    frames = []
    for name, ds in scored.items():
        if "group" not in ds.dims:
            ds = ds.expand_dims(group=["all"])
        frames.append(ds.to_dataframe(dim_order=["target", "group"]).reset_index().assign(model=name))
    out = pd.concat(frames, ignore_index=True)
    keys = [c for c in ("target", "units", "group", "zero_shot", "model", "n", "n_sites") if c in out]
    # Targets and groups stay in the order they were scored in; models of one group stand side by side.
    order = {c: pd.Categorical(out[c], out[c].unique(), ordered=True) for c in ("target", "group")}
    rows = out.assign(**order).sort_values(["target", "group"], kind="stable").index
    out = out.loc[rows, keys + [c for c in out if c not in keys]].reset_index(drop=True)
    out.attrs = dict(next(iter(scored.values())).attrs)
    return out


def _check_group(by: str | None) -> None:
    if by is not None and by not in GROUPS:
        raise unknown("group", by, GROUPS)


def _scored(sums: Sums, by: str | None, seen: Iterable[str] | None) -> dict[str, xr.Dataset]:
    """Scores by group, a Dataset per model."""
    attrs = dict(sums.attrs) | {
        "by": by or "all",
        "aggregation": "scores: all rows of a group pooled; *_site_median: median over the sites of a group",
    }
    found = {t: _groups(sums, t, by) for t in sums.targets}
    return {
        model: _labelled(
            [{g: _scores_of(Moments(*(x[:, i] for x in m))) for g, (m, _) in found[t].items()} for t in sums.targets],
            sums.targets,
            by,
            seen,
            attrs,
        )
        for i, model in enumerate(sums.models)
    }


def _groups(sums: Sums, target: str, by: str | None) -> dict[str, tuple[Moments, np.ndarray]]:
    """Moments (place, model) of each group, and which places are in it."""
    m, places = sums.moments[target], sums.places[target]
    every = np.ones(len(m.n), bool)
    if by == "season":
        if not sums.seasonal:
            raise ConfigError('a table by="season" needs sums that keep seasons apart: site_sums(..., seasons=True).')
        return {name: (Moments(*(x[:, k] for x in m)), every) for k, name in enumerate(SEASONS)}
    m = pool(m, axis=1) if sums.seasonal else Moments(*(x[:, 0] for x in m))
    if by is None:
        return {"all": (m, every)}
    if by not in places:
        raise SchemaError(f"by={by!r} needs the coordinate {by} on each site; found {sorted(map(str, places))}.")
    labels = [str(label).split(";") if by == "network" else [str(label)] for label in places[by].values]
    names = sorted({label for several in labels for label in several}) if by != "site" else [x[0] for x in labels]
    held = {name: np.array([name in several for several in labels]) for name in names}
    return {name or "unknown": (Moments(*(x[at] for x in m)), at) for name, at in held.items()}


def _intervals(sums, by, clusters, draws, seed, level, against) -> dict[tuple, dict[str, float]]:
    """Columns that intervals add, by (target, group, model)."""
    out = {}
    reference = sums.models.index(against)
    for target in sums.targets:
        labels = cluster_labels(sums.places[target], clusters)
        for group, (m, at) in _groups(sums, target, by).items():
            drawn = resample(m, labels[at], draws=draws, seed=seed) if (m.n > 0).any() else None
            for i, model in enumerate(sums.models):
                each = _scores_of(Moments(*(x[:, i] for x in m)))
                base = _scores_of(Moments(*(x[:, reference] for x in m)))
                row = {"n_clusters": drawn.clusters if drawn else 0}
                for score in INTERVALS:
                    one = drawn.values[score][:, i] if drawn else np.full(draws, np.nan)
                    other = drawn.values[score][:, reference] if drawn else one
                    row[f"{score}_low"], row[f"{score}_high"] = interval(one, row["n_clusters"], level)
                    if i != reference:
                        row[f"{score}_diff"] = each[score] - base[score]
                        row[f"{score}_diff_low"], row[f"{score}_diff_high"] = interval(
                            one - other, row["n_clusters"], level
                        )
                out[target, group, model] = {k: float(v) if k != "n_clusters" else v for k, v in row.items()}
    return out


def cluster_labels(places: xr.Dataset, clusters: float | Mapping[str, object]) -> np.ndarray:
    """Cluster of each place, as numbers."""
    if "site" not in places:
        raise SchemaError("intervals over clusters are of sites; these scores are of cells of a grid.")
    sites = list(map(str, places["site"].values))
    if isinstance(clusters, Mapping | pd.Series):
        labels = dict(clusters)
        if missing := sorted(set(sites) - set(labels)):
            raise ConfigError(f"these sites have no cluster: {', '.join(missing[:5])}; name one for each.")
        return np.unique([str(labels[s]) for s in sites], return_inverse=True)[1]
    if isinstance(clusters, bool) or not isinstance(clusters, int | float) or not clusters >= 0:
        raise ConfigError(f"clusters must be a distance in km or a cluster for each site, found {clusters!r}.")
    if clusters > 0 and not {"latitude", "longitude"} <= set(places):
        raise SchemaError("clusters by distance need latitude and longitude on each site.")
    label = np.arange(len(sites))
    if clusters:
        label = cluster_sites(places["latitude"].values, places["longitude"].values, clusters)
    # Named by their first site: a seed then draws the same clusters in whatever order sites come.
    names = {group: min(s for s, g in zip(sites, label, strict=True) if g == group) for group in set(label.tolist())}
    return np.unique([names[group] for group in label.tolist()], return_inverse=True)[1]


def _scores_of(m: Moments) -> dict[str, float]:
    """Scores of the places of one group: pooled, and the median over places that have one."""
    pooled, each = scores(pool(m)), scores(m)
    out = {name: float(pooled[name]) for name in SCORES}
    for name in SCORES:
        finite = each[name][np.isfinite(each[name])]
        out[f"{name}_site_median"] = float(np.median(finite)) if finite.size else np.nan
    return out | {"n": int(m.n.sum()), "n_sites": int((m.n > 0).sum())}


def _labelled(results: list[dict], targets: list[str], by, seen, attrs) -> xr.Dataset:
    groups = list(results[0])
    rows = table(attrs.get("resolution", "hourly"))
    units = [rows[t].units if t in rows else "" for t in targets]
    ds = xr.Dataset(
        {
            name: (("group", "target"), [[r[g][name] for r in results] for g in groups], _score_attrs(name))
            for name in ("n", "n_sites", *SCORES, *(f"{s}_site_median" for s in SCORES))
        },
        coords={
            "group": np.array(groups, object),
            "target": np.array(targets, object),
            "units": ("target", np.array(units, object)),
        },
        attrs=attrs,
    )
    if seen is not None:
        if by not in ("igbp", "koppen"):
            raise ConfigError(f'seen= marks classes that training lacked: it needs by="igbp" or "koppen", not {by!r}.')
        ds = ds.assign_coords(zero_shot=("group", ~np.isin(groups, sorted(seen))))
    return ds if by is not None else ds.isel(group=0, drop=True)


def _score_attrs(name: str) -> dict[str, str]:
    if name in ("n", "n_sites"):
        return {"long_name": {"n": "hours scored", "n_sites": "sites with an hour scored"}[name]}
    score = name.removesuffix("_site_median")
    how = "median over sites of the score of each" if name.endswith("_site_median") else "all rows pooled"
    return {"long_name": f"{_LONG_NAMES[score]}, {how}"}
