"""A map's mean day as a moving picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, StoreError, missing_package, unknown
from fluxcube.maps.means import mean_cycle
from fluxcube.plotting.maps import beyond, colours, map_title, plot_map, thinned


def animate_cycle(
    maps: xr.Dataset,
    path: str | Path,
    *,
    variable: str = "NEE",
    clock: str = "utc",
    limits: tuple[float, float] | None = None,
    seconds: float = 6.0,
    title: str | None = None,
    coast: bool = True,
) -> Path:
    """Write the mean day of a flux as a GIF that goes round, a picture an hour.

    Parameters
    ----------
    maps : xr.Dataset
        Hourly flux maps, of which `fluxcube.mean_cycle` makes the mean day; or what it made, with the dimension hour.
    path : path
        GIF to write, in place of what is there.
    variable : str
        Flux to draw.
    clock : {"utc", "solar"}
        Hours of the mean day: in UTC the sun goes round; in local mean solar time it is the same hour everywhere. Of
        no effect where the maps have hours.
    limits : (float, float), optional
        Values of the first and last colour in all pictures. Default: as `fluxcube.plot_map` finds them for all hours
        together.
    seconds : float
        Length of the day.
    title : str, optional
        First line of each picture. Default: the long name.
    coast : bool
        As `plot_map` takes it.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    SchemaError
        If the maps are several mean days: choose one, ``cycle.isel(time=0)``.
    ConfigError
        If the picture's name does not end in ``.gif``, or `seconds` is not above 0.
    StoreError
        If its folder does not exist.
    UnknownNameError
        If the maps do not hold `variable`.
    """
    path = _checked(Path(path), maps, variable, seconds)
    day = maps if "hour" in maps.dims else mean_cycle(maps[[variable]].assign_coords(maps.coords), clock=clock)
    if set(day[variable].dims) != {"hour", "latitude", "longitude"}:
        raise SchemaError(
            f"a moving picture is of one mean day, found dims {day[variable].dims}: choose one, isel(time=0)."
        )
    frames = thinned(day[variable].transpose("hour", "latitude", "longitude")).compute()
    if title is not None:
        frames.attrs["long_name"] = title
    _save(frames, path, limits, frames.sizes["hour"] / seconds, coast)
    return path


def _checked(path: Path, maps: xr.Dataset, variable: str, seconds: float) -> Path:
    if variable not in maps:
        raise unknown("flux", variable, maps.data_vars)
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"a moving picture ends in .gif, found {path}.")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    if not seconds > 0:
        raise ConfigError(f"seconds must be above 0, found {seconds!r}.")
    return path


def _save(frames: xr.DataArray, path: Path, limits: tuple[float, float] | None, rate: float, coast: bool) -> None:
    """Draw hour after hour on the same axes, whose limits and colours stay."""
    try:
        from matplotlib.animation import PillowWriter
    except ImportError:
        raise missing_package("matplotlib", "plot", "moving pictures") from None
    values = frames.values.astype(float)
    if not np.isfinite(values).any():
        raise SchemaError(f"{frames.name} has no finite value at any hour.")
    ends = limits or colours(str(frames.name), values, None, None)[1:]
    first = int(np.isfinite(values).any((1, 2)).argmax())
    ax = plot_map(frames.isel(hour=first), limits=ends, extend=beyond(values, *ends), coast=coast)
    mesh = ax.collections[0]
    for _ in range(4):  # axes of a fixed shape find their place step by step
        ax.figure.draw_without_rendering()
    ax.figure.set_layout_engine("none")  # where it stays from picture to picture
    writer = PillowWriter(fps=rate)
    with writer.saving(ax.figure, str(path), dpi=100):
        for i, picture in enumerate(values):
            mesh.set_array(np.ma.masked_invalid(picture))
            ax.set_title(map_title(frames.isel(hour=i)), fontsize=11)
            writer.grab_frame()
