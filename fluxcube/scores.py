"""Scores of labelled predictions against observations: xarray objects in and out, Dask arrays stay lazy.

Every score takes the observations first. A pair of values counts where both are finite. The numbers are those of
scikit-learn and xskillscore, where these define the same score; `fluxcube.moments` has the NumPy kernels.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.moments import Moments, kling_gupta, mean_near_zero, moments, pool, scores_of
from fluxcube.units import linear_conversion, units_of

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["LONG_NAMES", "UNITLESS", "bias", "corr2", "coverage", "crps", "kge", "mae", "normal_crps", "nse", "rmse"]

logger = logging.getLogger(__name__)

#: Names of the scores in words.
LONG_NAMES = {
    "nse": "Nash-Sutcliffe efficiency",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "bias": "mean of prediction minus observation",
    "corr2": "squared Pearson correlation",
    "kge": "Kling-Gupta efficiency",
    "crps": "continuous ranked probability score",
    "coverage": "share of observations within the interval",
}
#: Scores without a unit; the others have the unit of the observations.
UNITLESS = ("nse", "corr2", "kge", "coverage")

#: Endings of variables that belong to the flux of the same name, such as its flags.
_BESIDE = ("_std", "_QC", "_COVERAGE", "_QUALITY", "_RANDUNC", "_JOINTUNC")
_KGE_VARIANTS = ("2009", "2021")

Data = TypeVar("Data", xr.DataArray, xr.Dataset)
#: One dimension, several, or None for all of them.
Dim = Hashable | Iterable[Hashable] | None
_Score = Callable[[Moments], np.ndarray]


def nse(obs: Data, pred: Data, dim: Dim = "time", weights: xr.DataArray | None = None, skipna: bool = True) -> Data:
    """Return the Nash-Sutcliffe efficiency, 1 - SSE / SST: 1 is perfect, 0 is as good as the mean of the observations.

    Parameters
    ----------
    obs, pred : xr.DataArray or xr.Dataset
        Observations and predictions, both of one type, with the same labels on the dimensions that they share; of
        Datasets, each variable is scored. Predictions may have more dimensions, such as `model`. Predictions in other
        units are converted to those of the observations (attribute ``units``).
    dim : name, sequence of names, or None
        Dimensions along which pairs are scored; None: all.
    weights : xr.DataArray, optional
        Weight of each pair, 0 or more, on some of the dimensions; pairs without a weight are missing.
    skipna : bool
        Whether pairs with a missing value (NaN or infinite) are left out; if not, one makes the score NaN.

    Returns
    -------
    xr.DataArray or xr.Dataset
        Without the dimensions `dim`, lazy if an input is; no unit. NaN where the observations do not vary, or fewer
        than two pairs are left.

    Raises
    ------
    SchemaError
        If the inputs are not labelled, lack the dimension, have other variables, or other labels on a dimension.
    ConfigError
        If the units cannot be converted, or a weight is negative (of lazy weights, when the score is computed).

    References
    ----------
    Nash and Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6; scikit-learn's `r2_score`, xskillscore's `r2`

    Examples
    --------
    >>> obs = xr.DataArray([1.0, 2.0, 3.0], dims="time")
    >>> float(nse(obs, obs + xr.DataArray([0.0, 0.0, 1.0], dims="time")))
    0.5
    """
    return _each("nse", obs, pred, _from_moments("nse"), dim, weights, skipna)


def rmse(obs: Data, pred: Data, dim: Dim = "time", weights: xr.DataArray | None = None, skipna: bool = True) -> Data:
    """Return the root mean squared error, in the unit of the observations (parameters as `nse`).

    Examples
    --------
    >>> obs = xr.DataArray([0.0, 0.0], dims="time", attrs={"units": "W m-2"})
    >>> error = rmse(obs, xr.DataArray([3.0, -3.0], dims="time"))
    >>> float(error), error.attrs["units"]
    (3.0, 'W m-2')
    """
    return _each("rmse", obs, pred, _from_moments("rmse"), dim, weights, skipna)


def mae(obs: Data, pred: Data, dim: Dim = "time", weights: xr.DataArray | None = None, skipna: bool = True) -> Data:
    """Return the mean absolute error, in the unit of the observations (parameters as `nse`).

    Examples
    --------
    >>> obs = xr.DataArray([[0.0, 0.0], [1.0, 1.0]], dims=("site", "time"))
    >>> mae(obs, xr.DataArray([3.0, -4.0], dims="time")).values.tolist()
    [3.5, 3.5]
    """
    return _each("mae", obs, pred, _from_moments("mae"), dim, weights, skipna)


def bias(obs: Data, pred: Data, dim: Dim = "time", weights: xr.DataArray | None = None, skipna: bool = True) -> Data:
    """Return the mean of prediction minus observation, in the unit of the observations (parameters as `nse`).

    Examples
    --------
    >>> obs = xr.DataArray([1.0, 2.0], dims="time")
    >>> float(bias(obs, obs + 1))
    1.0
    """
    return _each("bias", obs, pred, _from_moments("bias"), dim, weights, skipna)


def corr2(obs: Data, pred: Data, dim: Dim = "time", weights: xr.DataArray | None = None, skipna: bool = True) -> Data:
    """Return the squared Pearson correlation (parameters as `nse`); blind to bias and amplitude, hence not called R2.

    NaN where observations or predictions do not vary.

    Examples
    --------
    >>> obs = xr.DataArray([1.0, 2.0, 3.0], dims="time")
    >>> float(corr2(obs, 10 * obs))
    1.0
    """
    return _each("corr2", obs, pred, _from_moments("corr2"), dim, weights, skipna)


def kge(
    obs: Data,
    pred: Data,
    dim: Dim = "time",
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    *,
    variant: str = "2009",
) -> Data:
    """Return the Kling-Gupta efficiency: 1 - distance of correlation, ratio of spreads and ratio of means from 1.

    The ratio of means says little where the mean of the observations is near 0, as that of NEE or of anomalies often
    is: where it is within 0.1 standard deviations of 0, the value is returned and a warning is logged. The variant
    2021 compares the means by their difference in standard deviations of the observations instead, and is defined
    there.

    Parameters
    ----------
    obs, pred, dim, weights, skipna
        As `nse` takes them.
    variant : {"2009", "2021"}
        How the means are compared.

    Returns
    -------
    xr.DataArray or xr.Dataset
        No unit; NaN where observations or predictions do not vary, and for 2009 where the mean of the observations is
        exactly 0.

    Raises
    ------
    UnknownNameError
        If the variant is another one; other errors as `nse` raises them.

    References
    ----------
    Gupta et al. 2009, doi:10.1016/j.jhydrol.2009.08.003; Tang et al. 2021 (KGE''), doi:10.1175/JCLI-D-21-0067.1

    Examples
    --------
    >>> obs = xr.DataArray([1.0, 2.0, 3.0], dims="time")
    >>> float(kge(obs, 2 * obs).round(3)), float(kge(obs, obs))
    (-0.414, 1.0)
    """
    if variant not in _KGE_VARIANTS:
        raise unknown("variant of the Kling-Gupta efficiency", variant, _KGE_VARIANTS)

    def score(m: Moments) -> np.ndarray:
        near = mean_near_zero(m)
        if variant == "2009" and near.any():
            logger.warning(
                "kge: the mean of the observations is within 0.1 standard deviations of 0 in %d of %d cases, where the "
                'ratio of means says little; variant="2021" is defined there',
                near.sum(),
                near.size,
            )
        return kling_gupta(m, variant)

    return _each("kge", obs, pred, score, dim, weights, skipna)


def crps(
    obs: Data,
    pred: Data,
    dim: Dim = "time",
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    *,
    std: Data | None = None,
    fair: bool = False,
) -> Data:
    """Return the mean continuous ranked probability score of predictions with a standard deviation, or of members.

    Predictions with a dimension `member` are ensembles; others are normal distributions. It is the absolute error of a
    prediction without spread.

    Parameters
    ----------
    obs, pred, dim, weights, skipna
        As `nse` takes them. With `skipna`, missing members are left out.
    std : xr.DataArray or xr.Dataset, optional
        Standard deviations; by default the variables ``<NAME>_std`` of a Dataset `pred`.
    fair : bool
        Whether the score of an ensemble is that of an infinite one with the same distribution, in expectation.

    Returns
    -------
    xr.DataArray or xr.Dataset
        In the unit of the observations; 0 is perfect.

    Raises
    ------
    SchemaError
        If there are neither members nor standard deviations; other errors as `nse` raises them.

    References
    ----------
    Gneiting et al. 2005, doi:10.1175/MWR2904.1 (normal distribution); Ferro 2014, doi:10.1002/qj.2270 (fair score);
    xskillscore's `crps_gaussian` and `crps_ensemble`

    Examples
    --------
    >>> obs, zero = xr.DataArray([1.0, -1.0], dims="time"), xr.DataArray([0.0, 0.0], dims="time")
    >>> float(crps(obs, zero, std=zero + 1).round(4)), float(crps(obs, zero, std=zero))
    (0.6024, 1.0)
    """

    def pointwise(obs: xr.DataArray, pred: xr.DataArray, std: xr.DataArray | None) -> xr.DataArray:
        if "member" in pred.dims:
            return _over("member", functools.partial(_ensemble_crps, fair=fair, skipna=skipna), obs, pred)
        return _elementwise(normal_crps, obs, pred, _needed(std, "crps"))

    return _mean_of("crps", pointwise, obs, pred, std, dim, weights, skipna)


def coverage(
    obs: Data,
    pred: Data,
    dim: Dim = "time",
    weights: xr.DataArray | None = None,
    skipna: bool = True,
    *,
    level: float = 0.8,
    std: Data | None = None,
) -> Data:
    """Return the share of observations within the central interval of a level; it should be that level.

    Predictions with a dimension `quantile` contain the bounds of the interval, those with a dimension `member` are
    ensembles, whose quantiles are the bounds (too narrow for few members), and others are normal distributions.

    Parameters
    ----------
    obs, pred, dim, weights, skipna
        As `nse` takes them.
    level : float
        Nominal coverage, between 0 and 1. A dimension `quantile` needs the labels (1 - level) / 2 and
        (1 + level) / 2.
    std : xr.DataArray or xr.Dataset, optional
        Standard deviations; by default the variables ``<NAME>_std`` of a Dataset `pred`.

    Returns
    -------
    xr.DataArray or xr.Dataset
        From 0 to 1; bounds are inside.

    Raises
    ------
    SchemaError
        If there are neither quantiles, members nor standard deviations; other errors as `nse` raises them.
    ConfigError
        If the level is not between 0 and 1.

    Examples
    --------
    >>> obs, zero = xr.DataArray([1.0, -2.0], dims="time"), xr.DataArray([0.0, 0.0], dims="time")
    >>> float(coverage(obs, zero, std=zero + 1)), float(coverage(obs, zero, std=zero + 1, level=0.99))
    (0.5, 1.0)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a share between 0 and 1, found {level!r}.")
    share = np.array([(1 - level) / 2, (1 + level) / 2])

    def pointwise(obs: xr.DataArray, pred: xr.DataArray, std: xr.DataArray | None) -> xr.DataArray:
        if "quantile" in pred.dims:
            low, high = (_quantile(pred, one) for one in share)
            return _elementwise(_inside, obs, low, high)
        if "member" in pred.dims:
            return _over("member", functools.partial(_inside_members, share=share, skipna=skipna), obs, pred)
        half = NormalDist().inv_cdf(share[1]) * _needed(std, "coverage")
        return _elementwise(_inside, obs, pred - half, pred + half)

    return _mean_of("coverage", pointwise, obs, pred, std, dim, weights, skipna, level=level)


