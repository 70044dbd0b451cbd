"""Skill: scores of predictions against observations, per class, site, season or network, on a common row mask."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypedDict, Unpack

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.bootstrap import INTERVALS, ResampledScores, interval, resample
from fluxcube.evaluation.coverage import (
    COVERAGE,
    COVERAGE_NOTE,
    CoverageOptions,
    CoverageSums,
    coverage_note,
    sums_with_coverage,
)
from fluxcube.evaluation.sums import SEASONS, Labelled, Sums, common_rows, site_sums
from fluxcube.moments import SCORES, Moments, pool, scores_of
from fluxcube.resolution import DEFAULT, Default
from fluxcube.samples.clusters import cluster_sites

__all__ = [
    "GROUPS",
    "MIN_SITES",
    "SEASONS",
    "IntervalOptions",
    "class_means",
    "common_rows",
    "compare",
    "evaluate",
    "score_table",
    "site_sums",
    "skill_table",
]

#: Coordinates by which predictions can be grouped.
GROUPS = ("igbp", "koppen", "climate", "site", "season", "network")
#: Minimum number of sites of a class in means over classes. Tables show smaller classes, too.
MIN_SITES = 5

#: Climates by the first letter of a Köppen-Geiger class; boreal ones depend on the third (`climate_of`).
_CLIMATES = {"A": "tropical", "B": "dry", "C": "temperate", "D": "continental", "E": "polar"}

_LONG_NAMES = {
    "nse": "Nash-Sutcliffe efficiency",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "bias": "mean of prediction minus observation",
    "corr2": "squared Pearson correlation",
}
#: A distance in km, the cluster of each site, or None for no intervals.
Clusters = float | Mapping[str, object] | None


class IntervalOptions(TypedDict, total=False):
    """Options of intervals and differences, as `score_table` takes them."""

    clusters: Clusters
    draws: int
    seed: int
    level: float
    against: str | None


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
    """Compute the scores of a prediction: over all time steps of a group, and as the median over its sites.

    Lazy inputs are computed once, block by block; predictors and chips are not loaded.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        A tower cube (its `fluxes` and `fluxes_qc` are used), a Dataset with one variable per flux and, optionally,
        its flags as ``<NAME>_QC``, or an array (site, time[, target]). Maps (time, latitude, longitude) are accepted,
        too: each cell is then a site.
    pred : xr.Dataset or xr.DataArray
        One variable per flux, as `fluxcube.predict` and `fluxcube.upscale` return, or an array that is named after
        its flux or has a dimension target. It is converted to the units of the observations (attribute ``units``, or
        the coordinate ``target_units`` of a cube); data without units are taken to have those of the variable
        table. Maps are sampled at the sites of `obs`, in their nearest cell (`fluxcube.sample_at_sites`); if their
        time steps differ from those of `obs`, the finer data are averaged over the steps of the coarser.
    by : {"igbp", "koppen", "climate", "site", "season", "network"}, optional
        Coordinate to group by. Seasons are local: they follow the solar month, half a year later at southern sites.
        A site of several networks counts in each of them. By default all time steps form one group.
    qc : xr.DataArray, optional
        Flags of `obs` if it is an array without flags.
    max_qc : int, None or "default"
        Maximum flag of hourly observations that are scored, by default 0 (measured); None scores every finite value.
        At sites whose publication contains no better flag (CarbonSense v1: 1, v2: 2), that flag counts as measured, and
        the row mask names these sites.
    min_quality : float, None or "default"
        Minimum quality of daily observations that are scored, by default 1 (whole days); None scores every finite
        value.
    seen : iterable of str, optional
        Classes of the training sites (``by="igbp"`` or ``"koppen"``); the other classes are marked `zero_shot`.

    Returns
    -------
    xr.Dataset
        nse, rmse, mae, bias (pred - obs) and corr2 of all time steps of a group together, as in Table 1 of the
        CarbonSense paper; ``<score>_site_median``, the median over sites; n (time steps) and n_sites; dims (group,
        target), or (target,) without `by`. Attributes record the row mask.

    Raises
    ------
    SchemaError
        If the two have no flux, site or time step in common, or lack the coordinate to group by.
    ConfigError
        If the units of the prediction cannot be converted to those of the observations.
    UnknownNameError
        If `by` is another coordinate.

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
    options: CoverageOptions = {"qc": qc, "max_qc": max_qc, "min_quality": min_quality, "seasons": by == "season"}
    sums, sums_of_coverage = sums_with_coverage(obs, {"pred": pred}, **options)
    scored = _scored(sums, by, seen)["pred"]
    found = [_scored(one, by, None)["pred"].bias for one in sums_of_coverage]
    if not found:
        return scored
    covered = xr.concat(found, "target").reindex(target=scored["target"]).drop_vars("units")
    attrs = {"long_name": "share of values within 80 % intervals"}
    attrs |= {"comment": note} if (note := coverage_note(sums_of_coverage)) else {}
    return scored.assign({COVERAGE: covered.assign_attrs(attrs)})


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
    """Compute the scores of several predictions on a common row mask: the time steps at which all of them have a value.

    Parameters
    ----------
    obs, by, qc, max_qc, min_quality, seen
        As `evaluate` takes them.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        Predictions by model name. The fluxes that all of them contain are scored.
    clusters, draws, seed, level, against
        Options of intervals and of differences from one of the models, as `score_table` takes them.

    Returns
    -------
    pd.DataFrame
        Columns of `skill_table` and those that `score_table` adds; ``attrs`` record the row mask.

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
        raise ConfigError("expected at least one prediction by model name, found none; pass {name: prediction}.")
    options: CoverageOptions = {"qc": qc, "max_qc": max_qc, "min_quality": min_quality, "seasons": by == "season"}
    sums, covered = sums_with_coverage(obs, dict(predictions), **options)
    table = score_table(sums, by=by, seen=seen, clusters=clusters, draws=draws, seed=seed, level=level, against=against)
    return with_coverage(table, covered, by=by)


def with_coverage(table: pd.DataFrame, covered: Iterable[CoverageSums], *, by: str | None = None) -> pd.DataFrame:
    """Add the coverage of 80 % intervals to a table of scores, as the column coverage_80.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `score_table` or `whole_and_groups` returned.
    covered : iterable of CoverageSums
        Sums that `fluxcube.evaluation.coverage.sums_with_coverage` returned for the same predictions.
    by : str, optional
        Groups of the table.

    Returns
    -------
    pd.DataFrame
        The table itself if no prediction has a standard deviation. The coverage of a model without NAME_std is NaN.
        The attribute `coverage_note` reports that scored towers calibrated a model.
    """
    covered = list(covered)
    found: dict[tuple[Hashable, ...], float] = {}
    for sums in covered:
        for groups in {None, by}:
            rows = skill_table(_scored(sums, groups, None))
            found |= dict(
                zip(zip(rows["target"], rows["group"], rows["model"], strict=True), rows["bias"], strict=True)
            )
    if not found:
        return table
    keys = zip(table["target"], table["group"], table["model"], strict=True)
    out = table.assign(**{COVERAGE: [found.get(key, np.nan) for key in keys]})
    note = coverage_note(covered)
    out.attrs = {**table.attrs, **({COVERAGE_NOTE: note} if note else {})}
    return out


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
    """Compute the table of scores from sums of sites, with intervals if `clusters` is set.

    Parameters
    ----------
    sums : Sums
        Sums that `site_sums` returns; `Sums.join` joins those of several folds.
    by, seen
        As `evaluate` takes them.
    clusters : float or mapping of str to label, optional
        Clusters of sites that are resampled for intervals: a distance in km within which sites are in one cluster
        (single linkage; 0: each site is a cluster), or the cluster of each site.
    draws, seed : int
        Number of resampled sets, and seed of the random generator.
    level : float
        Nominal coverage of an interval.
    against : str, optional
        Reference model of the differences; by default the first.

    Returns
    -------
    pd.DataFrame
        Columns of `skill_table`. With clusters also `n_clusters`, and for nse, rmse and nse_site_median:
        ``<score>_low`` and ``<score>_high``; ``<score>_diff``, the score minus that of `against` at the same time
        steps, and its bounds ``<score>_diff_low`` and ``<score>_diff_high``, from the same draws for both models.
        Bounds are NaN for groups of fewer than 3 clusters. The intervals describe how scores of the same trained
        models vary between sets of test towers. They do not include the variation between trained models, that is,
        between sets of training towers or seeds.

    References
    ----------
    Hesterberg 2015, doi:10.1080/00031305.2015.1089789 (expanded percentile intervals)
    """
    _check_group(by)
    if against is not None and against not in sums.models:
        raise unknown("model", against, sums.models)
    out = skill_table(_scored(sums, by, seen))
    if by in ("igbp", "koppen", "climate"):
        out.insert(list(out).index("n_sites") + 1, "counted", out["n_sites"] >= MIN_SITES)
    if clusters is None:
        return out
    if draws < 100 or not 0 < level < 1:
        raise ConfigError(f"expected draws of at least 100 and a level between 0 and 1, found {draws} and {level:g}.")
    against = against or sums.models[0]
    rows = _intervals(sums, by, clusters, draws, seed, level, sums.models.index(against))
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


def whole_and_groups(
    sums: Sums, by: str, seen: Iterable[str] = (), **intervals: Unpack[IntervalOptions]
) -> pd.DataFrame:
    """Return the scores of all sites together, followed by those of each group.

    Parameters
    ----------
    sums : Sums
        Sums of the sites (`fluxcube.evaluation.sums.site_sums`).
    by : str
        A group of `score_table`, or "all" for no groups.
    seen : iterable of str
        IGBP classes of the training sites, for `by` "igbp".
    **intervals
        Options of `score_table`.

    Returns
    -------
    pandas.DataFrame
        Rows of `score_table`.
    """
    whole = score_table(sums, **intervals)
    if by == "all":
        return whole
    groups = score_table(sums, by=by, seen=seen if by == "igbp" else None, **intervals)
    marks = {name: value for name, value in (("zero_shot", False), ("counted", True)) if name in groups}
    table = pd.concat([whole.assign(**marks), groups], ignore_index=True)
    table.attrs = groups.attrs
    return table


def class_means(table: pd.DataFrame) -> pd.DataFrame:
    """Average scores over classes with equal weights; classes of fewer than 5 sites are left out.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `compare` returns with ``by="igbp"`` or ``by="koppen"``.

    Returns
    -------
    pd.DataFrame
        Columns target, model, n_classes, nse, rmse, nse_site_median.

    Raises
    ------
    ConfigError
        If the table is not grouped by one of these.
    """
    if "counted" not in table:
        raise ConfigError('expected a table with a column counted: compute it with by="igbp" or by="koppen".')
    kept = table[table["counted"] & table["nse"].notna()]
    groups = kept.groupby(["target", "model"], sort=False)
    means = groups[["nse", "rmse", "nse_site_median"]].mean()
    return means.assign(n_classes=groups.size()).reset_index()


def skill_table(scored: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Convert results of `evaluate` to one table with a row for each target, group and model.

    Parameters
    ----------
    scored : mapping of str to xr.Dataset
        Results by model name.

    Returns
    -------
    pd.DataFrame
        Columns target, units, group, [zero_shot,] model, n, n_sites, then the scores. Its ``attrs`` are those of the
        first Dataset.
    """
    frames = []
    for name, ds in scored.items():
        if "group" not in ds.dims:
            ds = ds.expand_dims(group=["all"])
        frames.append(ds.to_dataframe(dim_order=["target", "group"]).reset_index().assign(model=name))
    out = pd.concat(frames, ignore_index=True)
    keys = [c for c in ("target", "units", "group", "zero_shot", "model", "n", "n_sites") if c in out]
    # Targets and groups keep their order; the models of a group are next to each other.
    order = {c: pd.Categorical(out[c], out[c].unique(), ordered=True) for c in ("target", "group")}
    rows = out.assign(**order).sort_values(["target", "group"], kind="stable").index
    out = out.loc[rows, keys + [c for c in out if c not in keys]].reset_index(drop=True)
    out.attrs = dict(next(iter(scored.values())).attrs)
    return out


