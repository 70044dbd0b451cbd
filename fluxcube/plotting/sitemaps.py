"""Maps of towers: by class, network or any value of theirs.

Axes and files are handled as in `fluxcube.plotting.maps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.plotting.canvas import class_styles, figure_of, fit_title, ink, new_axes, print_units, save_picture
from fluxcube.plotting.mapframe import MapFrame, shape_of
from fluxcube.plotting.maps import draw_bar, draw_legend, extend_of
from fluxcube.plotting.places import Places, box_of, places_of, values_of
from fluxcube.plotting.projections import projection_of
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    import pyproj
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LinearSegmentedColormap
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

#: Scores of which lower values are better.
ERRORS = ("rmse", "mae", "crps")
#: Limits of the colours of scores; None are percentiles.
_LIMITS = {"nse": (-0.5, 1.0), "corr2": (0.0, 1.0)}
_HEADINGS = {"igbp": "IGBP class", "koppen": "main climate", "network": "network", "networks": "first network"}
#: Width (inches) of a map, and of a legend beside it.
_WIDTH, _LEGEND = 8.0, 1.5
#: Areas of markers that would look larger or smaller than the others at the same area.
_SIZES = {"*": 46, "o": 24, "s": 20}
#: Number of classes in one column of the legend.
_LINES = 20


def plot_sites(
    sites: Places,
    path: str | Path | None = None,
    *,
    by: str | xr.DataArray | pd.Series | Mapping[str, float] | None = "igbp",
    bbox: tuple[float, float, float, float] | None = None,
    projection: str | pyproj.CRS | None = None,
    names: bool = False,
    cmap: str | Colormap | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw towers on a map, by class, network, skill or another value.

    Parameters
    ----------
    sites : xr.Dataset or pd.DataFrame
        A cube, or a table with the columns site, latitude and longitude, such as `fluxcube.known_sites` returns.
    path : path, optional
        File to write; its ending selects the format.
    by : str, xr.DataArray, pd.Series or mapping, optional
        What colours the towers: a coordinate or column ("igbp", "koppen", "network", "elevation"), or values by site,
        e.g. ``fluxcube.evaluate(cube, predictions, by="site").nse.sel(target="NEE")``. Classes have a legend with the
        number of their towers, numbers a colour bar; towers without a number are empty circles. A tower of several
        networks is drawn in the first. None: one colour.
    bbox : (west, south, east, north), optional
        Part of the world to show, degrees. Default: the region of the towers, or the world if they are far apart.
    projection : str or pyproj.CRS, optional
        As in `fluxcube.plot_map`.
    names : bool
        Write the name of each tower beside it. A name that would overlap one written before, of a tower that comes
        earlier in the data, is left out.
    cmap, limits, title, ax
        As in `fluxcube.plot_map`; scores have colours from orange (bad) to blue (good).

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SchemaError
        If the places of the towers are missing, or `by` has no value of them.
    UnknownNameError
        If the towers do not have the coordinate `by`.
    ConfigError
        If no tower lies within `bbox`.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> ax = plot_sites(example_cube(), by="igbp")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['CRO (1)', 'DBF (1)', 'ENF (1)', 'GRA (1)']
    """
    places = places_of(sites)
    name, values = ("", None) if by is None else values_of(places, by)
    box = box_of(places, bbox)
    projected = projection_of(projection if projection is not None else getattr(ax, "projection", None), box)
    box = box if projected is None else projected.box
    beside = _LEGEND if values is not None and values.dtype.kind != "f" else 0.0
    ax = new_axes(ax, (_WIDTH + beside, _WIDTH * shape_of(box, projected) + 0.6))
    frame = MapFrame(ax, box, projected)
    x, y, inside = frame.place(places["longitude"].to_numpy(float), places["latitude"].to_numpy(float))
    if not inside.any():
        raise ConfigError(
            f"none of the {len(places)} towers lies within the box from {box.west:g} to {box.east:g} degrees east and "
            f"{box.south:g} to {box.north:g} degrees north; pass a larger one."
        )
    frame.land()
    frame.finish()
    if values is None:
        frame.ax.scatter(x, y, s=22, color="#0072B2", edgecolors=ink(), linewidths=0.5, zorder=3)
    elif values.dtype.kind == "f":
        units = str(values.attrs.get("units", "")).removeprefix("1")
        numbers = values.to_numpy(float)
        _draw_values(frame.ax, x, y, numbers, name, units, cmap, limits)
        name_hollow(frame.ax, numbers[inside])
    else:
        _draw_classes(frame.ax, x[inside], y[inside], values.to_numpy(object)[inside], name)
    count = int(inside.sum())
    fit_title(frame.ax, counted(count, "tower") if title is None else title, pad=frame.pad)
    if names:
        _write_names(frame.ax, x, y, places.index)
    return save_picture(frame.ax, path)