def _from_moments(name: str) -> _Score:
    return lambda m: scores_of(m)[name]


def _each(
    name: str, obs: Data, pred: Data, score: _Score, dim: Dim, weights: xr.DataArray | None, skipna: bool
) -> Data:
    """Return a score of each variable from the moments of its pairs."""
    _check_types(name, obs, pred, weights)
    if isinstance(obs, xr.Dataset) and isinstance(pred, xr.Dataset):
        names = _shared(name, obs, pred)
        return xr.Dataset({v: _one(name, v, obs[v], pred[v], score, dim, weights, skipna) for v in names})
    return _one(name, obs.name, obs, pred, score, dim, weights, skipna)


def _one(
    name: str,
    variable: Hashable,
    obs: xr.DataArray,
    pred: xr.DataArray,
    score: _Score,
    dim: Dim,
    weights: xr.DataArray | None,
    skipna: bool,
) -> xr.DataArray:
    pred = _in_units(pred, units_of(obs), variable)
    out = _reduced(name, [obs, pred, *([] if weights is None else [weights])], score, dim, skipna)
    return _described(out, name, variable, units_of(obs))


def _mean_of(
    name: str,
    pointwise: Callable[[xr.DataArray, xr.DataArray, xr.DataArray | None], xr.DataArray],
    obs: Data,
    pred: Data,
    std: Data | None,
    dim: Dim,
    weights: xr.DataArray | None,
    skipna: bool,
    **attrs: float,
) -> Data:
    """Return the mean of a score of single values, for each variable."""
    _check_types(name, obs, pred, weights)

    def one(variable: Hashable, obs: xr.DataArray, pred: xr.DataArray, std: xr.DataArray | None) -> xr.DataArray:
        units = units_of(obs)
        if std is not None:
            std = _in_units(std, units, variable, difference=True)
        arrays = [obs, _in_units(pred, units, variable), *([] if std is None else [std])]
        _check_labels(name, arrays)
        values = pointwise(arrays[0], arrays[1], std)
        pairs = [xr.zeros_like(values), values, *([] if weights is None else [weights])]
        mean = _reduced(name, pairs, _from_moments("bias"), dim, skipna)
        return _described(mean, name, variable, units).assign_attrs(attrs)

    if isinstance(obs, xr.Dataset) and isinstance(pred, xr.Dataset):
        beside = _beside(pred) if std is None else std
        stds = {v: beside.get(v) for v in _shared(name, obs, pred)}
        return xr.Dataset({v: one(v, obs[v], pred[v], spread) for v, spread in stds.items()})
    return one(obs.name, obs, pred, std)


