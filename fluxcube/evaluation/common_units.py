"""Units of observations and predictions: predictions are converted to the units of the observations."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.units import linear_conversion, units_of
from fluxcube.variables import Variable

logger = logging.getLogger(__name__)


def with_units(array: xr.DataArray) -> xr.DataArray:
    """Return one target of a stack of targets, its units as an attribute instead of a coordinate."""
    units = units_of(array)
    array = array.drop_vars([name for name in array.coords if name not in array.dims and "target" in str(name)])
    array = array.drop_vars("units", errors="ignore")
    return array.assign_attrs(units=units) if units else array


def in_one_unit(
    target: str, obs: xr.DataArray, predictions: Mapping[str, xr.DataArray], rows: Mapping[str, Variable]
) -> tuple[str, list[xr.DataArray]]:
    """Return the units of the observations ("" if nothing has units), and the predictions in these units.

    Data without units are taken to have those of the variable table, which the others must then have, too; this is
    logged.

    Parameters
    ----------
    target : str
        Flux, for messages.
    obs : xr.DataArray
        Observations.
    predictions : mapping of str to xr.DataArray
        Predictions by model name; lazy ones stay lazy.
    rows : mapping
        Variable table of the resolution of the observations.

    Raises
    ------
    ConfigError
        If units are unknown, or those of a prediction cannot be converted; if some of the data have no units, and
        others have units that are not those of the variable table.
    """
    found = {model: units_of(array) for model, array in predictions.items()}
    observed = units_of(obs)
    units = observed or next(filter(None, found.values()), "")
    missing = [name for name, unit in {"the observations": observed, **found}.items() if not unit]
    if units and missing:
        _check_missing(target, missing, units, rows)
    converted = [
        array if not found[model] else _converted(array, found[model], units, f"{target} of {model}")
        for model, array in predictions.items()
    ]
    return units, converted


def _check_missing(target: str, missing: list[str], units: str, rows: Mapping[str, Variable]) -> None:
    """Refuse data without units beside data with units that are not those of the variable table."""
    who = f"{target} of {' and '.join(missing)} has no attribute units"
    if target in rows and linear_conversion(units, rows[target].units, target) != (0.0, 1.0):
        raise ConfigError(
            f"{who}, and the other data are in {units}, not in {rows[target].units}: set the attribute of the array, "
            f'such as array.attrs["units"] = "{units}".'
        )
    logger.warning("%s: taken as %s", who, units)


def _converted(array: xr.DataArray, found: str, units: str, name: str) -> xr.DataArray:
    zero, one = linear_conversion(found, units, name)
    if (zero, one) == (0.0, 1.0):
        return array
    logger.info("%s: converted from %s to %s", name, found, units)
    return array.copy(data=array.data * one + zero)
