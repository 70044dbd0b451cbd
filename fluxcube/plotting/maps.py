"""Pictures: flux maps with coasts, tower maps, diurnal cycles and bars of scores.

Every function draws into `ax`, or into a figure of its own that no window and no global state knows of, returns
the Axes, and saves where a path is given (replacing a picture of that name, as matplotlib does).
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
from fluxcube.plotting.canvas import class_styles, new_axes, print_units, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NO_DATA, _OCEAN = "#8f8f8f", "#dcdfe2"  # neither among the colours of a flux, nor white, which is zero
#: What a flux is of, in its units.
_SUBSTANCES = {"NEE": "CO₂", "GPP": "CO₂", "RECO": "CO₂", "FCH4": "CH₄"}
#: Rows and columns that a picture has room for: larger maps are drawn as means of blocks of cells.
_MOST_CELLS = 2000
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
    """Draw one map with its coasts.

    A map of the globe begins at 180 degrees west whatever its grid does; one across the antimeridian is in one piece.

    Parameters
    ----------
    da : xr.DataArray
        (latitude, longitude), in the units its attributes state. What has no value is dark grey; where the coordinate
        land_fraction says that there is no land, it is pale grey. More than 2000 cells a side are drawn as means of
        blocks of cells.
    path : path, optional
        Picture to write; its ending chooses the format.
    diverging : bool, optional
        Colours centred at zero. Default: for NEE, and for whatever has both signs; never for GPP and RECO.
    limits : (float, float), optional
        Values of the first and last colour. Default: the 2nd and 98th percentile, or symmetric about zero.
    extend : {"neither", "min", "max", "both"}, optional
        Ends of the colour bar that are arrows. Default: those that values lie beyond.
    applicable : xr.DataArray, optional
        (latitude, longitude): true, or the share of time, where the model is within its area of applicability. Cells
        of less than a half are hatched.
    title : str, optional
        Default: the long name, and the time where the array has one.
    coast : bool
        Draw the outlines of land (Natural Earth, 1:110 million; a guide to the eye, not a mask).
    ax : matplotlib.axes.Axes, optional
        Draw here.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SchemaError
        If the array is not one map.
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
        raise SchemaError(f"{da.name or 'the map'} has no finite value to draw.")
    cmap, low, high = colours(str(da.name or ""), values, diverging, limits)
    ax = new_axes(ax, (8.0, 8.0 * _shape_of(da) + 0.6))
    x, y = _grid(da)
    ax.set_facecolor(_NO_DATA)
    mesh = ax.pcolormesh(x, y, np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, rasterized=True)
    drawn = [_draw_ocean(ax, da, x, y), None if applicable is None else _draw_hatch(ax, da, _one_map(applicable), x, y)]
    if coast:
        _draw_coast(ax)
    _frame(ax, x, y)
    _draw_bar(ax, mesh, _label(da), extend or beyond(values, low, high))
    _draw_key(ax, [patch for patch in drawn if patch is not None])
    ax.set_title(map_title(da) if title is None else title, fontsize=11)
    return save_picture(ax, path)


