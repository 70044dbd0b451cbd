"""Maps of a mixed ensemble from maps of its members that exist already, so that no member is computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.inference.loading import load_reference
from fluxcube.inference.mixed import MixedPredictor
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.predictor import Predictor, Reference
from fluxcube.stores.identity import DIGESTS, differing_inputs, input_digests

_DIMS = ("time", "latitude", "longitude")


def combined_members(
    predictor: Predictor,
    maps: Sequence[xr.Dataset],
    forcing: xr.Dataset,
    steps: slice,
    options: PredictionOptions,
    chunks: Mapping[str, int],
) -> xr.DataArray:
    """Return the lazy outputs of a mixed ensemble, from maps of its members.

    Parameters
    ----------
    predictor : MixedPredictor
        The mixed ensemble.
    maps : sequence of xr.Dataset
        Maps of each member, in their order, of the same forcing and with the same options.
    forcing : xr.Dataset
        The forcing.
    steps : slice
        Positions of its time steps to map.
    options : PredictionOptions
        From `MixedPredictor.options`.
    chunks : mapping of str to int
        Size of the chunks of the result along time, latitude and longitude.

    Returns
    -------
    (time, latitude, longitude, target) xr.DataArray
        The values that the members would be computed to again, combined as `MixedPredictor.predict_places` does.

    Raises
    ------
    ConfigError
        If the model is no mixed ensemble, or if maps are those of another model or forcing, were computed with other
        options, or lack cells, time steps, fluxes or the dissimilarity.
    """
    if not isinstance(predictor, MixedPredictor):
        raise ConfigError("member_maps are for a mixed ensemble: pass a list of models, or no member_maps.")
    if "block" in forcing.dims:
        raise ConfigError("member_maps do not work for a forcing with several blocks of pixels in a cell: omit them.")
    if len(maps) != len(predictor.parts):
        raise ConfigError(f"member_maps: expected maps of {len(predictor.parts)} members, found {len(maps)}.")
    arrays: list[xr.DataArray] = []
    names: list[tuple[str, ...]] = []
    for one, part, name, own in zip(maps, predictor.parts, predictor.names, options.members, strict=True):
        needed = (*predictor.spec.targets, *part.outputs(own.uncertainty, own.applicability)[len(part.spec.targets) :])
        names.append(needed)
        _check(one, part, name, own, forcing)
        arrays += _layers(one, name, needed, forcing.isel(time=steps))
    return xr.apply_ufunc(
        _combine,
        *(array.chunk(chunks) for array in arrays),
        output_core_dims=[["target"]],
        keep_attrs=False,
        dask="parallelized",
        output_dtypes=[np.float32],
        kwargs={"reference": predictor.reference, "options": options, "names": names},
        dask_gufunc_kwargs={
            "output_sizes": {"target": len(predictor.outputs(options.uncertainty, options.applicability))}
        },
    ).transpose(*_DIMS, "target")


def _check(maps: xr.Dataset, part: Predictor, name: str, options: PredictionOptions, forcing: xr.Dataset) -> None:
    """Refuse maps that are not those of a member with these options and of this forcing (ConfigError)."""
    unit = part.spec.time_resolution.steps
    expected = {
        "model_digest": part.digest,
        f"stride_{unit}": options.strides if options.members else options.stride,
        f"min_context_{unit}": options.min_context,
        "precision": options.precision,
    }
    for key, value in expected.items():
        if maps.attrs.get(key) != value:
            raise ConfigError(
                f"member_maps of {name}: expected {key} = {value!r}, found {maps.attrs.get(key)!r}: compute its maps "
                "with the options of the mixed ensemble, or omit member_maps."
            )
    if changed := differing_inputs(maps.attrs.get(DIGESTS), input_digests(forcing, part.settings)):
        raise ConfigError(
            f"member_maps of {name}: expected maps of this forcing, found those of another {', '.join(changed)}: "
            "compute its maps again, or omit member_maps."
        )


def _layers(maps: xr.Dataset, name: str, needed: Sequence[str], forcing: xr.Dataset) -> list[xr.DataArray]:
    """Return layers of the maps of one member, of the cells and time steps of the forcing (ConfigError if absent)."""
    if absent := [layer for layer in needed if layer not in maps]:
        raise ConfigError(f"member_maps of {name} lack {', '.join(absent)}: compute its maps with all fluxes.")
    for dim in _DIMS:
        if not np.isin(forcing[dim].values, maps[dim].values).all():
            raise ConfigError(f"member_maps of {name} lack values of {dim} that are requested: map the whole period.")
    here = {dim: forcing[dim].values for dim in _DIMS}
    return [maps[layer].sel(here).transpose(*_DIMS).reset_coords(drop=True) for layer in needed]


def _combine(
    *layers: np.ndarray, reference: Reference, options: PredictionOptions, names: Sequence[Sequence[str]]
) -> np.ndarray:
    """Return the outputs (..., target) of a mixed ensemble from the layers of its members, one after the other."""
    predictor = load_reference(reference)
    assert isinstance(predictor, MixedPredictor)
    rest = iter(layers)
    return predictor.combine([{name: next(rest) for name in own} for own in names], options)
