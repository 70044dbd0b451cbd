"""EcoPerceiver: a Perceiver over hourly weather and satellite bands; each latent estimates the fluxes of its hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Config, Sizes, split_images
from fluxcube.models.layers import (
    MASKED,
    CausalSelfAttention,
    Stack,
    Tokens,
    WindowedCrossAttention,
    fourier_features,
)
from fluxcube.models.network import Network
from fluxcube.models.settings import check_types, from_known_keys
from fluxcube.models.sliding import predict_sliding

#: Value in place of a missing one; masked, so that no output depends on it.
_PLACEHOLDER = 0.0
#: Largest logarithm of a variance, up and down, in units of the target's variance.
_WIDEST = 8.0
#: Standardised inputs are limited to this many standard deviations; Fourier features encode them as -1 to 1.
_STANDARD_DEVIATIONS = 5.0


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
        if not self.causal and self.head == "dense":
            raise ConfigError("causal=False needs head='last': a dense head would use hours after the one it emits.")

    @property
    def coding(self) -> int:
        """Number of features that encode a value."""
        return 2 * self.frequencies + bool(self.summary) or 1

    @classmethod
    def published(cls) -> EcoPerceiverConfig:
        """Return the paper's model and inputs: 988,633 parameters with 21 variables, 9 bands and one target."""
        return cls(inputs="published")

    @classmethod
    def small(cls) -> EcoPerceiverConfig:
        """Return settings that a laptop can train: at most 200,000 parameters, every hour of a window supervised.

        There is no dropout, which costs more skill than it adds in the few epochs that a laptop has time for.
        """
        return cls(latent=64, frequencies=8, heads=4, blocks=2, self_layers=1, dropout=0.0, head="dense")

    @classmethod
    def from_dict(cls, values: Mapping) -> EcoPerceiverConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class EcoPerceiver(Network):
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
    tensor_rows: ClassVar = {
        "variables": "inputs",
        **dict.fromkeys(("bands", "band_weight", "band_bias"), "bands"),
        **dict.fromkeys(("head.weight", "head.bias", "spread.weight", "spread.bias"), "targets"),
    }
    free_settings = ("dropout", "dropout_unit", "head", "distribution", "causal", "inputs")
    bounds: ClassVar = "ours"
    config: EcoPerceiverConfig
    droppable: Tensor
    future: Tensor
    coarse: Tensor
    scale: Tensor

    def __init__(self, config: EcoPerceiverConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        width, token = config.latent, config.coding + config.embedding
        self.latents = nn.Parameter(torch.empty(config.context, width))
        own_tokens = sizes.inputs - sizes.means if config.summary else sizes.inputs + sizes.numbers
        self.variables = nn.Parameter(torch.empty(own_tokens, config.embedding))
        self.met_norm = nn.LayerNorm(token)
        if config.summary:
            self.summary = Summary(sizes, config.summary, token, width)
            self.last_norm = nn.LayerNorm(width)
        classes = () if config.summary else sizes.classes
        self.classes = nn.ParameterList(torch.empty(count, token) for count in classes)
        if sizes.bands:
            self.bands = nn.Parameter(torch.empty(sizes.bands, config.embedding))
            self.band_weight = nn.Parameter(torch.empty(sizes.bands, sizes.pixels, config.coding))
            self.band_bias = nn.Parameter(torch.zeros(sizes.bands, config.coding))
            self.image_norm = nn.LayerNorm(token)
        self.image_encoders: Stack[ImageEncoder] = Stack(
            ImageEncoder(*kind, config.coding, config.embedding)
            for kind in zip(sizes.image_bands, sizes.image_pixels, strict=True)
        )
        own = 1 if config.share else config.blocks
        layer = (width, config.heads, config.mlp_ratio)
        self.cross: Stack[WindowedCrossAttention] = Stack(
            WindowedCrossAttention(width, token, config.heads, config.mlp_ratio) for _ in range(own)
        )
        self.block_self: Stack[CausalSelfAttention] = Stack(CausalSelfAttention(*layer) for _ in range(own))
        self.self_layers: Stack[CausalSelfAttention] = Stack(
            CausalSelfAttention(*layer) for _ in range(config.self_layers)
        )
        self.head = nn.Linear(width, sizes.targets)
        if config.distribution == "gaussian":
            self.spread = nn.Linear(width, sizes.targets)
        self._register_buffers(config, sizes)
        self._initialise()

    def _register_buffers(self, config: EcoPerceiverConfig, sizes: Sizes) -> None:
        """Register the constants of the network, which no checkpoint contains."""
        droppable = torch.ones(sizes.inputs, dtype=torch.bool)
        droppable[list(sizes.protected)] = False
        self.register_buffer("droppable", droppable, persistent=False)
        future = torch.full((config.context, config.context), MASKED if config.causal else 0.0).triu(1)
        self.register_buffer("future", future, persistent=False)
        coarse = (torch.arange(config.frequencies) < config.static_frequencies).float()
        coarse = coarse.repeat(2) if config.frequencies else torch.ones(1)
        self.register_buffer("coarse", coarse, persistent=False)
        scale = torch.full((sizes.inputs,), 1 / _STANDARD_DEVIATIONS if config.summary else 1.0)
        scale[list(sizes.cyclic)] = 1.0
        self.register_buffer("scale", scale, persistent=False)

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
        """Number of hours of a window."""
        return self.config.context

    @property
    def emits(self) -> int:
        """Number of hours, the last ones of a window, that `predict` fills."""
        return self.context if self.config.head == "dense" else 1

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `predict_all` returns of each target."""
        return ("mean", "std") if self.config.distribution == "gaussian" else ("mean",)

    @property
    def sliding_window(self) -> bool:
        """`predict` accepts more hours than a window has, which is faster than one window at a time."""
        return True

    def forward(self, batch: Batch[Tensor]) -> Tensor:
        """Return scaled fluxes: (B, T, targets) of a dense head, (B, 1, targets) of a last one.

        For a Gaussian head the logarithms of the variances follow, so that the last axis has 2 x targets entries.

        Parameters
        ----------
        batch : Batch of Tensors
            Windows of one length, at most `context`.
        """
        length = batch.inputs.shape[1]
        if length > self.context:
            raise ConfigError(f"windows must have at most {self.context} hours, the model's context; found {length}.")
        tokens = self.tokens(batch)
        future = self.future[:length, :length]
        # A shorter window uses the last latents: the present hour keeps its place.
        latents: Tensor = self.latents[-length:].expand(len(batch.inputs), -1, -1)
        if tokens.offset is not None:
            latents = latents + tokens.offset
        for i in range(self.config.blocks):
            at = 0 if self.config.share else i
            latents = self.cross[at](latents, tokens)
            latents = self.block_self[at](latents, future)
        for layer in self.self_layers:
            latents = layer(latents, future)
        return self.emit(latents if self.config.head == "dense" else latents[:, -1:])

    def emit(self, latents: Tensor) -> Tensor:
        """Return what `forward` returns for the latents (..., H) of hours."""
        if self.config.summary:
            latents = self.last_norm(latents)
        mean = self.head(latents)
        if self.config.distribution == "none":
            return mean
        return torch.cat([mean.float(), bounded_log_variance(self.spread(latents).float())], -1)

    def tokens(self, batch: Batch[Tensor]) -> Tokens:
        """Return the tokens of a batch and their masks."""
        seen = self._not_dropped(torch.isfinite(batch.inputs))
        values = torch.where(torch.isfinite(batch.inputs), batch.inputs, _PLACEHOLDER)
        hourly, seen, offset = (self._summarised if self.config.summary else self._separate)(batch, values, seen)
        hourly, seen = hourly.flatten(0, 1), seen.flatten(0, 1)
        rows, images, images_seen, kinds = self._image_tokens(batch)
        more_seen = torch.cat([seen[rows], images_seen], 1)
        present = seen.any(-1)
        present = present.index_copy(0, rows, more_seen.any(-1))
        return Tokens(
            values=hourly,
            bias=_bias(seen, hourly.dtype),
            present=present[:, None].to(hourly.dtype),
            rows=rows,
            more=torch.cat([hourly.index_select(0, rows), images.to(hourly.dtype)], 1),
            more_bias=_bias(more_seen, hourly.dtype),
            offset=offset,
            kinds=kinds,
        )

    def _not_dropped(self, seen: Tensor) -> Tensor:
        """Return which inputs (B, T, V) are seen after observational dropout."""
        if not self._drops:
            return seen
        shape = list(seen.shape) if self.config.dropout_unit == "token" else [seen.shape[0], 1, seen.shape[2]]
        return seen & ~(self._dropped(shape, seen.device) & self.droppable)

    def _separate(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return a token for every input and static input (B, T, V, H_i), which are not masked, and no offset."""
        tokens = self._input_tokens(self._encoded(values))
        static, static_seen = self._static_tokens(batch)
        length = values.shape[1]
        tokens = torch.cat([tokens, static[:, None].expand(-1, length, -1, -1)], 2)
        return tokens, torch.cat([seen, static_seen[:, None].expand(-1, length, -1)], 2), None

    def _summarised(self, batch: Batch[Tensor], values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a token for every hourly input and one for the others, which are not masked, and the offsets."""
        own = self.sizes.inputs - self.sizes.means
        values = (values * self.scale).clamp(-1, 1)
        encoded = self._encoded(values[..., :own])
        if self.config.frequencies:  # otherwise the values themselves are the encoding
            encoded = torch.cat([encoded, values[..., :own, None]], -1)
        tokens = self._input_tokens(encoded)
        # What is missing is 0 beside a mask that says so, whatever the placeholder.
        slow = torch.where(seen, values * _STANDARD_DEVIATIONS, 0.0)[..., own:]
        token, offset = self.summary(slow, seen[..., own:], batch.numbers, batch.classes)
        tokens = torch.cat([tokens, self.met_norm(token)[:, :, None]], 2)
        return tokens, functional.pad(seen[..., :own], (0, 1), value=True), offset

    def _input_tokens(self, features: Tensor) -> Tensor:
        """Return the tokens (B, T, V, H_i) of the input columns, from the features that encode their values."""
        embedding = self.variables[: features.shape[2]].expand(*features.shape[:2], -1, -1)
        return self.met_norm(torch.cat([features, embedding], -1))

    def _encoded(self, values: Tensor) -> Tensor:
        """Return Fourier features (..., 2 K), or the values themselves (..., 1)."""
        if not self.config.frequencies:
            return values.float()[..., None]
        return fourier_features(values, self.config.frequencies)

    @property
    def _drops(self) -> bool:
        return bool(self.training and self.drops_itself and self.config.dropout)

    def drop(self, batch: Batch, rng: np.random.Generator, rows: np.ndarray, total: int) -> Batch:
        """Mask inputs of a batch as observational dropout does, independently of how a larger batch is divided.

        The parameters are those of `Network.drop`.

        Returns
        -------
        Batch of arrays
            NaN where a token was dropped.
        """
        if not self.config.dropout:
            return batch
        per_token = self.config.dropout_unit == "token"
        hours, slots = (n if per_token else 1 for n in (batch.inputs.shape[1], batch.images.shape[1]))
        inputs = rng.random((total, hours, batch.inputs.shape[2]), np.float32)[rows] < self.config.dropout
        inputs[..., list(self.sizes.protected)] = False
        if not self.sizes.image_bands:
            images = rng.random((total, slots, batch.images.shape[2]), np.float32)[rows] < self.config.dropout
            dropped = images[..., None]
        else:
            # The flattened bands of each kind, in its own slots.
            dropped = np.zeros(batch.images.shape, bool)
            kinds = self.sizes.image_kinds
            each = batch.images.shape[1] // len(kinds)
            for i, (bands, pixels) in enumerate(kinds):
                draws = rng.random((total, each if per_token else 1, bands), np.float32)[rows] < self.config.dropout
                dropped[:, i * each : (i + 1) * each, 0, : bands * pixels] = np.repeat(draws, pixels, -1)
        return batch._replace(
            inputs=np.where(inputs, np.float32(np.nan), batch.inputs),
            images=np.where(dropped, np.float32(np.nan), batch.images) if slots else batch.images,
        )

    def _dropped(self, shape: list[int], device: torch.device) -> Tensor:
        return torch.rand(shape, device=device) < self.config.dropout

    def _static_tokens(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, S + C, H_i) that are the same at every hour, and which are not masked."""
        seen = torch.isfinite(batch.numbers)
        features = self._encoded(torch.where(seen, batch.numbers, _PLACEHOLDER))
        embedding = self.variables[self.sizes.inputs :].expand(len(features), -1, -1)
        features = features * self.coarse
        tokens = [torch.cat([features, embedding], -1)]
        for i, table in enumerate(self.classes):
            tokens.append(table[batch.classes[:, i].clamp(min=0)][:, None])
        return self.met_norm(torch.cat(tokens, 1)), torch.cat([seen, batch.classes >= 0], 1)

    def _image_tokens(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor, Tensor, tuple[tuple[Tensor, int], ...]]:
        """Return the rows (C,) of the hours with an image, and their band tokens (C, b, H_i), of all kinds together.

        Then follow which of these are not masked, and `Tokens.kinds`.
        """
        parts = split_images(batch.images, batch.image_step, self.sizes)
        if not self.sizes.image_bands:
            return (*self._band_tokens(batch, *parts[0], None), ())
        encoders = [None, *self.image_encoders] if self.sizes.bands else list(self.image_encoders)
        found = [self._band_tokens(batch, *part, one) for part, one in zip(parts, encoders, strict=True)]
        # Images of several kinds often share an hour, whose tokens then stand beside each other.
        rows = torch.unique(torch.cat([own for own, _, _ in found]))
        tokens, seen = [], []
        for own, values, unmasked in found:
            at = torch.searchsorted(rows, own)
            tokens.append(values.new_zeros(len(rows), *values.shape[1:]).index_copy(0, at, values))
            seen.append(unmasked.new_zeros(len(rows), unmasked.shape[1]).index_copy(0, at, unmasked))
        kinds = tuple((own.sort()[0], values.shape[1]) for own, values, _ in found)
        return rows, torch.cat(tokens, 1), torch.cat(seen, 1), kinds

    def _band_tokens(
        self, batch: Batch[Tensor], images: Tensor, step: Tensor, encoder: ImageEncoder | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows (C,) of the hours with an image of one kind, its tokens (C, b, H_i), and which are seen."""
        bands = self.sizes.bands if encoder is None else len(encoder.bands)
        window, slot = torch.nonzero(step >= 0, as_tuple=True)
        if not bands:
            window, slot = window[:0], slot[:0]
        rows = window * batch.inputs.shape[1] + step[window, slot]
        token = self.config.coding + self.config.embedding
        if not len(rows):
            return rows, batch.inputs.new_zeros(0, bands, token), rows.new_zeros(0, bands) > 0
        images = images[window, slot]
        seen = torch.isfinite(images).all(-1)
        images = torch.where(seen[..., None], images, _PLACEHOLDER)
        if encoder is None:
            features = torch.einsum("cbp,bpf->cbf", images, self.band_weight) + self.band_bias
            tokens = self.image_norm(torch.cat([features, self.bands.expand(len(rows), -1, -1)], -1))
        else:
            tokens = encoder(images)
        if self._drops:
            by_window = self._dropped([len(batch.inputs), bands], seen.device)
            per_token = self.config.dropout_unit == "token"
            seen = seen & ~(self._dropped(list(seen.shape), seen.device) if per_token else by_window[window])
        return rows, tokens, seen

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, targets) float32 in scaled units; NaN in the hours that are not emitted.

        If the batch has more hours than `context` (sliding-window inference), each hour from number `context` on is
        estimated as the last one of its own window.
        """
        return self._emit(batch)[..., : self.n_targets]

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return `quantities` of each target, (B, T, quantities x targets), means first; otherwise as `predict`."""
        out = self._emit(batch)
        out[..., self.n_targets :] = np.exp(0.5 * out[..., self.n_targets :])
        return out

    def _emit(self, batch: Batch) -> np.ndarray:
        if self.training:
            self.eval()
        with torch.inference_mode():
            tensors = self.on_device(batch)
            if batch.inputs.shape[1] > self.context:
                out = torch.stack(
                    [predict_sliding(self, Batch(*(a[[i]] for a in tensors))) for i in range(len(tensors.inputs))]
                )
            else:
                out = self(tensors)
        emitted = out.float().cpu().numpy()
        full = np.full((*batch.inputs.shape[:2], emitted.shape[-1]), np.nan, np.float32)
        full[:, -emitted.shape[1] :] = emitted
        return full


class ImageEncoder(nn.Module):
    """Tokens of one kind of images beside the chips: a linear map of the pixels of each band, and its embedding.

    Parameters
    ----------
    bands, pixels : int
        Number of bands, and of pixels of a band.
    coding, embedding : int
        Number of features of a value, and length of an embedding; a token has both.
    """

    def __init__(self, bands: int, pixels: int, coding: int, embedding: int):
        super().__init__()
        self.bands = nn.Parameter(torch.empty(bands, embedding))
        self.band_weight = nn.Parameter(torch.empty(bands, pixels, coding))
        self.band_bias = nn.Parameter(torch.zeros(bands, coding))
        self.norm = nn.LayerNorm(coding + embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens (C, b, H_i) of images (C, b, p)."""
        features = torch.einsum("cbp,bpf->cbf", images, self.band_weight) + self.band_bias
        return self.norm(torch.cat([features, self.bands.expand(len(images), -1, -1)], -1))


class Summary(nn.Module):
    """What changes slowly, in one token and an offset of the latent of each hour.

    Parameters
    ----------
    sizes : Sizes
        Numbers of inputs; the last `Sizes.means` columns, static numbers and classes are summarised.
    hidden : int
        Width of the two layers.
    token, width : int
        Lengths of a token and of a latent.
    """

    def __init__(self, sizes: Sizes, hidden: int, token: int, width: int):
        super().__init__()
        self.counts = sizes.classes
        inputs = 2 * (sizes.means + sizes.numbers) + sum(sizes.classes)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.token, self.offset = nn.Linear(hidden, token), nn.Linear(hidden, width)

    def forward(self, slow: Tensor, seen: Tensor, numbers: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token (B, T, H_i) and the offset (B, T, H) of each hour.

        Parameters
        ----------
        slow, seen : (B, T, means) Tensor
            Standardised inputs, 0 where they are missing, and where they are not.
        numbers : (B, S) Tensor
            Static numbers; NaN is missing.
        classes : (B, C) int64 Tensor
            Static classes; -1 is unknown.
        """
        known = torch.isfinite(numbers)
        static = [torch.where(known, numbers, 0.0), known.to(slow.dtype)]
        for i, count in enumerate(self.counts):
            static.append((classes[:, i : i + 1] == torch.arange(count, device=classes.device)).to(slow.dtype))
        each_hour = torch.cat(static, -1)[:, None].expand(-1, slow.shape[1], -1)
        hidden = self.layers(torch.cat([slow, seen.to(slow.dtype), each_hour], -1))
        return self.token(hidden), self.offset(hidden)


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


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias (R, 1, V) that is added to the scores, for a mask (R, V)."""
    return torch.where(seen, 0.0, MASKED).to(dtype)[:, None]
