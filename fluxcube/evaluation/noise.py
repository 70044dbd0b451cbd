"""Noise ceiling: the scores that a perfect model would have, because measured fluxes have random errors.

A measured flux is y = f + e: the flux f, and a random error e of mean 0 and standard deviation s that is independent of
f. A model that estimates every f exactly has the squared error e², whose expectation is s², so that at best

    RMSE = sqrt(mean(s²)),    NSE = 1 - sum(s²) / sum((y - mean(y))²).

This holds for any distribution of the errors; those of eddy covariance are nearer to a Laplace distribution than to a
normal one, and grow with the flux. The mean of n hours with independent errors has s = sqrt(sum(s²)) / n.

Where the files of a tower contain no random uncertainty, it is estimated from pairs of measured hours: the same hour
of two consecutive days in similar weather, whose difference has the variance 2 s² (Hollinger and Richardson 2005).
Pairs in the same stratum of light and temperature have one s², and each hour has that of its stratum. The weather of
the two days is never quite the same, so that this s tends to be too large, and the ceiling too low. At the two towers
whose published uncertainty is at hand, US-Wi7 and DK-Fou in 2005, the ceilings of half-hours are 0.67 and 0.91 by
pairs, and 0.68 and 0.93 by the published uncertainty.

References
----------
Hollinger and Richardson 2005, doi:10.1093/treephys/25.7.873; Richardson et al. 2006,
doi:10.1016/j.agrformet.2005.12.007.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.moments import efficiency
from fluxcube.resolution import DAILY, DEFAULT, HOURLY, Default, QualityLimit, Resolution, quality_limit, resolution_of
from fluxcube.samples.features import class_of
from fluxcube.samples.quality import best_flags
from fluxcube.samples.towers import site_years, sites_with_hours
from fluxcube.variables import table

#: Beginning of the names of fluxes that are modelled from NEE, so that they have no measurement error of their own.
_PARTITIONED = ("GPP", "RECO")
#: Maximum differences of a pair in similar weather: Hollinger and Richardson's 75 umol m-2 s-1 of photons in W m-2 of
#: shortwave radiation, their 3 degC, and 5 hPa of vapour pressure deficit in place of their 1 m s-1 of wind.
_ALIKE = {"SW_IN": 36.0, "TA": 3.0, "VPD": 5.0}
_NEEDED = ("SW_IN", "TA")
#: Maximum flag of these predictors, and the share of the measured hours with such a VPD from which on it is used.
_PREDICTOR_QC, _LEAST_KNOWN = 1, 0.5
#: Lower bounds (W m-2) of the classes of light after the first, and number of classes of temperature.
_LIGHT, _TEMPERATURES = (5.0, 100.0, 300.0, 600.0), 3
#: Minimum number of pairs of a tower, and of a stratum with an estimate of its own.
_PAIRS, _STRATUM_PAIRS = 50, 20
#: Minimum number of hours of a daily mean.
_HOURS = 12


Scale = Literal["hourly", "daily"]


@dataclass(frozen=True)
class _SiteNoise:
    """Sums over the scored time steps of one site: number of all, and of those with an uncertainty; and their moments.

    Attributes
    ----------
    rows, n, estimated : int
        Number of scored time steps, of those with an uncertainty, and of those whose uncertainty was estimated.
    mean, squares, noise : float
        Mean of the observations with an uncertainty, sum of squared deviations from it, and sum of squared
        uncertainties.
    """

    rows: int
    n: int
    estimated: int
    mean: float
    squares: float
    noise: float


def noise_ceiling(
    cube: xr.Dataset,
    targets: str | Sequence[str] | None = None,
    by: str | Sequence[str | None] | None = None,
    *,
    scale: Scale | Sequence[Scale] | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    rows: xr.DataArray | None = None,
    estimate: bool = True,
) -> pd.DataFrame:
    """Return the scores of a perfect model at the scored time steps, from the random uncertainty of the observations.

    Parameters
    ----------
    cube : xr.Dataset
        Tower cube, hourly or daily; sites are read one at a time.
    targets : str or sequence of str, optional
        Fluxes; by default all of the cube.
    by : str or sequence of str or None, optional
        Coordinates on site by which sites are grouped: "site", "igbp", "koppen" (main climate), ...; None pools all
        sites.
    scale : {"hourly", "daily"} or a sequence of these, optional
        Time scale of the scores: "daily" for means of the hours of a day (local mean solar time, at least 12 scored
        hours) of an hourly cube. Default: the time step of the cube. Several scales and groups take one reading.
    max_qc, min_quality : optional
        Quality of the observations that are scored, as `fluxcube.evaluate` takes it; by default measured ones.
    rows : xr.DataArray, optional
        Which time steps (site, time), or (site, time, target), are scored, besides that: True where all models have a
        value, for example.
    estimate : bool
        Whether the uncertainty of towers without a published one is estimated from pairs of hours (hourly cubes, fluxes
        that are measured).

    Returns
    -------
    pd.DataFrame
        A row per target, scale and group with columns target, units, scale, by ("all" or the coordinate), group,
        n_sites (with a scored time step), n_rows
        (scored), n (those with an uncertainty, which the other columns describe), n_estimated (those of them whose
        uncertainty is estimated), noise_rmse (in `units`), nse_ceiling, and reason: why there is no ceiling, or which
        part of the scored time steps it leaves out. The published uncertainty is that of ONEFlux (``fluxes_randunc``).
        GPP and RECO have none, since they are modelled from NEE.

    Raises
    ------
    ConfigError
        If `scale` is shorter than the time step of the cube, or an option of the other resolution is passed.
    SchemaError
        If the sites lack the coordinate `by`.
    UnknownNameError
        If the cube has no such target.

    References
    ----------
    Hollinger and Richardson 2005, doi:10.1093/treephys/25.7.873; Richardson et al. 2006,
    doi:10.1016/j.agrformet.2005.12.007.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=4)
    >>> cube = cube.assign(fluxes_randunc=cube.fluxes * 0 + 2.0)
    >>> row = noise_ceiling(cube, "NEE").iloc[0]
    >>> float(row.noise_rmse), int(row.n), bool(0.5 < row.nse_ceiling < 1)
    (2.0, 310, True)
    """
    resolution = resolution_of(cube)
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.measured)
    scales = _scales(resolution, scale)
    names = list(map(str, cube["target"].values)) if targets is None else targets
    names = [names] if isinstance(names, str) else list(names)
    if unknowns := [name for name in names if name not in cube["target"].values]:
        raise unknown("target of the cube", unknowns[0], cube["target"].values)
    grouped = {one or "all": _groups(cube, one) for one in ([by] if by is None or isinstance(by, str) else by)}
    found: dict[tuple[str, Scale], dict[str, _SiteNoise]] = {(name, one): {} for name in names for one in scales}
    lean = _needed(cube, names, estimate)
    for site in sites_with_hours(cube):
        one = site_years(lean, site).load()
        scored = None if rows is None else rows.sel(site=site).reindex(time=one["time"], fill_value=False)
        for name in names:
            noise = _site_noise(one, name, limit, scored, estimate)
            for each in scales:
                found[name, each][site] = _sums(*(noise.daily(one) if each != resolution.name else noise.scored))
    known = table(resolution.name)
    return pd.DataFrame(
        [
            {"target": name, "units": known[name].units if name in known else "", "scale": each, "by": which}
            | {"group": group}
            | _pooled(name, resolution.name, parts)
            for which, groups in grouped.items()
            for (name, each), noises in found.items()
            for group, parts in _by_group(noises, groups).items()
        ]
    )


def _scales(resolution: Resolution, scale: Scale | Sequence[Scale] | None) -> list[Scale]:
    """Return the time scales of a cube that are requested."""
    own: Scale = "hourly" if resolution is HOURLY else "daily"
    scales = [own] if scale is None else [scale] if isinstance(scale, str) else list(scale)
    for one in scales:
        if one not in (HOURLY.name, DAILY.name):
            raise unknown("time scale", one, (HOURLY.name, DAILY.name))
        if one == HOURLY.name and resolution is DAILY:
            raise ConfigError("scale='hourly': expected an hourly cube, found a daily one; leave scale out.")
    return scales


def _groups(cube: xr.Dataset, by: str | None) -> dict[str, str]:
    """Return the group of each site."""
    sites = [str(site) for site in cube["site"].values]
    if by is None:
        return dict.fromkeys(sites, "all")
    if by not in cube.coords or cube[by].dims != ("site",):
        on_site = sorted(str(name) for name, c in cube.coords.items() if c.dims == ("site",))
        raise SchemaError(f"by={by!r} must be a coordinate on site: expected one of {', '.join(on_site)}.")
    labels = [str(value) for value in cube[by].values]
    labels = [class_of(by, label) for label in labels] if by in ("igbp", "koppen") else labels
    return {site: label or "unknown" for site, label in zip(sites, labels, strict=True)}


def _by_group(found: Mapping[str, _SiteNoise], groups: Mapping[str, str]) -> dict[str, list[_SiteNoise]]:
    out: dict[str, list[_SiteNoise]] = {group: [] for group in sorted({groups[site] for site in found})}
    for site, noise in found.items():
        out[groups[site]].append(noise)
    return out


def _needed(cube: xr.Dataset, targets: Sequence[str], estimate: bool) -> xr.Dataset:
    """Return the arrays that are read: the fluxes, and the predictors that similar weather is recognised by."""
    quality = resolution_of(cube).quality
    fluxes = [f"fluxes{ending}" for ending in ("", quality, "_randunc") if f"fluxes{ending}" in cube]
    out = cube[fluxes].sel(target=list(targets))
    if estimate and resolution_of(cube) is HOURLY:
        present = [name for name in _ALIKE if name in cube["variable"].values]
        predictors = [name for name in ("predictors", "predictors_qc") if name in cube]
        out = out.assign(dict(cube[predictors].sel(variable=present).data_vars))
    return out


@dataclass(frozen=True)
class _Noise:
    """Observations (time,) of one target at one site, the variances of their errors, and which of them are scored."""

    y: np.ndarray
    variance: np.ndarray
    estimated: np.ndarray
    accepted: np.ndarray

    @property
    def scored(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scored observations (n,), the variances of their errors, and whether these are estimated."""
        return self.y[self.accepted], self.variance[self.accepted], self.estimated[self.accepted]

    def daily(self, one: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return daily means of the scored hours, the variances of their errors, and whether these are estimated.

        The variance of a day is unknown if that of one of its hours is.
        """
        y, variance, estimated = self.scored
        shift = HOURLY.solar_shift(one["longitude"].values[0])
        day = (one["time"].values + shift).astype("datetime64[D]").astype(np.int64)
        day = (day - day[0])[self.accepted]
        count = np.bincount(day)
        enough = count >= _HOURS
        number = np.maximum(count, 1)
        noise = np.bincount(day, variance) / number**2
        return (np.bincount(day, y) / number)[enough], noise[enough], np.bincount(day, estimated)[enough] > 0


def _site_noise(
    one: xr.Dataset, target: str, limit: QualityLimit, scored: xr.DataArray | None, estimate: bool
) -> _Noise:
    """Return the observations of one target at one site, whose cube is in RAM, and their uncertainty."""
    y, quality = one["fluxes"].sel(target=target).values[0], _series(one, target, f"fluxes{limit.resolution.quality}")
    accepted = np.isfinite(y)
    if quality is not None and limit.value is not None:
        accepted &= limit.accepts(quality, best_flags(one)[0])
    if scored is not None:
        chosen = scored.sel(target=target) if "target" in scored.dims else scored
        accepted &= chosen.transpose("time").values.astype(bool)
    published = _series(one, target, "fluxes_randunc")
    variance = np.full(len(y), np.nan) if published is None else np.square(published.astype(float))
    estimated = np.zeros(len(y), bool)
    if estimate and limit.resolution is HOURLY and not np.isfinite(variance[accepted]).any():
        variance = _estimated(one, target, y, quality)
        estimated = np.isfinite(variance)
    return _Noise(y, variance, estimated, accepted)


def _series(one: xr.Dataset, name: str, array: str) -> np.ndarray | None:
    """Return the values (time,) of a target or predictor of one site; None if there is no such array."""
    dim = "variable" if array.startswith("predictors") else "target"
    if array not in one or name not in one[dim].values:
        return None
    return one[array].sel({dim: name}).values[0]


def _sums(y: np.ndarray, variance: np.ndarray, estimated: np.ndarray) -> _SiteNoise:
    """Return the sums of scored observations (n,) and the variances of their errors, NaN where unknown."""
    known = np.isfinite(variance)
    values = y[known].astype(float)
    mean = float(values.mean()) if len(values) else 0.0
    squares = float(np.square(values - mean).sum())
    count = int(np.count_nonzero(estimated & known))
    return _SiteNoise(len(y), len(values), count, mean, squares, float(variance[known].sum()))


def _estimated(one: xr.Dataset, target: str, y: np.ndarray, flags: np.ndarray | None) -> np.ndarray:
    """Return the variance (time,) of the error of each hour, from pairs of hours a day apart in similar weather.

    NaN throughout if the target is not measured itself, or the tower has too few pairs.
    """
    unknown_variance = np.full(len(y), np.nan)
    weather = {name: _weather(one, name) for name in _ALIKE}
    if target.startswith(_PARTITIONED) or flags is None or any(not np.isfinite(weather[n]).any() for n in _NEEDED):
        return unknown_variance
    first, second = slice(0, -24), slice(24, None)  # hours follow each other without gaps
    measured = np.isfinite(y) & (flags == 0)
    alike = measured[first] & measured[second]
    if not alike.any():
        return unknown_variance
    for name, most in _ALIKE.items():
        # Vapour pressure deficit is filled from a reanalysis at some towers: it then says nothing about the two hours.
        if name in _NEEDED or np.isfinite(weather[name][measured]).mean() > _LEAST_KNOWN:
            alike &= np.abs(weather[name][first] - weather[name][second]) < most
    if np.count_nonzero(alike) < _PAIRS:
        return unknown_variance
    half = 0.5 * np.square((y[first] - y[second])[alike].astype(float))
    light, stratum = _strata(weather["SW_IN"], weather["TA"], measured)
    variance = np.full(len(y), half.mean())
    for labels in (light, stratum):  # the finer strata come last
        count = np.bincount(labels[first][alike], minlength=labels.max() + 1)
        total = np.bincount(labels[first][alike], half, labels.max() + 1)
        enough = count >= _STRATUM_PAIRS
        own = np.divide(total, count, out=np.zeros(len(total)), where=enough)
        variance = np.where(enough[labels], own[labels], variance)
    return variance


def _weather(one: xr.Dataset, name: str) -> np.ndarray:
    """Return a predictor (time,) of one site, NaN where its flag is not accepted or there is none."""
    values, flags = (_series(one, name, array) for array in ("predictors", "predictors_qc"))
    if values is None:
        return np.full(one.sizes["time"], np.nan)
    return values if flags is None else np.where((flags >= 0) & (flags <= _PREDICTOR_QC), values, np.nan)


def _strata(light: np.ndarray, temperature: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of light of each hour, and its stratum of light and temperature; 0 where they are unknown."""
    by_light = np.where(np.isfinite(light), 1 + np.digitize(np.nan_to_num(light), _LIGHT), 0)
    shares = np.arange(1, _TEMPERATURES) / _TEMPERATURES
    known = temperature[measured & np.isfinite(temperature)]
    edges = np.quantile(known, shares) if len(known) else np.zeros(len(shares))
    by_temperature = np.digitize(np.nan_to_num(temperature), edges)
    both = by_light * _TEMPERATURES + by_temperature
    return by_light, np.where(np.isfinite(temperature) & (by_light > 0), both, 0)


def _pooled(target: str, resolution: str, parts: Iterable[_SiteNoise]) -> dict[str, object]:
    """Return the ceiling of sites together."""
    parts = [part for part in parts if part.rows]
    rows, n, estimated = (sum(getattr(part, name) for part in parts) for name in ("rows", "n", "estimated"))
    mean = sum(part.n * part.mean for part in parts) / n if n else 0.0
    squares = sum(part.squares + part.n * (part.mean - mean) ** 2 for part in parts)
    noise = sum(part.noise for part in parts)
    return {
        "n_sites": len(parts),
        "n_rows": rows,
        "n": n,
        "n_estimated": estimated,
        "noise_rmse": float(np.sqrt(noise / n)) if n else float("nan"),
        "nse_ceiling": efficiency(noise, squares) if n else float("nan"),
        "reason": _reason(target, resolution, rows, n),
    }


def _reason(target: str, resolution: str, rows: int, n: int) -> str:
    """Return why there is no ceiling, or what it leaves out; "" if it is of all scored time steps."""
    if not rows:
        return "no scored time step"
    if n:
        return "" if n == rows else f"{rows - n} of {rows} scored time steps have no uncertainty and are left out"
    if target.startswith(_PARTITIONED):
        return f"{target} is modelled from NEE: its files have no random uncertainty"
    pairs = ", and there are too few pairs of hours to estimate one" if resolution == HOURLY.name else ""
    return f"the files of these towers have no random uncertainty of {target}{pairs}"
