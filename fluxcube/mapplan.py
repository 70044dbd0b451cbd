"""Plan maps of the globe or of a region: tasks, bytes, hours and cost, computed from a measured sample."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, missing_package
from fluxcube.fetch.items import duration_text, size_text
from fluxcube.inference.grid import upscale
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.plotting.maps import coast_lines
from fluxcube.recipes import fetch_forcing, plan_forcing

#: South of this latitude no model of land is applied: Antarctica is ice, and its outline crosses all longitudes.
_SOUTH = -60.0
#: Default chunks: cells along each side (`fluxcube.open_forcing`), and hours (`fluxcube.upscale`).
_CELLS, _HOURS = 16, 720
#: Thirty days of the simulated planet, which are the sample.
_SAMPLE = ("2018-06-01", "2018-06-30")


@dataclass(frozen=True, kw_only=True)
class MapSample:
    """A measured sample of maps.

    Attributes
    ----------
    cell_hours : int
        Number of land cells times number of hours that were mapped.
    seconds : float
        CPU time of reading the forcing, mapping and writing; with a GPU, the time that passed.
    bytes : int
        Bytes of the arrays of fluxes on disk.
    device : str
        "CPU core" or "GPU": what computed the model.
    """

    cell_hours: int
    seconds: float
    bytes: int
    device: str

    def __post_init__(self) -> None:
        if self.cell_hours <= 0 or self.seconds <= 0:
            raise ConfigError(
                f"the sample mapped {self.cell_hours} land cells times hours in {self.seconds} s: expected positive "
                "numbers; choose a sample with land, and a longer period."
            )


@dataclass(frozen=True, kw_only=True)
class MapPlan:
    """What maps of an area will take.

    Attributes
    ----------
    sample : MapSample
        The measurement that hours and bytes are scaled from.
    resolution : float
        Step of the grid, degrees.
    hours : int
        Number of hours of the maps.
    land_cells : int
        Number of cells that contain land.
    tasks : int
        Number of regions that are computed and written.
    cores_per_gpu : float
        Number of CPU cores that one GPU replaces; an assumption if the sample was measured on a CPU.
    price : float
        Price of a GPU-hour, USD.
    """

    sample: MapSample
    resolution: float
    hours: int
    land_cells: int
    tasks: int
    cores_per_gpu: float
    price: float

    @property
    def cell_hours(self) -> int:
        """Number of land cells times number of hours."""
        return self.land_cells * self.hours

    @property
    def device_hours(self) -> float:
        """Hours of the device of the sample."""
        return self.sample.seconds * self.cell_hours / self.sample.cell_hours / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU."""
        return self.device_hours if self.sample.device == "GPU" else self.device_hours / self.cores_per_gpu

    @property
    def bytes(self) -> int:
        """Bytes of the maps on disk."""
        return round(self.sample.bytes * self.cell_hours / self.sample.cell_hours)

    @property
    def cost(self) -> float:
        """Price of the GPU-hours, USD."""
        return self.gpu_hours * self.price

    def text(self) -> str:
        """Return the plan as lines for a terminal."""
        one, sample = self.sample.device, self.sample
        lines = [
            f"Maps at {self.resolution:g} degrees: {self.land_cells:,} land cells x {self.hours:,} hours",
            f"tasks: {self.tasks:,} (of up to {_CELLS} x {_CELLS} cells and {_HOURS} hours)",
            f"bytes: about {size_text(self.bytes)} on disk",
            f"GPU-hours: about {self.gpu_hours:,.1f}",
            f"cost: about {self.cost:,.0f} USD at {self.price:g} USD for a GPU-hour",
            f"sample: {sample.cell_hours:,} land cells x hours took {duration_text(sample.seconds)} of one {one}, "
            f"{sample.bytes / sample.cell_hours:.1f} bytes each",
        ]
        if one == "GPU":
            return "\n".join(lines)
        lines.insert(4, f"CPU core-hours: about {self.device_hours:,.0f}")
        note = (
            f"note: one GPU is assumed to replace {self.cores_per_gpu:g} cores; on a machine with a GPU it is measured"
        )
        return "\n".join([*lines, note])

    def __str__(self) -> str:
        return self.text()


def measure_maps(model: str, forcing: xr.Dataset, *, period: tuple[str, str]) -> MapSample:
    """Map a small forcing into a temporary store, and measure time and bytes.

    The maps of the first day are written first, so that the time does not contain that of reading the model.

    Parameters
    ----------
    model : str
        Run, or name of a shipped model.
    forcing : xr.Dataset
        Forcing cube of a few cells.
    period : (str, str)
        First and last time; both are included. Ten days or more are representative.

    Returns
    -------
    MapSample

    Raises
    ------
    ConfigError
        If the sample has no land.
    """
    first, last = map(str, period)
    with tempfile.TemporaryDirectory() as folder:
        write_maps(upscale(model, forcing, time=slice(first, first)), Path(folder) / "first.zarr", scheduler="threads")
        maps, store = upscale(model, forcing, time=slice(first, last)), Path(folder) / "maps.zarr"
        device = _device()
        # CPU time, since other jobs of the machine do not change it; of a GPU there is only the time that passes.
        clock = time.perf_counter if device == "GPU" else time.process_time
        start = clock()
        write_maps(maps, store, scheduler="threads", workers=1)
        seconds = clock() - start
        written = open_maps(store)
        size = sum(path.stat().st_size for name in written.data_vars for path in (store / str(name)).rglob("*/*"))
        land = int((written.land_fraction > 0).sum())
    return MapSample(
        cell_hours=land * maps.sizes["time"],
        seconds=seconds,
        bytes=size,
        device=device,
    )