def _beside(pred: xr.Dataset) -> dict[Hashable, xr.DataArray]:
    """Return the standard deviations of the variables of a Dataset."""
    return {v: pred[f"{v}_std"] for v in pred.data_vars if f"{v}_std" in pred}


def _check_types(name: str, obs: object, pred: object, weights: object) -> None:
    kinds = [type(x).__name__ if isinstance(x, xr.DataArray | xr.Dataset) else "" for x in (obs, pred)]
    if kinds[0] != kinds[1] or not kinds[0]:
        raise SchemaError(
            f"{name}: expected two DataArrays or two Datasets, found {type(obs).__name__} and {type(pred).__name__}; "
            "select the variable of a Dataset, such as pred.NEE, or label values with xr.DataArray(values, dims=...)."
        )
    for data in (obs, pred):
        if isinstance(data, xr.Dataset) and "fluxes" in data:
            raise SchemaError(f"{name}: expected variables named after fluxes, found a cube; pass cube.fluxes.")
        if isinstance(data, xr.DataArray) and data.dtype.kind not in "biuf":
            raise SchemaError(
                f"{name}: expected numbers, found {data.dtype}; convert them, such as with astype(float)."
            )
    if weights is not None and not isinstance(weights, xr.DataArray):
        raise SchemaError(f"{name}: expected weights as a DataArray, found {type(weights).__name__}; label their dims.")


