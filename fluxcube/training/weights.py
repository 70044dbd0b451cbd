"""Weights of fluxes in the loss: by their uncertainty, and by how rare the class of their site is in training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Required, TypedDict, Unpack

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.samples.loader import Windows
from fluxcube.samples.support import Draws
from fluxcube.samples.towers import Towers, day_quality, site_classes, site_years
from fluxcube.samples.windows import cut

log = logging.getLogger(__name__)

#: Minimum of the root mean square of a site's scaled fluxes.
_MIN_SPREAD = 0.2


def flux_weights(cube: xr.Dataset, towers: Towers, names: Sequence[str]) -> np.ndarray:
    """Return the weights of the fluxes of some towers: the product of the named ones.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of the towers.
    towers : Towers
        Training towers, read from the cube.
    names : sequence of str
        "randunc" (`label_weights`), "quality" (the measured share of a day), "igbp", "koppen" (`class_weights`), "site"
        (`site_weights`), "spread" (`spread_weights`).

    Returns
    -------
    (N, targets) float32
        N as in ``towers.fluxes``.
    """
    out = np.ones(towers.fluxes.shape, np.float32)
    if "randunc" in names:
        out *= label_weights(cube, towers)
    if "quality" in names:
        kept = cube.sel(target=list(towers.spec.targets))
        out *= np.nan_to_num(np.concatenate([day_quality(site_years(kept, site)) for site in towers.sites]))
    rows = np.repeat(towers.site, towers.series.hours)
    for name in ("igbp", "koppen"):
        if name in names:
            classes = site_classes(cube, towers.sites, name)
            _report_unknown(name, towers.sites, classes)
            out *= class_weights(classes)[rows][:, None].astype(np.float32)
    if "site" in names:
        out *= site_weights(rows, np.isfinite(towers.fluxes))
    if "spread" in names:
        out *= spread_weights(rows, towers.fluxes)
    return out


def _report_unknown(name: str, sites: Sequence[str], classes: Sequence[str]) -> None:
    """Log the towers without a class, whose weight is the mean of the others."""
    missing = [site for site, code in zip(sites, classes, strict=True) if not code]
    title = {"igbp": "IGBP class", "koppen": "Köppen climate"}[name]
    if len(missing) == len(sites):
        log.warning("weigh=%r has no effect: none of the %d training towers has a known %s", name, len(sites), title)
    elif missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        log.warning(
            "weigh=%r: %d of %d training towers have no known %s and get the mean weight of the others, 1: %s",
            name,
            len(missing),
            len(sites),
            title,
            shown,
        )


def site_weights(site: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Weight values so that all sites count equally, however many values they have, and the mean is 1.

    Parameters
    ----------
    site : (N,) int
        Site of each value.
    observed : (N, targets) bool
        Whether there is a value, for each target by itself.

    Returns
    -------
    (N, targets) float32
        0 where nothing is observed.

    Examples
    --------
    >>> site_weights(np.array([0, 0, 0, 1]), np.full((4, 1), True)).ravel()
    array([0.6666667, 0.6666667, 0.6666667, 2.       ], dtype=float32)
    """
    out = np.zeros(observed.shape, np.float32)
    for i, seen in enumerate(observed.T):
        count = np.bincount(site[seen])
        out[seen, i] = seen.sum() / (np.count_nonzero(count) * count[site[seen]])
    return out


def class_weights(classes: Sequence[str]) -> np.ndarray:
    """Weight sites by the inverse number of sites of their class, so that classes count equally and the mean is 1.

    Parameters
    ----------
    classes : sequence of str
        Class of each site; "" is unknown, and has weight 1, the mean weight of the sites of known class.

    Returns
    -------
    (n,) float64
        Weight of each site.

    Examples
    --------
    >>> class_weights(["ENF", "ENF", "ENF", "GRA"])
    array([0.66666667, 0.66666667, 0.66666667, 2.        ])
    """
    count = Counter(code for code in classes if code)
    known = sum(count.values())
    return np.array([known / (len(count) * count[code]) if code else 1.0 for code in classes])


