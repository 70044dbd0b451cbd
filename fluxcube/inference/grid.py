"""Maps: predictions for every land cell of a forcing cube, lazily, in Dask chunks."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fluxcube.cubes.forcing import Forcing, as_forcing
from fluxcube.cubes.forcing_surface_grid import BAND, DAY, record_climatology
from fluxcube.cubes.own import with_supplied
from fluxcube.errors import ConfigError, to_type
from fluxcube.inference.beginning import warn_of_beginning
from fluxcube.inference.cells import CHIP_DAYS, Piece, encode_cells, predict_cells
from fluxcube.inference.checks import (
    check_absent,
    check_product,
    check_static_units,
    check_values,
    note_timing,
    region_bytes,
)
from fluxcube.inference.devices import uses_cards
from fluxcube.inference.loading import AnyModel, described
from fluxcube.inference.member_maps import combined_members
from fluxcube.inference.options import Uncertainty
from fluxcube.inference.outputs import (
    as_fluxes,
    check_calibrated,
    flux_names,
    known_applicability,
    log_masked,
    masked_inputs,
    provenance,
)
from fluxcube.inference.predictor import Predictor
from fluxcube.resolution import check_resolution, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.images import ImageKind
from fluxcube.samples.support import support_stops
from fluxcube.samples.surface import STATISTICS, column_of, static_feature
from fluxcube.schema import DEVICE, REGION_BYTES, check_units, validate_forcing, validate_maps
from fluxcube.stores.identity import DIGESTS, input_digests
from fluxcube.stores.origin import named, origin, origin_of
from fluxcube.timestamps import DAY as DAY_LENGTH

if TYPE_CHECKING:
    import dask.array as da

logger = logging.getLogger(__name__)

#: Number of cells along each side of a chunk, for a forcing that is in RAM.
_CELLS = 32
#: Minimum number of hours of a chunk. If a model needs more earlier hours, the chunk is longer, since those and the
#: chips are read again for each chunk.
_HOURS = 720
#: The same in days, for a daily forcing.
_DAYS = 360
#: Maximum number of time steps that a model with streams computes again for each chunk, relative to those of the chunk.
_REPEATED = 0.1

_CELL_DIMS = ("latitude", "longitude")
#: Properties of a cell that are constant in time.
_CELL_PROPERTIES = ("land", "north", "east")
#: Numbers and classes of a cell that every model may use.
_STATICS = ("elevation", "igbp", "koppen")
#: Coordinates of cells that are copied to the maps if the forcing has them.
_COPIED = ("latitude_bnds", "longitude_bnds", "cell_area")


def upscale(
    model: AnyModel,
    forcing: Forcing,
    *,
    targets: Sequence[str] | None = None,
    time: slice | None = None,
    stride: int | None = None,
    min_context: int | None = None,
    precision: str | None = None,
    uncertainty: Uncertainty = False,
    applicability: bool | None = None,
    allow_missing: bool = False,
    allow_other_product: bool = False,
    product_bias: xr.Dataset | None = None,
    time_chunk: int | None = None,
    member_maps: Sequence[xr.Dataset] | None = None,
    device: str | None = None,
    deterministic: bool = False,
) -> xr.Dataset:
    """Set up flux maps of a model over a grid; nothing is computed yet.

    Each chunk reads the earlier time steps that its windows and trailing means need, so that the result does not depend
    on the chunks. A block of cells without land costs nothing, and cells without land in other blocks are left out.

    Parameters
    ----------
    model : Predictor, path or Run, or a sequence of these
        A trained model; several are mixed with equal weights (`fluxcube.load_model`). The Dask graph contains its path
        and digest, not its weights; each process reads it once, onto its GPU if it has one.
    forcing : xr.Dataset, path or URL
        A forcing cube, as `fluxcube.open_forcing` returns it, of the resolution of the model. Its chunks of latitude
        and longitude are kept: rechunk it to change them.
    targets : sequence of str, optional
        Fluxes to map; all by default, with RECO = NEE + GPP_NT if the model has no head for RECO.
    time : slice, optional
        Period to map, as ``forcing.sel(time=...)`` takes it; all by default. Earlier time steps of the forcing are
        still read, for windows and trailing means.
    stride : int, optional
        Number of time steps that one window emits; see `Predictor.stride_or_default`.
    min_context : int, optional
        Map the first time steps of the forcing, too, whose window would begin before it, if the forcing has this number
        of steps up to each, its own included; by default they are missing.
    precision : {"float32", "tf32", "bfloat16"}, optional
        Precision of a network's matrix products; float32 by default. bfloat16 is faster on processors that support it,
        and changes fluxes by one or two percent of their standard deviation; tf32 is for GPUs. Each process compares
        its first chunk with float32, and warns above 0.05 standard deviations.
    uncertainty : bool, "std" or "spread"
        Whether to map NAME_std and NAME_spread, too, as `fluxcube.inference.towers.predict` returns them.
    applicability : bool, optional
        Whether to map `dissimilarity`, the distance of a cell's day from the model's training days in units of their
        mean distance, and `applicable`, 1 where that is within the threshold and 0 elsewhere. By default if the
        checkpoint records its training days; one of an earlier version does not, which is logged.
    allow_missing : bool
        Whether predictors, bands or classes that the model was trained on may be absent from the forcing; they are then
        treated as missing.
    allow_other_product : bool
        Whether the reflectance of the forcing may be of another satellite product than the model was trained on, such
        as MCD43A4 for MOD09GA. The maps record both products.
    product_bias : xr.Dataset, optional
        Bias between the two products at towers, as `fluxcube.product_bias` returns it: the maps record a summary of it.
    time_chunk : int, optional
        Number of time steps per chunk: for an hourly model a multiple of 24, by default 720, or as many earlier hours
        as a chunk must read, and for a model with streams (``attention="banded"``) at least 10 times its context; for a
        daily model any number, by default 360 or more.
    member_maps : sequence of xr.Dataset, optional
        Maps of each member of a mixed ensemble, in their order, of this forcing and with these options, as
        `fluxcube.open_maps` returns them: they are read, instead of computing the members again. The result is the
        same.
    device : str, optional
        Device that computes, as `fluxcube.load_model` takes it, in each process that computes chunks; by default that
        of a model that is loaded already, else "auto". A process of several GPUs uses one of them
        (`fluxcube.devices.find_device`).
    deterministic : bool
        Whether only algorithms that repeat their results bit by bit are used on a GPU.

    Returns
    -------
    xr.Dataset
        Lazy maps: one float32 variable (time, latitude, longitude) per flux, in the units of the variable table,
        NaN where there is no land, in the first time steps, whose windows would begin before the forcing (a warning
        counts them), and in time steps without an observed predictor. For a forcing with several chips per cell, each
        flux is the mean over them, weighted by the land area that they represent, and NAME_variance is the variance
        among them. The attribute `masked_predictors` names the inputs of the model that the grid lacks.

    Raises
    ------
    SchemaError
        If `forcing` is not a forcing cube.
    ConfigError
        If it lacks inputs of the model (all of them, or any without `allow_missing`), has reflectance of another
        satellite product (without `allow_other_product`), has another resolution than the model or no cell with land,
        or an option does not fit; if its values cannot be in the units of the variable table, or are infinite. Lazy
        values are checked when the maps are computed (`fluxcube.inference.checks.check_chunk`).

    References
    ----------
    Meyer & Pebesma 2021 (dissimilarity, area of applicability), doi:10.1111/2041-210X.13650.

    Examples
    --------
    >>> import tempfile
    >>> import fluxcube as fc
    >>> from fluxcube.simulation.example import example_cube, example_forcing
    >>> run = fc.fit(example_cube(sites=12, days=6), model="sw-linear", out=tempfile.mkdtemp(), bands=())
    >>> maps = upscale(run, example_forcing(days=2))
    >>> dict(maps.NEE.sizes), int(maps.NEE[12].isnull().sum())  # one cell is ocean
    ({'time': 48, 'latitude': 3, 'longitude': 4}, 1)
    """
    forcing = as_forcing(forcing)
    predictor = described(model, device)
    source = named(origin(forcing), "forcing") | named(origin_of(forcing.attrs, "era5"), "era5")
    forcing = validate_forcing(forcing)
    check_resolution(forcing, predictor.resolution, "this model")
    forcing = with_supplied(forcing, (*predictor.spec.predictors, *predictor.spec.static))
    check_units(forcing)
    check_static_units(predictor.spec, forcing)
    options = predictor.options(
        stride=stride,
        min_context=min_context,
        precision=precision,
        uncertainty=uncertainty,
        applicability=known_applicability(predictor, applicability),
        deterministic=deterministic,
    )
    names = flux_names(predictor, targets)
    check_calibrated(predictor, names, uncertainty)
    masked = masked_inputs(predictor, forcing, "grid")
    check_absent(masked, allow_missing, predictor.spec)
    log_masked(masked, "grid")
    products = check_product(predictor, forcing, allow_other_product, bias=product_bias)
    _note_clock(forcing, predictor)
    note_timing(predictor, forcing)
    if forcing.predictors.chunks is None:  # of lazy values, each chunk is checked when it is computed
        check_values(forcing)
    step = _time_chunk(time_chunk, predictor, options.stride)
    inputs = _inputs(forcing, predictor)
    piece = Piece(
        reference=predictor.reference,
        options=options,
        time=forcing.time.values,
        keep=slice(0, 0),
        **inputs.attrs,
    )
    land = _land(forcing)
    start, stop = _period(forcing, time)
    warn_of_beginning(predictor, options, forcing.time.values, start, stop)
    if member_maps is not None:
        chunks = {"time": step, **{dim: max(inputs.chunksizes[dim]) for dim in _CELL_DIMS}}
        stacked = combined_members(predictor, member_maps, forcing, slice(start, stop), options, chunks)
    else:
        embeddings = _embeddings(inputs, predictor, piece)
        edges = range(start, stop, step)
        parts = [_part(inputs, embeddings, land, predictor, piece, at, min(at + step, stop)) for at in edges]
        stacked = xr.concat(parts, dim="time").transpose("time", *_CELL_DIMS, "target")
    maps = as_fluxes(stacked, predictor, names, options).assign_coords(_coords(forcing.isel(time=slice(start, stop))))
    size = region_bytes(
        forcing, predictor.spec, hours=step, before=predictor.hours_before(options.stride), outputs=len(maps.data_vars)
    )
    attrs = _attrs(forcing) | source | provenance(predictor, options, masked)
    attrs |= products | {DIGESTS: input_digests(forcing, predictor.settings), REGION_BYTES: size}
    attrs[DEVICE] = predictor.device if uses_cards(predictor.model) else "cpu"
    return validate_maps(maps.assign_attrs(attrs))


def _land(forcing: xr.Dataset) -> np.ndarray:
    """Return which cells (latitude, longitude) have land (ConfigError if none has)."""
    land = _cells(forcing.land_fraction) > 0
    if not land.any():
        raise ConfigError(
            f"no cell of the grid has land (land_fraction is 0 at all {land.size} cells), so that maps would be empty: "
            "choose a box with land, and check the land-sea mask and the values of the forcing."
        )
    return land


def _note_clock(forcing: xr.Dataset, predictor: Predictor) -> None:
    clock = forcing.attrs.get("clock", "solar")
    if clock != predictor.spec.clock and not predictor.spec.time_resolution.local:  # dates are the same on both clocks
        logger.warning(
            "the model was trained on DOY and TOD of clock=%r, the grid has %r: they differ by up to two hours",
            predictor.spec.clock,
            clock,
        )


def _time_chunk(steps: int | None, predictor: Predictor, stride: int) -> int:
    day = predictor.spec.steps(1)
    if steps is None:
        repeated = [single.model.context / _REPEATED for single in predictor.singles if single.model.streams]
        before = max(predictor.hours_before(stride), *map(math.ceil, repeated), 0)
        return max(_HOURS if day == 24 else _DAYS, -(-before // day) * day)
    if steps < day or steps % day:
        name, unit = to_type(python="time_chunk", shell="--time-chunk"), "hours" if day == 24 else "days"
        raise ConfigError(f"{name}: expected a multiple of {day} {unit}, found {steps}.")
    return steps


def _inputs(forcing: xr.Dataset, predictor: Predictor) -> xr.Dataset:
    """Collect the inputs of all chunks: predictors and bands that the model uses, and properties of each cell.

    The attributes are those of `Piece` that describe the arrays.
    """
    spec = predictor.spec
    present = [name for name in spec.predictors if name in forcing["variable"].values]
    predictors = forcing.predictors.sel(variable=present)
    if predictors.chunks is None:
        predictors = predictors.chunk(dict.fromkeys(_CELL_DIMS, _CELLS))
    cells = {dim: max(predictors.chunksizes[dim]) for dim in _CELL_DIMS}  # one size, as a store's shards must have
    north, east = xr.broadcast(forcing.latitude, forcing.longitude)
    statics = {name: _static(forcing, name) for name in dict.fromkeys((*_STATICS, *spec.static))}
    statics = {name: array for name, array in statics.items() if array is not None}
    satellite = _satellite(forcing, spec)
    if any("block" in array.dims for array in satellite.values()):
        satellite = {
            name: array if "block" in array.dims else array.expand_dims(block=forcing.sizes["block"], axis=2)
            for name, array in satellite.items()
        }
        satellite |= {"share": forcing.block_weight, "block_igbp": forcing.block_igbp.astype(str)}
    # All blocks of a cell share these, which have no dimension block.
    images = {kind.array: _images(forcing, kind) for kind in spec.images if kind.array in forcing}
    arrays = {"predictors": predictors, "land": forcing.land_fraction > 0, "north": north, "east": east}
    ds = xr.Dataset({k: a.reset_coords(drop=True) for k, a in (arrays | statics | images | satellite).items()})
    whole: dict[str, int] = {dim: -1 for dim in ("variable", "block", "statistic", "feature") if dim in ds.dims}
    labels = {
        name: tuple(map(str, ds[dim].values))
        for name, dim in (("bands", "band"), ("surface_bands", "surface_band"), ("features", "feature"))
        if dim in ds.dims
    }
    image_bands = {kind.array: tuple(map(str, ds[kind.dims[1]].values)) for kind in spec.images if kind.array in images}
    return ds.chunk(cells | whole).assign_attrs(
        {"variables": tuple(present), "bands": (), "statics": tuple(statics), "image_bands": image_bands}
        | {"arrays": (*statics, *images, *satellite)}
        | labels
    )


def _images(forcing: xr.Dataset, kind: ImageKind) -> xr.DataArray:
    """Return the images of a kind (latitude, longitude, day, band, y, x), with the bands that a model uses."""
    array = forcing[kind.array].transpose(*_CELL_DIMS, *kind.dims)
    return array.sel({kind.dims[1]: [name for name in kind.bands if name in array[kind.dims[1]].values]})


def _static(forcing: xr.Dataset, name: str) -> xr.DataArray | None:
    """Return a number or class of the cells; None for one that a block computes itself, or that the forcing lacks."""
    if name in ("igbp", "koppen"):
        return (forcing[name] if name in forcing.coords else xr.full_like(forcing.igbp, "")).astype(str)
    array = forcing[name] if name in forcing and name not in _CELL_DIMS else None
    return array.transpose(*_CELL_DIMS) if array is not None and set(array.dims) == set(_CELL_DIMS) else None


def _satellite(forcing: xr.Dataset, spec: FeatureSpec) -> dict[str, xr.DataArray]:
    """Return the chips, the surface reflectance and its climatology that a model uses, if the forcing has them."""
    arrays = {}
    if "modis" in spec.satellite_arrays and "modis" in forcing:
        arrays["chips"] = forcing.modis.sel(band=[b for b in spec.bands if b in forcing["band"].values])
    if spec.surface_bands and "surface" in forcing:
        surface = forcing.surface
        day, band = surface.dims[-2:]
        surface = surface.rename({old: new for old, new in ((day, DAY), (band, BAND)) if old != new})
        surface = surface.sel({BAND: [b for b in spec.surface_bands if b in surface[BAND].values]})
        arrays["surface"] = surface
        if features := _climatology_features(spec):
            arrays["climatology"] = _climatology(forcing, surface, features)
    return arrays


def _climatology_features(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the bands and indices whose long-term statistics a model uses."""
    columns = [column.feature for column in map(column_of, spec.surface) if column.kind == "season"]
    return tuple(dict.fromkeys([*columns, *(pair[0] for name in spec.static if (pair := static_feature(name)))]))