def _shared(name: str, obs: xr.Dataset, pred: xr.Dataset) -> list[Hashable]:
    """Return the variables to score: the same ones in both; flags, standard deviations and the like are left out."""
    ours, theirs = ([v for v in ds.data_vars if not str(v).endswith(_BESIDE)] for ds in (obs, pred))
    shared = [v for v in ours if v in theirs]
    if len(shared) < max(len(ours), len(theirs)) or not shared:
        only = [f"{', '.join(map(str, set(a) - set(b))) or 'none'}" for a, b in ((ours, theirs), (theirs, ours))]
        raise SchemaError(
            f"{name}: expected the same variables, found {only[0]} in the observations alone and {only[1]} in the "
            f"predictions alone; select those to score, such as obs[{list(map(str, shared or ours[:1]))}]."
        )
    return shared


def _in_units(array: xr.DataArray, units: str, variable: Hashable, *, difference: bool = False) -> xr.DataArray:
    """Return an array in other units; of a `difference`, such as a standard deviation, the zero does not change."""
    found = units_of(array)
    if not units or not found:
        return array
    zero, one = linear_conversion(found, units, str(variable))
    zero = 0.0 if difference else zero
    return array if (zero, one) == (0.0, 1.0) else array * one + zero


def _described(out: xr.DataArray, name: str, variable: Hashable, units: str) -> xr.DataArray:
    units = "1" if name in UNITLESS else units
    attrs = {"long_name": f"{LONG_NAMES[name]}{f' of {variable}' if variable is not None else ''}"}
    out.attrs = attrs | ({"units": units} if units else {})
    # The units of the observations would contradict the attribute, such as that of a score without a unit.
    return out.rename(variable).drop_vars(("units", "target_units"), errors="ignore")


