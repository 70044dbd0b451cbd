"""The row mask: observations of accepted quality, and predictions in their units, at common places and time steps."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.alignment import at_sites, check_labelled, check_same_dims, sampling_notes
from fluxcube.evaluation.common_steps import AVERAGING, in_common_steps
from fluxcube.evaluation.common_units import in_one_unit, with_units
from fluxcube.resolution import DAILY, DEFAULT, HOURLY, Default, QualityLimit, Resolution, resolution_of
from fluxcube.samples.quality import best_flags, named_best_flags
from fluxcube.samples.teacher import check_measured
from fluxcube.schema import PARTS
from fluxcube.stores.origin import origin
from fluxcube.variables import table

logger = logging.getLogger(__name__)

#: Endings of the names of arrays of quality and the like, in a Dataset with one variable per flux.
_BESIDE = tuple(ending.upper() for ending in PARTS if ending)

Labelled = xr.Dataset | xr.DataArray
#: Attribute of scores, JSON: the stores and the digests of the models that they were computed from.
INPUTS = "inputs"


class QualityOptions(TypedDict, total=False):
    """Limit of quality, as `site_sums` and `fluxcube.fit` take it; None accepts every value."""

    max_qc: int | None
    min_quality: float | None


@dataclass(frozen=True)
class Aligned:
    """Observations within the row mask and predictions, with the same coordinates.

    Attributes
    ----------
    models : tuple of str
        Names of the models.
    pairs : mapping of str to tuple of xr.DataArray
        Observations and the predictions of each model (place..., time), by flux.
    places : mapping of str to xr.Dataset
        Coordinates of the places, by flux.
    attrs : mapping
        The row mask in words, the limit of quality and the resolution.
    units : mapping of str to str
        Units of each flux that has any in the data, as the observations have them.
    rows : mapping of str to mapping of str to xr.DataArray
        Numbers of time steps that each step of the alignment left (place...), by flux; lazy if the data are.
    resolution : Resolution
        Resolution of the scored time steps: that of the observations, or daily if maps made averages necessary.
    """

    models: tuple[str, ...]
    pairs: Mapping[str, tuple[xr.DataArray, ...]]
    places: Mapping[str, xr.Dataset]
    attrs: Mapping[str, object]
    units: Mapping[str, str]
    rows: Mapping[str, Mapping[str, xr.DataArray]]
    resolution: Resolution


def aligned_pairs(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> tuple[dict[str, tuple[xr.DataArray, ...]], dict[str, xr.Dataset], dict[str, object], dict[str, str]]:
    """Return observations within the row mask with all predictions, by flux; places by flux; attributes; and units.

    Predictions are converted to the units of the observations.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them.
    """
    data = aligned(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    return dict(data.pairs), dict(data.places), dict(data.attrs), dict(data.units)


def aligned(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> Aligned:
    """Return observations within the row mask, with all predictions in their units.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them.
    """
    if not predictions:
        raise ConfigError("nothing to score: expected at least one prediction by model name, found none.")
    for name, data in {"the observations": obs, **predictions}.items():
        check_labelled(name, data)
    inputs = _inputs(obs, predictions)
    obs = _dated("the observations", obs)
    predictions = at_sites(obs, {model: _dated(model, pred) for model, pred in predictions.items()})
    check_measured(obs, predictions)
    observed, flags = _observed(obs, qc, data_resolution(obs))
    common = in_common_steps(
        obs,
        predictions,
        observed=observed,
        flags=flags,
        predicted={model: _by_target(pred, only=list(observed)) for model, pred in predictions.items()},
        resolution=data_resolution(obs),
        max_qc=max_qc,
        min_quality=min_quality,
    )
    observed, flags, predicted = common.observed, common.flags, common.predicted
    resolution, limit = common.resolution, common.limit
    targets = _shared_targets(observed, predicted)
    units: dict[str, str] = {}
    converted: dict[str, list[xr.DataArray]] = {}
    for t in targets:
        unit, converted[t] = in_one_unit(
            t, observed[t], {model: p[t] for model, p in predicted.items()}, table(resolution.name)
        )
        units |= {t: unit} if unit else {}
    found = {t: _aligned(observed[t], flags.get(t), converted[t], limit) for t in targets}
    pairs = {t: pair for t, (pair, _) in found.items()}
    places = {t: _places(pair[0]) for t, pair in pairs.items()}
    attrs = _attrs(limit, [t for t in targets if t not in flags], targets, list(predictions), _raised(limit, obs))
    attrs |= (resolution if common.note else resolution_of(obs)).attrs | sampling_notes(predictions)
    attrs |= ({AVERAGING: common.note} if common.note else {}) | ({INPUTS: json.dumps(inputs)} if inputs else {})
    rows = {t: of for t, (_, of) in found.items()}
    return Aligned(tuple(predictions), pairs, places, attrs, units, rows, resolution)


def _inputs(obs: Labelled, predictions: Mapping[str, Labelled]) -> dict[str, dict[str, str]]:
    """Return the stores and the models that scores are computed from: of "cube", and by the name of each model."""
    out = {"cube": origin(obs)}
    for name, data in predictions.items():
        digest = data.attrs.get("model_digest")
        out[name] = origin(data) | ({"model_digest": str(digest)} if digest else {})
    return {name: record for name, record in out.items() if record}


def inputs_of(attrs: Mapping) -> dict[str, dict[str, str]]:
    """Return the stores and models that scores were computed from, by name; nothing of earlier versions."""
    return dict(json.loads(str(attrs.get(INPUTS, "{}"))))


def _dated(name: str, data: Labelled) -> Labelled:
    """Return data whose times are datetime64, also if their file has times of a calendar.

    Raises
    ------
    SchemaError
        If the calendar has other days.
    """
    index = data.indexes["time"]
    if not isinstance(index, xr.CFTimeIndex):
        return data
    if index.calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise SchemaError(
            f"{name}: expected the standard calendar, found {index.calendar}, whose days differ; convert the data, "
            'data.convert_calendar("standard"), which leaves out days that the other calendar lacks.'
        )
    return data.assign_coords(time=index.to_datetimeindex(time_unit="ns"))


def data_resolution(obs: Labelled) -> Resolution:
    """Return the resolution of observations, from their attribute or, of an array without it, from the time step."""
    if isinstance(obs, xr.Dataset) or "resolution" in obs.attrs:
        return resolution_of(obs)
    dated = "time" in obs.coords and obs["time"].dtype.kind == "M"
    steps = np.diff(obs["time"].values[:2]) if dated else np.array([])
    return DAILY if (steps == DAILY.step).any() else HOURLY


def _raised(limit: QualityLimit, obs: Labelled) -> str:
    """Return the sites at which a worse flag than the limit counts as measured, with their flags; "" for none."""
    if limit.value is None or not limit.resolution.lower_is_better or "site" not in obs.dims:
        return ""
    return named_best_flags(obs.isel(site=best_flags(obs) > limit.value))


def common_rows(*arrays: xr.DataArray) -> xr.DataArray:
    """Return True where every array has a finite value: the time steps at which models can be compared.

    Parameters
    ----------
    *arrays : xr.DataArray
        Arrays with the same coordinates. If they are lazy, so is the result.

    Examples
    --------
    >>> a, b = xr.DataArray([1.0, np.nan, 3.0]), xr.DataArray([1.0, 2.0, np.nan])
    >>> common_rows(a, b).values.tolist()
    [True, False, False]
    """
    first, *others = xr.align(*arrays, join="exact", copy=False)
    mask = first.copy(data=np.isfinite(first.data))
    for array in others:
        mask = mask & np.isfinite(array)
    return mask


def _observed(obs: Labelled, qc: xr.DataArray | None, resolution: Resolution) -> tuple[dict, dict]:
    """Return observations, and flags or qualities where there are any, by target."""
    ending = resolution.quality
    if isinstance(obs, xr.Dataset) and "fluxes" in obs:
        qc = obs.get(f"fluxes{ending}") if qc is None else qc
        obs = obs.fluxes
    values = _by_target(obs)
    if qc is not None:
        flags = _by_target(qc, only=list(values))
    elif isinstance(obs, xr.Dataset):
        names = {name: f"{name}{ending.upper()}" for name in values}
        flags = {name: obs[beside] for name, beside in names.items() if beside in obs}
    else:
        flags = {}
    return values, flags


def _by_target(data: Labelled, only: list[str] | None = None) -> dict[str, xr.DataArray]:
    """Return one array per flux; an array without a name is named after the flux in `only`, if there is one."""
    if isinstance(data, xr.Dataset):
        return {str(k): v for k, v in data.data_vars.items() if "time" in v.dims and not str(k).endswith(_BESIDE)}
    if "target" in data.dims:
        return {str(t): with_units(data.isel(target=i)) for i, t in enumerate(data.target.values)}
    if data.name is None and only is not None and len(only) == 1:
        return {only[0]: data}
    return {str(data.name): data}


def _shared_targets(observed: dict, predicted: dict[str, dict]) -> list[str]:
    first = next(iter(predicted.values()))
    shared = [t for t in first if t in observed and all(t in p for p in predicted.values())]
    have = {model: sorted(p) for model, p in predicted.items()}
    if not shared:
        raise SchemaError(f"nothing to score: observed are {sorted(observed)}, predicted are {have}.")
    left = sorted({t for p in predicted.values() for t in p} - set(shared))
    if left:
        logger.info("not scored, since observations or another prediction lack them: %s", ", ".join(left))
    return shared


def _aligned(
    obs: xr.DataArray, flags: xr.DataArray | None, preds: Sequence[xr.DataArray], limit: QualityLimit
) -> tuple[tuple[xr.DataArray, ...], dict[str, xr.DataArray]]:
    """Return observations within the row mask, and predictions, with the same coordinates and dims (..., time).

    The second value contains the number of time steps of each place that each step left.
    """
    check_same_dims(obs, preds)
    sizes, original = [dict(a.sizes) for a in (obs, *preds)], obs
    # Places first: time steps are counted at those that all have.
    indexed = [d for d in obs.dims if d != "time"]
    obs, *rest = xr.align(obs, *([] if flags is None else [flags]), *preds, join="inner", exclude="time", copy=False)
    before, quality = obs, None
    if flags is not None:
        before, quality = xr.align(obs, rest[0], join="inner", copy=False)
    accepted = _accepted(before, quality, limit)
    obs, good, *rest = xr.align(before, accepted, *rest[flags is not None :], join="inner", copy=False)
    if not obs.size:
        raise SchemaError(_nothing_common(sizes, original, preds))
    if any({d: a.sizes[d] for d in size} != size for size, a in zip(sizes, (obs, *rest), strict=True)):
        logger.info("scored on the common sites and time steps: %s of %s", dict(obs.sizes), sizes)
    dims = [*indexed, "time"]
    obs, good, *rest = (a.transpose(*dims) for a in (obs, good, *rest))
    rest = [a.reset_coords(drop=True) for a in rest]  # xarray would drop a coordinate of obs that differs
    counts = {
        "observed": _number(_finite(before)),
        "after_quality": _number(accepted),
        "common": _number(good),
    }
    return (obs.where(common_rows(*rest) & good.reset_coords(drop=True)), *rest), counts


def _accepted(obs: xr.DataArray, flags: xr.DataArray | None, limit: QualityLimit) -> xr.DataArray:
    """Return where observations have a value of an accepted quality."""
    finite = _finite(obs)
    if flags is None or limit.value is None:
        return finite
    best = xr.DataArray(best_flags(obs), dims="site" if "site" in obs.dims else ())
    good = xr.apply_ufunc(limit.accepts, flags, best, dask="parallelized", output_dtypes=[bool])
    return finite & good.reset_coords(drop=True).transpose(*obs.dims)


def _finite(array: xr.DataArray) -> xr.DataArray:
    return array.copy(data=np.isfinite(array.data))


def _number(rows: xr.DataArray) -> xr.DataArray:
    return rows.reset_coords(drop=True).sum("time")


def _nothing_common(sizes: list[dict], obs: xr.DataArray, preds: Sequence[xr.DataArray]) -> str:
    """Return why observations and predictions have no time step in common, in words."""
    message = f"nothing to score: observation {sizes[0]} and prediction {sizes[-1]} share no site, cell or hour"
    for dim in sizes[0]:
        for array in preds:
            ours, theirs = (a.indexes.get(dim) for a in (obs, array))
            if ours is None or theirs is None or not len(ours) or not len(theirs) or len(ours.intersection(theirs)):
                continue
            return f"{message}: {dim} differs, observations from {ours[0]} and predictions from {theirs[0]}."
    return f"{message}."


def _places(obs: xr.DataArray) -> xr.Dataset:
    """Return the coordinates of the places, with the dimension place, in the order of their moments."""
    dims = [d for d in obs.dims if d != "time"]
    coords = obs.isel(time=0, drop=True).coords.to_dataset().reset_coords()
    flat = {n: v.broadcast_like(obs.isel(time=0, drop=True)) for n, v in coords.items() if set(v.dims) <= set(dims)}
    first = obs.isel(time=0, drop=True).reset_coords(drop=True)
    flat |= {d: first[d].broadcast_like(first) for d in dims if d in first.coords}
    return xr.Dataset({n: ("place", v.transpose(*dims).values.ravel()) for n, v in flat.items()})


def _attrs(
    limit: QualityLimit, unflagged: list[str], targets: list[str], models: list[str], raised: str
) -> dict[str, object]:
    """Return the row mask in words, and the limit of quality; warn if observations have no quality."""
    option, noun = limit.resolution.option, limit.resolution.quality_noun
    nothing = limit.value is None or unflagged == targets
    if limit.value is None:
        quality = "every finite observation"
    elif unflagged == targets:
        quality = f"every finite observation (no {noun} given)"
    else:
        quality = f"observations with {limit}"
        quality += f" ({raised}, the best that their publication has)" if raised else ""
        quality += f"; of {', '.join(unflagged)} every finite one (no {noun} given)" if unflagged else ""
    if unflagged and limit.value is not None:
        logger.warning(
            "observations of %s carry no quality %s: every finite value is scored, gap-filled ones too. "
            "Pass the cube itself, or qc=cube.fluxes%s; pass %s=None if this is intended.",
            ", ".join(unflagged),
            noun,
            limit.resolution.quality,
            option,
        )
    rows = f"{quality}, where {', '.join(models) + ' all have' if len(models) > 1 else 'the prediction has'} a value"
    return {"row_mask": rows, option: "none" if nothing else limit.value}
