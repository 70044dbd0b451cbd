"""Figures of towers and rows: a world map of scores, density of predictions against observations, carbon closure.

Axes, files and styles are handled as in `fluxcube.plotting.points`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.plotting.canvas import Style, figure_of, ink, new_axes, print_units, save_picture, styles_of
from fluxcube.plotting.classes import chosen_names, group_labels, ordered_groups
from fluxcube.plotting.mapframe import MapFrame
from fluxcube.plotting.maps import extend_of
from fluxcube.plotting.places import WORLD
from fluxcube.plotting.points import chosen_rows, score_label, title_and_legend
from fluxcube.plotting.projections import Box
from fluxcube.plotting.sitemaps import ERRORS, draw_dots, name_hollow, score_colors, score_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Part of the world that is enlarged, and its place on the map (left, bottom, width, height).
_EUROPE, _INSET = Box(-12.0, 32.0, 35.0, 70.0), (0.0, 0.0, 0.27, 0.52)
#: Minimum number of towers in Europe for the enlarged part.
_MANY = 8


def plot_site_map(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    model: str,
    against: str | None = None,
    score: str = "nse",
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the towers on a map of the world, coloured by a score of a model, or by its difference from another model.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.sitemeans.site_scores`, with latitude and longitude.
    path, target, title, ax
        As in `fluxcube.plotting.points.plot_scales`.
    model : str
        Model whose score is drawn.
    against : str, optional
        Model whose score is subtracted.
    score : str
        Column to draw.
    limits : (float, float), optional
        Values of the first and last colour. Default: -0.5 and 1 for NSE, else the 5th and 95th percentile; symmetric
        about zero for differences.

    Returns
    -------
    matplotlib.axes.Axes
        Europe is enlarged in the lower left corner if it has many towers.

    Raises
    ------
    UnknownNameError
        If a model is not in the table.
    ConfigError
        If the table does not contain the target, the score or the places of the towers.
    """
    rows = chosen_rows(table, target, score)
    if missing := {"site", "latitude", "longitude"} - set(rows):
        raise ConfigError(f"expected the table of site_scores() with places, found no {', '.join(sorted(missing))}.")
    chosen_names("model", [name for name in (model, against) if name is not None], rows["model"])
    places = rows.drop_duplicates("site").set_index("site")
    wide = rows.pivot(index="site", columns="model", values=score).loc[places.index]
    values = wide[model].to_numpy(float) - (0.0 if against is None else wide[against].to_numpy(float))
    low, high = score_limits(score, values, limits, difference=against is not None)
    lon, lat = places["longitude"].to_numpy(float), places["latitude"].to_numpy(float)
    ax = new_axes(ax, (9.0, 4.3))
    style = {"cmap": score_colors(lower_is_better=score in ERRORS), "vmin": low, "vmax": high}
    dots = _draw_box(ax, WORLD, lon, lat, values, style, size=26)
    inside = (lon > _EUROPE.west) & (lon < _EUROPE.east) & (lat > _EUROPE.south) & (lat < _EUROPE.north)
    if inside.sum() >= _MANY:
        _draw_box(ax.inset_axes(_INSET), _EUROPE, lon, lat, values, style, size=20)
    name_hollow(ax, values)
    label = score_label(rows, score) if against is None else f"{score_label(rows, score)}, difference from {against}"
    extend = extend_of(values, low, high)
    bar = figure_of(ax).colorbar(dots, cax=ax.inset_axes((1.01, 0.0, 0.02, 1.0)), extend=extend)
    bar.set_label(label, fontsize=9)
    shown = model if against is None else f"{model} less {against}"
    ax.set_title(f"{rows['target'].iloc[0]}: {shown}" if title is None else title, fontsize=11)
    return save_picture(ax, path)


def _draw_box(
    ax: Axes, box: Box, lon: np.ndarray, lat: np.ndarray, values: np.ndarray, style: dict[str, Any], *, size: float
) -> Any:
    """Draw the towers of a part of the world with coasts, without ticks."""
    MapFrame(ax, box).land(borders=False)
    dots = draw_dots(ax, lon, lat, values, size=size, **style)
    ax.set(xlim=(box.west, box.east), ylim=(box.south, box.north), xticks=[], yticks=[])
    ax.set_aspect("equal" if box is WORLD else 1.6)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_linewidth(0.6)
    return dots


