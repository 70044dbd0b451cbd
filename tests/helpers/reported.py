"""A cube of towers, one with markup in its name, and predictions for the tests of reports."""

from __future__ import annotations

import numpy as np
import xarray as xr

#: A site whose name is markup: it must appear as text.
MARKUP = "<b>XX</b>&\"'</script>"


def reported_cube(sites: int = 6, days: int = 40) -> xr.Dataset:
    from fluxcube.simulation.example import example_cube

    cube = example_cube(sites=sites, days=days, gaps=0.1)
    names = cube["site"].values.copy()
    names[1] = MARKUP
    return cube.assign_coords(site=("site", names))


def noisy(cube: xr.Dataset, noise: float, seed: int, targets=("NEE", "GPP_NT")) -> xr.Dataset:
    """Predictions: the fluxes with noise, and a standard deviation."""
    rng = np.random.default_rng(seed)
    out = {}
    for name in targets:
        flux = cube["fluxes"].sel(target=name).reset_coords(drop=True)
        out[name] = (
            (flux + noise * rng.standard_normal(flux.shape)).astype("float32").assign_attrs(units="umol m-2 s-1")
        )
    out["NEE_std"] = xr.full_like(out["NEE"], noise).assign_attrs(units="umol m-2 s-1")
    return xr.Dataset(out, coords={"site": cube["site"].values, "time": cube["time"].values})
