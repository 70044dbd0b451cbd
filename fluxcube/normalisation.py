"""Scale values by the physical bounds of their variables: equally for every site, dataset and model, and invertibly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluxcube.variables import variable


def normalise(values: np.ndarray, names: Sequence[str], *, mask: bool = True, resolution: str = "hourly") -> np.ndarray:
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
    middle, width = _scales(names, np.asarray(values).dtype, resolution)
    scaled = (values - middle) / width
    return (
        np.where(inside(values, names, resolution=resolution), scaled, np.nan).astype(scaled.dtype) if mask else scaled
    )


def denormalise(values: np.ndarray, names: Sequence[str], *, resolution: str = "hourly") -> np.ndarray:
    """Invert `normalise`: return physical values (..., n) from scaled values.

    Examples
    --------
    >>> denormalise(np.array([0.125]), ["TA"])
    array([20.])
    """
    middle, width = _scales(names, np.asarray(values).dtype, resolution)
    return values * width + middle


def inside(values: np.ndarray, names: Sequence[str], *, resolution: str = "hourly") -> np.ndarray:
    """Return which values (..., n) lie within their variables' bounds, upper bound included; False for NaN."""
    low, high = (np.array(ends) for ends in zip(*(variable(name, resolution).bounds for name in names), strict=True))
    return (values >= low) & (values <= high)


def _scales(names: Sequence[str], dtype: np.dtype, resolution: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of each variable's bounds, and the width that distances from it are divided by (n,)."""
    rows = [variable(name, resolution) for name in names]
    middle = [(row.bounds[0] + row.bounds[1]) / 2 for row in rows]
    width = [(row.bounds[1] - row.bounds[0]) / (2 if row.cyclic else 1) for row in rows]
    kind = dtype if np.issubdtype(dtype, np.floating) else np.float64
    return np.array(middle, kind), np.array(width, kind)
