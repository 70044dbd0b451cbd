"""Draw maps of fluxes and other fields, with coasts, borders, towers and projections.

Every function draws on `ax`, or on the axes of a new figure that is not registered with pyplot, returns the Axes, and
writes a file if `path` is set (an existing file is replaced, as by matplotlib).
"""

from __future__ import annotations

import calendar
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.geometry import west_to_east
from fluxcube.plotting.canvas import (
    Panels,
    figure_of,
    fit_title,
    ink,
    new_axes,
    new_panels,
    print_units,
    save_panels,
    save_picture,
)
from fluxcube.plotting.categories import categories_of, draw_categories
from fluxcube.plotting.mapframe import MapFrame, shape_of
from fluxcube.plotting.places import Places, places_of
from fluxcube.plotting.projections import Box, projection_of, turned

if TYPE_CHECKING:
    import pyproj
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.patches import Patch

_NO_DATA, _OCEAN = "#8f8f8f", "#dcdfe2"  # not among the colours of a flux, and not white, which is zero
#: Substance of each flux, for its printed units.
_SUBSTANCES = {"NEE": "CO₂", "GPP": "CO₂", "RECO": "CO₂", "FCH4": "CH₄"}
#: Maximum number of rows and columns drawn: larger maps are drawn as means of blocks of cells.
_MAX_CELLS = 2000
_SEQUENTIAL = {"GPP": "YlGn", "RECO": "YlOrBr"}
#: Endings of the names of fields that are never negative.
_UNSIGNED = ("_std", "_spread")
#: Colours of a field of one sign begin at zero if its smallest values are below this share of the largest.
_NEAR_ZERO = 0.25
#: Width (inches) of a map, of a panel, and of the colour bar beside them.
_WIDTH, _PANEL = 8.0, 4.6
_MONTHS = tuple(calendar.month_name)[1:]


@dataclass(frozen=True)
class _Look:
    """How maps are drawn: the options of `plot_map` that are the same for all panels."""

    projection: str | pyproj.CRS | None = None
    cmap: str | Colormap | None = None
    diverging: bool | None = None
    limits: tuple[float, float] | None = None
    extend: str | None = None
    coast: bool = True
    borders: bool | None = None
    sites: pd.DataFrame | None = None
    bar: bool = True


class _MapOptions(TypedDict, total=False):
    """Options of `plot_map` for one map and for several."""

    projection: str | pyproj.CRS | None
    columns: int | None
    cmap: str | Colormap | None
    diverging: bool | None
    limits: tuple[float, float] | None
    extend: str | None
    applicable: xr.DataArray | None
    mark_sites: Places | None
    title: str | None
    coast: bool
    borders: bool | None
    ax: Axes | None


@overload
def plot_map(maps: xr.DataArray, path: str | Path | None = None, **options: Unpack[_MapOptions]) -> Axes: ...


@overload
def plot_map(
    maps: xr.DataArray, path: str | Path | None = None, *, panels: str, **options: Unpack[_MapOptions]
) -> Panels: ...


@overload
def plot_map(maps: xr.Dataset, path: str | Path | None = None, **options: Unpack[_MapOptions]) -> Panels: ...


