"""Sums: sufficient statistics of predictions at towers, from which every table of scores is computed.

Every score follows from eight numbers for each site, model and flux (`fluxcube.moments.Moments`), which one pass over
the time steps computes. They are small and can be joined over folds, so that tables and intervals need no new
predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.alignment import at_sites, check_same_dims, sampling_notes
from fluxcube.evaluation.common_steps import AVERAGING, in_common_steps
from fluxcube.evaluation.common_units import in_one_unit, with_units
from fluxcube.moments import Moments, moments, pool
from fluxcube.resolution import DAILY, DEFAULT, HOURLY, Default, QualityLimit, Resolution, resolution_of
from fluxcube.samples.quality import best_flags, named_best_flags
from fluxcube.schema import PARTS
from fluxcube.variables import Variable, table

if TYPE_CHECKING:
    import dask.array as da

logger = logging.getLogger(__name__)

#: Local seasons, in order; June is summer north of the equator and winter south of it.
SEASONS = ("winter", "spring", "summer", "autumn")

#: Endings of the names of arrays of quality and the like, in a Dataset with one variable per flux.
_BESIDE = tuple(ending.upper() for ending in PARTS if ending)
_BLOCK = 2_000_000  # number of pairs in a block of inputs in RAM: about 100 MB of temporary arrays
_KEYS = ("target", "model", "season")
#: Coordinates of a place that are stored with its sums, for groups and clusters.
_COORDS = ("site", "igbp", "koppen", "network", "latitude", "longitude", "elevation")

Labelled = xr.Dataset | xr.DataArray


class QualityOptions(TypedDict, total=False):
    """Limit of quality, as `site_sums` and `fluxcube.fit` take it; None accepts every value."""

    max_qc: int | None
    min_quality: float | None


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of the predictions of several models, on a common row mask.

    Attributes
    ----------
    models : tuple of str
        Names of the models.
    moments : mapping of str to Moments
        Moments by target; each array is (place, season or 1, model).
    places : mapping of str to xr.Dataset
        Coordinates of the places by target, with the dimension place.
    attrs : mapping
        The row mask in words, the limit of quality and the resolution.
    units : mapping of str to str
        Units of each target that has any in the data, as the observations have them.
    """

    models: tuple[str, ...]
    moments: Mapping[str, Moments]
    places: Mapping[str, xr.Dataset]
    attrs: Mapping[str, object]
    units: Mapping[str, str] = field(default_factory=dict)

    def units_of(self, target: str) -> str:
        """Return the units of a target: those of the data, else those of the variable table."""
        rows = table(str(self.attrs.get("resolution", HOURLY.name)))
        return self.units.get(target) or (rows[target].units if target in rows else "")

    @property
    def targets(self) -> list[str]:
        """Fluxes that are scored."""
        return list(self.moments)

    @property
    def seasonal(self) -> bool:
        """Whether there are sums of each season."""
        return next(iter(self.moments.values())).n.shape[1] > 1

    def to_frame(self) -> pd.DataFrame:
        """Return one row per target, place, season and model: its coordinates and its moments.

        `from_frame` is the inverse; `fluxcube.evaluation.report.write_sums` and `read_sums` keep every digit.
        """
        frames = []
        for target, m in self.moments.items():
            places = self.places[target]
            index = np.indices(m.n.shape).reshape(3, -1)
            season = np.array(SEASONS if self.seasonal else ("all",), object)
            columns = {name: places[name].values[index[0]] for name in _COORDS if name in places}
            columns |= {"season": season[index[1]], "model": np.array(self.models, object)[index[2]]}
            columns |= {name: values.ravel() for name, values in m._asdict().items()}
            units = {"units": self.units[target]} if target in self.units else {}
            frames.append(pd.DataFrame({"target": target, **units, **columns}))
        out = pd.concat(frames, ignore_index=True)
        out.attrs = dict(self.attrs)
        return out

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Sums:
        """Return the sums of a table that `to_frame` returned, or of several such tables one below the other.

        Raises
        ------
        SchemaError
            If columns are missing, a model lacks a place that another model has, or a target has two units.
        """
        if missing := {*_KEYS, "site", *Moments._fields} - set(frame):
            raise SchemaError(f"expected a table of sums, found no columns {', '.join(sorted(missing))}.")
        models, seasons = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["season"]))
        found, places = {}, {}
        units: dict[str, str] = {}
        for target, rows in frame.groupby("target", sort=False):
            if "units" in rows:
                units |= _one_unit(str(target), rows["units"], table(str(frame.attrs.get("resolution", HOURLY.name))))
            sites = list(dict.fromkeys(rows["site"]))
            order = pd.MultiIndex.from_product([sites, seasons, models])
            indexed = rows.set_index(["site", "season", "model"])
            if len(indexed) != len(order) or not indexed.index.is_unique or not order.isin(indexed.index).all():
                raise SchemaError(
                    f"sums of {target}: {len(rows)} rows are not {len(sites)} sites x {len(seasons)} seasons x "
                    f"{len(models)} models, each once; every model must be scored on the same sites."
                )
            shape = (len(sites), len(seasons), len(models))
            indexed = indexed.loc[order]
            found[target] = Moments(*(indexed[n].to_numpy(float).reshape(shape) for n in Moments._fields))
            first = rows.drop_duplicates("site").set_index("site").loc[sites].reset_index()
            kept = [c for c in first if c not in (*_KEYS, "units", *Moments._fields)]
            places[target] = xr.Dataset({c: ("place", _plain(first[c])) for c in kept})
        return cls(tuple(models), found, places, dict(frame.attrs), units)

    @classmethod
    def join(cls, parts: Sequence[Sums], *, repeated: bool = False) -> Sums:
        """Join the sums of several folds.

        Parameters
        ----------
        parts : sequence of Sums
            Sums of the folds; their sites are disjoint unless `repeated` is set.
        repeated : bool
            Whether a site may be in several parts, as validation towers may be; its sums are then pooled.

        Raises
        ------
        SchemaError
            If a site is in two parts and `repeated` is false, or the parts contain different models.
        """
        frames = [part.to_frame() for part in parts]
        out = pd.concat(frames, ignore_index=True)
        if repeated:
            out = _pooled(out)
        out.attrs = dict(parts[0].attrs)
        return cls.from_frame(out)


