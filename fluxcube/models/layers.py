"""Layers of EcoPerceiver: Fourier features, windowed cross-attention, causal self-attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fluxcube.models.linear import Linear

#: Score of a masked token before the softmax: finite, so that a time step without tokens yields no NaN.
MASKED = -1e9

Layer = TypeVar("Layer", bound=nn.Module)


def fourier_features(x: Tensor, frequencies: int) -> Tensor:
    """Encode numbers as sin and cos of 2^k pi x, k = 0..K-1.

    Parameters
    ----------
    x : (...,) Tensor
        Normalised values, finite.
    frequencies : int
        K.

    Returns
    -------
    (..., 2 K) float32 Tensor
        Sines, then cosines. Computed without autocast, in float64 for K > 16.

    References
    ----------
    Fortier et al. 2024, arXiv:2406.04940; Mildenhall et al. 2020, doi:10.1007/978-3-030-58452-8_24.

    Examples
    --------
    >>> fourier_features(torch.tensor([0.5]), 2).abs().round(decimals=3)
    tensor([[1., 0., 0., 1.]])
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.double() if frequencies > 16 else x.float()
        turns = x[..., None] * torch.exp2(torch.arange(frequencies, device=x.device, dtype=x.dtype))
        # Whole turns are subtracted first: exact, where float32 would lose 1e-4 at the highest frequency.
        angle = torch.pi * (turns - 2 * torch.round(turns / 2))
        return torch.cat([angle.sin(), angle.cos()], -1).float()


class Stack(nn.ModuleList, Generic[Layer]):
    """A list of layers of one class."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> Layer: ...  # type: ignore[override]

        def __iter__(self) -> Iterator[Layer]: ...


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, ratio: int):
        super().__init__(Linear(width, ratio * width), nn.GELU(), Linear(ratio * width, width))


class Tokens(NamedTuple):
    """Tokens of a batch of windows, hours flattened into rows (R = B T).

    Attributes
    ----------
    values : (R, V, H_i) Tensor
        Tokens of each hour.
    bias : (R, 1, V) Tensor
        0 where a token is not masked, `MASKED` where it is.
    present : (R, 1) Tensor
        1 where an hour has at least one token, else 0.
    rows : (C,) int64 Tensor
        Hours that have further tokens, those of a chip.
    more, more_bias : (C, V + b, H_i), (C, 1, V + b) Tensor
        All tokens of these hours.
    offset : (B, T, H) Tensor or None
        What is added to the latents, of a model that summarises its slow inputs.
    kinds : tuple of (Tensor, int)
        Hours (C_k,) of the images of each kind, ascending, and its number of bands; empty for a model with one kind.
    """

    values: Tensor
    bias: Tensor
    present: Tensor
    rows: Tensor
    more: Tensor
    more_bias: Tensor
    offset: Tensor | None = None
    kinds: tuple[tuple[Tensor, int], ...] = ()


class WindowedCrossAttention(nn.Module):
    """Each hour's latent attends to the tokens of its own hour; time is part of the batch.

    Keys and values are linear in the tokens and each latent attends to few of them, so the projections are moved
    to the latent: q.(Wk x + bk) = (q Wk).x + q.bk, and the sum of a (Wv x + bv) is Wv (sum of a x) + bv.
    No token is ever projected, which is 3 to 10 times faster than computing keys and values once per hour. q.bk is
    the same for all tokens of an hour and does not change the softmax: the bias of the keys, which the published
    count of parameters includes, has no effect in any implementation.

    Parameters
    ----------
    width : int
        H of the latents.
    token_width : int
        H_i of the tokens.
    heads : int
        Heads; must divide `width`.
    ratio : int
        Hidden width of the MLP in units of `width`.

    References
    ----------
    Fortier et al. 2024, arXiv:2406.04940; Jaegle et al. 2021 (Perceiver), arXiv:2103.03206.
    """

    def __init__(self, width: int, token_width: int, heads: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = Linear(width, width)
        self.key = Linear(token_width, width)
        self.value = Linear(token_width, width)
        self.out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, ratio)

    def forward(self, latents: Tensor, tokens: Tokens) -> Tensor:
        """Return the latents (B, T, H) after attention to `tokens` and the MLP."""
        rows = latents.flatten(0, 1)
        # An hour without any token passes its latent through unchanged, not even a bias is added.
        rows = rows + self.attend(self.norm(rows), tokens) * tokens.present
        rows = rows + self.mlp(self.mlp_norm(rows)) * tokens.present
        return rows.view_as(latents)

    def attend(self, rows: Tensor, tokens: Tokens) -> Tensor:
        """Return the attention of rows (R, H) to their tokens (R, H)."""
        width, heads = rows.shape[-1], self.heads
        query = self.query(rows).view(-1, heads, width // heads) * (width // heads) ** -0.5
        query = torch.einsum("rhd,hdi->rhi", query, self.key.weight.view(heads, width // heads, -1))
        seen = _weighted(query, tokens.values, tokens.bias)
        if len(tokens.rows):
            more = _weighted(query.index_select(0, tokens.rows), tokens.more, tokens.more_bias)
            seen = seen.index_copy(0, tokens.rows, more.to(seen.dtype))
        value = torch.einsum("rhi,hdi->rhd", seen, self.value.weight.view(heads, width // heads, -1))
        return self.out(value.reshape(rows.shape) + self.value.bias)


def _weighted(query: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
    """Return the weighted means (R, h, H_i) of raw tokens (R, V, H_i) for queries (R, h, H_i)."""
    scores = torch.baddbmm(bias.to(query.dtype).expand(-1, query.shape[1], -1), query, tokens.transpose(1, 2))
    return torch.bmm(scores.softmax(-1).to(tokens.dtype), tokens)


class CausalSelfAttention(nn.Module):
    """Each hour's latent attends to those of its own and earlier hours.

    Parameters
    ----------
    width, heads, ratio : int
        As for `WindowedCrossAttention`.

    References
    ----------
    Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, width: int, heads: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, ratio)

    def forward(self, latents: Tensor, future: Tensor) -> Tensor:
        """Return the latents (B, T, H) after attention, `future` (T, T) added to the scores, and the MLP."""
        latents = latents + self.attend(self.norm(latents), future)
        return latents + self.mlp(self.mlp_norm(latents))

    def attend(self, latents: Tensor, future: Tensor) -> Tensor:
        """Return the attention of latents (B, T, H) to each other (B, T, H)."""
        batch, length, width = latents.shape
        split = self.query_key_value(latents).view(batch, length, 3, self.heads, -1)
        query, key, value = (part.transpose(1, 2).reshape(-1, length, part.shape[-1]) for part in split.unbind(2))
        scores = torch.baddbmm(future.to(query.dtype), query * query.shape[-1] ** -0.5, key.transpose(1, 2))
        seen = torch.bmm(scores.softmax(-1).to(value.dtype), value)
        seen = seen.view(batch, self.heads, length, -1).transpose(1, 2).reshape(batch, length, width)
        return self.out(seen)
