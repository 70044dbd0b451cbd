"""Forward passes: which windows of a block pass a model together, and in which precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from fluxcube.inference.devices import on_gpu
from fluxcube.inference.moved import Source
from fluxcube.inference.options import PredictionOptions
from fluxcube.models.base import Batch, Model
from fluxcube.models.ensemble import Ensemble, takes_table
from fluxcube.samples.features import Block
from fluxcube.samples.windows import flatten

#: Number of windows of one forward pass: 64 to 256 are fastest on a CPU.
_WINDOWS = 128
#: Number of time steps of one pass of a model of feature rows, which costs next to nothing.
_ROWS = 16384
#: Number of windows of one forward pass on a GPU, which has room for more and is no faster for few.
_WINDOWS_GPU = 2048
#: Minimum number of windows at consecutive time steps for which sliding-window inference is faster.
_MIN_SLIDING = 16


def predict_scaled(
    model: Model,
    block: Block,
    options: PredictionOptions,
    keep: slice,
    out: np.ndarray,
    derive: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write scaled predictions of some time steps of a block into an array.

    Parameters
    ----------
    model : Model
        A trained model.
    block : Block
        Features of n places over t time steps; embeddings follow the static numbers if the model uses them.
    options : PredictionOptions
        Stride, minimum context, and whether standard deviations are computed.
    keep : slice
        Time steps to predict.
    out : (n, kept time steps, quantities x targets) float32
        Changed in place where a window emits.
    derive : callable, optional
        Computes one more output, the last one, from the scaled estimates of a model: of each member of an ensemble, of
        which it is the mean.
    """
    length, steps = model.context, block.inputs.shape[1]
    place, stop = window_ends(block, length, options, keep)
    source = Source.of(flatten(_lengthened(block, int(stop.max(initial=0)) - steps)), model)
    sliding, table = options.stride == 1 and model.sliding_window, takes_table(model)
    for p, s, seen, emitted in _passes(place, stop, length, options.stride, _pass_size(model), sliding):
        batch = Batch.of(source.gather(p, s, seen, table=table))
        estimates = _estimates(model, batch, bool(options.uncertainty), derive)
        step = s[:, None] + np.arange(-emitted, 0)
        enough = s[:, None] - np.arange(emitted - 1, -1, -1) >= options.min_context
        inside = (step >= keep.start) & (step < keep.stop) & ((s[:, None] >= length) | enough)
        places = np.broadcast_to(p[:, None], step.shape)[inside]
        out[places, step[inside] - keep.start] = estimates[:, -emitted:][inside]


def _estimates(
    model: Model, batch: Batch, uncertainty: bool, derive: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """Return scaled estimates (B, T, quantities x targets), followed by the derived output, if there is one."""
    if derive is None or not isinstance(model, Ensemble):
        estimates = model.predict_all(batch) if uncertainty else model.predict(batch)
        each = [estimates]
    else:
        each = model.each(batch, uncertainty=uncertainty)
        estimates = model.combine(each, uncertainty=uncertainty)
    if derive is None:
        return estimates
    derived = np.mean([derive(one) for one in each], 0, dtype=np.float64)
    return np.concatenate([estimates, derived.astype(np.float32)], -1)


def window_ends(block: Block, length: int, options: PredictionOptions, keep: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return place and end (exclusive) of every window that emits an observed time step of those to keep."""
    stride, epoch = options.stride, block.first_hour
    # The first time step to predict is the last of the shortest window, or lies within the first whole one.
    earliest = max(keep.start + 1, min(options.min_context, length))
    stops = np.arange(-((epoch + earliest) // -stride) * stride - epoch, keep.stop + stride, stride)
    stops = stops[stops - stride < keep.stop]
    low, high = np.maximum(stops - stride, keep.start), np.minimum(stops, keep.stop)
    seen = np.zeros((len(block.observed), block.inputs.shape[1] + 1), np.int64)
    np.cumsum(block.observed, axis=1, out=seen[:, 1:])
    place, window = np.nonzero(seen[:, high] > seen[:, low])
    return place, stops[window]


def _passes(
    place: np.ndarray, stop: np.ndarray, length: int, stride: int, size: int, sliding: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Yield the windows of each forward pass: places, ends, number of time steps, and number of emitted steps.

    With sliding-window inference, windows that end at consecutive time steps are one series; others are batched.
    """
    alone = np.ones(len(stop), bool)
    if sliding:
        ends = np.flatnonzero((np.diff(stop) != 1) | (np.diff(place) != 0)) + 1
        for run in np.split(np.arange(len(stop)), ends):
            for at in range(0, len(run) - _MIN_SLIDING + 1, _WINDOWS):
                part = run[at : at + _WINDOWS]
                alone[part] = False
                yield place[part[-1:]], stop[part[-1:]], length + len(part) - 1, len(part)
    place, stop = place[alone], stop[alone]
    for at in range(0, len(stop), size):
        yield place[at : at + size], stop[at : at + size], length, stride


def _lengthened(block: Block, steps: int) -> Block:
    """Append time steps without a value."""
    if steps <= 0:
        return block
    gap = np.full((len(block.inputs), steps, block.inputs.shape[2]), np.nan, np.float32)
    return dataclasses.replace(block, inputs=np.concatenate([block.inputs, gap], axis=1))


def _pass_size(model: Model) -> int:
    """Return the number of windows of one forward pass."""
    if model.networks:
        return _WINDOWS_GPU if on_gpu(model) else _WINDOWS
    return _WINDOWS if model.emits > 1 else max(_WINDOWS, _ROWS // model.context)
