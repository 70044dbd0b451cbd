"""Sections on scores: rows, all towers and classes, time scales, drought and heat, classes without training towers."""

from __future__ import annotations

import numpy as np

from fluxcube.evaluation.skill import MIN_SITES, class_means
from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.points import plot_subsets
from fluxcube.plotting.scorebars import plot_differences
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, score_columns, slug
from fluxcube.reports.tables import interval_note, rows_of, wide_table, with_intervals
from fluxcube.tabletext import counted

#: Groups of the tables of scores, and the headings of their columns.
_GROUPS = {"igbp": "IGBP class", "climate": "climate", "continent": "continent", "season": "local season"}


def rows_section(evidence: Evidence) -> Section:
    """Return the section on the rows: which towers and time steps are scored, and how many rows each step removes."""
    mask = str(evidence.sums.attrs.get("row_mask", ""))
    places = {target: evidence.sums.places[target] for target in evidence.targets}
    n_sites = {target: int((evidence.sums.moments[target].n.sum((1, 2)) > 0).sum()) for target in places}
    time = evidence.cube["time"].values
    span = f"{str(time[0])[:10]} to {str(time[-1])[:10]}" if len(time) else "no time step"
    text = [
        f"Scored are {', '.join(f'{t} at ' + counted(n, 'tower') for t, n in n_sites.items())}; time axis {span}, "
        f"{evidence.resolution.name} values.",
        f"Row mask: {mask}. Every model is scored on the same rows.",
        f"Split: {evidence.split}."
        if evidence.split
        else "Split: not recorded in the predictions; pass it as `split`.",
        f"Seeds: {_seeds(evidence)}",
        f"Weather that drives the models: {_drivers(evidence)}",
    ]
    if evidence.left_out:
        text.append(f"Not scored, since not every model predicts them: {', '.join(evidence.left_out)}.")
    text += _cells(evidence)
    columns = [
        Column("target", "flux"),
        Column("step", "step"),
        Column("n", evidence.steps, ",d"),
        Column("removed", "removed by the step", ",d"),
        Column("n_sites", "towers", ",d"),
    ]
    table = Table("rows", "Rows that each step leaves and removes", evidence.removed, columns, latex=True)
    return Section("rows", "Rows: what is scored", tuple(text), tables=(table,))


def _cells(evidence: Evidence) -> list[str]:
    """Return a sentence on the cells of maps that were sampled at the towers, for each map."""
    out = []
    for model, data in evidence.predictions.items():
        if "cell_distance" in data.variables:
            km = np.asarray(data["cell_distance"].values, float)
            known = km[np.isfinite(km)]
            if known.size:
                out.append(
                    f"{model} is sampled from maps: centres of cells are {np.median(known):.1f} km from the towers in "
                    f"the median, {known.max():.1f} km at most; {km.size - known.size} towers have no cell."
                )
    return out


def _seeds(evidence: Evidence) -> str:
    parts = []
    for model in evidence.models:
        seeds = sorted({record["seed"] for record in evidence.records.get(model, ()) if record.get("seed") is not None})
        members = evidence.predictions[model].attrs.get("ensemble_members")
        if seeds:
            parts.append(f"{model} {', '.join(map(str, seeds))}")
        elif members is not None:
            parts.append(f"{model} mean of {int(members)} members")
    return "; ".join(parts) + "." if parts else "not recorded in the predictions."


def _drivers(evidence: Evidence) -> str:
    """Return the source of the weather of each model, as its predictions record it."""
    found = {model: str(evidence.predictions[model].attrs.get("drivers", "tower")) for model in evidence.models}
    return "; ".join(f"{model} {source}" for model, source in found.items()) + "."


def scores_section(evidence: Evidence) -> Section:
    """Return the section of Table 1: scores of all towers together, and of each class and climate, with intervals."""
    first: list[Table] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    for target in evidence.targets:
        whole, *others = _whole_tables(evidence, target)
        first.append(whole)
        tables += others
        figures += _score_figures(evidence, target)
    text = [
        "NSE is the Nash-Sutcliffe efficiency, 1 minus the ratio of squared errors to the variance of observations; "
        "RMSE is in the units of the flux; bias is prediction minus observation; corr² is the squared correlation. "
        f"Pooled scores use all {evidence.steps} of a group together, as Table 1 of the CarbonSense paper does; the "
        "median is that of the scores of single towers.",
        interval_note(evidence, evidence.scores()),
    ]
    return Section(
        "scores",
        "Scores of all towers and of each class",
        tuple(filter(None, text)),
        tuple(figures),
        tuple(tables),
        first=tuple(first),
    )


