"""Layers of EcoPerceiver: Fourier features, windowed cross-attention, causal self-attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from fluxcube.models.linear import Linear

#: Score of a masked token before the softmax: finite, so that a time step without tokens yields no NaN.
MASKED = -1e9
#: Number of rows that stand beside each other in one kernel of attention to tokens.
_HOURS = 32

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
    return fourier_features_of(x, octaves(frequencies).to(x.device))


def octaves(frequencies: int) -> Tensor:
    """Return 2^(k-1), k = 0..K-1, (K,): how often each Fourier feature turns between x = 0 and 1."""
    dtype = torch.float64 if frequencies > 16 else torch.float32
    return torch.exp2(torch.arange(-1, frequencies - 1, dtype=dtype))


def fourier_features_of(x: Tensor, octaves: Tensor) -> Tensor:
    """Return `fourier_features` of x for the numbers of turns (K,) of the function `octaves`."""
    return torch.cat(sines_and_cosines(x, octaves), -1)


def sines_and_cosines(x: Tensor, octaves: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two halves (..., K) of `fourier_features_of`, for those who concatenate them with more."""
    with torch.autocast(x.device.type, enabled=False):
        turns = x.to(octaves.dtype)[..., None] * octaves
        # Whole turns are subtracted first: exact, where float32 would lose 1e-4 at the highest frequency.
        angle = turns.sub_(turns.round()).mul_(2 * torch.pi)
        return angle.sin().float(), angle.cos().float()


def tokens_in_place(values: Tensor, octaves: Tensor, embedding: Tensor, norm: nn.LayerNorm, *, plain: bool) -> Tensor:
    """Return normalised tokens (..., V, H_i) of values (..., V), in a third of the memory, without gradients.

    On a CPU the tokens take most of the time of a small model: the normalisation of short rows is slow, and so is
    new memory. Since sin^2 + cos^2 = 1, the squares of the Fourier features of a value sum to K, so that the variance
    of a token follows from its mean, its plain value and its embedding.

    Parameters
    ----------
    values : (..., V) Tensor
        Finite values.
    octaves : (K,) Tensor
        As `octaves` returns them.
    embedding : (V, l) Tensor
        Embeddings of the variables.
    norm : LayerNorm
        Normalisation of the tokens.
    plain : bool
        Whether the plain value stands between its features and the embedding.
    """
    angle = values.to(octaves.dtype)[..., None] * octaves
    angle.sub_(angle.round()).mul_(2 * torch.pi)
    parts = [angle.sin().float(), angle.cos_().float(), *([values[..., None].float()] if plain else [])]
    tokens = torch.cat([*parts, embedding.expand(*values.shape, -1)], -1)
    width = tokens.shape[-1]
    with torch.autocast(tokens.device.type, enabled=False):
        mean = torch.mv(tokens.view(-1, width), tokens.new_full((width,), 1 / width)).view(values.shape)
    squares = embedding.square().sum(-1) + len(octaves)
    squares = squares + values.float().square() if plain else squares
    scale = torch.rsqrt((squares / width - mean.square()).clamp(min=0) + norm.eps)
    tokens.sub_(mean[..., None]).mul_(scale[..., None])
    return tokens.mul_(norm.weight).add_(norm.bias)


def few_kernels(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a layer computes by few large kernels, as a GPU needs, or by the products that suit a CPU.

    The attribute `few_kernels` of a layer, if it has one, decides instead of the device of the tensor.
    """
    return bool(getattr(layer, "few_kernels", x.is_cuda))


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which matrix products with a tensor are computed: that of autocast, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis in float32 (of float64 scores in float64), as the type of the scores."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.softmax(-1, dtype).to(scores.dtype)


class Stack(nn.ModuleList, Generic[Layer]):
    """A list of layers of one class."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> Layer: ...  # type: ignore[override]

        def __iter__(self) -> Iterator[Layer]: ...


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, ratio: int):
        super().__init__(Linear(width, ratio * width), nn.GELU(), Linear(ratio * width, width))


class ImageTokens(NamedTuple):
    """Band tokens of one kind of images, of B windows with K slots each.

    Attributes
    ----------
    step, row : (B, K) int64 Tensor
        Time step of each slot, -1 of one without an image, and the row of `tokens` that it contains.
    tokens : (M, b, H_i) Tensor
        Tokens of the distinct images.
    seen : (B, K, b) bool Tensor
        Which tokens of a slot are not masked.
    """

    step: Tensor
    row: Tensor
    tokens: Tensor
    seen: Tensor


