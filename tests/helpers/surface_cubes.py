"""Surface reflectance for small cubes in memory: seasonal, with clouds, and one long gap."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.resolution import resolution_of
from fluxcube.schema import SURFACE_DIMS
from fluxcube.variables import SURFACE_BANDS

#: Days before the first time step for which a cube keeps reflectance.
BEFORE = 96


def reflectance(places, days, seed=0, bands=SURFACE_BANDS, clear=0.4):
    """Return reflectance (place, day, band) float32 on days; NaN is not clear."""
    rng = np.random.default_rng(seed)
    season = 0.1 * np.sin(2 * np.pi * np.arange(days) / 365)[None, :, None]
    values = np.linspace(0.05, 0.45, len(bands)) + season * np.linspace(-0.3, 1, len(bands))
    values = values + rng.normal(0, 0.02, (places, days, len(bands)))
    values[rng.random((places, days)) > clear] = np.nan
    return values.clip(0, 1).astype("float32")


def with_surface(cube, seed=0, bands=SURFACE_BANDS, after=0, **options):
    """Return a cube with surface reflectance from 96 days before its first time step on."""
    dim, band = SURFACE_DIMS[resolution_of(cube).name]
    first, last = cube.time.values[[0, -1]].astype("datetime64[D]")
    days = np.arange(first - BEFORE, last + 1 + after)
    values = reflectance(cube.sizes["site"], len(days), seed, bands, **options)
    coords = {dim: days.astype("datetime64[ns]"), band: np.array(bands, object)}
    return cube.assign(surface=xr.DataArray(values, dims=("site", dim, band), coords=coords))
