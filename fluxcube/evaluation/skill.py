"""Labelled scores: any prediction against any observation, per class, site, season or network, on one row mask."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.kernels import SCORES, Moments, moments, pool, scores
from fluxcube.schema import PARTS
from fluxcube.variables import table

logger = logging.getLogger(__name__)

#: What predictions can be grouped by.
GROUPS = ("igbp", "koppen", "site", "season", "network")
#: Local seasons, in order; June is summer north of the equator and winter south of it.
SEASONS = ("winter", "spring", "summer", "autumn")

#: What the names of arrays beside values end in, one data variable a name.
_BESIDE = tuple(ending.upper() for ending in PARTS if ending)
_LONG_NAMES = {
    "nse": "Nash-Sutcliffe efficiency",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "bias": "mean of prediction minus observation",
    "corr2": "squared Pearson correlation",
}
_BLOCK = 2_000_000  # pairs scored at once when inputs are in memory: about 100 MB of temporaries

Labelled = xr.Dataset | xr.DataArray


def evaluate(
    obs: Labelled,
    pred: Labelled,
    *,
    by: str | None = None,
    qc: xr.DataArray | None = None,
    max_qc: int | None = 0,
    seen: Iterable[str] | None = None,
) -> xr.Dataset:
    """Score a prediction: pooled over all rows of a group, and as the median over its sites.

    Lazy inputs are computed once, block by block; predictors and chips are never loaded.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        A tower cube (its `fluxes` and `fluxes_qc` are used), a Dataset with one variable per flux, with
        flags as ``<NAME>_QC`` where it has them, or an array (site, time[, target]). Maps
        (time, latitude, longitude) do as well: each cell is then a site.
    pred : xr.Dataset or xr.DataArray
        One variable per flux, as `fluxcube.predict` and `fluxcube.upscale` return, or an array named after its
        flux or with dimension target; in the observation's unit.
    by : {"igbp", "koppen", "site", "season", "network"}, optional
        Coordinate to group by. Seasons are local: by solar month, and southern sites half a year later. A site
        of several networks counts in each. Default: all rows in one.
    qc : xr.DataArray, optional
        Flags of `obs`, where it is an array without its own.
    max_qc : int or None
        Highest flag scored: 0, measured values only, by default; None scores every finite value.
    seen : iterable of str, optional
        Classes that training saw (``by="igbp"`` or ``"koppen"``); the others are marked `zero_shot`.

    Returns
    -------
    xr.Dataset
        nse, rmse, mae, bias (pred - obs), corr2 of all rows together, as in the CarbonSense paper's Table 1;
        ``<score>_site_median`` over sites; n (hours) and n_sites; dims (group, target), or (target,) without
        `by`. Attributes record the row mask.

    Raises
    ------
    SchemaError
        If the two share no flux, no site or no hour, or lack the coordinate to group by.
    UnknownNameError
        If `by` is none of the above.

    References
    ----------
    Nash and Sutcliffe 1970, doi:10.1016/0022-1694(70)90255-6

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube()
    >>> scores = evaluate(cube, cube.fluxes, by="igbp")
    >>> float(scores.nse.sel(group="DBF", target="NEE"))
    1.0
    """
    return _score(obs, {"pred": pred}, by=by, qc=qc, max_qc=max_qc, seen=seen)["pred"]


def compare(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    by: str | None = None,
    qc: xr.DataArray | None = None,
    max_qc: int | None = 0,
    seen: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Score several predictions on one row mask: a row counts where every one of them has a value.

    Parameters
    ----------
    obs, by, qc, max_qc, seen
        As `evaluate` takes them.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        By model name. Fluxes that all of them have are scored.

    Returns
    -------
    pd.DataFrame
        As `skill_table`; its ``attrs`` record the row mask.
    """
    if not predictions:
        raise ConfigError("compare needs at least one prediction, by model name.")
    return skill_table(_score(obs, dict(predictions), by=by, qc=qc, max_qc=max_qc, seen=seen))


