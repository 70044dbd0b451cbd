"""Common rows: observed and predicted values at the time steps that all models have, in one compact table.

Cycles, histograms, reliability and the series of a site need the values themselves, not only their sums. A row is a
site and a time step with an accepted observation and a prediction of every model. Measured time steps are a small part
of the time axis of a cube, so that all rows of a hundred towers take a few hundred MB of RAM, and one pass over lazy
predictions serves every table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.common_units import in_one_unit
from fluxcube.evaluation.skill import climate_of
from fluxcube.evaluation.sums import Labelled, aligned_pairs, data_resolution
from fluxcube.inference.predictor import DISSIMILARITY
from fluxcube.resolution import DEFAULT, Default, Resolution
from fluxcube.samples.features import class_of
from fluxcube.variables import table

#: Name of the observations in tables beside the models.
OBSERVED = "observed"
#: Number of values of all arrays that one block of sites may have in RAM.
_BLOCK = 20_000_000
#: Minimum share of the time steps of a day that its mean needs.
_DAY_SHARE = 0.5


@dataclass(frozen=True)
class TargetRows:
    """The common rows of one flux, ordered by site and time.

    Attributes
    ----------
    site : (N,) int32 ndarray
        Position of the site in `places`.
    time : (N,) datetime64[s] ndarray
        Local mean solar time of the middle of an hour; the date, of daily data.
    values : (N, 1 + models) float32 ndarray
        The observations, then the predictions of each model, in `units`.
    std : mapping of str to (N,) float32 ndarray
        Standard deviation of the error by model, for predictions with NAME_std; in `units`.
    dissimilarity : mapping of str to (N,) float32 ndarray
        Dissimilarity to the training days by model, for predictions that contain it.
    places : xr.Dataset
        Coordinates of the sites, with the dimension place.
    units : str
        Units of the values.
    """

    site: np.ndarray
    time: np.ndarray
    values: np.ndarray
    std: Mapping[str, np.ndarray]
    dissimilarity: Mapping[str, np.ndarray]
    places: xr.Dataset
    units: str

    @property
    def sites(self) -> np.ndarray:
        """Names of the sites of `places`."""
        return self.places["site"].values.astype(str)


@dataclass(frozen=True)
class CommonRows:
    """Observed and predicted values of several fluxes at the time steps that all models have in common.

    Attributes
    ----------
    models : tuple of str
        Names of the models, in the order of the columns of `TargetRows.values`.
    targets : mapping of str to TargetRows
        Rows by flux.
    resolution : Resolution
        Hourly or daily.
    attrs : mapping
        The row mask in words, and the limit of quality.
    """

    models: tuple[str, ...]
    targets: Mapping[str, TargetRows]
    resolution: Resolution
    attrs: Mapping[str, object] = field(default_factory=dict)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the columns of `TargetRows.values`: the observations, then the models."""
        return (OBSERVED, *self.models)


#: Observations as `fluxcube.compare` takes them, or common rows that were extracted before.
Observed = Labelled | CommonRows
#: Predictions by model name; None with common rows.
Predictions = Mapping[str, Labelled] | None


