"""Embeddings of towers: what a model with support windows computes from the model inputs of a place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.models.base import Model
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.support import block_with_embeddings
from fluxcube.samples.towers import site_years


def tower_embeddings(model: Model, spec: FeatureSpec, cube: xr.Dataset, years: Sequence[int]) -> xr.DataArray:
    """Return the embedding of each tower, as predictions use it: from its model inputs, without any flux.

    Parameters
    ----------
    model : Model
        A model with support windows, or an ensemble of such, whose members' embeddings are concatenated.
    spec : FeatureSpec
        Features of the model.
    cube : xr.Dataset
        A daily tower cube or a selection of it.
    years : sequence of int
        Calendar years of the support windows; none for the whole record.

    Returns
    -------
    xr.DataArray
        (site, embedding) float32, with the cube's coordinates on site. For a tower without a whole support window it
        is the embedding of mean inputs.

    Raises
    ------
    ConfigError
        If a tower has no days in the support years.

    References
    ----------
    Renganathan et al. 2025, arXiv:2310.04727
    """
    values = np.stack([_of_site(model, spec, site_years(cube, str(site)), years) for site in cube["site"].values])
    coords = {name: array for name, array in cube.coords.items() if array.dims == ("site",)}
    attrs = {"long_name": "embedding of the tower's model inputs", "units": "1"}
    return xr.DataArray(values, coords, ("site", "embedding"), "embeddings", attrs)


def _of_site(model: Model, spec: FeatureSpec, one: xr.Dataset, years: Sequence[int]) -> np.ndarray:
    check_support_years(one, years)
    block = block_with_embeddings(cube_block(one, spec), model, years=years)
    return block.numbers[0, -model.embedding_size :]


def check_support_years(one: xr.Dataset, years: Sequence[int] | None) -> None:
    """Refuse a cube of one site that has no day in the support years (ConfigError); none of them allow all."""
    if not years:
        return
    first, stop = one["time_start"].values[0], one["time_stop"].values[0]
    days = one["time"].values[(one["time"].values >= first) & (one["time"].values < stop)]
    recorded = sorted(set((days.astype("datetime64[Y]").astype(int) + 1970).tolist()))
    if not set(recorded) & set(years):
        raise ConfigError(
            f"{one['site'].values[0]} has no day in the support years {', '.join(map(str, years))}: it has "
            f"{', '.join(map(str, recorded)) or 'none'}; choose others by with_support, or () for its whole record."
        )
