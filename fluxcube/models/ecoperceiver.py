"""EcoPerceiver: a Perceiver over hours of weather and chips, whose every latent is an estimate of its hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes, from_known_keys
from fluxcube.models.layers import (
    MASKED,
    CausalSelfAttention,
    Tokens,
    WindowedCrossAttention,
    fourier_features,
)

#: What stands in the place of a missing value; masked, so that no output depends on it.
_PLACEHOLDER = 0.0
_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class EcoPerceiverConfig:
    """Shape of an EcoPerceiver; the defaults are the published ones.

    Attributes
    ----------
    latent : int
        H, width of a latent.
    frequencies : int
        K of the Fourier features.
    static_frequencies : int
        How many of the lowest frequencies code static numbers. Coded finely, latitude and elevation name a
        tower, and a model trained on a few dozen of them learns the names instead of the weather.
    embedding : int
        l_emb, length of a variable's learned embedding; tokens have H_i = 2 K + l_emb.
    context : int
        T, hours of a window.
    heads : int
        Attention heads.
    mlp_ratio : int
        Hidden width of an MLP in units of H.
    blocks : int
        N, pairs of windowed cross-attention and causal self-attention, one set of weights for all.
    self_layers : int
        M, causal self-attention layers after them, each with its own weights.
    share : bool
        False gives each block its own weights.
    dropout : float
        Share of the observed tokens that are masked in training.
    dropout_unit : {"token", "variable"}
        Mask single tokens, or a variable over the whole window (a missing sensor).
    head : {"last", "dense"}
        Emit the last hour of a window, or all its hours.
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

    def __post_init__(self):
        whole = ("latent", "frequencies", "static_frequencies", "embedding", "context", "heads", "mlp_ratio", "blocks")
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        if self.self_layers < 0:
            raise ConfigError(f"self_layers must be 0 or more, found {self.self_layers}.")
        if self.latent % self.heads:
            raise ConfigError(f"heads must divide latent: {self.latent} / {self.heads} leaves a rest.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be a share in [0, 1), found {self.dropout}.")
        if self.dropout_unit not in ("token", "variable"):
            raise ConfigError(f"dropout_unit must be token or variable, found {self.dropout_unit!r}.")
        if self.head not in ("last", "dense"):
            raise ConfigError(f"head must be last or dense, found {self.head!r}.")

    @classmethod
    def published(cls) -> EcoPerceiverConfig:
        """Return the paper's model: 988,633 parameters with 21 variables, 9 bands and one target."""
        return cls()

    @classmethod
    def small(cls) -> EcoPerceiverConfig:
        """Return what a laptop trains: at most 200,000 parameters, every hour of a window supervised.

        Without dropout, which costs more than it gives in the few passes that a laptop has time for.
        """
        return cls(latent=64, frequencies=8, heads=4, blocks=2, self_layers=1, dropout=0.0, head="dense")

    @classmethod
    def from_dict(cls, values: Mapping) -> EcoPerceiverConfig:
        """Make a config of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class EcoPerceiver(nn.Module):
    """EcoPerceiver as published, with static tokens, memory columns and a dense head as options.

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

    def __init__(self, config: EcoPerceiverConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        width, token = config.latent, 2 * config.frequencies + config.embedding
        self.latents = nn.Parameter(torch.empty(config.context, width))
        self.variables = nn.Parameter(torch.empty(sizes.inputs + sizes.numbers, config.embedding))
        self.met_norm = nn.LayerNorm(token)
        self.classes = nn.ParameterList(torch.empty(count, token) for count in sizes.classes)
        if sizes.bands:
            self.bands = nn.Parameter(torch.empty(sizes.bands, config.embedding))
            self.band_weight = nn.Parameter(torch.empty(sizes.bands, _PIXELS, 2 * config.frequencies))
            self.band_bias = nn.Parameter(torch.zeros(sizes.bands, 2 * config.frequencies))
            self.image_norm = nn.LayerNorm(token)
        own = 1 if config.share else config.blocks
        layer = (width, config.heads, config.mlp_ratio)
        self.cross = nn.ModuleList(
            WindowedCrossAttention(width, token, config.heads, config.mlp_ratio) for _ in range(own)
        )
        self.block_self = nn.ModuleList(CausalSelfAttention(*layer) for _ in range(own))
        self.self_layers = nn.ModuleList(CausalSelfAttention(*layer) for _ in range(config.self_layers))
        self.head = nn.Linear(width, sizes.targets)
        droppable = torch.ones(sizes.inputs, dtype=torch.bool)
        droppable[list(sizes.protected)] = False
        self.register_buffer("droppable", droppable, persistent=False)
        future = torch.full((config.context, config.context), MASKED).triu(1)
        self.register_buffer("future", future, persistent=False)
        coarse = (torch.arange(config.frequencies) < config.static_frequencies).float()
        self.register_buffer("coarse", coarse.repeat(2), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name in ("variables", "bands", "latents") or name.startswith("classes"):
                nn.init.normal_(parameter, std=0.5)
            elif name == "band_weight":
                nn.init.normal_(parameter, std=_PIXELS**-0.5)
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

    @property
    def context(self) -> int:
        """Hours of a window."""
        return self.config.context

    @property
    def n_targets(self) -> int:
        """Fluxes per hour."""
        return self.sizes.targets

    @property
    def emits(self) -> int:
        """Last hours of a window that `predict` fills."""
        return self.context if self.config.head == "dense" else 1

    def forward(self, batch: Batch) -> Tensor:
        """Return scaled fluxes: (B, T, targets) of a dense head, (B, 1, targets) of a last one.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows of any length up to `context`, all of one length.
        """
        length = batch.met.shape[1]
        if length > self.context:
            raise ConfigError(f"windows must have at most {self.context} hours, the model's context; found {length}.")
        tokens = self.tokens(batch)
        future = self.future[:length, :length]
        # A shorter window uses the last latents: the present hour keeps its place.
        latents = self.latents[-length:].expand(len(batch.met), -1, -1)
        for i in range(self.config.blocks):
            at = 0 if self.config.share else i
            latents = self.cross[at](latents, tokens)
            latents = self.block_self[at](latents, future)
        for layer in self.self_layers:
            latents = layer(latents, future)
        return self.head(latents if self.config.head == "dense" else latents[:, -1:])

    def tokens(self, batch: Batch) -> Tokens:
        """Turn a batch into tokens and their masks."""
        length = batch.met.shape[1]
        met, seen = self._met_tokens(batch)
        static, static_seen = self._static_tokens(batch)
        met = torch.cat([met, static[:, None].expand(-1, length, -1, -1)], 2).flatten(0, 1)
        seen = torch.cat([seen, static_seen[:, None].expand(-1, length, -1)], 2).flatten(0, 1)
        rows, images, images_seen = self._image_tokens(batch)
        more_seen = torch.cat([seen[rows], images_seen], 1)
        present = seen.any(-1)
        present = present.index_copy(0, rows, more_seen.any(-1))
        return Tokens(
            values=met,
            bias=_bias(seen, met.dtype),
            present=present[:, None].to(met.dtype),
            rows=rows,
            more=torch.cat([met.index_select(0, rows), images.to(met.dtype)], 1),
            more_bias=_bias(more_seen, met.dtype),
        )

    def _met_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, V, H_i) of the met columns, and which are seen."""
        seen = torch.isfinite(batch.met)
        values = torch.where(seen, batch.met, _PLACEHOLDER)
        features = fourier_features(values, self.config.frequencies)
        embedding = self.variables[: self.sizes.inputs].expand(*features.shape[:2], -1, -1)
        tokens = self.met_norm(torch.cat([features, embedding], -1))
        if self.training and self.config.dropout:
            shape = list(seen.shape) if self.config.dropout_unit == "token" else [seen.shape[0], 1, seen.shape[2]]
            seen = seen & ~(self._dropped(shape, seen.device) & self.droppable)
        return tokens, seen

    def _dropped(self, shape: list[int], device: torch.device) -> Tensor:
        return torch.rand(shape, device=device) < self.config.dropout

    def _static_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, S + C, H_i) that are the same at every hour, and which are seen."""
        seen = torch.isfinite(batch.numbers)
        features = fourier_features(torch.where(seen, batch.numbers, _PLACEHOLDER), self.config.frequencies)
        embedding = self.variables[self.sizes.inputs :].expand(len(features), -1, -1)
        features = features * self.coarse
        tokens = [torch.cat([features, embedding], -1)]
        for i, table in enumerate(self.classes):
            tokens.append(table[batch.classes[:, i].clamp(min=0)][:, None])
        return self.met_norm(torch.cat(tokens, 1)), torch.cat([seen, batch.classes >= 0], 1)

    def _image_tokens(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (C,) of the hours with a chip, its band tokens (C, b, H_i), and which are seen."""
        window, slot = torch.nonzero(batch.image_step >= 0, as_tuple=True)
        if not self.sizes.bands:
            window, slot = window[:0], slot[:0]
        rows = window * batch.met.shape[1] + batch.image_step[window, slot]
        token = 2 * self.config.frequencies + self.config.embedding
        if not len(rows):
            return rows, batch.met.new_zeros(0, self.sizes.bands, token), rows.new_zeros(0, self.sizes.bands) > 0
        images = batch.images[window, slot]
        seen = torch.isfinite(images).all(-1)
        images = torch.where(seen[..., None], images, _PLACEHOLDER)
        features = torch.einsum("cbp,bpf->cbf", images, self.band_weight) + self.band_bias
        tokens = self.image_norm(torch.cat([features, self.bands.expand(len(rows), -1, -1)], -1))
        if self.training and self.config.dropout:
            by_window = self._dropped([len(batch.met), self.sizes.bands], seen.device)
            per_token = self.config.dropout_unit == "token"
            seen = seen & ~(self._dropped(list(seen.shape), seen.device) if per_token else by_window[window])
        return rows, tokens, seen

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in the hours that are not emitted."""
        if self.training:
            self.eval()
        device = self.latents.device
        with torch.inference_mode():
            out = self(Batch(*(torch.as_tensor(array, device=device) for array in batch))).float().cpu().numpy()
        full = np.full((*batch.met.shape[:2], self.n_targets), np.nan, np.float32)
        full[:, -out.shape[1] :] = out
        return full

    def weights(self) -> dict[str, bytes]:
        """Return the weights as one safetensors file."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        return {"model.safetensors": safetensors.torch.save(tensors)}

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Take the weights that `weights` gave."""
        try:
            tensors = safetensors.torch.load(files["model.safetensors"])
        except safetensors.SafetensorError as error:
            raise ValueError(f"model.safetensors cannot be read: {error}") from error
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if expected != found:
            names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise ValueError(f"tensors do not fit the config: {', '.join(names)}")
        self.load_state_dict(tensors)
        self.eval()


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask (R, V) into what is added to scores (R, 1, V)."""
    return torch.where(seen, 0.0, MASKED).to(dtype)[:, None]