class Tokens(NamedTuple):
    """Tokens of a batch of windows, hours flattened into rows (R = B T).

    Attributes
    ----------
    values : (R, V, H_i) Tensor
        Tokens of each hour. With few large kernels, as on a GPU, they include those of the bands, and there are no
        `rows`.
    bias : (R, 1, V) Tensor
        0 where a token is not masked, `MASKED` where it is.
    present : (R, 1) Tensor
        1 where an hour has at least one token, else 0.
    rows : (S,) int64 Tensor or None
        Hours that have further tokens: those of the slots of images. Two slots may have the same hour.
    more, more_bias : (S, V + b, H_i), (S, 1, V + b) Tensor or None
        All tokens of these hours.
    once : (S, 1, 1) Tensor or None
        0 for a slot whose hour is that of an earlier one, otherwise 1; None if all hours differ.
    offset : (B, T, H) Tensor or None
        What is added to the latents, of a model that summarises its slow inputs.
    images : tuple of ImageTokens
        The images of each kind.
    own : int
        Number of tokens of an hour without those of the bands.
    """

    values: Tensor
    bias: Tensor
    present: Tensor
    rows: Tensor | None = None
    more: Tensor | None = None
    more_bias: Tensor | None = None
    once: Tensor | None = None
    offset: Tensor | None = None
    images: tuple[ImageTokens, ...] = ()
    own: int = 0


