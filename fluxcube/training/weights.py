"""Weights of the fluxes that training learns from, the same for networks and trees.

The weight of a value is the product of the named weights, scaled so that its mean over the values of a flux is 1:

| name | weight of a value |
|---|---|
| quality | daily: share of the day that is measured or good fill; hourly: 1 if measured, `filled` if gap-filled |
| igbp, koppen | inverse number of training towers of the class of its tower |
| site | inverse number of values of its tower: all towers count equally |
| sqrt-site | inverse square root of that number: a long record counts more than a short one, but less than its length |
| spread | inverse root mean square of the fluxes of its tower |
| randunc | inverse of its random variance plus the typical one (`TrainingConfig.weight_by_randunc`) |
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.loader import Windows
from fluxcube.samples.quality import best_flags
from fluxcube.samples.support import Draws
from fluxcube.samples.teacher import labelled_targets
from fluxcube.samples.towers import Towers, day_quality, site_classes, site_years
from fluxcube.samples.windows import cut

log = logging.getLogger(__name__)

#: Weight of gap-filled hours relative to measured ones, by default.
FILLED = 0.2
#: Minimum of the root mean square of a site's scaled fluxes.
_MIN_SPREAD = 0.2


@dataclass(frozen=True)
class Labels:
    """Fluxes that training learns from, and the time steps of a cube that they belong to.

    Attributes
    ----------
    sites : tuple of str
        Towers.
    spec : FeatureSpec
        Targets.
    fluxes : (N, targets) float32
        Scaled fluxes, tower by tower; NaN where not observed.
    counts : (n,) int
        Number of the N time steps that belong to each tower.
    kept : tuple of (t,) bool, or None
        Time steps of each tower's record that are among the N; None if all are.
    """

    sites: tuple[str, ...]
    spec: FeatureSpec
    fluxes: np.ndarray
    counts: np.ndarray
    kept: tuple[np.ndarray, ...] | None = None

    @classmethod
    def of(cls, towers: Towers) -> Labels:
        """Return the fluxes of towers in RAM."""
        counts = np.bincount(towers.site, towers.series.hours, len(towers.sites)).astype(np.int64)
        return cls(towers.sites, towers.spec, towers.fluxes, counts)

    @property
    def site(self) -> np.ndarray:
        """Tower (N,) of each time step."""
        return np.repeat(np.arange(len(self.sites)), self.counts)

    def quality(self, cube: xr.Dataset, filled: float) -> np.ndarray:
        """Return the weights (N, targets) of quality; see `quality_weights`."""
        kept = cube.sel(target=list(self.spec.targets))
        return self._joined([quality_weights(site_years(kept, site), filled) for site in self.sites])

    def uncertainty(self, cube: xr.Dataset) -> np.ndarray:
        """Return the random uncertainty (N, targets) of the fluxes."""
        kept = cube["fluxes_randunc"].to_dataset().sel(target=list(self.spec.targets))
        return self._joined([site_years(kept, site)["fluxes_randunc"].values[0] for site in self.sites])

    def _joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the values (N, targets) of all towers from those of each tower's whole record."""
        if self.kept is not None:
            parts = [part[kept] for part, kept in zip(parts, self.kept, strict=True)]
        return np.concatenate(parts)