def _climatology(forcing: xr.Dataset, surface: xr.DataArray, features: Sequence[str]) -> xr.DataArray:
    """Return long-term statistics of the cells: those of the forcing, else those of all of its days.

    They never depend on the chunk of a map.
    """
    if "surface_climatology" in forcing:
        known = forcing.surface_climatology.reindex(statistic=list(STATISTICS))
        if set(features) <= set(map(str, known["feature"].values)):
            return known.sel(feature=list(features)).astype("float32")
    logger.warning(
        "the forcing has no climatology of %s: long-term statistics are those of its own days, %s to %s",
        ", ".join(features),
        *surface[DAY].values[[0, -1]].astype("datetime64[D]"),
    )
    lazy = surface if surface.chunks else surface.chunk(dict.fromkeys(_CELL_DIMS, _CELLS))
    known = record_climatology(lazy)
    return known.sel(feature=[name for name in features if name in known["feature"].values])


def _period(forcing: xr.Dataset, time: slice | None) -> tuple[int, int]:
    """Return the first time step to map and the one after the last, as positions in the forcing."""
    if not isinstance(time, slice | None):
        raise ConfigError(f"time: expected a slice, such as slice('2018-06', '2018-08'), found {time!r}.")
    start, stop, _ = (
        forcing.indexes["time"].slice_indexer(*((time.start, time.stop) if time else ())).indices(forcing.sizes["time"])
    )
    if start >= stop:
        first, last = forcing.time.values[[0, -1]].astype("datetime64[h]")
        words = "" if time is None else f"--time {time.start or first}/{time.stop or last}"
        shown = to_type(python=f"time={time}", shell=words)
        raise ConfigError(f"{shown} selects no time step: the forcing runs from {first} to {last}.")
    return start, stop


