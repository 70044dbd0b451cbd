"""Vegetation and water indices from named reflectance bands.

Reflectances are fractions (0..1), as in the cube. A band that is missing, or a denominator of zero, gives NaN.
"""

from __future__ import annotations

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
    """Normalised difference vegetation index (nir - red) / (nir + red), of reflectances; dimensionless.

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
    """Enhanced vegetation index 2.5 (nir - red) / (nir + 6 red - 7.5 blue + 1), of reflectances; dimensionless.

    Over clouds and snow the denominator may come near zero and the index be of any size: it is not clipped.

    References
    ----------
    Huete et al. 2002, doi:10.1016/S0034-4257(02)00096-2
    """
    red, nir, blue = (np.asarray(band) for band in (red, nir, blue))
    return _ratio(2.5 * (nir - red), nir + 6.0 * red - 7.5 * blue + 1.0)


def nirv(red: np.ndarray, nir: np.ndarray) -> np.ndarray:
    """Near-infrared reflectance of vegetation, NDVI x nir, of reflectances; dimensionless.

    Without the offset of 0.08 that some take from NDVI.

    References
    ----------
    Badgley et al. 2017, doi:10.1126/sciadv.1602244
    """
    return ndvi(red, nir) * nir


def ndwi(nir: np.ndarray, swir3: np.ndarray) -> np.ndarray:
    """Normalised difference water index (nir - swir3) / (nir + swir3), swir3 being MODIS band 7 (2105-2155 nm).

    References
    ----------
    Gao 1996, doi:10.1016/S0034-4257(96)00067-3 (with band 5); band 7 as FLUXCOM-X-BASE has it, Nelson and Walther
    et al. 2024, doi:10.5194/bg-21-5079-2024
    """
    return _ratio(np.subtract(nir, swir3), np.add(nir, swir3))


def indices(reflectance: xr.DataArray) -> xr.Dataset:
    """Compute NDVI, EVI, NIRv and NDWI of chips, grids or points; lazily where the input is.

    Parameters
    ----------
    reflectance : xr.DataArray
        Has a dimension ``band`` with labels red, nir, blue and swir3 among others; reflectance 0..1.

    Returns
    -------
    xr.Dataset
        ``NDVI``, ``EVI``, ``NIRv`` and ``NDWI``, dimensions of the input without ``band``; dimensionless.

    Raises
    ------
    SchemaError
        If there is no dimension or label of that name.

    Examples
    --------
    >>> bands = xr.DataArray([0.1, 0.3, 0.05, 0.1], dims="band", coords={"band": ["red", "nir", "blue", "swir3"]})
    >>> round(indices(bands).NDVI.item(), 6)
    0.5
    """
    if "band" not in reflectance.dims or "band" not in reflectance.coords:
        raise SchemaError(f"indices need a dimension 'band' with labels; found dimensions {reflectance.dims}.")
    labels = [str(label) for label in reflectance["band"].values]
    if missing := [name for name in ("red", "nir", "blue", "swir3") if name not in labels]:
        raise SchemaError(f"indices need the bands red, nir, blue and swir3; missing {missing} among {labels}.")
    red, nir, blue, swir3 = (
        reflectance.isel(band=labels.index(name)).drop_vars("band") for name in ("red", "nir", "blue", "swir3")
    )
    computed = {
        "NDVI": (ndvi, red, nir),
        "EVI": (evi, red, nir, blue),
        "NIRv": (nirv, red, nir),
        "NDWI": (ndwi, nir, swir3),
    }
    out = xr.Dataset({name: _apply(*args) for name, args in computed.items()})
    for name, values in out.items():
        values.attrs = {"long_name": _LONG_NAMES[name], "units": "1"}
    return out


def _apply(kernel, *bands: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(kernel, *bands, dask="parallelized", output_dtypes=[bands[0].dtype], keep_attrs=False)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    over, under = np.asarray(over), np.asarray(under)
    safe = np.where(under == 0, np.nan, under)
    return (over / safe).astype(np.result_type(over, under), copy=False)