def _draw_values(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    name: str,
    units: str,
    cmap: str | Colormap | None,
    limits: tuple[float, float] | None,
) -> None:
    """Draw towers by a number, those without one as empty circles."""
    score = name.lower()
    is_score = score in ERRORS or score in _LIMITS
    low, high = score_limits(score, values, limits)
    colors = cmap or (score_colors(lower_is_better=score in ERRORS) if is_score else "viridis")
    dots = draw_dots(ax, x, y, values, cmap=colors, vmin=low, vmax=high)
    shown = name.upper() if is_score else name
    extend = extend_of(values, low, high)
    draw_bar(ax, dots, f"{shown} ({print_units(units)})" if units else shown, extend)


def draw_dots(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, *, size: float = 26, **style: Any) -> Any:
    """Draw dots by value, the smallest values on top; those without a value are empty circles behind."""
    known = np.isfinite(values)
    ax.scatter(x[~known], y[~known], s=size, facecolors="none", edgecolors=ink(), linewidths=0.5, zorder=2.5)
    order = np.flatnonzero(known)[np.argsort(-values[known])]
    dots = ax.scatter(x[order], y[order], s=size, c=values[order], zorder=3, **style)
    dots.set(edgecolors=ink(), linewidths=0.5)
    return dots


def name_hollow(ax: Axes, values: np.ndarray) -> None:
    """Draw a legend of the empty circles of `draw_dots` below a map, if one of its towers has no value."""
    from matplotlib.lines import Line2D

    if not np.isfinite(values).all():
        style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": ink(), "markeredgewidth": 0.5}
        draw_legend(ax, [Line2D([], [], marker="o", markersize=5, linestyle="none", label="no value", **style)])


def _draw_classes(ax: Axes, x: np.ndarray, y: np.ndarray, classes: np.ndarray, name: str) -> None:
    """Draw towers by class, the most frequent class first, so that rare ones are on top; with a legend beside."""
    styles = class_styles(classes)
    number = {label: int((classes == label).sum()) for label in styles}
    many = len(classes) > 200
    for order, label in enumerate(sorted(styles, key=lambda one: -number[one])):
        color, marker = styles[label]
        here = classes == label
        size = _SIZES.get(marker, 28) * (0.5 if many else 1.0)
        style: dict[str, Any] = {"color": color, "marker": marker, "edgecolors": ink(), "linewidths": 0.4}
        ax.scatter(x[here], y[here], s=size, zorder=3 + 0.01 * order, label=f"{label} ({number[label]})", **style)
    handles, names = ax.get_legend_handles_labels()
    pairs = sorted(zip(names, handles, strict=True), key=lambda pair: (pair[0].startswith("unknown"), pair[0]))
    legend = ax.legend(
        [handle for _, handle in pairs],
        [text for text, _ in pairs],
        title=_HEADINGS.get(name, name),
        fontsize=8,
        title_fontsize=9,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=-(-len(pairs) // _LINES),
    )
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([28.0])


def _write_names(ax: Axes, x: np.ndarray, y: np.ndarray, names: pd.Index) -> None:
    """Write the names of towers, except those that would overlap a name written before."""
    figure_of(ax).draw_without_rendering()  # places the axes, which sizes of texts are compared with
    written: list[Bbox] = []
    for at in np.flatnonzero(np.isfinite(x)):
        text = _write_name(ax, (x[at], y[at]), str(names[at]))
        place = text.get_window_extent()
        if any(place.overlaps(other) for other in written):
            text.remove()
        else:
            written.append(place)


def _write_name(ax: Axes, place: tuple[float, float], name: str) -> Annotation:
    return ax.annotate(name, place, xytext=(4, 3), textcoords="offset points", fontsize=7, parse_math=False, zorder=6)


def score_colors(*, lower_is_better: bool) -> LinearSegmentedColormap:
    """Return colours from orange (bad) to blue (good), which are legible on white and on black."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = ("#C04F00", "#E8A66B", "#CFCFCF", "#76B2DB", "#0063A6")
    return LinearSegmentedColormap.from_list("skill", colors[::-1] if lower_is_better else colors)


def score_limits(
    score: str, values: np.ndarray, limits: tuple[float, float] | None, *, difference: bool = False
) -> tuple[float, float]:
    """Return the values of the first and last colour of a score, or of its difference from another."""
    if limits is not None:
        return limits
    if score in _LIMITS and not difference:
        return _LIMITS[score]
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (5, 95)) if len(finite) else (0.0, 1.0)
    if difference:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)
