"""Scale values by the physical bounds of their variables: equally for every site, dataset and model, and invertibly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.variables import variable

#: Bounds (low, high) of hourly predictors by name. v1: normalization_config.yml of the paper's code
#: (github.com/mjfortier/CarbonSense, 2024). v2: DEFAULT_NORM of stage_4.py of the same repository (2025). They differ:
#: PA_F of v1 is scaled by 20 to 150 kPa, PA of V2 by 0 to 110 kPa. ours: no half of a range is empty, so that a
#: variable that is never negative begins at 0 (see `docs/training.md`). A variable that a preset lacks has the bounds
#: of the variable table.
PRESETS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "v1": {
        "DOY": (0, 366),
        "TOD": (0, 24),
        "TA": (-80, 80),
        "SW_IN": (0, 2000),
        "LW_IN": (0, 2000),
        "VPD": (0, 110),
        "PA": (20, 150),
        "P": (0, 300),
        "WS": (0, 100),
        "WD": (0, 360),
        "RH": (0, 100),
        "USTAR": (0, 10),
        "NETRAD": (-1000, 2000),
        "PPFD_IN": (-200, 3000),
        "PPFD_OUT": (-200, 3000),
        "SW_OUT": (-100, 2000),
        "LW_OUT": (-100, 2000),
        "CO2": (0, 2000),
        "G": (-1000, 2000),
        "LE": (-1000, 2000),
        "H": (-1000, 2000),
    },
    "v2": {
        "DOY": (0, 366),
        "TOD": (0, 24),
        "TA": (-80, 80),
        "SW_IN": (-1500, 1500),
        "LW_IN": (-1000, 1000),
        "VPD": (0, 110),
        "PA": (0, 110),
        "P": (0, 100),
        "WS": (-100, 100),
        "WD": (0, 360),
        "RH": (0, 100),
        "USTAR": (-4, 4),
        "NETRAD": (-1000, 1000),
        "PPFD_IN": (-2500, 2500),
        "PPFD_OUT": (-1000, 1000),
        "SW_OUT": (-500, 500),
        "LW_OUT": (-1000, 1000),
        "CO2": (0, 750),
        "G": (-700, 700),
        "LE": (-700, 700),
        "H": (-700, 700),
        **{f"TS_{layer}": (-40, 40) for layer in range(1, 6)},
    },
    "ours": {
        "SW_IN": (0, 1500),
        "SW_IN_POT": (0, 1500),
        "LW_IN": (0, 800),
        "PA": (30, 110),
        "WS": (0, 50),
        "USTAR": (0, 4),
        "NETRAD": (-300, 1100),
        "PPFD_IN": (0, 2700),
        "PPFD_OUT": (0, 1000),
        "SW_OUT": (0, 1000),
        "LW_OUT": (0, 1000),
        "CO2": (200, 750),
        "G": (-400, 700),
        "LE": (-300, 1100),
        "H": (-300, 1100),
    },
}

#: Bounds of the variable table, the default.
TABLE = "table"
#: Narrower bounds, the default of `fluxcube.samples.towers.cube_spec` and of EcoPerceiver.
OURS = "ours"
#: A value that exceeds the bounds of "ours" by at most this share of their width is set to the bound: an offset of a
#: sensor at night, or a humidity of 103 %. Values further outside are missing.
_MARGIN = 0.05


def check_bounds(bounds: str, resolution: str) -> None:
    """Refuse bounds that do not exist at a resolution.

    Raises
    ------
    UnknownNameError
        If there is no such preset.
    ConfigError
        If it is a preset and the data are daily.
    """
    if bounds not in (TABLE, *PRESETS):
        raise unknown("preset of bounds", bounds, (TABLE, *PRESETS))
    if bounds != TABLE and resolution != "hourly":
        raise ConfigError(f"bounds={bounds!r} are of hourly predictors, found {resolution} ones: use bounds={TABLE!r}.")


def bounds_of(name: str, *, resolution: str = "hourly", bounds: str = TABLE) -> tuple[float, float]:
    """Return the bounds (low, high) of a variable in its units.

    Parameters
    ----------
    name : str
        Name in the variable table (UnknownNameError otherwise).
    resolution : {"hourly", "daily"}
        Resolution of the variable table.
    bounds : {"table", "v1", "v2", "ours"}
        Preset: the variable table's, those of a published CarbonSense, or narrower ones.

    Examples
    --------
    >>> bounds_of("SW_IN"), bounds_of("SW_IN", bounds="v1"), bounds_of("SW_IN", bounds="ours")
    ((-1500, 1500), (0, 2000), (0, 1500))
    """
    row = variable(name, resolution)
    return PRESETS.get(bounds, {}).get(name, row.bounds)


def within_bounds(values: np.ndarray, name: str, *, resolution: str = "hourly", bounds: str = TABLE) -> np.ndarray:
    """Return the values of one variable (...,), NaN where they are outside its bounds, with the dtype of `values`.

    With the bounds "ours", a value that exceeds a bound by at most 5 % of their width is set to the bound.

    Examples
    --------
    >>> within_bounds(np.array([-3.0, 5.0, -900.0]), "SW_IN", bounds="ours")
    array([ 0.,  5., nan])
    """
    values = np.asarray(values)
    dtype = values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(float)
    (lowest,), (highest,), (low,), (high,) = limits([name], dtype, resolution=resolution, bounds=bounds)
    kept = (values >= lowest) & (values <= highest)
    return np.where(kept, np.clip(values, low, high), np.nan).astype(values.dtype, copy=False)


class Limits(NamedTuple):
    """Limits of the values of n variables, as `within_bounds` applies them.

    Attributes
    ----------
    lowest, highest : (n,) float
        Limits beyond which a value is missing.
    low, high : (n,) float
        Limits to which the remaining values are set; infinite if there is no margin.
    """

    lowest: np.ndarray
    highest: np.ndarray
    low: np.ndarray
    high: np.ndarray


def limits(
    names: Sequence[str], dtype: np.dtype | type = np.float64, *, resolution: str = "hourly", bounds: str = TABLE
) -> Limits:
    """Return the limits of the values of variables.

    Parameters
    ----------
    names : sequence of str
        Variables.
    dtype : dtype
        Type of the limits.
    resolution : {"hourly", "daily"}
        Resolution of the variable table.
    bounds : {"table", "v1", "v2", "ours"}
        Preset of the bounds (`bounds_of`).

    Examples
    --------
    >>> limits(["SW_IN"], bounds="ours").lowest, limits(["SW_IN"], bounds="ours").low
    (array([-75.]), array([0.]))
    """
    rows = []
    for name in names:
        low, high = bounds_of(name, resolution=resolution, bounds=bounds)
        margin = _MARGIN * (high - low) * (bounds == OURS and not variable(name, resolution).cyclic)
        rows.append((low - margin, high + margin, low if margin else -np.inf, high if margin else np.inf))
    return Limits(*np.array(rows, dtype).reshape(-1, 4).T)


def normalise(
    values: np.ndarray, names: Sequence[str], *, mask: bool = True, resolution: str = "hourly", bounds: str = TABLE
) -> np.ndarray:
    """Scale values by their variables' bounds: cyclic variables to [-1, 1), others to [-0.5, 0.5).

    Cyclic variables span twice the range, because sin and cos of 2^k pi x have the same value at -1 and +1 for every
    integer k >= 0.

    Parameters
    ----------
    values : (..., n) float
        In the units of the variable table.
    names : sequence of str
        Names of the n variables on the last axis.
    mask : bool
        Replace values outside their bounds by NaN, as is done for predictors; targets (``mask=False``) are only scaled.
    resolution : {"hourly", "daily"}
        Resolution of the variable table.
    bounds : {"table", "v1", "v2", "ours"}
        Preset of the bounds (`bounds_of`).

    Returns
    -------
    (..., n) float
        Scaled values, with the dtype of `values`.

    Raises
    ------
    UnknownNameError
        If a name is not in the variable table.

    References
    ----------
    CarbonSense, arXiv:2406.04940, §3.2.

    Examples
    --------
    >>> normalise(np.array([[6.0, 20.0], [18.0, 99.0]]), ["TOD", "TA"])
    array([[-0.5  ,  0.125],
           [ 0.5  ,    nan]])
    """
    middle, width = scales(names, np.asarray(values).dtype, resolution, bounds)
    scaled = (values - middle) / width
    if not mask:
        return scaled
    return np.where(inside(values, names, resolution=resolution, bounds=bounds), scaled, np.nan).astype(scaled.dtype)


def denormalise(
    values: np.ndarray, names: Sequence[str], *, resolution: str = "hourly", bounds: str = TABLE
) -> np.ndarray:
    """Invert `normalise`: return physical values (..., n) from scaled values.

    Examples
    --------
    >>> denormalise(np.array([0.125]), ["TA"])
    array([20.])
    """
    middle, width = scales(names, np.asarray(values).dtype, resolution, bounds)
    return values * width + middle


def inside(values: np.ndarray, names: Sequence[str], *, resolution: str = "hourly", bounds: str = TABLE) -> np.ndarray:
    """Return which values (..., n) lie within their variables' bounds, upper bound included; False for NaN."""
    limits = [bounds_of(name, resolution=resolution, bounds=bounds) for name in names]
    low, high = (np.array(ends) for ends in zip(*limits, strict=True))
    return (values >= low) & (values <= high)


def scales(names: Sequence[str], dtype: np.dtype | type, resolution: str, bounds: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of each variable's bounds, and the width that distances from it are divided by (n,)."""
    limits = [bounds_of(name, resolution=resolution, bounds=bounds) for name in names]
    middle = [(low + high) / 2 for low, high in limits]
    turns = [2 if variable(name, resolution).cyclic else 1 for name in names]
    width = [(high - low) / turn for (low, high), turn in zip(limits, turns, strict=True)]
    kind = dtype if np.issubdtype(dtype, np.floating) else np.float64
    return np.array(middle, kind), np.array(width, kind)