def _one_unit(target: str, column: pd.Series, rows: Mapping[str, Variable]) -> dict[str, str]:
    """Return the units of a target, if it has any; sums without units are in those of the variable table."""
    every = {str(unit) for unit in column.fillna("")}
    named = every - {""}
    known = named | ({rows[target].units} if "" in every and target in rows else set())
    if len(known if named else ()) > 1:
        raise SchemaError(
            f"sums of {target} have the units {' and '.join(sorted(known))}: compute all parts in one unit."
        )
    return dict.fromkeys([target], *named) if named else {}


def _pooled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per target, season, model and site."""
    keys, fields = [*_KEYS, "site"], list(Moments._fields)
    out = frame.drop_duplicates(keys).set_index(keys)
    several = frame[frame.duplicated(keys, keep=False)]
    for key, rows in several.groupby(keys, sort=False):
        out.loc[key, fields] = [float(x) for x in pool(Moments(*(rows[name].to_numpy(float) for name in fields)))]
    return out.reset_index()


def _plain(column: pd.Series) -> np.ndarray:
    """Return numbers as float and text as objects, with empty text for empty fields of a CSV file."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(float)
    return column.astype(object).where(column.notna(), "").to_numpy(object)


def site_sums(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    seasons: bool = False,
) -> Sums:
    """Compute the sums from which every score follows, at the time steps that all models have in common.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them.
    seasons : bool
        Whether to compute sums of each local season, for tables by season.

    Returns
    -------
    Sums

    Raises
    ------
    SchemaError
        If they have no flux, site or time step in common.
    ConfigError
        If the units of a prediction cannot be converted to those of the observations.
    """
    pairs, places, attrs, units = aligned_pairs(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    found = place_moments(list(pairs.values()), scored_resolution(obs, attrs) if seasons else None)
    return Sums(tuple(predictions), dict(zip(pairs, found, strict=True)), places, attrs, units)


def aligned_pairs(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> tuple[dict[str, tuple[xr.DataArray, ...]], dict[str, xr.Dataset], dict[str, object], dict[str, str]]:
    """Return observations within the row mask with all predictions, by flux; places by flux; attributes; and units.

    Predictions are converted to the units of the observations.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `site_sums` takes them.
    """
    if not predictions:
        raise ConfigError("nothing to score: expected at least one prediction by model name, found none.")
    predictions = at_sites(obs, predictions)
    observed, flags = _observed(obs, qc, data_resolution(obs))
    predicted = {model: _by_target(pred, only=list(observed)) for model, pred in predictions.items()}
    common = in_common_steps(
        obs,
        predictions,
        observed=observed,
        flags=flags,
        predicted=predicted,
        resolution=data_resolution(obs),
        max_qc=max_qc,
        min_quality=min_quality,
    )
    observed, flags, predicted = common.observed, common.flags, common.predicted
    resolution, limit = common.resolution, common.limit
    targets = _shared_targets(observed, predicted)
    units: dict[str, str] = {}
    converted: dict[str, list[xr.DataArray]] = {}
    for t in targets:
        unit, converted[t] = in_one_unit(
            t, observed[t], {model: p[t] for model, p in predicted.items()}, table(resolution.name)
        )
        units |= {t: unit} if unit else {}
    pairs = {t: _aligned(observed[t], flags.get(t), converted[t], limit) for t in targets}
    places = {t: _places(pair[0]) for t, pair in pairs.items()}
    attrs = _attrs(limit, [t for t in targets if t not in flags], targets, list(predictions), _raised(limit, obs))
    attrs |= (resolution if common.note else resolution_of(obs)).attrs | sampling_notes(predictions)
    attrs |= {AVERAGING: common.note} if common.note else {}
    return pairs, places, attrs, units


def data_resolution(obs: Labelled) -> Resolution:
    """Return the resolution of observations, from their attribute or, of an array without it, from the time step."""
    if isinstance(obs, xr.Dataset) or "resolution" in obs.attrs:
        return resolution_of(obs)
    dated = "time" in obs.coords and obs["time"].dtype.kind == "M"
    steps = np.diff(obs["time"].values[:2]) if dated else np.array([])
    return DAILY if (steps == DAILY.step).any() else HOURLY


def scored_resolution(obs: Labelled, attrs: Mapping[str, object]) -> Resolution:
    """Return the resolution of the scored time steps: that of the observations, or daily if they were averaged."""
    return DAILY if AVERAGING in attrs else data_resolution(obs)


def _raised(limit: QualityLimit, obs: Labelled) -> str:
    """Return the sites at which a worse flag than the limit counts as measured, with their flags; "" for none."""
    if limit.value is None or not limit.resolution.lower_is_better or "site" not in obs.dims:
        return ""
    return named_best_flags(obs.isel(site=best_flags(obs) > limit.value))


def common_rows(*arrays: xr.DataArray) -> xr.DataArray:
    """Return True where every array has a finite value: the time steps at which models can be compared.

    Parameters
    ----------
    *arrays : xr.DataArray
        Arrays with the same coordinates. If they are lazy, so is the result.

    Examples
    --------
    >>> a, b = xr.DataArray([1.0, np.nan, 3.0]), xr.DataArray([1.0, 2.0, np.nan])
    >>> common_rows(a, b).values.tolist()
    [True, False, False]
    """
    first, *others = xr.align(*arrays, join="exact", copy=False)
    mask = first.copy(data=np.isfinite(first.data))
    for array in others:
        mask = mask & np.isfinite(array)
    return mask


def _observed(obs: Labelled, qc: xr.DataArray | None, resolution: Resolution) -> tuple[dict, dict]:
    """Return observations, and flags or qualities where there are any, by target."""
    ending = resolution.quality
    if isinstance(obs, xr.Dataset) and "fluxes" in obs:
        qc = obs.get(f"fluxes{ending}") if qc is None else qc
        obs = obs.fluxes
    values = _by_target(obs)
    if qc is not None:
        flags = _by_target(qc, only=list(values))
    elif isinstance(obs, xr.Dataset):
        names = {name: f"{name}{ending.upper()}" for name in values}
        flags = {name: obs[beside] for name, beside in names.items() if beside in obs}
    else:
        flags = {}
    return values, flags


def _by_target(data: Labelled, only: list[str] | None = None) -> dict[str, xr.DataArray]:
    """Return one array per flux; an array without a name is named after the flux in `only`, if there is one."""
    if isinstance(data, xr.Dataset):
        return {str(k): v for k, v in data.data_vars.items() if "time" in v.dims and not str(k).endswith(_BESIDE)}
    if "target" in data.dims:
        return {str(t): with_units(data.isel(target=i)) for i, t in enumerate(data.target.values)}
    if data.name is None and only is not None and len(only) == 1:
        return {only[0]: data}
    return {str(data.name): data}


def _shared_targets(observed: dict, predicted: dict[str, dict]) -> list[str]:
    first = next(iter(predicted.values()))
    shared = [t for t in first if t in observed and all(t in p for p in predicted.values())]
    have = {model: sorted(p) for model, p in predicted.items()}
    if not shared:
        raise SchemaError(f"nothing to score: observed are {sorted(observed)}, predicted are {have}.")
    left = sorted({t for p in predicted.values() for t in p} - set(shared))
    if left:
        logger.info("not scored, since observations or another prediction lack them: %s", ", ".join(left))
    return shared


def _aligned(obs, flags, preds, limit: QualityLimit) -> tuple[xr.DataArray, ...]:
    """Return observations within the row mask, and predictions, with the same coordinates and dims (..., time)."""
    arrays: Sequence[xr.DataArray] = [obs, *preds] if flags is None else [obs, flags, *preds]
    check_same_dims(obs, preds)
    sizes = [dict(a.sizes) for a in arrays]
    arrays = xr.align(*arrays, join="inner", copy=False)
    if not arrays[0].size:
        raise SchemaError(
            f"nothing to score: observation {sizes[0]} and prediction {sizes[-1]} share no site, cell or hour."
        )
    if any(dict(a.sizes) != size for a, size in zip(arrays, sizes, strict=True)):
        logger.info("scored on the common sites and time steps: %s of %s", dict(arrays[0].sizes), sizes)
    dims = [d for d in arrays[0].dims if d != "time"]
    obs, *rest = (a.transpose(*dims, "time") for a in arrays)
    rest = [a.reset_coords(drop=True) for a in rest]  # xarray would drop a coordinate of obs that differs
    mask = common_rows(*rest[flags is not None :])
    if flags is not None and limit.value is not None:
        best = xr.DataArray(best_flags(obs), dims="site" if "site" in obs.dims else ())
        mask = mask & xr.apply_ufunc(limit.accepts, rest[0], best, dask="parallelized", output_dtypes=[bool])
        mask = mask.transpose(*obs.dims)
    return obs.where(mask), *rest[flags is not None :]


def place_moments(pairs: Sequence[tuple[xr.DataArray, ...]], seasons: Resolution | None) -> list[Moments]:
    """Return moments of arrays (place, season or 1, model), one per target, from one pass over the data.

    If `seasons`, the resolution of the time axis, is passed, local seasons are separate.
    """
    import dask

    lazy = [_lazy_moments(obs, preds, _season_code(obs, seasons) if seasons else None) for obs, *preds in pairs]
    found = []
    for values in dask.compute(*lazy):
        # (*places, time block, moment, season, model): time blocks are pooled, places become one axis
        parts = Moments(*np.moveaxis(values, -3, 0))
        whole = pool(parts, axis=-3)
        found.append(Moments(*(x.reshape(-1, *x.shape[-2:]) for x in whole)))
    return found


def _lazy_moments(obs: xr.DataArray, preds: list[xr.DataArray], season: xr.DataArray | None) -> da.Array:
    """Return a Dask array (*places, time block, moment, season, model) of moments."""
    import dask.array as da

    arrays = _same_chunks([obs, *preds] + ([] if season is None else [season.broadcast_like(obs)]))
    kinds, models = 1 if season is None else len(SEASONS), len(preds)
    chunks = (*arrays[0].chunks[:-1], (1,) * arrays[0].numblocks[-1], (len(Moments._fields),), (kinds,), (models,))
    ndim = arrays[0].ndim
    return da.map_blocks(
        _block_moments,
        *arrays,
        models=models,
        dtype=float,
        chunks=chunks,
        new_axis=[ndim, ndim + 1, ndim + 2],
        meta=np.empty((0,) * (ndim + 3)),
    )


def _block_moments(obs: np.ndarray, *rest: np.ndarray, models: int) -> np.ndarray:
    """Return moments over the last axis of one block, (*places, 1, moment, season, model)."""
    preds, season = rest[:models], rest[models:]
    chosen = [obs] if not season else [np.where(season[0] == k, obs, np.nan) for k in range(len(SEASONS))]
    parts = [[np.stack(moments(o, p, axis=-1), -1) for p in preds] for o in chosen]
    return np.moveaxis(np.array(parts), (0, 1), (-2, -1))[..., None, :, :, :]


def _same_chunks(arrays: list[xr.DataArray]) -> list:
    """Return Dask arrays with the same chunks: those of the first lazy array, or blocks of places."""
    bare = [xr.DataArray(a.variable) for a in arrays]
    lazy = next((dict(zip(a.dims, a.chunks, strict=True)) for a in bare if a.chunks is not None), None)
    chunks: dict
    if lazy is None:
        places = max(1, _BLOCK // max(1, bare[0].sizes["time"]))
        chunks = dict.fromkeys(bare[0].dims[1:], -1) | {bare[0].dims[0]: places}
    else:
        chunks = lazy
    return [a.data for a in xr.unify_chunks(*(a if a.chunks is not None else a.chunk(chunks) for a in bare))]


def _season_code(obs: xr.DataArray, resolution: Resolution) -> xr.DataArray:
    """Return the index into `SEASONS` of each (place, time): by local month, half a year later in the south."""
    for name in ("latitude", "longitude"):
        if name not in obs.coords:
            raise SchemaError(f'by="season" needs the coordinate {name}; found {sorted(map(str, obs.coords))}.')
        unknown_places = ~np.isfinite(np.asarray(obs[name].values, float))
        if unknown_places.any() and not (resolution.local and name == "longitude"):
            where = obs["site"].values[unknown_places] if obs[name].dims == ("site",) else [int(unknown_places.sum())]
            raise SchemaError(
                f'by="season" needs the {name} of every place, which is missing at {", ".join(map(str, where[:5]))}: '
                "leave these places out, or assign it."
            )
    shift = xr.apply_ufunc(resolution.solar_shift, obs.longitude, dask="parallelized", output_dtypes=["timedelta64[s]"])
    month = (obs.time + shift).dt.month
    return ((month % 12) // 3 + 2 * (obs.latitude < 0)).astype("int8") % 4


def _places(obs: xr.DataArray) -> xr.Dataset:
    """Return the coordinates of the places, with the dimension place, in the order of their moments."""
    dims = [d for d in obs.dims if d != "time"]
    coords = obs.isel(time=0, drop=True).coords.to_dataset().reset_coords()
    flat = {n: v.broadcast_like(obs.isel(time=0, drop=True)) for n, v in coords.items() if set(v.dims) <= set(dims)}
    out = {n: ("place", v.transpose(*dims).values.ravel()) for n, v in flat.items()}
    if dims == ["site"]:
        out["site"] = ("place", obs.site.values)
    return xr.Dataset(out)


def _attrs(
    limit: QualityLimit, unflagged: list[str], targets: list[str], models: list[str], raised: str
) -> dict[str, object]:
    """Return the row mask in words, and the limit of quality; warn if observations have no quality."""
    option, noun = limit.resolution.option, limit.resolution.quality_noun
    nothing = limit.value is None or unflagged == targets
    if limit.value is None:
        quality = "every finite observation"
    elif unflagged == targets:
        quality = f"every finite observation (no {noun} given)"
    else:
        quality = f"observations with {limit}"
        quality += f" ({raised}, the best that their publication has)" if raised else ""
        quality += f"; of {', '.join(unflagged)} every finite one (no {noun} given)" if unflagged else ""
    if unflagged and limit.value is not None:
        logger.warning(
            "observations of %s carry no quality %s: every finite value is scored, gap-filled ones too. "
            "Pass the cube itself, or qc=cube.fluxes%s; pass %s=None if this is intended.",
            ", ".join(unflagged),
            noun,
            limit.resolution.quality,
            option,
        )
    rows = f"{quality}, where {', '.join(models) + ' all have' if len(models) > 1 else 'the prediction has'} a value"
    return {"row_mask": rows, option: "none" if nothing else limit.value}