def _check_group(by: str | None) -> None:
    if by is not None and by not in GROUPS:
        raise unknown("group", by, GROUPS)


def _scored(sums: Sums, by: str | None, seen: Iterable[str] | None) -> dict[str, xr.Dataset]:
    """Return the scores of each group, one Dataset per model."""
    attrs = dict(sums.attrs) | {
        "by": by or "all",
        "aggregation": "scores: all rows of a group pooled; *_site_median: median over the sites of a group",
    }
    groups = {t: _groups(sums, t, by) for t in sums.targets}
    return {
        model: _labelled(
            [{g: _scores_of(_of_model(m, i)) for g, (m, _) in groups[t].items()} for t in sums.targets],
            sums.targets,
            by,
            seen,
            attrs,
            [sums.units_of(t) for t in sums.targets],
        )
        for i, model in enumerate(sums.models)
    }


def _groups(sums: Sums, target: str, by: str | None) -> dict[str, tuple[Moments, np.ndarray]]:
    """Return the moments (place, model) of each group, and a mask of its places."""
    m, places = sums.moments[target], sums.places[target]
    every = np.ones(len(m.n), bool)
    if by == "season":
        if not sums.seasonal:
            raise ConfigError('by="season" needs sums of each season: compute them with site_sums(..., seasons=True).')
        return {name: (Moments(*(x[:, k] for x in m)), every) for k, name in enumerate(SEASONS)}
    m = pool(m, axis=1) if sums.seasonal else Moments(*(x[:, 0] for x in m))
    if by is None:
        return {"all": (m, every)}
    coordinate = "koppen" if by == "climate" else by
    if coordinate not in places:
        raise SchemaError(
            f"by={by!r} needs the coordinate {coordinate} on each site; found {sorted(map(str, places))}."
        )
    labels = [_labels(by, str(label)) for label in places[coordinate].values]
    names = sorted({label for several in labels for label in several}) if by != "site" else [x[0] for x in labels]
    masks = {name: np.array([name in several for several in labels]) for name in names}
    return {name or "unknown": (Moments(*(x[mask] for x in m)), mask) for name, mask in masks.items()}