def plot_density(
    table: xr.Dataset,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    model: str,
    most: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the number of rows by observed and predicted value, with the 1:1 line and the regression line.

    Parameters
    ----------
    table : xr.Dataset
        As returned by `fluxcube.evaluation.density.density`.
    path, target, title, ax
        As in `fluxcube.plotting.points.plot_scales`.
    model : str
        Model to draw.
    most : int, optional
        Number of rows of the last colour, so that several figures have one scale. Default: the highest of the model.

    Returns
    -------
    matplotlib.axes.Axes
        Its text has scores of all rows, and the number of those that lie outside the axes, if there are any.

    Raises
    ------
    UnknownNameError
        If the target or model is not in the Dataset.
    ConfigError
        If no row lies within the axes.
    """
    from matplotlib.colors import LogNorm

    targets = table["target"].values.tolist()
    target = targets[0] if target is None and len(targets) == 1 else target
    if target not in targets:
        raise unknown("target", str(target), targets)
    chosen_names("model", [model], table["model"].values)
    one = table.sel(target=target, model=model)
    count, edges = one["count"].values.astype(float), one["edges"].values
    if not count.any():
        raise ConfigError(f"{target} of {model}: no row to draw.")
    ax = new_axes(ax, (4.6, 4.2))
    shown = np.ma.masked_equal(count.T, 0)
    norm = LogNorm(1, max(count.max() if most is None else most, 2))
    mesh = ax.pcolormesh(edges, edges, shown, norm=norm, cmap="cividis", rasterized=True)
    ends = np.array([edges[0], edges[-1]])
    ax.plot(ends, ends, color=ink(), linewidth=0.8, linestyle="--", label="1:1")
    slope, intercept = float(one["slope"]), float(one["intercept"])
    ax.plot(ends, slope * ends + intercept, color="#D55E00", linewidth=1.4, label="regression")
    units = print_units(str(table["units"].sel(target=target).item())) if "units" in table.coords else ""
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"observed ({units})", ylabel=f"predicted ({units})")
    bar = figure_of(ax).colorbar(mesh, ax=ax, shrink=0.85, format=lambda number, _: f"{number:,.0f}")
    bar.set_label("number of rows", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    beyond = f" ({int(one['outside']):,} not shown)" if int(one["outside"]) else ""
    lines = (
        f"NSE {float(one['nse']):.2f}, RMSE {float(one['rmse']):.2f}",
        f"bias {float(one['bias']):+.2f}, slope {slope:.2f}",
        f"n = {int(one['n']):,}{beyond}",
    )
    ax.legend(loc="lower right", fontsize=7, frameon=False)
    ax.text(0.03, 0.97, "\n".join(lines), transform=ax.transAxes, fontsize=8, va="top")
    ax.set_title(f"{target}: {model}" if title is None else title, fontsize=10)
    return save_picture(ax, path)


def plot_closure(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    partition: str | None = None,
    styles: Mapping[str, Style] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the size of NEE - (RECO - GPP) of each model by group: its median, and a line to its 90th percentile.

    Parameters
    ----------
    table : pd.DataFrame
        Table of `fluxcube.evaluation.carbon.carbon_closure`.
    path, styles, title, ax
        As in `fluxcube.plotting.points.plot_scales`.
    partition : str, optional
        Partitioning to draw. Default: the first of the table.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UnknownNameError
        If the partitioning is not in the table.
    ConfigError
        If the table has no residual.
    """
    if "partition" not in table or not len(table):
        raise ConfigError("expected the table of carbon_closure() with at least one row; it needs NEE, GPP and RECO.")
    known = list(dict.fromkeys(table["partition"]))
    partition = known[0] if partition is None else partition
    if partition not in known:
        raise unknown("partition", partition, known)
    rows = table[(table["partition"] == partition) & (table["n"] > 0)]
    if not len(rows):
        raise ConfigError(f"{partition}: NEE, GPP and RECO have no row in common; there is no residual to draw.")
    models = chosen_names("model", None, rows["model"])
    styles = styles_of(models, styles)
    groups = ordered_groups(rows)
    ax = new_axes(ax, (6.4, 1.2 + len(groups) * (0.1 + 0.07 * len(models))))
    step = 0.8 / len(models)
    for j, model in enumerate(models):
        one = rows[rows["model"] == model].set_index("group").reindex(groups)
        at = -np.arange(len(groups)) + (0.5 * (len(models) - 1) - j) * step
        style = styles[model]
        ax.hlines(at, one["median_abs"], one["p90_abs"], color=style.color, linewidth=1.2)
        ax.plot(one["median_abs"], at, style.marker, color=style.color, markersize=4.5, label=model, clip_on=False)
    ax.set_yticks(-np.arange(len(groups)), group_labels(rows, groups), fontsize=9)
    end, tolerance = 1.08 * float(rows["p90_abs"].max()), float(rows["tolerance"].iloc[0])
    if tolerance < 2 * end:
        ax.axvline(tolerance, color=ink(), linewidth=0.7, linestyle=":", label="tolerance")
    ax.set_xlabel(f"|NEE − (RECO − GPP)| ({print_units(str(rows['units'].iloc[0]))}): median and 90th percentile")
    ax.set_xlim(0, max(end, 1e-3))
    ax.grid(axis="x", alpha=0.25, linewidth=0.6)
    title_and_legend(ax, f"{partition} partitioning" if title is None else title)
    return save_picture(ax, path)
