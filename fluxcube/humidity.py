"""Water vapour: saturation pressure, deficit and relative humidity, as ONEFlux computes them."""

from __future__ import annotations

import numpy as np

_WATER = (17.269, 35.86)
_ICE = (21.874, 7.66)


def saturation_vapour_pressure(ta: np.ndarray) -> np.ndarray:
    """Saturation vapour pressure, over water at and above 0 degC and over ice below.

    Parameters
    ----------
    ta : array
        Air temperature, degC.

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
    ice = _ICE[0] * ta / (kelvin - _ICE[1])
    return 6.11 * np.exp(np.where(ta < 0, ice, water))


def vapour_pressure_deficit(ta: np.ndarray, td: np.ndarray) -> np.ndarray:
    """Vapour pressure deficit (hPa, >= 0) from air and dew-point temperature (degC).

    Compute it from hourly values and average afterwards: the deficit of means is not the mean deficit.
    """
    return np.maximum(saturation_vapour_pressure(ta) - saturation_vapour_pressure(td), 0.0)


def relative_humidity(ta: np.ndarray, td: np.ndarray) -> np.ndarray:
    """Relative humidity (%, 0 to 100) from air and dew-point temperature (degC)."""
    return np.clip(100.0 * saturation_vapour_pressure(td) / saturation_vapour_pressure(ta), 0.0, 100.0)
