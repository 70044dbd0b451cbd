"""Draw flux maps with coasts, scores of models as bars, and differences between models.

Every function draws on `ax`, or on the axes of a new figure that is not registered with pyplot, returns the Axes, and
writes a file if `path` is set (an existing file is replaced, as by matplotlib).
"""

from __future__ import annotations

import functools
import json
import textwrap
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.geometry import west_to_east
from fluxcube.plotting.canvas import Style, figure_of, new_axes, print_units, save_picture, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

_NO_DATA, _OCEAN = "#8f8f8f", "#dcdfe2"  # not among the colours of a flux, and not white, which is zero
#: Substance of each flux, for its printed units.
_SUBSTANCES = {"NEE": "CO₂", "GPP": "CO₂", "RECO": "CO₂", "FCH4": "CH₄"}
#: Maximum number of rows and columns drawn: larger maps are drawn as means of blocks of cells.
_MAX_CELLS = 2000
_SEQUENTIAL = {"GPP": "YlGn", "RECO": "YlOrBr"}


def plot_map(
    da: xr.DataArray,
    path: str | Path | None = None,
    *,
    diverging: bool | None = None,
    limits: tuple[float, float] | None = None,
    extend: str | None = None,
    applicable: xr.DataArray | None = None,
    title: str | None = None,
    coast: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one map with coasts.

    A global map begins at 180 degrees west, wherever its grid begins; a map across the antimeridian is in one piece.

    Parameters
    ----------
    da : xr.DataArray
        (latitude, longitude), in the units of its attributes. Cells without a value are dark grey, or pale grey where
        the coordinate land_fraction reports no land. Maps with more than 2000 rows or columns are drawn as means of
        blocks of cells.
    path : path, optional
        File to write; its ending selects the format.
    diverging : bool, optional
        Use a colour map centred at zero. Default: for NEE, and for variables with both signs except GPP and RECO.
    limits : (float, float), optional
        Values of the first and last colour. Default: the 2nd and 98th percentile, symmetric about zero if diverging.
    extend : {"neither", "min", "max", "both"}, optional
        Ends of the colour bar drawn as arrows. Default: the ends that are exceeded by values.
    applicable : xr.DataArray, optional
        (latitude, longitude): whether, or for which share of time, the model is within its area of applicability.
        Cells below one half are hatched.
    title : str, optional
        Default: the long name, and the time if the array has one.
    coast : bool
        Draw the outlines of land (Natural Earth, 1:110 million; for orientation only, not a mask).
    ax : matplotlib.axes.Axes, optional
        Axes to draw on. Default: those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SchemaError
        If the array is not a single map.
    StoreError
        If the folder of `path` does not exist.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_forcing
    >>> weather = example_forcing().predictors.mean("time").sel(variable="TA")
    >>> plot_map(weather.rename("TA"), title="June").get_title()
    'June'
    """
    da = _one_map(da)
    values = np.asarray(da.values, float)
    if not np.isfinite(values).any():
        raise SchemaError(f"{da.name or 'the map'} has no finite value; there is nothing to draw.")
    cmap, low, high = color_limits(str(da.name or ""), values, diverging, limits)
    ax = new_axes(ax, (8.0, 8.0 * _aspect_of(da) + 0.6))
    x, y = _grid(da)
    ax.set_facecolor(_NO_DATA)
    mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, rasterized=True)
    patches = [_draw_ocean(ax, da, x, y)]
    if applicable is not None:
        patches.append(_draw_hatch(ax, da, _one_map(applicable), x, y))
    if coast:
        _draw_coast(ax)
    _frame(ax, x, y)
    _draw_bar(ax, mesh, _label(da), extend or extend_of(values, low, high))
    _draw_legend(ax, [patch for patch in patches if patch is not None])
    ax.set_title(map_title(da) if title is None else title, fontsize=11)
    return save_picture(ax, path)


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
        As in `plot_map`.
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
    ax.set_ylabel(f"{score.upper()}{_units_of_score(rows, score)}, all hours of the group pooled")
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
        As in `plot_map`.
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


def _one_map(da: xr.DataArray) -> xr.DataArray:
    for dim in [d for d in da.dims if d not in ("latitude", "longitude")]:
        if da.sizes[dim] != 1:
            how = f'take its mean, da.mean("{dim}"), or select one, da.isel({dim}=0)'
            raise SchemaError(f"expected dims (latitude, longitude), found {dim} of length {da.sizes[dim]}; {how}.")
        da = da.isel({dim: 0})
    if set(da.dims) != {"latitude", "longitude"}:
        raise SchemaError(f"expected dims (latitude, longitude), found {da.dims}; select one map.")
    return coarsened(da.transpose("latitude", "longitude")).compute()


def coarsened(da: xr.DataArray) -> xr.DataArray:
    """Sort maps (..., latitude, longitude) from west to east, and average blocks of cells of maps too large to draw."""
    order, east = west_to_east(da.longitude.values)
    da = da.isel(longitude=order).assign_coords(longitude=("longitude", east, da.longitude.attrs))
    blocks = {dim: -(-da.sizes[dim] // _MAX_CELLS) for dim in ("latitude", "longitude")}
    if max(blocks.values()) == 1:
        return da
    return da.astype("float32").coarsen(blocks, boundary="pad").mean(keep_attrs=True)


def _draw_ocean(ax: Axes, da: xr.DataArray, x: np.ndarray, y: np.ndarray) -> Patch | None:
    """Colour cells without land and value; return the legend entry of other cells without a value, if any."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    empty = ~np.isfinite(np.asarray(da.values, float))
    ocean = np.zeros_like(empty)
    if "land_fraction" in da.coords:
        ocean = empty & ~(da.land_fraction.transpose(*da.dims).values > 0)
        if ocean.any():
            ax.pcolormesh(x, y, np.ma.masked_where(~ocean, ocean), cmap=ListedColormap([_OCEAN]), rasterized=True)
    return Patch(color=_NO_DATA, label="no value") if (empty & ~ocean).any() else None


def _draw_hatch(ax: Axes, da: xr.DataArray, share: xr.DataArray, x: np.ndarray, y: np.ndarray) -> Patch | None:
    """Hatch cells with a value and a share below one half; return the legend entry.

    Neighbouring cells of a row are drawn as one box, so that the pattern continues.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    if share.shape != da.shape or not all(np.allclose(share[d], da[d]) for d in da.dims):
        raise SchemaError(
            f"applicable: expected the cells of the map, {dict(da.sizes)}, found {dict(share.sizes)}; reindex it."
        )
    outside = np.isfinite(np.asarray(da.values, float)) & (np.asarray(share.values, float) < 0.5)
    if not outside.any():
        return None
    edges = np.diff(np.pad(outside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    (west, east), (south, north) = (x[first], x[last]), (y[rows], y[rows + 1])
    boxes = np.stack([west, south, east, south, east, north, west, north], 1).reshape(-1, 4, 2)
    face, edge, hatch = (1.0, 1.0, 1.0, 0.4), "#303030", "////"
    polygons = PolyCollection(list(boxes), zorder=1.5, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.0)
    ax.add_collection(polygons, autolim=False)
    label = "outside the area of applicability"
    return Patch(label=label, facecolor=face, edgecolor=edge, hatch=hatch, linewidth=0.0)


def _draw_legend(ax: Axes, patches: list[Patch]) -> None:
    if patches:
        legend = functools.partial(ax.legend, loc="upper left", bbox_to_anchor=(0.0, -0.07), ncols=len(patches))
        legend(handles=patches, fontsize=8, frameon=False, borderaxespad=0.0)


def color_limits(
    name: str, values: np.ndarray, diverging: bool | None, limits: tuple[float, float] | None
) -> tuple[str, float, float]:
    """Return the colour map of a flux, and the values of its first and last colour."""
    low, high = np.nanpercentile(values[np.isfinite(values)], (2, 98))
    kind = name.split("_")[0]
    if diverging is None:
        diverging = kind == "NEE" or (low < 0 < high and kind not in _SEQUENTIAL)
    if limits is not None:
        low, high = limits
    elif diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif kind in _SEQUENTIAL and low > 0:
        low = 0.0
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return ("RdBu_r" if diverging else _SEQUENTIAL.get(kind, "viridis")), float(low), float(high)


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


def _aspect_of(da: xr.DataArray) -> float:
    """Return height over width of the figure, with room for the colour bar, limited to usual shapes of a page."""
    x, y = _grid(da)
    return float(np.clip(0.85 * abs(np.ptp(y)) / (abs(np.ptp(x)) * _squeeze(y)), 0.3, 1.3))


def _squeeze(latitudes: np.ndarray) -> float:
    """Return the width of a degree of longitude over one of latitude at the middle; 1 for maps of much of the world."""
    return 1.0 if np.ptp(latitudes) > 60 else max(0.1, float(np.cos(np.deg2rad(np.mean(latitudes)))))


@functools.cache
def coast_lines() -> tuple[np.ndarray, ...]:
    """Return the outlines of land, each (points, 2): degrees east and north."""
    text = resources.files("fluxcube").joinpath("data/coast_110m.json").read_text("utf-8")
    lines = [np.reshape(line, (-1, 2)) / 100.0 for line in json.loads(text)["lines"]]
    # Land that crosses 180 degrees is closed along that meridian, which is not a coast.
    ends = [np.abs(line[:, 0]) == 180 for line in lines]
    parts = [np.split(line, np.flatnonzero(end[1:] & end[:-1]) + 1) for line, end in zip(lines, ends, strict=True)]
    return tuple(part for split in parts for part in split if len(part) > 1)


def _draw_coast(ax: Axes) -> None:
    from matplotlib.collections import LineCollection

    # Drawn twice, for grids with longitudes from 0 to 360 degrees.
    lines = [line + np.array([turn, 0.0]) for turn in (0.0, 360.0) for line in coast_lines()]
    ax.add_collection(LineCollection(lines, colors="#303030", linewidths=0.6, zorder=2), autolim=False)


def _frame(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set(xlim=(x.min(), x.max()), ylim=(max(y.min(), -90.0), min(y.max(), 90.0)), aspect=1 / _squeeze(y))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    ax.xaxis.set_major_formatter(lambda v, _: _degrees((v + 180) % 360 - 180, "EW"))
    ax.yaxis.set_major_formatter(lambda v, _: _degrees(v, "NS"))
    ax.tick_params(labelsize=8)


def _draw_bar(ax: Axes, mapped: ScalarMappable, label: str, extend: str) -> None:
    # Inset axes make the bar as high as the map, which a bar beside axes of a fixed aspect is not.
    figure_of(ax).colorbar(mapped, cax=ax.inset_axes((1.02, 0.0, 0.03, 1.0)), extend=extend).set_label(label)


def _degrees(value: float, letters: str) -> str:
    letter = "" if value == 0 else letters[0] if value > 0 else letters[1]
    return f"{abs(round(value, 6)):g}°{letter}"


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


def map_title(da: xr.DataArray) -> str:
    """Return the title of a map: its long name, and its time."""
    long_name = str(da.attrs.get("long_name", "")).replace("CO2", "CO₂").replace("CH4", "CH₄")
    lines = textwrap.wrap(long_name, 66)
    when = _when(da)
    if "hour" in da.coords and not da.hour.ndim:
        clock = "local mean solar time" if "solar" in str(da.hour.attrs.get("long_name", "")) else "UTC"
        when = f"{when}, {int(da.hour):02d} to {int(da.hour) + 1:02d} h {clock}".removeprefix(", ")
    return "\n".join([*lines, when] if when else lines)


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
