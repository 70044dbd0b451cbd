"""Vegetation and water indices from named reflectance bands.

Reflectances are fractions (0 to 1), as in the cube. The result is NaN where a band is missing or the denominator is
zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError

_LONG_NAMES = {
    "NDVI": "normalised difference vegetation index",
    "EVI": "enhanced vegetation index",
    "NIRv": "near-infrared reflectance of vegetation",
    "NDWI": "normalised difference water index, MODIS band 7",
}


def ndvi(red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    """Return the normalised difference vegetation index (nir - red) / (nir + red) of reflectances; dimensionless.

    References
    ----------
    Tucker 1979, doi:10.1016/0034-4257(79)90013-0

    Examples
    --------
    >>> round(float(ndvi(0.1, 0.3)), 6)
    0.5
    """
    return _ratio(np.subtract(nir, red), np.add(nir, red))


def evi(red: np.ndarray, nir: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Return the enhanced vegetation index 2.5 (nir - red) / (nir + 6 red - 7.5 blue + 1); dimensionless.

    Over clouds and snow the denominator may come close to zero, so that the index may have any value; it is not
    clipped.

    References
    ----------
    Huete et al. 2002, doi:10.1016/S0034-4257(02)00096-2
    """
    red, nir, blue = (np.asarray(band) for band in (red, nir, blue))
    return _ratio(2.5 * (nir - red), nir + 6.0 * red - 7.5 * blue + 1.0)


def nirv(red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    """Return the near-infrared reflectance of vegetation, NDVI x nir, of reflectances; dimensionless.

    The offset of 0.08 that some authors subtract from NDVI is not applied.

    References
    ----------
    Badgley et al. 2017, doi:10.1126/sciadv.1602244
    """
    return ndvi(red, nir) * nir


def ndwi(nir: np.ndarray, swir3: np.ndarray) -> np.ndarray:
    """Return the normalised difference water index (nir - swir3) / (nir + swir3); swir3 is MODIS band 7 (2105-2155 nm).

    References
    ----------
    Gao 1996, doi:10.1016/S0034-4257(96)00067-3 (with band 5); band 7 as in FLUXCOM-X-BASE, Nelson and Walther
    et al. 2024, doi:10.5194/bg-21-5079-2024
    """
    return _ratio(np.subtract(nir, swir3), np.add(nir, swir3))


def indices(reflectance: xr.DataArray) -> xr.Dataset:
    """Compute NDVI, EVI, NIRv and NDWI of chips, grids or points; lazily if the input is lazy.

    Parameters
    ----------
    reflectance : xr.DataArray
        Reflectance from 0 to 1, with a dimension ``band`` whose labels include red, nir, blue and swir3.

    Returns
    -------
    xr.Dataset
        ``NDVI``, ``EVI``, ``NIRv`` and ``NDWI`` with the dimensions of the input except ``band``; dimensionless.

    Raises
    ------
    SchemaError
        If the dimension ``band`` or one of the four labels is missing.

    Examples
    --------
    >>> bands = xr.DataArray([0.1, 0.3, 0.05, 0.1], dims="band", coords={"band": ["red", "nir", "blue", "swir3"]})
    >>> round(indices(bands).NDVI.item(), 6)
    0.5
    """
    if "band" not in reflectance.dims or "band" not in reflectance.coords:
        raise SchemaError(
            f"indices: expected a dimension 'band' with labels, found dimensions {reflectance.dims}; name the bands."
        )
    labels = [str(label) for label in reflectance["band"].values]
    if missing := [name for name in ("red", "nir", "blue", "swir3") if name not in labels]:
        raise SchemaError(
            f"indices: expected the bands red, nir, blue and swir3; missing {missing} among {labels}; add them."
        )
    red, nir, blue, swir3 = (
        reflectance.isel(band=labels.index(name)).drop_vars("band") for name in ("red", "nir", "blue", "swir3")
    )
    computed = {
        "NDVI": _apply(ndvi, red, nir),
        "EVI": _apply(evi, red, nir, blue),
        "NIRv": _apply(nirv, red, nir),
        "NDWI": _apply(ndwi, nir, swir3),
    }
    out = xr.Dataset(computed)
    for name, values in out.items():
        values.attrs = {"long_name": _LONG_NAMES[str(name)], "units": "1"}
    return out


def _apply(kernel: Callable[..., np.ndarray], *bands: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(kernel, *bands, dask="parallelized", output_dtypes=[bands[0].dtype], keep_attrs=False)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.asarray(numerator), np.asarray(denominator)
    safe = np.where(denominator == 0, np.nan, denominator)
    return (numerator / safe).astype(np.result_type(numerator, denominator), copy=False)