def _dims(name: str, dim: Dim, arrays: Sequence[xr.DataArray]) -> list[Hashable]:
    """Return the dimensions to reduce."""
    known = list(dict.fromkeys(d for array in arrays for d in array.dims))
    if dim is None:
        return known
    dims = [dim] if isinstance(dim, str) or not isinstance(dim, Iterable) else list(dim)
    if missing := [d for d in dims if d not in known]:
        raise SchemaError(
            f"{name}: expected the dimension {', '.join(map(str, missing))}, found {', '.join(map(str, known))}; pass "
            "dim=, one of these, several, or None for all."
        )
    return dims


def _check_labels(name: str, arrays: Sequence[xr.DataArray]) -> None:
    """Refuse arrays whose labels differ on a dimension that they share."""
    first: dict[Hashable, xr.DataArray] = {}
    for array in arrays:
        for d in array.dims:
            other = first.setdefault(d, array)
            same = array.sizes[d] == other.sizes[d]
            if d in array.indexes and d in other.indexes:
                same = same and array.indexes[d].equals(other.indexes[d])
            if not same:
                raise SchemaError(_other_labels(name, d, other, array))


def _other_labels(name: str, dim: Hashable, one: xr.DataArray, other: xr.DataArray) -> str:
    message = f"{name}: expected the same {dim} in both, found {one.sizes[dim]} and {other.sizes[dim]}"
    if dim in one.indexes and dim in other.indexes:
        ours, theirs = one.indexes[dim], other.indexes[dim]
        message += f", {len(ours.intersection(theirs))} of them in common"
        if len(ours) and len(theirs):
            message += f" (from {ours[0]} and from {theirs[0]})"
    return f'{message}; align them first, obs, pred = xr.align(obs, pred, join="inner").'


def _reduced(name: str, arrays: Sequence[xr.DataArray], score: _Score, dim: Dim, skipna: bool) -> xr.DataArray:
    """Return a score along `dim` of pairs and their weights, if there are three arrays."""
    _check_labels(name, arrays)
    gone = _dims(name, dim, arrays)
    arrays = xr.broadcast(*arrays)
    kept = [d for d in arrays[0].dims if d not in gone]
    ordered = [array.transpose(*kept, *gone) for array in arrays]
    if any(array.chunks is not None for array in ordered):
        values: da.Array | np.ndarray = _lazy(ordered, score, len(gone), skipna)
    else:
        axis = tuple(range(len(kept), len(kept) + len(gone)))
        values = np.asarray(score(_pair_moments([array.values for array in ordered], axis, skipna)))
    coords = {n: c for n, c in arrays[0].coords.items() if not set(c.dims) & set(gone)}
    return xr.DataArray(values, dims=kept, coords=coords)


def _pair_moments(values: Sequence[np.ndarray], axis: tuple[int, ...], skipna: bool) -> Moments:
    weights = values[2] if len(values) > 2 else None
    if weights is not None and (weights < 0).any():
        raise ConfigError("weights: expected 0 or more, found a negative weight; 0 leaves a pair out.")
    return moments(values[0], values[1], axis, weights=weights, skipna=skipna)


def _lazy(arrays: Sequence[xr.DataArray], score: _Score, reduced: int, skipna: bool) -> da.Array:
    """Return a Dask array of scores: moments of each block, pooled over the blocks of the last `reduced` axes."""
    import dask.array as da

    chunked = next(a for a in arrays if a.chunks is not None)
    chunks = dict(zip(chunked.dims, chunked.chunks or (), strict=True))
    bare = [xr.DataArray(a.variable) for a in arrays]
    blocks = [a.data for a in xr.unify_chunks(*(a if a.chunks is not None else a.chunk(chunks) for a in bare))]
    ndim = blocks[0].ndim
    axis = tuple(range(ndim - reduced, ndim))
    kept = blocks[0].chunks[: ndim - reduced]

    def of_block(*values: np.ndarray) -> np.ndarray:
        return np.expand_dims(np.stack(_pair_moments(values, axis, skipna)), tuple(a + 1 for a in axis))

    def of_parts(parts: np.ndarray) -> np.ndarray:
        return np.asarray(score(pool(Moments(*parts), axis=axis)))

    single = tuple((1,) * blocks[0].numblocks[a] for a in axis)
    chunks_of_parts = ((len(Moments._fields),), *kept, *single)
    empty = np.empty((0,) * (ndim + 1))
    parts: da.Array = da.map_blocks(of_block, *blocks, dtype=float, chunks=chunks_of_parts, new_axis=0, meta=empty)
    whole: da.Array = parts.rechunk({a + 1: -1 for a in axis})
    drop = [0, *(a + 1 for a in axis)]
    return da.map_blocks(of_parts, whole, dtype=float, chunks=kept, drop_axis=drop, meta=np.empty((0,) * len(kept)))


