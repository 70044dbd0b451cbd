"""Bars of the RMSE of models by class, with intervals over clusters of sites.

Axes and files are handled as in `fluxcube.plotting.maps`. Several fluxes are drawn in one panel each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.plotting.canvas import PALETTE, Style, ink, new_panels, print_units, save_picture, styles_of
from fluxcube.plotting.classes import chosen_names, group_labels, legend_width, ordered_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_class_errors(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    targets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> tuple[Axes, ...]:
    """Draw the mean RMSE over the sites of each class as bars, one for each model, with intervals.

    Parameters
    ----------
    table : pd.DataFrame
        Table returned by `fluxcube.evaluation.sitemeans.site_mean_table` with `by`; it may begin with table rows for
        all sites.
    path : path, optional
        File to write.
    targets, models : sequence of str, optional
        Fluxes, one panel each, and models. Default: all.
    styles : mapping of str to Style, optional
        Style of each model, from `fluxcube.plotting.canvas.model_styles`. Default: that of its order.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        One group of bars for each class in order of the number of sites, all sites first. There is no interval for
        fewer than 3 clusters of sites.

    Raises
    ------
    UnknownNameError
        If a target or model is not in the table.
    ConfigError
        If it is another table, or has no score.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026 (Figure 3), arXiv:2603.09974
    """
    if missing := {"target", "units", "group", "model", "n_sites", "rmse", "rmse_low", "rmse_high"} - set(table):
        raise ConfigError(f"expected the table of site_mean_table(by=...), found one without {sorted(missing)}.")
    targets = chosen_names("target", targets, table["target"])
    models = chosen_names("model", models, table["model"])
    rows = table[table["target"].isin(targets) & table["model"].isin(models) & (table["n_sites"] > 0)]
    if not np.isfinite(rows["rmse"]).any():
        raise ConfigError("the table has no RMSE to draw: score a site with enough time steps.")
    groups = ordered_groups(rows)
    known = styles_of(models, styles)
    colors = {m: PALETTE[j % len(PALETTE)] if styles is None else known[m].color for j, m in enumerate(models)}
    width = 1.5 + len(targets) * (1.5 + 0.12 * len(groups) * len(models)) + legend_width(models)
    axes = tuple(new_panels(len(targets), (width, 4.2)))
    for ax, target in zip(axes, targets, strict=True):
        _draw_bars(ax, rows[rows["target"] == target], groups, colors)
        ax.set_xticks(np.arange(len(groups)), group_labels(rows, groups), rotation=60, ha="right", fontsize=8)
        units = print_units(str(table.loc[table["target"] == target, "units"].iloc[0]))
        ax.set(title=target, ylabel=f"RMSE, mean over sites ({units})", ylim=(0, None))
    axes[-1].legend(title="model", fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_picture(axes[0], path)
    return axes


def _draw_bars(ax: Axes, rows: pd.DataFrame, groups: Sequence[str], colors: Mapping[str, str]) -> None:
    """Draw the bars and intervals of one flux."""
    width = 0.8 / len(colors)
    for j, (model, color) in enumerate(colors.items()):
        one = rows[rows["model"] == model].set_index("group").reindex(groups)
        at = np.arange(len(groups)) + (j - 0.5 * (len(colors) - 1)) * width
        value, low, high = (one[name].to_numpy(float) for name in ("rmse", "rmse_low", "rmse_high"))
        ax.bar(at, value, width, color=color, label=model, linewidth=0)
        ax.vlines(at, low, high, color=ink(), linewidth=0.8)
