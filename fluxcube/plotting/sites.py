"""Figures of towers: their embeddings, and changes of RMSE between models by class and by site.

Axes and files are handled as in `fluxcube.plotting.maps`. Several fluxes are drawn in one panel each.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.plotting.canvas import (
    MARKERS,
    PALETTE,
    Style,
    class_styles,
    ink,
    new_axes,
    new_panels,
    print_units,
    save_picture,
    styles_of,
)
from fluxcube.plotting.classes import chosen_names, group_labels, legend_width, ordered_groups
from fluxcube.samples.features import class_of
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {"igbp": "IGBP class", "koppen": "main climate"}
#: Areas of markers that would look larger or smaller than the others at the same area.
_SIZES = {"*": 58, "o": 28, "s": 24}
_GREY, _BAND = "#888888", (0.5, 0.5, 0.5, 0.1)  # translucent, for pages of any background


def plot_embedding(
    embedding: xr.DataArray,
    path: str | Path | None = None,
    *,
    color: str = "igbp",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the embedding of each site, along the two directions of largest variance.

    Parameters
    ----------
    embedding : xr.DataArray
        (site, feature), as returned by `model.embed(cube)`; the second dimension may have any name.
    path : path, optional
        File to write; its ending selects the format.
    color : {"igbp", "koppen"}
        Classes shown by colour and marker: IGBP classes, or main Köppen climates.
    title : str, optional
        Default: the number of sites.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The first two principal components of the unscaled embedding, with their shares of its variance as axis labels.

    Raises
    ------
    SchemaError
        If the array is not an embedding of sites with classes, is the same at all sites, or has a missing value.
    UnknownNameError
        If `color` is neither of the two.
    """
    if "site" not in embedding.dims or embedding.ndim != 2:
        raise SchemaError(f"embedding: expected dims (site, feature), found {embedding.dims}; use model.embed(cube).")
    if color not in _TITLES:
        raise unknown("group", color, _TITLES)
    if color not in embedding.coords:
        found = sorted(map(str, embedding.coords))
        raise SchemaError(f"color={color!r}: expected the coordinate {color} on site, found {found}; assign it.")
    points, shares = _components(embedding.transpose("site", ...).values.astype(float))
    ax = new_axes(ax, (7.2, 5.2))
    _draw_classes(ax, points[:, 0], points[:, 1], embedding[color].values, color)
    ax.set(
        xlabel=f"first principal component ({shares[0]:.0%} of variance)",
        ylabel=f"second principal component ({shares[1]:.0%} of variance)",
    )
    ax.set_title(counted(embedding.sizes["site"], "site") if title is None else title, fontsize=11)
    _draw_legend(ax, _TITLES[color])
    return save_picture(ax, path)


