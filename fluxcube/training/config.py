"""Settings of training by gradient descent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fluxcube.errors import ConfigError, unknown
from fluxcube.models.settings import check_types, from_known_keys

#: Weights of training fluxes that `weigh` can name; see the table in `fluxcube.training.weights`.
WEIGHTS = ("quality", "igbp", "koppen", "site", "sqrt-site", "spread")
#: Words that settings accept.
_CHOICES = {
    "keep": ("best", "last"),
    "val_quality": ("measured", "training"),
    "precision": ("auto", "float32", "tf32", "bfloat16"),
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of gradient descent; the defaults suit `EcoPerceiverConfig.small()` on a CPU.

    Trees use the weights of fluxes, `weigh`, `filled_weight` and `weight_by_randunc`, and no other of these settings.

    Attributes
    ----------
    epochs : int
        Passes over the training windows.
    batch_size : int
        Number of windows of one forward and backward pass of one process; limited by its RAM.
    effective_batch : int or None
        Number of windows per step of all processes together, `batch_size` of which are processed at a time; None is
        one `batch_size` for each process. With it, neither `batch_size` nor the number of processes changes what a step
        learns from, including the tokens that dropout masks.
    lr : float
        Maximum learning rate.
    warmup_epochs : float
        Number of epochs in which the learning rate rises linearly; a cosine to zero follows.
    weight_decay, betas
        Settings of AdamW.
    grad_clip : float
        Maximum norm of the gradient; 0 clips none.
    ema : float
        Decay per step of a running mean of the weights, which is validated and kept instead of the weights; 0 uses the
        weights themselves. The first steps decay faster, as (1 + n) / (10 + n).
    patience : int or None
        Stop after this number of epochs without a better mean NSE on the validation towers.
    mse_epochs : int
        Number of the first epochs, in which a Gaussian head learns only its mean, by squared error.
    nll_beta : float
        Exponent of the predicted variance that weights the Gaussian loss of each time step: 0 is the likelihood itself,
        with 1 the mean has the gradient of squared error.
    weight_by_randunc : bool
        Weight fluxes by the inverse of their random uncertainty's variance, plus the typical one.
    weigh : tuple of str or None
        Further weights of fluxes, multiplied with each other (`fluxcube.training.weights`): "quality" (the measured
        share of a day; of an hour, whether it is measured), "igbp" and "koppen" (classes by their inverse frequency
        among the training sites), "site" (towers count equally, however long their record), "sqrt-site" (as the square
        root of the length of their record), "spread" (the inverse size of the fluxes of a tower). None is the first
        three for networks on daily cubes, and none for networks on hourly ones and for trees.
    filled_weight : float or None
        Weight of gap-filled hours (flag 1, or up to `max_qc`) relative to measured ones, for "quality" of hourly cubes;
        None is 0.2. With 0 they are not used.
    balance : float or None
        alpha: weight in the loss of the carbon balance, the mean of (NEE - (RECO_NT - GPP_NT))^2 relative to the
        variance of NEE at the training towers, so that it is weighed against the error of scaled fluxes. None is 0.1
        for daily cubes if all three are targets, and 0 otherwise.
    pretrain_epochs : int or None
        Number of the first epochs, of `epochs`, in which the forward model of a model of two stages (TAM-RL) is trained
        alone; the learning rate falls to zero in them, and again in the rest. None is half of the epochs, or 0 for a
        checkpoint that is trained further.
    stride : int or None
        Time steps between the windows of an epoch, at a phase drawn per site and epoch; None is the default of the
        model (`Model.training_stride`).
    windows_per_epoch : int or None
        Number of windows of an epoch, drawn at random; None takes all.
    val_windows : int or None
        Number of windows of the validation sites that are scored after each epoch, the same ones each time; None scores
        all.
    val_quality : {"measured", "training"}
        Whether measured fluxes alone are scored on the validation sites, or those of the quality that training uses.
    keep : {"best", "last"}
        Whether the weights of the epoch with the best score on the validation towers are kept, or those of the last
        epoch; with few towers and few epochs the best one is chosen by chance.
    precision : {"auto", "float32", "tf32", "bfloat16"}
        Precision of matrix products in training; sums, norms and Fourier features are always float32. "auto" is
        bfloat16 on a GPU; "tf32" is for GPUs.
    device : str
        Device for training: "auto" is a GPU if there is one; "cpu", "cuda", "cuda:1" for a GPU by its number, or
        "cuda,cpu" for a GPU, and the CPU where there is none.
    deterministic : bool
        Whether only algorithms that repeat their results bit by bit are used; an operation without one is an error.
    checkpoint_seconds : float
        Seconds between two saved states; it is also saved after each epoch.
    tensorboard : bool
        Whether event files for TensorBoard are written into the folder of the run, besides log.csv.
    compile : bool
        Whether forward and backward passes are compiled by `torch.compile`. A step is then faster, but compilation
        takes as long as some thousand steps of a small model on a CPU.

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
    filled_weight: float | None = None
    balance: float | None = None
    pretrain_epochs: int | None = None
    stride: int | None = None
    windows_per_epoch: int | None = None
    val_windows: int | None = 2048
    val_quality: str = "measured"
    keep: str = "best"
    precision: str = "auto"
    device: str = "auto"
    deterministic: bool = False
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    compile: bool = False

    def __post_init__(self):
        check_types(self)
        self._check_numbers()
        self._check_choices()
        if self.filled_weight is not None:
            self._check_filled_weight(self.filled_weight)
        if self.pretrain_epochs is not None and not 0 <= self.pretrain_epochs < self.epochs:
            raise ConfigError(
                f"pretrain_epochs must be 0 or more and below epochs, found {self.pretrain_epochs} of {self.epochs}."
            )
        if self.effective_batch and self.batch_size > self.effective_batch:
            raise ConfigError(
                f"batch_size ({self.batch_size}) must be at most effective_batch ({self.effective_batch})."
            )

    def _check_choices(self) -> None:
        """Refuse words that are none of the choices of a setting."""
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                words = f"{', '.join(valid[:-1])} or {valid[-1]}"
                raise ConfigError(f"{name} must be {words}, found {getattr(self, name)!r}.")
        for name in self.weigh or ():
            if name not in WEIGHTS:
                raise unknown("weight", name, WEIGHTS)
        if self.weigh is not None and {"site", "sqrt-site"} <= set(self.weigh):
            raise ConfigError("weigh: expected site or sqrt-site, found both; leave one out.")

    def _check_numbers(self) -> None:
        """Refuse numbers beyond their limits."""
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
        if self.balance is not None and self.balance < 0:
            raise ConfigError(f"balance must be 0 or more, found {self.balance}.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be a decay in [0, 1), found {self.ema}.")
        if not 0 <= self.nll_beta <= 1 or self.mse_epochs < 0:
            raise ConfigError(
                f"nll_beta must be in [0, 1] and mse_epochs 0 or more, found {self.nll_beta} and {self.mse_epochs}."
            )

    def _check_filled_weight(self, weight: float) -> None:
        """Refuse a weight of gap-filled hours that is no weight, or that nothing uses."""
        if not 0 <= weight <= 1:
            raise ConfigError(f"filled_weight must be 0 to 1, found {weight}.")
        if "quality" not in (self.weigh or ()):
            raise ConfigError(f"filled_weight={weight} is used by the weight quality: add quality to weigh.")

    @classmethod
    def published(cls) -> TrainingConfig:
        """Return the settings of the paper: 20 epochs with an effective batch of 4096 in bfloat16, for a GPU.

        Every window of the validation sites is scored, on fluxes of the quality that training uses (flag 0 or 1), since
        the published data contain no flags.

        References
        ----------
        Fortier et al. 2024, arXiv:2406.04940.
        """
        return cls(
            epochs=20,
            batch_size=1024,
            effective_batch=4096,
            lr=8e-5,
            val_windows=None,
            val_quality="training",
            precision="bfloat16",
        )

    @classmethod
    def quick(cls) -> TrainingConfig:
        """Return settings for a first score: three short epochs, however many towers there are."""
        return cls(epochs=3, windows_per_epoch=6000, val_windows=512, warmup_epochs=0.5)

    @classmethod
    def preset(cls, name: str) -> TrainingConfig:
        """Return the settings of a preset, "default", "quick" or "published" (UnknownNameError for another name)."""
        made: dict[str, Callable[[], TrainingConfig]] = {"default": cls, "quick": cls.quick, "published": cls.published}
        if name not in made:
            raise unknown("preset of the training settings", name, made)
        return made[name]()

    @property
    def learned(self) -> dict[str, object]:
        """Settings that determine the weights, except for rounding, without those of logging and saving."""
        settings = dataclasses.asdict(self)
        left_out = ["checkpoint_seconds", "compile", "tensorboard"]
        # Without these, the request of runs of earlier versions is unchanged.
        left_out += ["val_quality"] if self.val_quality == "measured" else []
        left_out += ["filled_weight"] if self.filled_weight is None else []
        left_out += [] if self.deterministic else ["deterministic"]
        return {k: v for k, v in settings.items() if k not in left_out}

    @classmethod
    def from_dict(cls, values: Mapping) -> TrainingConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)