def _part(
    inputs: xr.Dataset,
    embeddings: xr.DataArray | None,
    land: np.ndarray,
    predictor: Predictor,
    piece: Piece,
    start: int,
    stop: int,
) -> xr.DataArray:
    """Return lazy predictions (latitude, longitude, time, output) of time steps [start, stop)."""
    low, high = _read(inputs.time.values, predictor, piece, start, stop)
    hours = inputs.isel(time=slice(low, high)).chunk(time=-1)
    piece = replace(piece, time=hours.time.values, keep=slice(start - low, stop - low))
    if "chips" in hours:
        # Chips after the last hour have no effect; any earlier one may be the latest of its cell, until it is too old.
        hours = hours.isel(day=_days_of_use(hours.day.values, hours.time.values, CHIP_DAYS + 2, 1))
        piece = replace(piece, days=hours.day.values)
    if "surface" in hours:
        spec = predictor.spec
        before = 2 + max(spec.surface_days, CHIP_DAYS if spec.bands else 0)
        hours = hours.isel({DAY: _days_of_use(hours[DAY].values, hours.time.values, before, spec.lookahead + 1)})
        piece = replace(piece, surface_days=hours[DAY].values)
    for kind in (kind for kind in predictor.spec.images if kind.array in hours):
        day = kind.dims[0]
        hours = hours.isel({day: _days_of_use(hours[day].values, hours.time.values, kind.hold_days + 2, 1)})
        piece = replace(piece, image_days={**piece.image_days, kind.array: hours[day].values})
    args, core = _arguments(hours, piece)
    if embeddings is not None:
        args, core = [*args, embeddings], [*core, ["embedding"]]
        piece = replace(piece, arrays=(*piece.arrays, "embeddings"))
    predicted = xr.apply_ufunc(
        predict_cells,
        *args,
        input_core_dims=core,
        output_core_dims=[["time", "target"]],
        exclude_dims={"time"},
        dask="parallelized",
        output_dtypes=[np.float32],
        kwargs={"piece": piece},
        dask_gufunc_kwargs={"output_sizes": {"time": stop - start, "target": piece.outputs(predictor)}},
    )
    predicted = predicted.transpose(*_CELL_DIMS, "time", "target")
    predicted.data = _without_ocean(predicted.data, land)
    return predicted.assign_coords(time=inputs.time.values[start:stop])


