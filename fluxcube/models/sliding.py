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
from fluxcube.models.layers import (
    MASKED,
    CausalSelfAttention,
    Stack,
    Tokens,
    WindowedCrossAttention,
    few_kernels,
    softmax,
)
from fluxcube.models.tokens import images_at

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
    """Return the output of every window of contiguous series of hours for its last hour.

    Parameters
    ----------
    model : EcoPerceiver
        In evaluation mode; its context is T.
    batch : Batch of Tensors
        B series of N >= T hours each. An image at step 0 may be older than the series.

    Returns
    -------
    (B, N - T + 1, outputs) Tensor
        Output of `model` for the last hour of each window of T hours. The latest image at or before the first hour of
        a window is placed at that hour.
    """
    length = model.context
    count, hours = batch.inputs.shape[:2]
    windows = hours - length + 1
    tokens = model.tokens(batch)
    first = _first_hours(tokens, count, windows) if tokens.images else None
    present = tokens.present.view(count, hours).unfold(1, length, 1)[..., None].clone()
    if first is not None:
        present[:, :, 0] = (first.bias == 0).any(-1).view(count, windows, 1)
    shared = [_Shared.of(cross, tokens, first) for cross in model.cross]
    latents = model.latents.expand(count, windows, -1, -1).clone()
    if tokens.offset is not None:
        latents += tokens.offset.unfold(1, length, 1).transpose(2, 3)
    blocks = _at_once if shared[0].few else _in_pieces
    ends = blocks(model, shared, latents, present)
    return model.emit(ends).unflatten(0, (count, windows))


def _in_pieces(model: SlidingModel, shared: list[_Shared], latents: Tensor, present: Tensor) -> Tensor:
    """Return the latents (B E, H) of the last hours of windows, from those of all hours (B, E, T, H).

    Few windows at a time pass the layers; `present` (B, E, T, 1) is 1 where an hour has a token, else 0.
    """
    count, windows, length, width = latents.shape
    config = model.config
    # Windows that would begin before the first hour or end after the last one pad the array; they are never read.
    room = latents.new_zeros(count, windows + 2 * (length - 1), length, width)
    mixed = room[:, length - 1 : length - 1 + windows]
    pieces = _pieces(latents)
    for i in range(config.blocks):
        at = 0 if config.share else i
        cross, block_self = model.cross[at], model.block_self[at]
        for piece in pieces:
            mixed[piece] = cross.query(cross.norm(latents[piece])).to(mixed.dtype)
        shared[at].attend(room, mixed)
        for piece in pieces:
            seen = present[piece]
            out = cross.out(mixed[piece].flatten(0, 2)).to(latents.dtype).view_as(latents[piece])
            rows = torch.addcmul(latents[piece], out, seen)
            rows = torch.addcmul(rows, cross.mlp(cross.mlp_norm(rows)).to(latents.dtype), seen)
            if i == config.blocks - 1 and not len(model.self_layers):
                latents[piece][:, :, -1:] = block_self.last(rows.flatten(0, 1), model.future).view_as(rows[:, :, -1:])
            else:
                latents[piece] = block_self(rows.flatten(0, 1), model.future).view_as(rows)
    return torch.cat([_finish(model, latents[piece].flatten(0, 1)) for piece in pieces])


