"""The simulated land's memory: exponential trailing means of its past, and the water in its soil."""

from __future__ import annotations

import numpy as np

from fluxcube.simulation.fields import matrix_product

_BLOCK = 64


def trailing_mean(values: np.ndarray, efolding: float) -> np.ndarray:
    """Return the exponentially weighted mean of the past along the last axis.

    Parameters
    ----------
    values : (..., time) float
        Means over steps.
    efolding : float
        Number of steps after which a value's weight has fallen to 1/e.

    Returns
    -------
    (..., time) float
        ``y[t] = a y[t-1] + (1 - a) x[t]`` with ``a = exp(-1 / efolding)``, starting from the first value.

    Examples
    --------
    >>> trailing_mean(np.array([0.0] * 24 + [1.0]), 10.0)[-1].round(3)
    np.float64(0.095)
    """
    keep = np.exp(-1.0 / efolding)
    *lead, steps = values.shape
    blocks = -(-steps // _BLOCK)
    padded = np.zeros((*lead, blocks * _BLOCK))
    padded[..., :steps] = values
    lag = np.subtract.outer(np.arange(_BLOCK), np.arange(_BLOCK))
    within = np.where(lag >= 0, (1 - keep) * keep ** np.maximum(lag, 0), 0.0)
    # First each block as if nothing came before it, then the decaying contribution of earlier blocks.
    out = matrix_product(padded.reshape(-1, _BLOCK), within).reshape(*lead, blocks, _BLOCK)
    fade, before = keep ** np.arange(1, _BLOCK + 1), values[..., 0]
    for block in range(blocks):
        out[..., block, :] += before[..., None] * fade
        before = out[..., block, -1]
    return out.reshape(*lead, -1)[..., :steps]


def soil_water(
    rain: np.ndarray, demand: np.ndarray, *, step_hours: float, capacity: float = 36.0
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a bucket: rain fills it, evaporation empties it in proportion to its level, and it drains when full.

    Parameters
    ----------
    rain, demand : (place, time) float
        mm in each step: rain, and evaporation from a full bucket.
    step_hours : float
        Length of a step, hours: a full bucket drains at 0.06 mm h-1.
    capacity : float
        mm; the excess runs off.

    Returns
    -------
    store : (place, time) float
        Share of the capacity, 0 to 1, at the start of each step.
    evaporation : (place, time) float
        mm in each step.

    References
    ----------
    Manabe 1969, doi:10.1175/1520-0493(1969)097<0739:CATOC>2.3.CO;2.
    """
    rain, demand = (np.ascontiguousarray(x.T) for x in (rain, demand))
    store = np.empty_like(rain)
    level, lost = np.full(rain.shape[1], 0.5 * capacity), np.empty(rain.shape[1])
    for step in range(len(rain)):  # in place for speed: this runs for every half-hour of a year
        store[step] = level
        np.multiply(level, 1 / capacity, out=lost)
        level += rain[step]
        level -= demand[step] * lost
        lost *= lost
        lost *= lost
        lost *= 0.06 * step_hours
        level -= lost
        np.minimum(level, capacity, out=level)
        np.maximum(level, 0.02 * capacity, out=level)
    store /= capacity
    return store.T, (store * demand).T
