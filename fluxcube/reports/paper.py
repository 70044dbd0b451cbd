"""Sections on classes without training towers, and on means over towers with the figures of the paper on TAM-RL."""

from __future__ import annotations

import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores
from fluxcube.plotting.bars import plot_class_errors
from fluxcube.plotting.sites import plot_class_changes, plot_site_changes
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, score_columns, slug
from fluxcube.reports.tables import rows_of, with_intervals


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
        one = rows_of(rows, target)
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
        caption = with_intervals(f"{target}: mean RMSE over the towers of each class", classes, "rmse")
        out.append(
            Figure(
                f"paper-3-{name}",
                f"{caption} (form of Figure 3).",
                f"Bars of the mean RMSE of every model for {target}, for all towers and each IGBP class.",
                lambda: plot_class_errors(classes, targets=[target])[0],
                target,
                wide=True,
            )
        )
    others = [model for model in evidence.models if model != evidence.against]
    if not evidence.against or not others or not evidence.has_coordinate("igbp"):
        return out
    changes, model = rows[rows["by"].isin(["all", "igbp"])], evidence.best[target]
    model = model if model != evidence.against else others[-1]
    caption = f"{target}: change of the mean RMSE of each class from that of {evidence.against}"
    out.append(
        Figure(
            f"paper-4-{name}",
            f"{with_intervals(caption, changes, 'rmse_change')} (form of Figure 4).",
            f"Points of the change of RMSE of every class from {evidence.against} for {target}.",
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
