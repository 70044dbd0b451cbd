"""One chunk of a map: the land cells of a block of forcing, in numpy, as a worker computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.inference.predictor import ModelReference, Predictor, Wanted
from fluxcube.samples.features import Block, FeatureSpec, make_block
from fluxcube.variables import BANDS


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a chunk's values are, and what is wanted of them.

    Attributes
    ----------
    reference : Predictor or ModelReference
        The model, or where it is.
    wanted : Wanted
        As the model settled it.
    held, bands : tuple of str
        Predictors and bands that the values have.
    time : (t,) datetime64
        Hours of the values, or days.
    keep : slice
        Hours to give; the others are read for windows, trailing means and whole days.
    days : (d,) datetime64 or None
        Dates of the chips.
    """

    reference: Predictor | ModelReference
    wanted: Wanted
    held: tuple[str, ...]
    bands: tuple[str, ...]
    time: np.ndarray
    keep: slice
    days: np.ndarray | None = None


def predict_cells(values, land, north, east, elevation, igbp, koppen, *more: np.ndarray, piece: Piece) -> np.ndarray:
    """Predict the land cells of one chunk.

    Parameters
    ----------
    values : (latitude, longitude, time, variable) float32
        Predictors that the forcing holds.
    land : (latitude, longitude) bool
        Others are left out.
    north, east, elevation : (latitude, longitude) float
        Degrees, metres.
    igbp, koppen : (latitude, longitude) str
        Classes.
    more : arrays
        Where `piece` has days, chips (latitude, longitude, day, band, y, x), or reflectances without y and x; where the
        model asks for them, embeddings (latitude, longitude, code).
    piece : Piece
        What they are.

    Returns
    -------
    (latitude, longitude, kept time, outputs) float32
        As `Predictor.give` gives them; NaN without land.
    """
    predictor, wanted = piece.reference.load(), piece.wanted
    outputs = predictor.outputs(wanted.uncertainty, wanted.applicability)
    out = np.full((*land.shape, piece.keep.stop - piece.keep.start, len(outputs)), np.nan, np.float32)
    if not land.any():
        return out
    given = list(more)
    chips = given.pop(0)[land] if piece.days is not None else None
    block = cells_block(
        values[land], north[land], east[land], elevation[land], igbp[land], koppen[land], chips, piece, predictor.spec
    )
    codes = given.pop(0)[land] if given else None
    out[land] = predictor.give(block, wanted, piece.keep, codes)
    return out


def encode_cells(values, land, north, east, elevation, igbp, koppen, *, piece: Piece) -> np.ndarray:
    """Encode what the places of a chunk are like, of support windows that lie end to end.

    Parameters
    ----------
    values : (latitude, longitude, windows x length, variable) float32
        Drivers; the other arguments are those of `predict_cells`.

    Returns
    -------
    (latitude, longitude, code) float32
        NaN without land.
    """
    predictor = piece.reference.load()
    out = np.full((*land.shape, predictor.model.code_size), np.nan, np.float32)
    if land.any():
        parts = (values[land], north[land], east[land], elevation[land], igbp[land], koppen[land])
        block = cells_block(*parts, None, piece, predictor.spec)
        windows = block.met.reshape(len(block.met), -1, predictor.model.context, block.met.shape[-1])
        out[land] = predictor.model.encode(windows)
    return out


def cells_block(values, north, east, elevation, igbp, koppen, chips, piece: Piece, spec: FeatureSpec) -> Block:
    """Make features of land cells (n, ...), columns that the forcing does not hold being missing."""
    return make_block(
        in_order(values, piece.held, spec.predictors, -1),
        piece.time,
        north,
        east,
        spec=spec,
        elevation=elevation,
        igbp=igbp.tolist(),
        koppen=koppen.tolist(),
        chips=None if chips is None else in_order(chips, piece.bands, seen_bands(spec), 2),
        days=piece.days,
    )


def seen_bands(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the bands that a model's inputs are made of; in days indices are made of the seven reflectances."""
    return BANDS[:7] if spec.daily else spec.bands


def in_order(values: np.ndarray, held: tuple[str, ...], wanted: tuple[str, ...], axis: int) -> np.ndarray:
    """Order `held` entries of an axis as `wanted`, NaN for those that are not held.

    Examples
    --------
    >>> in_order(np.array([[1.0, 2.0]]), ("TA", "P"), ("P", "WS"), 1)
    array([[ 2., nan]], dtype=float32)
    """
    if held == wanted:
        return values
    values = np.moveaxis(values, axis, 0)
    out = np.full((len(wanted), *values.shape[1:]), np.nan, np.float32)
    for i, name in enumerate(wanted):
        if name in held:
            out[i] = values[held.index(name)]
    return np.moveaxis(out, 0, axis)
