"""Prediction of one chunk of a map, in numpy, as a worker computes it: the land cells of a block of forcing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fluxcube.inference.loading import load_reference
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.predictor import Predictor, Reference
from fluxcube.resolution import HOURLY
from fluxcube.samples.features import NO_CHIP, Block, FeatureSpec, make_block
from fluxcube.samples.surface import SurfaceRecord

#: Days after which a chip on a grid is no longer used, even without a newer one; `open_forcing` keeps as many days
#: before its first hour. Reading all earlier chips would take more RAM the longer a run is.
CHIP_DAYS = 32


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
        Predictors and bands of the values, in their order.
    time : (t,) datetime64
        Time steps of the values.
    keep : slice
        Time steps to return; the others are read for windows, trailing means and whole days.
    days : (d,) datetime64 or None
        Dates of the chips.
    several : bool
        Whether a cell has several blocks of pixels, each with its own chips, share of the land and class.
    """

    reference: Reference
    options: PredictionOptions
    variables: tuple[str, ...]
    bands: tuple[str, ...]
    time: np.ndarray
    keep: slice
    days: np.ndarray | None = None
    several: bool = False

    def outputs(self, predictor: Predictor) -> int:
        """Return the number of outputs of a chunk: those of the model and, for several blocks, variances of fluxes."""
        variances = len(predictor.spec.targets) if self.several else 0
        return len(predictor.outputs(self.options.uncertainty, self.options.applicability)) + variances


def predict_cells(
    values: np.ndarray,
    land: np.ndarray,
    north: np.ndarray,
    east: np.ndarray,
    elevation: np.ndarray,
    igbp: np.ndarray,
    koppen: np.ndarray,
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
    north, east, elevation : (latitude, longitude) float
        Degrees, metres.
    igbp, koppen : (latitude, longitude) str
        Classes.
    more : arrays
        If `piece` has days, chips (latitude, longitude, day, band, y, x), or reflectances without y and x; for several
        blocks (latitude, longitude, block, ...), followed by their shares and classes (latitude, longitude, block). If
        the model uses them, embeddings (latitude, longitude, embedding).
    piece : Piece
        Description of the values.

    Returns
    -------
    (latitude, longitude, kept time, outputs) float32
        As `Predictor.predict` returns them, averaged over several blocks; NaN without land.
    """
    predictor = load_reference(piece.reference)
    out = np.full((*land.shape, piece.keep.stop - piece.keep.start, piece.outputs(predictor)), np.nan, np.float32)
    if not land.any():
        return out
    arrays = [_of_land(x, land) for x in more]
    chips = arrays.pop(0) if piece.days is not None else None
    shares, classes = (arrays.pop(0), arrays.pop(0)) if piece.several else (None, None)
    embeddings = arrays.pop(0) if arrays else None
    values = _of_land(values, land)
    north, east, elevation, igbp, koppen = (x[land] for x in (north, east, elevation, igbp, koppen))

    def predict(some, chips, igbp) -> np.ndarray:
        places = (north[some], east[some], elevation[some], igbp, koppen[some])

        def features(spec: FeatureSpec) -> Block:
            return _without_old_chips(cells_block(values[some], *places, chips=chips, piece=piece, spec=spec))

        chosen = None if embeddings is None else embeddings[some]
        return predictor.predict_places(features, piece.options, piece.keep, chosen)

    if piece.several:
        out[land] = _mean_of_blocks(predict, chips, shares, classes, len(predictor.spec.targets))
    else:
        out[land] = predict(slice(None), chips, igbp)
    return out


def _mean_of_blocks(predict: Callable, chips, shares, classes, targets: int) -> np.ndarray:
    """Return the mean of a model's outputs over the blocks of cells, by shares, and the variance of fluxes among them.

    Standard deviations and dissimilarity are averaged, too, since the errors of the blocks of a cell are correlated.
    """
    shares = np.nan_to_num(np.asarray(shares, float))
    shares[shares.sum(1) == 0, 0] = 1.0  # a cell whose shares are unknown
    total = square = weight = np.zeros(())
    for k in range(shares.shape[1]):
        some = shares[:, k] > 0
        if not some.any():
            continue
        estimates = predict(some, chips[some, k], classes[some, k]).astype(np.float64)
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


def _without_old_chips(block: Block) -> Block:
    """Insert an empty chip where another is `CHIP_DAYS` old and there is no newer one.

    Whether a window uses the latest chip then depends on its age, not on where the chunk begins.
    """
    hour, max_age = block.chip_hour, HOURLY.steps_per_day * CHIP_DAYS
    later = np.append(hour[:, 1:], np.full((len(hour), 1), NO_CHIP), 1) if hour.size else hour
    ends = np.where((hour < NO_CHIP) & (later - hour > max_age), hour + max_age, NO_CHIP)
    ends[ends >= block.inputs.shape[1]] = NO_CHIP
    if not (ends < NO_CHIP).any():
        return block
    hours = np.concatenate([hour, ends], 1)
    chips = np.concatenate([block.chips, np.full_like(block.chips, np.nan)], 1)
    order = np.argsort(hours, axis=1, kind="stable")
    return replace(
        block,
        chip_hour=np.take_along_axis(hours, order, 1),
        chips=np.take_along_axis(chips, order[..., None, None], 1),
    )


def encode_cells(
    values: np.ndarray,
    land: np.ndarray,
    north: np.ndarray,
    east: np.ndarray,
    elevation: np.ndarray,
    igbp: np.ndarray,
    koppen: np.ndarray,
    *,
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
        places = (north[land], east[land], elevation[land], igbp[land], koppen[land])
        block = cells_block(values[land], *places, chips=None, piece=piece, spec=predictor.spec)
        windows = block.inputs.reshape(len(block.inputs), -1, predictor.model.context, block.inputs.shape[-1])
        out[land] = predictor.model.encode(windows)
    return out


def cells_block(
    values: np.ndarray,
    north: np.ndarray,
    east: np.ndarray,
    elevation: np.ndarray,
    igbp: np.ndarray,
    koppen: np.ndarray,
    *,
    chips: np.ndarray | None,
    piece: Piece,
    spec: FeatureSpec,
) -> Block:
    """Return features of land cells (n, ...); columns that the forcing lacks are missing."""
    return make_block(
        in_order(values, piece.variables, spec.predictors, -1),
        piece.time,
        north,
        east,
        spec=spec,
        statics={"elevation": elevation, "igbp": igbp.tolist(), "koppen": koppen.tolist()},
        chips=None if chips is None or spec.surface_bands else in_order(chips, piece.bands, seen_bands(spec), 2),
        days=piece.days,
        surface=None
        if chips is None or piece.days is None or not spec.surface_bands
        else SurfaceRecord(in_order(chips, piece.bands, seen_bands(spec), 2), piece.days, seen_bands(spec)),
    )


def seen_bands(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the bands that model inputs are computed from."""
    return spec.surface_bands or spec.bands


def in_order(values: np.ndarray, present: tuple[str, ...], names: tuple[str, ...], axis: int) -> np.ndarray:
    """Reorder the `present` entries of an axis as `names`, NaN for those that are absent.

    Examples
    --------
    >>> in_order(np.array([[1.0, 2.0]]), ("TA", "P"), ("P", "WS"), 1)
    array([[ 2., nan]], dtype=float32)
    """
    if present == names:
        return values
    values = np.moveaxis(values, axis, 0)
    out = np.full((len(names), *values.shape[1:]), np.nan, np.float32)
    for i, name in enumerate(names):
        if name in present:
            out[i] = values[present.index(name)]
    return np.moveaxis(out, 0, axis)