def plot_site_map(
    sites: xr.Dataset | xr.DataArray,
    path: str | Path | None = None,
    *,
    color: str = "igbp",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw towers on the world.

    Parameters
    ----------
    sites : xr.Dataset or xr.DataArray
        A cube, or one value per site (e.g. a score), with coordinates latitude and longitude on site.
    path, title, ax
        As `plot_map` takes them.
    color : str
        Coordinate of a cube whose classes are told apart, e.g. igbp, koppen or network.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SchemaError
        If the coordinates are missing.
    """
    for name in ("latitude", "longitude", *([color] if isinstance(sites, xr.Dataset) else [])):
        if name not in sites.coords or sites[name].dims != ("site",):
            found = sorted(map(str, sites.coords))
            raise SchemaError(f"a map of sites needs the coordinate {name} on site; found {found}.")
    ax = new_axes(ax, (10.0, 5.2))
    _draw_coast(ax)
    if isinstance(sites, xr.DataArray):
        if sites.dims != ("site",):
            raise SchemaError(f"a map of sites needs one value per site, found dims {sites.dims}: reduce the others.")
        cmap, low, high = colours(str(sites.name or ""), np.asarray(sites.values, float), None, None)
        dots = ax.scatter(
            sites.longitude,
            sites.latitude,
            c=sites.values,
            cmap=cmap,
            vmin=low,
            vmax=high,
            s=28,
            edgecolors="black",
            linewidths=0.4,
            zorder=3,
        )
        _draw_bar(ax, dots, _label(sites), beyond(sites.values, low, high))
    else:
        _draw_classes(ax, sites, color)
    _frame(ax, np.array([-180.0, 180.0]), np.array([-62.0, 84.0]))
    ax.set_title(f"{sites.sizes['site']} sites" if title is None else title)
    return save_picture(ax, path)


def plot_diurnal(
    obs: xr.DataArray,
    pred: xr.DataArray | Mapping[str, xr.DataArray],
    path: str | Path | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean day of observations and predictions, in local mean solar time.

    Only hours that the observation and every prediction have count, so that the lines can be compared.

    Parameters
    ----------
    obs : xr.DataArray
        (site, time) or (time,), UTC hours, with the coordinate longitude.
    pred : xr.DataArray or mapping of str to xr.DataArray
        Same dimensions and unit; several by model name.
    path, title, ax
        As `plot_map` takes them.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    SchemaError
        If there is no longitude, or no hour that all have.
    """
    lines = {"observed": obs, **(pred if isinstance(pred, Mapping) else {str(pred.name or "predicted"): pred})}
    days = _mean_days(lines)
    ax = new_axes(ax, (6.4, 4.0))
    ax.axhline(0, color="grey", linewidth=0.8)
    for name, day in days.items():
        style = {"color": "black", "linewidth": 2.0} if name == "observed" else {"linewidth": 1.5}
        ax.plot(day.index + 0.5, day["mean"], label=name, **style)
    first = days["observed"]
    ax.fill_between(
        first.index + 0.5,
        first["q25"],
        first["q75"],
        color="black",
        alpha=0.12,
        linewidth=0,
        label="observed, middle half",
    )
    ax.set(xlim=(0, 24), xticks=range(0, 25, 3), xlabel="local mean solar time (h)", ylabel=_label(obs))
    ax.legend(frameon=False)
    ax.set_title(f"{int(first['n'].sum()):,} hours" if title is None else title)
    return save_picture(ax, path)


def plot_scores(
    table: pd.DataFrame,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    score: str = "nse",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one score as bars, per group and model.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` makes it.
    path, title, ax
        As `plot_map` takes them.
    target : str, optional
        Flux to draw; needed where the table has several.
    score : str
        Column to draw. NSE below -1 is cut there, and the number written.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table does not hold what is asked.
    """
    targets = list(dict.fromkeys(table["target"]))
    target = targets[0] if target is None and len(targets) == 1 else target
    if target not in targets or score not in table:
        raise ConfigError(f"choose a target of {targets} and a score of the table; found {target!r} and {score!r}.")
    rows = table[(table["target"] == target) & (table["n"] > 0)]
    wide = rows.pivot(index="group", columns="model", values=score)
    wide = wide.loc[list(dict.fromkeys(rows["group"])), list(dict.fromkeys(rows["model"]))]
    ax = new_axes(ax, (max(5.0, 1.2 + 0.32 * wide.size + 0.4 * len(wide)), 4.0))
    _draw_bars(ax, wide, floor=-1.0 if score == "nse" else None)
    hours = rows.drop_duplicates("group").set_index("group")
    ax.set_xticks(range(len(wide)), [_tick(g, hours.loc[g]) for g in wide.index], fontsize=8)
    units = rows["units"].iloc[0] if "units" in rows and score in ("rmse", "mae", "bias") else ""
    ax.set_ylabel(f"{score.upper()}{f' ({print_units(units)})' if units else ''}, all rows of the group pooled")
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
    """Draw what models differ by from the one they are compared with: a dot and its interval a line.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` makes it with intervals, of one flux.
    path, title, ax
        As `plot_map` takes them.
    score : {"nse", "rmse", "nse_site_median"}
        What differs.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ConfigError
        If the table holds no differences of this score, or several fluxes.
    """
    if f"{score}_diff" not in table or table["target"].nunique() != 1:
        raise ConfigError(f"differences of {score} need the table of one flux that compare(..., clusters=...) makes.")
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
    ax.set_xlabel(f"{score.replace('_', ' ').upper()}, difference from {table.attrs.get('against', 'the reference')}")
    ax.set_title(f"{rows['target'].iloc[0] if len(rows) else ''}" if title is None else title)
    return save_picture(ax, path)


def _one_map(da: xr.DataArray) -> xr.DataArray:
    for dim in [d for d in da.dims if d not in ("latitude", "longitude")]:
        if da.sizes[dim] != 1:
            how = f'take its mean, da.mean("{dim}"), or one, da.isel({dim}=0)'
            raise SchemaError(f"a map has dims (latitude, longitude); found {dim} of length {da.sizes[dim]}: {how}.")
        da = da.isel({dim: 0})
    if set(da.dims) != {"latitude", "longitude"}:
        raise SchemaError(f"a map has dims (latitude, longitude); found {da.dims}.")
    return thinned(da.transpose("latitude", "longitude")).compute()


def thinned(da: xr.DataArray) -> xr.DataArray:
    """Turn maps (..., latitude, longitude) to begin in the west, and average cells that a picture has no room for."""
    order, east = west_to_east(da.longitude.values)
    da = da.isel(longitude=order).assign_coords(longitude=("longitude", east, da.longitude.attrs))
    blocks = {dim: -(-da.sizes[dim] // _MOST_CELLS) for dim in ("latitude", "longitude")}
    if max(blocks.values()) == 1:
        return da
    return da.astype("float32").coarsen(blocks, boundary="pad").mean(keep_attrs=True)


def _draw_ocean(ax: Axes, da: xr.DataArray, x: np.ndarray, y: np.ndarray):
    """Colour cells that have neither land nor a value; return what the key says of the other empty ones."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    empty = ~np.isfinite(np.asarray(da.values, float))
    ocean = np.zeros_like(empty)
    if "land_fraction" in da.coords:
        ocean = empty & ~(da.land_fraction.transpose(*da.dims).values > 0)
        if ocean.any():
            ax.pcolormesh(x, y, np.ma.masked_where(~ocean, ocean), cmap=ListedColormap([_OCEAN]), rasterized=True)
    return Patch(color=_NO_DATA, label="no value") if (empty & ~ocean).any() else None


def _draw_hatch(ax: Axes, da: xr.DataArray, share: xr.DataArray, x: np.ndarray, y: np.ndarray):
    """Hatch cells with a value where a share is below a half: rows of them as one box, since patterns go on."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    if share.shape != da.shape or not all(np.allclose(share[d], da[d]) for d in da.dims):
        raise SchemaError(f"applicable must be on the cells of the map, {dict(da.sizes)}; found {dict(share.sizes)}.")
    outside = np.isfinite(np.asarray(da.values, float)) & (np.asarray(share.values, float) < 0.5)
    if not outside.any():
        return None
    edges = np.diff(np.pad(outside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, first), (_, last) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    (west, east), (south, north) = (x[first], x[last]), (y[rows], y[rows + 1])
    boxes = np.stack([west, south, east, south, east, north, west, north], 1).reshape(-1, 4, 2)
    style = {"facecolor": (1.0, 1.0, 1.0, 0.4), "edgecolor": "#303030", "hatch": "////", "linewidth": 0.0}
    ax.add_collection(PolyCollection(boxes, zorder=1.5, **style), autolim=False)
    return Patch(label="outside the area of applicability", **style)


def _draw_key(ax: Axes, patches: list) -> None:
    if patches:
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.07), "ncols": len(patches)}
        ax.legend(handles=patches, fontsize=8, frameon=False, borderaxespad=0.0, **place)


def colours(name: str, values: np.ndarray, diverging: bool | None, limits) -> tuple[str, float, float]:
    """Return the colour map of a flux, and the values of its ends."""
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


def beyond(values: np.ndarray, low: float, high: float) -> str:
    """Return the ends of a colour bar that values lie beyond: neither, min, max or both."""
    below, above = np.nanmin(values) < low, np.nanmax(values) > high
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
        bool(below), bool(above)
    ]


def _grid(da: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Cell edges in degrees east and north; a single row or column is as wide as the other axis's cells."""
    axes = (da.longitude.values.astype(float), da.latitude.values.astype(float))
    width = next((abs(axis[1] - axis[0]) for axis in axes if len(axis) > 1), 0.25)
    return tuple(_edges(axis, width) for axis in axes)


def _edges(centres: np.ndarray, width: float) -> np.ndarray:
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5]) * width
    middle = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _shape_of(da: xr.DataArray) -> float:
    """Height of the map over its width, with room for the colour bar, within what a page bears."""
    x, y = _grid(da)
    return float(np.clip(0.85 * abs(np.ptp(y)) / (abs(np.ptp(x)) * _squeeze(y)), 0.3, 1.3))


