"""The training loop: AdamW, warm-up, cosine; scored after each epoch; it goes on where a kill stopped it."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from fluxcube.errors import FluxcubeError, TrainingError
from fluxcube.models.base import Batch
from fluxcube.samples.loader import Windows
from fluxcube.samples.support import towers_with_codes
from fluxcube.training.config import TrainingConfig
from fluxcube.training.loss import Balance, gaussian_nll, squared_error
from fluxcube.training.parallel import World
from fluxcube.training.state import Counters, load_state, save_state

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What of a batch goes to the model beside the windows.
_BESIDE = ("support", "group")
#: Sets the draws of masks apart from those of windows.
_DROPOUT = 1


@dataclass(frozen=True)
class Validation:
    """Fixed windows of the validation towers, and the last hours of each that are scored.

    Attributes
    ----------
    windows : Windows
        Of the validation towers, measured fluxes only; those of its first epoch are scored.
    """

    windows: Windows

    def score(self, model) -> dict[str, float]:
        """Return the NSE of each target over all scored hours; nan where nothing was measured."""
        names = self.windows.spec.targets
        bring_codes(model, self.windows)
        pred, obs = [], []
        self.windows.set_epoch(0)
        for batch in self.windows:
            pred.append(model.predict(Batch.of(batch))[:, -self.windows.emits :])
            obs.append(batch["targets"])
        obs_, pred_ = (np.concatenate(a).reshape(-1, len(names)) for a in (obs, pred))
        return {name: nse(obs_[:, i], pred_[:, i]) for i, name in enumerate(names)}


def bring_codes(model, windows: Windows) -> None:
    """Give the towers of windows the embeddings that a model makes of them, if it is one that does."""
    if getattr(model, "code_size", 0):
        windows.towers = towers_with_codes(windows.towers, model)


def nse(obs: np.ndarray, pred: np.ndarray) -> float:
    """Nash-Sutcliffe efficiency over observed hours: 1 - SSE / SST."""
    seen = np.isfinite(obs)
    obs, pred = obs[seen].astype(float), pred[seen].astype(float)
    spread = ((obs - obs.mean()) ** 2).sum() if len(obs) else 0.0
    return float(1 - ((obs - pred) ** 2).sum() / spread) if spread > 0 else math.nan


def train(
    model,
    windows: Windows,
    validation: Validation | None,
    config: TrainingConfig,
    *,
    world: World,
    state: Path,
    request: Mapping,
    on_epoch: Callable[[list[dict]], None],
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    balance: Balance | None = None,
    alpha: float = 0.0,
    pretrain: int = 0,
) -> Counters:
    """Train a torch model; it ends with the weights of its best epoch, or of its last (`TrainingConfig.keep`).

    Parameters
    ----------
    model : EcoPerceiver or alike
        Trained in place; ``model(batch)`` gives (B, emits, targets), and for a Gaussian head (B, emits, 2 targets).
    windows : Windows
        Training windows of this process; a batch is this process's part of a step. "weights" in a batch weighs its
        fluxes; "support" and "group" go to the model beside the windows.
    validation : Validation or None
        Scores each epoch; without it the last epoch is kept.
    config : TrainingConfig
        Settings.
    world : World
        The processes that train this model together.
    state : Path
        File of the state; where it exists, training goes on from it.
    request : mapping
        What is trained, kept in the state.
    on_epoch : callable
        Gets the history after each epoch, in the first process.
    on_step : callable, optional
        Gets the number of steps and the loss and learning rate of one, in the first process.
    progress : callable, optional
        ``progress(done, total, text)`` after each step.
    balance : Balance, optional
        Adds `alpha` times its mean square over all estimates to the mean loss of the observed fluxes.
    alpha : float
        See `balance`.
    pretrain : int
        First epochs, in which a model of two stages is not ``joint``; its best epoch is one of the rest.

    Returns
    -------
    Counters

    Raises
    ------
    TrainingError
        If a loss or a gradient is not finite; the state that was written last stays.
    """
    model.to(world.device)
    fused = world.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )
    run = _Run(
        model,
        optimizer,
        windows,
        config,
        world,
        state,
        request,
        progress,
        on_step,
        balance=balance,
        alpha=alpha,
        pretrain=pretrain,
    )
    run.resume()
    while run.counters.epoch < config.epochs and not stalled(scored_rows(run.counters.history), config.patience):
        run.epoch()
        run.finish_epoch(validation)
        if not world.rank:
            on_epoch(run.counters.history)
            run.save()
    if run.best:
        model.load_state_dict(run.best)
    model.drops_itself = True
    model.eval()
    return run.counters


def scored_rows(history: Sequence[Mapping]) -> list[Mapping]:
    """Return the epochs that the best is one of: those after pre-training."""
    return [row for row in history if row.get("stage", 2) == 2]


def mean_nse(row: Mapping) -> float:
    """Mean of an epoch's finite validation scores; minus infinity where there is none."""
    values = [v for k, v in row.items() if k.startswith("val_nse_") and math.isfinite(v)]
    return sum(values) / len(values) if values else -math.inf


