"""Draw published scores beside one's own; those that cannot be compared are hatched and named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.plotting.canvas import PALETTE, new_axes, print_units, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Lowest NSE that is drawn; lower values are printed as numbers.
_FLOOR = -1.0
_GREY, _HATCHES = "#d9d9d9", ("////", "....", "xxxx", "\\\\\\\\", "||||", "----", "++++")


def plot_published(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one's own scores and published ones as horizontal bars by group.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `fluxcube.evaluation.published.beside_published` returned.
    path, ax
        As in `fluxcube.plotting.maps.plot_map`.
    target : str, optional
        Flux to draw; required if the table contains several.
    score : str
        Score to draw. Bars of NSE end at -1, and lower values are printed as numbers.
    title : str, optional
        Title; by default the flux and the score.

    Returns
    -------
    matplotlib.axes.Axes
        Published scores that cannot be compared are grey and hatched, and the legend says so.

    Raises
    ------
    ConfigError
        If the table does not contain the target or the score.
    """
    if missing := {"source", "target", "group", "model", "score", "value", "comparable", "reason"} - set(table):
        raise ConfigError(f"expected the table of beside_published, found one without {', '.join(sorted(missing))}.")
    targets = list(dict.fromkeys(table["target"]))
    target = targets[0] if target is None and len(targets) == 1 else target
    drawn = {score, "r2"} if score == "corr2" else {score}
    rows = table[(table["target"] == target) & table["score"].isin(drawn)]
    if rows.empty:
        raise ConfigError(f"expected a target from {targets} and a score of the table, found {target!r} and {score!r}.")
    rows = rows.assign(label=[_label(row) for row in rows.to_dict("records")])
    groups, labels = (list(dict.fromkeys(rows[name])) for name in ("group", "label"))
    ax = new_axes(ax, (8.0, 1.2 + max(2.0, 0.16 * len(groups) * len(labels) + 0.1 * len(groups))))
    _draw(ax, rows, groups, labels, _FLOOR if score == "nse" else None)
    units = print_units(str(rows["units"].iloc[0])) if "units" in rows else "1"
    ax.set_xlabel(score.upper() + ("" if units in ("1", "") else f" ({units})"))
    ax.set_yticks(range(len(groups)), ["all sites" if group == "all" else group for group in groups], fontsize=8)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    # Below the label of the axis, at a distance that does not depend on the height of the axes.
    ax.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0.0, 0.0), borderaxespad=6)
    ax.set_title(f"{target}: {score.upper()} beside published scores" if title is None else title)
    return save_picture(ax, path)


def _label(row: dict) -> str:
    """Return the label of a bar's model: whose it is, and that it cannot be compared."""
    aggregation = f", {row['aggregation']}" if row.get("aggregation") else ""
    return f"{row['model']}: {row['source']}{aggregation}" + ("" if row["comparable"] else " (not comparable)")


def _draw(ax: Axes, rows: pd.DataFrame, groups: list[str], labels: list[str], floor: float | None) -> None:
    """Draw the bars of all groups, one colour for each label that can be compared."""
    height, others = 0.8 / len(labels), 0
    for j, label in enumerate(labels):
        one = rows[rows["label"] == label].drop_duplicates("group").set_index("group")
        at = np.arange(len(groups)) + (j - 0.5 * (len(labels) - 1)) * height
        value = one["value"].reindex(groups).to_numpy(float)
        shown = value if floor is None else np.maximum(value, floor)
        grey = not one["comparable"].all()
        bars = ax.barh(at, shown, height, label=label, color=_GREY if grey else PALETTE[j % len(PALETTE)])
        for bar in bars:
            bar.set(
                edgecolor="#6f6f6f" if grey else "white",
                linewidth=0.3,
                hatch=_HATCHES[others % len(_HATCHES)] if grey else None,
            )
        others += grey
        for y, number, end in zip(at, value, shown, strict=True):
            if np.isfinite(number) and number < end:
                ax.text(end, y, f" {number:.1f}", va="center", ha="left", fontsize=6)
    ax.axvline(0, color="black", linewidth=0.6)
