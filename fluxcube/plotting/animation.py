"""Animate the mean diurnal cycle of a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, StoreError, missing_package, unknown
from fluxcube.maps.means import mean_cycle
from fluxcube.maps.store import Maps, as_maps
from fluxcube.plotting.canvas import figure_of
from fluxcube.plotting.maps import coarsened, color_limits, extend_of, map_title, plot_map
from fluxcube.progress import Progress
from fluxcube.stores.files import replacing


def animate_cycle(
    maps: Maps,
    path: str | Path,
    *,
    variable: str = "NEE",
    clock: str = "utc",
    limits: tuple[float, float] | None = None,
    seconds: float = 6.0,
    title: str | None = None,
    coast: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Write the mean diurnal cycle of a flux as a looping GIF with one frame per hour.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        Hourly flux maps, or the mean diurnal cycle that `fluxcube.mean_cycle` computes from them, with the dimension
        hour.
    path : path
        GIF to write; an existing file is replaced.
    variable : str
        Flux to draw.
    clock : {"utc", "solar"}
        Hours of the mean diurnal cycle. In UTC the sun moves over the map; in local mean solar time it is the same hour
        everywhere. Used only where the maps have no dimension hour.
    limits : (float, float), optional
        Values of the first and last colour in all frames. Default: the limits that `fluxcube.plot_map` chooses for all
        hours together.
    seconds : float
        Duration of the animation.
    title : str, optional
        First line of each frame. Default: the long name.
    coast : bool
        Draw coasts, as in `fluxcube.plot_map`.
    progress : callable, optional
        ``progress(done, total, text)``, per frame.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    SchemaError
        If the maps contain several diurnal cycles: select one, ``cycle.isel(time=0)``.
    ConfigError
        If the file name does not end in ``.gif``, or `seconds` is not positive.
    StoreError
        If the folder of `path` does not exist, or the disk is full.
    UnknownNameError
        If the maps do not contain `variable`.

    Examples
    --------
    >>> import fluxcube as fc
    >>> fc.animate_cycle(fc.open_maps("maps.zarr"), "day.gif", clock="solar")  # doctest: +SKIP
    """
    maps = as_maps(maps)
    path = _checked(Path(path), maps, variable, seconds)
    day = maps if "hour" in maps.dims else mean_cycle(maps[[variable]].assign_coords(maps.coords), clock=clock)
    if set(day[variable].dims) != {"hour", "latitude", "longitude"}:
        raise SchemaError(
            f"expected one diurnal cycle (hour, latitude, longitude), found dims {day[variable].dims}; choose one with "
            "isel(time=0)."
        )
    frames = coarsened(day[variable].transpose("hour", "latitude", "longitude")).compute()
    if title is not None:
        frames.attrs["long_name"] = title
    _save(frames, path, limits, frames.sizes["hour"] / seconds, coast, progress)
    return path


def _checked(path: Path, maps: xr.Dataset, variable: str, seconds: float) -> Path:
    if variable not in maps:
        raise unknown("flux", variable, maps.data_vars)
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"expected a file name that ends in .gif, found {path}; change the name.")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    if not seconds > 0:
        raise ConfigError(f"seconds={seconds!r}: expected a positive number.")
    return path


def _save(
    frames: xr.DataArray,
    path: Path,
    limits: tuple[float, float] | None,
    rate: float,
    coast: bool,
    progress: Progress | None,
) -> None:
    """Draw one frame per hour on the same axes, with constant limits and colours."""
    try:
        from matplotlib.animation import PillowWriter
    except ImportError:
        raise missing_package("matplotlib", "plot", "animating maps") from None
    values = frames.values.astype(float)
    if not np.isfinite(values).any():
        raise SchemaError(f"{frames.name} has no finite value at any hour; there is nothing to draw.")
    ends = limits or color_limits(str(frames.name), values, None, None)[1:]
    first = int(np.isfinite(values).any((1, 2)).argmax())
    ax = plot_map(frames.isel(hour=first), limits=ends, extend=extend_of(values, *ends), coast=coast)
    mesh, figure = ax.collections[0], figure_of(ax)
    for _ in range(4):  # the layout of axes with a fixed aspect converges in a few steps
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout stays the same in all frames
    writer = PillowWriter(fps=rate)  # type: ignore[arg-type]  # a float is valid, matplotlib's annotation is int
    with replacing(path) as temporary, writer.saving(figure, str(temporary), dpi=100):
        for i, frame in enumerate(values):
            mesh.set_array(np.ma.masked_invalid(frame))
            ax.set_title(map_title(frames.isel(hour=i)), fontsize=11)
            writer.grab_frame()
            if progress is not None:
                progress(i + 1, len(values), f"frame {i + 1}")
