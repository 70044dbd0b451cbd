"""Training of row models: one row per hour with an observed flux."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluxcube.models.base import Batch, RowModel
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import gather

#: Windows turned into rows at a time: chips of all hours at once would fill the memory.
_CHUNK = 16384


def fit_rows(
    model: RowModel, train: Towers, val: Towers | None, *, seed: int, progress: Callable | None = None
) -> dict:
    """Train a row model on towers whose fluxes are scaled; return what it logs."""
    rows, targets = table(model, train)
    held = table(model, val) if val is not None else (None, None)
    return model.fit(rows, targets, *held, seed=seed, progress=progress)


def table(model: RowModel, towers: Towers) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (M, F) and targets (M, targets) of every hour with an observed flux."""
    series = towers.series
    observed = np.flatnonzero(towers.observed())
    place = np.searchsorted(series.start, observed, side="right") - 1
    stop = observed - series.start[place] + 1
    parts = [
        model.rows(Batch.of(gather(series, place[at : at + _CHUNK], stop[at : at + _CHUNK], model.context)))
        for at in range(0, len(observed), _CHUNK)
    ]
    return np.concatenate(parts), towers.fluxes[observed]
