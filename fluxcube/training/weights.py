"""Weights of fluxes by how well they are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers, site_years
from fluxcube.samples.windows import cut


def label_weights(cube, towers: Towers) -> np.ndarray:
    """Weights of the fluxes of some towers by their random uncertainty.

    Parameters
    ----------
    cube : xr.Dataset
        The towers' cube, with ``fluxes_randunc``.
    towers : Towers
        As read from it.

    Returns
    -------
    (N, targets) float32
        See `inverse_variance`; N as in ``towers.fluxes``.
    """
    parts = [
        site_years(cube, site)["fluxes_randunc"].sel(target=list(towers.spec.targets)).values[0]
        for site in towers.sites
    ]
    return inverse_variance(np.concatenate(parts), np.isfinite(towers.fluxes))


def inverse_variance(spread: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Weigh values by 1 / (variance + typical variance), so that their mean is 1.

    The typical variance, the median of a target's observed values, stands for what a model misses besides: without it
    a night's small error would count a hundred times as much as a day's. A value whose error is unknown counts as one
    with the typical error.

    Parameters
    ----------
    spread : (N, targets) float
        Standard deviations; NaN is unknown.
    observed : (N, targets) bool
        Which values there are.

    Returns
    -------
    (N, targets) float32
        0 where nothing is observed; all 1 for a target without any known error.

    Examples
    --------
    >>> inverse_variance(np.array([[1.0], [1.0], [np.nan]]), np.full((3, 1), True)).ravel()
    array([1., 1., 1.], dtype=float32)
    """
    variance = np.where(observed, np.square(spread.astype(np.float64)), np.nan)
    known = np.isfinite(variance)
    columns = [variance[k, i] for i, k in enumerate(known.T)]
    typical = np.array([np.median(c) if len(c) and np.median(c) > 0 else 1.0 for c in columns])
    raw = np.where(observed, 1 / (np.where(known, variance, typical) + typical), 0.0)
    mean = raw.sum(0) / np.maximum(observed.sum(0), 1)
    return (raw / np.where(mean > 0, mean, 1.0)).astype(np.float32)


class WeightedWindows(Windows):
    """Windows whose batches hold "weights" of their fluxes (B, emits, targets), too."""

    weights: np.ndarray

    @classmethod
    def of(cls, towers: Towers, weights: np.ndarray, **options: object) -> WeightedWindows:
        """Make windows; `weights` (N, targets) as in ``towers.fluxes``."""
        windows = cls(towers, **options)
        windows.weights = weights
        return windows

    def _batch(self, ends: Sequence[int]) -> dict[str, np.ndarray]:
        start = self.towers.series.start
        place = np.searchsorted(start, ends, side="right") - 1
        weights = cut(self.weights, start[place], ends - start[place] + 1, self.emits)
        return super()._batch(ends) | {"weights": np.nan_to_num(weights, nan=0.0)}
