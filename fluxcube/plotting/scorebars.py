"""Scores of models as bars, and differences between models as dots with intervals.

Axes and files are handled as in `fluxcube.plotting.maps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.plotting.canvas import Style, new_axes, print_units, save_picture, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_scores(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one score as bars, for each group and model.

    Parameters
    ----------
    table : pd.DataFrame
        Table of scores, as returned by `fluxcube.compare`.
    path, title, ax
        As in `fluxcube.plot_map`.
    target : str, optional
        Flux to draw; required if the table contains several.
    score : str
        Column to draw. Bars of NSE end at -1, and lower values are printed as numbers.
    styles : mapping of str to Style, optional
        Style of each model, from `fluxcube.plotting.canvas.model_styles`. Default: the colours of matplotlib, in order.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score.
    """
    targets = list(dict.fromkeys(table["target"]))
    target = targets[0] if target is None and len(targets) == 1 else target
    if target not in targets or score not in table:
        raise ConfigError(f"expected a target from {targets} and a score of the table, found {target!r} and {score!r}.")
    rows = table[(table["target"] == target) & (table["n"] > 0)]
    wide = rows.pivot(index="group", columns="model", values=score)
    wide = wide.loc[list(dict.fromkeys(rows["group"])), list(dict.fromkeys(rows["model"]))]
    ax = new_axes(ax, (min(16.0, max(5.0, 1.2 + 0.32 * wide.size + 0.4 * len(wide))), 4.0))
    _draw_bars(ax, wide, -1.0 if score == "nse" else None, styles and styles_of(map(str, wide), styles))
    hours = rows.drop_duplicates("group").set_index("group")
    ax.set_xticks(range(len(wide)), [_tick(g, hours.loc[g]) for g in wide.index], fontsize=8)
    ax.set_ylabel(f"{score.upper()}{_units_of_score(rows, score)}, all values of the group pooled")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_title(f"{target}: {score.upper()} by group" if title is None else title)
    return save_picture(ax, path)


def plot_differences(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    score: str = "nse",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the difference of each model from the reference model, as a dot with its interval on a line.

    Parameters
    ----------
    table : pd.DataFrame
        Table of scores of one flux with intervals, as returned by ``fluxcube.compare(..., clusters=...)``.
    path, title, ax
        As in `fluxcube.plot_map`.
    score : {"nse", "rmse", "nse_site_median"}
        Score whose differences are drawn.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table contains no differences of this score, or several fluxes.
    """
    if f"{score}_diff" not in table or table["target"].nunique() != 1:
        raise ConfigError(
            f"expected a table of one flux with differences of {score}; make it with compare(..., clusters=...)."
        )
    rows = table[table[f"{score}_diff"].notna()]
    value, low, high = (rows[f"{score}_diff{end}"].to_numpy(float) for end in ("", "_low", "_high"))
    ax = new_axes(ax, (7.0, 1.2 + 0.28 * len(rows)))
    at = np.arange(len(rows))[::-1]
    ax.axvline(0.0, color="#888888", linewidth=0.8)
    ax.hlines(at, low, high, color="#1b6ca8", linewidth=2)
    ax.plot(value, at, "o", color="#1b6ca8", markersize=5)
    several = rows["group"].nunique() > 1
    names = [f"{g}: {m}" if several else str(m) for g, m in zip(rows["group"], rows["model"], strict=True)]
    ax.set_yticks(at, names, fontsize=8)
    label = f"{score.replace('_', ' ').upper()}{_units_of_score(rows, score)}"
    ax.set_xlabel(f"{label}, difference from {table.attrs.get('against', 'the reference')}")
    ax.set_title(f"{rows['target'].iloc[0] if len(rows) else ''}" if title is None else title)
    return save_picture(ax, path)


def _units_of_score(rows: pd.DataFrame, score: str) -> str:
    """Return the units of a score in brackets, "" for scores without units."""
    units = rows["units"].iloc[0] if "units" in rows and len(rows) and score in ("rmse", "mae", "bias") else ""
    return f" ({print_units(str(units))})" if units else ""


def _draw_bars(ax: Axes, wide: pd.DataFrame, floor: float | None, styles: Mapping[str, Style] | None = None) -> None:
    """Draw the bars of each row (group) side by side, one for each column (model)."""
    width = 0.8 / wide.shape[1]
    ax.axhline(0, color="grey", linewidth=0.8)
    for j, model in enumerate(wide):
        at = np.arange(len(wide)) + (j - (wide.shape[1] - 1) / 2) * width
        values = wide[model].to_numpy(float)
        heights = values if floor is None else np.maximum(values, floor)
        color = None if styles is None else styles[str(model)].color
        ax.bar(at, heights, width * 0.92, label=str(model), color=color)
        for x, value in zip(at, values, strict=True):
            if floor is not None and value < floor:
                ax.annotate(f"{value:.1f}", (x, 0.97 * floor), rotation=90, ha="center", va="bottom", fontsize=7)
    if floor is not None:
        ax.set_ylim(max(floor, min(-0.05, float(np.nanmin(wide.to_numpy())) * 1.1)), 1.0)


def _tick(group: object, row: pd.Series) -> str:
    unseen = "\n(not in training)" if bool(row.get("zero_shot", False)) else ""
    sites = f"\n{int(row['n_sites'])} sites" if "n_sites" in row and row["n_sites"] != 1 else ""
    return f"{group}{sites}{unseen}"