def _at_once(model: SlidingModel, shared: list[_Shared], latents: Tensor, present: Tensor) -> Tensor:
    """Return what `_in_pieces` returns, by few kernels, whose number does not grow with that of the series."""
    count, windows, length, width = latents.shape
    config, hours = model.config, windows + length - 1
    # A series of N hours has N places for windows, so that the places of all series lie at one distance. Those that no
    # window fills are never read.
    room = latents.new_zeros(count * hours + length - 1, length, width, dtype=shared[0].hours[0].dtype)
    inside = room[length - 1 :].view(count, hours, length, width)[:, :windows]
    for i in range(config.blocks):
        at = 0 if config.share else i
        cross, block_self = model.cross[at], model.block_self[at]
        query = cross.query(cross.norm(latents))
        inside.copy_(query)
        # All rows are projected, hour by hour, since those of the windows do not follow each other.
        out = cross.out(shared[at].attend_at_once(room, query)).to(latents.dtype)
        rows = torch.addcmul(latents, _of_windows(out, latents.shape), present)
        rows = torch.addcmul(rows, cross.mlp(cross.mlp_norm(rows)).to(latents.dtype), present)
        if i == config.blocks - 1 and not len(model.self_layers):
            return block_self.last(rows.flatten(0, 1), model.future)[:, 0]
        latents = block_self(rows.flatten(0, 1), model.future).view_as(rows)
    return _finish(model, latents.flatten(0, 1))


