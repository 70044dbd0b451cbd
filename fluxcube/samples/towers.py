"""Towers in memory: what a model is given and asked for, read from a cube one site at a time."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.samples.features import Block, FeatureSpec, cube_block
from fluxcube.samples.scaling import fit_scaling, scale
from fluxcube.samples.windows import Series, join
from fluxcube.timestamps import HOUR
from fluxcube.variables import BANDS
from fluxcube.variables import predictors as all_predictors

log = logging.getLogger(__name__)

#: A predictor present in less than this share of the hours is left out by default.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Towers:
    """Some towers' features and fluxes, end to end.

    Attributes
    ----------
    spec : FeatureSpec
        What the columns are, and how the fluxes are scaled.
    sites : tuple of str
        Towers.
    series : Series
        Features; one place per tower, or per stretch of its hours where the time axis has holes.
    site : (n,) int64
        Position in `sites` of each place's tower.
    first_hour : (n,) int64
        Hours from 1970-01-01T00 UTC to each place's first.
    fluxes : (N, targets) float32
        Scaled as `spec` says; NaN where not observed or flagged worse than asked.
    """

    spec: FeatureSpec
    sites: tuple[str, ...]
    series: Series
    site: np.ndarray
    first_hour: np.ndarray
    fluxes: np.ndarray

    def observed(self) -> np.ndarray:
        """Return whether any target is observed in each hour (N,)."""
        return np.isfinite(self.fluxes).any(1)

    def scaled(self) -> Towers:
        """Return the same towers with each target's mean 0 and spread 1; the new `spec` says by what.

        Raises
        ------
        ConfigError
            If a target is observed in no hour, or if the fluxes are scaled already.
        """
        if set(self.spec.target_mean) != {0.0} or set(self.spec.target_scale) != {1.0}:
            raise ConfigError("the fluxes are scaled already, as their spec says: read them with a spec that is not.")
        mean, spread = fit_scaling([self.fluxes], self.spec.targets)
        spec = dataclasses.replace(self.spec, target_mean=mean, target_scale=spread)
        return dataclasses.replace(self, spec=spec, fluxes=scale(self.fluxes, mean, spread))


def cube_spec(
    cube,
    sites: Sequence[str] | None = None,
    *,
    targets: str | Sequence[str] = "NEE",
    predictors: Sequence[str] | None = None,
    memory_days: Sequence[int] = (),
    bands: Sequence[str] | None = None,
    static: Sequence[str] = ("latitude", "elevation", "igbp"),
    max_qc: int | None = 1,
) -> FeatureSpec:
    """Settle what a model gets of a cube and is asked for.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    sites : sequence of str, optional
        Training towers, which decide on predictors and classes; by default all of the cube with an hour in it.
    targets : str or sequence of str
        Fluxes.
    predictors : sequence of str, optional
        Met inputs; by default all with data in more than 1 % of the sites' hours that are not targets.
    memory_days : sequence of int
        Spans, in days, of trailing means that are added as inputs.
    bands : sequence of str, optional
        Bands of the chips; by default all where the cube has chips, and () for none.
    static : sequence of str
        Some of "latitude", "elevation", "igbp".
    max_qc : int or None
        Worst flag of a predictor that is kept.

    Returns
    -------
    FeatureSpec
        With fluxes in their units; see `Towers.scaled`.

    Raises
    ------
    ConfigError
        If the settings contradict each other or the cube.
    UnknownNameError
        At a name that the cube or a table does not hold.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube_spec(example_cube(), targets=("NEE", "GPP_NT"), bands=()).inputs
    ('DOY', 'TOD', 'TA', 'SW_IN', 'VPD', 'SW_IN_POT')
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    FeatureSpec(predictors=("DOY",), targets=targets)  # before anything is read: are these fluxes?
    _check_cube(cube)
    sites = sites_with_hours(cube) if sites is None else sites
    if predictors is None:
        predictors = choose_predictors(cube, sites, targets, max_qc)
        log.info("predictors: %s", ", ".join(predictors))
    for name in predictors:
        if name not in cube["variable"].values:
            raise unknown("predictor of the cube", name, cube["variable"].values)
    if bands is None:
        bands = tuple(BANDS) if "modis" in cube else ()
    elif bands and "modis" not in cube:
        raise ConfigError("bands are given, but the cube has no chips: build it with modis=, or give bands=().")
    igbp = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
    classes = sorted({igbp[site] for site in sites} - {""}) if "igbp" in static else ()
    return FeatureSpec(
        predictors=tuple(predictors), memory_days=tuple(memory_days), bands=tuple(bands), static=tuple(static),
        igbp_classes=tuple(classes), targets=targets, predictor_max_qc=max_qc, clock=cube.attrs.get("clock", "solar"),
    )  # fmt: skip


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


