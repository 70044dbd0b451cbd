"""Digest of the data of a run: an unfinished run is resumed on the cube that it began with, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.towers import site_years

#: Number of days of a site's satellite data that are part of the digest, spread over its record: all of them would take
#: as long to read as the rest of the cube together.
_DAYS = 3
#: Arrays of a stack that features, fluxes and their weights are computed from.
_ENDINGS = ("", "_qc", "_quality", "_randunc")
_PLACE = ("latitude", "longitude", "elevation", "igbp", "koppen")


def data_digest(cube: xr.Dataset, sites: Sequence[str], spec: FeatureSpec) -> str:
    """Return a digest of everything that a model learns from at some sites.

    It depends on the values of these sites alone, not on chunks, on the store's path or on the other sites, so that a
    cube that was moved, built again from the same files or extended by other sites has the same digest.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory; each site is read once.
    sites : sequence of str
        Training and validation sites.
    spec : FeatureSpec
        Inputs and targets. All values of fluxes and predictors count, and a sample of the satellite data.

    Returns
    -------
    str
        32 hexadecimal digits.

    Examples
    --------
    >>> from fluxcube.samples.towers import cube_spec
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=2, days=3)
    >>> spec, sites = cube_spec(cube), ["XX-S00"]
    >>> other = cube.assign(fluxes=cube.fluxes + 1)
    >>> data_digest(cube, sites, spec) == data_digest(cube.chunk(time=24), sites, spec)
    True
    >>> data_digest(cube, sites, spec) == data_digest(other, sites, spec)
    False
    """
    total = hashlib.blake2b(digest_size=16)
    for site in sites:
        for name, values in _arrays(site_years(cube, site), spec):
            total.update(f"{site} {name} {values.shape} {values.dtype.kind}{values.dtype.itemsize} ".encode())
            total.update(np.ascontiguousarray(values).data)
    return total.hexdigest()


def _arrays(one: xr.Dataset, spec: FeatureSpec) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of the arrays of one site that features and fluxes are computed from."""
    variables = [name for name in spec.predictors if name in one["variable"].values]
    stacks = {"predictors": {"variable": variables}, "fluxes": {"target": list(spec.targets)}}
    names = [(stack + ending, at) for stack, at in stacks.items() for ending in _ENDINGS]
    arrays = {name: one[name].sel(at) for name, at in names if name in one}
    if spec.bands and spec.row.satellite in one:
        days = np.unique(np.linspace(0, one.sizes["day"] - 1, min(_DAYS, one.sizes["day"])).astype(int))
        arrays[spec.row.satellite] = one[spec.row.satellite].isel(day=days)
    data = xr.Dataset(
        {
            name: array.reset_coords(drop=True).drop_vars(array.dims, errors="ignore")
            for name, array in sorted(arrays.items())
        }
    ).compute()
    for name in data.data_vars:
        yield str(name), data[name].values
    yield "time", one["time"].values[[0, -1]].astype("datetime64[s]").view(np.int64)
    for name in _PLACE:
        if name in one.coords:
            values = one[name].values
            yield name, values if values.dtype.kind == "f" else np.array(";".join(map(str, values)).encode())
