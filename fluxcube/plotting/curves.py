"""Curves of models: mean cycles, reliability of intervals, errors by dissimilarity, ranks of sites and series.

Axes, files and styles are handled as in `fluxcube.plotting.points`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.plotting.canvas import (
    Style,
    figure_of,
    ink,
    new_axes,
    new_grid,
    new_panels,
    print_units,
    save_picture,
    styles_of,
)
from fluxcube.plotting.classes import chosen_names, group_labels, ordered_groups
from fluxcube.plotting.points import chosen_rows, score_label, title_and_legend
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OBSERVED = "observed"
_MONTHS = "JFMAMJJASOND"


def plot_cycles(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    groups: Sequence[str] | None = None,
    styles: Mapping[str, Style] | None = None,
    columns: int = 4,
) -> tuple[Axes, ...]:
    """Draw the mean diurnal or seasonal cycle of the observations and models, one panel for each group of sites.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.cycles.mean_cycles`.
    path : path, optional
        File to write; its ending selects the format.
    target : str, optional
        Flux to draw; required if the table contains several.
    groups : sequence of str, optional
        Groups to draw. Default: all in order of the number of sites.
    styles : mapping of str to Style, optional
        Style of each model. Default: that of its order in the table.
    columns : int
        Number of panels side by side.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        The band is the range from the 10th to the 90th percentile of the observations over sites.

    Raises
    ------
    UnknownNameError
        If a group is not in the table.
    ConfigError
        If the table does not contain the target, or is empty.
    """
    rows = chosen_rows(table, target, "mean")
    groups = chosen_names("group", groups, ordered_groups(rows))
    styles = styles_of(map(str, rows["model"]), styles)
    axes = new_grid(len(groups), columns, (2.6, 2.2))
    diurnal = rows["x"].min() == 0
    labels = dict(zip(groups, group_labels(rows, groups), strict=True))
    for ax, group in zip(axes, groups, strict=True):
        draw_cycle_panel(ax, rows[rows["group"] == group], styles, diurnal, labels[group])
    figure = axes[0].figure
    units = print_units(str(rows["units"].iloc[0]))
    figure.supylabel(f"{rows['target'].iloc[0]} ({units})", fontsize=9, color=ink())
    figure.supxlabel(
        "local solar hour" if diurnal else "month (half a year later in the south)", fontsize=9, color=ink()
    )
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), fontsize=8, frameon=False)
    save_picture(axes[0], path)
    return tuple(axes)


#: What the band of a cycle shows.
_BAND = "observed, 10th to 90th percentile of sites"


def draw_cycle_panel(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style], diurnal: bool, title: str) -> None:
    """Draw the mean cycle of one group: the observations with their range, and a line for each model."""
    for model, one in rows.groupby("model", sort=False):
        _draw_cycle(ax, one, styles[str(model)], str(model))
    ax.set_title(title, fontsize=9)
    ax.axhline(0, color=ink(), linewidth=0.5, alpha=0.6)
    ticks = np.arange(0, 25, 6) if diurnal else np.arange(1, 13)
    ax.set_xticks(ticks, [f"{x:d}" for x in ticks] if diurnal else list(_MONTHS), fontsize=8)
    ax.tick_params(axis="y", labelsize=8)


def _draw_cycle(ax: Axes, rows: pd.DataFrame, style: Style, model: str) -> None:
    x = rows["x"].to_numpy(float) + (0.5 if rows["x"].min() == 0 else 0.0)
    if model == _OBSERVED:
        ax.fill_between(x, rows["low"], rows["high"], color="#808080", alpha=0.2, linewidth=0, label=_BAND)
    width = 2.0 if model == _OBSERVED else 1.3
    ax.plot(x, rows["mean"], linestyle=style.line, color=style.color, linewidth=width, label=model)


def plot_reliability(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Draw the coverage of prediction intervals against their level, and beside it their mean width.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.reliability.reliability`; the group "all" is drawn.
    path, target, styles, title
        As in `fluxcube.plotting.points.plot_scales`.
    axes : sequence of two matplotlib.axes.Axes, optional
        Axes to draw on. Default: those of a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Models below the diagonal of the first panel have intervals that are too narrow.

    Raises
    ------
    ConfigError
        If the table does not contain the target, or is empty.
    """
    rows = chosen_rows(table, target, "coverage")
    rows = rows[rows["group"] == "all"]
    styles = styles_of(map(str, rows["model"]), styles)
    first, second = new_panels(2, (8.4, 3.8)) if axes is None else axes
    first.plot([0, 1], [0, 1], color=ink(), linewidth=0.8, linestyle="--", label="reliable")
    for model, one in rows.groupby("model", sort=False):
        style = styles[str(model)]
        for ax, column, label in ((first, "coverage", ""), (second, "width", f" (CRPS {one['crps'].iloc[0]:.2f})")):
            points = ax.plot(one["level"], one[column], style.marker, linestyle=style.line, label=f"{model}{label}")
            points[0].set(color=style.color, markersize=4)
    first.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the interval")
    first.set_ylabel("share of measured values within")
    units = print_units(str(rows["units"].iloc[0]))
    second.set(xlim=(0, 1), ylim=(0, None), xlabel="level of the interval", ylabel=f"mean width ({units})")
    for ax in (first, second):
        ax.grid(alpha=0.25, linewidth=0.6)
    first.set_title(str(rows["target"].iloc[0]) if title is None else title, fontsize=11)
    handles, names = second.get_legend_handles_labels()
    handles, names = [first.get_lines()[0], *handles], ["reliable", *names]
    figure_of(first).legend(handles, names, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    save_picture(first, path)
    return first, second


def plot_applicability_error(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "rmse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw errors in classes of dissimilarity to the training days.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.applicability_error.applicability_error`.
    path, target, styles, title, ax
        As in `fluxcube.plotting.points.plot_scales`.
    score : {"rmse", "mae", "bias"}
        Error to draw.

    Returns
    -------
    matplotlib.axes.Axes
        A thin line is the standard deviation of the observations of the same rows: an error at that line is no skill.

    Raises
    ------
    ConfigError
        If the table does not contain the target or the error, or is empty.
    """
    rows = chosen_rows(table, target, score)
    styles = styles_of(map(str, rows["model"]), styles)
    ax = new_axes(ax, (6.2, 3.8))
    for model, one in rows.groupby("model", sort=False):
        style = styles[str(model)]
        x = one["dissimilarity"]
        ax.plot(x, one[score], style.marker, color=style.color, linestyle=style.line, label=str(model))
        if score != "bias":
            label = "standard deviation of the observations" if model == rows["model"].iloc[-1] else None
            color = style.color if rows["model"].nunique() > 1 else ink()
            ax.plot(x, one["observed_std"], color=color, linewidth=0.8, linestyle=":", label=label)
    ax.set(xlabel="dissimilarity to the training days (median of each class)", ylabel=score_label(rows, score))
    if score != "bias":
        ax.set_ylim(0, None)
    ax.grid(alpha=0.25, linewidth=0.6)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_rank(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the score of the sites of each model from the worst to the best: its cumulative distribution.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.sitemeans.site_scores`.
    path, target, score, styles, title, ax
        As in `fluxcube.plotting.points.plot_scales`.

    Returns
    -------
    matplotlib.axes.Axes
        The axis of NSE begins at -1; sites below are at its end, and their number is part of the legend.

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score, or has no value to draw.
    """
    rows = chosen_rows(table, target, score)
    styles = styles_of(map(str, rows["model"]), styles)
    ax = new_axes(ax, (6.2, 3.8))
    floor = -1.0 if score == "nse" else -np.inf
    for model, one in rows.groupby("model", sort=False):
        values = np.sort(one[score].to_numpy(float)[np.isfinite(one[score].to_numpy(float))])
        share = (np.arange(len(values)) + 0.5) / max(len(values), 1)
        below = int((values < floor).sum())
        label = f"{model} ({counted(below, 'site')} below {floor:g})" if below else str(model)
        ax.plot(
            np.maximum(values, floor),
            share,
            color=styles[str(model)].color,
            linestyle=styles[str(model)].line,
            label=label,
        )
    ax.axhline(0.5, color=ink(), linewidth=0.6, linestyle=":")
    ax.set(xlabel=f"{score_label(rows, score)} of a site", ylabel="share of the sites with a lower value", ylim=(0, 1))
    ax.grid(alpha=0.25, linewidth=0.6)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_series(
    series: xr.Dataset,
    path: str | Path | None = None,
    *,
    target: str,
    sites: Sequence[str],
    models: Sequence[str] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> tuple[Axes, ...]:
    """Draw the series of sites below each other: observations as dots, models as lines.

    Parameters
    ----------
    series : xr.Dataset
        As returned by `fluxcube.evaluation.series.site_series`.
    path, styles
        As in `fluxcube.plotting.points.plot_scales`.
    target : str
        Flux to draw.
    sites : sequence of str
        Sites, one panel each.
    models : sequence of str, optional
        Models to draw. Default: all.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Each panel covers the periods in which its site has values; lines are interrupted where a period has none.

    Raises
    ------
    UnknownNameError
        If a site, a model or the target is not in the series.
    ConfigError
        If there is no site to draw.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if target not in series:
        raise unknown("target", target, list(map(str, series)))
    known = series["model"].values.tolist()
    models = chosen_names("model", models, [name for name in known if name != _OBSERVED])
    sites = chosen_names("site", sites, series["site"].values)
    if not sites:
        raise ConfigError("sites: expected at least one site to draw, found none.")
    styles = styles_of(known, styles)
    axes = new_series_axes(len(sites))
    for ax, site in zip(axes, sites, strict=True):
        one = series[target].sel(site=site)
        shown = one.isel(time=np.flatnonzero(np.isfinite(one.sel(model=_OBSERVED).values)))
        for model in models:
            _draw_line(ax, shown, model, styles[model], series.attrs.get("step", "8D"))
        ax.plot(
            shown["time"].values, shown.sel(model=_OBSERVED).values, "o", color=ink(), markersize=2.5, label=_OBSERVED
        )
        ax.set_ylabel(print_units(str(one.attrs.get("units", ""))), fontsize=8)
        ax.tick_params(labelsize=8)
        locator = AutoDateLocator(maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.grid(alpha=0.2, linewidth=0.5)
    title_and_legend(axes[0], sites[0], left=True)
    for ax, site in zip(axes[1:], sites[1:], strict=True):
        ax.set_title(site, fontsize=9, loc="left")
    save_picture(axes[0], path)
    return tuple(axes)


def new_series_axes(number: int) -> list[Axes]:
    """Return wide axes below each other, each with a time axis of its own."""
    first = new_axes(None, (8.5, 1.5 * number + 0.3))
    figure = first.figure
    first.remove()
    return list(figure.subplots(number, 1, squeeze=False)[:, 0])


def _draw_line(ax: Axes, shown: xr.DataArray, model: str, style: Style, step: str) -> None:
    """Draw the line of one model, interrupted where more than two periods are missing."""
    time, values = shown["time"].values, shown.sel(model=model).values.astype(float)
    longest = np.timedelta64(24 if step == "8D" else 93, "D")
    gaps = np.flatnonzero(np.diff(time) > longest) + 1
    time = np.insert(time, gaps, time[gaps - 1] + np.timedelta64(1, "D"))
    values = np.insert(values, gaps, np.nan)
    ax.plot(time, values, color=style.color, linestyle=style.line, linewidth=1.2, label=model)
