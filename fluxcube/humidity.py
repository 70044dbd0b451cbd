"""Water vapour: saturation pressure, vapour pressure deficit and relative humidity, with respect to liquid water.

Relative humidity is defined with respect to liquid water below 0 degC as well (WMO), and so is the dew point of ERA5.
The deficits that towers report agree with it: where FLUXNET2015 has RH and VPD of hours with frost, VPD is the deficit
over water to within 1 % (DK-Fou, US-Wi7); over ice it would be 5 to 9 % smaller.
"""

from __future__ import annotations

import numpy as np

_WATER = (17.269, 35.86)
_ICE = (21.874, 7.66)


def saturation_vapour_pressure(ta: np.ndarray, *, ice: bool = False) -> np.ndarray:
    """Return the saturation vapour pressure over water.

    Parameters
    ----------
    ta : array
        Air temperature, degC.
    ice : bool
        Below 0 degC, return the saturation vapour pressure over ice.

    Returns
    -------
    array
        hPa.

    References
    ----------
    Murray 1967, doi:10.1175/1520-0450(1967)006<0203:OTCOSV>2.0.CO;2, with ONEFlux's constants.

    Examples
    --------
    >>> saturation_vapour_pressure(np.array([0.0, 20.0])).round(2)
    array([ 6.11, 23.39])
    """
    ta = np.asarray(ta)
    kelvin = ta + 273.15
    water = _WATER[0] * ta / (kelvin - _WATER[1])
    if not ice:
        return 6.11 * np.exp(water)
    return 6.11 * np.exp(np.where(ta < 0, _ICE[0] * ta / (kelvin - _ICE[1]), water))


def vapour_pressure_deficit(ta: np.ndarray, td: np.ndarray) -> np.ndarray:
    """Return the vapour pressure deficit (hPa, >= 0) from air and dew-point temperature (degC).

    Compute it from hourly values and average afterwards, because the deficit of mean temperatures is not the mean
    deficit.

    References
    ----------
    ECMWF, "ERA5: data documentation": the dew point is converted by equation 7.5 of IFS Documentation CY41R2, Part IV,
    with the parameters for saturation over water, https://confluence.ecmwf.int/display/CKB/ERA5%3A+data+documentation;
    WMO 2018, "Guide to instruments and methods of observation", WMO-No. 8, volume I, annex 4.B.

    Examples
    --------
    >>> vapour_pressure_deficit(np.array([-10.0]), np.array([-15.0])).round(3)
    array([0.953])
    """
    return np.maximum(saturation_vapour_pressure(ta) - saturation_vapour_pressure(td), 0.0)


def relative_humidity(ta: np.ndarray, td: np.ndarray) -> np.ndarray:
    """Return the relative humidity (%, 0 to 100) from air and dew-point temperature (degC)."""
    return np.clip(100.0 * saturation_vapour_pressure(td) / saturation_vapour_pressure(ta), 0.0, 100.0)
