"""Energy balance closure of towers: how much of the available energy the measured turbulent heat fluxes account for."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError
from fluxcube.resolution import DEFAULT, Default, QualityLimit, quality_limit, resolution_of
from fluxcube.samples.quality import best_flags
from fluxcube.samples.towers import site_years, sites_with_hours
from fluxcube.schema import STACKS, check_units

_TERMS = ("LE", "H", "NETRAD", "G")
#: Coordinates of the cube that the result keeps.
_PLACE = ("latitude", "longitude", "elevation", "igbp", "koppen")
_RESULTS = {
    "steps": ("number of time steps with all terms", "1"),
    "ratio": ("energy balance ratio: sum of LE + H over sum of the available energy", "1"),
    "slope": ("slope of the regression of LE + H on the available energy", "1"),
    "intercept": ("intercept of that regression", "W m-2"),
    "r2": ("squared correlation of LE + H and the available energy", "1"),
    "residual": ("mean of the available energy minus LE + H", "W m-2"),
}


def energy_balance(
    cube: Cube,
    *,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    soil_heat: bool = True,
    min_steps: int | None = None,
) -> xr.Dataset:
    """Return the energy balance closure of each site: LE + H against the available energy NETRAD - G.

    Only time steps count in which every term is measured. LE and H are the targets of the cube where it has them, since
    these have no limits, and predictors elsewhere.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A tower cube, hourly or daily, lazy or in RAM; one site at a time is read.
    max_qc : int, optional
        Maximum flag of hourly terms, by default 0 (measured); None accepts every value.
    min_quality : float, optional
        Minimum quality of daily terms, by default 0.5; None accepts every value.
    soil_heat : bool
        Whether G is part of the available energy. Without it, sites that do not measure G have a result, too, which is
        lower by the share of the energy that the soil takes up.
    min_steps : int, optional
        Minimum number of time steps of a site, by default 240 hours or 30 days.

    Returns
    -------
    xr.Dataset
        Loaded arrays on site: ``steps``; ``ratio``, the sum of LE + H over that of the available energy; ``slope``,
        ``intercept`` (W m-2) and ``r2`` of the least-squares regression of LE + H on the available energy; and
        ``residual``, the mean of available energy minus LE + H (W m-2). NaN for sites with fewer than `min_steps` time
        steps; the coordinate ``lacking`` names the terms of which a site has no value of the accepted quality.

    Raises
    ------
    ConfigError
        If the cube lacks a term, or no site has enough time steps with all terms.

    Notes
    -----
    Heat stored in the canopy and the air below the sensors is not measured, so that the ratio over whole days is closer
    to 1 than that over hours. FLUXNET sites close by 0.8 to 0.85 on average.

    References
    ----------
    Wilson et al. 2002, doi:10.1016/S0168-1923(02)00109-0; Stoy et al. 2013, doi:10.1016/j.agrformet.2012.11.004.

    Examples
    --------
    >>> import fluxcube as fc
    >>> energy_balance(fc.open_carbonsense("carbonsense.zarr")).to_dataframe()  # doctest: +SKIP
    """
    cube = as_cube(cube)
    check_units(cube)
    resolution = resolution_of(cube)
    limit = quality_limit(
        resolution, max_qc, min_quality, default=0 if resolution.lower_is_better else resolution.training_limit
    )
    least = (240 if resolution.steps_per_day > 1 else 30) if min_steps is None else min_steps
    if isinstance(least, bool) or not isinstance(least, int) or least < 2:
        raise ConfigError(f"min_steps={min_steps!r}: expected a whole number of at least 2.")
    terms = _TERMS if soil_heat else _TERMS[:3]
    _check_terms(cube, terms)
    sites = sites_with_hours(cube)
    rows, lacking = [], []
    for site in sites:
        values = site_terms(site_years(cube, site), terms, limit)
        lacking.append(", ".join(name for name, one in zip(terms, values, strict=True) if not np.isfinite(one).any()))
        rows.append(closure(values, least))
    if not any(np.isfinite(row["ratio"]) for row in rows):
        raise ConfigError(
            f"no site has {least} {resolution.steps} in which {', '.join(terms)} have the quality {limit}: "
            f"{_advice(sites, lacking)}"
        )
    arrays = {name: ("site", np.array([row[name] for row in rows]), _attrs(name)) for name in _RESULTS}
    places = cube[[n for n in _PLACE if n in cube.coords]].reset_coords().sel(site=sites).compute()
    coords = {name: array.variable for name, array in places.data_vars.items()}
    coords["lacking"] = xr.Variable(
        "site", np.array(lacking, object), {"long_name": "terms without a value of the accepted quality"}
    )
    out = xr.Dataset(arrays, {"site": np.array(sites, object), **coords})
    energy = "NETRAD - G" if soil_heat else "NETRAD"
    return out.assign_attrs(
        title="energy balance closure", available_energy=energy, quality=str(limit), resolution=resolution.name
    )


def _check_terms(cube: xr.Dataset, terms: tuple[str, ...]) -> None:
    """Refuse a cube that lacks a term (ConfigError)."""
    names = {str(name) for dim in STACKS.values() for name in cube[dim].values}
    if missing := [name for name in terms if name not in names]:
        without = ", or pass soil_heat=False" if missing == ["G"] else ""
        raise ConfigError(
            f"energy_balance: expected LE, H, NETRAD and G in the cube, found no {', '.join(missing)}: build or open "
            f"the cube with these variables{without}."
        )


def _advice(sites: list[str], lacking: list[str]) -> str:
    if not any(lacking):
        return "accept other qualities, or pass a smaller min_steps."
    some = [f"{site} lacks {terms}" for site, terms in zip(sites, lacking, strict=True) if terms]
    return f"{'; '.join(some[:3])}{'; ...' if len(some) > 3 else ''}. The files of these sites must contain them."


def site_terms(one: xr.Dataset, terms: tuple[str, ...], limit: QualityLimit) -> np.ndarray:
    """Return the terms (term, time) of a cube of one site, NaN where their quality is not accepted.

    Parameters
    ----------
    one : xr.Dataset
        As `fluxcube.samples.towers.site_years` returns it.
    terms : tuple of str
        Names.
    limit : QualityLimit
        Accepted quality.
    """
    out = np.full((len(terms), one.sizes["time"]), np.nan)
    for at, name in enumerate(terms):
        for stack in ("fluxes", "predictors"):
            if name not in one[STACKS[stack]].values:
                continue
            chosen = one[[stack, stack + limit.resolution.quality]].sel({STACKS[stack]: name}).isel(site=0)
            quality = chosen[stack + limit.resolution.quality].values
            accepted = limit.accepts(quality, int(best_flags(one)[0])) if limit.value is not None else True
            values = np.where(accepted, chosen[stack].values.astype(float), np.nan)
            if np.isfinite(values).any():
                out[at] = values
                break
    return out


def closure(values: np.ndarray, min_steps: int) -> dict[str, float]:
    """Return the measures of the energy balance of one site.

    Parameters
    ----------
    values : (term, time) float
        LE, H and NETRAD, with or without G, in W m-2; NaN is missing.
    min_steps : int
        Minimum number of time steps with all terms.

    Returns
    -------
    dict of str to float
        steps, ratio, slope, intercept, r2, residual; NaN with fewer time steps, or where the energy does not vary.

    Examples
    --------
    >>> closure(np.array([[40.0, 80.0], [30.0, 70.0], [90.0, 180.0], [0.0, 10.0]]), 2)["ratio"].round(3)
    np.float64(0.846)
    """
    steps = values[:, np.isfinite(values).all(0)]
    flux, energy = steps[0] + steps[1], steps[2] - (steps[3] if len(steps) > 3 else 0.0)
    out = dict.fromkeys(_RESULTS, np.nan) | {"steps": float(len(flux))}
    if len(flux) < min_steps:
        return out
    x, y = energy - energy.mean(), flux - flux.mean()
    sxx, syy, sxy = (x * x).sum(), (y * y).sum(), (x * y).sum()
    out |= {"residual": float((energy - flux).mean())}
    if energy.sum() > 0:
        out["ratio"] = flux.sum() / energy.sum()
    if sxx > 0 and syy > 0:
        slope = sxy / sxx
        out |= {"slope": slope, "intercept": flux.mean() - slope * energy.mean(), "r2": sxy**2 / (sxx * syy)}
    return out


def _attrs(name: str) -> dict[str, str]:
    long_name, units = _RESULTS[name]
    return {"long_name": long_name, "units": units}
