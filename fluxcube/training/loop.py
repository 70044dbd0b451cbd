"""The training loop: AdamW, warm-up, cosine; scored after each epoch; it resumes after a kill."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fluxcube.errors import CallbackError, CheckpointError, TrainingError, overwrite_option
from fluxcube.interrupts import Interrupted, Postponed, StopRequested, postponed
from fluxcube.models.base import Batch
from fluxcube.models.dropout import GENERATOR, DropoutKey
from fluxcube.tabletext import counted
from fluxcube.training.job import Job
from fluxcube.training.loss import gaussian_nll, squared_error
from fluxcube.training.pace import Clock, rate
from fluxcube.training.resident import batches, resident_on
from fluxcube.training.state import Counters, load_state, save_state
from fluxcube.training.steps import Estimates, StepRecord, gradient_not_finite, loss_not_finite, read_sums
from fluxcube.training.validation import Validation, mean_nse, scored_epochs, stalled

log = logging.getLogger(__name__)

#: Arrays of a batch that are passed to the model after the windows.
_BESIDE = ("support", "group")
#: Number of steps whose sums are read together, by type of device: on a CPU there is nothing to wait for.
_READ_TOGETHER = {"cuda": 32}


def train(job: Job) -> Counters:
    """Train a network; it ends with the weights of its best epoch, or of its last (`TrainingConfig.keep`).

    A signal that ends the process takes effect after the current step, when the state is saved: training resumes with
    the next step.

    Parameters
    ----------
    job : Job
        Model, windows and settings.

    Returns
    -------
    Counters

    Raises
    ------
    TrainingError
        If a loss or a gradient is not finite; the last saved state is kept.
    KeyboardInterrupt
        After Ctrl-C.
    """
    with postponed() as waiting:
        return _train(job, waiting)


def time_steps(job: Job, epoch: int, *, seconds: float, most: int) -> list[float]:
    """Make the first steps of an epoch, and return how long each took, without the first; nothing is saved.

    Parameters
    ----------
    job : Job
        As `train` takes it; its model is changed.
    epoch : int
        Number of the epoch, from 0, which determines the stage of a model of two stages.
    seconds, most : float, int
        Steps are made until one of these is exceeded, and at least two where there are as many.
    """
    run, took = _Run(job, _optimizer(job)), []
    run.counters.epoch = epoch
    run.begin_epoch()
    last = time.monotonic()
    for batch in batches(run.windows, job.world.device, epoch, 0, run.resident):
        run.step(batch, len(run.windows))
        run._read()
        now = time.monotonic()
        took.append(now - last)
        last = now
        if len(took) > 2 and (len(took) > most or sum(took) > seconds):
            break
    return took[1:] or took


def _optimizer(job: Job) -> torch.optim.AdamW:
    """Move the model of a job to its device, and return its optimizer."""
    config, device = job.config, job.world.device
    return torch.optim.AdamW(
        job.model.to(device).parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def _train(job: Job, waiting: Postponed) -> Counters:
    optimizer = _optimizer(job)
    model, config = job.model, job.config
    run = _Run(job, optimizer, waiting)
    run.resume()
    run.tell_start()
    while run.counters.epoch < config.epochs and not stalled(scored_epochs(run.counters.history), config.patience):
        run.epoch()
        try:
            run.finish_epoch(job.validation)
        except StopRequested:  # the state is that before the validation
            run.stop(together=False)
        if not job.world.rank:
            if job.on_epoch:
                job.on_epoch(run.counters.history)
            run.save()
            with run.saving():
                job.told.validation(run.counters.history[-1])
    if run.best:
        model.load_state_dict(run.best)
    model.eval()
    return run.counters


@dataclass
class _Run:
    """One training run: what its epochs share."""

    job: Job
    optimizer: torch.optim.Optimizer
    waiting: Postponed = field(default_factory=Postponed)
    stopping: bool = False
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self):
        self.model, self.windows = self.job.model, self.job.windows
        self.config, self.world = self.job.config, self.job.world
        self.resident = resident_on(self.windows, self.world.device)
        self.records: list[StepRecord] = []
        self.read_together = _READ_TOGETHER.get(self.world.device.type, 1)
        self.not_finite = torch.zeros((), device=self.world.device)
        self.counters.dropout = GENERATOR
        self.forward = torch.compile(self.model) if self.config.compile else self.model
        self.half = self.config.precision == "bfloat16" or (
            self.config.precision == "auto" and self.world.device.type == "cuda"
        )
        self.clock = Clock()
        if self.config.ema:
            self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def resume(self) -> None:
        """Resume from the saved state, if there is one."""
        state = self.job.state
        content = self.world.first(lambda: state.read_bytes() if state is not None and state.is_file() else None)
        if content is None or state is None:
            return
        kept, self.counters = load_state(content, state, self.model, self.optimizer)
        if self.model.drops_inputs and self.counters.dropout != GENERATOR:
            raise CheckpointError(
                f"{state} was begun by an earlier version of fluxcube, whose dropout used another random generator: "
                f"finish it with that version, or train again with {overwrite_option()}."
            )
        self.best = kept.get("best", {})
        if self.config.ema:
            self.average = {name: value.to(self.world.device) for name, value in kept["average"].items()}
        log.info("resuming after epoch %d, step %d", self.counters.epoch, self.counters.step)

    def tell_start(self) -> None:
        """Tell callbacks and the progress where training begins."""
        counters, steps = self.counters, len(self.windows)
        done = {"epochs": counters.epoch, "steps": counters.step, "updates": counters.updates}
        if self.world.rank:
            return
        if counters.updates and self.job.progress:
            text = f"resumes after {counted(counters.epoch, 'epoch')} and {counters.step} of {counted(steps, 'step')}"
            self.job.progress(counters.epoch * steps + counters.step, self.config.epochs * steps, text)
        self.job.told.start(done if counters.updates else None, self.config.epochs, steps)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Save the state if a callback fails, and name it in the error."""
        try:
            yield
        except CallbackError as error:
            self.save()
            counters, state = self.counters, self.job.state
            done = f"{counted(counters.epoch, 'epoch')} and {counted(counters.step, 'step')}"
            kept = "" if state is None else f": the state after {done} is saved in {state.parent}, and can be resumed"
            raise CallbackError(f"{error}{kept}.") from error.__cause__

    def epoch(self) -> None:
        """Train the rest of the current epoch."""
        counters, config = self.counters, self.config
        self.begin_epoch()
        steps = len(self.windows)
        if counters.step:  # the log entry contains the rate of the last step, also if none is left
            self._set_rate(counters.epoch + (counters.step - 1) / steps)
        started = saved = time.monotonic()
        before = counters.seconds
        for batch in batches(self.windows, self.world.device, counters.epoch, counters.step, self.resident):
            self.step(batch, steps)
            now = time.monotonic()
            counters.seconds = before + now - started
            if self._is_due(steps):
                self._read()
            if self.stopping:
                self.stop()
            if not self.records and now - saved > config.checkpoint_seconds:
                self.save()
                saved = now
            if self.job.progress:
                done, total = counters.epoch * steps + counters.step, config.epochs * steps
                self.job.progress(done, total, self._text(done, total, len(batch["inputs"]) * self.world.size))

    def begin_epoch(self) -> None:
        """Prepare the model and the windows for the rest of the current epoch."""
        self._set_stage()
        self.windows.set_epoch(self.counters.epoch, self.counters.step)
        self.model.train()

    def step(self, batch: dict[str, Tensor], steps: int) -> None:
        """Make one of the `steps` steps of an epoch, at its learning rate."""
        self._set_rate(self.counters.epoch + self.counters.step / steps)
        self._step(batch)
        self.counters.step += 1

    def stop(self, *, together: bool = True) -> None:
        """Save the state, and do what the signal that arrived requests; `together` if all processes have stopped."""
        self.stopping = False
        self.save()
        if together:
            self.world.meet()
        try:
            self.waiting.deliver(signal.SIGTERM)  # it may have arrived in another process only
        except (KeyboardInterrupt, Interrupted) as error:
            if self.job.state is not None:
                done = f"{counted(self.counters.epoch, 'epoch')} and {counted(self.counters.step, 'step')}"
                error.add_note(f"the state after {done} is saved in {self.job.state.parent}; the same call continues")
            raise

    def _set_stage(self) -> None:
        """Set the training stage of a model; the best epoch of the first stage is discarded in the second."""
        if not self.job.pretrain:
            return
        self.model.joint = self.counters.epoch >= self.job.pretrain
        if self.counters.epoch == self.job.pretrain and not self.counters.step:
            self.counters.best, self.best = None, {}

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Make one step; without waiting for the device, which skips it if a loss or the gradient is not finite."""
        # All processes stop after the same step. They wait for each other here, and not in an exchange of the device.
        self.stopping = bool(self.world.sum([float(bool(self.waiting.number))])[0])
        weight = self._weight(batch)
        self.optimizer.zero_grad(set_to_none=True)
        rows, counters = len(batch["inputs"]), self.counters
        size = self.config.batch_size if self.config.effective_batch else rows
        passes = [self._pass(batch, at, min(size, rows - at), rows, weight) for at in range(0, rows, size)]
        sums = torch.stack([torch.stack([one.loss, imbalance]) for one, imbalance in passes]).double()
        bad = (~torch.isfinite(sums[:, 0])).sum().double()
        loss, imbalance = sums.sum(0).unbind()
        bad, bad_gradient = self._update(bad)
        self.records.append(
            StepRecord(
                step=counters.step,
                update=counters.updates,
                windows=rows * self.world.size,
                lr=self.optimizer.param_groups[0]["lr"],
                sums=torch.stack([loss, imbalance, weight.double(), bad, bad_gradient]),
                estimates=tuple(one for one, _ in passes),
            )
        )

    def _pass(
        self, batch: dict[str, Tensor], at: int, count: int, rows: int, weight: Tensor
    ) -> tuple[Estimates, Tensor]:
        """Add the gradients of some of the windows of a step; return estimates and the sum of the carbon balance."""
        part = _rows(batch, slice(at, at + count)) if count < rows else batch
        out, error = self._loss(part, at)
        imbalance = torch.zeros((), device=self.world.device)
        loss = error
        if self.job.balance is not None:
            imbalance = self.job.balance.squares(out) / (rows * self.world.size * out.shape[1])
            if self.job.alpha:
                loss = error + self.job.alpha * weight * imbalance
        (loss / weight).backward()
        return Estimates.of(loss, out, part), imbalance.detach()

    def _is_due(self, steps: int) -> bool:
        """Whether the sums of the last steps are read: after the same step in all processes."""
        if self.world.size == 1:  # a signal of this moment
            self.stopping = bool(self.waiting.number)
        return len(self.records) >= self.read_together or self.counters.step >= steps or self.stopping

    def _read(self) -> None:
        """Read and count the sums of the last steps (TrainingError if one is not finite)."""
        records, self.records = self.records, []
        rows = read_sums(records)
        for record, (*_, bad, bad_gradient) in zip(records, rows, strict=True):
            if bad:
                raise self._error("loss", record.step, loss_not_finite(record, self.windows))
            if bad_gradient:
                raise self._error("gradient", record.step, gradient_not_finite(record, self.windows))
        own = [value for loss, imbalance, *_ in rows for value in (loss, imbalance)]
        sums = self.world.sum(own)
        for i, (record, (_, _, weight, *_)) in enumerate(zip(records, rows, strict=True)):
            loss, imbalance = sums[2 * i : 2 * i + 2]
            self.counters.loss += loss
            self.counters.imbalance += imbalance * record.windows
            self.counters.hours += weight
            self.counters.windows += record.windows
            if self.job.on_step and not self.world.rank:
                self.job.on_step(record.update, {"loss": loss / weight, "lr": record.lr})
        if self.job.told.callbacks and not self.world.rank:
            self._tell_steps(records, [(sums[2 * i], row[2]) for i, row in enumerate(rows)])

    def _tell_steps(self, records: list[StepRecord], sums: list[tuple[float, float]]) -> None:
        with self.saving():
            for record, (loss, weight) in zip(records, sums, strict=True):
                self.job.told.step(record.update, {"loss": loss / weight, "lr": record.lr})

    def _weight(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the number of observed fluxes of all processes in this step, or the sum of their weights; else 1."""
        seen = torch.isfinite(batch["targets"])
        own = torch.where(seen, batch["weights"].double(), 0.0).sum() if "weights" in batch else seen.sum().double()
        total = self.world.total(own)
        return (total + (total == 0)).float()

    def _loss(self, batch: dict[str, Tensor], at: int) -> tuple[Tensor, Tensor]:
        """Return the estimates, and the sum of the losses of observed fluxes; `at` is the first window in the step."""
        features = Batch.of(batch)
        if self.model.drops_inputs:  # by the position in the step of all processes, whatever its division
            key = DropoutKey(int(self.job.request["seed"]), self.counters.epoch, self.counters.step)
            own = torch.arange(at, at + len(batch["inputs"]), device=self.world.device)
            features = self.model.drop(features, key, self.world.rank + self.world.size * own)
        fluxes, weights = batch["targets"], batch.get("weights")
        beside = [batch[name] for name in _BESIDE if name in batch]
        with torch.autocast(self.world.device.type, torch.bfloat16) if self.half else contextlib.nullcontext():
            out = self.forward(features, *beside)
        if out.shape[-1] == fluxes.shape[-1] or self.counters.epoch < self.config.mse_epochs:
            return out, squared_error(out, fluxes, weights)
        return out, gaussian_nll(out, fluxes, weights, self.config.nll_beta)

    def _update(self, bad: Tensor) -> tuple[Tensor, Tensor]:
        """Update the weights by the gradients of all processes, unless a loss or a gradient is not finite.

        Returns `bad`, the number of losses that are not finite, summed over all processes, and whether the gradient is
        not finite.
        """
        bad = self.world.add_gradients(self.model.parameters(), bad)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        bad_gradient = (~torch.isfinite(norm)).double()
        # Once a step was skipped, so are all later ones, until it is read.
        self.not_finite = torch.maximum(self.not_finite, (bad + bad_gradient > 0).float())
        if self.optimizer.defaults.get("fused"):
            vars(self.optimizer)["found_inf"] = self.not_finite
            self.optimizer.step()
        elif not self.not_finite.item():
            self.optimizer.step()
        self.counters.updates += 1
        if self.config.ema:
            n = self.counters.updates
            decay = min(self.config.ema, (1 + n) / (10 + n))
            own = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [own[name] for name in self.average], 1 - decay)
        return bad, bad_gradient

    def _error(self, what: str, step: int, where: str) -> TrainingError:
        state, kept = self.job.state, "no state is saved yet"
        if state is not None and state.is_file():
            kept = f"the last saved state stays in {state.parent}"
        return TrainingError(
            f"the {what} of epoch {self.counters.epoch + 1}, step {step + 1} is not a finite number, "
            f"in {where}; the weights were not changed by it, and {kept}. Check these inputs and fluxes, or train with "
            "a lower lr, a smaller grad_clip or in float32; fit(init=that folder) begins with that state."
        )

    def _set_rate(self, at: float) -> None:
        """Set the learning rate `at` epochs into the run."""
        first = self.job.pretrain if at >= self.job.pretrain else 0
        epochs = (self.config.epochs if at >= self.job.pretrain else self.job.pretrain) - first
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(at - first, epochs, self.config.warmup_epochs)

    def finish_epoch(self, validation: Validation | None) -> None:
        """Score the epoch, keep the best weights, and add a log entry."""
        counters = self.counters
        row = {"epoch": counters.epoch + 1, "loss": counters.loss / max(counters.hours, 1)}
        if self.job.balance is not None:
            row["imbalance"] = counters.imbalance / max(counters.windows, 1)
        if self.job.pretrain:
            row["stage"] = 1 + (counters.epoch >= self.job.pretrain)
        with self._averaged():
            if validation is not None:
                scores = self.world.first(lambda: validation.score(self.model, self.waiting.check))
                row |= {f"val_nse_{name}": value for name, value in scores.items()}
            score = mean_nse(row) if math.isfinite(mean_nse(row)) else None
            if self.config.keep == "last" or score is None or counters.best is None or score > counters.best:
                counters.best = score
                self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        lr = self.optimizer.param_groups[0]["lr"]
        counters.history.append(row | {"lr": lr, "windows": counters.windows, "seconds": round(counters.seconds, 3)})
        log.info("epoch %d: %s", counters.epoch + 1, counters.history[-1])
        counters.epoch, counters.step, counters.windows = counters.epoch + 1, 0, 0
        counters.loss, counters.hours, counters.imbalance = 0.0, 0.0, 0.0

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the averaged weights of the model, if there are any."""
        if not self.config.ema:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def save(self) -> None:
        """Write the state, in the first process."""
        if self.world.rank or self.job.state is None:
            return
        kept = {"best": self.best} | ({"average": self.average} if self.average else {})
        features = self.windows.spec.to_dict()
        save_state(self.job.state, self.model, self.optimizer, kept, self.counters, self.job.request, features)

    def _text(self, done: int, total: int, windows: int) -> str:
        counters = self.counters
        text = f"epoch {counters.epoch + 1} of {self.config.epochs}, loss {counters.loss / max(counters.hours, 1):.3f}"
        if counters.history and math.isfinite(mean_nse(counters.history[-1])):
            text += f", NSE {mean_nse(counters.history[-1]):.3f}"
        return text + self.clock.text(done, total, windows)


def _rows(batch: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Return some windows of a batch, with all support windows that they share."""
    return {name: array if name == "support" else array[rows] for name, array in batch.items()}
