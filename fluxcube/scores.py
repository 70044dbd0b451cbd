"""Scores of predictions against observations.

Every score takes the observations first. A pair counts where both values are finite.
"""

from __future__ import annotations

import numpy as np

from fluxcube.moments import Axis, moments, scores_of


def nse(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> np.ndarray:
    """Return the Nash-Sutcliffe efficiency, 1 - SSE / SST: 1 is perfect, 0 is the observations' own mean.

    Parameters
    ----------
    obs, pred : array
        Of one shape and unit; pairs with a NaN are left out.
    axis : int or tuple of int, optional
        Axes to reduce; all by default.

    Returns
    -------
    ndarray
        No unit; NaN where the observations do not vary.

    References
    ----------
    Nash and Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6

    Examples
    --------
    >>> float(nse([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]))
    0.5
    """
    return scores_of(moments(obs, pred, axis))["nse"]


def rmse(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> np.ndarray:
    """Return the root mean squared error, in the unit of the inputs (parameters as `nse`).

    Examples
    --------
    >>> float(rmse([0.0, 0.0], [3.0, -3.0]))
    3.0
    """
    return scores_of(moments(obs, pred, axis))["rmse"]


def mae(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> np.ndarray:
    """Return the mean absolute error, in the unit of the inputs (parameters as `nse`).

    Examples
    --------
    >>> float(mae([0.0, 0.0], [3.0, -4.0]))
    3.5
    """
    return scores_of(moments(obs, pred, axis))["mae"]


def bias(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> np.ndarray:
    """Return the mean of prediction minus observation, in the unit of the inputs (parameters as `nse`).

    Examples
    --------
    >>> float(bias([1.0, 2.0], [2.0, 3.0]))
    1.0
    """
    return scores_of(moments(obs, pred, axis))["bias"]


def corr2(obs: np.ndarray, pred: np.ndarray, axis: Axis = None) -> np.ndarray:
    """Return the squared Pearson correlation (parameters as `nse`); blind to bias and amplitude, hence never called R2.

    Examples
    --------
    >>> float(corr2([1.0, 2.0, 3.0], [30.0, 20.0, 10.0]))
    1.0
    """
    return scores_of(moments(obs, pred, axis))["corr2"]