def _arguments(inputs: xr.Dataset, piece: Piece) -> tuple[list[xr.DataArray], list[list[str]]]:
    """Return what `predict_cells` gets, each in one chunk beside the cells, and the dimensions of these."""
    args = [inputs[name] for name in ("predictors", *_CELL_PROPERTIES, *piece.arrays)]
    core = [[str(dim) for dim in array.dims if dim not in _CELL_DIMS] for array in args]
    return [array.chunk(dict.fromkeys(dims, -1)) for array, dims in zip(args, core, strict=True)], core


def _days_of_use(days: np.ndarray, time: np.ndarray, before: int, after: int) -> slice:
    """Return the views from some days before the first time step to some days after the last; at least one."""
    start, stop = np.searchsorted(days, time[[0, -1]] + [-before * DAY_LENGTH, after * DAY_LENGTH])
    return slice(min(int(start), len(days) - 1), max(1, int(stop)))


def _read(time: np.ndarray, predictor: Predictor, piece: Piece, start: int, stop: int) -> tuple[int, int]:
    """Return the first time step to read for time steps [start, stop), and the one after the last.

    Windows end on whole strides since 1970, and days are those of UTC. The range begins with the first step that the
    first window or day needs, and ends with the last one, so that the result does not depend on the chunks.
    """
    epoch = int(time[0].astype(f"datetime64[{predictor.spec.step}]").astype(np.int64))
    low, high = _whole(start, stop, epoch, piece.options.stride)
    low -= predictor.hours_before(piece.options.stride)
    if piece.options.applicability:
        first, last = _whole(start, stop, epoch, predictor.spec.steps(1))
        low, high = min(low, first - max(0, predictor.spec.memory_steps - 1)), max(high, last)
    return max(0, low), min(len(time), high)


