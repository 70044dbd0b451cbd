"""A lazy global forcing with the chunks of a real one, whose blocks are computed when they are read.

It has no files and hardly any RAM at any resolution: plans of global maps are made, and tested, with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.schema import CHIP_X, CHIP_Y, validate_forcing, variable_coords
from fluxcube.solar import potential_radiation
from fluxcube.timestamps import DAY, HOUR, local_clock
from fluxcube.variables import BANDS, table

#: Chunks of weather, as `fluxcube.open_forcing` reads files: cells along each side, and hours; days of chips.
_CHUNKS = {"latitude": 16, "longitude": 16, "time": 2208, "day": 92}
_CELLS = ("latitude", "longitude")
#: Number of days between chips.
_EVERY = 4
#: Classes of bands of ten degrees of latitude, from the equator to the poles.
_CLASSES = ("EBF", "SAV", "OSH", "GRA", "DBF", "ENF", "ENF", "OSH", "SNO")


@dataclass(frozen=True, eq=False)
class _Computed:
    """An array of float32 whose parts are computed when they are read, by ``function(*index arrays)``."""

    shape: tuple[int, ...]
    function: Callable[..., np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype("float32")

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        """Compute a part."""
        parts = [np.arange(size)[part] for size, part in zip(self.shape, key, strict=True)]
        return self.function(*parts).astype(self.dtype)


@dataclass(frozen=True, eq=False)
class _Weather:
    """Weather at places and times: waves between the bounds of each variable, and the true position of the sun."""

    latitude: np.ndarray
    longitude: np.ndarray
    time: np.ndarray
    names: tuple[str, ...]

    def __call__(self, rows: np.ndarray, columns: np.ndarray, steps: np.ndarray, variables: np.ndarray) -> np.ndarray:
        """Return values (latitude, longitude, time, variable)."""
        lat, lon = np.meshgrid(self.latitude[rows], self.longitude[columns], indexing="ij")
        shape, time = (len(rows), len(columns), len(steps)), self.time[steps]
        hour = (time - self.time[0]) / HOUR
        phase = np.radians(5 * lat + 3 * lon)[..., None]
        out = np.empty((*shape, len(variables)), "float32")
        for n, name in enumerate(self.names[v] for v in variables):
            if name in ("DOY", "TOD"):
                out[..., n] = local_clock(time, lon.ravel() / 15)[name == "TOD"].reshape(shape)
            elif name in ("SW_IN_POT", "SW_IN"):
                sun = potential_radiation(time, lat.ravel(), lon.ravel()).reshape(shape)
                out[..., n] = sun if name == "SW_IN_POT" else sun * (0.5 + 0.2 * np.cos(phase + hour / 100))
            else:
                low, high = table()[name].bounds
                wave = np.sin(2 * np.pi * hour / 24 + phase) + np.sin(2 * np.pi * hour / 8766 + phase + n)
                # With two digits: real values do not compress better.
                out[..., n] = np.round((low + high) / 2 + (high - low) * 0.2 * wave, 2)
        return out


@dataclass(frozen=True)
class _Chips:
    """Chips of reflectance that depend on the place and the day."""

    def __call__(self, rows: np.ndarray, columns: np.ndarray, *parts: np.ndarray) -> np.ndarray:
        """Return reflectance (latitude, longitude, day, band, y, x)."""
        phase = rows[:, None] * 0.1 + columns[None, :] * 0.07
        grid = np.ix_(*map(np.atleast_1d, parts))
        texture = sum(size * part for size, part in zip((0.3, 1.1, 0.5, 0.7), grid, strict=True))
        values = 0.2 + 0.1 * np.sin(phase[..., None, None, None, None] + texture)
        values[..., parts[1] >= len(BANDS) - 2, :, :] = 0.0  # no snow, no water
        return np.round(values, 4)


def global_forcing(
    land: np.ndarray,
    *,
    resolution: float,
    start: str,
    hours: int,
    predictors: Sequence[str],
    bands: bool = False,
    chunks: Mapping[str, int] | None = None,
    north: float = 90.0,
    west: float = -180.0,
) -> xr.Dataset:
    """Return a lazy hourly forcing on a grid of latitude and longitude.

    Parameters
    ----------
    land : (latitude, longitude) bool
        Cells with land, from north to south.
    resolution : float
        Step of the grid, degrees.
    start : str
        First hour.
    hours : int
        Number of hours.
    predictors : sequence of str
        Hourly predictors.
    bands : bool
        Whether it has chips, every four days from 32 days before the first hour.
    chunks : mapping, optional
        Sizes of the Dask chunks of latitude, longitude, time and day; by default those of files, 16, 16, 2208 and 92.
    north, west : float
        Edges of the grid, degrees.

    Returns
    -------
    xr.Dataset
        A forcing cube (`fluxcube.schema`).

    Examples
    --------
    >>> ds = global_forcing(np.ones((4, 8), bool), resolution=45, start="2018", hours=48, predictors=["TA"])
    >>> ds.predictors.shape, bool(ds.predictors.notnull().all())
    ((4, 8, 48, 1), True)
    """
    rows, columns = land.shape
    latitude = north - resolution * (np.arange(rows) + 0.5)
    longitude = west + resolution * (np.arange(columns) + 0.5)
    time = np.datetime64(start, "ns") + np.arange(hours) * HOUR
    sizes = {**_CHUNKS, **(chunks or {})}
    weather = _Weather(latitude, longitude, time, tuple(predictors))
    data: dict[str, tuple[tuple[str, ...], tuple[int, ...], Callable[..., np.ndarray]]]
    data = {"predictors": ((*_CELLS, "time", "variable"), (*land.shape, hours, len(predictors)), weather)}
    coords: dict[str, object] = {}
    if bands:
        day = np.arange(time[0].astype("datetime64[D]") - 32, time[-1].astype("datetime64[D]") + 1, _EVERY * DAY)
        data["modis"] = ((*_CELLS, "day", "band", "y", "x"), (*land.shape, len(day), len(BANDS), 8, 8), _Chips())
        coords = {"day": day.astype("datetime64[ns]"), "band": np.array(BANDS, object), "y": CHIP_Y, "x": CHIP_X}
    classes = np.array([_CLASSES[min(8, int(abs(value) // 10))] for value in latitude], object)
    arrays = {name: (dims, _lazy(shape, dims, function, sizes)) for name, (dims, shape, function) in data.items()}
    return validate_forcing(
        xr.Dataset(
            arrays,
            coords={
                "latitude": latitude,
                "longitude": longitude,
                "time": time,
                **variable_coords(tuple(predictors)),
                **coords,
                # Views without RAM of their own.
                "elevation": (_CELLS, np.broadcast_to(np.float32(300.0), land.shape)),
                "igbp": (_CELLS, np.broadcast_to(classes[:, None], land.shape)),
                "koppen": (_CELLS, np.broadcast_to(np.array("Cfb", object), land.shape)),
                "land_fraction": (_CELLS, land.astype("float32")),
            },
            attrs={"kind": "forcing", "clock": "solar", "title": "simulated forcing of the globe"},
        )
    )


def _lazy(shape: tuple[int, ...], dims: tuple[str, ...], function: Callable, sizes: Mapping[str, int]) -> object:
    """Return a Dask array with one short rule for all blocks, instead of one entry for each."""
    import dask.array as da

    chunks = tuple(sizes.get(dim, -1) for dim in dims)
    meta = np.empty((0,) * len(shape), "float32")
    return da.from_array(_Computed(shape, function), chunks=chunks, name=False, asarray=False, meta=meta)
