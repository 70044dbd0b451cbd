"""Checks before maps are computed: absent inputs, impossible values, and the RAM that a chunk takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.satellite import satellite_product
from fluxcube.errors import ConfigError
from fluxcube.resolution import HOURLY, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.variables import table

if TYPE_CHECKING:
    from fluxcube.inference.predictor import Predictor

logger = logging.getLogger(__name__)

#: Number of float32 copies of a chunk's inputs in RAM at once while features are computed: as read, of the land cells
#: in order, with trailing means in double precision, normalised.
_COPIES = 4
#: Bytes that a forward pass takes besides: 128 windows of the published preset.
_FORWARD = 400 * 2**20


def check_absent(absent: Iterable[str], allow_missing: bool) -> None:
    """Refuse a forcing that lacks inputs of a model, unless that is allowed.

    Parameters
    ----------
    absent : iterable of str
        Names, as `fluxcube.inference.outputs.masked_inputs` returns them.
    allow_missing : bool
        Whether these inputs may be missing.

    Raises
    ------
    ConfigError
        If inputs are absent; the message names them.
    """
    absent = tuple(absent)
    if absent and not allow_missing:
        raise ConfigError(
            f"the model was trained on {', '.join(absent)}, which the forcing lacks: add files that have them, train "
            "without them (--predictors, --no-chips), or treat them as missing (allow_missing, --allow-missing), which "
            "costs skill."
        )


def check_product(predictor: Predictor, forcing: xr.Dataset, allow_other_product: bool) -> dict[str, str]:
    """Refuse a forcing whose reflectance is of another satellite product than a model was trained on.

    Products differ in view angle, in clouds and in composition: the same place has another reflectance in each.

    Parameters
    ----------
    predictor : Predictor
        The model, which records the product of the cube that it was trained on.
    forcing : xr.Dataset
        Forcing cube of its resolution.
    allow_other_product : bool
        Whether the products may differ.

    Returns
    -------
    dict of str to str
        Attributes of the maps: both products, where the model uses bands; "unknown" if one is not recorded, which is
        logged as a warning.

    Raises
    ------
    ConfigError
        If the products differ, and that is not allowed; the message names both.
    """
    checked = [_check_product_of(single, forcing, allow_other_product) for single in predictor.singles]
    return next((attrs for attrs in checked if attrs), {})


def _check_product_of(predictor: Predictor, forcing: xr.Dataset, allow_other_product: bool) -> dict[str, str]:
    spec = predictor.spec
    if not (spec.bands or spec.surface_bands) or spec.time_resolution.satellite not in forcing:
        return {}
    trained = (predictor.metadata.get("cube") or {}).get("satellite_product")
    mapped = satellite_product(forcing)
    if trained and mapped and trained != mapped and not allow_other_product:
        raise ConfigError(
            f"the model was trained on {trained}, and the reflectance of the forcing is {mapped}: map it with the same "
            "product, train without reflectance (--no-chips), or accept the difference (allow_other_product, "
            "--allow-other-product), which the maps record."
        )
    if not trained or not mapped:
        logger.warning(
            "it cannot be checked that the model was trained on the satellite product of the forcing, since it is not "
            "recorded: model %s, forcing %s",
            trained or "unknown",
            mapped or "unknown",
        )
    elif trained != mapped:
        logger.warning("the model was trained on %s, and is mapped with %s as allowed", trained, mapped)
    return {"satellite_product": mapped or "unknown", "satellite_product_of_training": trained or "unknown"}


def check_values(forcing: xr.Dataset, *, hours: int = 48) -> None:
    """Read a sample of a forcing cube's land and refuse values that cannot be in the units of the variable table.

    Parameters
    ----------
    forcing : xr.Dataset
        A forcing cube.
    hours : int
        Number of time steps to read, from the middle of the record, at up to 64 land cells of one chunk.

    Raises
    ------
    ConfigError
        If more than half of the values of a predictor lie outside its bounds, such as kelvin for degrees Celsius or
        pascal for hectopascal; the message names the first one.
    """
    row, column = (index[:1].tolist() for index in np.nonzero(forcing.land_fraction.values > 0))
    if not row:
        return
    at = {"latitude": slice(row[0], row[0] + 8), "longitude": slice(column[0], column[0] + 8)}
    middle = forcing.sizes["time"] // 2
    values = forcing.predictors.isel(at | {"time": slice(middle, middle + hours)}).values
    rows = table(resolution_of(forcing).name)
    for i, name in enumerate(map(str, forcing["variable"].values)):
        found = values[..., i][np.isfinite(values[..., i])]
        low, high = rows[name].bounds
        if found.size and ((found < low) | (found > high)).mean() > 0.5:
            raise ConfigError(
                f"{name} has values such as {np.median(found):g}, which cannot be {rows[name].units} "
                f"({low:g} to {high:g}): it is in other units; convert it."
            )


def region_bytes(forcing: xr.Dataset, spec: FeatureSpec, *, hours: int, before: int, outputs: int) -> int:
    """Estimate the RAM that one chunk of maps takes while it is computed.

    Parameters
    ----------
    forcing : xr.Dataset
        Forcing cube, in chunks.
    spec : FeatureSpec
        Features of the model.
    hours : int
        Number of time steps of a chunk of maps.
    before : int
        Number of earlier time steps that are read, too.
    outputs : int
        Number of arrays that are written.

    Returns
    -------
    int
        Bytes, without those that a worker always needs.
    """
    chunks = forcing.predictors.chunksizes or dict.fromkeys(("latitude", "longitude"), (32,))
    cells = max(chunks["latitude"]) * max(chunks["longitude"])
    whole = max(chunks.get("time", (0,)))  # Dask reads whole chunks, then cuts
    span = hours + before
    read = 4 * (span + 2 * whole) * forcing.sizes["variable"]
    made = 4 * span * len(spec.inputs) * _COPIES + 4 * hours * outputs * 3
    images = 0
    if "modis" in forcing and spec.bands:
        days = sum(forcing.modis.sizes[d] for d in ("day",))
        days = min(days, (forcing.modis.chunksizes or {"day": (days,)})["day"][0] + span // HOURLY.steps_per_day + 2)
        images = 3 * 4 * 64 * len(spec.bands) * days * forcing.modis.sizes.get("block", 1)
    return int(cells * (read + made + images)) + _FORWARD
