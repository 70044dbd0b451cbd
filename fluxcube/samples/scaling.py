"""Scaling of targets: mean and standard deviation of the training towers' fluxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.features import FeatureSpec


def fit_scaling(parts: Iterable[np.ndarray], names: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each target over all observed time steps of all parts.

    Parameters
    ----------
    parts : iterable of (n, targets) float
        Fluxes in their units, one part per site; NaN is not observed.
    names : sequence of str
        Targets.

    Returns
    -------
    mean, scale : tuples of float
        One per target, in its units; a target that never varies has scale 1.

    Raises
    ------
    ConfigError
        If a target is observed in no hour.

    Examples
    --------
    >>> fit_scaling([np.array([[1.0], [np.nan]]), np.array([[3.0]])], ["NEE"])
    ((2.0,), (1.0,))
    """
    count, total, square = (np.zeros(len(names)) for _ in range(3))
    for part in parts:
        values = np.asarray(part, float)
        count += np.isfinite(values).sum(0)
        total += np.nansum(values, 0)
        square += np.nansum(values**2, 0)
    if (count == 0).any():
        never = [name for name, n in zip(names, count, strict=True) if n == 0]
        raise ConfigError(f"{', '.join(never)}: observed in no hour of the training sites; choose another target.")
    mean = total / count
    spread = np.sqrt(np.maximum(square / count - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(spread > 0, spread, 1.0).tolist())


def scale(values: np.ndarray, mean: Sequence[float], spread: Sequence[float]) -> np.ndarray:
    """Return (values - mean) / spread on the last axis, float32."""
    return ((values - np.asarray(mean)) / np.asarray(spread)).astype(np.float32)


def standardise(spec: FeatureSpec, fluxes: np.ndarray, kept: Sequence[str] = ()) -> tuple[FeatureSpec, np.ndarray]:
    """Scale each target to mean 0 and standard deviation 1.

    Parameters
    ----------
    spec : FeatureSpec
        Specification of the fluxes, in which targets that are not `kept` must be unscaled.
    fluxes : (n, targets) float
        Fluxes of the training sites, scaled as in `spec`; NaN is not observed.
    kept : sequence of str
        Targets that are not changed.

    Returns
    -------
    FeatureSpec
        Specification with the fitted means and standard deviations.
    (n, targets) float32
        Scaled fluxes.

    Raises
    ------
    ConfigError
        If a target is observed in no hour, or if the fluxes are scaled already.

    Examples
    --------
    >>> standardise(FeatureSpec(predictors=("TA",), targets=("NEE",)), np.array([[1.0], [3.0]]))[1].ravel()
    array([-1.,  1.], dtype=float32)
    """
    stays = np.isin(spec.targets, kept)
    present = np.array([spec.target_mean, spec.target_scale])
    if (present[:, ~stays] != [[0.0], [1.0]]).any():
        raise ConfigError(
            "expected unscaled fluxes, but the targets of the spec are scaled already: read the fluxes without scaling."
        )
    if stays.all():
        return spec, fluxes
    fitted = np.where(stays, [[0.0], [1.0]], fit_scaling([fluxes], spec.targets))
    mean, spread = np.where(stays, present, fitted).tolist()
    return dataclasses.replace(spec, target_mean=tuple(mean), target_scale=tuple(spread)), scale(fluxes, *fitted)