def _of_windows(by_hour: Tensor, shape: torch.Size) -> Tensor:
    """Return a view (B, E, T, H) of rows (B N, T, H) of the hours of series, as `_Shared.attend_at_once` returns."""
    count, windows, length, width = shape
    strides = (len(by_hour) // count * length * width, length * width, (length - 1) * width, 1)
    return by_hour.as_strided((count, windows, length, width), strides, (length - 1) * width)


def _pieces(latents: Tensor) -> list[tuple[slice, slice]]:
    """Return the parts of latents (B, E, T, H) that pass the layers together."""
    count, windows = latents.shape[:2]
    starts = range(0, windows, _PIECE)
    return [(slice(i, i + 1), slice(at, at + _PIECE)) for i in range(count) for at in starts]


def _finish(model: SlidingModel, latents: Tensor) -> Tensor:
    """Return the latents (n, H) of the last hours of windows (n, T, H) after the remaining layers."""
    for layer in list(model.self_layers)[:-1]:
        latents = layer(latents, model.future)
    if len(model.self_layers):
        return model.self_layers[-1].last(latents, model.future)[:, 0]
    return latents[:, -1]


class _First(NamedTuple):
    """What the first hours of windows see: their own tokens, and the latest images.

    Attributes
    ----------
    rows : (B E,) int64 Tensor
        First hour of each window, hours of all series flattened.
    bands : (B E, b, H_i) Tensor
        Tokens of the latest image of each kind.
    bias : (B E, 1, V + b) Tensor
        Masks of all tokens.
    """

    rows: Tensor
    bands: Tensor
    bias: Tensor


def _first_hours(tokens: Tokens, count: int, windows: int) -> _First:
    """Return the tokens of the bands at the first hours of the windows of several series."""
    hours = torch.arange(windows, device=tokens.values.device).expand(count, -1)
    series = torch.arange(count, device=hours.device)[:, None] * (len(tokens.values) // count)
    rows = (hours + series).flatten()
    bands, seen = images_at(tokens.images, hours, latest=True)
    masks = torch.where(seen, 0.0, MASKED).to(tokens.bias.dtype)[:, None]
    own = tokens.bias[..., : tokens.own].index_select(0, rows)
    return _First(rows, bands, torch.cat([own, masks], -1))


class _Shared(NamedTuple):
    """Keys and values (h, ...) of one cross-attention for series of N hours of V tokens each.

    Attributes
    ----------
    heads : int
    few : bool
        Whether few large kernels are used, as on a GPU.
    hours : tuple of Tensor
        Keys and values (B N, h, V, d) and masks (B N, 1, 1, V).
    rows : (S,) int64 Tensor or None
        Hours with images, of which each has further tokens.
    at_images, at_first : tuple of Tensor
        The same with the tokens of the bands, for hours with images and for first hours of windows; empty without
        images.
    """

    heads: int
    few: bool
    hours: tuple[Tensor, Tensor, Tensor]
    rows: Tensor | None = None
    at_images: tuple[Tensor, ...] = ()
    at_first: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, cross: WindowedCrossAttention, tokens: Tokens, first: _First | None) -> _Shared:
        heads, few = cross.heads, few_kernels(cross, tokens.values)

        def project(x: Tensor) -> tuple[Tensor, Tensor]:
            key = functional.linear(x, cross.key.weight)
            key = key if few else key * (cross.key.out_features // heads) ** -0.5
            key, value = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (key, cross.value(x)))
            return (key, value) if few else (key.contiguous(), value.contiguous())

        key, value = project(tokens.values)
        hours = key, value, tokens.bias[:, None]
        if first is None:
            return cls(heads, few, hours)
        own = [x[:, :, : tokens.own].index_select(0, first.rows) for x in (key, value)]
        at_first = [torch.cat(pair, 2) for pair in zip(own, project(first.bands), strict=True)]
        whole = (*at_first, first.bias[:, None])
        if tokens.rows is None or tokens.more is None or tokens.more_bias is None:
            return cls(heads, few, hours, None, (), whole)
        return cls(heads, few, hours, tokens.rows, (*project(tokens.more), tokens.more_bias[:, None]), whole)

    def attend(self, room: Tensor, inside: Tensor) -> None:
        """Replace queries (B, E, T, H), `inside` of `room` (B, E + 2 T - 2, T, H), by the result of attention."""
        count, windows, length, width = inside.shape
        split = (self.heads, width // self.heads)
        hours = windows + length - 1
        first = None
        if self.at_first:
            queries = inside[:, :, 0].unflatten(-1, split).flatten(0, 1)[:, :, None]
            first = _attention(queries, *self.at_first).view(count, windows, width)
        # Row k of hour t is the latent of window t + k (of `room`) at its hour T - 1 - k.
        shape = (count, hours, self.heads, length, split[1])
        strides = (room.stride(0), length * width, split[1], (length - 1) * width, 1)
        by_hour = room.as_strided(shape, strides, (length - 1) * width)
        at = None if self.rows is None else (self.rows // hours, self.rows % hours)
        rows = None if at is None else by_hour[at]
        for i in range(count):
            for start in range(0, hours, _PIECE):
                piece = slice(start, min(start + _PIECE, hours))
                own = (x[i * hours + piece.start : i * hours + piece.stop] for x in self.hours)
                by_hour[i, piece] = _attention(by_hour[i, piece], *own)
        if at is not None and rows is not None:
            # Slots at one hour have the same tokens, so that it does not matter which of them is written last.
            by_hour[at] = _attention(rows, *self.at_images)
        if first is not None:
            inside[:, :, 0] = first

    def attend_at_once(self, room: Tensor, query: Tensor) -> Tensor:
        """Return the attention (B N, T, H) of the queries (B, E, T, H), which `room` (B N + T - 1, T, H) contains.

        Row k of hour t is that of the window that begins T - 1 - k hours before, if the series has this window.
        """
        count, windows, length, width = query.shape
        heads, size = self.heads, width // self.heads
        strides = (length * width, size, (length - 1) * width, 1)
        by_hour = room.as_strided((len(self.hours[0]), heads, length, size), strides, (length - 1) * width)
        seen = _fused(by_hour, *self.hours).transpose(1, 2).flatten(2).contiguous()
        if self.at_first:
            queries = query[:, :, 0].unflatten(-1, (heads, 1, size)).flatten(0, 1)
            first = _fused(queries.to(room.dtype), *self.at_first)
            _of_windows(seen, query.shape)[:, :, 0] = first.view(count, windows, width)
        return seen


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return what `_attention` returns, in one kernel; the keys are not scaled yet."""
    bias = bias.to(key.dtype).expand(-1, query.shape[1], query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, bias)


def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Return attention of queries (N, h, q, d) over keys, which are scaled, and values (N, h, V, d)."""
    scores = query @ key.transpose(-1, -2)
    scores += bias
    return (softmax(scores) @ value).to(query.dtype)  # autocast halves products