def _whole(start: int, stop: int, epoch: int, step: int) -> tuple[int, int]:
    """Widen [start, stop) to whole multiples of `step` since 1970."""
    return (start + epoch) // step * step - epoch, -(-(stop + epoch) // step) * step - epoch


def _embeddings(inputs: xr.Dataset, predictor: Predictor, piece: Piece) -> xr.DataArray | None:
    """Return lazy embeddings (latitude, longitude, embedding) of every cell, if the model uses them."""
    parts = [
        _embeddings_of(inputs, single, replace(piece, reference=single.reference), years)
        for single in predictor.singles
        if (years := single.support_years) is not None
    ]
    return xr.concat(parts, "embedding").chunk(embedding=-1) if parts else None


def _embeddings_of(inputs: xr.Dataset, predictor: Predictor, piece: Piece, years: Sequence[int]) -> xr.DataArray:
    time, length = inputs.time.values, predictor.model.context
    stops = support_stops(time, length, predictor.model.support_windows, years=years)
    if not len(stops):
        period = f" in {', '.join(map(str, years))}" if years else ""
        raise ConfigError(
            f"the support windows of this model need {length} consecutive days{period}, but the forcing has none: it "
            f"runs from {time[0]:.10} to {time[-1]:.10}; pass a longer forcing."
        )
    windows = inputs.isel(time=(stops[:, None] + np.arange(-length, 0)).ravel()).chunk(time=-1)
    piece = replace(piece, time=windows.time.values, surface_days=windows[DAY].values if DAY in windows else None)
    args, core = _arguments(windows, piece)
    return xr.apply_ufunc(
        encode_cells,
        *args,
        input_core_dims=core,
        output_core_dims=[["embedding"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        kwargs={"piece": piece},
        dask_gufunc_kwargs={"output_sizes": {"embedding": predictor.model.embedding_size}},
    )


def _without_ocean(lazy: Any, land: np.ndarray) -> da.Array:
    """Replace chunks without land by NaN, so that neither they nor their forcing are ever computed."""
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    rows, columns = (np.concatenate([[0], np.cumsum(c)]) for c in lazy.chunks[:2])
    name = f"land-{tokenize(lazy.name, land)}"
    layer: dict[Any, Any] = {}
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            shape = (int(rows[i + 1] - rows[i]), int(columns[j + 1] - columns[j]), *lazy.shape[2:])
            any_land = land[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].any()
            layer[name, i, j, 0, 0] = (lazy.name, i, j, 0, 0) if any_land else (np.full, shape, np.nan, "float32")
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[lazy])
    return da.Array(graph, name, chunks=lazy.chunks, dtype=lazy.dtype)


def _coords(forcing: xr.Dataset) -> dict[str, object]:
    time, resolution = forcing.time.values, resolution_of(forcing)
    degrees = {"latitude": ("degrees_north", "Y"), "longitude": ("degrees_east", "X")}
    coords = {
        name: (name, forcing[name].values, forcing[name].attrs | {"standard_name": name, "units": units, "axis": axis})
        for name, (units, axis) in degrees.items()
    }
    land = {"standard_name": "land_area_fraction", "long_name": "fraction of land in the cell", "units": "1"}
    return coords | {
        "time": (
            "time",
            time,
            {"standard_name": "time", "long_name": resolution.map_time_name, "axis": "T", "bounds": "time_bnds"},
        ),
        "time_bnds": (("time", "bnds"), np.stack([time, time + resolution.step], 1)),
        "land_fraction": (_CELL_DIMS, _cells(forcing.land_fraction).astype("float64"), land),
        "igbp": (_CELL_DIMS, _cells(forcing.igbp).astype(object), {"long_name": "IGBP class of the cell"}),
        **{name: forcing[name].variable.compute() for name in _COPIED if name in forcing},
    }


def _cells(da: xr.DataArray) -> np.ndarray:
    return da.transpose(*_CELL_DIMS).values


def _attrs(forcing: xr.Dataset) -> dict[str, object]:
    from fluxcube import __version__

    kept = {f"forcing_{k}": forcing.attrs[k] for k in ("title", "sources", "licences") if k in forcing.attrs}
    return {
        "Conventions": "CF-1.11",
        "title": "fluxes upscaled from towers",
        "kind": "maps",
        **resolution_of(forcing).attrs,
        "fluxcube_version": __version__,
        **kept,
    }