def flux_weights(
    cube: xr.Dataset, towers: Towers | Labels, names: Sequence[str], *, filled: float = FILLED
) -> np.ndarray:
    """Return the weights of the fluxes of some towers: the product of the named ones, with mean 1 for each flux.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of the towers.
    towers : Towers or Labels
        Training towers, read from the cube.
    names : sequence of str
        "quality" (`quality_weights`), "igbp", "koppen" (`class_weights`), "site", "sqrt-site" (`site_weights`),
        "spread" (`spread_weights`), "randunc" (`inverse_variance`); none for equal weights.
    filled : float
        Weight of gap-filled hours relative to measured ones, for "quality".

    Returns
    -------
    (N, targets) float32
        N as in ``towers.fluxes``. The mean over observed values is 1, unless all their weights are 0.
    """
    labels = towers if isinstance(towers, Labels) else Labels.of(towers)
    site, observed = labels.site, np.isfinite(labels.fluxes)
    out = np.ones(labels.fluxes.shape, np.float32)
    if "randunc" in names:
        out *= inverse_variance(labels.uncertainty(cube), observed)
    if "quality" in names:
        out *= labels.quality(cube, filled)
    for name in ("igbp", "koppen"):
        if name in names:
            classes = site_classes(cube, labels.sites, name)
            _report_unknown(name, labels.sites, classes)
            out *= class_weights(classes)[site][:, None].astype(np.float32)
    for name, power in (("site", 1.0), ("sqrt-site", 0.5)):
        if name in names:
            out *= site_weights(site, observed, power)
    if "spread" in names:
        out *= spread_weights(site, labels.fluxes)
    return _with_mean_one(out, observed) if names else out


def _with_mean_one(weights: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Scale the weights (N, targets) of each target to a mean of 1 over observed values."""
    total = np.where(observed, weights, 0.0).sum(0, dtype=np.float64)
    mean = total / np.maximum(observed.sum(0), 1)
    return (weights / np.where(mean > 0, mean, 1.0)).astype(np.float32)


def quality_weights(one: xr.Dataset, filled: float = FILLED) -> np.ndarray:
    """Return the weights of the fluxes of one tower by their quality.

    Parameters
    ----------
    one : xr.Dataset
        Cube of one tower, as `fluxcube.samples.towers.site_years` returns it.
    filled : float
        Weight of an hour that is not measured. At a tower whose publication kept no better flag
        (`fluxcube.samples.quality.best_flags`), that flag counts as measured.

    Returns
    -------
    (t, targets) float32
        Daily: the share of the day that is measured or good fill, 0 where it is unknown. Hourly: 1 or `filled`. 1 for
        targets that are labels of a teacher (`fluxcube.distil`), which are as good in one time step as in another.

    Raises
    ------
    ConfigError
        If a daily quality is above 1: flags of 0 to 3 count the other way.
    """
    if f"fluxes{HOURLY.quality}" not in one:
        weights = np.nan_to_num(day_quality(one))
    else:
        flags = one[f"fluxes{HOURLY.quality}"].values[0]
        measured = HOURLY.limit(int(HOURLY.measured)).accepts(flags, best_flags(one)[0])
        weights = np.where(measured, 1.0, filled)
    return np.where(labelled_targets(one), 1.0, weights).astype(np.float32)


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


def site_weights(site: np.ndarray, observed: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Weight values by the inverse number of values of their site, so that the mean is 1.

    Parameters
    ----------
    site : (N,) int
        Site of each value.
    observed : (N, targets) bool
        Whether there is a value, for each target by itself.
    power : float
        Power of the number of values: with 1 all sites count equally, with 0.5 as the square root of their number.

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
        if seen.any():
            raw = np.bincount(site[seen]).astype(np.float64)[site[seen]] ** -power
            out[seen, i] = raw / raw.mean()
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
    repeat_images: bool
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
        return super().__getitem__((epoch, batch)) | self.support(epoch, batch)

    def support(self, epoch: int, batch: int) -> dict[str, np.ndarray]:
        """Return "support" and "group" of a batch."""
        ends = self.ends(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        support, group = self.draws.of(ends, epoch)
        return {"support": support, "group": group}

    def _draw(self, epoch: int) -> np.ndarray:
        """Return the windows of an epoch, those that share their support windows next to each other."""
        if self._drawn is None or self._drawn[0] != epoch:
            ends = super()._draw(epoch)
            _, first, which = np.unique(self.draws.group(ends, epoch), return_index=True, return_inverse=True)
            self._drawn = epoch, ends[np.argsort(first[which.ravel()], kind="stable")]
        return self._drawn[1]