def _squeeze(latitudes: np.ndarray) -> float:
    """Width of a degree of longitude over one of latitude, at the middle; 1 for a map of much of the world."""
    return 1.0 if np.ptp(latitudes) > 60 else max(0.1, float(np.cos(np.deg2rad(np.mean(latitudes)))))


@functools.cache
def _coast() -> tuple[np.ndarray, ...]:
    """Outlines of land, each (points, 2): degrees east and north."""
    text = resources.files("fluxcube").joinpath("data/coast_110m.json").read_text("utf-8")
    lines = [np.reshape(line, (-1, 2)) / 100.0 for line in json.loads(text)["lines"]]
    # Land that reaches over 180 degrees is closed along it there, where no coast is.
    ends = [np.abs(line[:, 0]) == 180 for line in lines]
    parts = [np.split(line, np.flatnonzero(end[1:] & end[:-1]) + 1) for line, end in zip(lines, ends, strict=True)]
    return tuple(part for split in parts for part in split if len(part) > 1)


def _draw_coast(ax: Axes) -> None:
    from matplotlib.collections import LineCollection

    # Twice, so that grids that count from 0 to 360 degrees have theirs.
    lines = [line + np.array([turn, 0.0]) for turn in (0.0, 360.0) for line in _coast()]
    ax.add_collection(LineCollection(lines, colors="#303030", linewidths=0.6, zorder=2), autolim=False)