def skill_table(scored: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Lay the results of `evaluate` out as one table: a row per target, group and model.

    Parameters
    ----------
    scored : mapping of str to xr.Dataset
        By model name.

    Returns
    -------
    pd.DataFrame
        Columns target, units, group, [zero_shot,] model, n, n_sites, then the scores. Its ``attrs`` are those
        of the first Dataset.
    """
    frames = []
    for name, ds in scored.items():
        if "group" not in ds.dims:
            ds = ds.expand_dims(group=["all"])
        frames.append(ds.to_dataframe(dim_order=["target", "group"]).reset_index().assign(model=name))
    out = pd.concat(frames, ignore_index=True)
    keys = [c for c in ("target", "units", "group", "zero_shot", "model", "n", "n_sites") if c in out]
    # Targets and groups stay in the order they were scored in; models of one group stand side by side.
    order = {c: pd.Categorical(out[c], out[c].unique(), ordered=True) for c in ("target", "group")}
    rows = out.assign(**order).sort_values(["target", "group"], kind="stable").index
    out = out.loc[rows, keys + [c for c in out if c not in keys]].reset_index(drop=True)
    out.attrs = dict(next(iter(scored.values())).attrs)
    return out


def common_rows(*arrays: xr.DataArray) -> xr.DataArray:
    """Return True where every array has a finite value: the rows on which models can be compared.

    Parameters
    ----------
    *arrays : xr.DataArray
        With the same coordinates; may be lazy, and the result then is.

    Examples
    --------
    >>> a, b = xr.DataArray([1.0, np.nan, 3.0]), xr.DataArray([1.0, 2.0, np.nan])
    >>> common_rows(a, b).values.tolist()
    [True, False, False]
    """
    arrays = xr.align(*arrays, join="exact", copy=False)
    mask = np.isfinite(arrays[0])
    for array in arrays[1:]:
        mask = mask & np.isfinite(array)
    return mask


def _score(obs, predictions, *, by, qc, max_qc, seen) -> dict[str, xr.Dataset]:
    """`evaluate` for several models at once."""
    if by is not None and by not in GROUPS:
        raise unknown("group", by, GROUPS)
    observed, flags = _observed(obs, qc)
    predicted = {model: _by_target(pred, only=list(observed)) for model, pred in predictions.items()}
    targets = _shared_targets(observed, predicted)
    pairs = {t: _aligned(observed[t], flags.get(t), [p[t] for p in predicted.values()], max_qc) for t in targets}
    found = _by_place(list(pairs.values()), by == "season")
    places = {t: _places(pair[0]) for t, pair in pairs.items()}
    attrs = _attrs(by, max_qc, [t for t in targets if t not in flags], targets, list(predictions))
    return {
        model: _labelled(
            [_grouped(Moments(*(x[..., i] for x in m)), places[t], by) for t, m in zip(targets, found, strict=True)],
            targets, by, seen, attrs,
        )
        for i, model in enumerate(predictions)
    }  # fmt: skip


def _observed(obs: Labelled, qc: xr.DataArray | None) -> tuple[dict, dict]:
    """Observations and flags (where there are any) by target."""
    if isinstance(obs, xr.Dataset) and "fluxes" in obs:
        qc = obs.fluxes_qc if qc is None and "fluxes_qc" in obs else qc
        obs = obs.fluxes
    values = _by_target(obs)
    if qc is not None:
        flags = _by_target(qc, only=list(values))
    elif isinstance(obs, xr.Dataset):
        flags = {name: obs[f"{name}_QC"] for name in values if f"{name}_QC" in obs}
    else:
        flags = {}
    return values, flags


def _by_target(data: Labelled, only: list[str] | None = None) -> dict[str, xr.DataArray]:
    """Split into one array per flux; an unnamed array takes the name of the only flux there is."""
    if isinstance(data, xr.Dataset):
        return {str(k): v for k, v in data.data_vars.items() if "time" in v.dims and not str(k).endswith(_BESIDE)}
    if "target" in data.dims:
        return {str(t): data.isel(target=i, drop=True) for i, t in enumerate(data.target.values)}
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


def _aligned(obs, flags, preds, max_qc) -> tuple[xr.DataArray, ...]:
    """Observations where the row mask holds, and the predictions, with the same coordinates and dims (..., time)."""
    arrays = [obs, *preds] if flags is None else [obs, flags, *preds]
    sizes = [dict(a.sizes) for a in arrays]
    arrays = xr.align(*arrays, join="inner", copy=False)
    if not arrays[0].size:
        raise SchemaError(
            f"nothing to score: observation {sizes[0]} and prediction {sizes[-1]} share no site, cell or hour."
        )
    if any(dict(a.sizes) != size for a, size in zip(arrays, sizes, strict=True)):
        logger.info("scored on the sites and hours that all have: %s of %s", dict(arrays[0].sizes), sizes)
    dims = [d for d in arrays[0].dims if d != "time"]
    obs, *rest = (a.transpose(*dims, "time") for a in arrays)
    rest = [a.reset_coords(drop=True) for a in rest]  # else a coordinate that differs would vanish from obs
    mask = common_rows(*rest[flags is not None :])
    if flags is not None and max_qc is not None:
        mask = mask & (rest[0] >= 0) & (rest[0] <= max_qc)
    return obs.where(mask), *rest[flags is not None :]


def _by_place(pairs: list[tuple[xr.DataArray, ...]], seasons: bool) -> list[Moments]:
    """Moments of arrays (place, season or 1, model), one per target, from one pass over the data."""
    import dask

    lazy = [_lazy_moments(obs, preds, _season_code(obs) if seasons else None) for obs, *preds in pairs]
    found = []
    for values in dask.compute(*lazy):
        # (*places, time block, moment, season, model): time blocks are pooled, places become one axis
        parts = Moments(*np.moveaxis(values, -3, 0))
        whole = pool(parts, axis=-3)
        found.append(Moments(*(x.reshape(-1, *x.shape[-2:]) for x in whole)))
    return found


def _lazy_moments(obs: xr.DataArray, preds: list[xr.DataArray], season: xr.DataArray | None):
    """Dask array (*places, time block, moment, season, model) of moments."""
    import dask.array as da

    arrays = _same_chunks([obs, *preds] + ([] if season is None else [season.broadcast_like(obs)]))
    kinds, models = 1 if season is None else len(SEASONS), len(preds)
    chunks = (*arrays[0].chunks[:-1], (1,) * arrays[0].numblocks[-1], (len(Moments._fields),), (kinds,), (models,))
    ndim = arrays[0].ndim
    return da.map_blocks(
        _block_moments, *arrays, models=models, dtype=float, chunks=chunks, new_axis=[ndim, ndim + 1, ndim + 2],
        meta=np.empty((0,) * (ndim + 3)),
    )  # fmt: skip


def _block_moments(obs: np.ndarray, *rest: np.ndarray, models: int) -> np.ndarray:
    """Moments over the last axis of one block: (*places, 1, moment, season, model)."""
    preds, season = rest[:models], rest[models:]
    chosen = [obs] if not season else [np.where(season[0] == k, obs, np.nan) for k in range(len(SEASONS))]
    parts = [[np.stack(moments(o, p, axis=-1), -1) for p in preds] for o in chosen]
    return np.moveaxis(np.array(parts), (0, 1), (-2, -1))[..., None, :, :, :]


def _same_chunks(arrays: list[xr.DataArray]) -> list:
    """Dask arrays with one chunking: that of the lazy ones, else blocks of places."""
    bare = [xr.DataArray(a.variable) for a in arrays]
    lazy = next((a for a in bare if a.chunks is not None), None)
    if lazy is None:
        places = max(1, _BLOCK // max(1, bare[0].sizes["time"]))
        chunks = dict.fromkeys(bare[0].dims[1:], -1) | {bare[0].dims[0]: places}
    else:
        chunks = dict(zip(lazy.dims, lazy.chunks, strict=True))
    return [a.data for a in xr.unify_chunks(*(a if a.chunks is not None else a.chunk(chunks) for a in bare))]


def _season_code(obs: xr.DataArray) -> xr.DataArray:
    """Index into `SEASONS` of each (place, time): by local solar month, half a year later in the south."""
    for name in ("latitude", "longitude"):
        if name not in obs.coords:
            raise SchemaError(f'by="season" needs the coordinate {name}; found {sorted(map(str, obs.coords))}.')
    shift = (obs.longitude * 240).round().astype("timedelta64[s]")
    month = (obs.time + shift).dt.month
    return ((month % 12) // 3 + 2 * (obs.latitude < 0)).astype("int8") % 4


def _places(obs: xr.DataArray) -> xr.Dataset:
    """Coordinates of the places, on one dimension, in the order that their moments have."""
    dims = [d for d in obs.dims if d != "time"]
    coords = obs.isel(time=0, drop=True).coords.to_dataset().reset_coords()
    flat = {n: v.broadcast_like(obs.isel(time=0, drop=True)) for n, v in coords.items() if set(v.dims) <= set(dims)}
    out = {n: ("place", v.transpose(*dims).values.ravel()) for n, v in flat.items()}
    if dims == ["site"]:
        out["site"] = ("place", obs.site.values)
    return xr.Dataset(out)


def _grouped(m: Moments, places: xr.Dataset, by: str | None) -> dict[str, dict[str, float]]:
    """Scores by group, from moments of arrays (place, season)."""
    if by == "season":
        return {name: _scores_of(Moments(*(x[:, k] for x in m))) for k, name in enumerate(SEASONS)}
    m = Moments(*(x[:, 0] for x in m))
    if by is None:
        return {"all": _scores_of(m)}
    if by not in places:
        raise SchemaError(f"by={by!r} needs the coordinate {by} on each site; found {sorted(map(str, places))}.")
    labels = [str(label).split(";") if by == "network" else [str(label)] for label in places[by].values]
    groups = sorted({label for several in labels for label in several}) if by != "site" else [x[0] for x in labels]
    return {
        group or "unknown": _scores_of(Moments(*(x[[group in several for several in labels]] for x in m)))
        for group in groups
    }


def _scores_of(m: Moments) -> dict[str, float]:
    """Scores of the places of one group: pooled, and the median over places that have one."""
    pooled, each = scores(pool(m)), scores(m)
    out = {name: float(pooled[name]) for name in SCORES}
    for name in SCORES:
        finite = each[name][np.isfinite(each[name])]
        out[f"{name}_site_median"] = float(np.median(finite)) if finite.size else np.nan
    return out | {"n": int(m.n.sum()), "n_sites": int((m.n > 0).sum())}


def _labelled(results: list[dict], targets: list[str], by, seen, attrs) -> xr.Dataset:
    groups = list(results[0])
    units = [table()[t].units if t in table() else "" for t in targets]
    ds = xr.Dataset(
        {
            name: (("group", "target"), [[r[g][name] for r in results] for g in groups], _score_attrs(name))
            for name in ("n", "n_sites", *SCORES, *(f"{s}_site_median" for s in SCORES))
        },
        coords={
            "group": np.array(groups, object),
            "target": np.array(targets, object),
            "units": ("target", np.array(units, object)),
        },
        attrs=attrs,
    )
    if seen is not None:
        if by not in ("igbp", "koppen"):
            raise ConfigError(f'seen= marks classes that training lacked: it needs by="igbp" or "koppen", not {by!r}.')
        ds = ds.assign_coords(zero_shot=("group", ~np.isin(groups, sorted(seen))))
    return ds if by is not None else ds.isel(group=0, drop=True)


def _score_attrs(name: str) -> dict[str, str]:
    if name in ("n", "n_sites"):
        return {"long_name": {"n": "hours scored", "n_sites": "sites with an hour scored"}[name]}
    score = name.removesuffix("_site_median")
    how = "median over sites of the score of each" if name.endswith("_site_median") else "all rows pooled"
    return {"long_name": f"{_LONG_NAMES[score]}, {how}"}


def _attrs(by, max_qc, unflagged, targets, models) -> dict[str, object]:
    if max_qc is None:
        quality = "every finite observation"
    elif unflagged == targets:
        quality = "every finite observation (no flags given)"
    else:
        quality = f"observations with flag <= {max_qc}"
        quality += f"; of {', '.join(unflagged)} every finite one (no flags given)" if unflagged else ""
    if unflagged and max_qc is not None:
        logger.warning(
            "observations of %s carry no quality flags: every finite value is scored, gap-filled ones too. "
            "Pass the cube itself, or qc=cube.fluxes_qc; max_qc=None says that this is meant.",
            ", ".join(unflagged),
        )
    rows = f"{quality}, where {', '.join(models) + ' all have' if len(models) > 1 else 'the prediction has'} a value"
    return {
        "row_mask": rows,
        "max_qc": "none" if max_qc is None or unflagged == targets else max_qc,
        "by": by or "all",
        "aggregation": "scores: all rows of a group pooled; *_site_median: median over the sites of a group",
    }
