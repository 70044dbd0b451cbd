"""Forward passes: which windows of a block pass a model together, and in which precision."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from fluxcube.inference.devices import on_gpu
from fluxcube.inference.memory import pass_size, run_pass
from fluxcube.inference.moved import Source
from fluxcube.inference.options import PredictionOptions
from fluxcube.models.base import Batch, Model
from fluxcube.models.ensemble import Ensemble, takes_table
from fluxcube.samples.features import Block
from fluxcube.samples.windows import flatten, gather

#: Number of windows of one forward pass: 64 to 256 are fastest on a CPU.
_WINDOWS = 128
#: Number of time steps of one pass of a model of feature rows, which costs next to nothing.
_ROWS = 16384
#: Maximum number of windows of one forward pass on a GPU, as far as its memory has room for them.
_WINDOWS_GPU = 2048
#: Number of time steps of one pass of a model with streams, of one or several places.
_STREAM_STEPS = 4096
#: The same on a GPU.
_STREAM_STEPS_GPU = 262144
#: Pieces of a series have a multiple of this number of time steps, so that those of many places pass together.
_STREAM_ROUND = 32
#: Minimum number of windows at consecutive time steps for which sliding-window inference is faster.
_MIN_SLIDING = 16

#: Places (B,), time steps (B, emitted), which of them are kept (B, emitted), and the batch of a forward pass.
Pass = tuple[np.ndarray, np.ndarray, np.ndarray, Batch]


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
    if model.streams:
        passes = _stream_passes(model, block, options, keep)
    else:
        passes = _window_passes(model, block, options, keep)
    call = functools.partial(_estimates, uncertainty=bool(options.uncertainty), derive=derive)
    for p, step, inside, batch in passes:
        estimates = run_pass(model, batch, options.device, call)
        places = np.broadcast_to(p[:, None], step.shape)[inside]
        out[places, step[inside] - keep.start] = estimates[:, -step.shape[1] :][inside]


def _window_passes(model: Model, block: Block, options: PredictionOptions, keep: slice) -> Iterator[Pass]:
    """Yield the forward passes of a model of windows, which emit the last time steps of each."""
    length, steps = model.context, block.inputs.shape[1]
    place, stop = window_ends(block, length, options, keep)
    source = Source.of(flatten(_lengthened(block, int(stop.max(initial=0)) - steps)), model)
    sliding, table = options.stride == 1 and model.sliding_window, takes_table(model)
    for p, s, seen, emitted in _passes(place, stop, length, options.stride, _pass_size(model), sliding):
        step = s[:, None] + np.arange(-emitted, 0)
        enough = s[:, None] - np.arange(emitted - 1, -1, -1) >= options.min_context
        inside = (step >= keep.start) & (step < keep.stop) & ((s[:, None] >= length) | enough)
        yield p, step, inside, Batch.of(source.gather(p, s, seen, table=table))


def _stream_passes(model: Model, block: Block, options: PredictionOptions, keep: slice) -> Iterator[Pass]:
    """Yield the forward passes of a model with streams, which emit every time step of a piece of a series.

    A piece begins `context` - 1 steps before the first step that it is needed for, or at the first step of the block.
    The first steps of a block, whose context would begin before it, come from a piece that begins there, as training
    windows do: no time steps are invented before it.
    """
    length = model.context
    place, start, stop = _stream_pieces(block, length, options, keep, on_gpu(model))
    series, table = flatten(_lengthened(block, int(stop.max(initial=0)) - block.inputs.shape[1])), takes_table(model)
    size = stop - start
    for steps in np.unique(size).tolist():
        same = np.flatnonzero(size == steps)
        count = max(1, (_STREAM_STEPS_GPU if on_gpu(model) else _STREAM_STEPS) // steps)
        for at in range(0, len(same), count):
            p, first, s = (array[same[at : at + count]] for array in (place, start, stop))
            step = first[:, None] + np.arange(steps)
            whole = np.arange(steps) >= length - 1
            inside = whole | ((first[:, None] == 0) & (step + 1 >= options.min_context))
            inside &= (step >= keep.start) & (step < keep.stop)
            yield p, step, inside, Batch.of(gather(series, p, s, steps, table=table, repeat_images=True))


def _stream_pieces(
    block: Block, length: int, options: PredictionOptions, keep: slice, gpu: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return place, first time step and end of each piece of a series that passes a model with streams at once."""
    place, stop = window_ends(block, length, options, keep)
    if not len(stop):
        return place, stop, stop
    # A new piece begins at a gap that is longer than the steps that it would have to repeat, and after some steps.
    new = np.ones(len(stop), bool)
    new[1:] = (np.diff(place) != 0) | (np.diff(stop) >= length)
    if not gpu:
        heads = np.flatnonzero(new)
        since = stop - np.repeat(stop[heads], np.diff(np.append(heads, len(stop))))
        part = since // max(_STREAM_STEPS, length)
        new[1:] |= np.diff(part) != 0
    heads = np.flatnonzero(new)
    tails = np.append(heads[1:], len(stop)) - 1
    start = np.maximum(stop[heads] - length, 0)
    # Pieces of equal length pass together: causal steps may follow the last one that is needed.
    size = -(-(stop[tails] - start) // _STREAM_ROUND) * _STREAM_ROUND
    return place[heads], start, start + size


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
        return pass_size(model, usual=_WINDOWS, maximum=_WINDOWS_GPU)
    return _WINDOWS if model.emits > 1 else max(_WINDOWS, _ROWS // model.context)
