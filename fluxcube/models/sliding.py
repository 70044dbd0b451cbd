"""Sliding-window inference: all windows of a contiguous series of hours in one pass, at a stride of one hour.

At a stride of one hour, each hour is part of as many windows as a window has hours. Its tokens, keys and values are the
same in all of them and are computed once. The latents that attend to one hour lie at a constant distance in RAM, so
that they are read as one matrix per hour, whose products with its keys and values are large enough to be fast.
The results are those of one forward pass per window.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fluxcube.models.base import Batch
from fluxcube.models.layers import MASKED, CausalSelfAttention, Stack, Tokens, WindowedCrossAttention

#: Number of windows that pass the layers together, so that their arrays fit the cache of the processor.
_PIECE = 32


class Shape(Protocol):
    """Settings of a `SlidingModel`; see `fluxcube.models.ecoperceiver.EcoPerceiverConfig`."""

    @property
    def latent(self) -> int: ...  # noqa: D102

    @property
    def blocks(self) -> int: ...  # noqa: D102

    @property
    def share(self) -> bool: ...  # noqa: D102


class SlidingModel(Protocol):
    """The parts of a Perceiver over windows that sliding-window inference uses."""

    @property
    def latents(self) -> Tensor: ...  # noqa: D102

    @property
    def future(self) -> Tensor: ...  # noqa: D102

    @property
    def config(self) -> Shape: ...  # noqa: D102

    @property
    def context(self) -> int: ...  # noqa: D102

    @property
    def cross(self) -> Stack[WindowedCrossAttention]: ...  # noqa: D102

    @property
    def block_self(self) -> Stack[CausalSelfAttention]: ...  # noqa: D102

    @property
    def self_layers(self) -> Stack[CausalSelfAttention]: ...  # noqa: D102

    def tokens(self, batch: Batch[Tensor]) -> Tokens:
        """Return the tokens of a batch and their masks."""
        ...

    def emit(self, latents: Tensor) -> Tensor:
        """Return the outputs for latents (..., H)."""
        ...


def predict_sliding(model: SlidingModel, batch: Batch[Tensor]) -> Tensor:
    """Return the output of every window of a contiguous series of hours for its last hour.

    Parameters
    ----------
    model : EcoPerceiver
        In evaluation mode; its context is T.
    batch : Batch of Tensors
        One series of N >= T hours: ``len(batch.inputs)`` is 1. A chip at step 0 may be older than the series.

    Returns
    -------
    (N - T + 1, outputs) Tensor
        Output of `model` for the last hour of each window of T hours. The latest chip at or before the first hour of a
        window is placed at that hour.
    """
    length, config = model.context, model.config
    tokens, hours = model.tokens(batch), batch.inputs.shape[1]
    windows = hours - length + 1
    chips = _Chips.of(tokens, windows) if len(tokens.rows) else None
    present = tokens.present[:, 0].unfold(0, length, 1)[..., None].clone()
    if chips:
        present[:, 0, 0] = (chips.first_bias == 0).any(-1)[:, 0]
    shared = [_Shared.of(cross, tokens, chips) for cross in model.cross]
    latents = model.latents.expand(windows, -1, -1).clone()
    if tokens.offset is not None:
        latents += tokens.offset[0].unfold(0, length, 1).transpose(1, 2)
    # Windows that would begin before the first hour or end after the last one pad the array; they are never read.
    room = latents.new_zeros(windows + 2 * (length - 1), length, config.latent)
    mixed = room[length - 1 : length - 1 + windows]
    size = _PIECE if latents.device.type == "cpu" else windows
    pieces = [slice(at, at + size) for at in range(0, windows, size)]
    for i in range(config.blocks):
        at = 0 if config.share else i
        cross, block_self = model.cross[at], model.block_self[at]
        for piece in pieces:
            mixed[piece] = cross.query(cross.norm(latents[piece]))
        shared[at].attend(room, mixed)
        for piece in pieces:
            rows = latents[piece] + cross.out(mixed[piece]) * present[piece]
            rows += cross.mlp(cross.mlp_norm(rows)) * present[piece]
            latents[piece] = block_self(rows, model.future)
    return torch.cat([_finish(model, latents[piece]) for piece in pieces])


def _finish(model: SlidingModel, latents: Tensor) -> Tensor:
    for layer in model.self_layers:
        latents = layer(latents, model.future)
    return model.emit(latents[:, -1])


class _Chips(NamedTuple):
    """Chips of a series of hours.

    Attributes
    ----------
    rows : (C,) int64 Tensor
        Hours of the chips, ascending.
    bands, bias : (C, b, H_i), (C, 1, V + b) Tensor
        Tokens of the chips; masks of all tokens of their hours.
    first : tuple of (E,) int64 Tensor
        Index of the latest image of each kind at the first hour of each window; 0 where there is none.
    counts : tuple of int
        Number of bands of each kind.
    first_bias : (E, 1, V + b) Tensor
        Masks of all tokens of each window's first hour.
    """

    rows: Tensor
    bands: Tensor
    bias: Tensor
    first: tuple[Tensor, ...]
    counts: tuple[int, ...]
    first_bias: Tensor

    @classmethod
    def of(cls, tokens: Tokens, windows: int) -> _Chips:
        rows, order = tokens.rows.sort()
        count = tokens.values.shape[1]
        bands, bias = tokens.more[order, count:], tokens.more_bias[order]
        starts = torch.arange(windows, device=rows.device)
        first, masks, at = [], [], count
        for own, size in tokens.kinds or ((rows, bands.shape[1]),):
            latest = torch.searchsorted(own, starts, right=True) - 1
            known = own[latest.clamp(min=0)] if len(own) else torch.zeros_like(latest)
            index = torch.searchsorted(rows, known).clamp(max=len(rows) - 1)
            first.append(index)
            masks.append(bias[index, :, at : at + size].masked_fill((latest < 0)[:, None, None], MASKED))
            at += size
        sizes = tuple(size for _, size in tokens.kinds) or (bands.shape[1],)
        return cls(rows, bands, bias, tuple(first), sizes, torch.cat([tokens.bias[:windows], *masks], -1))

    def at_first(self, values: Tensor) -> Tensor:
        """Return values (C, h, b, d) of the bands of each window's latest images (E, h, b, d)."""
        parts = values.split(self.counts, 2)
        return torch.cat([part[index] for part, index in zip(parts, self.first, strict=True)], 2)