def _labels(by: str, value: str) -> list[str]:
    """Return the groups of a site from its coordinate."""
    if by == "climate":
        return [climate_of(value)]
    return value.split(";") if by == "network" else [value]


def climate_of(koppen: str) -> str:
    """Return the climate of a Köppen-Geiger class: tropical, dry, temperate, continental, boreal or polar.

    Continental climates with cool summers (third letter c or d) are boreal. It is "" for an unknown class.

    Examples
    --------
    >>> climate_of("Cfb"), climate_of("Dfb"), climate_of("Dfc"), climate_of("BWh")
    ('temperate', 'continental', 'boreal', 'dry')
    """
    if koppen.startswith("D") and koppen[2:3] in ("c", "d"):
        return "boreal"
    return _CLIMATES.get(koppen[:1], "")


def _of_model(m: Moments, model: int) -> Moments:
    """Return the moments (place,) of one model from those of all (place, model)."""
    return Moments(*(x[:, model] for x in m))


def _intervals(
    sums: Sums,
    by: str | None,
    clusters: float | Mapping[str, object],
    draws: int,
    seed: int,
    level: float,
    reference: int,
) -> dict[tuple[Hashable, ...], dict[str, float]]:
    """Return the columns of intervals by (target, group, model)."""
    out: dict[tuple[Hashable, ...], dict[str, float]] = {}
    for target in sums.targets:
        labels = cluster_labels(sums.places[target], clusters)
        for group, (m, mask) in _groups(sums, target, by).items():
            resampled = resample(m, labels[mask], draws=draws, seed=seed) if (m.n > 0).any() else None
            for i, model in enumerate(sums.models):
                out[target, group, model] = _interval_row(m, resampled, i, reference, level)
    return out