def plot_map(
    maps: xr.Dataset | xr.DataArray,
    path: str | Path | None = None,
    *,
    projection: str | pyproj.CRS | None = None,
    panels: str | None = None,
    columns: int | None = None,
    cmap: str | Colormap | None = None,
    diverging: bool | None = None,
    limits: tuple[float, float] | None = None,
    extend: str | None = None,
    applicable: xr.DataArray | None = None,
    mark_sites: Places | None = None,
    title: str | None = None,
    coast: bool = True,
    borders: bool | None = None,
    ax: Axes | None = None,
) -> Axes | Panels:
    """Draw one map with coasts, or several side by side.

    A global map begins at 180 degrees west, wherever its grid begins; a map across the antimeridian is in one piece.

    Parameters
    ----------
    maps : xr.DataArray or xr.Dataset
        (latitude, longitude), in the units of its attributes; a Dataset has a panel for each variable, and an array
        with a further dimension needs `panels`. Cells without a value are dark grey, or pale grey where the coordinate
        land_fraction reports no land. Maps with more than 2000 rows or columns are drawn as means of blocks of cells.
        Fields of classes (attributes flag_values and flag_meanings, booleans, `applicable` and its means) have a legend
        instead of a colour bar.
    path : path, optional
        File to write; its ending selects the format.
    projection : str or pyproj.CRS, optional
        "platecarree" (the default: the axes are degrees), "robinson", "mollweide", "lambert" (azimuthal equal-area,
        for regions), "polar" (equal-area around the pole of the map's hemisphere), a code ("EPSG:3035") or text that
        pyproj reads, or a CRS of cartopy.
    panels : str, optional
        Dimension of an array along which panels are drawn, e.g. "time"; they have the same colours.
    columns : int, optional
        Number of panels side by side. Default: at most three.
    cmap : str or matplotlib.colors.Colormap, optional
        Colours. Default: "RdBu_r" if diverging, greens for GPP, browns for RECO, else "viridis"; all can be read
        without telling red from green.
    diverging : bool, optional
        Use a colour map centred at zero. Default: for NEE, and for variables with both signs except GPP and RECO.
    limits : (float, float), optional
        Values of the first and last colour. Default: the 2nd and 98th percentile, symmetric about zero if diverging.
        Colours of GPP, RECO, standard deviations and other fields of one sign begin at zero.
    extend : {"neither", "min", "max", "both"}, optional
        Ends of the colour bar drawn as arrows. Default: the ends that are exceeded by values.
    applicable : xr.DataArray, optional
        (latitude, longitude): whether, or for which share of time, the model is within its area of applicability.
        Cells below one half are hatched.
    mark_sites : xr.Dataset or pd.DataFrame, optional
        Towers to mark: a cube, or a table with latitude and longitude.
    title : str, optional
        Default: the long name, and the time if the array has one. Lines that do not fit are wrapped.
    coast : bool
        Draw the outlines of land (Natural Earth, 1:110 million, or 1:50 million for regions; for orientation only, not
        a mask).
    borders : bool, optional
        Draw the borders of countries. Default: with the coasts, on maps of at most 100 degrees.
    ax : matplotlib.axes.Axes, optional
        Axes to draw one map on; axes of cartopy have their own projection. Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes, or a tuple of these
        The axes of the map; a tuple for a Dataset, and with `panels`.

    Raises
    ------
    SchemaError
        If the array is not a single map.
    UnknownNameError
        If the projection is not known, or `panels` is no dimension.
    ConfigError
        If the projection cannot show the map, or `ax` is passed for several panels.
    StoreError
        If the folder of `path` does not exist.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_forcing
    >>> weather = example_forcing().predictors.mean("time").sel(variable="TA")
    >>> plot_map(weather.rename("TA"), title="June").get_title()
    'June'
    """
    places = None if mark_sites is None else places_of(mark_sites)
    look = _Look(projection, cmap, diverging, limits, extend, coast, borders, places)
    if isinstance(maps, xr.DataArray) and panels is None:
        return save_picture(_draw_map(maps, applicable, look, title, ax), path)
    if ax is not None:
        raise ConfigError("ax: several panels are drawn in a figure of their own; leave ax out, or select one map.")
    axes = _draw_panels(maps, panels, columns, applicable, look, title)
    return save_panels(axes, path)


def _draw_map(
    da: xr.DataArray, applicable: xr.DataArray | None, look: _Look, title: str | None, ax: Axes | None
) -> Axes:
    """Draw one map on `ax`, or on the axes of a new figure."""
    categories = categories_of(da)
    da = _one_map(da, categorical=bool(categories))
    values = np.asarray(da.values, float)
    if not np.isfinite(values).any():
        raise SchemaError(f"{da.name or 'the map'} has no finite value; there is nothing to draw.")
    frame, cells = _frame_of(da, look, ax)
    patches: list[Patch | None] = []
    if categories:
        patches += draw_categories(frame, cells.x, cells.y, cells.of(values), categories)
    else:
        name, low, high = color_limits(str(da.name or ""), values, look.diverging, look.limits)
        style = {"cmap": look.cmap or name, "vmin": low, "vmax": high}
        mesh = frame.cells(cells.x, cells.y, np.ma.masked_invalid(cells.of(values)), **style)
        if look.bar:
            draw_bar(frame.ax, mesh, _label(da), look.extend or extend_of(values, low, high))
    patches.append(_draw_ocean(frame, da, cells))
    if applicable is not None:
        patches.append(_draw_hatch(frame, da, _one_map(applicable), cells))
    frame.land(coast=look.coast, borders=look.borders)
    frame.finish(_NO_DATA)
    if look.sites is not None:
        draw_places(frame, look.sites)
    draw_legend(frame.ax, [patch for patch in patches if patch is not None])
    fit_title(frame.ax, map_title(da) if title is None else title, pad=frame.pad)
    return frame.ax


