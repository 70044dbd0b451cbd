"""Satellite products of cubes and forcings: what a model records of them, and the bias between two products at towers.

Products differ in view angle, in clouds and in composition: the same place has another reflectance in each.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.cubes.satellite import satellite_product
from fluxcube.errors import ConfigError
from fluxcube.indices import INDICES, index_of
from fluxcube.resolution import Resolution, resolution_of
from fluxcube.schema import IMAGES
from fluxcube.tabletext import counted
from fluxcube.variables import BANDS

#: Arrays with reflectance of a satellite product.
ARRAYS = ("modis", "surface")
#: Minimum share of the pixels in the middle of a chip that are valid.
_VALID = 0.5


def record_names(resolution: Resolution, array: str) -> tuple[str, str]:
    """Return the keys under which checkpoints and maps record the product and the collection of an array.

    Checkpoints of every version record the product of chips, and of daily surface reflectance, as `satellite_product`.

    Examples
    --------
    >>> from fluxcube.resolution import DAILY, HOURLY
    >>> record_names(HOURLY, "surface"), record_names(DAILY, "surface")
    (('surface_product', 'surface_collection'), ('satellite_product', 'satellite_collection'))
    """
    if array.startswith(IMAGES):
        return f"{array}_product", f"{array}_collection"
    stem = "satellite" if array == resolution.satellite else "surface"
    return f"{stem}_product", f"{stem}_collection"


def product_record(ds: xr.Dataset) -> dict[str, str]:
    """Return what a checkpoint records of the satellite products of a cube: names and collections, where known.

    Parameters
    ----------
    ds : xr.Dataset
        Cube or forcing.

    Returns
    -------
    dict of str to str
        By the keys of `record_names`; without those that are not known.
    """
    record = {}
    for array in (*ARRAYS, *(str(name) for name in ds.data_vars if str(name).startswith(IMAGES))):
        if array in ds:
            product, collection = record_names(resolution_of(ds), array)
            record[product] = satellite_product(ds, array) or ""
            record[collection] = str(ds[array].attrs.get("collection", "") or "")
    return {key: value for key, value in record.items() if value}


def product_bias(one: xr.Dataset, other: xr.Dataset | None = None) -> xr.Dataset:
    """Compare the reflectance of two satellite products at towers, on days on which both saw the ground.

    Parameters
    ----------
    one, other : xr.Dataset
        Tower cubes with surface reflectance, or with chips, whose middle 2 km is then used. By default `other` are the
        chips of `one`, which then has both.

    Returns
    -------
    xr.Dataset
        On `feature` (bands, and the indices that they suffice for): ``bias``, the mean over sites of the mean
        difference one - other; ``spread``, the standard deviation of the sites' mean differences; ``rmse`` over all
        views; ``sites`` and ``views``, the numbers of sites and of views. ``site_bias (site, feature)``. The attributes
        `one` and `other` are the products, `summary` is a sentence for the attributes of a map
        (``fluxcube.upscale(product_bias=)``).

    Raises
    ------
    ConfigError
        If the cubes have no site, day or band in common, or no reflectance.

    Examples
    --------
    >>> days = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
    >>> dims = ("site", "surface_day", "surface_band")
    >>> coords = {"site": ["A"], "surface_day": days, "surface_band": ["red"]}
    >>> a = xr.Dataset({"surface": (dims, np.full((1, 2, 1), 0.25))}, coords)
    >>> round(product_bias(a, a - 0.125).bias.item(), 3)
    0.125
    """
    arrays = _reflectance(one), _chips_of(one) if other is None else _reflectance(other)
    names = [
        satellite_product(ds, name) or "unknown" for ds, (name, _) in zip((one, other or one), arrays, strict=True)
    ]
    first, second = xr.align(*(values for _, values in arrays), join="inner")
    for dim, noun in (("site", "site"), ("day", "day"), ("band", "band")):
        if not first.sizes[dim]:
            raise ConfigError(
                f"product_bias: expected two products with a {noun} in common, found none ({names[0]} and {names[1]}): "
                "pass cubes of the same towers and years."
            )
    return _compared(_features(first), _features(second), names)


def _reflectance(ds: xr.Dataset) -> tuple[str, xr.DataArray]:
    """Return the array of a cube that is used, and its reflectance (site, day, band)."""
    if "surface" not in ds:
        return _chips_of(ds)
    surface = ds["surface"]
    day, band = surface.dims[-2:]
    return "surface", surface.rename({old: new for old, new in ((day, "day"), (band, "band")) if old != new})


def _chips_of(ds: xr.Dataset) -> tuple[str, xr.DataArray]:
    if "modis" not in ds:
        raise ConfigError(
            f"product_bias: expected a cube with surface or modis, found {', '.join(map(str, ds.data_vars))}; "
            "build it with surface= or modis=."
        )
    return "modis", middle_of_chips(ds["modis"])


def middle_of_chips(chips: xr.DataArray) -> xr.DataArray:
    """Return the mean reflectance (..., day, band) of the central 2 km of chips; missing if under half is valid."""
    middle = chips.sel(band=[name for name in BANDS[:7] if name in chips["band"].values])
    middle = middle.isel(y=slice(2, 6), x=slice(2, 6)).drop_vars(["y", "x"], errors="ignore")
    there = middle.notnull().sum(("y", "x"))
    return middle.fillna(0).sum(("y", "x")) / there.where(there >= _VALID * middle.sizes["y"] * middle.sizes["x"])


def _features(surface: xr.DataArray) -> xr.DataArray:
    """Return bands and indices (site, day, feature) of reflectance (site, day, band)."""
    surface = surface.transpose("site", "day", "band")
    values = np.asarray(surface.values, float)
    bands = {str(name): values[..., i] for i, name in enumerate(surface["band"].values)}
    columns = bands | {name: index_of(name, bands) for name, row in INDICES.items() if set(row.bands) <= set(bands)}
    coords = {"site": surface["site"].values, "day": surface["day"].values, "feature": list(columns)}
    return xr.DataArray(np.stack(list(columns.values()), -1), coords, ("site", "day", "feature"))


def _compared(one: xr.DataArray, other: xr.DataArray, names: list[str]) -> xr.Dataset:
    """Return the statistics of the differences of two records on the same sites, days and features."""
    difference = one - other
    views = difference.notnull()
    if not views.any():
        raise ConfigError(
            f"product_bias: expected days on which {names[0]} and {names[1]} both saw the ground, found none in "
            f"{difference.sizes['day']} days; pass more years."
        )
    by_site = difference.mean("day")
    bias = xr.Dataset(
        {
            "bias": by_site.mean("site"),
            "spread": by_site.std("site"),
            "rmse": np.sqrt((difference**2).mean(("site", "day"))),
            "sites": by_site.notnull().sum("site"),
            "views": views.sum(("site", "day")),
            "site_bias": by_site,
        }
    )
    shown = [str(name) for name in ("red", "nir", "NDVI", "NIRv") if name in bias["feature"].values]
    shown = shown or [str(name) for name in bias["feature"].values[:4]]
    numbers = ", ".join(f"{name} {float(bias.bias.sel(feature=name)):+.4f}" for name in shown)
    summary = f"{names[0]} minus {names[1]}: {numbers} (mean of {counted(int(bias.sites.max()), 'tower')})"
    return bias.assign_attrs(one=names[0], other=names[1], summary=summary)


def check_bias(bias: xr.Dataset, trained: Mapping[str, str], mapped: Mapping[str, str]) -> str:
    """Return the sentence of a bias that a map records.

    Parameters
    ----------
    bias : xr.Dataset
        As `product_bias` returned it.
    trained, mapped : mapping of str to str
        Products of the model and of the forcing.

    Raises
    ------
    ConfigError
        If the bias is that between other products.
    """
    pair = {str(bias.attrs.get("one")), str(bias.attrs.get("other"))}
    if not any({trained.get(key), mapped.get(key)} == pair for key in mapped):
        raise ConfigError(
            f"product_bias: expected the bias between the products of the model and of the data "
            f"({', '.join(sorted({*trained.values(), *mapped.values()}))}), found that between "
            f"{' and '.join(sorted(pair))}; compute it at towers with fluxcube.product_bias."
        )
    return str(bias.attrs["summary"])