def _interval_row(
    m: Moments, resampled: ResampledScores | None, model: int, reference: int, level: float
) -> dict[str, float]:
    """Return the bounds of one model's scores and of its differences from the reference, for one group."""
    scored, base = _scores_of(_of_model(m, model)), _scores_of(_of_model(m, reference))
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


def _scores_of(m: Moments) -> dict[str, float]:
    """Return the scores of one group: over all its pairs, and the median over places with a finite score."""
    pooled, each = scores_of(pool(m)), scores_of(m)
    out = {name: float(pooled[name]) for name in SCORES}
    for name in SCORES:
        finite = each[name][np.isfinite(each[name])]
        out[f"{name}_site_median"] = float(np.median(finite)) if finite.size else np.nan
    return out | {"n": int(m.n.sum()), "n_sites": int((m.n > 0).sum())}


def _labelled(
    results: list[dict[str, dict[str, float]]],
    targets: list[str],
    by: str | None,
    seen: Iterable[str] | None,
    attrs: Mapping[str, object],
    units: list[str],
) -> xr.Dataset:
    """Return the Dataset of one model from its scores by group, one mapping per target."""
    groups = list(results[0])
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
            raise ConfigError(f'seen= needs by="igbp" or by="koppen", found by={by!r}; leave out seen.')
        ds = ds.assign_coords(zero_shot=("group", ~np.isin(groups, sorted(seen))))
    return ds if by is not None else ds.isel(group=0, drop=True)


def _score_attrs(name: str) -> dict[str, str]:
    if name in ("n", "n_sites"):
        return {"long_name": {"n": "hours scored", "n_sites": "sites with an hour scored"}[name]}
    score = name.removesuffix("_site_median")
    how = "median over sites of the score of each" if name.endswith("_site_median") else "all rows pooled"
    return {"long_name": f"{_LONG_NAMES[score]}, {how}"}