class Folded(NamedTuple):
    """Weights of a cross-attention with the products that do not depend on the latents, for few kernels.

    Attributes
    ----------
    query_weight, query_bias : (h H_i, H), (h H_i,) Tensor
        Query and key in one: from a latent to its scores with raw tokens.
    out_weight, out_bias : (h H_i, H), (H,) Tensor
        Value and output in one, transposed.
    """

    query_weight: Tensor
    query_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


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

    def forward(self, latents: Tensor, tokens: Tokens, folded: Folded | None = None) -> Tensor:
        """Return the latents (B, T, H) after attention to `tokens` and the MLP; `folded` are the weights of `fold`."""
        rows = latents.flatten(0, 1)
        # An hour without any token passes its latent through unchanged, not even a bias is added.
        rows = add_where_present(rows, self.attend(self.norm(rows), tokens, folded).to(rows.dtype), tokens.present)
        rows = add_where_present(rows, self.mlp(self.mlp_norm(rows)).to(rows.dtype), tokens.present)
        return rows.view_as(latents)

    def attend(self, rows: Tensor, tokens: Tokens, folded: Folded | None = None) -> Tensor:
        """Return the attention of rows (R, H) to their tokens (R, H)."""
        if few_kernels(self, rows):
            return self._attend_folded(rows, tokens, folded or self.fold())
        width, heads = rows.shape[-1], self.heads
        query = self.query(rows).view(-1, heads, width // heads) * (width // heads) ** -0.5
        query = torch.einsum("rhd,hdi->rhi", query, self.key.weight.view(heads, width // heads, -1))
        seen = _weighted(query, tokens.values, tokens.bias)
        if tokens.rows is not None and tokens.more is not None and tokens.more_bias is not None:
            more = _weighted(query.index_select(0, tokens.rows), tokens.more, tokens.more_bias)
            change = more - seen.index_select(0, tokens.rows)
            # Slots at one hour have the same tokens: one of them counts, so that a gradient counts once, too.
            seen = seen.index_add(0, tokens.rows, change if tokens.once is None else change * tokens.once)
        value = torch.einsum("rhi,hdi->rhd", seen, self.value.weight.view(heads, width // heads, -1))
        return self.out(value.reshape(rows.shape) + self.value.bias)

    def fold(self) -> Folded:
        """Return the weights for few kernels, which all blocks that share this layer have in common."""
        width, heads = self.query.out_features, self.heads
        key, value = (x.weight.view(heads, width // heads, -1) for x in (self.key, self.value))
        with torch.autocast(key.device.type, enabled=False):
            query = torch.bmm(key.transpose(1, 2), self.query.weight.view(heads, width // heads, -1))
            query_bias = torch.bmm(key.transpose(1, 2), self.query.bias.view(heads, -1, 1))
            out = torch.bmm(value.transpose(1, 2), self.out.weight.t().view(heads, width // heads, -1))
            bias = torch.addmv(self.out.bias, self.out.weight, self.value.bias)
        dtype = product_dtype(query)
        return Folded(*(x.to(dtype) for x in (query.flatten(0, 1), query_bias.flatten(), out.flatten(0, 1), bias)))

    def _attend_folded(self, rows: Tensor, tokens: Tokens, folded: Folded) -> Tensor:
        query = functional.linear(rows, folded.query_weight, folded.query_bias).unflatten(-1, (self.heads, -1))
        # An axis of hours stands where heads would, since the axis of a batch is limited to 65,535 on a GPU.
        split = (-1, _HOURS if len(rows) % _HOURS == 0 else 1)
        query, values, bias = (x.unflatten(0, split) for x in (query, tokens.values, tokens.bias))
        seen = functional.scaled_dot_product_attention(
            query, values, values, bias.expand(-1, -1, self.heads, -1), scale=(rows.shape[-1] // self.heads) ** -0.5
        )
        return torch.addmm(folded.out_bias, seen.flatten(0, 1).flatten(1), folded.out_weight)


class _AddWherePresent(torch.autograd.Function):
    """`torch.addcmul` with one kernel in its backward pass instead of two."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, change: Tensor, present: Tensor) -> Tensor:
        """Return the sums."""
        ctx.save_for_backward(present)
        return torch.addcmul(rows, change, present)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of the rows and of the change."""
        return gradient, gradient * ctx.saved_tensors[0], None


def add_where_present(rows: Tensor, change: Tensor, present: Tensor) -> Tensor:
    """Return rows (R, H) plus their change (R, H) where an hour has a token: where `present` (R, 1) is 1, not 0."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _AddWherePresent.apply(rows, change, present)
    return torch.addcmul(rows, change, present)


def _weighted(query: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
    """Return the weighted means (R, h, H_i) of raw tokens (R, V, H_i) for queries (R, h, H_i)."""
    scores = torch.baddbmm(bias.to(query.dtype).expand(-1, query.shape[1], -1), query, tokens.transpose(1, 2))
    return torch.bmm(softmax(scores), tokens)


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

    def last(self, latents: Tensor, future: Tensor) -> Tensor:
        """Return what `forward` returns for the last hour (B, 1, H), which is all that a last head needs."""
        width, heads = latents.shape[-1], self.heads
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        normed = self.norm(latents)
        if few_kernels(self, latents):
            mixed = latents[:, -1] + self._last_attended(normed)
            return (mixed + self.mlp(self.mlp_norm(mixed)))[:, None]
        query = functional.linear(normed[:, -1:], weight[:width], bias[:width])
        both = functional.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, heads, -1))
        key, value = both.permute(2, 0, 3, 1, 4).unbind()
        query = query.unflatten(-1, (heads, -1)).transpose(1, 2) * (width // heads) ** -0.5
        seen = softmax(query @ key.transpose(-1, -2) + future[-1:].to(query.dtype)) @ value
        mixed = latents[:, -1:] + self.out(seen.transpose(1, 2).flatten(2))
        return mixed + self.mlp(self.mlp_norm(mixed))

    def _last_attended(self, normed: Tensor) -> Tensor:
        """Return the attention (B, H) of the last hour of normalised latents (B, T, H), which sees all hours."""
        width, heads = normed.shape[-1], self.heads
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = functional.linear(normed[:, -1], weight[:width], bias[:width]).view(-1, heads, 1, width // heads)
        both = functional.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, heads, -1))
        key, value = (x.transpose(1, 2) for x in both.unbind(2))
        return self.out(functional.scaled_dot_product_attention(query, key, value).flatten(1))

    def attend(self, latents: Tensor, future: Tensor) -> Tensor:
        """Return the attention of latents (B, T, H) to each other (B, T, H)."""
        batch, length, width = latents.shape
        split = self.query_key_value(latents).view(batch, length, 3, self.heads, -1)
        if few_kernels(self, latents):
            query, key, value = (x.transpose(1, 2) for x in split.unbind(2))
            seen = functional.scaled_dot_product_attention(query, key, value, future.to(query.dtype))
            return self.out(seen.transpose(1, 2).reshape(batch, length, width))
        query, key, value = (part.transpose(1, 2).reshape(-1, length, part.shape[-1]) for part in split.unbind(2))
        scores = torch.baddbmm(future.to(query.dtype), query * query.shape[-1] ** -0.5, key.transpose(1, 2))
        seen = torch.bmm(softmax(scores), value)
        seen = seen.view(batch, self.heads, length, -1).transpose(1, 2).reshape(batch, length, width)
        return self.out(seen)