def rows_in_common(
    obs: Observed,
    predictions: Predictions = None,
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> CommonRows:
    """Extract the observed and predicted values of every site at the time steps that all models have in common.

    Every function that draws from rows accepts the result in place of `obs`, so that several tables need one pass.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; data of towers. Common rows are returned as they are.

    Returns
    -------
    CommonRows
        In RAM: about 4 bytes for each row, model and flux, and 12 for each row.

    Raises
    ------
    SchemaError
        If the data have no dimension site, hourly data have no longitude, or nothing is in common.
    ConfigError
        If there is no prediction, its units cannot be converted to those of the observations, or a model is named
        "observed".

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=10, gaps=0)
    >>> rows = rows_in_common(cube, {"same": cube.fluxes.sel(target=["NEE"])})
    >>> rows.series, rows.targets["NEE"].values.shape
    (('observed', 'same'), (960, 2))
    """
    if isinstance(obs, CommonRows):
        return obs
    if OBSERVED in (predictions or {}):
        raise ConfigError(f'a model cannot be named "{OBSERVED}", which is the name of the observations: rename it.')
    blocked = {model: _by_sites(pred) for model, pred in (predictions or {}).items()}
    pairs, places, attrs, units = aligned_pairs(obs, blocked, qc=qc, max_qc=max_qc, min_quality=min_quality)
    resolution = data_resolution(obs)
    _check_sites(pairs, resolution)
    beside = {target: _beside(target, pair[0], blocked, units.get(target, "")) for target, pair in pairs.items()}
    parts: dict[str, list[_Part]] = {target: [] for target in pairs}
    first = next(iter(pairs.values()))[0]
    step = max(1, _BLOCK // max(1, first.sizes["time"] * sum(len(p) + len(beside[t]) for t, p in pairs.items())))
    for start in range(0, first.sizes["site"], step):
        for target, part in _load(pairs, beside, slice(start, start + step), resolution).items():
            parts[target].append(part)
    targets = {t: _joined(parts.pop(t), places[t], units.get(t) or _table_units(t, resolution)) for t in pairs}
    return CommonRows(tuple(blocked), targets, resolution, attrs)


def labels_of(places: xr.Dataset, by: str) -> np.ndarray:
    """Return the group (place,) of each place: its class, climate or any other coordinate; "unknown" without one.

    Parameters
    ----------
    places : xr.Dataset
        Coordinates of the places.
    by : str
        "igbp", "koppen" (the main climate), "climate" (its name), or another coordinate.

    Raises
    ------
    SchemaError
        If the places have no such coordinate.
    """
    source = "koppen" if by == "climate" else by
    if source not in places:
        raise SchemaError(f"by={by!r} needs the coordinate {source} on each site; found {sorted(map(str, places))}.")
    codes = [str(code) for code in places[source].values]
    found = [climate_of(code) if by == "climate" else class_of(by, code) for code in codes]
    return np.array([label or "unknown" for label in found], object)


def groups_of(places: xr.Dataset, by: str | None) -> dict[str, np.ndarray]:
    """Return a mask (place,) of each group: "all" first, then the groups of `by` in alphabetical order.

    Raises
    ------
    SchemaError
        If the places have no such coordinate.
    """
    whole = {"all": np.ones(places.sizes["place"], bool)}
    if by is None:
        return whole
    labels = labels_of(places, by)
    return whole | {name: labels == name for name in sorted(set(labels))}


def daily_means(rows: TargetRows, resolution: Resolution) -> TargetRows:
    """Return the mean of each site and local day with at least half of its time steps; daily rows as they are.

    Standard deviations and dissimilarity are left out.
    """
    if resolution.steps_per_day == 1:
        return rows
    day = rows.time.astype("datetime64[D]").astype(np.int64)
    site, date, means, count = means_by_site(rows, day)
    enough = count >= resolution.steps_per_day * _DAY_SHARE
    time = date[enough].astype("datetime64[D]").astype("datetime64[s]")
    return TargetRows(site[enough], time, means[enough].astype(np.float32), {}, {}, rows.places, rows.units)


def means_by_site(
    rows: TargetRows, bin_of: np.ndarray, values: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of every series in each bin of each site.

    Parameters
    ----------
    rows : TargetRows
        Rows of one flux.
    bin_of : (N,) int
        Bin of each row, such as the local hour or the number of the day.
    values : (N, series) float, optional
        Values to average instead of those of the rows.

    Returns
    -------
    site, bin : (G,) int
        Position of the site, and the bin, in this order.
    means : (G, series) float64
    count : (G,) int
        Number of rows.
    """
    values = rows.values if values is None else values
    if not len(bin_of):
        empty = np.zeros(0, np.int64)
        return empty.astype(np.int32), empty, np.zeros((0, values.shape[1])), empty
    first = int(bin_of.min())
    span = int(bin_of.max()) - first + 1
    key = rows.site.astype(np.int64) * span + (bin_of - first)
    every = np.bincount(key)
    at = np.flatnonzero(every)
    sums = [np.bincount(key, weights=values[:, j])[at] for j in range(values.shape[1])]
    means = np.stack(sums, 1) / every[at, None]
    return (at // span).astype(np.int32), at % span + first, means, every[at]


@dataclass(frozen=True)
class _Part:
    """Rows of a block of sites, as `TargetRows` has them."""

    site: np.ndarray
    time: np.ndarray
    values: np.ndarray
    beside: Mapping[tuple[str, str], np.ndarray]


def _by_sites(pred: Labelled) -> Labelled:
    """Return predictions as Dask arrays in blocks of sites, so that neither the mask nor the rows load all of them."""
    if not isinstance(pred, xr.Dataset | xr.DataArray) or "site" not in pred.dims:
        return pred  # refused with the other data, by a message on their dims
    arrays = list(pred.data_vars.values()) if isinstance(pred, xr.Dataset) else [pred]
    if all(array.chunks is not None for array in arrays):
        return pred
    # Not smaller than the chunks of a file, each of which would be read again for every part of it.
    stored = [array.encoding.get("preferred_chunks", {}).get("site", 0) for array in arrays]
    return pred.chunk({"site": max(8, *stored)})


def _check_sites(pairs: Mapping[str, Sequence[xr.DataArray]], resolution: Resolution) -> None:
    for first, *_ in pairs.values():
        if first.dims != ("site", "time") or not (resolution.local or "longitude" in first.coords):
            raise SchemaError(
                "rows of sites: expected dims (site, time), and the coordinate longitude of hourly data, found "
                f"{first.dims} and {sorted(map(str, first.coords))}; pass the fluxes of a tower cube."
            )


def _table_units(target: str, resolution: Resolution) -> str:
    known = table(resolution.name)
    return known[target].units if target in known else ""


def _beside(
    target: str, obs: xr.DataArray, predictions: Mapping[str, Labelled], units: str
) -> dict[tuple[str, str], xr.DataArray]:
    """Return NAME_std and the dissimilarity of each model that has them, on the sites and time steps of `obs`."""
    found = {}
    for model, data in predictions.items():
        if not isinstance(data, xr.Dataset):
            continue
        if f"{target}_std" in data:
            std = {model: data[f"{target}_std"]}
            if units:
                std[model] = in_one_unit(target, obs.isel(site=0).assign_attrs(units=units), std, {})[1][0]
            found["std", model] = std[model]
        if DISSIMILARITY in data and set(data[DISSIMILARITY].dims) == {"site", "time"}:
            found[DISSIMILARITY, model] = data[DISSIMILARITY]
    like = {"site": obs["site"].values, "time": obs["time"].values}
    return {key: array.reset_coords(drop=True).reindex(like).transpose("site", "time") for key, array in found.items()}


def _load(
    pairs: Mapping[str, Sequence[xr.DataArray]],
    beside: Mapping[str, Mapping[tuple[str, str], xr.DataArray]],
    block: slice,
    resolution: Resolution,
) -> dict[str, _Part]:
    """Load a block of sites, all fluxes at once, since lazy fluxes share their chunks; keep the common rows."""
    import dask

    lazy = {t: [a.isel(site=block) for a in (*pair, *beside[t].values())] for t, pair in pairs.items()}
    (loaded,) = dask.compute(lazy)
    out = {}
    for target, arrays in loaded.items():
        number = len(pairs[target])
        common = np.isfinite(arrays[0].values)
        for array in arrays[1:number]:
            common &= np.isfinite(array.values)
        site, step = np.nonzero(common)
        values = [array.values[common].astype(np.float32) for array in arrays]
        time = _local_time(arrays[0], site, step, resolution)
        out[target] = _Part(
            (site + block.start).astype(np.int32),
            time,
            np.stack(values[:number], 1),
            dict(zip(beside[target], values[number:], strict=True)),
        )
    return out


def _local_time(obs: xr.DataArray, site: np.ndarray, step: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Return the local mean solar time (N,) of the middle of each hour, or the date of daily data."""
    time = obs["time"].values.astype("datetime64[s]")[step]
    if resolution.local:
        return time
    middle = resolution.step.astype("timedelta64[s]") // 2  # in whole hours, half an hour would be 0
    return time + resolution.solar_shift(obs["longitude"].values)[site] + middle


def _joined(parts: Sequence[_Part], places: xr.Dataset, units: str) -> TargetRows:
    beside = {key: np.concatenate([part.beside[key] for part in parts]) for key in parts[0].beside}
    return TargetRows(
        np.concatenate([part.site for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.values for part in parts]),
        {model: values for (kind, model), values in beside.items() if kind == "std"},
        {model: values for (kind, model), values in beside.items() if kind == DISSIMILARITY},
        places,
        units,
    )
