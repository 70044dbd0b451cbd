"""Köppen climate class of every cell of a forcing cube, from its own years, for models that have it as an input."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.biomes import koppen as classify
from fluxcube.errors import ConfigError
from fluxcube.resolution import resolution_of
from fluxcube.schema import validate_forcing

_CELLS = ("latitude", "longitude")
_MAIN = ("A", "B", "C", "D", "E")
_LENGTHS = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def add_climates(forcing: xr.Dataset, koppen: str | None = None) -> xr.Dataset:
    """Add the coordinate ``koppen``, which tower cubes have, to a forcing cube.

    Without `koppen`, all temperature and rain of the forcing are read once, block by block, unless it already has the
    coordinate. A climate class describes decades: open as many years as possible, or assign a published map with
    ``forcing.assign_coords(koppen=...)``.

    Parameters
    ----------
    forcing : xr.Dataset
        Hourly or daily forcing cube, with TA and P of every month of the year.
    koppen : str, optional
        Class of every cell, such as "Cfb" or "C".

    Returns
    -------
    xr.Dataset
        `forcing` with ``koppen`` (latitude, longitude): Köppen-Geiger classes; "" where a month has no value.

    Raises
    ------
    SchemaError
        If `forcing` is not a forcing cube.
    ConfigError
        If it lacks TA, P, or a month of the year; or if `koppen` is not a class.

    References
    ----------
    Peel et al. 2007, doi:10.5194/hess-11-1633-2007.
    """
    validate_forcing(forcing)
    if koppen is not None:
        if koppen[:1] not in _MAIN:
            raise ConfigError(f"koppen={koppen!r}: expected a class that begins with one of {', '.join(_MAIN)}.")
        return _classified(forcing, np.full(forcing.igbp.shape, koppen, object), "one class for all")
    if "koppen" in forcing.coords:
        return forcing
    absent = [name for name in ("TA", "P") if name not in forcing["variable"].values]
    months = forcing.time.dt.month.values - 1
    if absent or len(np.unique(months)) < 12:
        present = f"no {' and no '.join(absent)}" if absent else f"{len(np.unique(months))} months"
        raise ConfigError(f"climates need TA and P of all twelve months; this forcing has {present}: open more of it.")
    temperature, rain = _monthly_means(forcing, months)
    latitude = np.repeat(forcing.latitude.values, forcing.sizes["longitude"])
    classes = classify(temperature, rain * resolution_of(forcing).steps_per_day * _LENGTHS, latitude)
    return _classified(forcing, classes.reshape(forcing.igbp.shape), "of the forcing's own years")


def _classified(forcing: xr.Dataset, classes: np.ndarray, how: str) -> xr.Dataset:
    attrs = {"long_name": "Koeppen-Geiger climate class", "comment": how}
    return forcing.assign_coords(koppen=(_CELLS, classes, attrs))


def _monthly_means(forcing: xr.Dataset, months: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of TA and P per time step (place, month), NaN where a month has no value."""
    import dask
    import dask.array as da

    values = da.asarray(forcing.predictors.sel(variable=["TA", "P"]).data)
    of_month = (months[:, None] == np.arange(12)).astype(np.float64)
    there = da.isfinite(values)
    sums = da.tensordot(da.where(there, values, 0).astype(float), of_month, axes=(2, 0))
    total, count = dask.compute(sums, da.tensordot(there.astype(float), of_month, axes=(2, 0)))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (total / count).reshape(-1, 2, 12)
    return means[:, 0], means[:, 1]
