"""Maps: a model over every land cell of a forcing cube, lazily, in Dask chunks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.inference.outputs import as_fluxes, flux_names, masked_inputs, provenance
from fluxcube.inference.predictor import ModelReference, Predictor, as_predictor
from fluxcube.samples.features import make_block
from fluxcube.schema import check_resolution, validate_forcing, validate_maps
from fluxcube.timestamps import HOUR

logger = logging.getLogger(__name__)

#: Cells a side of a chunk, for a forcing that is in memory.
_CELLS = 32
#: Hours of a chunk, unless the hours before it that a model needs ask for more.
_HOURS = 240

_CELL_DIMS = ("latitude", "longitude")
_CHIP_DIMS = ("day", "band", "y", "x")


def upscale(
    model: Predictor | str | os.PathLike,
    forcing: xr.Dataset,
    *,
    targets: Sequence[str] | None = None,
    time: slice | None = None,
    stride: int | None = None,
    uncertainty: bool = False,
    time_chunk: int | None = None,
) -> xr.Dataset:
    """Set up flux maps of a model over a grid; nothing is computed yet.

    Each chunk reads the hours before it that its windows and trailing means need, so that chunks change nothing
    in the result. A block of cells without land costs nothing, and cells without land in others are left out.

    Parameters
    ----------
    model : Predictor, path or Run
        A trained model. Dask's graph holds its path and digest, not its weights.
    forcing : xr.Dataset
        A forcing cube, as `fluxcube.open_forcing` returns it. Its chunks of latitude and longitude are kept:
        rechunk it to change them.
    targets : sequence of str, optional
        Fluxes to map; all by default, with RECO = NEE + GPP where the model has no head for it.
    time : slice, optional
        Hours to map, as ``forcing.sel(time=...)`` takes them; all by default. Earlier hours of the forcing are still
        read, for windows and trailing means.
    stride : int, optional
        Hours that one window gives; see `Predictor.stride_or_default`.
    uncertainty : bool
        Whether to map NAME_std and NAME_spread, too, as `fluxcube.inference.towers.predict` gives them.
    time_chunk : int, optional
        Hours per chunk, a multiple of 24. Default: 240, or as many as a chunk must read before its own.

    Returns
    -------
    xr.Dataset
        Lazy maps: one float32 variable (time, latitude, longitude) per flux, in the units of the variable table,
        NaN where there is no land, in the first hours, whose windows would begin before the forcing, and in hours
        without an observed predictor. The attribute `masked_predictors` names the inputs the model was trained on
        that the grid does not supply.

    Raises
    ------
    SchemaError
        If `forcing` is no forcing cube.
    ConfigError
        If it supplies none of the model's predictors, has days where the model was trained on hours or the reverse, or
        an option does not fit.
    """
    predictor = as_predictor(model)
    forcing = validate_forcing(forcing)
    check_resolution(forcing, predictor.resolution, "this model")
    stride = predictor.stride_or_default(stride)
    predictor.outputs(uncertainty)  # an error, if the model knows nothing about its errors
    names = flux_names(predictor, targets)
    masked = masked_inputs(predictor, forcing, "grid")
    _note_clock(forcing, predictor)
    step = _time_chunk(time_chunk, predictor.hours_before(stride))
    inputs = _inputs(forcing, predictor)
    land = _cells(forcing.land_fraction) > 0
    start, stop = _period(forcing, time)
    parts = [_part(inputs, land, predictor, stride, uncertainty, *hours) for hours in _parts(start, stop, step)]
    stacked = xr.concat(parts, dim="time").transpose("time", *_CELL_DIMS, "target")
    maps = as_fluxes(stacked, predictor, names).assign_coords(_coords(forcing.isel(time=slice(start, stop))))
    return validate_maps(maps.assign_attrs(_attrs(forcing) | provenance(predictor, stride, masked)))


def _note_clock(forcing: xr.Dataset, predictor: Predictor) -> None:
    clock = forcing.attrs.get("clock", "solar")
    if clock != predictor.spec.clock:
        logger.warning(
            "the model was trained on DOY and TOD of clock=%r, the grid has %r: they differ by up to two hours",
            predictor.spec.clock,
            clock,
        )


def _time_chunk(hours: int | None, before: int) -> int:
    if hours is None:
        return max(_HOURS, -(-before // 24) * 24)
    if hours < 24 or hours % 24:
        raise ConfigError(f"time_chunk must be a multiple of 24 hours, found {hours}.")
    return hours


def _inputs(forcing: xr.Dataset, predictor: Predictor) -> xr.Dataset:
    """Collect what chunks of cells are made of: predictors and bands that the model uses, and values of each cell."""
    spec = predictor.spec
    held = [name for name in spec.predictors if name in forcing["variable"].values]
    predictors = forcing.predictors.sel(variable=held)
    if predictors.chunks is None:
        predictors = predictors.chunk(dict.fromkeys(_CELL_DIMS, _CELLS))
    cells = {dim: max(predictors.chunksizes[dim]) for dim in _CELL_DIMS}  # one size, as a store's shards must have
    north, east = xr.broadcast(forcing.latitude, forcing.longitude)
    arrays = {
        "predictors": predictors,
        "land": forcing.land_fraction > 0,
        "north": north,
        "east": east,
        "elevation": forcing.elevation,
        "igbp": forcing.igbp.astype(str),
    }
    bands = []
    if spec.bands and "modis" in forcing:
        bands = [b for b in spec.bands if b in forcing["band"].values]
        arrays["modis"] = forcing.modis.sel(band=bands)
    ds = xr.Dataset({name: a.reset_coords(drop=True) for name, a in arrays.items()})
    return ds.chunk(cells | {"variable": -1}).assign_attrs(held=tuple(held), bands=tuple(bands))


def _period(forcing: xr.Dataset, time: slice | None) -> tuple[int, int]:
    """First hour to map and the one after the last, as positions in the forcing."""
    start, stop, _ = (
        forcing.indexes["time"].slice_indexer(*((time.start, time.stop) if time else ())).indices(forcing.sizes["time"])
    )
    if start >= stop:
        first, last = forcing.time.values[[0, -1]].astype("datetime64[h]")
        raise ConfigError(f"time={time} selects no hour: the forcing runs from {first} to {last}.")
    return start, stop


def _parts(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    return ((at, min(at + step, stop)) for at in range(start, stop, step))


def _part(
    inputs: xr.Dataset, land: np.ndarray, predictor: Predictor, stride: int, uncertainty: bool, start: int, stop: int
) -> xr.DataArray:
    """Lazy predictions (latitude, longitude, time, output) of hours [start, stop)."""
    epoch = int(inputs.time.values[0].astype("datetime64[h]").astype(np.int64))
    # Windows end on whole strides since 1970: read from the first hour that the first of them needs, to the end
    # of the last one. Whatever the chunks, each window then sees the same hours.
    first = (start + epoch) // stride * stride - epoch
    low = max(0, first - predictor.hours_before(stride))
    high = min(inputs.sizes["time"], -(-(stop + epoch) // stride) * stride - epoch)
    hours = inputs.isel(time=slice(low, high)).chunk(time=-1)
    args = [hours.predictors, hours.land, hours.north, hours.east, hours.elevation, hours.igbp]
    core = [["time", "variable"], [], [], [], [], []]
    days = None
    if "modis" in hours:
        # Chips after the last hour cannot matter; any one before may be the latest of its cell.
        hours = hours.isel(day=slice(0, int(np.searchsorted(hours.day.values, hours.time.values[-1] + 24 * HOUR))))
        days = hours.day.values
        args = [*args, hours.modis.chunk(dict.fromkeys(_CHIP_DIMS, -1))]
        core = [*core, list(_CHIP_DIMS)]
    predicted = xr.apply_ufunc(
        _predict_cells, *args, input_core_dims=core, output_core_dims=[["time", "target"]], exclude_dims={"time"},
        dask="parallelized", output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {"time": stop - start, "target": len(predictor.outputs(uncertainty))}},
        kwargs={
            "reference": predictor.reference, "held": inputs.attrs["held"], "bands": inputs.attrs["bands"],
            "time": hours.time.values, "days": days, "stride": stride, "keep": (start - low, stop - low),
            "uncertainty": uncertainty,
        },
    )  # fmt: skip
    predicted = predicted.transpose(*_CELL_DIMS, "time", "target")
    predicted.data = _without_ocean(predicted.data, land)
    return predicted.assign_coords(time=inputs.time.values[start:stop])


def _without_ocean(lazy, land: np.ndarray):
    """Replace chunks without land by NaN, so that neither they nor the forcing under them are ever computed."""
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    rows, columns = (np.concatenate([[0], np.cumsum(c)]) for c in lazy.chunks[:2])
    name = f"land-{tokenize(lazy.name, land)}"
    layer = {}
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            shape = (int(rows[i + 1] - rows[i]), int(columns[j + 1] - columns[j]), *lazy.shape[2:])
            any_land = land[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].any()
            layer[name, i, j, 0, 0] = (lazy.name, i, j, 0, 0) if any_land else (np.full, shape, np.nan, "float32")
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[lazy])
    return da.Array(graph, name, chunks=lazy.chunks, dtype=lazy.dtype)


def _predict_cells(
    values, land, north, east, elevation, igbp, chips=None, *, reference: Predictor | ModelReference,
    held: tuple[str, ...], bands: tuple[str, ...], time, days, stride: int, keep: tuple[int, int],
    uncertainty: bool,
) -> np.ndarray:  # fmt: skip
    """Predict the land cells of one chunk: (latitude, longitude, time, variable) to (..., kept time, target)."""
    predictor = reference.load()
    spec = predictor.spec
    out = np.full((*land.shape, keep[1] - keep[0], len(predictor.outputs(uncertainty))), np.nan, np.float32)
    if not land.any():
        return out
    block = make_block(
        _columns(values[land], held, spec.predictors, -1),
        time,
        north[land],
        east[land],
        spec=spec,
        elevation=elevation[land],
        igbp=igbp[land].tolist(),
        chips=None if chips is None else _columns(chips[land], bands, spec.bands, 2),
        days=days,
    )
    predicted = predictor.predict_block(block, stride=stride, uncertainty=uncertainty)
    out[land] = predicted[:, keep[0] : keep[1]]
    return out


def _columns(values: np.ndarray, held: tuple[str, ...], wanted: tuple[str, ...], axis: int) -> np.ndarray:
    """Order `held` entries of an axis as `wanted`, NaN for those that are not held."""
    if held == wanted:
        return values
    values = np.moveaxis(values, axis, 0)
    out = np.full((len(wanted), *values.shape[1:]), np.nan, np.float32)
    for i, name in enumerate(wanted):
        if name in held:
            out[i] = values[held.index(name)]
    return np.moveaxis(out, 0, axis)


def _coords(forcing: xr.Dataset) -> dict[str, object]:
    time = forcing.time.values
    degrees = {"latitude": ("degrees_north", "Y"), "longitude": ("degrees_east", "X")}
    coords = {
        name: (name, forcing[name].values, {"standard_name": name, "units": units, "axis": axis})
        for name, (units, axis) in degrees.items()
    }
    land = {"standard_name": "land_area_fraction", "long_name": "fraction of land in the cell", "units": "1"}
    return coords | {
        "time": ("time", time, {"standard_name": "time", "long_name": "start of the hour, UTC", "axis": "T",
                                "bounds": "time_bnds"}),
        "time_bnds": (("time", "bnds"), np.stack([time, time + HOUR], 1)),
        "land_fraction": (_CELL_DIMS, _cells(forcing.land_fraction).astype("float64"), land),
        "igbp": (_CELL_DIMS, _cells(forcing.igbp).astype(object), {"long_name": "IGBP class of the cell"}),
    }  # fmt: skip


def _cells(da: xr.DataArray) -> np.ndarray:
    return da.transpose(*_CELL_DIMS).values


def _attrs(forcing: xr.Dataset) -> dict[str, object]:
    from fluxcube import __version__

    kept = {f"forcing_{k}": forcing.attrs[k] for k in ("title", "sources", "licences") if k in forcing.attrs}
    return {
        "Conventions": "CF-1.11",
        "title": "fluxes upscaled from towers",
        "kind": "maps",
        "fluxcube_version": __version__,
        **kept,
    }