def spread_weights(site: np.ndarray, fluxes: np.ndarray) -> np.ndarray:
    """Weight values by the inverse size of their site's values, so that small fluxes count besides large ones.

    Squared errors with these weights are close to absolute errors, as in the mean over sites of each site's RMSE: the
    weight is 1 / max(r, 0.2), with r the root mean square of the site's scaled fluxes.

    Parameters
    ----------
    site : (N,) int
        Site of each value.
    fluxes : (N, targets) float
        Scaled by all sites; NaN is not observed.

    Returns
    -------
    (N, targets) float32
        Weights with mean 1 over observed fluxes; 0 where nothing is observed.

    References
    ----------
    The loss of Kratzert et al. 2019 has the square of this weight, doi:10.5194/hess-23-5089-2019.

    Examples
    --------
    >>> spread_weights(np.array([0, 0, 1, 1]), np.array([[3.0], [-3.0], [1.0], [1.0]])).ravel()
    array([0.5, 0.5, 1.5, 1.5], dtype=float32)
    """
    out = np.zeros(fluxes.shape, np.float32)
    for i, values in enumerate(fluxes.T):
        seen = np.isfinite(values)
        count = np.maximum(np.bincount(site[seen]), 1)
        size = np.sqrt(np.bincount(site[seen], values[seen].astype(float) ** 2) / count)
        raw = 1 / np.maximum(size, _MIN_SPREAD)[site[seen]]
        out[seen, i] = raw / raw.mean()
    return out


def label_weights(cube: xr.Dataset, towers: Towers) -> np.ndarray:
    """Return the weights of the fluxes of some towers by their random uncertainty.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of the towers, with ``fluxes_randunc``.
    towers : Towers
        Towers, read from the cube.

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
    """Weight values by 1 / (variance + typical variance), with mean 1.

    The typical variance, the median over the observed values of a target, represents the other errors of a model:
    without it the small error of a night would count a hundred times as much as that of a day. A value whose error is
    unknown has the weight of one with the typical error.

    Parameters
    ----------
    spread : (N, targets) float
        Standard deviations; NaN is unknown.
    observed : (N, targets) bool
        Whether there is a value.

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


class WindowOptions(TypedDict, total=False):
    """Options of `fluxcube.samples.loader.Windows`."""

    length: Required[int]
    batch_size: int
    emits: int
    stride: int
    partial: bool
    shuffle: bool
    drop_last: bool
    limit: int | None
    seed: int
    rank: int
    world_size: int


class WeightedWindows(Windows):
    """Windows whose batches contain "weights" of their fluxes (B, emits, targets), too.

    Parameters
    ----------
    towers : Towers
        Data.
    weights : (N, targets) float32
        N as in ``towers.fluxes``.
    options
        As for `fluxcube.samples.loader.Windows`.
    """

    def __init__(self, towers: Towers, weights: np.ndarray, **options: Unpack[WindowOptions]):
        super().__init__(towers, **options)
        self.weights = weights

    def _batch(self, ends: np.ndarray) -> dict[str, np.ndarray]:
        start = self.towers.series.start
        place = np.searchsorted(start, ends, side="right") - 1
        weights = cut(self.weights, start[place], ends - start[place] + 1, self.emits)
        return super()._batch(ends) | {"weights": np.nan_to_num(weights, nan=0.0)}


class SupportedWindows(WeightedWindows):
    """Windows whose batches contain support windows, too: "support" (G, K, T, V), and "group" (B,), which of the G.

    Support windows are of the same place as the windows that share them and overlap with none of these. Windows that
    share them are neighbours in an epoch, so that support windows need not be encoded for each window.

    Parameters
    ----------
    towers, weights
        As for `WeightedWindows`.
    count : int
        K, number of support windows of a window.
    queries : int
        Maximum number of windows that share their support windows.
    options
        As for `fluxcube.samples.loader.Windows`.

    Attributes
    ----------
    draws : Draws
        Random draws of support windows.

    Raises
    ------
    ConfigError
        If no training site has room for a support window besides its windows.
    """

    def __init__(self, towers: Towers, weights: np.ndarray, count: int, queries: int, **options: Unpack[WindowOptions]):
        super().__init__(towers, weights, **options)
        self.draws = Draws(towers.series, self.length, count, queries * self.stride, self.seed)
        self._useful &= self.draws.possible()
        if not self._useful.any():
            raise ConfigError(
                f"no training site has a support window of {self.length} days besides {queries} windows: they must not "
                "overlap in time; use longer records, or a shorter context or fewer queries in the config."
            )

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, np.ndarray]:
        """Return a batch by its number in the present epoch, or by (epoch, number)."""
        epoch, batch = index if isinstance(index, tuple) else (self.epoch, index)
        windows = super().__getitem__((epoch, batch))
        ends = self._own(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        support, group = self.draws.of(ends, epoch)
        return windows | {"support": support, "group": group}

    def _draw(self, epoch: int) -> np.ndarray:
        """Return the windows of an epoch, those that share their support windows next to each other."""
        if self._drawn is None or self._drawn[0] != epoch:
            ends = super()._draw(epoch)
            _, first, which = np.unique(self.draws.group(ends, epoch), return_index=True, return_inverse=True)
            self._drawn = epoch, ends[np.argsort(first[which.ravel()], kind="stable")]
        return self._drawn[1]
