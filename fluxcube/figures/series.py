"""Series of towers: observations with their quality, predictions with their intervals."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, to_type, unknown
from fluxcube.figures.predictions import Predicted, by_model, flux_of, selected, targets_of
from fluxcube.plotting.canvas import Panels, Style, ink, print_units, save_panels, styles_of
from fluxcube.plotting.curves import new_series_axes
from fluxcube.plotting.points import title_and_legend
from fluxcube.resolution import Resolution, quality_limit, resolution_of
from fluxcube.samples.quality import best_flags
from fluxcube.units import linear_conversion, units_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

_OBSERVED, _FILLED = "observed", "filled"
#: Number of sites drawn by default.
_SITES = 3
#: Number of towers that a message names.
_NAMED = 10
#: Longest period (days) that is drawn hour by hour by default.
_HOURLY_DAYS = 62
#: Half-width of an interval of 90 % in standard deviations of a normal distribution.
_NINETY = 1.645
#: Minimum share of the time steps of a day or month that its mean needs.
_ENOUGH = 0.8
_STEPS = {"hour": "h", "day": "D", "month": "M"}
_MEANS = {"D": "daily means", "M": "monthly means"}

Every = Literal["hour", "day", "month"]


@dataclass(frozen=True)
class _Series:
    """One line of a panel: times, values, and what is known of them."""

    time: np.ndarray
    value: np.ndarray
    units: str
    measured: np.ndarray | None = None
    width: np.ndarray | None = None


@dataclass(frozen=True)
class _Panel:
    """What a panel shows: observations, and lines by the name of their model."""

    title: str
    observed: _Series | None
    lines: dict[str, _Series]

    def times(self) -> np.ndarray:
        """Return the times of all values."""
        series = [*filter(None, [self.observed]), *self.lines.values()]
        none = np.array([], "datetime64[ns]")
        return np.concatenate([none, *(one.time[np.isfinite(one.value)] for one in series)])


def plot_series(
    cube: xr.Dataset,
    predictions: Predicted | None = None,
    path: str | Path | None = None,
    *,
    sites: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    variables: str | Sequence[str] | None = None,
    time: str | slice | None = None,
    every: Every | None = None,
) -> Panels:
    """Draw the series of towers: observations as dots, predictions as lines with intervals of 90 %.

    Parameters
    ----------
    cube : xr.Dataset
        A cube, or predictions of `fluxcube.predict`.
    predictions : xr.Dataset or mapping of these by model name, optional
        Predictions to draw over the observations of the cube.
    path : path, optional
        File to write; its ending selects the format.
    sites : str or sequence of str, optional
        Default: the first three that have values in the period, of those with predictions if there are any. Towers
        without a value in the period are left out and logged.
    targets : str or sequence of str, optional
        Fluxes, a panel each at each site. Default: the first that all models predict, unless `variables` are named.
    variables : str or sequence of str, optional
        Predictors of the cube, a panel each.
    time : str or slice, optional
        Period, e.g. "2018-07" or slice("2018-06", "2018-08"). Default: all.
    every : {"hour", "day", "month"}, optional
        Means to draw. Default: every hour for periods of up to two months, else days, which begin at 0 h UTC for
        hourly data. The mean of a day or a month needs four fifths of its time steps, since
        half a day would be a night or a noon. Means have no intervals: how errors of
        hours are correlated is unknown. Titles name the means.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        Measured values (flag 0, whole days) are dark, filled ones pale; of means, those are dark of which at least
        half of the values are measured. Where values are missing, lines are interrupted.

    Raises
    ------
    UnknownNameError
        If the data have no such site, flux or variable.
    ConfigError
        If the period contains no value of a tower, or `every` is finer than the data.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=10)
    >>> axes = plot_series(cube, sites=["XX-S00", "XX-S01"], targets="NEE")
    >>> [ax.get_title(loc="left") for ax in axes]
    ['XX-S00: NEE', 'XX-S01: NEE']
    """
    data = cube
    observed_cube = data if "fluxes" in data or "predictors" in data else None
    models = by_model(predictions) if observed_cube is not None else by_model(data) | by_model(predictions)
    if "site" not in data.dims:
        raise SchemaError(f"expected data of towers with the dimension site, found {tuple(map(str, data.dims))}.")
    names = _panels(data, observed_cube, models, targets, variables)
    chosen = _sites(data, models) if sites is None else selected("site", sites, _sites(data, {}), 0)
    resolution = resolution_of(data)
    period = slice(time, time) if isinstance(time, str) else slice(None) if time is None else time
    step = _step(data, period, every, resolution)
    panels_of = functools.partial(_panels_of, observed_cube, models, names, step, resolution)
    panels = _with_values(chosen, panels_of, period, most=_SITES if sites is None else len(chosen))
    axes = new_series_axes(len(panels))
    styles = styles_of([_OBSERVED, *models], None)
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel.observed, panel.lines, styles)
        _limit(ax, panel, data["time"].sel(time=period).values, period, step)
    _finish(axes, [panel.title for panel in panels])
    return save_panels(axes, path)


def _sites(data: xr.Dataset, models: dict[str, xr.Dataset | xr.DataArray]) -> list[str]:
    """Return the towers of the data, those with predictions of the first model if there is one."""
    known = [str(site) for site in data["site"].values]
    predicted = {str(site) for model in list(models.values())[:1] for site in model["site"].values}
    return [site for site in known if site in predicted] or known


def _panels_of(
    cube: xr.Dataset | None,
    models: dict[str, xr.Dataset | xr.DataArray],
    names: Sequence[str],
    step: str,
    resolution: Resolution,
    site: str,
    period: slice,
) -> list[_Panel]:
    """Return a panel of each flux and variable of a tower."""
    means = "" if step == _own_step(resolution) else f", {_MEANS[step]}"
    panels = []
    for name in names:
        observed = None if cube is None else _observed(cube, site, name, period, step, resolution)
        lines = {model: _predicted(one, site, name, period, step, resolution) for model, one in models.items()}
        known = {model: line for model, line in lines.items() if line is not None}
        panels.append(_Panel(f"{site}: {name}{means}", observed, known))
    return panels


def _with_values(
    sites: Sequence[str], panels_of: Callable[[str, slice], list[_Panel]], period: slice, most: int
) -> list[_Panel]:
    """Return the panels of the first few towers with values in the period; log which are left out."""
    found: dict[str, list[_Panel]] = {}
    empty = []
    for done, site in enumerate(sites, 1):
        panels = panels_of(site, period)
        if any(len(panel.times()) for panel in panels):
            found[site] = panels
        else:
            empty.append(site)
        if len(found) == most:
            _tell_of_others(list(found), len(sites) - done, len(sites))
            break
    if not found:
        raise _no_values(sites[:_SITES], panels_of, period)
    if empty:
        logger.warning("not drawn, since they have no value in the period: %s", _names(empty))
    return [panel for panels in found.values() for panel in panels]


def _tell_of_others(drawn: Sequence[str], others: int, number: int) -> None:
    if others:
        how = to_type(python="sites=[...]", shell="--site NAME for each")
        logger.warning("%d of %d towers are drawn, %s: name others with %s", len(drawn), number, _names(drawn), how)


def _no_values(sites: Sequence[str], panels_of: Callable[[str, slice], list[_Panel]], period: slice) -> ConfigError:
    """Return the error for a period in which no tower has a value, with the periods in which some have."""
    whole = period.start is None and period.stop is None
    where = "" if whole else f" in the period {period.start or 'from the start'} to {period.stop or 'the end'}"
    spans = [f"{site} {_span([] if whole else panels_of(site, slice(None)))}" for site in sites]
    how = to_type(python='time=slice("FIRST", "LAST")', shell="--time FIRST/LAST")
    return ConfigError(f"no tower has a value{where}: {', '.join(spans)}; pass {how}, or other towers.")


def _span(panels: Sequence[_Panel]) -> str:
    """Return the first and last day with a value in some panels."""
    times = [time for panel in panels for time in panel.times()]
    if not times:
        return "has none at all"
    return f"has values from {min(times).astype('datetime64[D]')} to {max(times).astype('datetime64[D]')}"


def _names(sites: Sequence[str]) -> str:
    """Return the first few names, and the number of the others."""
    more = f" and {len(sites) - _NAMED} more" if len(sites) > _NAMED else ""
    return ", ".join(sites[:_NAMED]) + more


def _panels(
    data: xr.Dataset,
    cube: xr.Dataset | None,
    models: dict[str, xr.Dataset | xr.DataArray],
    targets: str | Sequence[str] | None,
    variables: str | Sequence[str] | None,
) -> list[str]:
    """Return the fluxes and variables to draw."""
    if cube is not None:
        known = [str(name) for name in cube["target"].values] if "target" in cube.coords else []
        inputs = [str(name) for name in cube["variable"].values] if "variable" in cube.coords else []
    else:
        known, inputs = [str(n) for n in data.data_vars if not str(n).endswith(("_std", "_spread"))], []
    first = 0 if targets is None and variables is not None else 1
    fluxes = selected("target", targets, known if targets is not None else targets_of(models, known), first)
    names = fluxes + ([] if variables is None else selected("variable", variables, inputs, 0))
    if not names:
        raise ConfigError(f"the models predict none of {', '.join(known)}; pass predictions of the cube's fluxes.")
    return names


def _step(data: xr.Dataset, period: slice, every: Every | None, resolution: Resolution) -> str:
    """Return the unit of time of the values that are drawn: h, D or M."""
    times = data["time"].sel(time=period).values
    if not len(times):
        first, last = data["time"].values[[0, -1]].astype("datetime64[D]")
        raise ConfigError(
            f"the period {period.start} to {period.stop} has no time step: the data are from {first} to {last}."
        )
    if every is not None and every not in _STEPS:
        raise unknown("step of means", str(every), _STEPS)
    if resolution.steps_per_day == 1:
        if every == "hour":
            how = to_type(python='every="day" or every="month"', shell="--every day or --every month")
            raise ConfigError(f"hours cannot be drawn: the data are daily; pass {how}.")
        return _STEPS[every or "day"]
    days = (times[-1] - times[0]) / np.timedelta64(1, "D")
    return _STEPS[every] if every else "h" if days <= _HOURLY_DAYS else "D"


def _own_step(resolution: Resolution) -> str:
    """Return the unit of the time steps of the data."""
    return "D" if resolution.steps_per_day == 1 else "h"


def _observed(cube: xr.Dataset, site: str, name: str, period: slice, step: str, resolution: Resolution) -> _Series:
    """Return the values of a flux or predictor of a cube at one tower."""
    kind, dim = ("fluxes", "target") if name in cube["target"].values else ("predictors", "variable")
    one = cube.sel({"site": site, dim: name, "time": period})
    values = one[kind].values.astype(float)
    measured = np.isfinite(values)
    if f"{kind}_qc" in one:
        limit = quality_limit(resolution, default=resolution.measured)
        measured &= limit.accepts(one[f"{kind}_qc"].values, best_flags(cube.sel(site=[site]))[0])
    time, value, share = _means(one["time"].values, values, measured.astype(float), step, resolution)
    return _Series(time, value, units_of(one[kind]), measured=share >= 0.5)


def _predicted(
    model: xr.Dataset | xr.DataArray, site: str, name: str, period: slice, step: str, resolution: Resolution
) -> _Series | None:
    """Return the predictions of a flux at one tower; None where a model has none."""
    flux = flux_of(model, name)
    if flux is None or site not in flux["site"].values:
        return None
    if "member" in flux.dims:
        flux = flux.mean("member", keep_attrs=True)
    one = flux.sel(site=site).sel(time=period)
    time, value, _ = _means(one["time"].values, one.values.astype(float), np.ones(one.sizes["time"]), step, resolution)
    width = None
    if isinstance(model, xr.Dataset) and f"{name}_std" in model and len(value) == one.sizes["time"]:
        width = _NINETY * model[f"{name}_std"].sel(site=site).sel(time=period).values.astype(float)
    return _Series(time, value, units_of(one), width=width)


def _means(
    time: np.ndarray, values: np.ndarray, share: np.ndarray, step: str, resolution: Resolution
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of the values of each day or month with enough time steps, and of their measured share."""
    if step == _own_step(resolution) or not len(time):
        return time, values, share
    known = np.isfinite(values)
    periods = np.arange(time[0].astype(f"datetime64[{step}]"), time[-1].astype(f"datetime64[{step}]") + 1)
    at = (time.astype(f"datetime64[{step}]") - periods[0]).astype(int)
    count, total, sure = (
        np.bincount(at[known], weights, minlength=len(periods)) for weights in (None, values[known], share[known])
    )
    whole = (periods + 1).astype("datetime64[D]") - periods.astype("datetime64[D]")
    enough = count >= _ENOUGH * whole.astype(int) * resolution.steps_per_day
    safe = np.maximum(count, 1)
    return periods.astype("datetime64[ns]"), np.where(enough, total / safe, np.nan), np.where(enough, sure / safe, 0)