@dataclass(frozen=True)
class _Cells:
    """Edges of the cells as they are drawn, and the column of the map that each drawn column is of."""

    x: np.ndarray
    y: np.ndarray
    columns: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return values (latitude, longitude) of the drawn columns."""
        return values[:, self.columns]


def _frame_of(da: xr.DataArray, look: _Look, ax: Axes | None) -> tuple[MapFrame, _Cells]:
    """Return the axes of a map, and its cells in the order in which its projection shows them."""
    x, y = _grid(da)
    box = Box(x.min(), x.max(), max(y.min(), -90.0), min(y.max(), 90.0))
    wanted = look.projection if look.projection is not None else getattr(ax, "projection", None)
    projection = projection_of(wanted, box)
    columns = np.arange(len(x) - 1)
    if projection is not None:
        box = projection.box
        if box.around:
            x, columns = turned(x, box)
    ax = new_axes(ax, (_WIDTH, _WIDTH * shape_of(box, projection) + 0.6))
    return MapFrame(ax, box, projection), _Cells(x, y, columns)


def _draw_panels(
    maps: xr.Dataset | xr.DataArray,
    panels: str | None,
    columns: int | None,
    applicable: xr.DataArray | None,
    look: _Look,
    title: str | None,
) -> tuple[Axes, ...]:
    """Draw a panel for each variable, or for each element of a dimension, which share their colours."""
    if isinstance(maps, xr.DataArray):
        parts = _along(maps, str(panels))
        look = _shared_look(maps, look)
    else:
        if panels is not None:
            raise ConfigError(f'panels="{panels}": pass one variable of the Dataset, maps["NEE"], to draw its steps.')
        parts = {str(name): maps[name] for name in maps.data_vars if {"latitude", "longitude"} <= set(maps[name].dims)}
        if not parts:
            raise SchemaError("expected variables (latitude, longitude), found none; pass maps.")
    first, _ = _frame_of(_one_map(next(iter(parts.values())), categorical=True), look, None)
    height = _PANEL * (first.ax.figure.get_figheight() - 0.6) / _WIDTH + 0.5  # type: ignore[union-attr]
    axes = _panel_axes(len(parts), columns or min(3, len(parts)), (_PANEL, height))
    for ax, (label, part) in zip(axes, parts.items(), strict=True):
        _draw_map(part, applicable, look, label if panels is not None else None, ax)
    if isinstance(maps, xr.DataArray):
        _shared_bar(axes, maps, look)
        figure_of(axes[0]).suptitle(_long_name(maps) if title is None else title, fontsize=11, color=ink())
    elif title is not None:
        figure_of(axes[0]).suptitle(title, fontsize=11, color=ink())
    return axes


def _along(da: xr.DataArray, dim: str) -> dict[str, xr.DataArray]:
    """Return the maps along a dimension by their label."""
    others = [d for d in map(str, da.dims) if d not in ("latitude", "longitude")]
    if dim not in others:
        raise unknown("dimension for panels", dim, others)
    parts = {_panel_label(da, dim, i): da.isel({dim: i}) for i in range(da.sizes[dim])}
    if not parts:
        raise SchemaError(f"expected maps along {dim}, found none; select a longer period.")
    return parts if len(parts) == da.sizes[dim] else {f"{dim} {i}": da.isel({dim: i}) for i in range(da.sizes[dim])}


def _panel_label(da: xr.DataArray, dim: str, i: int) -> str:
    if dim == "time" and "time" in da.coords:
        return _when(da.isel(time=i))
    if dim not in da.coords:
        return f"{dim} {i}"
    value = da[dim].values[i]
    if dim == "month" and value in range(1, 13):
        return _MONTHS[int(value) - 1]
    return f"{value} h" if dim == "hour" else str(value)


def _shared_look(da: xr.DataArray, look: _Look) -> _Look:
    """Return the options with the colours of all panels together."""
    from dataclasses import replace

    if categories_of(da):
        return look
    values = np.asarray(coarsened(da).values, float)
    if not np.isfinite(values).any():
        raise SchemaError(f"{da.name or 'the map'} has no finite value; there is nothing to draw.")
    name, low, high = color_limits(str(da.name or ""), values, look.diverging, look.limits)
    extend = look.extend or extend_of(values, low, high)
    return replace(look, cmap=look.cmap or name, limits=(low, high), extend=extend, bar=False)


def _panel_axes(number: int, columns: int, size: tuple[float, float]) -> tuple[Axes, ...]:
    """Return axes in rows, in one new figure."""
    if columns < 1:
        raise ConfigError(f"columns={columns}: expected at least 1.")
    columns = min(columns, number)
    lines = -(-number // columns)
    first = new_panels(1, (size[0] * columns, size[1] * lines))[0]
    figure = figure_of(first)
    first.remove()
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[number:]:
        ax.remove()
    return tuple(axes[:number])


def _shared_bar(axes: Sequence[Axes], da: xr.DataArray, look: _Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if look.limits is None or look.bar:
        return
    mapped = ScalarMappable(Normalize(*look.limits), look.cmap)
    figure_of(axes[0]).colorbar(mapped, ax=list(axes), extend=look.extend, shrink=0.8, label=_label(da))


def draw_places(frame: MapFrame, places: pd.DataFrame, *, size: float = 16.0) -> None:
    """Mark places with latitude and longitude by white dots with a dark edge."""
    style = {"s": size, "color": "white", "edgecolors": "black", "linewidths": 0.8, "zorder": 5}
    frame.points(places["longitude"].to_numpy(float), places["latitude"].to_numpy(float), **style)


def _one_map(da: xr.DataArray, *, categorical: bool = False) -> xr.DataArray:
    for dim in [d for d in da.dims if d not in ("latitude", "longitude")]:
        if da.sizes[dim] != 1:
            how = (
                f'take its mean, da.mean("{dim}"), select one, da.isel({dim}=0), or draw all, plot_map(da, '
                f'panels="{dim}")'
            )
            raise SchemaError(f"expected dims (latitude, longitude), found {dim} of length {da.sizes[dim]}; {how}.")
        da = da.isel({dim: 0})
    if set(da.dims) != {"latitude", "longitude"}:
        raise SchemaError(f"expected dims (latitude, longitude), found {da.dims}; select one map.")
    return coarsened(da.transpose("latitude", "longitude"), categorical=categorical).compute()


def coarsened(da: xr.DataArray, *, categorical: bool = False) -> xr.DataArray:
    """Sort maps (..., latitude, longitude) from west to east, and average blocks of cells of maps too large to draw.

    Of classes, every so manieth cell is taken instead.
    """
    order, east = west_to_east(da.longitude.values)
    da = da.isel(longitude=order).assign_coords(longitude=("longitude", east, da.longitude.attrs))
    blocks = {dim: -(-da.sizes[dim] // _MAX_CELLS) for dim in ("latitude", "longitude")}
    if max(blocks.values()) == 1:
        return da
    if categorical:
        return da.isel({dim: slice(None, None, block) for dim, block in blocks.items()})
    return da.astype("float32").coarsen(blocks, boundary="pad").mean(keep_attrs=True)


def _draw_ocean(frame: MapFrame, da: xr.DataArray, cells: _Cells) -> Patch | None:
    """Colour cells without land and value; return the legend entry of other cells without a value, if any."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    empty = ~np.isfinite(np.asarray(da.values, float))
    ocean = np.zeros_like(empty)
    if "land_fraction" in da.coords:
        ocean = empty & ~(da.land_fraction.transpose(*da.dims).values > 0)
        if ocean.any():
            shown = cells.of(ocean)
            frame.cells(cells.x, cells.y, np.ma.masked_where(~shown, shown), cmap=ListedColormap([_OCEAN]))
    return Patch(color=_NO_DATA, label="no value") if (empty & ~ocean).any() else None


