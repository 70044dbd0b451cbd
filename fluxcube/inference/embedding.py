"""Embeddings: what a model that is told of its place by the place's own drivers makes of it."""

from __future__ import annotations

import os

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.inference.predictor import Predictor, as_predictor
from fluxcube.resolution import check_resolution
from fluxcube.samples.features import cube_block
from fluxcube.samples.support import block_with_codes
from fluxcube.samples.towers import site_years
from fluxcube.schema import validate_cube


def embed(model: Predictor | str | os.PathLike, cube: xr.Dataset) -> xr.DataArray:
    """Return the embedding of each tower, as its predictions use it: of its drivers alone, no flux among them.

    Parameters
    ----------
    model : Predictor, path or Run
        A trained TAM-RL, or an ensemble of such, whose members' embeddings then stand side by side.
    cube : xr.Dataset
        A daily tower cube or a selection of it.

    Returns
    -------
    xr.DataArray
        (site, code) float32, with the cube's coordinates on site. Of a tower without a whole window of days it is that
        of mean drivers.

    Raises
    ------
    ConfigError
        If the model makes no embeddings, the cube is hourly, or a tower has no days in the support years.

    References
    ----------
    Renganathan et al. 2025, arXiv:2310.04727
    """
    predictor = as_predictor(model)
    if predictor.support_years is None:
        raise ConfigError(f"{predictor.model.kind} makes no embeddings: tam-rl does.")
    check_resolution(validate_cube(cube), predictor.resolution, "this model")
    codes = np.stack([_of_site(predictor, site_years(cube, str(site))) for site in cube["site"].values])
    coords = {name: array for name, array in cube.coords.items() if array.dims == ("site",)}
    attrs = {"long_name": "embedding of the tower's drivers", "units": "1", "model_digest": predictor.digest}
    return xr.DataArray(codes, coords, ("site", "code"), "embedding", attrs)


def _of_site(predictor: Predictor, one: xr.Dataset) -> np.ndarray:
    check_support(predictor, one)
    block = cube_block(one, predictor.spec)
    return block_with_codes(block, predictor.model, years=predictor.support_years).numbers[
        0, -predictor.model.code_size :
    ]


def check_support(predictor: Predictor, one: xr.Dataset) -> None:
    """Refuse a cube of one site that has no day in the support years (ConfigError)."""
    if not predictor.support_years:
        return
    first, stop = one["time_start"].values[0], one["time_stop"].values[0]
    days = one["time"].values[(one["time"].values >= first) & (one["time"].values < stop)]
    held = sorted(set((days.astype("datetime64[Y]").astype(int) + 1970).tolist()))
    if not set(held) & set(predictor.support_years):
        raise ConfigError(
            f"{one['site'].values[0]} has no day in the support years {', '.join(map(str, predictor.support_years))}: "
            f"it has {', '.join(map(str, held)) or 'none'}; choose others by with_support, or () for its whole record."
        )
