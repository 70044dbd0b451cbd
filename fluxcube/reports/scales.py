"""Sections on scores at time scales, and in drought, heat and other extremes."""

from __future__ import annotations

import pandas as pd

from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.points import plot_scales, plot_subsets
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, slug
from fluxcube.reports.tables import interval_note, rows_of, wide_table


def scales_section(evidence: Evidence) -> Section:
    """Return the section on time scales."""
    tables = [_scale_table(evidence, target, "nse", "NSE") for target in evidence.targets]
    tables += [_scale_table(evidence, t, "rmse", f"RMSE ({evidence.units(t)})") for t in evidence.targets]
    figures = [figure for target in evidence.targets for figure in _scale_figures(evidence, target)]
    text = (
        "A model may predict seasons well and differences between years badly. Days need half of their hours, weeks 4 "
        "days, months 15, years 183; the seasonal scale is the mean of each day of the year over at least 2 years, the "
        "anomaly scale what days deviate from it, the interannual scale yearly means minus those of the tower, and the "
        "spatial scale the means of the towers.",
        interval_note(evidence, evidence.scales),
    )
    return Section("scales", "Error by time scale", tuple(filter(None, text)), tuple(figures), tuple(tables))


def _scale_figures(evidence: Evidence, target: str) -> list[Figure]:
    rows = rows_of(evidence.scales, target)
    if not rows["nse"].notna().any():
        return []
    return [
        Figure(
            f"scales-{slug(target)}",
            f"{target}: NSE at each time scale.",
            f"Points of the NSE of every model for {target} at each time scale.",
            lambda: plot_scales(rows, target=target, styles=model_styles(evidence.models)),
            target,
            wide=True,
        )
    ]


def _scale_table(evidence: Evidence, target: str, score: str, heading: str) -> Table:
    rows = rows_of(evidence.scales, target)
    bounds = f"{score}_low" in rows
    columns = [Column("group", "scale"), Column("n_sites", "towers", ",d"), Column("n", "values", ",d")]
    columns += [
        Column(f"{m} {score}", m, ".3f", *((f"{m} {score}_low", f"{m} {score}_high") if bounds else ("", "")))
        for m in evidence.models
    ]
    wide = wide_table(rows, score, evidence.models)
    return Table(
        f"{score}-scales-{slug(target)}", f"{target}: {heading} by time scale", wide, columns, target, latex=True
    )


def subsets_section(evidence: Evidence) -> Section:
    """Return the section on drought, heat and other extremes of each tower."""
    title = "Drought, heat and transitions"
    found = evidence.subsets
    if isinstance(found, str):
        return Section("subsets", title, absent=f"Not shown: {found}")
    figures, tables = [], []
    for target in evidence.targets:
        rows = rows_of(found, target)
        if not (rows["n"] > 0).any():
            continue
        columns = [Column("group", "subset"), Column("n_sites", "towers", ",d"), Column("n", evidence.steps, ",d")]
        bounds = "nse_low" in rows
        columns += [
            Column(f"{m} nse", m, ".3f", *((f"{m} nse_low", f"{m} nse_high") if bounds else ("", "")))
            for m in evidence.models
        ]
        wide = wide_table(rows[rows["n"] > 0], "nse", evidence.models)
        tables.append(Table(f"subsets-{slug(target)}", f"{target}: NSE by subset", wide, columns, target, latex=True))
        figures += [_subset_figure(evidence, rows, target)] if rows["nse"].notna().any() else []
    text = (
        "Subsets are relative to the tower: heat, cold and dry air are beyond the 95th (cold: 5th) percentile of the "
        "temperature or vapour pressure deficit of its daylight hours, or of its days in daily data; a dry month is "
        "above the 90th percentile of the mean vapour pressure deficit of 30 days.",
    )
    return Section("subsets", title, text, tuple(figures), tuple(tables))


def _subset_figure(evidence: Evidence, rows: pd.DataFrame, target: str) -> Figure:
    return Figure(
        f"subsets-{slug(target)}",
        f"{target}: pooled NSE in extremes and transitions.",
        f"Points of the NSE of every model for {target}, grouped by subset.",
        lambda: plot_subsets(rows, target=target, styles=model_styles(evidence.models)),
        target,
        wide=True,
    )
