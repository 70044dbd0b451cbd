"""Density of predictions against observations: two-dimensional histograms and regression lines."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.common_rows import CommonRows, Observed, Predictions, TargetRows, rows_in_common
from fluxcube.evaluation.sums import QualityOptions
from fluxcube.moments import moments, scores_of

#: Share of the values at each end that may lie outside the axes.
_TAIL = 0.1  # %


def density(
    obs: Observed,
    predictions: Predictions = None,
    *,
    bins: int = 100,
    limits: QualityOptions | None = None,
) -> xr.Dataset:
    """Count the common rows in bins of the observed and the predicted value.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions.
    bins : int
        Number of bins on each axis. Both axes have the same bins, from the 0.1th percentile of the observations and
        predictions to the 99.9th.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    xr.Dataset
        ``count`` (target, model, obs_bin, pred_bin); ``edges`` (target, edge), the bins in the units of the target;
        ``outside`` (target, model), the number of rows outside the axes; ``slope`` and ``intercept`` of the
        least-squares regression of the predictions on the observations; ``n`` and the scores ``nse``, ``rmse``,
        ``bias`` and ``corr2`` (target, model). The coordinate ``units`` is on target.

    Raises
    ------
    ConfigError
        If there are fewer than 2 bins.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=10, gaps=0)
    >>> found = density(cube, {"same": cube.fluxes.sel(target=["NEE"])}, bins=20)
    >>> int(found["count"].sum() + found.outside.sum()), float(found.slope.squeeze().round(6))
    (960, 1.0)
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        raise ConfigError(f"bins={bins!r}: expected a whole number of at least 2.")
    rows = rows_in_common(obs, predictions, **(limits or {}))
    parts = [_target_density(one, rows, bins) for one in rows.targets.values()]
    out = xr.concat(parts, xr.DataArray(list(rows.targets), dims="target", name="target"))
    units = [one.units for one in rows.targets.values()]
    return out.assign_coords(units=("target", units)).assign_attrs(rows.attrs)


def _target_density(rows: TargetRows, common: CommonRows, bins: int) -> xr.Dataset:
    edges = _edges(rows.values, bins)
    observed = rows.values[:, 0].astype(float)
    counts, outside, lines = [], [], []
    for j in range(1, rows.values.shape[1]):
        predicted = rows.values[:, j].astype(float)
        count = _histogram(observed, predicted, edges)
        counts.append(count)
        outside.append(len(observed) - count.sum())
        lines.append(_line(observed, predicted))
    names = list(lines[0]) if lines else []
    arrays = {name: ("model", np.array([line[name] for line in lines])) for name in names}
    return xr.Dataset(
        {"count": (("model", "obs_bin", "pred_bin"), np.stack(counts)), "edges": ("edge", edges), **arrays}
        | {"outside": ("model", np.array(outside))},
        {"model": list(common.models)},
    )


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Return the bins of both axes; a range of 1 about a constant."""
    if not len(values):
        return np.linspace(0.0, 1.0, bins + 1)
    low, high = np.percentile(values, (_TAIL, 100 - _TAIL))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def _histogram(observed: np.ndarray, predicted: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of pairs in each bin (observed, predicted); faster than `numpy.histogram2d` of equal bins."""
    bins = len(edges) - 1
    inside = (np.minimum(observed, predicted) >= edges[0]) & (np.maximum(observed, predicted) <= edges[-1])
    scale = bins / (edges[-1] - edges[0])
    x, y = (np.minimum(((v[inside] - edges[0]) * scale).astype(np.int64), bins - 1) for v in (observed, predicted))
    return np.bincount(x * bins + y, minlength=bins * bins).reshape(bins, bins)


def _line(observed: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the regression of the predictions on the observations, and scores; NaN where they are not defined."""
    m = moments(observed, predicted)
    scores = {name: float(value) for name, value in scores_of(m).items() if name != "mae"}
    slope = float(m.cross / m.obs2) if np.isfinite(scores["nse"]) else np.nan
    return {"n": float(m.n), "slope": slope, "intercept": float(m.pred - slope * m.obs), **scores}
