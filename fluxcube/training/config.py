"""How long and how fast to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from fluxcube.errors import ConfigError, unknown
from fluxcube.models.base import check_kinds, from_known_keys

#: What a flux of a day is weighed by if nothing is said, and what a flux can be weighed by.
DAILY_WEIGHTS = ("quality", "igbp", "koppen")
WEIGHTS = (*DAILY_WEIGHTS, "site", "spread")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of gradient descent; the defaults suit `EcoPerceiverConfig.small()` on a CPU.

    Attributes
    ----------
    epochs : int
        Passes over the training windows.
    batch_size : int
        Windows of one forward and backward pass of one process: what fits its memory.
    effective_batch : int or None
        Windows per step of all processes together, worked off `batch_size` at a time; None is one `batch_size` for
        each process. With it, neither `batch_size` nor the number of processes changes what a step learns from, not
        even which tokens dropout masks.
    lr : float
        Highest learning rate.
    warmup_epochs : float
        Epochs of linear rise; a cosine to zero follows.
    weight_decay, betas
        Of AdamW.
    grad_clip : float
        Longest gradient; 0 clips none.
    ema : float
        Decay per step of a running mean of the weights, which is then what is validated and kept; 0 keeps the weights
        themselves. The first steps decay faster, as (1 + n) / (10 + n).
    patience : int or None
        Stop after so many epochs without a better mean NSE on the validation towers.
    mse_epochs : int
        First epochs in which a Gaussian head learns its mean alone, by squared error.
    nll_beta : float
        Power of the predicted variance by which the Gaussian loss of each hour is weighted: 0 is the likelihood itself,
        1 gives the mean the gradient of squared error.
    weight_by_randunc : bool
        Weight fluxes by the inverse of their random uncertainty's variance, plus the typical one.
    weigh : tuple of str or None
        What else weighs fluxes: "quality" (the good share of a day), "igbp" and "koppen" (classes by their inverse
        frequency among the training sites, mean 1), "site" (towers count alike, however long they ran), "spread"
        (fluxes by the inverse of how large their tower's are; see `fluxcube.training.weights`). None is the first
        three for days and none for hours.
    balance : float or None
        alpha: how much the mean of (NEE - (RECO_NT - GPP_NT))^2 in the fluxes' units adds to the loss. None is 0.1 for
        days where all three are targets, and 0 else.
    pretrain_epochs : int or None
        First epochs, of `epochs`, in which TAM-RL's forward model is trained alone; the learning rate falls to zero
        in them, and again in the rest. None is half of them, and none of a checkpoint that is trained further.
    stride : int or None
        Hours between the windows of an epoch, at a phase drawn anew per site and epoch; None is half a window
        for a dense head and 1 for others.
    windows_per_epoch : int or None
        Train on so many of an epoch's windows, drawn at random; None takes all.
    val_windows : int
        Windows of the validation sites that are scored after each epoch, the same ones each time.
    keep : {"best", "last"}
        Weights of the epoch that scored best on the validation towers, or of the last, where few towers and few
        epochs make the best a matter of luck.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products in training; sums, norms and Fourier features stay float32. "auto" is bfloat16 on a GPU.
    device : str
        "auto" is a GPU where there is one.
    checkpoint_seconds : float
        The state is written so often, and after each epoch.
    tensorboard : bool
        Write event files for TensorBoard into the run's folder, besides log.csv.

    References
    ----------
    Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty Estimation" (nll_beta), arXiv:2203.09168.
    """

    epochs: int = 12
    batch_size: int = 32
    effective_batch: int | None = None
    lr: float = 2e-3
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    ema: float = 0.0
    patience: int | None = None
    mse_epochs: int = 1
    nll_beta: float = 0.0
    weight_by_randunc: bool = False
    weigh: tuple[str, ...] | None = None
    balance: float | None = None
    pretrain_epochs: int | None = None
    stride: int | None = None
    windows_per_epoch: int | None = None
    val_windows: int = 2048
    keep: str = "best"
    precision: str = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False

    def __post_init__(self):
        check_kinds(self)
        for name in ("epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        for name in ("stride", "windows_per_epoch", "effective_batch", "patience", "val_windows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        for name in ("warmup_epochs", "weight_decay", "grad_clip", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, found {getattr(self, name)}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be two numbers in [0, 1), found {self.betas}.")
        if self.keep not in ("best", "last"):
            raise ConfigError(f"keep must be best or last, found {self.keep!r}.")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"precision must be auto, float32 or bfloat16, found {self.precision!r}.")
        for name in self.weigh or ():
            if name not in WEIGHTS:
                raise unknown("weight", name, WEIGHTS)
        if self.balance is not None and self.balance < 0:
            raise ConfigError(f"balance must be 0 or more, found {self.balance}.")
        if self.pretrain_epochs is not None and not 0 <= self.pretrain_epochs < self.epochs:
            raise ConfigError(
                f"pretrain_epochs must be 0 or more and below epochs, found {self.pretrain_epochs} of {self.epochs}."
            )
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be a decay in [0, 1), found {self.ema}.")
        if not 0 <= self.nll_beta <= 1 or self.mse_epochs < 0:
            raise ConfigError(
                f"nll_beta must be in [0, 1] and mse_epochs 0 or more, found {self.nll_beta} and {self.mse_epochs}."
            )
        if self.effective_batch and self.batch_size > self.effective_batch:
            raise ConfigError(
                f"batch_size ({self.batch_size}) must be at most effective_batch ({self.effective_batch})."
            )

    @classmethod
    def published(cls) -> TrainingConfig:
        """Return the paper's: 20 epochs at an effective batch of 4096 in bfloat16, for a GPU.

        References
        ----------
        Fortier et al. 2024, arXiv:2406.04940.
        """
        return cls(epochs=20, batch_size=1024, effective_batch=4096, lr=8e-5, precision="bfloat16")

    @property
    def learned(self) -> dict[str, object]:
        """The settings that decide on the weights, without those of logging and saving."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("checkpoint_seconds", "tensorboard")}

    @classmethod
    def from_dict(cls, values: Mapping) -> TrainingConfig:
        """Make a config of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)
