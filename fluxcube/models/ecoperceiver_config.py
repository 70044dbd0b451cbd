"""Settings of EcoPerceiver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fluxcube.errors import ConfigError
from fluxcube.models.settings import check_types, from_known_keys


@dataclass(frozen=True, kw_only=True)
class EcoPerceiverConfig:
    """Shape of an EcoPerceiver; the defaults are the published ones, except that of `inputs`.

    Attributes
    ----------
    latent : int
        H, width of a latent.
    frequencies : int
        K of the Fourier features; 0 uses the plain value instead, to measure what they are worth.
    static_frequencies : int
        Number of the lowest frequencies that encode static numbers. Encoded finely, latitude and elevation identify a
        tower, and a model trained on a few dozen towers learns their identity instead of the weather.
    embedding : int
        l_emb, length of a variable's learned embedding; tokens have length H_i = 2 K + l_emb.
    context : int
        T, number of hours of a window.
    heads : int
        Attention heads.
    mlp_ratio : int
        Hidden width of an MLP in units of H.
    blocks : int
        N, number of pairs of windowed cross-attention and causal self-attention; all share one set of weights.
    self_layers : int
        M, number of causal self-attention layers after them, each with its own weights.
    share : bool
        Whether the blocks share their weights.
    dropout : float
        Fraction of the observed tokens that are masked in training.
    dropout_unit : {"token", "variable"}
        Whether single tokens are masked, or a variable over the whole window (a missing sensor).
    head : {"last", "dense"}
        Whether the last hour of a window is emitted, or all its hours.
    distribution : {"none", "gaussian"}
        Whether only the mean of a flux is estimated, or also the variance of its error.
    summary : int
        Hidden width of a network that summarises what changes slowly (trailing means, surface reflectance and static
        inputs) in one token and an offset of the latent of each hour; the other inputs have tokens of their own, in
        which the plain value stands beside its Fourier features. Inputs are then standardised. 0, as in the paper,
        gives every input a token of its own.
    causal : bool
        Whether an hour of a window attends to itself and earlier hours only. False is allowed with the last head, which
        emits no hour that has later ones.
    attention : {"window", "banded"}
        "window", as in the paper: each window of T hours has latents of its own, and all its hours attend to each
        other. "banded": all hours share one latent, and each hour attends to the T hours up to it, with relative
        positions, in a series of any length. One pass then estimates all hours of a series, each from the `reach`
        hours up to it. It needs the dense head.
    inputs : {"ours", "published"}
        Which inputs `fluxcube.fit` uses by default. "published": those of the 21 published predictors that have data,
        no static inputs, and the bounds of the published v1 of CarbonSense. No weight depends on it.
    """

    latent: int = 128
    frequencies: int = 12
    static_frequencies: int = 2
    embedding: int = 16
    context: int = 32
    heads: int = 8
    mlp_ratio: int = 3
    blocks: int = 8
    self_layers: int = 4
    share: bool = True
    dropout: float = 0.3
    dropout_unit: str = "token"
    head: str = "last"
    distribution: str = "none"
    summary: int = 0
    causal: bool = True
    attention: str = "window"
    inputs: str = "ours"

    def __post_init__(self):
        check_types(self)
        whole = ("latent", "static_frequencies", "embedding", "context", "heads", "mlp_ratio", "blocks")
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        for name in ("frequencies", "self_layers", "summary"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, found {getattr(self, name)}.")
        if self.latent % self.heads:
            raise ConfigError(f"heads must divide latent, found {self.heads} heads for latent={self.latent}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be a share in [0, 1), found {self.dropout}.")
        if self.dropout_unit not in ("token", "variable"):
            raise ConfigError(f"dropout_unit must be token or variable, found {self.dropout_unit!r}.")
        if self.head not in ("last", "dense"):
            raise ConfigError(f"head must be last or dense, found {self.head!r}.")
        if self.distribution not in ("none", "gaussian"):
            raise ConfigError(f"distribution must be none or gaussian, found {self.distribution!r}.")
        if self.inputs not in ("ours", "published"):
            raise ConfigError(f"inputs must be ours or published, found {self.inputs!r}.")
        if self.attention not in ("window", "banded"):
            raise ConfigError(f"attention must be window or banded, found {self.attention!r}.")
        if self.attention == "banded" and (self.head != "dense" or not self.causal):
            raise ConfigError(
                "attention='banded' needs head='dense' and causal=True, since it estimates every hour of a series from "
                f"the hours up to it; found head={self.head!r} and causal={self.causal}: pass attention='window', too, "
                "for windows (the preset small is banded)."
            )
        if not self.causal and self.head == "dense":
            raise ConfigError("causal=False needs head='last': a dense head would use hours after the one it emits.")

    @property
    def coding(self) -> int:
        """Number of features that encode a value."""
        return 2 * self.frequencies + bool(self.summary) or 1

    @property
    def banded(self) -> bool:
        """Whether each hour attends to a band of hours, in a series of any length."""
        return self.attention == "banded"

    @property
    def reach(self) -> int:
        """Number of hours that an estimate depends on, its own included: T, or T - 1 more for each banded layer."""
        layers = self.blocks + self.self_layers if self.banded else 1
        return layers * (self.context - 1) + 1

    @classmethod
    def quick(cls) -> EcoPerceiverConfig:
        """Return the settings of `small`; the preset is quick by its training (`TrainingConfig.quick`)."""
        return cls.small()

    @classmethod
    def published(cls) -> EcoPerceiverConfig:
        """Return the paper's model and inputs: 988,633 parameters with 21 variables, 9 bands and one target."""
        return cls(inputs="published")

    @classmethod
    def small(cls) -> EcoPerceiverConfig:
        """Return settings that a laptop can train: at most 200,000 parameters, every hour of a window supervised.

        Attention is banded: an estimate depends on 46 hours, and one pass estimates all hours of a series. With
        ``attention="window"`` and ``context=32`` it is the paper's attention. There is no dropout, which costs more
        skill than it adds in the few epochs that a laptop has time for.
        """
        return cls(
            latent=64,
            frequencies=8,
            context=16,
            heads=4,
            blocks=2,
            self_layers=1,
            dropout=0.0,
            head="dense",
            attention="banded",
        )

    @classmethod
    def from_dict(cls, values: Mapping) -> EcoPerceiverConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)
