"""Plain implementation of EcoPerceiver, written from the paper: the reference of `forward.py` and of tests.

Batched torch without a loop over windows, hours or variables. Every window is encoded separately, the tokens of an
hour are stacked and padded with a mask, queries, keys and values are projected in every layer, and all latents pass
all layers. Parameters have the names of `fluxcube.models.ecoperceiver.EcoPerceiver`, so that its state dict can be
loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiverConfig

ATTENTION = ("matmul", "sdpa")


class NaiveEcoPerceiver(nn.Module):
    """The published model with static tokens and either head, without dropout, which does not affect the speed.

    Parameters
    ----------
    config : EcoPerceiverConfig
        Shape, with Fourier features; `head` selects the predicted hours.
    sizes : Sizes
        Numbers of inputs and targets.
    attention : {"matmul", "sdpa"}
        Products and a softmax, or torch's fused attention.
    """

    def __init__(self, config: EcoPerceiverConfig, sizes: Sizes, attention: str = "matmul"):
        super().__init__()
        self.config, self.sizes = config, sizes
        features, width = 2 * config.frequencies, config.latent
        token = features + config.embedding
        self.latents = nn.Parameter(torch.zeros(config.context, width))
        self.variables = nn.Parameter(torch.zeros(sizes.inputs + sizes.numbers, config.embedding))
        self.met_norm = nn.LayerNorm(token)
        self.classes = nn.ParameterList(torch.zeros(count, token) for count in sizes.classes)
        if sizes.bands:
            self.bands = nn.Parameter(torch.zeros(sizes.bands, config.embedding))
            self.band_weight = nn.Parameter(torch.zeros(sizes.bands, 64, features))
            self.band_bias = nn.Parameter(torch.zeros(sizes.bands, features))
            self.image_norm = nn.LayerNorm(token)
        own = 1 if config.share else config.blocks
        shape = (width, config.heads, config.mlp_ratio, attention)
        self.cross = nn.ModuleList(CrossLayer(token, *shape) for _ in range(own))
        self.block_self = nn.ModuleList(SelfLayer(*shape) for _ in range(own))
        self.self_layers = nn.ModuleList(SelfLayer(*shape) for _ in range(config.self_layers))
        self.head = nn.Linear(width, sizes.targets)

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, T, targets) of a dense head, (B, 1, targets) of a last one."""
        count, length = batch.inputs.shape[:2]
        tokens, seen = self.tokens(batch)
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device)
        causal = causal.tril() if self.config.causal else causal
        latents = self.latents[-length:].expand(count, -1, -1)
        for i in range(self.config.blocks):
            at = 0 if self.config.share else i
            latents = self.block_self[at](self.cross[at](latents, tokens, seen), causal)
        for layer in self.self_layers:
            latents = layer(latents, causal)
        return self.head(latents if self.config.head == "dense" else latents[:, -1:])

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, V, H_i) of all kinds, and which are seen (B, T, V)."""
        count, length = batch.inputs.shape[:2]
        met = self._numbers(batch.inputs, self.variables[: self.sizes.inputs])
        coarse = (torch.arange(self.config.frequencies, device=met.device) < self.config.static_frequencies).repeat(2)
        fixed = [self._numbers(batch.numbers, self.variables[self.sizes.inputs :], coarse)]
        fixed += [table[batch.classes[:, [i]].clamp(min=0)] for i, table in enumerate(self.classes)]
        fixed_seen = torch.cat([batch.numbers.isfinite(), batch.classes >= 0], 1)
        tokens = [self.met_norm(met), self.met_norm(torch.cat(fixed, 1))[:, None].expand(-1, length, -1, -1)]
        seen = [batch.inputs.isfinite(), fixed_seen[:, None].expand(-1, length, -1)]
        if self.sizes.bands:
            pixels = batch.images.new_full((count, length, *batch.images.shape[2:]), torch.nan)
            window, slot = torch.nonzero(batch.image_step >= 0, as_tuple=True)
            pixels[window, batch.image_step[window, slot]] = batch.images[window, slot]
            seen.append(pixels.isfinite().all(-1))
            features = torch.einsum("ntbp,bpf->ntbf", pixels.nan_to_num(0.0), self.band_weight) + self.band_bias
            bands = torch.cat([features, self.bands.expand(count, length, -1, -1)], -1)
            tokens.append(self.image_norm(bands))
        return torch.cat(tokens, 2), torch.cat(seen, 2)

    def _numbers(self, x: Tensor, embedding: Tensor, keep: Tensor | None = None) -> Tensor:
        """Fourier features and embeddings of numbers (..., V), missing ones as 0."""
        turns = x.nan_to_num(0.0)[..., None] * 2.0 ** torch.arange(self.config.frequencies, device=x.device)
        angle = torch.pi * (turns % 2)
        features = torch.cat([angle.sin(), angle.cos()], -1)
        features = features if keep is None else features * keep
        return torch.cat([features, embedding.expand(*x.shape, -1)], -1)


class _Layer(nn.Module):
    """Parts that both kinds of attention have in common: heads, output, MLP."""

    def __init__(self, width: int, heads: int, ratio: int, attention: str):
        super().__init__()
        self.heads, self.fused = heads, attention == "sdpa"
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """Attention of (N, q, H) over (N, k, H) where `seen` (..., q, k)."""
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if self.fused:
            mixed = functional.scaled_dot_product_attention(query, key, value, seen)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            mixed = scores.masked_fill(~seen, -1e9).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossLayer(_Layer):
    """Cross-attention of the latent of each hour to the tokens of its hour."""

    def __init__(self, token: int, width: int, heads: int, ratio: int, attention: str):
        super().__init__(width, heads, ratio, attention)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(token, width)
        self.value = nn.Linear(token, width)

    def forward(self, latents: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        """Return the latents (B, T, H) after attention to `tokens` (B, T, V, H_i) and the MLP."""
        rows, tokens, seen = latents.flatten(0, 1)[:, None], tokens.flatten(0, 1), seen.flatten(0, 1)
        present = seen.any(-1)[:, None, None]
        seen = (seen | ~present[..., 0])[:, None, None]  # fused attention returns NaN if all scores of a row are masked
        change = self.attend(self.query(self.norm(rows)), self.key(tokens), self.value(tokens), seen)
        rows = torch.where(present, rows + change, rows)
        rows = torch.where(present, rows + self.mlp(self.mlp_norm(rows)), rows)
        return rows[:, 0].view_as(latents)


class SelfLayer(_Layer):
    """Self-attention of the latents of a window."""

    def __init__(self, width: int, heads: int, ratio: int, attention: str):
        super().__init__(width, heads, ratio, attention)
        self.query_key_value = nn.Linear(width, 3 * width)

    def forward(self, latents: Tensor, causal: Tensor) -> Tensor:
        """Return the latents (B, T, H) after attention where `causal` (T, T) and the MLP."""
        latents = latents + self.attend(*self.query_key_value(self.norm(latents)).chunk(3, -1), causal)
        return latents + self.mlp(self.mlp_norm(latents))