def load_towers(
    cube, sites: Sequence[str], spec: FeatureSpec, max_qc: int | None, progress: Callable | None = None
) -> Towers:
    """Read some sites of a cube, one at a time, each over its own years.

    Parameters
    ----------
    cube : xr.Dataset
        A cube, lazy or in memory; its time axis may have holes (a selection of seasons, say).
    sites : sequence of str
        Which.
    spec : FeatureSpec
        Inputs, targets and their scaling.
    max_qc : int or None
        Worst flag of a flux that is kept; None keeps all.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Towers
        With about ``4 (inputs + targets)`` bytes an hour and 256 bytes a band and chip.

    Raises
    ------
    ConfigError
        If a site has no hour in the cube, or the cube is daily or normalised.
    UnknownNameError
        If the cube has no such site or target.
    """
    _check_cube(cube)
    fluxes, first = [], []

    def read() -> Iterator[Series]:
        for done, site in enumerate(sites, 1):
            one = site_years(cube, site)
            series, hours = _features(one, spec)
            fluxes.append(scale(_fluxes(one, spec.targets, max_qc), spec.target_mean, spec.target_scale))
            first.append(hours)
            if progress:
                progress(done, len(sites), f"reading {site}")
            yield series

    return Towers(
        spec=spec,
        sites=tuple(map(str, sites)),
        series=join(read()),
        site=np.repeat(np.arange(len(first)), [len(hours) for hours in first]),
        first_hour=np.concatenate(first),
        fluxes=np.concatenate(fluxes),
    )


def sites_with_hours(cube) -> list[str]:
    """Return the sites whose years and the cube's time axis share an hour; how many do not is logged."""
    time = cube["time"].values
    start, stop = (np.searchsorted(time, cube[name].values) for name in ("time_start", "time_stop"))
    names = [str(site) for site in cube["site"].values]
    kept = [name for name, a, b in zip(names, start, stop, strict=True) if b > a]
    if not kept:
        raise ConfigError(f"no site of the cube has an hour between {time[0]} and {time[-1]}: widen the selection.")
    if len(kept) < len(names):
        log.warning("%d of %d sites have no hour in the cube: left out", len(names) - len(kept), len(names))
    return kept


def site_years(cube, site: str):
    """Return one site of a cube, its dimension kept, cut to the hours it has data for."""
    at = {str(name): i for i, name in enumerate(cube["site"].values)}
    if site not in at:
        raise unknown("site", site, at)
    one = cube.isel(site=[at[site]])
    time = cube["time"].values
    start = int(np.searchsorted(time, one["time_start"].values[0]))
    stop = int(np.searchsorted(time, one["time_stop"].values[0]))
    if stop <= start:
        raise ConfigError(f"{site} has no hour between {time[0]} and {time[-1]}: leave it out of the split.")
    return one.isel(time=slice(start, stop))


def _check_cube(cube) -> None:
    if cube.attrs.get("resolution", "hourly") != "hourly":
        raise ConfigError(f"windows are of hours, the cube is {cube.attrs['resolution']}: open the hourly cube.")
    if "normalized" in cube.attrs:
        raise ConfigError("the cube is normalised, and features are normalised here: open it with normalized=False.")


def _features(one, spec: FeatureSpec) -> tuple[Series, np.ndarray]:
    """Features of one site and the first hour of each stretch without a hole; all share the site's chips."""
    blocks = list(_stretches(one, spec))
    first = np.array([block.first_hour for block in blocks])
    series = join(blocks)
    return dataclasses.replace(series, chip_zero=series.chip_zero[0] + first - first[0]), first


def _stretches(one, spec: FeatureSpec) -> Iterator[Block]:
    time = one["time"].values
    edges = [0, *(np.flatnonzero(np.diff(time) != HOUR) + 1), len(time)]
    last = (time[-1] - time[0]) // HOUR
    for at, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = one.isel(time=slice(start, stop))
        if at:
            yield cube_block(part.drop_vars("modis", errors="ignore"), spec)
            continue
        block = cube_block(part, spec)
        kept = int(np.searchsorted(block.chip_hour[0], last, side="right"))  # neither absent nor after the end
        yield dataclasses.replace(block, chips=block.chips[:, :kept], chip_hour=block.chip_hour[:, :kept])


def _fluxes(one, targets: Sequence[str], max_qc: int | None) -> np.ndarray:
    for name in targets:
        if name not in one["target"].values:
            raise unknown("target of the cube", name, one["target"].values)
    values = np.array(one["fluxes"].sel(target=list(targets)).values[0], np.float32)
    if max_qc is not None:
        flags = one["fluxes_qc"].sel(target=list(targets)).values[0]
        values[(flags > max_qc) | (flags < 0)] = np.nan
    return values
