"""What is refused before a run begins: inputs that are absent or in other units, and chunks too large for memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.resolution import resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.variables import table

#: Float32 copies of a chunk's inputs that are alive at once while features are made: as read, of the land cells in
#: order, with trailing means in double precision, normalised.
_COPIES = 4
#: Bytes a window's forward pass may take beside them: 128 windows of the published preset.
_FORWARD = 400 * 2**20


def check_absent(absent: Iterable[str], allow_missing: bool) -> None:
    """Refuse a forcing that lacks what a model was trained on, unless that is allowed.

    Parameters
    ----------
    absent : iterable of str
        Names, as `fluxcube.inference.outputs.masked_inputs` gives them.
    allow_missing : bool
        Whether the model may do without: they reach it as missing.

    Raises
    ------
    ConfigError
        Naming them.
    """
    absent = tuple(absent)
    if absent and not allow_missing:
        raise ConfigError(
            f"the model was trained on {', '.join(absent)}, which the forcing does not hold: give files that do, train "
            "without (--predictors, --no-chips), or let the model do without them (allow_missing, --allow-missing), "
            "which costs skill."
        )


def check_units(forcing: xr.Dataset) -> None:
    """Refuse a forcing cube whose predictors say that they are in other units than the variable table's.

    Raises
    ------
    ConfigError
        Naming the first such predictor.
    """
    if "units" not in forcing.coords or forcing.units.dims != ("variable",):
        return
    rows = table(resolution_of(forcing).name)
    for name, found in zip(
        forcing["variable"].values, forcing.units.compute(scheduler="synchronous").values, strict=True
    ):
        wanted = rows[str(name)].units if str(name) in rows else found
        if str(found) != wanted:
            raise ConfigError(f"{name} must be in {wanted}, found {found}: convert it, or take open_forcing's.")


def check_values(forcing: xr.Dataset, *, hours: int = 48) -> None:
    """Read a little of a forcing cube's land and refuse values that cannot be in the variable table's units.

    Parameters
    ----------
    forcing : xr.Dataset
        A forcing cube.
    hours : int
        Hours to read, from the middle of the record, at up to 64 land cells of one chunk.

    Raises
    ------
    ConfigError
        Naming the first predictor of which more than half of the values lie outside its bounds: kelvin for degrees,
        or pascal for hectopascal.
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
    """Estimate the memory that one chunk of maps takes while it is computed.

    Parameters
    ----------
    forcing : xr.Dataset
        Forcing cube, in chunks.
    spec : FeatureSpec
        Of the model.
    hours : int
        Hours of a chunk of maps.
    before : int
        Hours before them that are read, too.
    outputs : int
        Arrays that are written.

    Returns
    -------
    int
        Bytes, without those that a worker needs anyway.
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
        days = min(days, (forcing.modis.chunksizes or {"day": (days,)})["day"][0] + span // 24 + 2)
        images = 3 * 4 * 64 * len(spec.bands) * days * forcing.modis.sizes.get("block", 1)
    return int(cells * (read + made + images)) + _FORWARD
