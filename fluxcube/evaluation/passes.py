"""One pass over observations and predictions: the moments of each place, period and model, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.evaluation.periods import Periods
from fluxcube.moments import Moments, grouped_moments, moments, pool

if TYPE_CHECKING:
    import dask.array as da

_BLOCK = 2_000_000  # number of pairs in a block of inputs in RAM: about 100 MB of temporary arrays


def lazy_moments(pair: Sequence[xr.DataArray], numbers: Sequence[xr.DataArray], periods: Periods) -> da.Array:
    """Return a Dask array (*places, time block, moment, period, model) of moments.

    Parameters
    ----------
    pair : sequence of xr.DataArray
        Observations and the predictions of each model (*places, time).
    numbers : sequence of xr.DataArray
        Number of the period of each time step, as `fluxcube.evaluation.periods.period_numbers` returns them.
    periods : Periods
        Periods of the result.
    """
    import dask.array as da

    arrays = _same_chunks([*pair, *numbers])
    models = len(pair) - 1
    sizes = (len(Moments._fields),), (len(periods.labels),), (models,)
    ndim = arrays[0].ndim
    return da.map_blocks(
        _block_moments,
        *arrays,
        models=models,
        groups=periods.disjoint,
        dtype=float,
        chunks=(*arrays[0].chunks[:-1], (1,) * arrays[0].numblocks[-1], *sizes),
        new_axis=[ndim, ndim + 1, ndim + 2],
        meta=np.empty((0,) * (ndim + 3)),
    )


def moments_of_places(values: np.ndarray) -> Moments:
    """Return moments (place, period, model) from the computed array of `lazy_moments`."""
    parts = Moments(*np.moveaxis(values, -3, 0))
    whole = pool(parts, axis=-3)  # time blocks are pooled, places become one axis
    return Moments(*(x.reshape(-1, *x.shape[-2:]) for x in whole))


def _block_moments(obs: np.ndarray, *rest: np.ndarray, models: int, groups: int) -> np.ndarray:
    """Return moments over the last axis of one block, (*places, 1, moment, period, model)."""
    preds, numbers = rest[:models], rest[models:]
    parts = [np.concatenate([_stack(obs, p, number, groups) for number in numbers or [None]], -1) for p in preds]
    # (model, moment, *places, period)
    return np.moveaxis(np.array(parts), (1, -1, 0), (-3, -2, -1))[..., None, :, :, :]


def _stack(obs: np.ndarray, pred: np.ndarray, number: np.ndarray | None, groups: int) -> np.ndarray:
    """Return moments (moment, *places, period) of one model."""
    if number is None:
        return np.stack(moments(obs, pred, axis=-1))[..., None]
    return np.stack(grouped_moments(obs, pred, number, groups))


def _same_chunks(arrays: Sequence[xr.DataArray]) -> list[da.Array]:
    """Return Dask arrays with the same chunks: those of the first lazy array, or blocks of places."""
    bare = [xr.DataArray(a.variable) for a in arrays]
    lazy = next((dict(zip(a.dims, a.chunks, strict=True)) for a in bare if a.chunks is not None), None)
    chunks: dict
    if lazy is None:
        places = max(1, _BLOCK // max(1, bare[0].sizes["time"]))
        chunks = dict.fromkeys(bare[0].dims[1:], -1) | {bare[0].dims[0]: places}
    else:
        chunks = lazy
    return [a.data for a in xr.unify_chunks(*(a if a.chunks is not None else a.chunk(chunks) for a in bare))]