def _elementwise(kernel: Callable[..., np.ndarray], *arrays: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(kernel, *arrays, dask="parallelized", output_dtypes=[float])


def _over(dim: str, kernel: Callable[..., np.ndarray], obs: xr.DataArray, pred: xr.DataArray) -> xr.DataArray:
    """Return the score of each value from all its predictions along `dim`, the last axis of the kernel's input."""
    whole = pred.chunk({dim: -1}) if pred.chunks is not None else pred
    return xr.apply_ufunc(
        kernel, obs, whole, input_core_dims=[[], [dim]], dask="parallelized", output_dtypes=[float], join="exact"
    )


def _needed(std: xr.DataArray | None, name: str) -> xr.DataArray:
    if std is None:
        raise SchemaError(
            f"{name}: expected standard deviations or members, found neither; pass std=, Datasets with the variable "
            "<NAME>_std, or predictions with a dimension member."
        )
    return std


def _quantile(pred: xr.DataArray, share: float) -> xr.DataArray:
    labels = pred["quantile"].values
    near = np.flatnonzero(np.abs(labels - share) < 1e-9)
    if not near.size:
        raise SchemaError(f"coverage: expected the quantile {share:g}, found {labels.tolist()}; choose another level.")
    return pred.isel(quantile=int(near[0]), drop=True)


def _inside(obs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return 1 where a value lies within the bounds, 0 elsewhere, NaN where one of the three is missing."""
    known = np.isfinite(obs) & np.isfinite(low) & np.isfinite(high)
    return np.where(known, (obs >= low) & (obs <= high), np.nan)


def _inside_members(obs: np.ndarray, members: np.ndarray, share: np.ndarray, skipna: bool) -> np.ndarray:
    members = np.where(np.isfinite(members), members, np.nan)
    none = np.isnan(members).all(-1, keepdims=True)  # numpy warns of a slice without a value
    quantile = np.nanquantile if skipna and np.isnan(members).any() else np.quantile  # the former is slow
    low, high = quantile(np.where(none, 0.0, members), share, axis=-1)
    return np.where(none[..., 0], np.nan, _inside(*np.broadcast_arrays(obs, low, high)))


def normal_crps(obs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the score of normal distributions; NaN where a standard deviation is negative."""
    obs, mean, std = (np.asarray(x, float) for x in (obs, mean, std))
    z = (obs - mean) / np.where(std > 0, std, 1.0)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    spread = std * (z * _erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return np.where(std > 0, spread, np.where(std == 0, np.abs(obs - mean), np.nan))


def _erf(x: np.ndarray) -> np.ndarray:
    """Return the error function of each value: NumPy has none, and SciPy is no requirement of the package."""
    return np.fromiter(map(math.erf, x.ravel()), float, x.size).reshape(x.shape)


def _ensemble_crps(obs: np.ndarray, members: np.ndarray, fair: bool, skipna: bool) -> np.ndarray:
    """Return the score of ensembles along the last axis, from their sorted members: no pair of members is formed."""
    ordered = np.sort(np.where(np.isfinite(members), members, np.nan).astype(float), axis=-1)  # NaN is last
    known = np.isfinite(ordered)
    n = known.sum(-1)
    error = np.where(known, np.abs(ordered - np.asarray(obs, float)[..., None]), 0.0).sum(-1)
    # Sum of |x_i - x_j| over all ordered pairs: 2 * sum of (2 i - n + 1) x_i over the sorted members, i from 0
    factor = 2 * np.arange(members.shape[-1]) - n[..., None] + 1
    pairs = 2 * np.where(known, factor * ordered, 0.0).sum(-1)
    count = np.maximum(n * (n - 1) if fair else n**2, 1)
    score = error / np.maximum(n, 1) - pairs / (2 * count)
    valid = (n > int(fair)) if skipna else (n == members.shape[-1])
    return np.where(valid & np.isfinite(obs), score, np.nan)