def _draw_hatch(frame: MapFrame, da: xr.DataArray, share: xr.DataArray, cells: _Cells) -> Patch | None:
    """Hatch cells with a value and a share below one half; return the legend entry.

    Neighbouring cells of a row are drawn as one box, so that the pattern continues.
    """
    from matplotlib.patches import Patch

    if share.shape != da.shape or not all(np.allclose(share[d], da[d]) for d in da.dims):
        raise SchemaError(
            f"applicable: expected the cells of the map, {dict(da.sizes)}, found {dict(share.sizes)}; reindex it."
        )
    outside = cells.of(np.isfinite(np.asarray(da.values, float)) & (np.asarray(share.values, float) < 0.5))
    if not outside.any():
        return None
    edges = np.diff(np.pad(outside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    corners = np.stack([cells.x[first], cells.x[last], cells.y[rows], cells.y[rows + 1]], 1)
    style: dict[str, Any] = {
        "facecolor": (1.0, 1.0, 1.0, 0.4),
        "edgecolor": "#303030",
        "hatch": "////",
        "linewidth": 0.0,
    }
    frame.boxes(corners, zorder=1.5, **style)
    return Patch(label="outside the area of applicability", **style)


def draw_legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """Draw a legend below a map, if there are handles."""
    if handles:
        legend = functools.partial(ax.legend, loc="upper left", bbox_to_anchor=(0.0, -0.07), ncols=min(len(handles), 3))
        legend(handles=list(handles), fontsize=8, frameon=False, borderaxespad=0.0)


def color_limits(
    name: str, values: np.ndarray, diverging: bool | None, limits: tuple[float, float] | None
) -> tuple[str, float, float]:
    """Return the colour map of a field, and the values of its first and last colour."""
    low, high = np.nanpercentile(values[np.isfinite(values)], (2, 98))
    kind, unsigned = name.split("_")[0], name.endswith(_UNSIGNED)
    if diverging is None:
        diverging = not unsigned and (kind == "NEE" or (low < 0 < high and kind not in _SEQUENTIAL))
    if limits is not None:
        low, high = limits
    elif diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    else:
        low, high = _from_zero(low, high, values, always=unsigned or kind in _SEQUENTIAL)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    sequential = "viridis" if unsigned else _SEQUENTIAL.get(kind, "viridis")
    return ("RdBu_r" if diverging else sequential), float(low), float(high)


def _from_zero(low: float, high: float, values: np.ndarray, *, always: bool) -> tuple[float, float]:
    """Return limits that begin at zero, if all values have one sign and some of them are near zero, or `always`."""
    if always and high > 0:
        return 0.0, high
    if np.nanmin(values) >= 0 and low < _NEAR_ZERO * high:
        return 0.0, high
    return (low, 0.0) if np.nanmax(values) <= 0 and high > _NEAR_ZERO * low else (low, high)


def extend_of(values: np.ndarray, low: float, high: float) -> str:
    """Return the ends of a colour bar that are exceeded by values: neither, min, max or both."""
    below, above = np.nanmin(values) < low, np.nanmax(values) > high
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        bool(below), bool(above)
    ]


def _grid(da: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return cell edges in degrees east and north; a single row or column has the width of the other axis's cells."""
    east, north = da.longitude.values.astype(float), da.latitude.values.astype(float)
    width = next((abs(axis[1] - axis[0]) for axis in (east, north) if len(axis) > 1), 0.25)
    return _edges(east, width), _edges(north, width)


def _edges(centres: np.ndarray, width: float) -> np.ndarray:
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5]) * width
    middle = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def draw_bar(ax: Axes, mapped: ScalarMappable, label: str, extend: str) -> None:
    """Draw a colour bar as high as the map; a bar beside axes of a fixed aspect would not be."""
    figure_of(ax).colorbar(mapped, cax=ax.inset_axes((1.02, 0.0, 0.03, 1.0)), extend=extend).set_label(label)


