"""What a model does without: predictors hidden from towers, to see how skill falls as sensors fail."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.variables import COMPUTED

_UNITS = ("token", "variable")
#: Hours of an outage: a week.
_OUTAGE = 168


def hide_predictors(
    cube: xr.Dataset, share: float, *, names: Sequence[str] | None = None, unit: str = "variable", seed: int = 0
) -> xr.Dataset:
    """Make a share of the predictors' values missing; clocks and computed radiation, which never fail, stay.

    Parameters
    ----------
    cube : xr.Dataset
        A tower cube; lazy stays lazy.
    share : float
        Of the values, 0 to 1. With a larger one, what a smaller one hid stays hidden.
    names : sequence of str, optional
        Predictors that can fail; by default all that are not computed.
    unit : {"variable", "token"}
        Hide a variable for a week at a time, as an outage does, or single hours of it.
    seed : int
        Of the draw; a site's does not depend on which others are there.

    Returns
    -------
    xr.Dataset
        The cube, its predictors NaN and their flags -1 where hidden.

    Raises
    ------
    ConfigError
        If `share` or `unit` cannot be.
    UnknownNameError
        If the cube has no such predictor.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube()
    >>> hidden = hide_predictors(cube, 0.5, names=["TA"], unit="token")
    >>> float(hidden.predictors.sel(variable="TA").isnull().mean().round(1))
    0.5
    """
    if not 0 <= share <= 1 or unit not in _UNITS:
        raise ConfigError(f"share must be 0 to 1 and unit variable or token, found {share} and {unit!r}.")
    held = list(map(str, cube["variable"].values))
    names = [n for n in held if n not in COMPUTED] if names is None else list(names)
    for name in names:
        if name not in held:
            raise unknown("predictor of the cube", name, held)
    if not share:
        return cube
    rows = [_hidden(str(site), len(names), cube.sizes["time"], share, unit, seed) for site in cube["site"].values]
    drawn = xr.DataArray(np.array(rows), dims=("site", "variable", "time"), coords={"variable": names})
    hidden = drawn.reindex(variable=held, fill_value=False).drop_vars("variable").transpose("site", "time", "variable")
    values, flags = cube["predictors"], cube["predictors_qc"]
    return cube.assign(
        predictors=values.where(~hidden).assign_attrs(values.attrs),
        predictors_qc=flags.where(~hidden, np.int8(-1)).assign_attrs(flags.attrs),
    )


def _hidden(site: str, variables: int, hours: int, share: float, unit: str, seed: int) -> np.ndarray:
    """Which values of one site are hidden, (variable, time)."""
    rng = np.random.default_rng([seed, zlib.crc32(site.encode())])
    span = _OUTAGE if unit == "variable" else 1
    drawn = rng.random((variables, -(-hours // span)), np.float32) < share
    return np.repeat(drawn, span, axis=1)[:, :hours]