def _whole_tables(evidence: Evidence, target: str) -> list[Table]:
    """Return the tables of one flux: all towers, classes in the form of the paper, means over classes, and others."""
    whole = rows_of(evidence.scores(), target)
    units = evidence.units(target)
    scores = ("nse", "rmse", "nse_site_median", "nse_diff", "rmse_diff", "mae", "bias", "corr2")
    columns = [Column("model", "model"), *score_columns(scores, whole, units=units)]
    counts = [Column("n", evidence.steps, ",d"), Column("n_sites", "towers", ",d")]
    note = f"Differences are from {evidence.against}." if "nse_diff" in whole else ""
    name = slug(target)
    out = [Table(f"scores-{name}", f"{target}: all towers together", whole, columns + counts, target, note, latex=True)]
    for by, title in _GROUPS.items():
        if evidence.has_groups(by):
            out += _group_tables(evidence, target, by, title)
    if evidence.has_coordinate("igbp"):
        out += _mean_table(evidence, target)
    return out


def _group_tables(evidence: Evidence, target: str, by: str, title: str) -> list[Table]:
    """Return one table of NSE and one of RMSE, with a row for each group and a column for each model."""
    rows = rows_of(evidence.scores(by), target)
    rows = rows[rows["n"] > 0]
    few = "counted" in rows and not rows["counted"].all()
    note = f"Rows of fewer than {MIN_SITES} towers are shown, but they say little." if few else ""
    out = []
    for score, heading in (("nse", "NSE"), ("rmse", f"RMSE ({evidence.units(target)})")):
        columns = [Column("group", title), Column("n_sites", "towers", ",d"), Column("n", evidence.steps, ",d")]
        wide = wide_table(rows, score, evidence.models)
        bounds = f"{score}_low" in rows
        columns += [
            Column(f"{m} {score}", m, ".3f", *((f"{m} {score}_low", f"{m} {score}_high") if bounds else ("", "")))
            for m in evidence.models
        ]
        caption = f"{target}: {heading} by {title}"
        out.append(Table(f"{score}-{by}-{slug(target)}", caption, wide, columns, target, note, latex=by == "igbp"))
    return out


def _mean_table(evidence: Evidence, target: str) -> list[Table]:
    means = class_means(rows_of(evidence.scores("igbp"), target))
    if not len(means):
        return []
    columns = [
        Column("model", "model"),
        *score_columns(("nse", "rmse", "nse_site_median"), means, units=evidence.units(target)),
    ]
    columns.append(Column("n_classes", "classes", ",d"))
    caption = f"{target}: mean over classes of {MIN_SITES} towers and more, each with the same weight"
    return [Table(f"class-means-{slug(target)}", caption, means, columns, target)]


def _score_figures(evidence: Evidence, target: str) -> list[Figure]:
    out = []
    whole, name = rows_of(evidence.scores(), target), slug(target)
    if len(evidence.models) > 1 and "nse_diff" in whole and whole["nse_diff"].notna().any():
        caption = f"{target}: NSE of each model minus that of {evidence.against}"
        out.append(
            Figure(
                f"differences-{name}",
                f"{with_intervals(caption, whole, 'nse_diff')}.",
                f"Differences of NSE from {evidence.against} for {target}, one dot for each model.",
                lambda: plot_differences(whole, title=target),
                target,
            )
        )
    if evidence.has_coordinate("igbp"):
        out += _group_figure(evidence, target, "igbp", "IGBP class")
    if evidence.has_coordinate("koppen"):
        out += _group_figure(evidence, target, "climate", "climate")
    return out


def _group_figure(evidence: Evidence, target: str, by: str, title: str) -> list[Figure]:
    """Return the NSE of each group as points with intervals; groups of few towers only if there are no others."""
    rows = rows_of(evidence.scores(by), target)
    many = rows[rows["n_sites"] >= MIN_SITES]
    drawn = many if many["nse"].notna().any() else rows
    if not drawn["nse"].notna().any():
        return []
    return [
        Figure(
            f"{by}-{slug(target)}",
            f"{target}: pooled NSE by {title}. Arrows are values below −1.",
            f"Points of the NSE of every model for {target}, grouped by {title}.",
            lambda: plot_subsets(drawn, target=target, styles=model_styles(evidence.models)),
            target,
            wide=True,
        )
    ]
