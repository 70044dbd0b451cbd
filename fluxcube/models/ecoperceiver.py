"""EcoPerceiver: a Perceiver over hourly weather and satellite bands; each latent estimates the fluxes of its hour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.banded import BandedSelfAttention
from fluxcube.models.base import Batch, Config, Sizes
from fluxcube.models.ecoperceiver_config import EcoPerceiverConfig
from fluxcube.models.graphs import Replayed
from fluxcube.models.layers import MASKED, CausalSelfAttention, Stack, Tokens, WindowedCrossAttention, few_kernels
from fluxcube.models.sharing import SelfLayer, shared_blocks
from fluxcube.models.sliding import predict_sliding
from fluxcube.models.tokens import TokenNetwork

#: Largest logarithm of a variance, up and down, in units of the target's variance.
_WIDEST = 8.0


class EcoPerceiver(TokenNetwork):
    """EcoPerceiver as published, with static tokens, trailing means and a dense head as options.

    Parameters
    ----------
    config : EcoPerceiverConfig
        Shape.
    sizes : Sizes
        Numbers of inputs and targets.

    References
    ----------
    Fortier et al. 2024, "CarbonSense: A Multimodal Dataset and Baseline for Carbon Flux Modelling",
    arXiv:2406.04940.

    Examples
    --------
    >>> model = EcoPerceiver(EcoPerceiverConfig.published(), Sizes(inputs=21, bands=9, targets=1))
    >>> sum(p.numel() for p in model.parameters())
    988633
    """

    kind = "ecoperceiver"
    image_table: ClassVar = True
    tensor_rows: ClassVar = {
        "variables": "inputs",
        **dict.fromkeys(("bands", "band_weight", "band_bias"), "bands"),
        **dict.fromkeys(("head.weight", "head.bias", "spread.weight", "spread.bias"), "targets"),
    }
    free_settings = ("dropout", "dropout_unit", "head", "distribution", "causal", "inputs")
    bounds: ClassVar = "ours"
    config: EcoPerceiverConfig
    future: Tensor
    #: Replays predictions as CUDA graphs: ``model.replayed = Replayed(model, model.estimates)``; None calls the layers.
    replayed: Replayed | None = None

    def __init__(self, config: EcoPerceiverConfig, sizes: Sizes):
        super().__init__(config, sizes)
        width, token = config.latent, config.coding + config.embedding
        self.latents = nn.Parameter(torch.empty(1 if config.banded else config.context, width))
        self._add_token_parameters(config, sizes)
        own = 1 if config.share else config.blocks
        layer = (width, config.heads, config.mlp_ratio)
        self.cross: Stack[WindowedCrossAttention] = Stack(
            WindowedCrossAttention(width, token, config.heads, config.mlp_ratio) for _ in range(own)
        )
        attention = partial(BandedSelfAttention, band=config.context) if config.banded else CausalSelfAttention
        self.block_self: Stack[CausalSelfAttention] = Stack(attention(*layer) for _ in range(own))
        self.self_layers: Stack[CausalSelfAttention] = Stack(attention(*layer) for _ in range(config.self_layers))
        self.head = nn.Linear(width, sizes.targets)
        if config.distribution == "gaussian":
            self.spread = nn.Linear(width, sizes.targets)
        future = torch.full((config.context, config.context), MASKED if config.causal else 0.0).triu(1)
        self.register_buffer("future", future, persistent=False)
        self._register_token_buffers(config, sizes)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            own = name in ("variables", "latents") or name.startswith("classes")
            if own or name == "bands" or name.endswith(".bands"):
                nn.init.normal_(parameter, std=0.5)
            elif name.endswith("band_weight"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif name.endswith("weight") and parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "mlp.2.weight")):
                # Residual branches start small, since many add up; attention to tokens does not, since it
                # begins as a mean over all tokens, in which each counts little.
                nn.init.xavier_uniform_(parameter, gain=1.2 if name.startswith("cross") and "out" in name else 0.3)
        nn.init.zeros_(self.head.weight)  # the first guess is the training mean
        if self.config.distribution == "gaussian":
            nn.init.zeros_(self.spread.weight)  # and the training spread

    @classmethod
    def standardises(cls, config: Config) -> bool:
        """Whether inputs are standardised: for the summary of the slow ones."""
        return isinstance(config, EcoPerceiverConfig) and bool(config.summary)

    @classmethod
    def rows_of_tensors(cls, config: Config) -> Mapping[str, str]:
        """Return `tensor_rows`; with a summary, whose columns are inputs, none."""
        return {} if cls.standardises(config) else cls.tensor_rows

    @property
    def context(self) -> int:
        """Number of hours that an estimate depends on, its own included: those of a window."""
        return self.config.reach

    @property
    def streams(self) -> bool:
        """Whether one pass estimates all hours of a series."""
        return self.config.banded

    @property
    def training_length(self) -> int:
        """Number of hours of a training window: of a banded model, two bands.

        Its first hours learn from the fewer hours before them, as the first hours of a record are estimated.
        """
        return 2 * self.config.context if self.streams else self.context

    @property
    def emits(self) -> int:
        """Number of hours, the last ones of a window, that `predict` fills."""
        return self.context if self.config.head == "dense" and not self.streams else 1

    @property
    def supervised(self) -> int:
        """Number of hours, the last ones of a window, that training learns from."""
        return self.training_length if self.config.head == "dense" else 1

    @property
    def training_stride(self) -> int:
        """Hours between training windows: half a window for a dense head, 1 for others."""
        return max(1, self.training_length // 2) if self.supervised > 1 else 1

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `predict_all` returns of each target."""
        return ("mean", "std") if self.config.distribution == "gaussian" else ("mean",)

    @property
    def sliding_window(self) -> bool:
        """`predict` accepts more hours than a window has, which is faster than one window at a time."""
        return not self.streams

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return scaled fluxes: (B, T, targets) of a dense head, (B, 1, targets) of a last one.

        For a Gaussian head the logarithms of the variances follow, so that the last axis has 2 x targets entries.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows of one length: at most `context` hours, or any number of hours for a model with streams.
        """
        length = batch.inputs.shape[1]
        if length > self.context and not self.streams:
            raise ConfigError(f"windows must have at most {self.context} hours, the model's context; found {length}.")
        tokens = self.tokens(batch)
        future = self.future[:length, :length]
        # A shorter window uses the last latents: the present hour keeps its place.
        own = self.latents if length == len(self.latents) else self.latents[-length:]
        own = self.latents.expand(length, -1) if self.streams else own
        latents: Tensor = own.expand(len(batch.inputs), -1, -1)
        if tokens.offset is not None:
            latents = latents + tokens.offset
        layers: list[SelfLayer] = []
        for cross, block_self in self._blocks(tokens):
            for layer in layers:
                latents = layer(latents, future)
            latents = cross(latents)
            layers = [block_self]
        layers += list(self.self_layers)
        for layer in layers[:-1]:
            latents = layer(latents, future)
        if self.config.head == "dense":
            return self.emit(layers[-1](latents, future))
        end = self.self_layers if len(self.self_layers) else self.block_self
        return self.emit(end[-1].last(latents, future))

    def _blocks(self, tokens: Tokens) -> list[tuple[Callable[[Tensor], Tensor], SelfLayer]]:
        """Return the attention of each block to `tokens`, and its self-attention."""
        count, few = self.config.blocks, few_kernels(self.cross[0], tokens.values)
        learns = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if few and learns and self.config.share and count > 1:
            return shared_blocks(self.cross[0], self.block_self[0], tokens, count)
        folded = [cross.fold() if few else None for cross in self.cross]
        at = [0] * count if self.config.share else range(count)
        return [(partial(self.cross[i], tokens=tokens, folded=folded[i]), self.block_self[i]) for i in at]

    def emit(self, latents: Tensor) -> Tensor:
        """Return what `forward` returns for the latents (..., H) of hours."""
        # Products in bfloat16 would round the estimates themselves to 8 bits.
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.to(self.head.weight.dtype)
            if self.config.summary:
                latents = self.last_norm(latents)
            mean = self.head(latents)
            if self.config.distribution == "none":
                return mean
            return torch.cat([mean, bounded_log_variance(self.spread(latents))], -1)

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in the hours that are not emitted.

        If the batch has more hours than `context` (sliding-window inference), each hour from number `context` on is
        estimated as the last one of its own window. A model with streams fills all hours, the first ones from the
        hours of the batch before them.
        """
        return self._emit(batch)[..., : self.n_targets]

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return `quantities` of each target, (B, T, quantities x targets), means first; otherwise as `predict`."""
        out = self._emit(batch)
        out[..., self.n_targets :] = np.exp(0.5 * out[..., self.n_targets :])
        return out

    def estimates(self, batch: Batch[Tensor]) -> Tensor:
        """Return `forward` of windows and streams, or `predict_sliding` of series that are longer than a window."""
        longer = batch.inputs.shape[1] > self.context and not self.streams
        return predict_sliding(self, batch) if longer else self(batch)

    def _emit(self, batch: Batch) -> np.ndarray:
        if self.training:
            self.eval()
        with torch.inference_mode():
            tensors = self.on_device(batch)
            out = (self.replayed or self.estimates)(tensors)
        emitted = out.float().cpu().numpy()
        full = np.full((*batch.inputs.shape[:2], emitted.shape[-1]), np.nan, np.float32)
        full[:, -emitted.shape[1] :] = emitted
        return full


def bounded_log_variance(x: Tensor) -> Tensor:
    """Bound a logarithm of a variance to -8..8 by a tanh that leaves values near 0 unchanged.

    Standard deviations then lie between 0.018 and 55 of the target's. A head at either end still has a gradient, which
    it would not have at a hard limit.

    Examples
    --------
    >>> bounded_log_variance(torch.tensor([0.1, 100.0])).round(decimals=2)
    tensor([0.1000, 8.0000])
    """
    return _WIDEST * torch.tanh(x / _WIDEST)
