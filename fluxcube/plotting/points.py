"""Scores of models by time scale, subset, class or distance, as points with intervals.

Axes and files are handled as in `fluxcube.plotting.maps`: every function draws on `ax`, or on the axes of a new figure,
returns the Axes, and writes a file if `path` is set. Models keep their style in all figures of a page if `styles` of
`fluxcube.plotting.canvas.model_styles` is passed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, unknown
from fluxcube.plotting.canvas import Style, figure_of, ink, new_axes, print_units, save_picture, styles_of
from fluxcube.plotting.classes import chosen_names, group_labels, ordered_groups
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: Lowest value of a score on an axis; lower ones are arrows at the edge.
_FLOORS = {"nse": -1.0, "nse_site_median": -1.0, "nse_median": -1.0, "nse_ceiling": -1.0}
#: Width of a letter and height of a line of a legend, in points.
_LETTER, _LINE = 4.8, 13.5
_WITH_UNITS = ("rmse", "mae", "bias", "crps")


def plot_scales(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a score at each time scale, with intervals, one point for each model.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.scales.scale_table`; with intervals if it was computed with clusters.
    path : path, optional
        File to write; its ending selects the format.
    target : str, optional
        Flux to draw; required if the table contains several.
    score : str
        Column to draw. The axis of NSE ends at -1; lower values are arrows with their value.
    styles : mapping of str to Style, optional
        Style of each model. Default: that of its order in the table.
    title : str, optional
        Default: the flux.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score, or has no value to draw.
    """
    rows = chosen_rows(table, target, score)
    groups = [group for group in dict.fromkeys(rows["group"]) if rows.loc[rows["group"] == group, "n"].max() > 0]
    ax = draw_points(rows, groups, groups, score, styles, ax)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_subsets(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a score in each subset of the time steps: heat, cold, dry air, dry months and seasonal transitions.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.subsets.subset_table`, or of `fluxcube.compare` with any groups.
    path, target, score, styles, title, ax
        As in `plot_scales`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score, or has no value to draw.
    """
    rows = chosen_rows(table, target, score)
    groups = [group for group in dict.fromkeys(rows["group"]) if rows.loc[rows["group"] == group, "n"].max() > 0]
    labels = ["all time steps" if group == "all" else group for group in groups]
    ax = draw_points(rows, groups, labels, score, styles, ax)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_ceiling(
    table: pd.DataFrame,
    ceiling: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the skill of each class beside the noise ceiling, the score of a model without errors of its own.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.compare` with groups.
    ceiling : pd.DataFrame
        Table of `fluxcube.evaluation.noise.noise_ceiling` with the same groups; its first time scale is used.
    path, target, styles, title, ax
        As in `plot_scales`.
    score : {"nse", "rmse"}
        Score to draw.

    Returns
    -------
    matplotlib.axes.Axes
        Groups in order of the number of sites; a group without a ceiling has no line.

    Raises
    ------
    ConfigError
        If a table does not contain the target or the score, or has no value to draw.
    """
    columns = {"nse": "nse_ceiling", "rmse": "noise_rmse"}
    if score not in columns:
        raise unknown("score", score, columns)
    if missing := {"target", "group", columns[score]} - set(ceiling):
        raise ConfigError(f"expected the table of noise_ceiling(), found one without {sorted(missing)}.")
    rows = chosen_rows(table, target, score)
    rows = rows[rows["n"] > 0]
    counted = "n_sites" in rows
    groups = ordered_groups(rows) if counted else list(dict.fromkeys(rows["group"]))
    ax = draw_points(rows, groups, group_labels(rows, groups) if counted else groups, score, styles, ax)
    limits = ceiling[ceiling["target"] == rows["target"].iloc[0]]
    limits = limits[limits["scale"] == limits["scale"].iloc[0]] if "scale" in limits and len(limits) else limits
    limits = limits.drop_duplicates("group").set_index("group")
    height = limits[columns[score]].reindex(groups).to_numpy(float)
    at = np.arange(len(groups))
    ax.hlines(height, at - 0.42, at + 0.42, color=ink(), linewidth=1.4, zorder=2, label="noise ceiling")
    if score == "rmse":
        ax.set_ylim(0, None)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_drivers(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the skill of each model with weather of the tower and with reanalysis weather, joined by a line.

    Parameters
    ----------
    table : pd.DataFrame
        A row per target, model and drivers, with columns target, model, drivers ("tower", "era5"), the score and, if
        known, its bounds (NAME_low, NAME_high). If it has the column group with several values, each is drawn.
    path, target, score, styles, title, ax
        As in `plot_scales`.

    Returns
    -------
    matplotlib.axes.Axes
        The weather of the tower is a filled marker, that of the reanalysis a hollow one.

    Raises
    ------
    ConfigError
        If the table has no such columns, or no value to draw.
    """
    if "drivers" not in table:
        raise ConfigError(f"expected a table with the column drivers, found the columns {', '.join(map(str, table))}.")
    rows = chosen_rows(table, target, score)
    rows = rows.assign(group=rows.get("group", "all"))
    pairs = list(dict.fromkeys(zip(rows["group"], rows["model"], strict=True)))
    styles = styles_of(map(str, rows["model"]), styles)
    ax = new_axes(ax, (6.4, 1.3 + 0.32 * len(pairs)))
    for i, (group, model) in enumerate(pairs):
        one = rows[(rows["group"] == group) & (rows["model"] == model)]
        _draw_pair(ax, -i, one, score, styles[model])
    several = rows["group"].nunique() > 1
    names = [f"{'all sites' if group == 'all' else group}: {model}" if several else model for group, model in pairs]
    ax.set_yticks(-np.arange(len(pairs)), names, fontsize=9)
    for label, face in (("weather of the tower", ink()), ("reanalysis", "none")):
        ax.plot([], [], "o", color=ink(), markerfacecolor=face, label=label)
    ax.set_xlabel(score_label(rows, score))
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def plot_by_distance(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the median score over sites in classes of distance from the nearest training tower.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.neighbours.error_by_distance`. Lines end at the 10th and 90th percentiles.
    path, target, styles, title, ax
        As in `plot_scales`.
    score : {"nse", "rmse"}
        Score to draw.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score, or has no value to draw.
    """
    rows = chosen_rows(table, target, score).sort_values("low_km", kind="stable")
    rows = rows.rename(columns={f"{score}_p10": f"{score}_low", f"{score}_p90": f"{score}_high", "distance": "group"})
    groups = list(dict.fromkeys(rows["group"]))
    counts = rows.groupby("group")["n_sites"].max()
    bounds = rows.drop_duplicates("group").set_index("group")[["low_km", "high_km"]].to_numpy(float)
    names = [f"{low:g}–{high:g}" if np.isfinite(high) else f"≥ {low:g}" for low, high in bounds]
    labels = [f"{name}\n({counted(int(counts[group]), 'site')})" for name, group in zip(names, groups, strict=True)]
    ax = draw_points(rows, groups, labels, score, styles, ax)
    ax.set_xlabel("distance from the nearest training tower (km)")
    ax.set_ylabel(f"{score_label(rows, score)}, median over sites")
    title_and_legend(ax, str(rows["target"].iloc[0]) if title is None else title)
    return save_picture(ax, path)


def chosen_rows(table: pd.DataFrame, target: str | None, score: str) -> pd.DataFrame:
    """Return the rows of one flux that have the score.

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score, or has no value to draw.
    """
    if missing := {"target", "model", score} - set(table):
        raise ConfigError(f"expected a table of scores, found one without {', '.join(sorted(missing))}.")
    targets = list(dict.fromkeys(table["target"]))
    target = targets[0] if target is None and len(targets) == 1 else target
    if target not in targets:
        raise ConfigError(f"expected a target from {targets}, found {target!r}.")
    rows = table[table["target"] == target]
    if not np.isfinite(rows[score].astype(float)).any():
        raise ConfigError(f"the table has no {score} of {target} to draw.")
    return rows


def draw_points(
    rows: pd.DataFrame,
    groups: Sequence[str],
    labels: Sequence[str],
    score: str,
    styles: Mapping[str, Style] | None,
    ax: Axes | None,
) -> Axes:
    """Draw one point with its interval for each model, side by side in each group; return the Axes."""
    models = chosen_names("model", None, rows["model"])
    styles = styles_of(models, styles)
    ax = new_axes(ax, (min(11.0, max(5.0, 1.8 + len(groups) * (0.45 + 0.11 * len(models)))), 3.8))
    step = 0.78 / len(models)
    floor = _FLOORS.get(score)
    for i in range(0, len(groups), 2):
        ax.axvspan(i - 0.5, i + 0.5, color="#808080", alpha=0.09, linewidth=0, zorder=0)
    for j, model in enumerate(models):
        one = rows[rows["model"] == model].drop_duplicates("group").set_index("group").reindex(groups)
        at = np.arange(len(groups)) + (j - 0.5 * (len(models) - 1)) * step
        _draw_model(ax, at, one, score, styles[model], floor, model)
    if (rows[score].astype(float) < 0).any():
        ax.axhline(0, color=ink(), linewidth=0.6, zorder=1)
    if floor is not None:
        drawn = rows[[name for name in (score, f"{score}_low") if name in rows]].to_numpy(float)
        ax.set_ylim(max(floor, min(0.0, float(np.nanmin(drawn)) - 0.05)) - 0.02, 1.02)
    ax.set_xticks(np.arange(len(groups)), labels, fontsize=8)
    if len(groups) > 9:
        ax.set_xticks(np.arange(len(groups)), labels, fontsize=8, rotation=45, ha="right")
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.set_ylabel(score_label(rows, score))
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y", alpha=0.25, linewidth=0.6)
    return ax


def _draw_model(
    ax: Axes, at: np.ndarray, rows: pd.DataFrame, score: str, style: Style, floor: float | None, label: str
) -> None:
    """Draw the points of one model; values below the floor are arrows with their value."""
    value = rows[score].to_numpy(float)
    below = np.zeros(len(value), bool) if floor is None else value < floor
    if {f"{score}_low", f"{score}_high"} <= set(rows):
        low, high = (rows[f"{score}_{end}"].to_numpy(float) for end in ("low", "high"))
        low = low if floor is None else np.maximum(low, floor)
        shown = np.isfinite(low) & np.isfinite(high) & ~below
        ax.vlines(at[shown], low[shown], high[shown], color=style.color, linewidth=1.5, zorder=3)
    ax.plot(at[~below], value[~below], style.marker, color=style.color, markersize=5, label=label, zorder=4)
    for x, number in zip(at[below], value[below], strict=True):
        edge = floor or 0.0
        ax.plot([x], [edge], "v", color=style.color, markersize=5, zorder=4, clip_on=False)
        ax.annotate(
            f"{number:.1f}" if number > -10 else f"{number:.0f}",
            (x, edge),
            xytext=(0, 5),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=style.color,
        )


def _draw_pair(ax: Axes, at: float, rows: pd.DataFrame, score: str, style: Style) -> None:
    values = {}
    for drivers, shift in (("tower", 0.12), ("era5", -0.12)):
        one = rows[rows["drivers"] == drivers]
        if not len(one):
            continue
        values[drivers] = (float(one[score].iloc[0]), at + shift)
        if {f"{score}_low", f"{score}_high"} <= set(one):
            ax.hlines(at + shift, one[f"{score}_low"], one[f"{score}_high"], color=style.color, linewidth=1.2)
    if len(values) == 2:
        ax.plot(*zip(*values.values(), strict=True), color=style.color, linewidth=0.8, linestyle=":")
    for drivers, (x, y) in values.items():
        face = style.color if drivers == "tower" else "none"
        ax.plot([x], [y], "o", color=style.color, markerfacecolor=face, markersize=6, zorder=3)


def title_and_legend(ax: Axes, title: str, *, left: bool = False, of: Sequence[Axes] = ()) -> None:
    """Draw the legend above the axes, in as many columns as fit, and the title above it; `of` are more axes it is of.

    Beside the axes a legend of long names would leave little room for them, above all on a narrow page.
    """
    by_name: dict[str, Artist] = {}
    for one in of or [ax]:
        for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
            by_name.setdefault(name, handle)
    handles, names = list(by_name.values()), list(by_name)
    width = figure_of(ax).get_size_inches()[0] * ax.get_position().width * 72 / _LETTER
    columns = max(1, min(len(names), int(width / (max(map(len, names), default=0) + 6))))
    if names:
        legend = functools.partial(ax.legend, handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.0))
        legend(ncols=columns, fontsize=8, frameon=False, borderaxespad=0.2, borderpad=0.2)
    lines = -(-len(names) // columns)
    if left:
        ax.set_title(title, fontsize=9, loc="left", pad=6 + _LINE * lines)
    else:
        ax.set_title(title, fontsize=11, pad=6 + _LINE * lines)


def score_label(rows: pd.DataFrame, score: str) -> str:
    """Return the name of a score, with its units if it has any."""
    units = str(rows["units"].iloc[0]) if score in _WITH_UNITS and "units" in rows and len(rows) else ""
    name = {"corr2": "squared correlation", "bias": "bias", "nse_site_median": "NSE, median over sites"}
    text = name.get(score, score.replace("_", " ").upper())
    return f"{text} ({print_units(units)})" if units else text
