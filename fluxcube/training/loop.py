"""The training loop: AdamW, warm-up, cosine; scored after each epoch; it resumes after a kill."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from fluxcube.errors import TrainingError
from fluxcube.interrupts import Interrupted, Postponed, StopRequested, postponed
from fluxcube.models.base import Batch
from fluxcube.samples.loader import Windows
from fluxcube.training.job import Job
from fluxcube.training.loss import gaussian_nll, squared_error
from fluxcube.training.pace import Clock, ahead, rate
from fluxcube.training.state import Counters, load_state, save_state
from fluxcube.training.validation import Validation, mean_nse, scored_epochs, stalled

log = logging.getLogger(__name__)

#: Loss, estimates, sum of squares of the carbon balance, and batch of one forward and backward pass.
Pass = tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, np.ndarray]]

#: Arrays of a batch that are passed to the model after the windows.
_BESIDE = ("support", "group")
#: Distinguishes the random draws of masks from those of windows.
_DROPOUT = 1


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


def _train(job: Job, waiting: Postponed) -> Counters:
    model, config = job.model.to(job.world.device), job.config
    fused = job.world.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )
    run = _Run(job, optimizer, waiting)
    run.resume()
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
    if run.best:
        model.load_state_dict(run.best)
    model.drops_itself = True
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
        # Drawn here, not by the model, masks depend neither on the number of processes nor on the size of a pass.
        self.masks = self.config.effective_batch is not None or self.world.size > 1
        self.model.drops_itself = not self.masks
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
        self.best = kept.get("best", {})
        if self.config.ema:
            self.average = {name: value.to(self.world.device) for name, value in kept["average"].items()}
        log.info("resuming after epoch %d, step %d", self.counters.epoch, self.counters.step)

    def epoch(self) -> None:
        """Train the rest of the current epoch."""
        counters, config = self.counters, self.config
        self._set_stage()
        self.windows.set_epoch(counters.epoch, counters.step)
        steps = len(self.windows)
        self.model.train()
        if counters.step:  # the log entry contains the rate of the last step, also if none is left
            self._set_rate(counters.epoch + (counters.step - 1) / steps)
        started = saved = time.monotonic()
        before = counters.seconds
        batches = self._batches(counters.epoch, counters.step)
        for batch in ahead(batches) if self.world.device.type == "cuda" else batches:
            self._set_rate(counters.epoch + counters.step / steps)
            self._step(batch)
            counters.step += 1
            now = time.monotonic()
            counters.seconds = before + now - started
            if self.stopping:
                self.stop()
            if now - saved > config.checkpoint_seconds:
                self.save()
                saved = now
            if self.job.progress:
                done, total = counters.epoch * steps + counters.step, config.epochs * steps
                self.job.progress(done, total, self._text(done, total, len(batch["inputs"]) * self.world.size))

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
                done = f"{self.counters.epoch} epochs and {self.counters.step} steps"
                error.add_note(f"the state after {done} is saved in {self.job.state.parent}; the same call continues")
            raise

    def _set_stage(self) -> None:
        """Set the training stage of a model; the best epoch of the first stage is discarded in the second."""
        if not self.job.pretrain:
            return
        self.model.joint = self.counters.epoch >= self.job.pretrain
        if self.counters.epoch == self.job.pretrain and not self.counters.step:
            self.counters.best, self.best = None, {}

    def _batches(self, epoch: int, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rest of the epoch's batches, with inputs dropped unless the model does that itself."""
        for number, batch in enumerate(self.windows, step):
            yield self._masked(batch, epoch, number) if self.masks else batch

    def _step(self, batch: dict[str, np.ndarray]) -> None:
        weight = self._weight(batch)
        self.optimizer.zero_grad(set_to_none=True)
        rows = len(batch["inputs"])
        size = self.config.batch_size if self.config.effective_batch else rows
        passes: list[Pass] = []
        for at in range(0, rows, size):
            part = _rows(batch, slice(at, at + size)) if size < rows else batch
            out, error = self._loss(part)
            imbalance = torch.zeros((), device=self.world.device)
            if self.job.balance is not None:
                estimates = rows * self.world.size * out.shape[1]
                imbalance = self.job.balance.squares(out) / estimates
                if self.job.alpha:
                    error = error + self.job.alpha * weight * imbalance
            (error / weight).backward()
            passes.append((error.detach(), out.detach(), imbalance.detach(), part))
        loss, imbalance_mean = self._sum(passes)
        self._update(batch)
        self.counters.loss += loss
        self.counters.imbalance += imbalance_mean * rows * self.world.size
        self.counters.hours += weight.item()
        self.counters.windows += rows * self.world.size
        if self.job.on_step and not self.world.rank:
            row = {"loss": loss / weight.item(), "lr": self.optimizer.param_groups[0]["lr"]}
            self.job.on_step(self.counters.updates, row)

    def _sum(self, passes: list[Pass]) -> tuple[float, float]:
        """Return the sums of losses and imbalances of all passes and processes (TrainingError if not finite)."""
        # Read after all gradients, so that there is one wait for a GPU per step.
        pairs = torch.stack([torch.stack([error, imbalance]) for error, _, imbalance, _ in passes]).tolist()
        finite = [math.isfinite(error) for error, _ in pairs]
        bad = [
            _where_not_finite(out, part, self.windows)
            for (_, out, _, part), ok in zip(passes, finite, strict=True)
            if not ok
        ]
        sums = [0.0, 0.0] if bad else [sum(column) for column in zip(*pairs, strict=True)]
        stopping = float(bool(self.waiting.number))  # all processes stop after the same step
        loss, imbalance, any_bad, any_stopping = self.world.sum([*sums, float(bool(bad)), stopping])
        if any_bad:
            raise self._error("loss", bad[0] if bad else "windows of another process")
        self.stopping = bool(any_stopping)
        return loss, imbalance

    def _weight(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        """Return the number of observed fluxes of all processes in this step, or the sum of their weights; else 1."""
        seen = np.isfinite(batch["targets"])
        if "weights" in batch:
            total: float = self.world.sum([float(batch["weights"][seen].sum(dtype=np.float64))])[0]
        else:
            total = int(self.world.sum([float(seen.sum())])[0])
        return torch.tensor(total or 1, device=self.world.device)

    def _masked(self, batch: dict[str, np.ndarray], epoch: int, step: int) -> dict[str, np.ndarray]:
        """Drop inputs, the same ones that one process with one large batch would drop."""
        count, world = len(batch["inputs"]), self.world
        rng = np.random.default_rng((int(self.job.request["seed"]), _DROPOUT, epoch, step))
        rows = world.rank + world.size * np.arange(count)
        dropped = self.model.drop(Batch.of(batch), rng, rows, count * world.size)
        return batch | dropped.present()

    def _loss(self, batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the estimates, and the sum of the losses of observed fluxes."""
        features: Batch[torch.Tensor] = Batch.of(batch).map(self._tensor)
        fluxes = self._tensor(batch["targets"])
        weights = self._tensor(batch["weights"]) if "weights" in batch else None
        beside = [self._tensor(batch[name]) for name in _BESIDE if name in batch]
        with torch.autocast(self.world.device.type, torch.bfloat16) if self.half else contextlib.nullcontext():
            out = self.model(features, *beside)
        if out.shape[-1] == fluxes.shape[-1] or self.counters.epoch < self.config.mse_epochs:
            return out, squared_error(out, fluxes, weights)
        return out, gaussian_nll(out, fluxes, weights, self.config.nll_beta)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.world.device, non_blocking=True)

    def _update(self, batch: dict[str, np.ndarray]) -> None:
        """Update the weights by the gradients of all processes."""
        self.world.add_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        if not math.isfinite(norm.item()):
            raise self._error("gradient", _named(batch, self.windows))
        self.optimizer.step()
        self.counters.updates += 1
        if self.config.ema:
            n = self.counters.updates
            decay = min(self.config.ema, (1 + n) / (10 + n))
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def _error(self, what: str, where: str) -> TrainingError:
        state, kept = self.job.state, "no state is saved yet"
        if state is not None and state.is_file():
            kept = f"the last saved state stays in {state.parent}"
        return TrainingError(
            f"the {what} of epoch {self.counters.epoch + 1}, step {self.counters.step + 1} is not a finite number, "
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


def _rows(batch: Mapping[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    """Return some windows of a batch, with all support windows that they share."""
    return {name: array if name == "support" else array[rows] for name, array in batch.items()}


def _where_not_finite(out: torch.Tensor, batch: Mapping[str, np.ndarray], windows: Windows) -> str:
    """Return the names of the windows whose estimates or errors are not finite, or of all if none is."""
    fluxes = batch["targets"]
    estimates = out.detach().float().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.where(np.isfinite(fluxes), np.square(estimates[..., : fluxes.shape[-1]] - fluxes), 0)
    rows = ~(np.isfinite(estimates).all((1, 2)) & np.isfinite(error).all((1, 2)))
    return _named(batch, windows, rows if rows.any() else slice(None))


def _named(batch: Mapping[str, np.ndarray], windows: Windows, rows: np.ndarray | slice = slice(None)) -> str:
    """Return the sites of a batch's windows, and the last time step of the first one."""
    sites = [windows.sites[i] for i in np.unique(batch["site"][rows])]
    more = f" and {len(sites) - 10} more" if len(sites) > 10 else ""
    last = np.asarray(batch["time"][rows][0]).astype(f"datetime64[{windows.spec.step}]")
    return f"windows of {', '.join(sites[:10])}{more} (the first ends at {last}{windows.spec.time_resolution.zone})"
