"""Prediction of one chunk of a map, in numpy, as a worker computes it: the land cells of a block of forcing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fluxcube.inference.checks import check_chunk
from fluxcube.inference.loading import load_reference
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.predictor import Predictor, Reference
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import Block, FeatureSpec, make_block
from fluxcube.samples.images import ImageRecord, expire
from fluxcube.samples.surface import SurfaceRecord
from fluxcube.timestamps import DAY

#: Days after which a chip on a grid is no longer used, even without a newer one; `open_forcing` keeps as many days
#: before its first hour. Reading all earlier chips would take more RAM the longer a run is.
CHIP_DAYS = 32
#: Arrays that have the dimension block where a cell has several blocks.
_OF_BLOCKS = ("chips", "surface", "climatology", "share", "block_igbp")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Description of the values of a chunk, and options of the prediction.

    Attributes
    ----------
    reference : Reference
        The model, or its folder.
    options : PredictionOptions
        Stride, precision and outputs.
    variables, bands : tuple of str
        Predictors, and bands of the chips, in their order.
    time : (t,) datetime64
        Time steps of the values.
    keep : slice
        Time steps to return; the others are read for windows, trailing means and whole days.
    arrays : tuple of str
        Names of the arrays that `predict_cells` gets after the longitudes, in their order: those of `statics`; images
        of other kinds, "chips", "surface", "climatology" (of the surface reflectance), "share" and "block_igbp" (for
        several blocks) and "embeddings", where there are any.
    statics : tuple of str
        Names of the properties of the cells, such as elevation and classes.
    days : (d,) datetime64 or None
        Dates of the chips.
    surface_days : (d,) datetime64 or None
        Dates of the surface reflectance.
    surface_bands, features : tuple of str
        Bands of the surface reflectance, and features of its climatology, in their order.
    image_days, image_bands : mapping of str to array and to tuple of str
        Dates and bands of the images of other kinds, by the name of their array, such as "images_sentinel2".
    """

    reference: Reference
    options: PredictionOptions
    variables: tuple[str, ...]
    bands: tuple[str, ...]
    time: np.ndarray
    keep: slice
    arrays: tuple[str, ...] = ()
    statics: tuple[str, ...] = ()
    days: np.ndarray | None = None
    surface_days: np.ndarray | None = None
    surface_bands: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    image_days: Mapping[str, np.ndarray] = field(default_factory=dict)
    image_bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether a cell has several blocks of pixels, each with its own images, share of the land and class."""
        return "share" in self.arrays

    def outputs(self, predictor: Predictor) -> int:
        """Return the number of outputs of a chunk: those of the model and, for several blocks, variances of fluxes."""
        variances = len(predictor.spec.targets) if self.several else 0
        return len(predictor.outputs(self.options.uncertainty, self.options.applicability)) + variances


@dataclass(frozen=True, eq=False)
class LandCells:
    """The land cells of a chunk.

    Attributes
    ----------
    values : (n, t, variable) float32
        Predictors.
    north, east : (n,) float
        Degrees.
    arrays : mapping of str to (n, ...) array
        Further arrays by name (`Piece.arrays`).
    """

    values: np.ndarray
    north: np.ndarray
    east: np.ndarray
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, land: np.ndarray, piece: Piece, *arrays: np.ndarray) -> LandCells:
        """Return the land cells of values, latitudes, longitudes and `Piece.arrays` (latitude, longitude, ...)."""
        values, north, east, *more = (_of_land(array, land) for array in arrays)
        return cls(values, north, east, dict(zip(piece.arrays, more, strict=True)))

    def block(self, number: int) -> LandCells:
        """Return the cells that have a block of this number, with its images, class and statistics."""
        some = self.arrays["share"][:, number] > 0
        arrays = {
            name: array[some, number] if name in _OF_BLOCKS else array[some] for name, array in self.arrays.items()
        }
        return LandCells(self.values[some], self.north[some], self.east[some], arrays | {"igbp": arrays["block_igbp"]})


def predict_cells(
    values: np.ndarray,
    land: np.ndarray,
    north: np.ndarray,
    east: np.ndarray,
    *more: np.ndarray,
    piece: Piece,
) -> np.ndarray:
    """Predict the land cells of one chunk.

    Parameters
    ----------
    values : (latitude, longitude, time, variable) float32
        Predictors of the forcing, in the order of `Piece.variables`.
    land : (latitude, longitude) bool
        Whether a cell has land; others are left out.
    north, east : (latitude, longitude) float
        Degrees.
    more : (latitude, longitude, ...) arrays
        `Piece.arrays`: numbers and classes of the cells; chips (day, band, y, x), surface reflectance (day, band) and
        its climatology (statistic, feature), for several blocks with the dimension block before these; shares and
        classes of the blocks; embeddings.
    piece : Piece
        Description of the values.

    Returns
    -------
    (latitude, longitude, kept time, outputs) float32
        As `Predictor.predict` returns them, averaged over several blocks; NaN without land.

    Raises
    ------
    ConfigError
        If values of a predictor are infinite, or cannot be in the units of the variable table.
    """
    predictor = load_reference(piece.reference)
    out = np.full((*land.shape, piece.keep.stop - piece.keep.start, piece.outputs(predictor)), np.nan, np.float32)
    if not land.any():
        return out
    cells = LandCells.of(land, piece, values, north, east, *more)
    check_chunk(cells.values, piece.variables, predictor.spec.resolution)
    lead = lead_of(piece, predictor.model.context, predictor.spec)
    keep = slice(piece.keep.start - lead, piece.keep.stop - lead)

    def predict(some: LandCells) -> np.ndarray:
        def features(spec: FeatureSpec) -> Block:
            block = cells_block(some, piece, spec, lead)
            # Views of a point are left out when they are old at towers, too.
            return _without_old_chips(block, piece.options.stride) if "modis" in spec.satellite_arrays else block

        return predictor.predict_places(features, piece.options, keep, some.arrays.get("embeddings"))

    out[land] = _mean_of_blocks(predict, cells, len(predictor.spec.targets)) if piece.several else predict(cells)
    return out


def _mean_of_blocks(predict: Callable[[LandCells], np.ndarray], cells: LandCells, targets: int) -> np.ndarray:
    """Return the mean of a model's outputs over the blocks of cells, by shares, and the variance of fluxes among them.

    Standard deviations and dissimilarity are averaged, too, since the errors of the blocks of a cell are correlated.
    """
    shares = np.nan_to_num(np.asarray(cells.arrays["share"], float))
    shares[shares.sum(1) == 0, 0] = 1.0  # a cell whose shares are unknown
    cells = replace(cells, arrays={**cells.arrays, "share": shares})
    total = square = weight = np.zeros(())
    for k in range(shares.shape[1]):
        some = shares[:, k] > 0
        if not some.any():
            continue
        estimates = predict(cells.block(k)).astype(np.float64)
        every = np.full((len(shares), *estimates.shape[1:]), np.nan)
        every[some] = estimates
        seen = np.isfinite(every) * shares[:, k, None, None]
        every = np.nan_to_num(every)
        total, square, weight = total + seen * every, square + seen * every**2, weight + seen
    weight = np.where(weight > 0, weight, np.nan)
    mean = total / weight
    variance = np.maximum(square / weight - mean**2, 0.0)[..., :targets]
    return np.concatenate([mean, variance], -1).astype(np.float32)


def _of_land(values: np.ndarray, land: np.ndarray) -> np.ndarray:
    """Return the values of land cells (n, ...), without a copy if all cells have land."""
    return values.reshape(land.size, *values.shape[2:]) if land.all() else values[land]


def _without_old_chips(block: Block, stride: int) -> Block:
    """Insert an empty chip where another is `CHIP_DAYS` old and there is no newer one.

    Whether a window uses the latest chip then depends on its age, not on where the chunk begins.
    """
    day = HOURLY.steps_per_day
    # The last windows end some steps after the block, in which they have no values.
    until = block.inputs.shape[1] + max(stride, day)
    chips, hour = expire(block.chips, block.chip_hour, day * CHIP_DAYS, until=until)
    return replace(block, chips=chips, chip_hour=hour)


def encode_cells(
    values: np.ndarray,
    land: np.ndarray,
    north: np.ndarray,
    east: np.ndarray,
    *more: np.ndarray,
    piece: Piece,
) -> np.ndarray:
    """Compute the embeddings of the cells of a chunk from their support windows.

    Parameters
    ----------
    values : (latitude, longitude, windows x length, variable) float32
        Predictors in support windows, one after the other; the other arguments are those of `predict_cells`.

    Returns
    -------
    (latitude, longitude, embedding) float32
        NaN without land.
    """
    predictor = load_reference(piece.reference)
    out = np.full((*land.shape, predictor.model.embedding_size), np.nan, np.float32)
    if land.any():
        block = cells_block(LandCells.of(land, piece, values, north, east, *more), piece, predictor.spec)
        windows = block.inputs.reshape(len(block.inputs), -1, predictor.model.context, block.inputs.shape[-1])
        out[land] = predictor.model.encode(windows)
    return out


def lead_of(piece: Piece, context: int, spec: FeatureSpec) -> int:
    """Return the number of first time steps of a chunk that only enter trailing means.

    No window of a time step to return reaches back to them, nor does the description of its day.

    Examples
    --------
    >>> hours = np.datetime64("2020-01-01T00", "h") + np.arange(960)
    >>> options = PredictionOptions(stride=1, min_context=32)
    >>> piece = Piece(
    ...     reference=None, options=options, variables=("TA",), bands=(), time=hours, keep=slice(760, 960)
    ... )
    >>> lead_of(piece, 32, FeatureSpec(predictors=("TA",)))
    720
    """
    first, day = int(piece.time[0].astype(f"datetime64[{spec.step}]").astype(np.int64)), spec.steps(1)
    start = piece.keep.start - context
    return max(0, start - (start + first) % day)


def cells_block(cells: LandCells, piece: Piece, spec: FeatureSpec, lead: int = 0) -> Block:
    """Return features of land cells without the first `lead` time steps; columns that the forcing lacks are missing."""
    arrays, surface = cells.arrays, None
    if "surface" in arrays and piece.surface_days is not None:
        surface = SurfaceRecord(
            np.asarray(arrays["surface"], np.float32),
            piece.surface_days,
            piece.surface_bands,
            arrays.get("climatology"),
            piece.features,
        )
    chips = "chips" in arrays and bool(spec.bands)
    used = slice(0, 0)
    if chips and piece.days is not None:  # earlier chips are too old for the first time step of the block
        used = slice(int(np.searchsorted(piece.days, piece.time[lead] - (CHIP_DAYS + 2) * DAY)), None)
    return make_block(
        in_order(cells.values, piece.variables, spec.predictors, -1),
        piece.time,
        cells.north,
        cells.east,
        spec=spec,
        statics={
            name: arrays[name].tolist() if arrays[name].dtype.kind in "OU" else arrays[name] for name in piece.statics
        },
        chips=in_order(arrays["chips"][:, used], piece.bands, spec.bands, 2) if chips else None,
        days=None if piece.days is None else piece.days[used],
        surface=surface,
        images={
            kind.name: ImageRecord(arrays[kind.array], piece.image_days[kind.array], piece.image_bands[kind.array])
            for kind in spec.images
            if kind.array in arrays
        },
        lead=lead,
    )


def in_order(values: np.ndarray, present: tuple[str, ...], names: tuple[str, ...], axis: int) -> np.ndarray:
    """Reorder the `present` entries of an axis as `names`, NaN for those that are absent.

    Examples
    --------
    >>> in_order(np.array([[1.0, 2.0]]), ("TA", "P"), ("P", "WS"), 1)
    array([[ 2., nan]], dtype=float32)
    """
    if present == names:
        return values
    shape = list(values.shape)
    shape[axis] = len(names)
    out = np.full(shape, np.nan, np.float32)
    ours, theirs = np.moveaxis(out, axis, 0), np.moveaxis(values, axis, 0)
    for i, name in enumerate(names):
        if name in present:
            ours[i] = theirs[present.index(name)]
    return out
