"""Hidden predictors: remove input values at towers, to measure how the skill of a model depends on missing data."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.stores.origin import derived
from fluxcube.variables import COMPUTED

_UNITS = ("token", "variable")
#: Length of an outage, in time steps: a week of hours.
_OUTAGE = 168


def hide_predictors(
    cube: xr.Dataset, share: float, *, names: Sequence[str] | None = None, unit: str = "variable", seed: int = 0
) -> xr.Dataset:
    """Make a share of the values of predictors missing, but not of clocks and computed radiation, which cannot fail.

    Parameters
    ----------
    cube : xr.Dataset
        A tower cube. If it is lazy, so is the result.
    share : float
        Share of the values, 0 to 1. A larger share hides all values that a smaller one hides, and more.
    names : sequence of str, optional
        Predictors to hide; by default all that are not computed.
    unit : {"variable", "token"}
        Hide a variable for whole weeks, as an outage of a sensor does, or for single time steps.
    seed : int
        Seed of the random generator. The values that are hidden at a site do not depend on the other sites.

    Returns
    -------
    xr.Dataset
        The cube; hidden predictors are NaN, with flag -1.

    Raises
    ------
    ConfigError
        If `share` or `unit` is none of these values.
    UnknownNameError
        If the cube lacks a predictor of `names`.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube()
    >>> hidden = hide_predictors(cube, 0.5, names=["TA"], unit="token")
    >>> float(hidden.predictors.sel(variable="TA").isnull().mean().round(1))
    0.5
    """
    if not 0 <= share <= 1 or unit not in _UNITS:
        raise ConfigError(f"expected share=0 to 1 and unit=variable or token, found {share} and {unit!r}.")
    present = list(map(str, cube["variable"].values))
    names = [n for n in present if n not in COMPUTED] if names is None else list(names)
    for name in names:
        if name not in present:
            raise unknown("predictor of the cube", name, present)
    if not share:
        return cube
    rows = [_hidden(str(site), len(names), cube.sizes["time"], share, unit, seed) for site in cube["site"].values]
    drawn = xr.DataArray(np.array(rows), dims=("site", "variable", "time"), coords={"variable": names})
    hidden = (
        drawn.reindex(variable=present, fill_value=False).drop_vars("variable").transpose("site", "time", "variable")
    )
    values, flags = cube["predictors"], cube["predictors_qc"]
    return derived(cube).assign(
        predictors=values.where(~hidden).assign_attrs(values.attrs),
        predictors_qc=flags.where(~hidden, np.int8(-1)).assign_attrs(flags.attrs),
    )


def _hidden(site: str, variables: int, steps: int, share: float, unit: str, seed: int) -> np.ndarray:
    """Return a mask of the hidden values of one site, (variable, time)."""
    rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
    span = _OUTAGE if unit == "variable" else 1
    drawn = rng.random((variables, -(-steps // span)), np.float32) < share
    return np.repeat(drawn, span, axis=1)[:, :steps]
