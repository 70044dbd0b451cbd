"""The training loop: AdamW, warm-up, cosine; scored after each epoch; it goes on where a kill stopped it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fluxcube.models.base import Batch
from fluxcube.samples.loader import Windows
from fluxcube.training.config import TrainingConfig
from fluxcube.training.state import Counters, load_state, save_state

log = logging.getLogger(__name__)


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
        pred, obs = [], []
        self.windows.set_epoch(0)
        for batch in self.windows:
            pred.append(model.predict(Batch.of(batch))[:, -self.windows.emits :])
            obs.append(batch["targets"])
        obs_, pred_ = (np.concatenate(a).reshape(-1, len(names)) for a in (obs, pred))
        return {name: nse(obs_[:, i], pred_[:, i]) for i, name in enumerate(names)}


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
    state: Path,
    request: Mapping,
    on_epoch: Callable[[list[dict]], None],
    progress: Callable[[int, int, str], None] | None = None,
) -> Counters:
    """Train a torch model; it ends with the weights of its best epoch, or of its last (`TrainingConfig.keep`).

    Parameters
    ----------
    model : EcoPerceiver or alike
        Trained in place; ``model(batch)`` gives (B, emits, targets).
    windows : Windows
        Training windows.
    validation : Validation or None
        Scores each epoch; without it the last epoch is kept.
    config : TrainingConfig
        Settings.
    state : Path
        File of the state; where it exists, training goes on from it.
    request : mapping
        What is trained, kept in the state.
    on_epoch : callable
        Gets the history after each epoch.
    progress : callable, optional
        ``progress(done, total, text)`` after each step.

    Returns
    -------
    Counters
    """
    device = _device(config.device)
    model.to(device)
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )
    best: dict[str, torch.Tensor] = {}
    counters = Counters()
    if state.is_file():
        best, counters = load_state(state, model, optimizer)
        log.info("going on after epoch %d, step %d", counters.epoch, counters.step)
    run = _Run(model, optimizer, windows, config, device, state, request, progress, best, counters)
    while counters.epoch < config.epochs:
        run.epoch()
        run.finish_epoch(validation)
        on_epoch(counters.history)
        run.save()
    if run.best:
        model.load_state_dict(run.best)
    model.eval()
    return counters


class _Run:
    """One training run: what its epochs share."""

    def __init__(self, model, optimizer, windows, config, device, state, request, progress, best, counters):
        self.model, self.optimizer, self.windows, self.config = model, optimizer, windows, config
        self.device, self.state, self.request = device, state, request
        self.progress, self.best, self.counters = progress, best, counters

    def epoch(self) -> None:
        """Train the rest of the current epoch."""
        counters, config = self.counters, self.config
        self.windows.set_epoch(counters.epoch, counters.step)
        steps = len(self.windows)
        self.model.train()
        started = saved = time.monotonic()
        before = counters.seconds
        for batch in self.windows:
            self._set_rate(counters.epoch + counters.step / steps)
            self._step(batch)
            counters.step += 1
            now = time.monotonic()
            counters.seconds = before + now - started
            if now - saved > config.checkpoint_seconds:
                self.save()
                saved = now
            if self.progress:
                self.progress(counters.epoch * steps + counters.step, config.epochs * steps, self._text())

    def _step(self, batch: dict[str, np.ndarray]) -> None:
        features = Batch(*(torch.from_numpy(array).to(self.device) for array in Batch.of(batch)))
        wanted = torch.from_numpy(batch["targets"]).to(self.device)
        seen = torch.isfinite(wanted)
        with self._autocast():
            out = self.model(features)
        error = torch.where(seen, out.float() - torch.where(seen, wanted, 0.0), 0.0).square().sum()
        count = seen.sum()
        self.optimizer.zero_grad(set_to_none=True)
        (error / count.clamp(min=1)).backward()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.counters.loss += error.item()
        self.counters.hours += count.item()

    def _autocast(self):
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _set_rate(self, at: float) -> None:
        """Set the learning rate `at` epochs into the run."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(at, self.config.epochs, self.config.warmup_epochs)

    def finish_epoch(self, validation: Validation | None) -> None:
        """Score, remember the best weights, and note the epoch."""
        counters = self.counters
        row = {"epoch": counters.epoch + 1, "loss": counters.loss / max(counters.hours, 1)}
        score = None
        if validation is not None:
            scores = validation.score(self.model)
            row |= {f"val_nse_{name}": value for name, value in scores.items()}
            known = [value for value in scores.values() if math.isfinite(value)]
            score = sum(known) / len(known) if known else None
        if self.config.keep == "last" or score is None or counters.best is None or score > counters.best:
            counters.best = score
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        counters.history.append(row | {"seconds": round(counters.seconds, 3)})
        counters.epoch, counters.step, counters.loss, counters.hours = counters.epoch + 1, 0, 0.0, 0.0

    def save(self) -> None:
        """Write the state."""
        save_state(self.state, self.model, self.optimizer, self.best, self.counters, self.request)

    def _text(self) -> str:
        counters = self.counters
        return f"epoch {counters.epoch + 1} of {self.config.epochs}, loss {counters.loss / max(counters.hours, 1):.3f}"


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
