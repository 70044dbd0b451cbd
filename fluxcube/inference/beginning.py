"""The first time steps of a forcing, of which a model with a context has no estimate."""

from __future__ import annotations

import logging

import numpy as np

from fluxcube.errors import to_type
from fluxcube.inference.mixed import MixedPredictor
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.predictor import Predictor
from fluxcube.tabletext import counted

logger = logging.getLogger(__name__)


def warn_of_beginning(
    predictor: Predictor, options: PredictionOptions, time: np.ndarray, start: int, stop: int
) -> None:
    """Warn if the first of the time steps [start, stop) of a forcing get no value, since windows would begin before it.

    Parameters
    ----------
    predictor : Predictor
        The model.
    options : PredictionOptions
        Stride and shortest window.
    time : np.ndarray
        Times of the forcing.
    start, stop : int
        Time steps that are mapped, as positions in the forcing.
    """
    number, missing = stop - start, min(count_missing(predictor, options, time), stop) - start
    if missing <= 0:
        return
    steps = predictor.spec.time_resolution.steps
    every = counted(number, steps.removesuffix("s"))
    share = (
        f"the first {missing:,} of {every} ({100 * missing / number:.1f} %)" if missing < number else f"all of {every}"
    )
    how = to_type(python="min_context=1", shell="--min-context 1")
    logger.warning(
        "no value in %s: the model looks back %d %s; begin the forcing earlier, or pass %s to predict from fewer %s",
        share,
        options.min_context,
        steps,
        how,
        steps,
    )


def count_missing(predictor: Predictor, options: PredictionOptions, time: np.ndarray) -> int:
    """Return the number of first time steps of a forcing without an estimate; of a mixed ensemble, of any member."""
    if isinstance(predictor, MixedPredictor):
        members = zip(predictor.parts, options.members, strict=True)
        return max(count_missing(part, own, time) for part, own in members)
    epoch = int(time[0].astype(f"datetime64[{predictor.spec.step}]").astype(np.int64))
    length = predictor.model.context
    steps = np.arange(1, min(options.min_context, length))  # numbers of the time steps that a short window precedes
    if predictor.model.streams:
        return len(steps)
    ends = -((steps + epoch) // -options.stride) * options.stride - epoch  # of their windows
    return int((ends < length).sum())
