"""Coverage: the share of measured values within 80 % intervals, for predictions with calibrated standard deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import xarray as xr

from fluxcube.evaluation.alignment import at_sites
from fluxcube.evaluation.periods import Periods
from fluxcube.evaluation.sums import (
    Labelled,
    SumOptions,
    Sums,
    aligned,
    aligned_pairs,
    computed_moments,
    sums_of,
    without_empty_years,
)
from fluxcube.inference.outputs import CALIBRATION_SITES
from fluxcube.moments import Moments
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


class CoverageOptions(SumOptions, total=False):
    """Options of `sums_with_coverage`: those of `fluxcube.evaluation.sums.site_sums`."""

    seasons: bool


def sums_with_coverage(
    obs: Labelled, predictions: Mapping[str, Labelled], **options: Unpack[CoverageOptions]
) -> tuple[Sums, list[CoverageSums]]:
    """Compute the sums of every score, and those of the coverage of 80 % intervals, in one pass over the data.

    Lazy predictions are computed once. Coverage is the mean of an indicator that is 1 where a measured value lies
    within the interval, and 0 elsewhere: the score "bias" of its sums; so groups are those of every other score.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.evaluation.sums.site_sums` takes them.
    **options
        Options of `site_sums`; the row mask is that of all predictions.

    Returns
    -------
    Sums
        As `site_sums` returns them.
    list of CoverageSums
        One for each target that has NAME_std in some prediction, of these predictions alone.
    """
    limits: dict[str, Any] = dict(options)
    kinds = (*limits.pop("periods", ()), *(("season",) if limits.pop("seasons", False) else ()))
    subsets = limits.pop("subsets", None)
    limits.setdefault("qc", None)
    predictions = at_sites(obs, predictions)
    data = aligned(obs, predictions, **limits)
    indicators = _indicators(obs, predictions, list(data.pairs), limits)
    arrays = [*data.pairs.values(), *(one.arrays for one in indicators)]
    periods, found = computed_moments(data, arrays, tuple(dict.fromkeys(kinds)), data.resolution, subsets)
    number = len(data.pairs)
    sums = sums_of(data, dict(zip(data.pairs, found.moments[:number], strict=True)), periods, found.rows)
    sums = without_empty_years({"": sums})[""]
    return sums, [one.sums(m, periods) for one, m in zip(indicators, found.moments[number:], strict=True)]


@dataclass(frozen=True)
class _Indicator:
    """The indicator of coverage of one target: zeros within the row mask, then the indicator of each model."""

    arrays: tuple[xr.DataArray, ...]
    std: Mapping[str, xr.DataArray]
    target: str
    places: xr.Dataset
    attrs: Mapping
    units: Mapping[str, str]

    def sums(self, moments: Moments, periods: Periods) -> CoverageSums:
        scored = _scored_sites(self.places, moments)
        known = {model: _calibrated_on(std, scored) for model, std in self.std.items()}
        labels = {self.target: moments}, {self.target: self.places}, dict(self.attrs), dict(self.units)
        return CoverageSums(tuple(self.std), *labels, periods, scored=tuple(scored), calibrated_on=known)


def _indicators(
    obs: Labelled, predictions: Mapping[str, Labelled], targets: Sequence[str], limits: Mapping[str, Any]
) -> list[_Indicator]:
    """Return the indicators of the scored targets that have NAME_std in some prediction."""
    datasets = {model: data for model, data in predictions.items() if isinstance(data, xr.Dataset)}
    out = []
    for target in targets:
        with_std = {model: data for model, data in datasets.items() if f"{target}_std" in data}
        if not with_std:
            continue
        named = dict(predictions) | {f"{model} std": _only(data, target) for model, data in with_std.items()}
        pairs, places, attrs, units = aligned_pairs(obs, named, **limits)
        measured, *values = pairs[target]
        arrays = dict(zip(named, values, strict=True))
        inside = [_inside(measured, arrays[model], arrays[f"{model} std"]) for model in with_std]
        std = {model: data[f"{target}_std"] for model, data in with_std.items()}
        out.append(_Indicator((measured * 0.0, *inside), std, target, places[target], attrs, units))
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
        As `sums_with_coverage` returned them.
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


def _inside(measured: xr.DataArray, mean: xr.DataArray, std: xr.DataArray) -> xr.DataArray:
    """Return 1 where a measured value lies within the interval, 0 elsewhere, NaN where one of the three is missing."""
    error = abs(measured - mean)
    within = (error <= half_width(_LEVEL) * std).astype(np.float32)
    return within.where(np.isfinite(error) & np.isfinite(std)).transpose(*measured.dims)
