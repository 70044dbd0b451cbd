"""A model without weights: its fluxes are a fixed function of the window, written out hour by hour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.inference.predictor import Predictor
from fluxcube.models.base import BaseModel, Batch
from fluxcube.samples.features import FeatureSpec

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "VPD")
TARGETS = ("NEE", "GPP_NT")


@dataclass(frozen=True)
class WindowModel(BaseModel):
    """Causal, with a fading memory of the window, of the latest chip, of place and class."""

    context: int = 5
    emits: int = 5
    n_targets: int = 2

    def predict(self, batch: Batch) -> np.ndarray:
        met = np.nan_to_num(batch.inputs, nan=-0.25)
        out = np.full((*met.shape[:2], 2), np.nan, np.float32)
        for step in range(self.context - self.emits, self.context):
            fading = 0.5 ** np.arange(step, -1, -1)
            weather = (met[:, : step + 1] * fading[None, :, None]).sum(1)
            chip = _latest(batch, step)
            place = np.nan_to_num(batch.numbers, nan=0.1).sum(1) + 0.3 * batch.classes.sum(1)
            wave = np.cos(np.arange(weather.shape[1]) + 1.0)
            out[:, step, 0] = weather @ wave + chip + place
            out[:, step, 1] = weather @ wave[::-1] - chip
        return out


def _latest(batch: Batch, step: int) -> np.ndarray:
    """Mean of the pixels of the latest chip at or before `step`."""
    if batch.images.shape[1] == 0:
        return np.full(len(batch.inputs), 0.07)  # as of a window that sees no chip
    past = (batch.image_step >= 0) & (batch.image_step <= step)
    latest = np.where(past, batch.image_step, -1).argmax(1)
    rows = np.arange(len(latest))
    chosen = batch.images[rows, latest]
    seen = past.any(1) & np.isfinite(chosen).any((-1, -2))  # a chip of nothing is none
    pixels = np.where(seen, np.nan_to_num(chosen, nan=0.2).mean((-1, -2)), 0.07)
    return pixels


def fake(*, context=5, emits=None, memory_days=(), bands=("red", "nir"), predictors=PREDICTORS, targets=TARGETS):
    """A predictor around `WindowModel`, with every kind of feature."""
    spec = FeatureSpec(
        predictors=predictors,
        memory_days=memory_days,
        bands=bands,
        static=("latitude", "elevation", "igbp"),
        igbp_classes=("DBF", "GRA", "ENF"),
        targets=targets,
        target_mean=(-2.0, 5.0),
        target_scale=(3.0, 4.0),
    )
    model = WindowModel(context=context, emits=context if emits is None else emits)
    return Predictor(model, spec, {"kind": "fake", "training_sites": ["XX-S00"]}, digest="none")


def chunked(ds, **chunks):
    """The arrays of a Dataset lazy, its coordinates in memory, as an opened store has them."""
    return ds.chunk(chunks).assign_coords({name: c.compute() for name, c in ds.chunk(chunks).coords.items()})
