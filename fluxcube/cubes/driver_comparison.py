"""Compare drivers from another source with the weather that the towers measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import unknown
from fluxcube.resolution import resolution_of
from fluxcube.schema import DRIVERS, driver_sources
from fluxcube.variables import table

#: Name of the drivers that `fluxcube.add_drivers` and a build add by default.
ERA5 = "era5"
#: Variables that are compared with the tower's, the minimum of the tower's mean, and the largest ratio of the means.
#: At 28 towers of FLUXNET2015 and 8 of Warm Winter 2020 with its reanalysis, the ratios of single towers are 0.96 to
#: 1.05 (SW_IN), 0.77 to 1.19 (VPD) and 0.87 to 1.04 (WS); other units (kPa, m, J) differ by a factor of 10 or more.
_COMPARED = {"SW_IN": 10.0, "LW_IN": 10.0, "VPD": 0.5, "PA": 10.0, "P": 0.02, "WS": 0.2}
_RATIO = 5.0
#: Maximum difference of the mean temperature: other towers differ by more, kelvins by 273.
_DEGREES = 15.0


def compare_drivers(cube: Cube, name: str = ERA5) -> pd.DataFrame:
    """Compare a source of drivers with the weather that the towers measured, in the time steps that both have.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A tower cube with the array ``predictors_NAME``.
    name : str
        Name of the source.

    Returns
    -------
    pandas.DataFrame
        One row for each site and variable that both have: ``site``, ``variable``, ``units``, ``n`` (time steps),
        ``mean_tower``, ``mean``, ``bias`` (mean less mean_tower), ``rmse`` and ``r`` (correlation).

    Raises
    ------
    UnknownNameError
        If the cube has no such drivers.

    Examples
    --------
    >>> import xarray as xr
    >>> from fluxcube.cubes.drivers import add_drivers
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=2, days=2)
    >>> cube = add_drivers(cube, xr.Dataset({"TA": cube.predictors.sel(variable="TA", drop=True) + 1}), name="warmer")
    >>> compare_drivers(cube, "warmer")[["site", "variable", "units", "n", "bias"]].round(2)
         site variable units   n  bias
    0  XX-S00       TA  degC  48   1.0
    1  XX-S01       TA  degC  48   1.0
    """
    cube = as_cube(cube)
    if name not in driver_sources(cube):
        raise unknown("source of drivers of this cube (fluxcube.add_drivers adds one)", name, driver_sources(cube))
    labels = [str(label) for label in cube["variable"].values]
    chosen = [v for v in str(cube[DRIVERS + name].attrs.get("variables", "")).split() if v in labels]
    both = cube[["predictors", DRIVERS + name]].sel(variable=chosen)
    frames = []
    for i, site in enumerate(cube["site"].values):
        one = both.isel(site=i).compute()
        values = (one["predictors"].values, one[DRIVERS + name].values)
        frames.append(compare_values(str(site), chosen, *values, resolution_of(cube).name))
    return pd.concat(frames, ignore_index=True)


def compare_values(
    site: str, labels: Sequence[str], tower: np.ndarray, other: np.ndarray, resolution: str
) -> pd.DataFrame:
    """Return the rows of `compare_drivers` of one tower.

    Parameters
    ----------
    site : str
    labels : sequence of str
        Variables.
    tower, other : (time, variable) float
        Weather of the tower, and of the other source.
    resolution : {"hourly", "daily"}
    """
    rows, known = [], table(resolution)
    for i, variable in enumerate(labels):
        here, there = tower[:, i].astype(float), other[:, i].astype(float)
        both = np.isfinite(here) & np.isfinite(there)
        if both.any() and variable in known:
            row = {"site": site, "variable": variable, "units": known[variable].units}
            rows.append(row | _compared(here[both], there[both]))
    columns = ["site", "variable", "units", "n", "mean_tower", "mean", "bias", "rmse", "r"]
    return pd.DataFrame(rows, columns=columns)


def _compared(tower: np.ndarray, other: np.ndarray) -> dict[str, float]:
    difference = other - tower
    varies = len(tower) > 2 and tower.std() > 0 and other.std() > 0
    return {
        "n": len(tower),
        "mean_tower": float(tower.mean()),
        "mean": float(other.mean()),
        "bias": float(difference.mean()),
        "rmse": float(np.sqrt((difference**2).mean())),
        "r": float(np.corrcoef(tower, other)[0, 1]) if varies else float("nan"),
    }


def doubts(table: pd.DataFrame) -> list[str]:
    """Return sentences on drivers whose means differ from the towers' as if they had other units.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_drivers` returns it. Means over all of its towers are compared.
    """
    sentences = []
    means = table.groupby("variable")[["mean_tower", "mean"]].mean()
    for variable, least in _COMPARED.items():
        if variable in means.index and means.mean_tower[variable] >= least:
            ratio = means["mean"][variable] / means.mean_tower[variable]
            if not 1 / _RATIO < ratio < _RATIO:
                sentences.append(f"the mean of {variable} is {ratio:.3g} times the towers': check its units")
    if "TA" in means.index and abs(means["mean"]["TA"] - means.mean_tower["TA"]) > _DEGREES:
        sentences.append(f"the mean of TA is {means['mean']['TA']:.1f} degC, the towers' {means.mean_tower['TA']:.1f}")
    return sentences
