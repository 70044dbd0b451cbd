"""Sections on scores: rows, all towers and classes, time scales, drought and heat, classes without training towers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores
from fluxcube.evaluation.skill import MIN_SITES, class_means
from fluxcube.plotting.bars import plot_class_errors
from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.maps import plot_differences
from fluxcube.plotting.points import plot_scales, plot_subsets
from fluxcube.plotting.sites import plot_class_changes, plot_site_changes
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, score_columns, slug

#: Groups of the tables of scores, and the headings of their columns.
_GROUPS = {"igbp": "IGBP class", "climate": "climate", "continent": "continent", "season": "local season"}
_INTERVAL_NOTE = (
    "Brackets contain 95 % intervals from {draws} draws of whole clusters of towers (towers within {km:g} km are one "
    "cluster); differences use the same draws for both models. Intervals describe other test towers, not other seeds. "
    "There is no interval for fewer than 3 clusters."
)


def interval_note(evidence: Evidence) -> str:
    """Return a sentence on the intervals of the tables; "" if there are none."""
    return _INTERVAL_NOTE.format(draws=evidence.draws, km=evidence.clusters) if evidence.draws else ""


def rows_section(evidence: Evidence) -> Section:
    """Return the section on the rows: which towers and time steps are scored, and how many rows each step removes."""
    mask = str(evidence.sums.attrs.get("row_mask", ""))
    places = {target: evidence.sums.places[target] for target in evidence.targets}
    n_sites = {target: int((evidence.sums.moments[target].n.sum((1, 2)) > 0).sum()) for target in places}
    time = evidence.cube["time"].values
    span = f"{str(time[0])[:10]} to {str(time[-1])[:10]}" if len(time) else "no time step"
    text = [
        f"Scored are {', '.join(f'{t} at {n} towers' for t, n in n_sites.items())}; time axis {span}, "
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
        interval_note(evidence),
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
    whole = _of(evidence.scores(), target)
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
    rows = _of(evidence.scores(by), target)
    rows = rows[rows["n"] > 0]
    few = "counted" in rows and not rows["counted"].all()
    note = f"Classes of fewer than {MIN_SITES} towers are shown, but they say little." if few else ""
    out = []
    for score, heading in (("nse", "NSE"), ("rmse", f"RMSE ({evidence.units(target)})")):
        columns = [Column("group", title), Column("n_sites", "towers", ",d"), Column("n", evidence.steps, ",d")]
        wide = _wide(rows, score, evidence.models)
        bounds = f"{score}_low" in rows
        columns += [
            Column(f"{m} {score}", m, ".3f", *((f"{m} {score}_low", f"{m} {score}_high") if bounds else ("", "")))
            for m in evidence.models
        ]
        caption = f"{target}: {heading} by {title}"
        out.append(Table(f"{score}-{by}-{slug(target)}", caption, wide, columns, target, note, latex=by == "igbp"))
    return out


def _wide(rows: pd.DataFrame, score: str, models: Sequence[str]) -> pd.DataFrame:
    """Return a row for each group, with a column for the score of each model and for its bounds."""
    out = rows.drop_duplicates("group")[["group", "n_sites", "n"]].reset_index(drop=True)
    for model in models:
        one = rows[rows["model"] == model].set_index("group").reindex(out["group"])
        for name in (score, f"{score}_low", f"{score}_high"):
            if name in one:
                out[f"{model} {name}"] = one[name].to_numpy()
    return out


def _mean_table(evidence: Evidence, target: str) -> list[Table]:
    means = class_means(_of(evidence.scores("igbp"), target))
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
    whole, name = _of(evidence.scores(), target), slug(target)
    if len(evidence.models) > 1 and "nse_diff" in whole and whole["nse_diff"].notna().any():
        out.append(
            Figure(
                f"differences-{name}",
                f"{target}: NSE of each model minus that of {evidence.against}, with 95 % intervals.",
                f"Differences of NSE from {evidence.against} for {target}, one line with its interval for each model.",
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
    rows = _of(evidence.scores(by), target)
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
        interval_note(evidence),
    )
    return Section("scales", "Error by time scale", tuple(filter(None, text)), tuple(figures), tuple(tables))


def _scale_figures(evidence: Evidence, target: str) -> list[Figure]:
    rows = _of(evidence.scales, target)
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
    rows = _of(evidence.scales, target)
    bounds = f"{score}_low" in rows
    columns = [Column("group", "scale"), Column("n_sites", "towers", ",d"), Column("n", "values", ",d")]
    columns += [
        Column(f"{m} {score}", m, ".3f", *((f"{m} {score}_low", f"{m} {score}_high") if bounds else ("", "")))
        for m in evidence.models
    ]
    wide = _wide(rows, score, evidence.models)
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
        rows = _of(found, target)
        if not (rows["n"] > 0).any():
            continue
        columns = [Column("group", "subset"), Column("n_sites", "towers", ",d"), Column("n", evidence.steps, ",d")]
        bounds = "nse_low" in rows
        columns += [
            Column(f"{m} nse", m, ".3f", *((f"{m} nse_low", f"{m} nse_high") if bounds else ("", "")))
            for m in evidence.models
        ]
        wide = _wide(rows[rows["n"] > 0], "nse", evidence.models)
        tables.append(Table(f"subsets-{slug(target)}", f"{target}: NSE by subset", wide, columns, target, latex=True))
        figures += [_subset_figure(evidence, rows, target)] if rows["nse"].notna().any() else []
    text = (
        "Subsets are relative to the tower: heat, cold and dry air are beyond the 95th (cold: 5th) percentile of the "
        "temperature or vapour pressure deficit of its daylight hours; a dry month is above the 90th percentile of the "
        "mean vapour pressure deficit of 30 days.",
    )
    return Section("subsets", title, text, tuple(figures), tuple(tables))


def _subset_figure(evidence: Evidence, rows: pd.DataFrame, target: str) -> Figure:
    return Figure(
        f"subsets-{slug(target)}",
        f"{target}: pooled NSE in extreme hours and transitions.",
        f"Points of the NSE of every model for {target}, grouped by subset.",
        lambda: plot_subsets(rows, target=target, styles=model_styles(evidence.models)),
        target,
        wide=True,
    )


def zero_shot_section(evidence: Evidence) -> Section:
    """Return the section on towers of classes that no training tower of the model has."""
    title = "Classes without training towers"
    rows = zero_shot_rows(evidence)
    if rows is None:
        return Section(
            "zero-shot",
            title,
            absent="Not shown: the training towers of the models, or the classes of towers, are not known; pass the "
            "runs, or the split of the predictions.",
        )
    if not len(rows):
        return Section("zero-shot", title, absent="Every scored tower is of a class that the models were trained on.")
    tables = []
    for target in evidence.targets:
        one = _of(rows, target)
        if len(one):
            scores = score_columns(("nse", "rmse", "bias", "corr2"), one, units=evidence.units(target))
            columns = [Column("site", "tower", "site"), Column("igbp", "class"), Column("model", "model"), *scores]
            columns.append(Column("n", evidence.steps, ",d"))
            caption = f"{target}: towers of classes without training towers"
            tables.append(Table(f"zero-shot-{slug(target)}", caption, one, columns, target))
    text = "When such a tower was predicted, no training tower of the same fold had its IGBP class."
    return Section("zero-shot", title, (text,), tables=tuple(tables))


def zero_shot_rows(evidence: Evidence) -> pd.DataFrame | None:
    """Return the scores of towers whose class no training tower has; None if that is not known."""
    seen = next(iter(evidence.seen.values()), None)
    classes = evidence.classes
    if not seen or not classes:
        return None
    trained = {site: {classes.get(one, "") for one in towers} for site, towers in seen.items()}
    new = [site for site, known in trained.items() if classes.get(site) and classes[site] not in known]
    return evidence.sites[evidence.sites["site"].isin(new) & (evidence.sites["n"] > 0)]


def paper_section(evidence: Evidence) -> Section:
    """Return the section with the mean over towers and Figures 3 to 5 of the paper on TAM-RL."""
    title = "Means over towers, and Figures 3 to 5 of Rozanov et al. (2026)"
    groups = [by for by in ("igbp", "koppen") if evidence.has_coordinate(by)]
    try:
        means = pd.concat(
            [
                site_mean_table(
                    evidence.sums,
                    by=by,
                    clusters=evidence.clusters,
                    draws=max(100, evidence.draws),
                    seed=evidence.seed,
                    against=evidence.against or None,
                ).assign(by=by or "all")
                for by in (None, *groups)
            ]
        )
        sites = site_scores(evidence.sums)
    except ConfigError as error:  # no tower has enough scored time steps
        return Section("paper", title, absent=f"Not shown: {error}")
    tables = [_mean_over_sites(evidence, means, target) for target in evidence.targets]
    figures = [figure for target in evidence.targets for figure in _paper_figures(evidence, means, sites, target)]
    text = (
        "Every tower has the same weight, whatever the length of its record, as in arXiv:2603.09974; towers with fewer "
        "than 30 scored time steps are left out.",
    )
    return Section("paper", title, text, tuple(figures), tuple(tables))


def _mean_over_sites(evidence: Evidence, means: pd.DataFrame, target: str) -> Table:
    rows = means[(means["target"] == target) & (means["by"] == "all")]
    units = evidence.units(target)
    columns = [
        Column("model", "model"),
        Column("rmse", f"RMSE ({units})", ".3f", "rmse_low", "rmse_high"),
        Column("nse", "NSE", ".3f", "nse_low", "nse_high"),
        Column("corr2", "corr²", ".3f", "corr2_low", "corr2_high"),
        Column("nse_median", "NSE, median", ".3f"),
        Column("corr2_median", "corr², median", ".3f"),
        Column("n_sites", "towers", ",d"),
    ]
    return Table(f"site-means-{slug(target)}", f"{target}: means over towers", rows, columns, target, latex=True)


def _paper_figures(evidence: Evidence, means: pd.DataFrame, sites: pd.DataFrame, target: str) -> list[Figure]:
    name, out = slug(target), []
    rows = means[means["target"] == target]
    if evidence.has_coordinate("igbp"):
        classes = rows[rows["by"].isin(["all", "igbp"])]
        out.append(
            Figure(
                f"paper-3-{name}",
                f"{target}: mean RMSE over the towers of each class, with 95 % intervals (form of Figure 3).",
                f"Bars of the mean RMSE of every model for {target}, for all towers and each IGBP class.",
                lambda: plot_class_errors(classes, targets=[target])[0],
                target,
                wide=True,
            )
        )
    others = [model for model in evidence.models if model != evidence.against]
    if not others or not evidence.has_coordinate("igbp"):
        return out
    changes, model = rows[rows["by"].isin(["all", "igbp"])], evidence.best[target]
    model = model if model != evidence.against else others[-1]
    out.append(
        Figure(
            f"paper-4-{name}",
            f"{target}: change of RMSE and difference of NSE of each class from {evidence.against} (form of Figure 4).",
            f"Points of the change of RMSE and NSE of every class from {evidence.against} for {target}.",
            lambda: plot_class_changes(changes, targets=[target], models=others)[0],
            target,
        )
    )
    one = sites[sites["target"] == target]
    one.attrs = sites.attrs | {"against": evidence.against}
    out.append(
        Figure(
            f"paper-5-{name}",
            f"{target}: error of each tower by {model} against that by {evidence.against} (form of Figure 5).",
            f"Points of the RMSE of every tower by {model} against that by {evidence.against} for {target}.",
            lambda: plot_site_changes(one, model=model, targets=[target])[0],
            target,
        )
    )
    return out


def _of(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the rows of one flux, with the attributes of the table."""
    out = table[table["target"] == target].reset_index(drop=True)
    out.attrs = dict(table.attrs)
    return out
