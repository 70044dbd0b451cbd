"""Images of another sensor at the towers and cells of the example cubes."""

import numpy as np
import xarray as xr

BANDS = ("B4", "B8")


def random_images(ds, *, days=None, bands=BANDS, side=3, seed=0, gaps=0.0, scale=1e4):
    """Integers of 0..10000 as products store reflectance, every 5 days, for each place of a cube or forcing."""
    rng = np.random.default_rng(seed)
    places = ("site",) if "site" in ds.dims else ("latitude", "longitude")
    if days is None:
        days = np.arange(ds.time.values[0] - np.timedelta64(4, "D"), ds.time.values[-1], np.timedelta64(5, "D"))
    pixels = (side, side) if side > 1 else ()
    shape = (*(ds.sizes[dim] for dim in places), len(days), len(bands), *pixels)
    values = np.round(scale * rng.random(shape)).astype("float32")
    values[rng.random(shape) < gaps] = np.nan
    coords = {dim: ds[dim].values for dim in places} | {"day": np.asarray(days), "band": list(bands)}
    return xr.DataArray(values, coords, (*places, "day", "band", *(("y", "x") if pixels else ())))