def plan_maps(
    sample: MapSample,
    *,
    resolution: float,
    hours: int,
    bbox: tuple[float, float, float, float] = (-180.0, _SOUTH, 180.0, 90.0),
    cores_per_gpu: float = 100.0,
    price: float = 3.0,
) -> MapPlan:
    """Scale a sample to the land of an area.

    Cells with land are counted on the outlines of Natural Earth at 1:110 million, which lack small islands; every cell
    that an outline touches counts.

    Parameters
    ----------
    sample : MapSample
        What `measure_maps` measured.
    resolution : float
        Step of the grid, degrees.
    hours : int
        Number of hours of the maps.
    bbox : (west, south, east, north)
        Degrees. Land south of 60 degrees south is not counted.
    cores_per_gpu : float
        Number of CPU cores that one GPU replaces, if the sample was measured on a CPU.
    price : float
        Price of a GPU-hour, USD.

    Returns
    -------
    MapPlan

    Raises
    ------
    ConfigError
        If a number is not positive, or the area has no land.
    """
    numbers = {"resolution": resolution, "hours": hours, "cores_per_gpu": cores_per_gpu, "price": price}
    if wrong := [f"{name}={value}" for name, value in numbers.items() if not value > 0]:
        raise ConfigError(f"expected positive numbers, found {', '.join(wrong)}.")
    land = land_cells(resolution, bbox)
    if not land.any():
        raise ConfigError(f"no land in the box {bbox}: choose another one.")
    rows, columns = (-(-size // _CELLS) for size in land.shape)
    padded = np.zeros((rows * _CELLS, columns * _CELLS), bool)
    padded[: land.shape[0], : land.shape[1]] = land
    tiles = padded.reshape(rows, _CELLS, columns, _CELLS).any(axis=(1, 3)).sum()
    return MapPlan(
        sample=sample,
        resolution=resolution,
        hours=hours,
        land_cells=int(land.sum()),
        tasks=int(tiles) * -(-hours // _HOURS),
        cores_per_gpu=cores_per_gpu,
        price=price,
    )


def land_cells(resolution: float, bbox: tuple[float, float, float, float]) -> np.ndarray:
    """Return the cells (latitude, longitude), from north to south, that the outlines of land cover or touch.

    Raises
    ------
    MissingPackageError
        If rasterio is not installed.
    """
    try:
        from rasterio.features import rasterize
        from rasterio.transform import from_origin
    except ImportError:
        raise missing_package("rasterio", "sources", "counting land cells") from None
    west, south, east, north = bbox
    shape = (max(1, round((north - max(south, _SOUTH)) / resolution)), max(1, round((east - west) / resolution)))
    # Outlines that cross 180 degrees are cut there: a part is closed along that meridian.
    outlines = [line for line in coast_lines() if len(line) > 2 and line[:, 1].max() > _SOUTH]
    shapes = [{"type": "Polygon", "coordinates": [[*line.tolist(), line[0].tolist()]]} for line in outlines]
    turns = [turn for turn in (-360.0, 0.0, 360.0) if west < 180.0 + turn and east > -180.0 + turn]
    land = np.zeros(shape, bool)
    for turn in turns:
        transform = from_origin(west - turn, north, resolution, resolution)
        land |= rasterize(shapes, out_shape=shape, transform=transform, all_touched=True, dtype="uint8").astype(bool)
    return land


def plan_global(
    out: str | Path,
    *,
    years: Sequence[int],
    model: str,
    resolution: float,
    period: tuple[str, str],
    project: str | None = None,
    endpoints: Mapping[str, str | None] | None = None,
    cores_per_gpu: float = 100.0,
    price: float = 3.0,
) -> str:
    """Return the plan of global maps as text: the fetches, then tasks, bytes, hours and cost from a measured sample.

    Parameters
    ----------
    out : path
        Folder of the recipe; the raw files of a small simulated planet are written into it once.
    years : sequence of int
        Years of ERA5 and land cover.
    model : str
        Run, or name of a shipped model.
    resolution, cores_per_gpu, price
        As `plan_maps` takes them.
    period : (str, str)
        First and last time of the maps; both are included.
    project : str, optional
        Google Cloud project, for the land cover.
    endpoints : mapping, optional
        Addresses of mirrors, as of `fluxcube.recipes.read_endpoints`.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If the period or a number is invalid.
    """
    fetches = plan_forcing(out, region="world", years=years, model=model, project=project, endpoints=endpoints)
    forcing = fetch_forcing(out, region="world", years=years, model=model, sample=True)
    sample = measure_maps(model, forcing, period=_SAMPLE)
    hours = number_of_hours(period)
    plan = plan_maps(sample, resolution=resolution, hours=hours, cores_per_gpu=cores_per_gpu, price=price)
    return "\n".join([*(fetch.text(0) for fetch in fetches), str(plan)])


def number_of_hours(period: Sequence[str]) -> int:
    """Return the number of hours from the first to the last time, both included; a date as last time is a whole day.

    Raises
    ------
    ConfigError
        If these are not two times in order.

    Examples
    --------
    >>> number_of_hours(("2018", "2018")), number_of_hours(("2018-06-01", "2018-06-02"))
    (8760, 48)
    """
    try:
        first, last = (pd.Period(str(time)) for time in period)
        hours = round((last.end_time - first.start_time) / pd.Timedelta(1, "h"))
    except (ValueError, TypeError):
        hours = 0
    if hours <= 0:
        raise ConfigError(
            f"period: expected the first and the last time, in order, such as 2018, 2018; found {period}."
        )
    return hours


def _device() -> str:
    """Return what networks are computed on here."""
    import torch

    return "GPU" if torch.cuda.is_available() else "CPU core"
