"""Vegetation, water and snow indices from named reflectance bands.

Reflectances are fractions (0 to 1), as in the cube. The result is NaN where a band is missing or the denominator is
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError, unknown
from fluxcube.variables import SURFACE_BANDS


@dataclass(frozen=True)
class Index:
    """One index that is computed from reflectance bands.

    Attributes
    ----------
    name : str
        Such as "NDVI".
    long_name : str
        CF ``long_name``.
    function : callable
        Function of the arrays of `bands`, in their order.
    bands : tuple of str
        Names of the bands that it needs (`fluxcube.variables.SURFACE_BANDS`).
    bounds : tuple of float
        Limits (low, high) that scale the index for a model.
    """

    name: str
    long_name: str
    function: Callable[..., np.ndarray]
    bands: tuple[str, ...]
    bounds: tuple[float, float] = (-1.0, 1.0)


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


def lswi(nir: np.ndarray, swir2: np.ndarray) -> np.ndarray:
    """Return the land surface water index (nir - swir2) / (nir + swir2); swir2 is MODIS band 6 (1628-1652 nm).

    References
    ----------
    Xiao et al. 2004, doi:10.1016/j.rse.2003.11.008
    """
    return _ratio(np.subtract(nir, swir2), np.add(nir, swir2))


def cci(red: np.ndarray, green531: np.ndarray) -> np.ndarray:
    """Return the chlorophyll/carotenoid index (r531 - red) / (r531 + red); r531 is MODIS ocean band 11 (526-536 nm).

    References
    ----------
    Gamon et al. 2016, doi:10.1073/pnas.1606162113
    """
    return _ratio(np.subtract(green531, red), np.add(green531, red))


def ndsi(green: np.ndarray, swir2: np.ndarray) -> np.ndarray:
    """Return the normalised difference snow index (green - swir2) / (green + swir2); swir2 is MODIS band 6.

    References
    ----------
    Hall et al. 1995, doi:10.1016/0034-4257(95)00137-P
    """
    return _ratio(np.subtract(green, swir2), np.add(green, swir2))


#: Every index, by name.
INDICES: Mapping[str, Index] = MappingProxyType(
    {
        index.name: index
        for index in (
            Index("NDVI", "normalised difference vegetation index", ndvi, ("red", "nir")),
            Index("EVI", "enhanced vegetation index", evi, ("red", "nir", "blue")),
            Index("NIRv", "near-infrared reflectance of vegetation", nirv, ("red", "nir"), (-0.2, 0.6)),
            Index("NDWI", "normalised difference water index, MODIS band 7", ndwi, ("nir", "swir3")),
            Index("LSWI", "land surface water index, MODIS band 6", lswi, ("nir", "swir2")),
            Index("CCI", "chlorophyll/carotenoid index", cci, ("red", "green531")),
            Index("NDSI", "normalised difference snow index, MODIS bands 4 and 6", ndsi, ("green", "swir2")),
        )
    }
)
#: Limits (low, high) that scale a band of the surface reflectance for a model; of snow, a share.
BAND_BOUNDS = (0.0, 1.0)


def index_of(name: str, bands: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a band, or an index computed from bands.

    Parameters
    ----------
    name : str
        A name in `INDICES` or in `fluxcube.variables.SURFACE_BANDS`.
    bands : mapping of str to array
        Reflectance (0 to 1) of each band, all of one shape.

    Returns
    -------
    array of the shape of the bands
        All NaN if one of the bands that it needs is absent.

    Raises
    ------
    UnknownNameError
        If there is no such band or index.

    Examples
    --------
    >>> index_of("NDVI", {"red": np.array([0.1]), "nir": np.array([0.3])}).round(6)
    array([0.5])
    """
    needed = bands_of(name)
    if any(band not in bands for band in needed):
        shape = np.shape(next(iter(bands.values()), np.empty(0)))
        return np.full(shape, np.nan)
    if name not in INDICES:
        return bands[name]
    return INDICES[name].function(*(bands[band] for band in needed))


def bands_of(name: str) -> tuple[str, ...]:
    """Return the names of the bands that a band or an index needs (UnknownNameError if there is none such).

    Examples
    --------
    >>> bands_of("CCI"), bands_of("snow")
    (('red', 'green531'), ('snow',))
    """
    if name in INDICES:
        return INDICES[name].bands
    if name in SURFACE_BANDS:
        return (name,)
    raise unknown("band or index", name, (*SURFACE_BANDS, *INDICES))


def bounds_of(name: str) -> tuple[float, float]:
    """Return the limits (low, high) that scale a band or an index for a model.

    Examples
    --------
    >>> bounds_of("red"), bounds_of("NDVI")
    ((0.0, 1.0), (-1.0, 1.0))
    """
    bands_of(name)
    return INDICES[name].bounds if name in INDICES else BAND_BOUNDS


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
        values.attrs = {"long_name": INDICES[str(name)].long_name, "units": "1"}
    return out


def _apply(kernel: Callable[..., np.ndarray], *bands: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(kernel, *bands, dask="parallelized", output_dtypes=[bands[0].dtype], keep_attrs=False)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.asarray(numerator), np.asarray(denominator)
    safe = np.where(denominator == 0, np.nan, denominator)
    return (numerator / safe).astype(np.result_type(numerator, denominator), copy=False)