def map_title(da: xr.DataArray) -> str:
    """Return the title of a map: its long name, and its time."""
    when = _when(da)
    if "hour" in da.coords and not da.hour.ndim:
        clock = "local mean solar time" if "solar" in str(da.hour.attrs.get("long_name", "")) else "UTC"
        when = f"{when}, {int(da.hour):02d} to {int(da.hour) + 1:02d} h {clock}".removeprefix(", ")
    return "\n".join(filter(None, (_long_name(da), when)))


def _long_name(da: xr.DataArray) -> str:
    return str(da.attrs.get("long_name", "")).replace("CO2", "CO₂").replace("CH4", "CH₄")


def _when(da: xr.DataArray) -> str:
    """Return the time of a map, as precise as the period it is averaged over."""
    over = str(da.attrs.get("averaged_over", ""))
    formats = {"": "%Y-%m-%d %H:%M UTC", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
    if over not in formats:
        return f"mean of {over}"
    return pd.Timestamp(da.time.values).strftime(formats[over]) if "time" in da.coords and not da.time.ndim else ""


def _label(da: xr.DataArray) -> str:
    name, units = str(da.name or ""), print_units(str(da.attrs.get("units", "")))
    units = units.replace("mol m", f"mol {_SUBSTANCES.get(name.split('_')[0], '')} m".replace("  ", " "), 1)
    return f"{name} ({units})" if units else name
