"""How long and how fast to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fluxcube.errors import ConfigError
from fluxcube.models.base import from_known_keys


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of gradient descent; the defaults suit `EcoPerceiverConfig.small()` on a CPU.

    Attributes
    ----------
    epochs : int
        Passes over the training windows.
    batch_size : int
        Windows per step.
    lr : float
        Highest learning rate.
    warmup_epochs : float
        Epochs of linear rise; a cosine to zero follows.
    weight_decay, betas
        Of AdamW.
    grad_clip : float
        Longest gradient; 0 clips none.
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
    precision : {"float32", "bfloat16"}
        Of matrix products; sums, norms and Fourier features stay float32.
    device : str
        "auto" is a GPU where there is one.
    checkpoint_seconds : float
        The state is written so often, and after each epoch.
    """

    epochs: int = 12
    batch_size: int = 32
    lr: float = 2e-3
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    stride: int | None = None
    windows_per_epoch: int | None = None
    val_windows: int = 2048
    keep: str = "best"
    precision: str = "float32"
    device: str = "auto"
    checkpoint_seconds: float = 60.0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        for name in ("stride", "windows_per_epoch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        if self.keep not in ("best", "last"):
            raise ConfigError(f"keep must be best or last, found {self.keep!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision must be float32 or bfloat16, found {self.precision!r}.")

    @classmethod
    def published(cls) -> TrainingConfig:
        """Return the paper's: 20 epochs at an effective batch of 4096 in bfloat16, for a GPU.

        References
        ----------
        Fortier et al. 2024, arXiv:2406.04940.
        """
        return cls(epochs=20, batch_size=4096, lr=8e-5, precision="bfloat16")

    @classmethod
    def from_dict(cls, values: Mapping) -> TrainingConfig:
        """Make a config of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)
