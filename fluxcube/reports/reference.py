"""Sections on what scores can be compared with: the noise of the observations, and published scores."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.noise import noise_ceiling
from fluxcube.evaluation.published import beside_published
from fluxcube.evaluation.sitemeans import site_mean_table
from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.points import plot_ceiling
from fluxcube.plotting.published import plot_published
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def ceiling_section(evidence: Evidence) -> Section:
    """Return the section on the noise ceiling: the scores of a perfect model, beside those of the models."""
    title = "Noise ceiling: the scores of a perfect model"
    found = ceiling_table(evidence)
    tables = []
    for target in evidence.targets:
        rows = found[(found["target"] == target) & found["noise_rmse"].notna()]
        if not len(rows):
            continue
        units = evidence.units(target)
        columns = [
            Column("group", "class"),
            Column("n_sites", "towers", ",d"),
            Column("n", f"{evidence.steps} with an uncertainty", ",d"),
            Column("noise_rmse", f"RMSE of a perfect model ({units})", ".3f"),
            Column("rmse", f"RMSE of {evidence.best[target]}", ".3f"),
            Column("nse_ceiling", "NSE of a perfect model", ".3f"),
            Column("nse", f"NSE of {evidence.best[target]}", ".3f"),
            Column("reason", "remark", "long"),
        ]
        tables.append(Table(f"ceiling-{slug(target)}", f"{target}: noise ceiling", rows, columns, target, latex=True))
    if not tables:
        reasons = "; ".join(dict.fromkeys(str(reason) for reason in found["reason"] if reason))
        return Section("ceiling", title, absent=f"Not shown: {reasons or 'no flux has a random uncertainty'}.")
    text = (
        "Observations have a random error that no model can predict: with it, even a perfect model has the RMSE and "
        "NSE of this table. What lies between a model and the ceiling can be improved.",
    )
    figures = [
        Figure(
            f"ceiling-{slug(table.target)}",
            f"{table.target}: NSE of the models, and of a perfect model (line), by class.",
            f"Points of the NSE of every model for {table.target} by class, beside the noise ceiling.",
            functools.partial(_draw_ceiling, evidence, found, table.target),
            table.target,
            wide=True,
        )
        for table in tables
        if evidence.has_coordinate("igbp")
    ]
    return Section("ceiling", title, text, tuple(figures), tuple(tables))


def _draw_ceiling(evidence: Evidence, ceiling: pd.DataFrame, target: str) -> Axes:
    rows = ceiling[ceiling["by"] == "igbp"]
    return plot_ceiling(evidence.scores("igbp"), rows, target=target, styles=model_styles(evidence.models))


def ceiling_table(evidence: Evidence) -> pd.DataFrame:
    """Return the noise ceiling of all towers and each class on the scored rows, with the scores of the best model."""
    by = [None, "igbp"] if evidence.has_coordinate("igbp") else [None]
    found = noise_ceiling(evidence.cube, list(evidence.targets), by, rows=_scored_rows(evidence), **evidence.limits)
    parts = []
    for name in ("all", *(["igbp"] if len(by) > 1 else [])):
        scores = evidence.scores(None if name == "all" else name)
        best = scores[[evidence.best[t] == m for t, m in zip(scores["target"], scores["model"], strict=True)]]
        parts.append(found[found["by"] == name].merge(best[["target", "group", "nse", "rmse"]], on=["target", "group"]))
    return pd.concat(parts, ignore_index=True)


def _scored_rows(evidence: Evidence) -> xr.DataArray:
    """Return where all models have a value, (site, time, target)."""
    cube = evidence.cube
    masks = []
    for target in evidence.targets:
        mask = xr.DataArray(
            np.ones((cube.sizes["site"], cube.sizes["time"]), bool),
            {"site": cube["site"].values, "time": cube["time"].values},
            ("site", "time"),
        )
        for one in evidence.predictions.values():
            values = one[target].reset_coords(drop=True).transpose("site", "time")
            mask &= values.reindex(site=mask["site"], time=mask["time"]).notnull().compute()
        masks.append(mask)
    return xr.concat(masks, xr.DataArray(list(evidence.targets), dims="target", name="target")).transpose(..., "target")


def published_section(evidence: Evidence) -> Section:
    """Return the section with published scores beside those of this evaluation."""
    title = "Published scores"
    tables: list[Table] = []
    figures: list[Figure] = []
    for target in evidence.targets:
        rows = published_rows(evidence, target)
        if not len(rows) or (rows["source"] == "this evaluation").all():
            continue
        columns = [
            Column("source", "source"),
            Column("model", "model"),
            Column("group", "class"),
            Column("score", "score"),
            Column("value", "value", ".3f"),
            Column("n", "towers", ",d"),
            Column("aggregation", "aggregation"),
            Column("split", "split"),
            Column("mask", "row mask"),
            Column("alike", "comparable"),
            Column("reason", "remark", "long"),
        ]
        shown = rows.assign(alike=np.where(rows["comparable"], "yes", "no"))
        tables.append(Table(f"published-{slug(target)}", f"{target}: published scores", shown, columns, target))
        whole = rows[(rows["group"] == "all") & (rows["score"] == "rmse")]
        figures += [_figure(whole, target)] if (whole["source"] != "this evaluation").any() else []
    if not tables:
        return Section(
            "published", title, absent="Not shown: no published score is of these fluxes and this time step."
        )
    text = (
        "Scores of other studies can be compared only if the flux, the time step, the test towers, the row mask and "
        "the aggregation are the same; the last column names what differs. Of this evaluation, the model with the "
        "highest NSE is shown.",
    )
    return Section("published", title, text, tuple(figures), tuple(tables))


def published_rows(evidence: Evidence, target: str) -> pd.DataFrame:
    """Return the scores of the best model, and the published ones of the same flux, time step and classes."""
    by = [None, "igbp"] if evidence.has_coordinate("igbp") else [None]
    split = evidence.split_kind or None
    pooled = [evidence.scores(name) for name in by]
    tables = [_best(evidence, pd.concat(pooled, ignore_index=True), target, pooled[0].attrs)]
    try:
        means = site_mean_table(evidence.sums, clusters=evidence.clusters, draws=100)
        tables.append(_best(evidence, means, target, means.attrs))
    except ConfigError:  # no tower has enough scored time steps for means over towers
        pass
    parts = [beside_published(table, split=split, scores=("nse", "rmse")) for table in tables]
    published = [part[part["source"] != "this evaluation"] for part in parts]
    keys = ["source", "table", "group", "model", "score"]
    joined = pd.concat(published, ignore_index=True).sort_values("comparable", ascending=False, kind="stable")
    joined = joined.drop_duplicates([key for key in keys if key in joined])
    ours = [part[part["source"] == "this evaluation"] for part in parts]
    both = pd.concat([*ours, joined], ignore_index=True).drop_duplicates(ignore_index=True)
    # Scores of one class are next to each other, those of this evaluation first.
    order = both.assign(_score=both["score"], _whole=both["group"] != "all", _group=both["group"])
    return both.loc[order.sort_values(["_score", "_whole", "_group"], kind="stable").index].reset_index(drop=True)


def _best(evidence: Evidence, table: pd.DataFrame, target: str, attrs: dict) -> pd.DataFrame:
    """Return the rows of the best model of a flux, with the attributes of a table of scores."""
    out = table[(table["target"] == target) & (table["model"] == evidence.best[target])]
    out.attrs = dict(attrs)
    return out


def _figure(rows: pd.DataFrame, target: str) -> Figure:
    return Figure(
        f"published-{slug(target)}",
        f"{target}: RMSE of this evaluation and of published models; grey: not comparable.",
        f"Bars of the RMSE of published models and of this evaluation for {target}.",
        lambda: plot_published(rows, target=target, score="rmse"),
        target,
        wide=True,
    )
