"""Predictions against observations: the density of their common rows, by model or by class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.common_rows import CommonRows, TargetRows, groups_of, rows_in_common
from fluxcube.evaluation.density import density
from fluxcube.evaluation.rows import Labelled
from fluxcube.figures.predictions import Predicted, by_model
from fluxcube.plotting.canvas import Panels, figure_of, new_axes, save_panels
from fluxcube.plotting.towers import plot_density
from fluxcube.resolution import DEFAULT, Default
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Number of groups drawn.
_GROUPS = 9


def plot_scatter(
    obs: Labelled,
    predictions: Predicted,
    path: str | Path | None = None,
    *,
    target: str | None = None,
    by: str | None = None,
    bins: int = 80,
    columns: int = 3,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> Panels:
    """Draw predictions against observations, with the 1:1 line, the regression line and scores.

    Rows and scores are those of `fluxcube.evaluate`: time steps with an accepted observation and a prediction of every
    model.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        Observations, as `fluxcube.evaluate` takes them; data of towers.
    predictions : xr.Dataset, xr.DataArray, or mapping of these by model name
        Predictions of one model or of several.
    path : path, optional
        File to write; its ending selects the format.
    target : str, optional
        Flux to draw. Default: the first that all models predict.
    by : str, optional
        Groups of towers of one model, a panel each: "igbp", "koppen", "climate", "network", "site" or another
        coordinate; at most nine groups, those of most rows. Default: a panel for each model.
    bins : int
        Number of bins on each axis.
    columns : int
        Number of panels side by side.
    max_qc, min_quality : optional
        Quality of the observations, as in `fluxcube.evaluate`.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Colours are numbers of rows, on a logarithmic scale that all panels share. The axes begin and end at the 0.1th
        and 99.9th percentile of all values; the number of rows beyond is written in the panel.

    Raises
    ------
    UnknownNameError
        If there is no such flux in common.
    ConfigError
        If `by` is set and there are several models.
    SchemaError
        If the towers do not have the coordinate `by`, or nothing is in common.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=10, gaps=0)
    >>> (ax,) = plot_scatter(cube, cube.fluxes * 0.9, target="NEE")
    >>> ax.get_xlabel()
    'observed (µmol m⁻² s⁻¹)'
    """
    models = by_model(predictions)
    if by is not None and len(models) != 1:
        raise ConfigError(
            f"groups by {by}: expected one model, found {', '.join(models)}; pass the predictions of one."
        )
    if columns < 1:
        raise ConfigError(f"columns={columns}: expected at least 1.")
    rows = rows_in_common(obs, models, max_qc=max_qc, min_quality=min_quality)
    target = next(iter(rows.targets)) if target is None else target
    if target not in rows.targets:
        raise unknown("target", target, rows.targets)
    one = replace(rows, targets={target: rows.targets[target]})
    panels = _by_model(one) if by is None else _by_group(one, target, by)
    axes = _grid(len(panels), min(columns, len(panels)))
    found = {title: density(part, bins=bins).sel(model=[model]) for title, (part, model) in panels.items()}
    most = max(int(counts["count"].max()) for counts in found.values())
    for ax, (title, counts) in zip(axes, found.items(), strict=True):
        plot_density(counts, target=target, model=str(counts["model"].item()), most=most, title=title, ax=ax)
    figure_of(axes[0]).suptitle(target, fontsize=11)
    return save_panels(axes, path)


def _by_model(rows: CommonRows) -> dict[str, tuple[CommonRows, str]]:
    return {model: (rows, model) for model in rows.models}


def _by_group(rows: CommonRows, target: str, by: str) -> dict[str, tuple[CommonRows, str]]:
    """Return the rows of the groups with the most rows, by the title of their panel."""
    one = rows.targets[target]
    places = one.places.assign_coords(tower=("place", one.sites)) if by == "site" else one.places
    masks = {name: mask for name, mask in groups_of(places, "tower" if by == "site" else by).items() if name != "all"}
    number = {name: int(mask[one.site].sum()) for name, mask in masks.items()}
    largest = sorted((name for name in masks if number[name]), key=lambda name: -number[name])[:_GROUPS]
    return {
        f"{name} ({counted(int(masks[name].sum()), 'site')})": (
            replace(rows, targets={target: _part(one, masks[name])}),
            rows.models[0],
        )
        for name in largest
    }


def _part(rows: TargetRows, mask: np.ndarray) -> TargetRows:
    """Return the rows of some of the places."""
    kept = mask[rows.site]
    std, far = ({name: values[kept] for name, values in each.items()} for each in (rows.std, rows.dissimilarity))
    return replace(
        rows, site=rows.site[kept], time=rows.time[kept], values=rows.values[kept], std=std, dissimilarity=far
    )


def _grid(number: int, columns: int) -> list[Axes]:
    lines = -(-number // columns)
    first = new_axes(None, (4.2 * columns, 3.5 * lines + 0.3))
    figure = figure_of(first)
    first.remove()
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for ax in axes[number:]:
        ax.remove()
    return axes[:number]
