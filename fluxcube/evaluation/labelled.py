"""Scores of sums as a labelled Dataset: models, time scales, groups and targets, with the reason of each NaN."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.groups import By, group_names, groups_of, label_of
from fluxcube.evaluation.intervals import (
    SITE_STATISTICS,
    IntervalOptions,
    group_scores,
    interval_attrs,
    interval_columns,
    of_model,
    reason_of,
)
from fluxcube.evaluation.sums import ROWS, Sums
from fluxcube.evaluation.timescales import undefined_kinds
from fluxcube.moments import Moments
from fluxcube.scores import LONG_NAMES, UNITLESS

_SITES_IN_WORDS = {"_site_median": "median", "_site_p10": "10th percentile", "_site_p90": "90th percentile"}
_BOUNDS = {
    "_seeds_low": "lower bound, over clusters and members",
    "_seeds_high": "upper bound, over clusters and members",
    "_diff_seeds_low": "lower bound of the difference from {against}, over clusters and members",
    "_diff_seeds_high": "upper bound of the difference from {against}, over clusters and members",
    "_member_mean": "mean over single members",
    "_member_std": "standard deviation over single members",
    "_low": "lower bound",
    "_high": "upper bound",
    "_diff": "difference from {against}",
    "_diff_low": "lower bound of the difference from {against}",
    "_diff_high": "upper bound of the difference from {against}",
}


def evaluate_sums(
    sums: Sums | Mapping[str, Sums],
    *,
    by: By = None,
    seen: Iterable[str] | None = None,
    **intervals: Unpack[IntervalOptions],
) -> xr.Dataset:
    """Compute the scores of `fluxcube.evaluate` from sums, so that several groupings need one pass over the data.

    Parameters
    ----------
    sums : Sums, or mapping of str to Sums
        Sums that `fluxcube.evaluation.sums.site_sums` returns, or those by time scale of
        `fluxcube.evaluation.timescales.scale_sums`.
    by, seen
        As `fluxcube.evaluate` takes them; the sums need the periods of `by`.
    **intervals
        Options of intervals, as `fluxcube.evaluation.skill.score_table` takes them.

    Returns
    -------
    xr.Dataset
        As `fluxcube.evaluate` returns it, with the dimension model.
    """
    if isinstance(sums, Sums):
        return scored_groups(sums, by, seen, **intervals)
    several = [_at_scale(scored_groups(one, by, seen, **intervals), scale, by) for scale, one in sums.items()]
    scale = pd.Index(list(sums), dtype=object, name="scale")
    out = xr.concat(several, scale, data_vars="all", coords=["reason"], compat="override", combine_attrs="override")
    return out.transpose("model", "scale", ...)


def _at_scale(scored: xr.Dataset, scale: str, by: By) -> xr.Dataset:
    """Return scores whose reason is the scale, where groups of time steps are not defined at it."""
    if not set(undefined_kinds(scale)) & set(group_names(by)):
        return scored
    reason = scored["reason"].where(scored["n"] > 0, "groups of time steps are not defined at this scale")
    return scored.assign_coords(reason=reason.assign_attrs(scored["reason"].attrs))


def scored_groups(sums: Sums, by: By, seen: Iterable[str] | None, **intervals: Unpack[IntervalOptions]) -> xr.Dataset:
    """Return the scores (model, group, target) of each group; without groups, (model, target).

    Parameters
    ----------
    sums : Sums
        Sums of the sites, with the periods of `by`.
    by, seen
        As `fluxcube.evaluate` takes them.
    **intervals
        Options of intervals, as `fluxcube.evaluation.skill.score_table` takes them.
    """
    names = group_names(by)
    groups = {t: groups_of(sums, t, by) for t in sums.targets}
    keys = list(dict.fromkeys(key for found in groups.values() for key in found))
    options: IntervalOptions = {"clusters": None, **intervals}
    bounds = interval_columns(sums, by, **options)
    empty = group_scores(Moments(*np.zeros((len(Moments._fields), 0))))
    shape = (len(sums.models), len(keys), len(sums.targets))
    values: dict[str, np.ndarray] = {name: np.full(shape, value, type(value)) for name, value in empty.items()}
    reason = np.full(shape, "", object)
    for (i, model), (j, key), (k, target) in itertools.product(
        enumerate(sums.models), enumerate(keys), enumerate(sums.targets)
    ):
        m = of_model(groups[target][key][0], i) if key in groups[target] else None
        reason[i, j, k] = reason_of(m) if m is not None else "no site"
        cell = {} if m is None else group_scores(m) | bounds.get((target, label_of(key), model), {})
        for name, value in cell.items():
            values.setdefault(name, np.full(shape, np.nan))[i, j, k] = value
    attrs = _attributes(sums, names) | interval_attrs(sums, **intervals)
    return _labelled(values, reason, sums, keys, names, seen, attrs)


def _attributes(sums: Sums, names: Sequence[str]) -> dict[str, object]:
    """Return the attributes of scores; numbers of time steps are lists in the order of the targets."""
    rows = {
        name: [int(value[t]) for t in sums.targets]
        for name, value in sums.attrs.items()
        if name.startswith(ROWS) and isinstance(value, Mapping)
    }
    return {
        **sums.attrs,
        **rows,
        "by": ", ".join(names) or "all",
        "aggregation": "scores: all rows of a group pooled; *_site_median: median over the sites of a group",
    }


def _labelled(
    values: Mapping[str, np.ndarray],
    reason: np.ndarray,
    sums: Sums,
    keys: list[tuple[str, ...]],
    names: Sequence[str],
    seen: Iterable[str] | None,
    attrs: Mapping[str, object],
) -> xr.Dataset:
    """Return the Dataset of scores (model, group, target)."""
    dims = ("model", "group", "target")
    units = [sums.units_of(t) for t in sums.targets]
    ds = xr.Dataset(
        {name: (dims, x, score_attrs(name, units, str(attrs.get("against", "")))) for name, x in values.items()},
        coords={
            "model": np.array(sums.models, object),
            "group": np.array([label_of(key) for key in keys], object),
            "target": np.array(sums.targets, object),
            "units": ("target", np.array(units, object)),
            "reason": (dims, reason, {"long_name": "why a score is not defined"}),
        },
        attrs=attrs,
    )
    labels = {name: np.array([key[i] for key in keys], object) for i, name in enumerate(names)}
    if len(names) > 1:
        ds = ds.assign_coords({name: ("group", label) for name, label in labels.items()})
    if seen is not None:
        of_class = [name for name in names if name in ("igbp", "koppen")]
        if len(of_class) != 1:
            found = ", ".join(names) or None
            raise ConfigError(f'seen= needs by="igbp" or by="koppen", found by={found!r}; leave out seen.')
        ds = ds.assign_coords(zero_shot=("group", ~np.isin(labels[of_class[0]], sorted(seen))))
    return ds if names else ds.isel(group=0, drop=True)


def score_attrs(name: str, units: Sequence[str], against: str) -> dict[str, str]:
    """Return the attributes of a score: its name in words, and its units if all targets have the same.

    Parameters
    ----------
    name : str
        Name of the variable, such as ``rmse_site_p90`` or ``nse_diff_low``.
    units : sequence of str
        Units of the targets.
    against : str
        Reference model of the differences.
    """
    counts = {"n": "time steps scored", "n_sites": "sites with a time step scored", "n_clusters": "clusters of sites"}
    if name in counts:
        return {"long_name": counts[name], "units": "1"}
    bound = next((ending for ending in sorted(_BOUNDS, key=len, reverse=True) if name.endswith(ending)), "")
    statistic = next((ending for ending in SITE_STATISTICS if name.removesuffix(bound).endswith(ending)), "")
    score = name.removesuffix(bound).removesuffix(statistic)
    how = f"{_SITES_IN_WORDS[statistic]} over sites of the score of each" if statistic else "all rows pooled"
    words = f"{LONG_NAMES[score]}, {how}"
    words += f", {_BOUNDS[bound].format(against=against)}" if bound else ""
    same = "1" if score in UNITLESS else units[0] if len(set(units)) == 1 else ""
    return {"long_name": words} | ({"units": same} if same else {})
