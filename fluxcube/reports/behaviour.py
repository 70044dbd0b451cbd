"""Sections on how models behave: scatter, cycles, differences between years, intervals, carbon, applicability."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from fluxcube.evaluation.applicability_error import applicability_error
from fluxcube.evaluation.carbon import carbon_closure
from fluxcube.evaluation.cycles import CycleKind, mean_cycles
from fluxcube.evaluation.density import density
from fluxcube.evaluation.interannual import interannual, interannual_summary
from fluxcube.evaluation.reliability import reliability
from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.curves import plot_applicability_error, plot_cycles, plot_reliability
from fluxcube.plotting.towers import plot_closure, plot_density
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Maximum number of panels of mean cycles.
_PANELS = 12


def density_section(evidence: Evidence) -> Section:
    """Return the section on the scatter of predictions about observations."""
    found = density(evidence.rows)
    tables = []
    for target in evidence.targets:
        one = found.sel(target=target)
        rows = pd.DataFrame({name: one[name].values for name in ("slope", "intercept", "n", "nse", "bias")})
        rows.insert(0, "model", [str(model) for model in one["model"].values])
        units = evidence.units(target)
        columns = [
            Column("model", "model"),
            Column("slope", "slope", ".3f"),
            Column("intercept", f"intercept ({units})", ".3f"),
            Column("nse", "NSE", ".3f"),
            Column("bias", f"bias ({units})", ".3f"),
            Column("n", evidence.steps, ",d"),
        ]
        tables.append(
            Table(
                f"density-{slug(target)}",
                f"{target}: regression of predictions on observations",
                rows,
                columns,
                target,
            )
        )
    text = ["A slope below 1 means that a model predicts too small a range: high fluxes too low and low ones too high."]
    if len(evidence.models) > 1:
        text.append(
            "Figures show the model with the highest NSE and, if that is another one, the reference model; tables "
            "contain all models."
        )
    figures = [figure for target in evidence.targets for figure in _density_figures(evidence, found, target)]
    return Section("density", "Predictions against observations", tuple(text), tuple(figures), tuple(tables))


def _density_figures(evidence: Evidence, found: xr.Dataset, target: str) -> list[Figure]:
    """Return the density of the best model and of the reference model."""
    best = evidence.best[target]
    models = [model for model in dict.fromkeys([best, evidence.against or best])]
    drawn = [model for model in models if int(found["count"].sel(target=target, model=model).sum())]
    most = int(found["count"].sel(target=target, model=models).max())
    return [
        Figure(
            f"density-{evidence.models.index(model) + 1}-{slug(target)}",
            f"{target}: number of {evidence.steps} by observed value and value predicted by {model}.",
            f"Density of the predictions of {model} against observations of {target}, with the regression line.",
            functools.partial(plot_density, found, target=target, model=model, most=most),
            target,
        )
        for model in drawn
    ]


def cycles_section(evidence: Evidence) -> Section:
    """Return the section on mean diurnal and seasonal cycles of each class."""
    title = "Diurnal and seasonal cycles"
    kinds: list[CycleKind] = ["diurnal", "seasonal"] if evidence.resolution.name == "hourly" else ["seasonal"]
    by = "igbp" if evidence.has_coordinate("igbp") else None
    figures = []
    for kind in kinds:
        table = mean_cycles(evidence.rows, kind=kind, by=by)
        for target in evidence.targets:
            rows = table[table["target"] == target]
            figures += [_cycle_figure(evidence, rows, kind, target)] if len(rows) else []
    if not figures:
        return Section("cycles", title, absent="Not shown: no tower has a complete cycle of scored values.")
    text = (
        "Mean over towers with a complete cycle, each with the same weight; the band is the range of the observations "
        "from the 10th to the 90th percentile over towers. Hours are local solar time; months of southern towers are "
        "shifted by half a year.",
    )
    return Section("cycles", title, text, tuple(figures))


def _cycle_figure(evidence: Evidence, rows: pd.DataFrame, kind: str, target: str) -> Figure:
    sizes = rows.drop_duplicates("group").set_index("group")["n_sites"].sort_values(ascending=False, kind="stable")
    groups = ["all", *[str(group) for group in sizes.index if group != "all"]][:_PANELS]
    return Figure(
        f"cycle-{kind}-{slug(target)}",
        f"{target}: mean {kind} cycle of all towers, and of classes in order of their number of towers.",
        f"Mean {kind} cycles of {target}, observed and by every model, for {', '.join(groups)}.",
        lambda: plot_cycles(rows, target=target, groups=groups, styles=model_styles(evidence.models))[0],
        target,
        wide=True,
    )


def interannual_section(evidence: Evidence) -> Section:
    """Return the section on differences between years and trends."""
    title = "Differences between years"
    summary = interannual_summary(interannual(evidence.rows))
    if not len(summary):
        return Section("interannual", title, absent="Not shown: no tower has three years with enough scored months.")
    tables = []
    for target in evidence.targets:
        rows = summary[summary["target"] == target]
        if not len(rows):
            continue
        columns = [
            Column("model", "model"),
            Column("n_sites", "towers", ",d"),
            Column("sign_agreement", "years with the right sign", ".2f", "sign_agreement_p10", "sign_agreement_p90"),
            Column("amplitude_ratio", "amplitude ratio", ".2f", "amplitude_ratio_p10", "amplitude_ratio_p90"),
            Column("corr", "correlation", ".2f", "corr_p10", "corr_p90"),
            Column("rmse", f"RMSE ({evidence.units(target)})", ".3f", "rmse_p10", "rmse_p90"),
            Column("n_trends", "towers with a trend", ",d"),
            Column("trend_sign_agreement", "trends with the right sign", ".2f"),
        ]
        caption = f"{target}: annual anomalies, median over towers [10th, 90th percentile]"
        tables.append(Table(f"interannual-{slug(target)}", caption, rows, columns, target, latex=True))
    text = (
        "Annual anomalies without the mean seasonal cycle, at towers with at least 3 years. Half of the signs agree by "
        "chance; an amplitude ratio below 1 means that the model varies too little between years. Trends are Theil-Sen "
        "slopes of at least 5 years.",
    )
    return Section("interannual", title, text, tables=tuple(tables))


def reliability_section(evidence: Evidence) -> Section:
    """Return the section on the reliability and sharpness of intervals."""
    title = "Reliability and sharpness of intervals"
    table = reliability(evidence.rows)
    if not len(table):
        return Section(
            "reliability",
            title,
            absent="Not shown: no prediction has a standard deviation (NAME_std). Calibrate a run with "
            "`fluxcube calibrate`, and predict with uncertainty.",
        )
    tables = []
    for target in evidence.targets:
        rows = table[table["target"] == target]
        if not len(rows):
            continue
        units = evidence.units(target)
        columns = [
            Column("model", "model"),
            Column("level", "nominal coverage", ".0%"),
            Column("coverage", "coverage", ".1%"),
            Column("width", f"mean width ({units})", ".2f"),
            Column("crps", f"CRPS ({units})", ".3f"),
            Column("mae", f"MAE ({units})", ".3f"),
            Column("n", evidence.steps, ",d"),
        ]
        tables.append(
            Table(f"reliability-{slug(target)}", f"{target}: coverage and width of intervals", rows, columns, target)
        )
    text = (
        "Intervals are reliable if they contain as many observations as their nominal coverage; of two reliable models "
        "the one with narrower intervals is better. CRPS is the continuous ranked probability score; the MAE is what "
        "it would be without a spread.",
    )
    figures = [
        Figure(
            f"reliability-{slug(target)}",
            f"{target}: coverage of intervals against their level, and their mean width.",
            f"Coverage and width of the intervals of every model for {target}.",
            functools.partial(_draw_reliability, evidence, table, target),
            target,
            wide=True,
        )
        for target in dict.fromkeys(table["target"])
    ]
    return Section("reliability", title, text, tuple(figures), tuple(tables))


def _draw_reliability(evidence: Evidence, table: pd.DataFrame, target: str) -> Axes:
    return plot_reliability(table, target=target, styles=model_styles(evidence.models))[0]


def carbon_section(evidence: Evidence) -> Section:
    """Return the section on the closure of the carbon balance."""
    title = "Carbon closure: NEE − (RECO − GPP)"
    table = carbon_closure(evidence.rows)
    if not len(table):
        return Section(
            "carbon",
            title,
            absent="Not shown: the models do not all predict NEE, GPP and RECO of one partitioning.",
        )
    rows = table[table["n"] > 0]
    units = evidence.units("NEE")
    tolerance = float(rows["tolerance"].iloc[0]) if len(rows) else 0.5
    columns = [
        Column("partition", "partitioning"),
        Column("group", "class"),
        Column("model", "model"),
        Column("mean", f"mean ({units})", "+.3f"),
        Column("median_abs", "median of |residual|", ".3f"),
        Column("p90_abs", "90th percentile", ".3f"),
        Column("share_within", f"within {tolerance:g}", ".1%"),
        Column("n_sites", "towers", ",d"),
        Column("n", evidence.steps, ",d"),
    ]
    text = (
        "Night-time partitioning closes by construction in the observations. A model that computes RECO as NEE + GPP "
        "always closes; one that estimates the three fluxes separately need not.",
    )
    out = Table("carbon", "Residual of the carbon balance", rows, columns)
    figures = [
        Figure(
            f"carbon-{slug(str(partition).replace(' ', '-'))}",
            f"{partition} partitioning: median and 90th percentile of the residual by class.",
            f"Points of the median residual of the carbon balance by class, {partition} partitioning.",
            functools.partial(_draw_closure, evidence, rows, str(partition)),
            wide=True,
        )
        for partition in dict.fromkeys(rows["partition"])
    ]
    return Section("carbon", title, text, tuple(figures), (out,))


def _draw_closure(evidence: Evidence, rows: pd.DataFrame, partition: str) -> Axes:
    return plot_closure(rows, partition=partition, styles=model_styles(evidence.models))


def applicability_section(evidence: Evidence) -> Section:
    """Return the section on errors where inputs are unlike those of the training."""
    title = "Applicability against error"
    table = applicability_error(evidence.rows)
    if not len(table):
        return Section(
            "applicability",
            title,
            absent="Not shown: no prediction has a dissimilarity to training days; predict with applicability=True.",
        )
    tables = []
    for target in evidence.targets:
        rows = table[table["target"] == target]
        if not len(rows):
            continue
        units = evidence.units(target)
        columns = [
            Column("model", "model"),
            Column("decile", "decile", "d"),
            Column("dissimilarity", "dissimilarity (median)", ".3f", "low", "high"),
            Column("rmse", f"RMSE ({units})", ".3f"),
            Column("bias", f"bias ({units})", "+.3f"),
            Column("observed_std", f"std of observations ({units})", ".3f"),
            Column("n_sites", "towers", ",d"),
            Column("n", evidence.steps, ",d"),
        ]
        caption = f"{target}: error by decile of dissimilarity"
        tables.append(Table(f"applicability-{slug(target)}", caption, rows, columns, target))
    text = (
        "Dissimilarity is the distance of the inputs of a day from the nearest training day. If it is useful, errors "
        "grow with it, more than the spread of the observations does.",
    )
    figures = [
        Figure(
            f"applicability-{slug(target)}",
            f"{target}: RMSE in deciles of dissimilarity; thin: standard deviation of the observations.",
            f"RMSE of every model for {target} in deciles of the dissimilarity to training days.",
            functools.partial(_draw_applicability, evidence, table, target),
            target,
        )
        for target in dict.fromkeys(table["target"])
    ]
    return Section("applicability", title, text, tuple(figures), tuple(tables))


def _draw_applicability(evidence: Evidence, table: pd.DataFrame, target: str) -> Axes:
    return plot_applicability_error(table, target=target, styles=model_styles(evidence.models))