def _frame(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set(xlim=(x.min(), x.max()), ylim=(max(y.min(), -90.0), min(y.max(), 90.0)), aspect=1 / _squeeze(y))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    ax.xaxis.set_major_formatter(lambda v, _: _degrees((v + 180) % 360 - 180, "EW"))
    ax.yaxis.set_major_formatter(lambda v, _: _degrees(v, "NS"))
    ax.tick_params(labelsize=8)


def _draw_bar(ax: Axes, drawn: object, label: str, extend: str) -> None:
    # As high as the map, which a bar beside axes of a fixed aspect is not.
    ax.figure.colorbar(drawn, cax=ax.inset_axes([1.02, 0.0, 0.03, 1.0]), extend=extend).set_label(label)


def _degrees(value: float, letters: str) -> str:
    letter = "" if value == 0 else letters[0] if value > 0 else letters[1]
    return f"{abs(round(value, 6)):g}°{letter}"


def _draw_classes(ax: Axes, sites: xr.Dataset, color: str) -> None:
    labels = np.array([str(label) or "unknown" for label in sites[color].values], object)
    for name, (shade, marker) in class_styles(labels).items():
        here = labels == name
        ax.scatter(
            sites.longitude.values[here],
            sites.latitude.values[here],
            s=26,
            color=shade,
            marker=marker,
            edgecolors="black",
            linewidths=0.4,
            zorder=3,
            label=f"{name} ({here.sum()})",
        )
    ax.legend(fontsize=7, ncols=1 + len(set(labels)) // 12, loc="lower left", framealpha=0.9)


def _mean_days(lines: dict[str, xr.DataArray]) -> dict[str, pd.DataFrame]:
    """Mean, quartiles and count by solar hour of each array, over the hours that all have."""
    arrays = dict(zip(lines, xr.align(*lines.values(), join="inner", copy=False), strict=True))
    obs = arrays["observed"]
    if "longitude" not in obs.coords:
        raise SchemaError("a diurnal cycle needs the coordinate longitude, for local solar time.")
    hours = xr.DataArray(obs.time.values.astype("datetime64[m]").astype(np.int64) / 60 % 24, dims="time")
    solar = np.floor((hours + obs.longitude.reset_coords(drop=True) / 15) % 24)
    solar = solar.broadcast_like(obs).transpose(*obs.dims).values.ravel()
    flat = pd.DataFrame({k: v.transpose(*obs.dims).values.ravel() for k, v in arrays.items()})
    flat = flat.where(np.isfinite(flat)).assign(hour=solar).dropna()
    if flat.empty:
        raise SchemaError(f"no hour has a value of {', '.join(lines)} together.")
    grouped = flat.groupby("hour")
    quartiles = {"q25": lambda x: x.quantile(0.25), "q75": lambda x: x.quantile(0.75)}
    return {k: grouped[k].agg(mean="mean", n="count", **quartiles) for k in arrays}


def _draw_bars(ax: Axes, wide: pd.DataFrame, floor: float | None) -> None:
    """Bars of each row (group) side by side, one per column (model)."""
    width = 0.8 / wide.shape[1]
    ax.axhline(0, color="grey", linewidth=0.8)
    for j, model in enumerate(wide):
        at = np.arange(len(wide)) + (j - (wide.shape[1] - 1) / 2) * width
        values = wide[model].to_numpy(float)
        ax.bar(at, values if floor is None else np.maximum(values, floor), width * 0.92, label=str(model))
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
    """Return what a map is, and of when."""
    said = str(da.attrs.get("long_name", "")).replace("CO2", "CO₂").replace("CH4", "CH₄")
    lines = textwrap.wrap(said, 66)
    when = _when(da)
    if "hour" in da.coords and not da.hour.ndim:
        clock = "local mean solar time" if "solar" in str(da.hour.attrs.get("long_name", "")) else "UTC"
        when = f"{when}, {int(da.hour):02d} to {int(da.hour) + 1:02d} h {clock}".removeprefix(", ")
    return "\n".join([*lines, when] if when else lines)


def _when(da: xr.DataArray) -> str:
    """Time of a map, to the length of what it is a mean of."""
    over = str(da.attrs.get("averaged_over", ""))
    formats = {"": "%Y-%m-%d %H:%M UTC", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
    if over not in formats:
        return f"mean of {over}"
    return pd.Timestamp(da.time.values).strftime(formats[over]) if "time" in da.coords and not da.time.ndim else ""


def _label(da: xr.DataArray) -> str:
    name, units = str(da.name or ""), print_units(str(da.attrs.get("units", "")))
    units = units.replace("mol m", f"mol {_SUBSTANCES.get(name.split('_')[0], '')} m".replace("  ", " "), 1)
    return f"{name} ({units})" if units else name
