"""One chunk of a map: the land cells of a block of forcing, in numpy, as a worker computes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fluxcube.inference.predictor import ModelReference, Predictor, Wanted
from fluxcube.samples.features import NO_CHIP, Block, FeatureSpec, make_block

#: Days after which a chip is no longer looked at on a grid, where nothing newer is known; `open_forcing` keeps as many
#: before its first hour. Reading all earlier ones would take more memory the longer a run.
CHIP_DAYS = 32


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
    several : bool
        Whether a cell has several blocks of pixels, each with chips, a share of the land and a class of its own.
    """

    reference: Predictor | ModelReference
    wanted: Wanted
    held: tuple[str, ...]
    bands: tuple[str, ...]
    time: np.ndarray
    keep: slice
    days: np.ndarray | None = None
    several: bool = False

    def outputs(self, predictor: Predictor) -> int:
        """Return how many arrays a chunk gives: the model's outputs and, of several blocks, the fluxes' variances."""
        variances = len(predictor.spec.targets) if self.several else 0
        return len(predictor.outputs(self.wanted.uncertainty, self.wanted.applicability)) + variances


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
        Where `piece` has days, chips (latitude, longitude, day, band, y, x), or reflectances without y and x; of
        several blocks (latitude, longitude, block, ...), and after them their shares and classes (latitude, longitude,
        block); where the model asks for them, embeddings (latitude, longitude, code).
    piece : Piece
        What they are.

    Returns
    -------
    (latitude, longitude, kept time, outputs) float32
        As `Predictor.give` gives them, of several blocks their mean; NaN without land.
    """
    predictor = piece.reference.load()
    out = np.full((*land.shape, piece.keep.stop - piece.keep.start, piece.outputs(predictor)), np.nan, np.float32)
    if not land.any():
        return out
    given = [_of_land(x, land) for x in more]
    chips = given.pop(0) if piece.days is not None else None
    shares, classes = (given.pop(0), given.pop(0)) if piece.several else (None, None)
    codes = given.pop(0) if given else None
    values = _of_land(values, land)
    north, east, elevation, igbp, koppen = (x[land] for x in (north, east, elevation, igbp, koppen))

    def predict(some, chips, igbp) -> np.ndarray:
        of_cells = (x[some] for x in (values, north, east, elevation))
        block = cells_block(*of_cells, igbp, koppen[some], chips, piece, predictor.spec)
        return predictor.give(
            _without_old_chips(block), piece.wanted, piece.keep, None if codes is None else codes[some]
        )

    if piece.several:
        out[land] = _mean_of_blocks(predict, chips, shares, classes, len(predictor.spec.targets))
    else:
        out[land] = predict(slice(None), chips, igbp)
    return out


def _mean_of_blocks(predict: Callable, chips, shares, classes, targets: int) -> np.ndarray:
    """Mean of what a model gives for the blocks of cells, by their shares, and the variance of its fluxes among them.

    Standard deviations and dissimilarity are averaged, too: the blocks of a cell err together.
    """
    shares = np.nan_to_num(np.asarray(shares, float))
    shares[shares.sum(1) == 0, 0] = 1.0  # a cell of which nothing is known
    total, square, weight = 0.0, 0.0, 0.0
    for k in range(shares.shape[1]):
        some = shares[:, k] > 0
        if not some.any():
            continue
        given = predict(some, chips[some, k], classes[some, k]).astype(np.float64)
        every = np.full((len(shares), *given.shape[1:]), np.nan)
        every[some] = given
        seen = np.isfinite(every) * shares[:, k, None, None]
        every = np.nan_to_num(every)
        total, square, weight = total + seen * every, square + seen * every**2, weight + seen
    weight = np.where(weight > 0, weight, np.nan)
    mean = total / weight
    variance = np.maximum(square / weight - mean**2, 0.0)[..., :targets]
    return np.concatenate([mean, variance], -1).astype(np.float32)


def _of_land(values: np.ndarray, land: np.ndarray) -> np.ndarray:
    """Return what is there at land cells (n, ...), without a copy where all are."""
    return values.reshape(land.size, *values.shape[2:]) if land.all() else values[land]


def _without_old_chips(block: Block) -> Block:
    """Put a chip of nothing where another is `CHIP_DAYS` old and none has come.

    How old the latest chip is then decides whether a window sees it, not where the chunk that it lies in begins.
    """
    hour, most = block.chip_hour, 24 * CHIP_DAYS
    later = np.append(hour[:, 1:], np.full((len(hour), 1), NO_CHIP), 1) if hour.size else hour
    ends = np.where((hour < NO_CHIP) & (later - hour > most), hour + most, NO_CHIP)
    ends[ends >= block.met.shape[1]] = NO_CHIP
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
    return spec.row.bands if spec.surface else spec.bands


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
