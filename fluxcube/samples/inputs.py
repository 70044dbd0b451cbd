"""Normalised model inputs of a block, computed for a few places at a time, so that they stay in the CPU's cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.normalisation import Limits, bounds_of, limits, scales
from fluxcube.resolution import HOURLY
from fluxcube.samples.memory import trailing_means
from fluxcube.samples.spec import FeatureSpec
from fluxcube.variables import COMPUTED

#: Number of values of the inputs that are computed at once: a few megabytes.
_VALUES = 2**19


def model_inputs(
    values: np.ndarray,
    surface: np.ndarray,
    spec: FeatureSpec,
    *,
    qc: np.ndarray | None = None,
    best: int | np.ndarray = 0,
    lead: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised inputs of places, and the time steps with at least one predictor that is not computed.

    Parameters
    ----------
    values : (n, t, P) float
        `spec.predictors` in the units of the variable table; NaN is missing.
    surface : (n, t - lead, S) float
        `spec.surface`, which are not scaled by bounds any more.
    spec : FeatureSpec
        Columns and masks.
    qc : (n, t, P) int, optional
        Flags; a value flagged above `spec.predictor_max_qc` is masked.
    best : int or (n, 1, 1) int
        Best flag that a place can have; it is not masked.
    lead : int
        Number of first time steps that only enter the trailing means.

    Returns
    -------
    (n, t - lead, V) float32
        `spec.inputs`; NaN is missing.
    (n, t - lead) bool
    """
    n, steps, _ = values.shape
    columns = _Columns.of(spec)
    inputs = np.empty((n, steps - lead, len(spec.inputs)), np.float32)
    observed = np.empty((n, steps - lead), bool)
    size = max(1, _VALUES // max(1, steps * len(spec.inputs)))
    for at in range(0, n, size):
        some = slice(at, at + size)
        # Columns come first in here, so that each is one contiguous row of numbers for every operation.
        raw = np.array(values[some].transpose(0, 2, 1), np.float32, order="C")
        if qc is not None:
            flags = best[some] if isinstance(best, np.ndarray) and best.ndim else best
            raw[~HOURLY.limit(spec.predictor_max_qc).accepts(qc[some], flags).transpose(0, 2, 1)] = np.nan
        scaled = columns.scaled(raw, surface[some].transpose(0, 2, 1), lead)
        observed[some] = np.isfinite(scaled[:, columns.measured]).any(1)
        inputs[some] = scaled.transpose(0, 2, 1)
    return inputs, observed


@dataclass(frozen=True, eq=False)
class _Columns:
    """Positions, limits and scales of the inputs of a spec, the latter (columns, 1) float32.

    Attributes
    ----------
    limits : Limits
        Limits of the predictors.
    strict : pair of (V, 1) or None
        Bounds that no scaled input may exceed; None if float32 represents all bounds exactly, since values within the
        limits, and their means, then never do.
    middle, width : (V, 1)
        Normalised inputs are (x - middle) / width.
    mean, spread : (V, 1)
        Second scaling of the inputs; None for no second scaling.
    remembered : (m,) int
        Predictors that have trailing means.
    measured : (k,) int
        Predictors that are not computed; all if there are no others.
    spans : tuple of int
        Numbers of time steps of the trailing means.
    surface : slice
        Columns of the surface reflectance.
    """

    limits: Limits
    strict: tuple[np.ndarray, np.ndarray] | None
    middle: np.ndarray
    width: np.ndarray
    mean: np.ndarray | None
    spread: np.ndarray | None
    remembered: np.ndarray
    measured: np.ndarray
    spans: tuple[int, ...]
    surface: slice

    @classmethod
    def of(cls, spec: FeatureSpec) -> _Columns:
        """Return the columns of a spec."""
        names, first = spec.predictors, len(spec.predictors)
        surface = slice(first, first + len(spec.surface))
        from_predictors = [name for i, name in enumerate(spec.input_variables) if not surface.start <= i < surface.stop]
        at = np.r_[:first, surface.stop : len(spec.inputs)]
        middle, width = np.zeros(len(spec.inputs), np.float32), np.ones(len(spec.inputs), np.float32)
        middle[at], width[at] = scales(from_predictors, np.float32, spec.resolution, spec.bounds)
        every = (np.array(ends, np.float32)[:, None] if ends else None for ends in (spec.input_mean, spec.input_scale))
        mean, spread = every
        return cls(
            limits=Limits(
                *(ends[:, None] for ends in limits(names, np.float32, resolution=spec.resolution, bounds=spec.bounds))
            ),
            strict=_strict(spec, at, from_predictors),
            middle=middle[:, None],
            width=width[:, None],
            mean=mean,
            spread=spread,
            remembered=np.array([names.index(name) for name in spec.memory_predictors], np.intp),
            measured=np.array([i for i, x in enumerate(names) if x not in COMPUTED] or range(first), np.intp),
            spans=tuple(map(spec.steps, spec.memory_days)),
            surface=surface,
        )

    def scaled(self, raw: np.ndarray, surface: np.ndarray, lead: int) -> np.ndarray:
        """Return scaled inputs (n, V, t - lead) from predictors (n, P, t), which are changed, and surface columns."""
        n, predictors, steps = raw.shape
        # Before the means: one value of -9999 spoils a month of them.
        lowest, highest, low, high = self.limits
        outside = raw < lowest
        outside |= raw > highest
        if outside.any():
            raw[outside] = np.nan
        if np.isfinite(low).any():
            np.clip(raw, low, high, out=raw)
        out = np.empty((n, len(self.middle), steps - lead), np.float32)
        out[:, :predictors] = raw[:, :, lead:]
        out[:, self.surface] = surface
        if self.spans:
            means = out[:, self.surface.stop :].reshape(n, len(self.spans), -1, steps - lead)  # a view
            trailing_means(raw[:, self.remembered], self.spans, first=lead, out=means)
        if self.strict is not None:
            out[(out < self.strict[0]) | (out > self.strict[1])] = np.nan
        out -= self.middle
        out /= self.width
        if self.mean is not None and self.spread is not None:
            out -= self.mean
            out /= self.spread
        return out


def _strict(spec: FeatureSpec, at: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bounds of all inputs in float32, rounded inwards; None if none is rounded."""
    ends = np.array([bounds_of(name, resolution=spec.resolution, bounds=spec.bounds) for name in names], float)
    low, high = rounded = ends.astype(np.float32).T
    if np.array_equal(rounded, ends.T):
        return None
    lowest = np.full((len(spec.inputs), 1), -np.inf, np.float32)
    highest = -lowest
    lowest[at, 0] = np.where(low < ends[:, 0], np.nextafter(low, np.float32(np.inf)), low)
    highest[at, 0] = np.where(high > ends[:, 1], np.nextafter(high, np.float32(-np.inf)), high)
    return lowest, highest
