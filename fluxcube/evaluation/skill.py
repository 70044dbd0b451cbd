"""Skill: scores of predictions against observations, per class, site, season or network, on a common row mask."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.selection import as_cube
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.coverage import (
    COVERAGE,
    COVERAGE_NOTE,
    CoverageSums,
    coverage_note,
    sums_with_coverage,
)
from fluxcube.evaluation.groups import GROUPS, By, group_names, kinds_of
from fluxcube.evaluation.intervals import Clusters, IntervalOptions, cluster_labels, interval_attrs, interval_columns
from fluxcube.evaluation.labelled import evaluate_sums, score_attrs, scored_groups
from fluxcube.evaluation.masks import subset_masks
from fluxcube.evaluation.seeds import mean_of_members, member_sums, members_of, seed_table
from fluxcube.evaluation.sums import SEASONS, Labelled, SumOptions, Sums, common_rows, site_sums
from fluxcube.evaluation.timescales import Scales, scale_sums
from fluxcube.resolution import DEFAULT, Default

__all__ = [
    "GROUPS",
    "MIN_SITES",
    "SEASONS",
    "IntervalOptions",
    "class_means",
    "cluster_labels",
    "common_rows",
    "compare",
    "evaluate",
    "evaluate_sums",
    "score_table",
    "site_sums",
    "skill_table",
]

log = logging.getLogger(__name__)

#: Minimum number of sites of a class in means over classes. Tables show smaller classes, too.
MIN_SITES = 5

#: Groups of sites whose means over groups leave out those of fewer sites.
_CLASSES = ("igbp", "koppen", "climate", "continent")
#: Columns of `seed_table`, and their endings in the results of `evaluate`.
_OF_MEMBERS = {
    "_seeds_low": "_seeds_low",
    "_seeds_high": "_seeds_high",
    "_diff_low": "_diff_seeds_low",
    "_diff_high": "_diff_seeds_high",
    "_one": "_member_mean",
    "_one_std": "_member_std",
}


def evaluate(
    obs: Labelled | str | os.PathLike,
    pred: Labelled | Mapping[str, Labelled],
    *,
    by: By = None,
    scales: Scales = None,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seen: Iterable[str] | None = None,
    subsets: xr.Dataset | None = None,
    clusters: Clusters = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> xr.Dataset:
    """Compute the scores of predictions: over all time steps of a group, and statistics over its sites.

    Lazy inputs are computed once, block by block; predictors and chips are not loaded. All models are scored at the
    time steps at which all of them have a value.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray, path or URL
        A tower cube (its `fluxes` and `fluxes_qc` are used), a Dataset with one variable per flux and, optionally,
        its flags as ``<NAME>_QC``, or an array (site, time[, target]). Maps (time, latitude, longitude) are accepted,
        too: each cell is then a site.
    pred : xr.Dataset or xr.DataArray, or a mapping of these by model name
        One variable per flux, as `fluxcube.predict` and `fluxcube.upscale` return, or an array that is named after
        its flux or has a dimension target. It is converted to the units of the observations (attribute ``units``, or
        the coordinate ``target_units`` of a cube); data without units are taken to have those of the variable
        table. The fluxes that all models contain are scored. Of an ensemble, a prediction with a dimension `member`,
        the mean of the members is scored. Maps are sampled at the sites of `obs`, in their nearest cell
        (`fluxcube.sample_at_sites`); if their time steps differ from those of `obs`, the finer data are averaged.
    by : str or sequence of str, optional
        Groups; of several, each combination is a group. Sites: igbp, koppen, climate, continent, site and network; a
        site of several networks counts in each of them. Time steps: season, year, time_of_day and subset. Seasons,
        years and times of day are local, by mean solar time (daily data: by date), and seasons are half a year later
        at southern sites. Time of day: night (22 to 6 h), morning (6 to 10 h), midday, afternoon and evening (18 to
        22 h). By default all time steps form one group.
    scales : bool or sequence of str, optional
        Time scales, of `fluxcube.evaluation.timescales.SCALES`: the means of a period are scored, if it has enough
        time steps; True: all that the data have. A group of time steps is defined at the scales whose values lie
        within it, e.g. a season at the monthly, but not at the interannual scale, where its n is 0.
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
        Classes of the training sites (``by`` contains "igbp" or "koppen"); the other classes are marked `zero_shot`.
    subsets : xr.Dataset, optional
        Boolean arrays (site, time) by name of the subset, for ``by="subset"``; by default those of
        `fluxcube.evaluation.masks.subset_masks` for the cube `obs`: heat, cold, dry air and dry months, by percentiles
        of each tower. A time step can be in several.
    clusters, draws, seed, level, against
        Options of intervals and of differences from one of the models, as `score_table` takes them.

    Returns
    -------
    xr.Dataset
        nse, rmse, mae, bias (pred - obs) and corr2 of all time steps of a group together, as in Table 1 of the
        CarbonSense paper; ``<score>_site_median``, ``<score>_site_p10`` and ``<score>_site_p90``, the median and the
        10th and 90th percentiles over sites; n (time steps) and n_sites; with clusters, the intervals of `score_table`;
        of ensembles, for groups of sites without time scales, also the intervals over clusters and members
        (``_seeds_low``, ``_seeds_high``, ``_diff_seeds_low``, ``_diff_seeds_high``) and the mean and standard deviation
        of the scores of single members (``_member_mean``, ``_member_std``). Dims (model, scale, group, target), without
        those that were not requested; ``to_array("metric")`` stacks all. The coordinate `reason` states why a score is
        NaN. Attributes record the row mask and how many time steps each step left, by target: rows_observed at the
        common sites, rows_after_quality, rows_common at time steps that all models have, and rows_scored where all
        models have a value.

    Raises
    ------
    SchemaError
        If the two have no flux, site or time step in common, or lack the coordinate to group by.
    ConfigError
        If the units of the prediction cannot be converted to those of the observations.
    UnknownNameError
        If `by` or `scales` contain another name.

    References
    ----------
    Nash and Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6; FLUXtrapolation, arXiv:2605.19812 (scales)

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube()
    >>> scores = evaluate(cube, cube.fluxes, by="igbp")
    >>> float(scores.nse.sel(group="DBF", target="NEE"))
    1.0
    >>> scores = evaluate(cube, {"a": cube.fluxes, "b": cube.fluxes + 1}, by=("igbp", "time_of_day"), scales=["hourly"])
    >>> scores.bias.sel(model="b", scale="hourly", target="NEE", group="DBF, night").round(3).item()
    1.0
    """
    obs = obs if isinstance(obs, xr.DataArray) else as_cube(obs)
    named, several = _named(pred)
    models = {name: mean_of_members(one) for name, one in named.items()}
    limits: SumOptions = {"qc": qc, "max_qc": max_qc, "min_quality": min_quality}
    computed, covered = _computed(obs, models, by, scales, subsets, limits)
    scored = evaluate_sums(
        computed, by=by, seen=seen, clusters=clusters, draws=draws, seed=seed, level=level, against=against
    )
    scored = _with_coverage_of(scored, covered, by)
    if clusters is not None and not scales and not kinds_of(by) and any("member" in one.dims for one in named.values()):
        several_of = {name: members_of(one) for name, one in named.items()}
        sums = member_sums(obs, several_of, qc=qc, max_qc=max_qc, min_quality=min_quality)
        table = seed_table(sums, by=by, clusters=clusters, draws=draws, seed=seed, level=level, against=against)
        scored = _with_seeds(scored, table)
    return scored if several else scored.isel(model=0, drop=True)


def _with_seeds(scored: xr.Dataset, table: pd.DataFrame) -> xr.Dataset:
    """Add intervals over clusters and members, and statistics of single members, from a table of `seed_table`."""
    dims = scored["nse"].dims
    rows = table.set_index([str(d) for d in dims])
    order = pd.MultiIndex.from_product([scored[d].values for d in dims], names=rows.index.names)
    rows = rows.reindex(order)
    added = {}
    for score, (column, ending) in itertools.product(("nse", "rmse", "nse_site_median"), _OF_MEMBERS.items()):
        values = rows[f"{score}{column}"].to_numpy(float).reshape([scored.sizes[d] for d in dims])
        attrs = score_attrs(f"{score}{ending}", scored["units"].values.tolist(), str(scored.attrs["against"]))
        added[f"{score}{ending}"] = (dims, values, attrs)
    return scored.assign(added)


def _named(pred: Labelled | Mapping[str, Labelled]) -> tuple[dict[str, Labelled], bool]:
    """Return predictions by model name, and whether they had names."""
    if isinstance(pred, Mapping) and not isinstance(pred, xr.Dataset):
        return {str(name): one for name, one in pred.items()}, True
    return {"pred": pred}, False


def _computed(
    obs: Labelled,
    models: Mapping[str, Labelled],
    by: By,
    scales: Scales,
    subsets: xr.Dataset | None,
    limits: SumOptions,
) -> tuple[Sums | dict[str, Sums], list[CoverageSums]]:
    """Return the sums of the sites, by time scale if requested; those of coverage only without time scales."""
    if not models:
        raise ConfigError("expected at least one prediction by model name, found none; pass {name: prediction}.")
    _tell_of_training(obs, models)
    kinds = kinds_of(by)
    if "subset" in kinds and subsets is None:
        if not isinstance(obs, xr.Dataset):
            raise SchemaError('by="subset" needs a tower cube with its predictors, found an array; pass subsets=.')
        subsets = subset_masks(obs)
    options: SumOptions = {**limits, "periods": kinds, "subsets": subsets}
    if scales is None or scales is False:
        return sums_with_coverage(obs, models, **options)
    return scale_sums(obs, models, scales=scales, **options), []


def _tell_of_training(obs: Labelled, models: Mapping[str, Labelled]) -> None:
    """Log which models were trained on scored towers, as predictions record it (`fluxcube.predict`)."""
    arrays = (xr.Dataset, xr.DataArray)  # others are refused by what reads them
    scored = (
        set(map(str, np.atleast_1d(obs["site"].values))) if isinstance(obs, arrays) and "site" in obs.coords else ()
    )
    for name, one in models.items():
        if not isinstance(one, arrays) or "in_training" not in one.coords or not one["in_training"].ndim:
            continue
        trained = one["site"].values[one["in_training"].values.astype(bool)]
        sites = [str(site) for site in trained if str(site) in scored]
        if sites:
            log.warning(
                "%s was trained on %d of the %d scored towers (%s): scores there are not those of held-out towers, "
                "unless its split is in time",
                "the model" if name == "pred" else name,
                len(sites),
                len(scored),
                f"{', '.join(sites[:3])}{', ...' if len(sites) > 3 else ''}",
            )


def _with_coverage_of(scored: xr.Dataset, covered: Sequence[CoverageSums], by: By) -> xr.Dataset:
    """Add the coverage of 80 % intervals to scores, NaN for models without standard deviations."""
    if not covered:
        return scored
    found = [scored_groups(one, by, None).bias.reset_coords(drop=True) for one in covered]
    share = xr.concat([one.reindex(model=scored["model"]) for one in found], "target")
    share = share.reindex({d: scored[d] for d in ("group", "target") if d in scored.dims}).transpose(
        *scored["nse"].dims
    )
    attrs = {"long_name": "share of values within 80 % intervals", "units": "1"}
    attrs |= {"comment": note} if (note := coverage_note(covered)) else {}
    return scored.assign({COVERAGE: share.assign_attrs(attrs)})


def compare(
    obs: Labelled | str | os.PathLike,
    predictions: Mapping[str, Labelled],
    *,
    by: By = None,
    scales: Scales = None,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seen: Iterable[str] | None = None,
    subsets: xr.Dataset | None = None,
    clusters: Clusters = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    against: str | None = None,
) -> pd.DataFrame:
    """Compute the scores of several predictions on a common row mask: the time steps at which all of them have a value.

    Parameters
    ----------
    obs, by, scales, qc, max_qc, min_quality, seen, subsets
        As `evaluate` takes them.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        Predictions by model name. The fluxes that all of them contain are scored.
    clusters, draws, seed, level, against
        Options of intervals and of differences from one of the models, as `score_table` takes them.

    Returns
    -------
    pd.DataFrame
        Columns of `skill_table` and those that `score_table` adds, with time scales also `scale`; ``attrs`` record the
        row mask.

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
    obs = obs if isinstance(obs, xr.DataArray) else as_cube(obs)
    limits: SumOptions = {"qc": qc, "max_qc": max_qc, "min_quality": min_quality}
    models = {name: mean_of_members(one) for name, one in predictions.items()}
    computed, covered = _computed(obs, models, by, scales, subsets, limits)
    options: IntervalOptions = {"clusters": clusters, "draws": draws, "seed": seed, "level": level, "against": against}
    if isinstance(computed, Sums):
        return with_coverage(score_table(computed, by=by, seen=seen, **options), covered, by=by)
    return _scale_rows({scale: score_table(one, by=by, seen=seen, **options) for scale, one in computed.items()})