def stalled(history: Sequence[Mapping], patience: int | None) -> bool:
    """Return whether the best validation score is `patience` epochs old.

    Examples
    --------
    >>> rows = [{"val_nse_NEE": v} for v in (0.1, 0.4, 0.3, 0.2)]
    >>> stalled(rows, 2), stalled(rows, 3), stalled(rows, None)
    (True, False, False)
    """
    if patience is None or not history:
        return False
    scores = [mean_nse(row) for row in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


@dataclass
class _Run:
    """One training run: what its epochs share."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    windows: Windows
    config: TrainingConfig
    world: World
    state: Path
    request: Mapping
    progress: Callable | None
    on_step: Callable | None
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    balance: Balance | None = None
    alpha: float = 0.0
    pretrain: int = 0

    def __post_init__(self):
        # Masks that neither the number of processes nor the size of a pass changes are drawn here, not in the model.
        self.masks = self.config.effective_batch is not None or self.world.size > 1
        self.model.drops_itself = not self.masks
        self.half = self.config.precision == "bfloat16" or (
            self.config.precision == "auto" and self.world.device.type == "cuda"
        )
        self.clock = Clock()
        if self.config.ema:
            self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def resume(self) -> None:
        """Go on where a state says, if there is one."""
        content = self.world.first(lambda: self.state.read_bytes() if self.state.is_file() else None)
        if content is None:
            return
        kept, self.counters = load_state(content, self.state, self.model, self.optimizer)
        self.best = kept.get("best", {})
        if self.config.ema:
            self.average = {name: value.to(self.world.device) for name, value in kept["average"].items()}
        log.info("going on after epoch %d, step %d", self.counters.epoch, self.counters.step)

    def epoch(self) -> None:
        """Train the rest of the current epoch."""
        counters, config = self.counters, self.config
        self._set_stage()
        self.windows.set_epoch(counters.epoch, counters.step)
        steps = len(self.windows)
        self.model.train()
        started = saved = time.monotonic()
        before = counters.seconds
        batches = self._batches(counters.epoch, counters.step)
        for batch in ahead(batches) if self.world.device.type == "cuda" else batches:
            self._set_rate(counters.epoch + counters.step / steps)
            self._step(batch)
            counters.step += 1
            now = time.monotonic()
            counters.seconds = before + now - started
            if now - saved > config.checkpoint_seconds:
                self.save()
                saved = now
            if self.progress:
                done, total = counters.epoch * steps + counters.step, config.epochs * steps
                self.progress(done, total, self._text(done, total, len(batch["met"]) * self.world.size))

    def _set_stage(self) -> None:
        """Let a model of two stages know in which it is; the best epoch of the first counts no more in the second."""
        if not self.pretrain:
            return
        self.model.joint = self.counters.epoch >= self.pretrain
        if self.counters.epoch == self.pretrain and not self.counters.step:
            self.counters.best, self.best = None, {}

    def _batches(self, epoch: int, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Give the rest of the epoch's batches, inputs dropped where that is not left to the model."""
        for number, batch in enumerate(self.windows, step):
            yield self._masked(batch, epoch, number) if self.masks else batch

    def _step(self, batch: dict[str, np.ndarray]) -> None:
        weight = self._weight(batch)
        self.optimizer.zero_grad(set_to_none=True)
        rows = len(batch["met"])
        size = self.config.batch_size if self.config.effective_batch else rows
        passes = []
        for at in range(0, rows, size):
            part = _rows(batch, slice(at, at + size)) if size < rows else batch
            out, error = self._loss(part)
            if self.balance is not None and self.alpha:
                estimates = rows * self.world.size * out.shape[1]
                error = error + self.alpha * weight / estimates * self.balance.squares(out)
            (error / weight).backward()
            passes.append((error.detach(), out.detach(), part))
        loss = self._sum(passes)
        self._update(batch)
        self.counters.loss += loss
        self.counters.hours += weight.item()
        self.counters.windows += rows * self.world.size
        if self.on_step and not self.world.rank:
            row = {"loss": loss / weight.item(), "lr": self.optimizer.param_groups[0]["lr"]}
            self.on_step(self.counters.updates, row)

    def _sum(self, passes: list[tuple]) -> float:
        """Add the losses of all passes and processes up; raise TrainingError if one is not finite."""
        # Read after all gradients, so that a GPU is waited for once a step.
        values = torch.stack([error for error, _, _ in passes]).tolist()
        bad = [_whose(*passes[i][1:], self.windows) for i, v in enumerate(values) if not math.isfinite(v)]
        loss, any_bad = self.world.sum([0.0 if bad else sum(values), float(bool(bad))])
        if any_bad:
            raise self._error("loss", bad[0] if bad else "windows of another process")
        return loss

    def _weight(self, batch: dict[str, np.ndarray]) -> torch.Tensor:
        """Number of observed fluxes of all processes in this step, or the sum of their weights; 1 if there is none."""
        seen = np.isfinite(batch["targets"])
        if "weights" in batch:
            total = self.world.sum([float(batch["weights"][seen].sum(dtype=np.float64))])[0]
        else:
            total = int(self.world.sum([float(seen.sum())])[0])
        return torch.tensor(total or 1, device=self.world.device)

    def _masked(self, batch: dict[str, np.ndarray], epoch: int, step: int) -> dict[str, np.ndarray]:
        """Drop inputs; equal to what one process with one large batch drops."""
        count, world = len(batch["met"]), self.world
        rng = np.random.default_rng((int(self.request["seed"]), _DROPOUT, epoch, step))
        rows = world.rank + world.size * np.arange(count)
        dropped = self.model.drop(Batch.of(batch), rng, rows, count * world.size)
        return batch | dropped._asdict()

    def _loss(self, batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates, and the sum of the losses of observed fluxes."""
        features = Batch(*(self._tensor(array) for array in Batch.of(batch)))
        wanted = self._tensor(batch["targets"])
        weights = self._tensor(batch["weights"]) if "weights" in batch else None
        beside = [self._tensor(batch[name]) for name in _BESIDE if name in batch]
        with torch.autocast(self.world.device.type, torch.bfloat16) if self.half else contextlib.nullcontext():
            out = self.model(features, *beside)
        if out.shape[-1] == wanted.shape[-1] or self.counters.epoch < self.config.mse_epochs:
            return out, squared_error(out, wanted, weights)
        return out, gaussian_nll(out, wanted, weights, self.config.nll_beta)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.world.device, non_blocking=True)

    def _update(self, batch: dict[str, np.ndarray]) -> None:
        """Make the step that the gradients of all processes point to."""
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
        kept = f"the last saved state stays in {self.state.parent}" if self.state.is_file() else "no state is saved yet"
        return TrainingError(
            f"the {what} of epoch {self.counters.epoch + 1}, step {self.counters.step + 1} is not a finite number, "
            f"in {where}; the weights were not changed by it, and {kept}. Look at these inputs and fluxes, or train "
            "with a lower lr, a smaller grad_clip or in float32, from that state if you like: fit(init=that folder)."
        )

    def _set_rate(self, at: float) -> None:
        """Set the learning rate `at` epochs into the run."""
        first = self.pretrain if at >= self.pretrain else 0
        epochs = (self.config.epochs if at >= self.pretrain else self.pretrain) - first
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(at - first, epochs, self.config.warmup_epochs)

    def finish_epoch(self, validation: Validation | None) -> None:
        """Score, remember the best weights, and note the epoch."""
        counters = self.counters
        row = {"epoch": counters.epoch + 1, "loss": counters.loss / max(counters.hours, 1)}
        if self.pretrain:
            row["stage"] = 1 + (counters.epoch >= self.pretrain)
        with self._averaged():
            if validation is not None:
                scores = self.world.first(lambda: validation.score(self.model))
                row |= {f"val_nse_{name}": value for name, value in scores.items()}
            score = mean_nse(row) if math.isfinite(mean_nse(row)) else None
            if self.config.keep == "last" or score is None or counters.best is None or score > counters.best:
                counters.best = score
                self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        lr = self.optimizer.param_groups[0]["lr"]
        counters.history.append(row | {"lr": lr, "windows": counters.windows, "seconds": round(counters.seconds, 3)})
        log.info("epoch %d: %s", counters.epoch + 1, counters.history[-1])
        counters.epoch, counters.step, counters.windows = counters.epoch + 1, 0, 0
        counters.loss, counters.hours = 0.0, 0.0

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model have the averaged weights, where there are any."""
        if not self.config.ema:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        yield
        self.model.load_state_dict(own)

    def save(self) -> None:
        """Write the state, in the first process."""
        if self.world.rank:
            return
        kept = {"best": self.best} | ({"average": self.average} if self.average else {})
        features = self.windows.spec.to_dict()
        save_state(self.state, self.model, self.optimizer, kept, self.counters, self.request, features)

    def _text(self, done: int, total: int, windows: int) -> str:
        counters = self.counters
        text = f"epoch {counters.epoch + 1} of {self.config.epochs}, loss {counters.loss / max(counters.hours, 1):.3f}"
        if counters.history and math.isfinite(mean_nse(counters.history[-1])):
            text += f", NSE {mean_nse(counters.history[-1]):.3f}"
        return text + self.clock.text(done, total, windows)


@dataclass
class Clock:
    """How fast a run goes, in this process since it began or went on.

    Attributes
    ----------
    now : callable
        Seconds.
    """

    now: Callable[[], float] = time.monotonic

    def __post_init__(self):
        self.started, self.steps, self.windows = self.now(), 0, 0

    def text(self, done: int, total: int, windows: int) -> str:
        """Note one more step of so many windows; return windows per second and the time left.

        Examples
        --------
        >>> ticks = iter([0.0, 2.0])
        >>> Clock(lambda: next(ticks)).text(done=1, total=91, windows=32)
        ', 16 windows/s, 3 min left'
        """
        self.steps, self.windows = self.steps + 1, self.windows + windows
        passed = max(self.now() - self.started, 1e-9)
        left = passed / self.steps * (total - done)
        span = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
        return f", {self.windows / passed:,.0f} windows/s, {span} left"


def ahead(batches: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Make up to `depth` of the next batches in a thread, while the present one is worked off.

    Examples
    --------
    >>> list(ahead(range(5)))
    [0, 1, 2, 3, 4]
    """
    ready: queue.Queue = queue.Queue(depth)
    ended = threading.Event()

    def put(item: tuple[str, object]) -> bool:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not put(("batch", batch)):
                    return
            put(("end", None))
        except FluxcubeError as error:
            put(("error", error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        ended.set()
        thread.join()


def _rows(batch: Mapping[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
    """Some windows of a batch, with all support that its windows share."""
    return {name: array if name == "support" else array[rows] for name, array in batch.items()}


def _whose(out: torch.Tensor, batch: Mapping[str, np.ndarray], windows: Windows) -> str:
    """Name the windows whose estimates or errors are not finite; all of them, where none is."""
    wanted = batch["targets"]
    estimates = out.detach().float().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.where(np.isfinite(wanted), np.square(estimates[..., : wanted.shape[-1]] - wanted), 0)
    rows = ~(np.isfinite(estimates).all((1, 2)) & np.isfinite(error).all((1, 2)))
    return _named(batch, windows, rows if rows.any() else slice(None))


def _named(batch: Mapping[str, np.ndarray], windows: Windows, rows: object = slice(None)) -> str:
    """Name the sites of a batch's windows, and the last hour or day of the first one."""
    found = [windows.sites[i] for i in np.unique(batch["site"][rows])]
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    last = np.asarray(batch["time"][rows][0]).astype(f"datetime64[{windows.spec.step}]")
    return f"windows of {', '.join(found[:10])}{more} (the first ends at {last}{'' if windows.spec.daily else ' UTC'})"


def rate(at: float, epochs: float, warmup: float) -> float:
    """Share of the highest learning rate, `at` epochs into a run: linear rise, then a cosine to zero.

    Examples
    --------
    >>> [round(rate(at, 11, 1), 3) for at in (0.5, 1, 6, 11)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if at < warmup:
        return at / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (at - warmup) / max(epochs - warmup, 1e-9))))
