"""Sections on how models behave: scatter, cycles, differences between years, intervals, carbon, applicability."""

from __future__ import annotations

import pandas as pd

from fluxcube.evaluation.applicability_error import applicability_error
from fluxcube.evaluation.carbon import carbon_closure
from fluxcube.evaluation.density import density
from fluxcube.evaluation.interannual import interannual, interannual_summary
from fluxcube.evaluation.reliability import reliability
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Section, Table


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
                f"density-{_name(target)}",
                f"{target}: regression of predictions on observations",
                rows,
                columns,
                target,
            )
        )
    text = "A slope below 1 means that a model predicts too small a range: high fluxes too low and low ones too high."
    return Section("density", "Predictions against observations", (text,), tables=tuple(tables))


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
        tables.append(Table(f"interannual-{_name(target)}", caption, rows, columns, target, latex=True))
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
            Table(f"reliability-{_name(target)}", f"{target}: coverage and width of intervals", rows, columns, target)
        )
    text = (
        "Intervals are reliable if they contain as many observations as their nominal coverage; of two reliable models "
        "the one with narrower intervals is better. CRPS is the continuous ranked probability score; the MAE is what "
        "it would be without a spread.",
    )
    return Section("reliability", title, text, tables=tuple(tables))


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
    return Section("carbon", title, text, tables=(out,))


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
        tables.append(Table(f"applicability-{_name(target)}", caption, rows, columns, target))
    text = (
        "Dissimilarity is the distance of the inputs of a day from the nearest training day. If it is useful, errors "
        "grow with it, more than the spread of the observations does.",
    )
    return Section("applicability", title, text, tables=tuple(tables))


def _name(target: str) -> str:
    return target.lower().replace("_", "-")
