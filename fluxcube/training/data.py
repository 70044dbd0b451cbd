"""Training data: the towers of a split in memory, read one site at a time, and windows drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.windows import Series, gather, join
from fluxcube.variables import predictors as all_predictors

#: A predictor present in less than this share of the training hours is left out by default.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Towers:
    """Some towers' features and fluxes, end to end.

    Attributes
    ----------
    series : Series
        Features; one place per tower.
    fluxes : (N, targets) float32
        In their units; NaN where not observed or flagged worse than asked.
    """

    series: Series
    fluxes: np.ndarray

    def observed(self) -> np.ndarray:
        """Return whether any target is observed in each hour (N,)."""
        return np.isfinite(self.fluxes).any(1)


def load_towers(
    cube, sites: Sequence[str], spec: FeatureSpec, max_qc: int | None, progress: Callable | None = None
) -> Towers:
    """Read some sites of a cube, one at a time, each over its own years.

    Parameters
    ----------
    cube : xr.Dataset
        A cube, lazy or in memory.
    sites : sequence of str
        Which.
    spec : FeatureSpec
        Inputs and targets.
    max_qc : int or None
        Worst flag of a flux that is kept; None keeps all.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Towers
    """
    blocks, fluxes = [], []
    for done, site in enumerate(sites):
        one = site_years(cube, site)
        blocks.append(cube_block(one, spec))
        fluxes.append(_fluxes(one, spec.targets, max_qc))
        if progress:
            progress(done + 1, len(sites), f"reading {site}")
    return Towers(join(blocks), np.concatenate(fluxes))


def site_years(cube, site: str):
    """Return one site of a cube, its dimension kept, cut to the hours it has data for."""
    one = cube.isel(site=[_positions(cube)[site]])
    time = cube["time"].values
    start = int(np.searchsorted(time, one["time_start"].values[0]))
    stop = int(np.searchsorted(time, one["time_stop"].values[0]))
    if stop <= start:
        raise ConfigError(f"{site} has no hour between {time[0]} and {time[-1]}: leave it out of the split.")
    return one.isel(time=slice(start, stop))


def _positions(cube) -> dict[str, int]:
    return {str(site): i for i, site in enumerate(cube["site"].values)}


def _fluxes(one, targets: Sequence[str], max_qc: int | None) -> np.ndarray:
    for name in targets:
        if name not in one["target"].values:
            raise unknown("target of the cube", name, one["target"].values)
    values = np.array(one["fluxes"].sel(target=list(targets)).values[0], np.float32)
    if max_qc is not None:
        flags = one["fluxes_qc"].sel(target=list(targets)).values[0]
        values[(flags > max_qc) | (flags < 0)] = np.nan
    return values


def choose_predictors(cube, sites: Sequence[str], targets: Sequence[str], max_qc: int | None) -> tuple[str, ...]:
    """Return the predictors present in more than 1 % of the sites' hours, targets never among them.

    Raises
    ------
    ConfigError
        If there is none.
    """
    names = [str(n) for n in cube["variable"].values if n in all_predictors() and n not in targets]
    present, hours = np.zeros(len(names)), 0
    for site in sites:
        flags = site_years(cube, site)["predictors_qc"].sel(variable=names).values[0]
        present += ((flags >= 0) & (flags <= (9 if max_qc is None else max_qc))).sum(0)
        hours += len(flags)
    chosen = tuple(name for name, n in zip(names, present, strict=True) if n > _LEAST_SHARE * hours)
    if not chosen:
        raise ConfigError("no predictor has data in more than 1 % of the training hours: name the predictors yourself.")
    return chosen


@dataclass(frozen=True)
class Sampler:
    """Windows of some towers, drawn anew for each epoch.

    Attributes
    ----------
    towers : Towers
        With targets already scaled.
    length : int
        T.
    stride : int
        Hours between the windows of an epoch.
    emits : int
        Last hours of a window that are supervised.
    """

    towers: Towers
    length: int
    stride: int
    emits: int

    def epoch(self, rng: np.random.Generator, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw places and ends of windows in random order, each with at least one observed flux.

        Returns
        -------
        place, stop : (B,) int64
        """
        series = self.towers.series
        phase = rng.integers(0, self.stride, len(series.hours))
        ends = [np.arange(1 + p, hours + 1, self.stride) for p, hours in zip(phase, series.hours, strict=True)]
        place = np.repeat(np.arange(len(ends)), [len(end) for end in ends])
        stop = np.concatenate(ends)
        useful = self._observed_hours(place, stop) > 0
        order = rng.permutation(np.flatnonzero(useful))[:limit]
        return place[order], stop[order]

    def _observed_hours(self, place: np.ndarray, stop: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0], np.cumsum(self.towers.observed())])
        first = self.towers.series.start[place]
        return total[first + stop] - total[first + np.maximum(stop - self.emits, 0)]

    def batches(
        self, place: np.ndarray, stop: np.ndarray, size: int, first: int = 0
    ) -> Iterator[tuple[dict, np.ndarray]]:
        """Yield features (see `gather`) and targets (B, emits, targets) of batch `first` and those after it."""
        for at in range(first * size, len(place), size):
            p, s = place[at : at + size], stop[at : at + size]
            yield gather(self.towers.series, p, s, self.length), self.targets(p, s)

    def targets(self, place: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the scaled fluxes of the emitted hours (B, emits, targets); NaN where not observed."""
        hour = stop[:, None] + np.arange(-self.emits, 0)
        rows = self.towers.series.start[place][:, None] + np.maximum(hour, 0)
        values = self.towers.fluxes[rows]
        values[hour < 0] = np.nan
        return values