class _Shared(NamedTuple):
    """Keys and values (h, ...) of one cross-attention for a series of N hours of V tokens each.

    Attributes
    ----------
    heads : int
    hours : tuple of Tensor
        Keys and values (N, h, V, d) and masks (N, 1, 1, V), None where no token is masked.
    chips : _Chips or None
    at_chips, at_first : tuple of Tensor
        The same with the tokens of the bands, for hours with a chip and for first hours of windows; empty without
        chips.
    """

    heads: int
    hours: tuple
    chips: _Chips | None
    at_chips: tuple
    at_first: tuple

    @classmethod
    def of(cls, cross: WindowedCrossAttention, tokens: Tokens, chips: _Chips | None) -> _Shared:
        heads = cross.heads

        def project(x: Tensor) -> tuple[Tensor, ...]:
            key = functional.linear(x, cross.key.weight) * (cross.key.out_features // heads) ** -0.5
            return tuple(y.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous() for y in (key, cross.value(x)))

        inputs = project(tokens.values)
        hours = (*inputs, tokens.bias[:, None] if tokens.bias.any() else None)
        if chips is None:
            return cls(heads, hours, None, (), ())
        bands, windows = project(chips.bands), len(chips.first_bias)
        at_chips = [torch.cat([x[chips.rows], y], 2) for x, y in zip(inputs, bands, strict=True)]
        at_first = [torch.cat([x[:windows], chips.at_first(y)], 2) for x, y in zip(inputs, bands, strict=True)]
        return cls(heads, hours, chips, (*at_chips, chips.bias[:, None]), (*at_first, chips.first_bias[:, None]))

    def attend(self, room: Tensor, inside: Tensor) -> None:
        """Replace queries (E, T, H), `inside` of `room` (E + 2 T - 2, T, H), by the result of attention."""
        length, width = inside.shape[1:]
        split = (self.heads, width // self.heads)
        first = inside[:, 0].unflatten(-1, split)[:, :, None].clone()
        # Row k of hour t is the latent of window t + k (of `room`) at its hour T - 1 - k.
        shape = (len(inside) + length - 1, self.heads, length, split[1])
        by_hour = room.as_strided(shape, (length * width, split[1], (length - 1) * width, 1), (length - 1) * width)
        rows = by_hour[self.chips.rows] if self.chips else by_hour[:0]
        for at in range(0, shape[0], _PIECE):
            piece = slice(at, at + _PIECE)
            key, value, bias = self.hours
            bias = None if bias is None else bias[piece]
            by_hour[piece] = _attention(by_hour[piece], key[piece], value[piece], bias)
        if self.chips:
            by_hour[self.chips.rows] = _attention(rows, *self.at_chips)
            inside[:, 0] = _attention(first, *self.at_first).flatten(1)


def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention of queries (N, h, q, d) over keys and values (N, h, V, d)."""
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores += bias
    return (scores.softmax(-1) @ value).to(query.dtype)  # autocast halves products
