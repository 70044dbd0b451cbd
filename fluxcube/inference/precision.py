"""Precision: how far the estimates of a model in a low precision are from those in float32, on a part of the data."""

from __future__ import annotations

import dataclasses
import logging
import threading
import weakref

import numpy as np

from fluxcube.devices import PRECISION_LIMIT, record_precision, warn_of_precision
from fluxcube.inference.devices import device_of, matrix_precision
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.passes import predict_scaled
from fluxcube.models.base import Model
from fluxcube.samples.features import Block

log = logging.getLogger(__name__)

#: Numbers of places and of time steps on which a precision is checked.
_PLACES, _STEPS = 4, 96

_errors: weakref.WeakKeyDictionary[Model, dict[tuple[str, str], float]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def known_error(model: Model, precision: str) -> float | None:
    """Return the error of a precision of a model in this process; None if it was not checked."""
    return _errors.get(model, {}).get((precision, device_of(model)))


def check_precision(model: Model, block: Block, options: PredictionOptions, keep: slice, digest: str = "") -> None:
    """Compare a precision with float32 when a model first uses it; warn above `PRECISION_LIMIT`.

    Parameters
    ----------
    model : Model
        A model with networks; nothing is checked for others.
    block : Block
        Features that are predicted: a few places and time steps are predicted in both precisions.
    options : PredictionOptions
        With the precision.
    keep : slice
        Time steps that are predicted.
    digest : str
        Digest of the model, by which the error is recorded for maps.
    """
    if options.precision == "float32" or not model.networks:
        return
    with _lock:
        known = _errors.setdefault(model, {})
        key = options.precision, device_of(model)
        if key not in known:
            warn_of_precision(key[1], options.precision)
            error = _error(model, block, options, keep)
            if error is None:  # nothing is observed there
                return
            known[key] = error
            record_precision(digest, error)
            level = logging.WARNING if error > PRECISION_LIMIT else logging.INFO
            log.log(
                level,
                "precision %s changes the fluxes by %.4f of their standard deviation (root mean square of the worst "
                "flux, on %s)%s",
                options.precision,
                error,
                key[1],
                f", which is more than {PRECISION_LIMIT}: pass precision='float32'" if error > PRECISION_LIMIT else "",
            )


def _error(model: Model, block: Block, options: PredictionOptions, keep: slice) -> float | None:
    """Return the root mean square difference from float32 in scaled units, of the worst flux; None if unknown."""
    observed = np.zeros_like(block.observed)
    places = np.unique(np.linspace(0, len(observed) - 1, _PLACES).astype(int))
    first = max(keep.start, options.min_context - 1)
    seen = np.flatnonzero(block.observed[places, first : keep.stop].any(0))
    if not len(seen):
        return None
    part = slice(first + int(seen[0]), min(keep.stop, first + int(seen[0]) + _STEPS))
    observed[places, part] = block.observed[places, part]
    sample = dataclasses.replace(block, observed=observed)
    plain = dataclasses.replace(options, uncertainty=False)
    both = []
    for precision in ("float32", options.precision):
        out = np.full((len(observed), part.stop - part.start, model.n_targets), np.nan, np.float32)
        with matrix_precision(model, precision):
            predict_scaled(model, sample, plain, part, out)
        both.append(out.astype(np.float64)[observed[:, part]])
    squares = np.square(both[1] - both[0])
    squares = squares[np.isfinite(squares).all(1)]
    return float(np.sqrt(squares.mean(0)).max()) if len(squares) else None
