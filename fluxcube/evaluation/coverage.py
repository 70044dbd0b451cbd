"""Coverage: the share of measured values within 80 % intervals, for predictions with calibrated standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
import xarray as xr

from fluxcube.evaluation.sums import Labelled, Sums, aligned_pairs, data_resolution, place_moments
from fluxcube.inference.outputs import CALIBRATION_SITES
from fluxcube.resolution import Default
from fluxcube.scores import Moments
from fluxcube.training.calibration import half_width

#: Column of tables of scores with the coverage of 80 % intervals.
COVERAGE = "coverage_80"
#: Attribute of tables with a sentence on coverage at towers that calibrated a model.
COVERAGE_NOTE = "coverage_note"
_LEVEL = 0.8


@dataclass(frozen=True)
class CoverageSums(Sums):
    """Sums of the coverage of one target.

    Attributes
    ----------
    scored : tuple of str
        Names of the sites with a scored value.
    calibrated_on : mapping of str to list of str
        By model, those scored sites whose measured values calibrated its standard deviation.
    """

    scored: tuple[str, ...] = ()
    calibrated_on: Mapping[str, Sequence[str]] = field(default_factory=dict)


class CoverageOptions(TypedDict, total=False):
    """Options of `coverage_sums`, which `fluxcube.evaluation.sums.site_sums` takes, too."""

    qc: xr.DataArray | None
    max_qc: int | Default | None
    min_quality: float | Default | None
    seasons: bool


def coverage_sums(
    obs: Labelled, predictions: Mapping[str, Labelled], **options: Unpack[CoverageOptions]
) -> list[CoverageSums]:
    """Compute sums of an indicator that is 1 where a measured value lies within the 80 % interval, and 0 elsewhere.

    The mean of the indicator in a group, the score "bias", is the coverage; so groups are those of every other score.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.evaluation.sums.site_sums` takes them.
    **options
        `qc`, `max_qc`, `min_quality` and `seasons` of `site_sums`; the row mask is that of all predictions.

    Returns
    -------
    list of CoverageSums
        One for each target that has NAME_std in some prediction, of these predictions alone.
    """
    limits: dict[str, Any] = dict(options)
    seasons, qc = bool(limits.pop("seasons", False)), limits.pop("qc", None)
    out = []
    with_std = {model: data for model, data in predictions.items() if isinstance(data, xr.Dataset)}
    targets = dict.fromkeys(str(name)[: -len("_std")] for data in with_std.values() for name in data if _is_std(name))
    for target in targets:
        chosen = [model for model, data in with_std.items() if f"{target}_std" in data]
        named = dict(predictions) | {f"{model} std": _only(with_std[model], target) for model in chosen}
        if any(isinstance(data, xr.Dataset) and target not in data for data in named.values()):
            continue  # it is not scored either, since a model does not predict it
        pairs, places, attrs, units = aligned_pairs(obs, named, qc=qc, **limits)
        if target not in pairs:
            continue
        measured, *values = pairs[target]
        arrays = dict(zip(named, values, strict=True))
        inside = [_inside(measured, arrays[model], arrays[f"{model} std"]) for model in chosen]
        moments = place_moments([(measured * 0.0, *inside)], data_resolution(obs) if seasons else None)
        scored = _scored_sites(places[target], moments[0])
        known = {model: _calibrated_on(with_std[model][f"{target}_std"], scored) for model in chosen}
        labels = {target: moments[0]}, {target: places[target]}, attrs, units
        out.append(CoverageSums(tuple(chosen), *labels, scored=tuple(scored), calibrated_on=known))
    return out


def _scored_sites(places: xr.Dataset, moments: Moments) -> list[str]:
    """Return the names of the sites with a scored value; none for cells of a grid."""
    seen = moments.n.sum((1, 2)) > 0
    return [str(site) for site in places["site"].values[seen]] if "site" in places else []


def _calibrated_on(std: xr.DataArray, scored: Sequence[str]) -> list[str]:
    """Return those scored sites whose measured values calibrated a standard deviation, as far as it is recorded."""
    known = set(str(std.attrs.get(CALIBRATION_SITES, "")).split())
    return [site for site in scored if site in known]


def coverage_note(covered: Sequence[CoverageSums]) -> str:
    """Return a sentence on coverage at towers that calibrated the models; "" if there are none.

    Parameters
    ----------
    covered : sequence of CoverageSums
        As `coverage_sums` returned them.
    """
    scored: set[str] = set()
    found: dict[str, set[str]] = {}
    for sums in covered:
        scored |= set(sums.scored)
        for model, sites in sums.calibrated_on.items():
            found.setdefault(model, set()).update(sites)
    counts = [f"{len(sites)} of {len(scored)} ({model})" for model, sites in found.items() if sites]
    if not counts:
        return ""
    return (
        f"Coverage includes that of towers the model was calibrated on, {', '.join(counts)}: elsewhere it can differ."
    )


def _only(data: xr.Dataset, target: str) -> xr.Dataset:
    """Return NAME_std of a target, named as the target, so that it is aligned and converted as the target is."""
    return data[[f"{target}_std"]].rename({f"{target}_std": target})


def _is_std(name: object) -> bool:
    return str(name).endswith("_std")


def _inside(measured: xr.DataArray, mean: xr.DataArray, std: xr.DataArray) -> xr.DataArray:
    """Return 1 where a measured value lies within the interval, 0 elsewhere, NaN where one of the three is missing."""
    error = abs(measured - mean)
    within = (error <= half_width(_LEVEL) * std).astype(np.float32)
    return within.where(np.isfinite(error) & np.isfinite(std)).transpose(*measured.dims)
