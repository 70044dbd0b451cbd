"""Weights of fluxes: by how well they are known, and by how rare their site's class is among those that train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.samples.loader import Windows
from fluxcube.samples.support import Draws
from fluxcube.samples.towers import Towers, day_quality, site_classes, site_years
from fluxcube.samples.windows import cut

#: Scaled fluxes of a site that are smaller are taken to be of this size.
_LEAST_SPREAD = 0.2


def flux_weights(cube, towers: Towers, names: Sequence[str]) -> np.ndarray:
    """Weights of the fluxes of some towers: the product of what is named.

    Parameters
    ----------
    cube : xr.Dataset
        The towers' cube.
    towers : Towers
        As read from it: the training towers.
    names : sequence of str
        "randunc" (`label_weights`), "quality" (the good share of a day), "igbp", "koppen" (`class_weights`), "site"
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
            out *= class_weights(site_classes(cube, towers.sites, name))[rows][:, None].astype(np.float32)
    if "site" in names:
        out *= site_weights(rows, np.isfinite(towers.fluxes))
    if "spread" in names:
        out *= spread_weights(rows, towers.fluxes)
    return out


def site_weights(site: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Weigh values so that each site counts alike, however many it has, and the mean is 1.

    Parameters
    ----------
    site : (N,) int
        Whose each row is.
    observed : (N, targets) bool
        Which values there are, of each target by itself.

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
    """Weigh sites by the inverse of how many are of their class, so that classes count alike and the mean is 1.

    Parameters
    ----------
    classes : sequence of str
        Of each site; "" is unknown, and weighs 1.

    Returns
    -------
    (n,) float64
        Of each site.

    Examples
    --------
    >>> class_weights(["ENF", "ENF", "ENF", "GRA"])
    array([0.66666667, 0.66666667, 0.66666667, 2.        ])
    """
    count = Counter(code for code in classes if code)
    known = sum(count.values())
    return np.array([known / (len(count) * count[code]) if code else 1.0 for code in classes])


def spread_weights(site: np.ndarray, fluxes: np.ndarray) -> np.ndarray:
    """Weigh values by the inverse of how large their site's are, so that small fluxes count beside large ones.

    Squared errors weighed so are near the errors themselves, which a mean over sites of each site's RMSE adds up: the
    weight is 1 / max(r, 0.2), with r the root mean square of the site's scaled fluxes.

    Parameters
    ----------
    site : (N,) int
        Whose each row is.
    fluxes : (N, targets) float
        Scaled by all sites; NaN is not observed.

    Returns
    -------
    (N, targets) float32
        Of mean 1 over observed fluxes; 0 where nothing is observed.

    References
    ----------
    After the loss of Kratzert et al. 2019, which has the square of it, doi:10.5194/hess-23-5089-2019.

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
        raw = 1 / np.maximum(size, _LEAST_SPREAD)[site[seen]]
        out[seen, i] = raw / raw.mean()
    return out


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


class SupportedWindows(WeightedWindows):
    """Windows whose batches hold "support" (G, K, T, V), too, and "group" (B,), whose it is.

    Windows of support are of the same place as theirs and share no day with any of those that they support, which stand
    side by side in an epoch: so many windows of support need not be encoded for each.

    Attributes
    ----------
    draws : Draws
        Of the towers' drivers.
    """

    draws: Draws

    @classmethod
    def of(cls, towers: Towers, weights: np.ndarray, count: int, queries: int, **options: object) -> SupportedWindows:
        """Make windows, up to `queries` of which share `count` windows of support; those without room are left out."""
        windows = super().of(towers, weights, **options)
        windows.draws = Draws(towers.series, windows.length, count, queries * windows.stride, windows.seed)
        windows._useful &= windows.draws.possible()
        if not windows._useful.any():
            raise ConfigError(
                f"no training site has a window of {windows.length} days beside {queries} others: support and query "
                "must not overlap in time; give longer records, or a shorter context or fewer queries in the config."
            )
        return windows

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, np.ndarray]:
        """Return a batch by its number in the present epoch, or by (epoch, number)."""
        epoch, batch = index if isinstance(index, tuple) else (self.epoch, index)
        made = super().__getitem__((epoch, batch))
        ends = self._own(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        support, group = self.draws.of(ends, epoch)
        return made | {"support": support, "group": group}

    def _draw(self, epoch: int) -> np.ndarray:
        """As for others, but with those that share their support side by side."""
        if self._drawn is None or self._drawn[0] != epoch:
            ends = super()._draw(epoch)
            _, first, which = np.unique(self.draws.group(ends, epoch), return_index=True, return_inverse=True)
            self._drawn = epoch, ends[np.argsort(first[which.ravel()], kind="stable")]
        return self._drawn[1]