def plot_class_changes(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    targets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    styles: Mapping[str, Style] | None = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Draw the RMSE of models relative to the reference model by class, with paired intervals.

    Parameters
    ----------
    table : pd.DataFrame
        Table returned by `fluxcube.evaluation.sitemeans.site_mean_table` with `by`; it may begin with table rows for
        all sites.
    path : path, optional
        File to write.
    targets : sequence of str, optional
        Fluxes, one panel each. Default: all.
    models : sequence of str, optional
        Models to draw. Default: all but the reference model.
    styles : mapping of str to Style, optional
        Style of each model, from `fluxcube.plotting.canvas.model_styles`. Default: that of its order.
    axes : sequence of matplotlib.axes.Axes, optional
        Axes to draw on, one for each flux. Default: those of a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        One line for each class, beginning with all sites and then in order of the number of sites; one dot with its
        interval for each model, hollow in classes with few sites (`counted` is false). There is no interval for fewer
        than 3 clusters. Intervals much wider than the changes extend beyond the frame.

    Raises
    ------
    UnknownNameError
        If a target or model is not in the table.
    ConfigError
        If the table has no change to draw, or the numbers of `axes` and fluxes differ.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026 (Figure 4), arXiv:2603.09974
    """
    if missing := {"target", "group", "model", "n_sites", "rmse_change"} - set(table):
        raise ConfigError(f"expected the table of site_mean_table(by=...), found one without {sorted(missing)}.")
    against = str(table.attrs.get("against", "the reference"))
    targets = chosen_names("target", targets, table["target"])
    models = chosen_names("model", models, [m for m in table["model"] if m != against])
    rows = table[table["model"].isin(models) & (table["n_sites"] > 0)]
    if not np.isfinite(rows["rmse_change"]).any():
        raise ConfigError(f"the table has no change from {against}: score a second model.")
    groups = ordered_groups(rows)
    width = 2.2 + 4.0 * len(targets) + legend_width(models)
    axes = _panels(axes, targets, (width, 1.4 + len(groups) * (0.14 + 0.1 * len(models))))
    known = styles_of(models, styles)
    chosen = {m: _style(j) if styles is None else known[m] for j, m in enumerate(models)}
    names = []
    for ax, target in zip(axes, targets, strict=True):
        names.append(_draw_changes(ax, rows[rows["target"] == target], groups, chosen))
        ax.set_yticklabels([] if names[-1] == names[0] and ax is not axes[0] else names[-1])
        ax.set_title(target, fontsize=11)
        ax.set_xlabel(f"change of site-mean RMSE (%)\n← better than {against}    worse →", fontsize=9)
    _draw_legend(axes[-1], "model")
    save_picture(axes[0], path)
    return axes


def plot_site_changes(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    model: str,
    against: str | None = None,
    targets: Sequence[str] | None = None,
    color: str = "igbp",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Draw the RMSE of a model at each site against that of another model; points below the diagonal are improvements.

    Parameters
    ----------
    table : pd.DataFrame
        Table returned by `fluxcube.evaluation.sitemeans.site_scores`.
    path : path, optional
        File to write.
    model, against : str
        Models on the vertical and on the horizontal axis. Default of `against`: the first model of the table.
    targets : sequence of str, optional
        Fluxes, one panel each. Default: all.
    color : {"igbp", "koppen"}
        Classes shown by colour and marker: IGBP classes, or main Köppen climates.
    axes : sequence of matplotlib.axes.Axes, optional
        Axes to draw on, one for each flux. Default: those of a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        One panel for each flux; its title reports the number of sites where the model's RMSE is lower.

    Raises
    ------
    UnknownNameError
        If a model, a target or `color` is unknown.
    ConfigError
        If it is another table, or the numbers of `axes` and fluxes differ.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026 (Figure 5), arXiv:2603.09974
    """
    if color not in _TITLES:
        raise unknown("group", color, _TITLES)
    if missing := {"target", "units", "site", "model", "rmse", color} - set(table):
        raise ConfigError(f"expected the table of site_scores(), found one without {sorted(missing)}.")
    targets = chosen_names("target", targets, table["target"])
    against = str(table.attrs.get("against", table["model"].iloc[0])) if against is None else against
    against, model = chosen_names("model", [against, model], table["model"])
    axes = _panels(axes, targets, (1.4 + 4.8 * len(targets), 5.1))
    # One legend serves all panels, so it lists classes that are missing for one of the fluxes as well.
    classes = [class_of(color, code) for code in table.drop_duplicates("site")[color]]
    for ax, target in zip(axes, targets, strict=True):
        rows = table[table["target"] == target]
        wide = rows.pivot(index="site", columns="model", values="rmse")
        labels = rows.drop_duplicates("site").set_index("site").loc[wide.index, color].to_numpy()
        x, y = wide[against].to_numpy(float), wide[model].to_numpy(float)
        _draw_classes(ax, x, y, labels, color, every=classes)
        _draw_diagonal(ax, 1.06 * max(x.max(), y.max()))
        better = int((y < x).sum())
        ax.set_title(f"{target}: lower at {better} of {counted(len(x), 'site')} ({better / len(x):.0%})", fontsize=11)
        units = print_units(str(rows["units"].iloc[0]))
        ax.set(xlabel=f"RMSE of {against} ({units})", ylabel=f"RMSE of {model} ({units})")
    _draw_legend(axes[-1], _TITLES[color])
    save_picture(axes[0], path)
    return axes


def _components(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components of each row (row, 2), and their shares of the variance."""
    if not np.isfinite(values).all():
        raise SchemaError("the embedding is missing at a site: leave that site out.")
    from_mean = values - values.mean(0)
    left, strength, right = np.linalg.svd(from_mean, full_matrices=False)
    if not strength.max(initial=0.0) > 1e-12 * np.linalg.norm(values):  # rounding errors are not a direction
        raise SchemaError("the embedding is the same everywhere; there is nothing to draw.")
    # The sign of a component is arbitrary: its largest weight is made positive, so that all machines agree.
    sign = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    points, shares = left * strength * sign, strength**2 / (strength**2).sum()
    if points.shape[1] == 1:
        points, shares = np.column_stack([points, np.zeros(len(points))]), np.append(shares, 0.0)
    return points[:, :2], shares[:2]


def _panels(axes: Sequence[Axes] | None, targets: Sequence[str], size: tuple[float, float]) -> tuple[Axes, ...]:
    if axes is None:
        return tuple(new_panels(len(targets), size))
    if len(axes) != len(targets):
        raise ConfigError(
            f"expected one axes for each flux, {len(targets)} ({', '.join(targets)}), found {len(axes)} axes."
        )
    return tuple(axes)


def _draw_classes(
    ax: Axes, x: np.ndarray, y: np.ndarray, classes: np.ndarray, color: str, every: Sequence[str] | None = None
) -> None:
    """Draw one dot for each site, by class; `every` has the classes of all panels, which the legend counts."""
    labels = np.array([class_of(color, name) or "unknown" for name in classes], object)
    counted = labels if every is None else np.array([name or "unknown" for name in every], object)
    for name, (shade, marker) in class_styles(counted).items():
        here = labels == name
        ax.scatter(
            x[here],
            y[here],
            s=_SIZES.get(marker, 34),
            color=shade,
            marker=marker,
            edgecolors=ink(),
            linewidths=0.5,
            alpha=0.9,
            zorder=3,
            label=f"{name} ({np.count_nonzero(counted == name)})",
        )


def _draw_diagonal(ax: Axes, end: float) -> None:
    ax.plot([0, end], [0, end], color=ink(), linewidth=0.9, zorder=1)
    ax.fill_between([0, end], [0, end], color=_BAND, zorder=0, linewidth=0)
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    ax.locator_params(nbins=6, steps=[1, 2, 5, 10])
    ax.annotate("1:1", (0.95 * end, 0.95 * end), textcoords="offset points", xytext=(-4, 5), ha="right", fontsize=8)
    ax.annotate("better", (0.97, 0.03), xycoords="axes fraction", ha="right", fontsize=9, color=_GREY)


def _style(order: int) -> Style:
    return Style(PALETTE[order % len(PALETTE)], MARKERS[order % len(MARKERS)], "-")


def _draw_changes(ax: Axes, rows: pd.DataFrame, groups: list[str], styles: Mapping[str, Style]) -> list[str]:
    """Draw the dots and intervals of one flux; return the labels of its lines."""
    columns = [f"rmse_change{end}" for end in ("", "_low", "_high")]
    step = 0.8 / len(styles)
    for i in range(0, len(groups), 2):
        ax.axhspan(-i - 0.5, -i + 0.5, color=_BAND, linewidth=0, zorder=0)
    ax.axvline(0.0, color=_GREY, linewidth=0.9, zorder=1)
    for j, (model, style) in enumerate(styles.items()):
        shade, marker = style.color, style.marker
        one = rows[rows["model"] == model].set_index("group").reindex(groups)
        at = -np.arange(len(groups)) + (0.5 * (len(styles) - 1) - j) * step
        value, low, high = (100 * one[name].to_numpy(float) for name in columns)
        few = np.zeros(len(one), bool) if "counted" not in one else one["counted"].isin([False]).to_numpy()
        ax.hlines(at, low, high, color=shade, linewidth=1.6, zorder=2)
        scatter = functools.partial(ax.scatter, s=30, marker=marker, linewidths=1.2, edgecolors=shade, zorder=3)
        scatter(value[~few], at[~few], color=shade, label=model)
        scatter(value[few], at[few], color="none")
    if "counted" in rows and rows["counted"].isin([False]).any():
        ax.scatter([], [], s=30, marker="o", color="none", edgecolors=_GREY, label="hollow: few sites")
    ax.set(ylim=(-len(groups) + 0.5, 0.5), xlim=_span(100 * rows[columns].to_numpy(float)))
    ax.set_yticks(-np.arange(len(groups)))
    ax.tick_params(axis="y", length=0, labelsize=9)
    return group_labels(rows, groups)


def _span(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis for changes and their bounds (row, 3).

    Bounds extend the axis by at most half the range of the changes.
    """
    dots = np.append(values[np.isfinite(values[:, 0]), 0], 0.0)
    margin = max(0.5 * np.ptp(dots), 1.0)
    low, high = np.nanmin(np.append(values, 0.0)), np.nanmax(np.append(values, 0.0))
    edge = 0.08 * np.ptp(dots) + 0.5
    return max(low, dots.min() - margin) - edge, min(high, dots.max() + margin) + edge


def _draw_legend(ax: Axes, title: str) -> None:
    """Draw the legend beside the panel, where it covers nothing."""
    ax.legend(title=title, fontsize=8, title_fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
