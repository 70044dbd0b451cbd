"""Digest of the data of a run: an unfinished run is resumed on the cube that it began with, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.towers import site_years

#: Number of days of a site's record of which satellite data, or a sample of predictors, are part of the digest: all
#: chips would take as long to read as the rest of the cube together.
_DAYS = 3
#: Arrays of a stack that features, fluxes and their weights are computed from.
_ENDINGS = ("", "_qc", "_quality", "_randunc")
_PLACE = ("latitude", "longitude", "elevation", "igbp", "koppen")


def data_digest(cube: xr.Dataset, sites: Sequence[str], spec: FeatureSpec, *, sample: bool = False) -> str:
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
    sample : bool
        Whether the predictors of one day of each site count alone, for models that are trained faster than a cube is
        read.

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
    needed = _needed(cube, spec)
    for site in sites:
        # The site is selected before the columns: Dask's graph of all sites is large.
        for name, values in _arrays(_columns(site_years(needed, site), spec), sample):
            total.update(f"{site} {name} {values.shape} {values.dtype.kind}{values.dtype.itemsize} ".encode())
            total.update(np.ascontiguousarray(values).data)
    return total.hexdigest()


def _needed(cube: xr.Dataset, spec: FeatureSpec) -> xr.Dataset:
    """Return the arrays that features, fluxes and weights are computed from; all sites and columns."""
    names = [stack + ending for stack in ("predictors", "fluxes") for ending in _ENDINGS]
    names = sorted({name for name in (*names, *spec.satellite_arrays) if name in cube})
    dims = {str(dim) for name in names for dim in cube[name].dims}
    axes = ("site", "time", "day", "surface_day", "time_start", "time_stop", *(kind.dims[0] for kind in spec.images))
    coords = [name for name in (*axes, *_PLACE, *({"variable", "target"} & dims)) if name in cube.coords]
    return xr.Dataset(
        {name: cube[name].variable for name in names}, {name: cube[name].variable.compute() for name in coords}
    )


def _columns(one: xr.Dataset, spec: FeatureSpec) -> xr.Dataset:
    """Return the arrays of one site with the columns that the model uses."""
    kept = {}
    if "variable" in one.dims:
        present = set(one["variable"].values)
        kept["variable"] = [name for name in spec.predictors if name in present]
    if "target" in one.dims:
        kept["target"] = list(spec.targets)
    return one.sel(kept)


def _arrays(one: xr.Dataset, sample: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of the arrays of one site."""
    import dask

    time = one["time"].values
    arrays = {}
    for name, array in one.data_vars.items():
        if dim := next((dim for dim in array.dims if str(dim).endswith("day")), None):
            array = array.isel({dim: _some_days(one[dim].values, time)})
        elif sample and str(name).startswith("predictors"):
            array = array.isel(time=slice(len(time) // 2, len(time) // 2 + 24))
        arrays[str(name)] = array.data
    (loaded,) = dask.compute(arrays, scheduler="synchronous")
    yield from loaded.items()
    yield "time", time[[0, -1]].astype("datetime64[s]").view(np.int64)
    for name in _PLACE:
        if name in one.coords:
            values = one[name].values
            yield name, values if values.dtype.kind == "f" else np.array(";".join(map(str, values)).encode())


def _some_days(days: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the positions of a few days of a record, whichever other days the cube has."""
    inside = np.flatnonzero((days >= time[0]) & (days <= time[-1]))
    return inside[np.unique(np.linspace(0, len(inside) - 1, min(_DAYS, len(inside))).astype(int))]
