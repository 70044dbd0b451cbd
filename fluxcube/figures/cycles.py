"""Mean diurnal and seasonal cycles of towers, observed and predicted, by class or site."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, to_type
from fluxcube.evaluation.common_rows import CommonRows, rows_in_common
from fluxcube.evaluation.cycles import CycleKind, mean_cycles
from fluxcube.figures.predictions import Predicted, by_model, flux_of, selected, targets_of
from fluxcube.plotting.canvas import Panels, figure_of, ink, new_axes, print_units, save_panels, styles_of
from fluxcube.plotting.classes import group_labels, ordered_groups
from fluxcube.plotting.curves import draw_cycle_panel
from fluxcube.resolution import DEFAULT, Default

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

#: Number of groups drawn by default, the whole first.
_GROUPS = 6
_COLUMNS = 3
_XLABELS = {"diurnal": "local solar hour", "seasonal": "month (half a year later in the south)"}
#: Name of the observations where they stand for a model, which the tables of cycles need.
_AGAIN = "observed again"

Cycle = Literal["diurnal", "seasonal", "both"]


def plot_cycle(
    cube: xr.Dataset,
    predictions: Predicted | None = None,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    cycle: Cycle | None = None,
    by: str | None = "igbp",
    panels: Sequence[str] | None = None,
    sites: str | Sequence[str] | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> Panels:
    """Draw the mean diurnal and seasonal cycle of towers, observed and predicted, by class.

    Means are those of `fluxcube.evaluation.cycles.mean_cycles`: of the rows that the observations and all models have,
    each tower with the same weight, towers with a complete cycle only.

    Parameters
    ----------
    cube : xr.Dataset
        A tower cube.
    predictions : xr.Dataset or mapping of these by model name, optional
        Predictions to draw beside the observations.
    path : path, optional
        File to write; its ending selects the format.
    target : str, optional
        Flux to draw. Default: the first that all models predict.
    cycle : {"diurnal", "seasonal", "both"}, optional
        Default: both; the seasonal one alone for daily data, and the one that has a complete cycle if the other has
        none.
    by : str, optional
        Groups of towers, a panel each: "igbp", "koppen", "climate", "network", "site" or another coordinate. None: all
        towers together.
    panels : sequence of str, optional
        Groups to draw. Default: all towers, and the five classes with the most towers.
    sites : str or sequence of str, optional
        Towers to average. Default: all.
    max_qc, min_quality : optional
        Quality of the observations, as in `fluxcube.evaluate`.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        For each group one of each cycle. Hours are local mean solar time; months of southern towers are half a year
        later, so that 7 is midsummer. The band is the range from the 10th to the 90th percentile of the observed
        cycles over towers.

    Raises
    ------
    UnknownNameError
        If the cube has no such site or flux, or the table no such group.
    ConfigError
        If no tower has a complete cycle, or the diurnal cycle of daily data is requested.
    SchemaError
        If the towers do not have the coordinate `by`.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> axes = plot_cycle(example_cube(days=30, gaps=0), by=None)
    >>> [ax.get_xlabel() for ax in axes]
    ['local solar hour']
    """
    models = by_model(predictions)
    if not isinstance(cube, xr.Dataset) or "target" not in cube.coords or "fluxes" not in cube:
        raise SchemaError("expected a tower cube with fluxes; predictions are the second argument.")
    known = [str(name) for name in cube["target"].values]
    target = selected("target", target, known if target else targets_of(models, known), 1)[0]
    if sites is not None:
        cube = cube.sel(site=selected("site", sites, [str(s) for s in cube["site"].values], 0))
    compared = models or {_AGAIN: cube["fluxes"]}
    arrays = {name: _only(one, target) for name, one in compared.items()}
    by_site = cube.assign_coords(tower=("site", cube["site"].values)) if by == "site" else cube
    rows = rows_in_common(by_site, arrays, max_qc=max_qc, min_quality=min_quality)
    tables = _tables(rows, cycle, "tower" if by == "site" else by)
    axes = _draw(tables, panels, [name for name in ("observed", *models)])
    return save_panels(axes, path)


def _only(model: xr.Dataset | xr.DataArray, target: str) -> xr.DataArray:
    flux = flux_of(model, target)
    if flux is None:
        raise ConfigError(f"the predictions lack {target}: choose a target that all models predict.")
    return flux.rename(target) if "target" not in flux.coords else flux.drop_vars("target").rename(target)


def _tables(rows: CommonRows, cycle: Cycle | None, by: str | None) -> dict[CycleKind, pd.DataFrame]:
    """Return the table of each cycle that is wanted, or that is complete somewhere if none is named."""
    if cycle is not None and cycle not in ("diurnal", "seasonal", "both"):
        raise ConfigError(f'cycle={cycle!r}: expected "diurnal", "seasonal" or "both".')
    daily = rows.resolution.steps_per_day == 1
    kinds: tuple[CycleKind, ...] = ("seasonal",) if daily and cycle is None else ("diurnal", "seasonal")
    wanted = [kind for kind in kinds if cycle in (None, "both", kind)]
    tables = {kind: mean_cycles(rows, kind=kind, by=by) for kind in wanted}
    found = {kind: table[table["model"] != _AGAIN] for kind, table in tables.items() if len(table)}
    absent = [kind for kind in wanted if kind not in found]
    if not found or (cycle is not None and absent):
        option = rows.resolution.option
        other = to_type(python=f"{option}=None", shell=f"--{option.replace('_', '-')} all")
        if absent == ["seasonal"] and not daily:
            other = to_type(python='cycle="diurnal"', shell="--cycle diurnal")
        raise ConfigError(
            f"no tower has a complete {absent[0]} cycle of accepted values, which needs some in every "
            f"{'hour' if absent[0] == 'diurnal' else 'month'}; pass {other}, or a longer period."
        )
    return found


def _draw(tables: dict[CycleKind, pd.DataFrame], groups: Sequence[str] | None, names: Sequence[str]) -> list[Axes]:
    """Draw a row of panels for each group, with one of each cycle."""
    first = next(iter(tables.values()))
    known = list(dict.fromkeys(g for table in tables.values() for g in ordered_groups(table)))
    drawn = selected("group", groups, known, _GROUPS)
    if groups is None and (others := known[_GROUPS:]):
        how = to_type(python="panels=[...]", shell="--site NAME for each of their towers")
        left = ", ".join(others)
        logger.warning("%d of %d groups are drawn, not %s: draw them with %s", len(drawn), len(known), left, how)
    styles = styles_of(names, None)
    axes = _grid(len(drawn), len(tables))
    slots = [(group, kind) for group in drawn for kind in tables]
    labels = {g: text for table in tables.values() for g, text in zip(drawn, group_labels(table, drawn), strict=True)}
    for ax, (group, kind) in zip(axes, slots, strict=True):
        rows = tables[kind][tables[kind]["group"] == group]
        draw_cycle_panel(ax, rows, styles, kind == "diurnal", labels[group])
    lowest = len(tables) if len(tables) > 1 else min(len(axes), _COLUMNS)  # panels without one below them
    for ax, (_, kind) in list(zip(axes, slots, strict=True))[-lowest:]:
        ax.set_xlabel(_XLABELS[kind], fontsize=9)
        ax.tick_params(labelbottom=True)
    figure = figure_of(axes[0])
    units = print_units(str(first["units"].iloc[0]))
    figure.supylabel(f"{first['target'].iloc[0]} ({units})", fontsize=9, color=ink())
    handles, shown = next(ax.get_legend_handles_labels() for ax in axes if ax.get_legend_handles_labels()[0])
    figure.legend(handles, shown, loc="outside upper center", ncols=min(len(shown), 3), fontsize=8, frameon=False)
    return axes


def _grid(groups: int, cycles: int) -> list[Axes]:
    """Return axes for each group: a row of two cycles, or one of several panels of a row; each cycle has one scale."""
    columns = cycles if cycles > 1 else min(groups, _COLUMNS)
    lines = -(-groups * cycles // columns)
    first = new_axes(None, (3.2 * columns + 0.6, 2.0 * lines + 0.8))
    figure = figure_of(first)
    first.remove()
    shared: Literal["col", "all"] = "col" if cycles > 1 else "all"
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=shared, sharey=shared).ravel())
    for ax in axes[groups * cycles :]:
        ax.remove()
    return axes[: groups * cycles]