def _scale_rows(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table from those of several time scales, with the column scale; targets keep their order."""
    frames = []
    for scale, table in tables.items():
        table.insert(list(table).index("group"), "scale", scale)
        frames.append(table)
    out = pd.concat(frames, ignore_index=True)
    order = pd.Categorical(out["target"], out["target"].unique(), ordered=True)
    out = out.loc[out.assign(target=order).sort_values("target", kind="stable").index].reset_index(drop=True)
    out.attrs = dict(frames[0].attrs)
    return out


def with_coverage(table: pd.DataFrame, covered: Iterable[CoverageSums], *, by: By = None) -> pd.DataFrame:
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
        for groups in (None, by):
            rows = skill_table(_by_model(scored_groups(sums, groups, None)))
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
    by: By = None,
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
    names = group_names(by)
    options: IntervalOptions = {"clusters": clusters, "draws": draws, "seed": seed, "level": level, "against": against}
    rows = interval_columns(sums, by, **options)
    out = skill_table(_by_model(scored_groups(sums, by, seen)))
    if len(names) == 1 and names[0] in _CLASSES:
        out.insert(list(out).index("n_sites") + 1, "counted", out["n_sites"] >= MIN_SITES)
    if clusters is None:
        return out
    added = pd.DataFrame([rows[key] for key in zip(out["target"], out["group"], out["model"], strict=True)])
    attrs = out.attrs | interval_attrs(sums, **options)
    out = pd.concat([out, added], axis=1)
    out.attrs = attrs
    return out


def _by_model(scored: xr.Dataset) -> dict[str, xr.Dataset]:
    return {str(model): scored.sel(model=model, drop=True) for model in scored["model"].values}


def whole_and_groups(
    sums: Sums, by: str, seen: Iterable[str] = (), **intervals: Unpack[IntervalOptions]
) -> pd.DataFrame:
    """Return the scores of all sites together, followed by those of each group.

    Parameters
    ----------
    sums : Sums
        Sums of the sites (`fluxcube.evaluation.sums.site_sums`).
    by : str
        Groups of `score_table`, also as "igbp,season", or "all" for no groups.
    seen : iterable of str
        IGBP classes of the training sites, if "igbp" is one of the groups.
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
    groups = score_table(sums, by=by, seen=seen if "igbp" in group_names(by) else None, **intervals)
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
        ds = ds.drop_vars("reason", errors="ignore")
        frames.append(ds.to_dataframe(dim_order=["target", "group"]).reset_index().assign(model=name))
    out = pd.concat(frames, ignore_index=True)
    keys = [c for c in ("target", "units", "group", *GROUPS, "zero_shot", "model", "n", "n_sites") if c in out]
    # Targets and groups keep their order; the models of a group are next to each other.
    order = {c: pd.Categorical(out[c], out[c].unique(), ordered=True) for c in ("target", "group")}
    rows = out.assign(**order).sort_values(["target", "group"], kind="stable").index
    out = out.loc[rows, keys + [c for c in out if c not in keys]].reset_index(drop=True)
    out.attrs = dict(next(iter(scored.values())).attrs)
    return out