def _draw(ax: Axes, observed: _Series | None, lines: dict[str, _Series], styles: dict[str, Style]) -> None:
    units = observed.units if observed is not None else next((line.units for line in lines.values()), "")
    if observed is not None:
        known = np.isfinite(observed.value)
        sure = np.ones(len(known), bool) if observed.measured is None else observed.measured
        for chosen, label, color in ((known & ~sure, _FILLED, "#B0B0B0"), (known & sure, _OBSERVED, ink())):
            if chosen.any():
                ax.plot(observed.time[chosen], observed.value[chosen], ".", color=color, markersize=3, label=label)
    for name, line in lines.items():
        _draw_line(ax, line, styles[name], name, units)
    ax.set_ylabel(print_units(units), fontsize=8)


def _draw_line(ax: Axes, line: _Series, style: Style, label: str, units: str) -> None:
    """Draw predictions in the units of the observations, interrupted where time steps are missing."""
    zero, one = linear_conversion(line.units, units, label) if line.units and units else (0.0, 1.0)
    time, value = line.time, one * line.value + zero
    width = np.full(len(value), np.nan) if line.width is None else abs(one) * line.width
    if len(time) > 2:
        gaps = np.flatnonzero(np.diff(time) > 1.5 * np.median(np.diff(time)).astype("timedelta64[ns]")) + 1
        time = np.insert(time, gaps, time[gaps - 1] + np.timedelta64(1, "ns"))
        value, width = (np.insert(values, gaps, np.nan) for values in (value, width))
    ax.plot(time, value, color=style.color, linestyle=style.line, linewidth=1.1, label=label)
    if np.isfinite(width).any():
        band = ax.fill_between(time, value - width, value + width, label=f"{label}, interval of 90 %")
        band.set(color=style.color, alpha=0.2, linewidth=0)


def _limit(ax: Axes, panel: _Panel, times: np.ndarray, period: slice, step: str) -> None:
    """Let the time axis begin and end with the period, where its begin and end were passed or no value is drawn."""
    first, last = times[[0, -1]].astype(f"datetime64[{step}]")
    empty = not len(panel.times())
    if period.start is not None or empty:
        ax.set_xlim(left=first.astype("datetime64[s]").item())
    if period.stop is not None or empty:
        ax.set_xlim(right=(last + 1).astype("datetime64[s]").item())


def _finish(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for ax, title in zip(axes, titles, strict=True):
        locator = AutoDateLocator(maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.2, linewidth=0.5)
        ax.set_title(title, fontsize=9, loc="left", parse_math=False)
    title_and_legend(axes[0], titles[0], left=True, of=axes)
