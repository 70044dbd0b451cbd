"""The request of a training run by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fluxcube.models.network import Network
from fluxcube.samples.loader import Windows
from fluxcube.training.callbacks import Told
from fluxcube.training.config import TrainingConfig
from fluxcube.training.loss import Balance
from fluxcube.training.parallel import World
from fluxcube.training.validation import Validation


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """Everything that the training loop needs.

    Attributes
    ----------
    model : Network
        Trained in place; ``model(batch)`` returns (B, emits, targets), and for a Gaussian head (B, emits, 2 targets).
    windows : Windows
        Training windows of this process; a batch is the part of a step that this process computes. "weights" in a
        batch weights its fluxes; "support" and "group" are passed to the model after the windows.
    config : TrainingConfig
        Settings.
    world : World
        Processes that train this model together.
    request : mapping
        What is trained; it is recorded in the state, and its "seed" seeds dropout of inputs.
    validation : Validation or None
        Scores each epoch; without it the last epoch is kept.
    state : Path or None
        File of the state; if it exists, training resumes from it. None records no state.
    on_epoch : callable, optional
        Called with the history after each epoch, in the first process.
    told : Told
        Callbacks, in the first process.
    on_step : callable, optional
        Called with the number of steps and the loss and learning rate of one, in the first process.
    progress : callable, optional
        ``progress(done, total, text)`` after each step.
    balance : Balance, optional
        Its mean square over all estimates is recorded for each epoch, and `alpha` times it is added to the mean loss of
        the observed fluxes.
    alpha : float
        Weight of `balance`.
    pretrain : int
        Number of the first epochs in which a model of two stages is not ``joint``; its best epoch is one of the rest.
    """

    model: Network
    windows: Windows
    config: TrainingConfig
    world: World
    request: Mapping
    validation: Validation | None = None
    state: Path | None = None
    on_epoch: Callable[[list[dict]], None] | None = None
    told: Told = field(default_factory=Told)
    on_step: Callable[[int, dict[str, float]], None] | None = None
    progress: Callable[[int, int, str], None] | None = None
    balance: Balance | None = None
    alpha: float = 0.0
    pretrain: int = 0
