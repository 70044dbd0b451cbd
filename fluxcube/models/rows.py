"""Models of feature rows: the estimate of a time step is a function of one row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from fluxcube.models.base import BaseModel, Batch

#: ``progress(done, total, text)``.
Progress = Callable[[int, int, str], None]


class Rows(Protocol):
    """Feature rows of a model, in parts that are built anew at each pass and so never fill the RAM."""

    def targets(self) -> np.ndarray:
        """Return the scaled targets (N, targets) of all rows, NaN where not observed."""
        ...

    def weights(self) -> np.ndarray | None:
        """Return the weights (N, targets) of the targets; None for equal weights."""
        ...

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows (n, F) and targets (n, targets) float32, the same at each call."""
        ...

    def release(self) -> None:
        """Free what is kept for the next pass; there will be none."""
        ...


@dataclass(frozen=True)
class WholeRows:
    """Feature rows that are in RAM.

    Attributes
    ----------
    rows : (N, F) float
        Feature rows.
    y : (N, targets) float
        Scaled targets.
    weight : (N, targets) float or None
        Weights of the targets; None for equal weights.
    """

    rows: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None = None

    def targets(self) -> np.ndarray:
        """Return the scaled targets (N, targets)."""
        return np.asarray(self.y)

    def weights(self) -> np.ndarray | None:
        """Return the weights (N, targets) of the targets; None for equal weights."""
        return self.weight

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield all rows and targets at once."""
        yield np.asarray(self.rows), np.asarray(self.y)

    def release(self) -> None:
        """Keep the arrays: they belong to the caller."""


@dataclass(frozen=True)
class Growth:
    """Progress of the training of a model that is built target by target and round by round (trees).

    Attributes
    ----------
    done : tuple of bytes
        Finished models of the first targets, as files.
    log : dict
        Log entries of those targets.
    trees : bytes or None
        Unfinished model of the next target.
    rounds : int
        Number of rounds of that model.
    scores : tuple of float
        Validation RMSE of each of these rounds.
    """

    done: tuple[bytes, ...] = ()
    log: dict = field(default_factory=dict)
    trees: bytes | None = None
    rounds: int = 0
    scores: tuple[float, ...] = ()


class RowModel(BaseModel):
    """A model whose estimate of a time step is a function of one row of numbers.

    Subclasses define `rows`, `fit` and `predict_rows`; only the last time step of a window is emitted. A subclass
    whose training takes long defines `learn`, too, so that it can read rows in parts and resume after a kill.

    Attributes
    ----------
    uses_weights : bool
        Whether `learn` uses the weights of the rows; `fluxcube.fit` refuses weights for other models.
    """

    trainer: ClassVar[str] = "rows"
    uses_weights: ClassVar[bool] = False
    #: Device that predicts: "cpu", or a card with its number, such as "cuda:0".
    device: str = "cpu"

    @classmethod
    def can_use_cards(cls) -> bool:
        """Return whether models of this class can predict on a card, where there is one."""
        return False

    def device_for(self, device: str) -> str:
        """Return the device on which this model predicts if a user names `device`; here always the CPU."""
        return "cpu"

    def use_device(self, device: str) -> None:
        """Predict on a device that `device_for` returned from now on."""
        self.device = device

    def rows(self, batch: Batch) -> np.ndarray:
        """Return the rows (B, F) float32 of a batch's windows."""
        raise NotImplementedError

    def fit(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        val_rows: np.ndarray | None = None,
        val_targets: np.ndarray | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> dict:
        """Learn from rows (N, F) and scaled targets (N, targets), NaN where not observed; return the log entry."""
        raise NotImplementedError

    def learn(
        self,
        train: Rows,
        val: Rows | None = None,
        *,
        seed: int = 0,
        start: Growth | None = None,
        keep: Callable[[Growth], None] | None = None,
        progress: Progress | None = None,
    ) -> dict:
        """Learn from rows that come in parts; return the log entry. Here all parts are read and passed to `fit`.

        Parameters
        ----------
        train, val : Rows
            Rows to learn from, and rows for early stopping.
        seed : int
            Seed of all random draws.
        start : Growth, optional
            Progress of a killed call.
        keep : callable, optional
            Called with a `Growth` whenever training could resume from it.
        progress : callable, optional
            ``progress(done, total, text)``.
        """
        val_rows = (None, None) if val is None else whole(val)
        return self.fit(*whole(train), *val_rows, seed=seed, progress=progress)

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in all time steps but the last."""
        out = np.full((*batch.inputs.shape[:2], self.n_targets), np.nan, np.float32)
        out[:, -1] = self.predict_rows(self.rows(batch))
        return out


def whole(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows (N, F) and targets (N, targets) at once."""
    return np.concatenate([part for part, _ in rows.chunks()]), rows.targets()
