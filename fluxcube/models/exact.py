"""Every window of a stretch of hours at once, each encoded afresh, but what they share made only once.

A stride of one hour gives each hour its own window, so that an hour is looked at by as many windows as a window has
hours. Its tokens, keys and values are the same in all of them and are made once here; and as the latents that look at
one hour lie at a constant distance in memory, they are read as one matrix per hour, whose products with the hour's
keys and values are large enough to be fast. Results are those of one forward pass for each window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fluxcube.models.base import Batch
from fluxcube.models.layers import MASKED, Tokens, WindowedCrossAttention

if TYPE_CHECKING:
    from fluxcube.models.ecoperceiver import EcoPerceiver

#: Windows that pass the layers together: what they need fits the processor's cache.
_PIECE = 32


def slide(model: EcoPerceiver, batch: Batch) -> Tensor:
    """Return what every window of a stretch of hours gives for its last hour.

    Parameters
    ----------
    model : EcoPerceiver
        In evaluation; its context is T.
    batch : Batch of Tensors
        One stretch of N >= T hours: ``len(batch.met)`` is 1. A chip at step 0 may be older than the stretch.

    Returns
    -------
    (N - T + 1, outputs) Tensor
        What `model` gives for the last hour of each window of T hours, the latest chip at or before the window's
        first hour standing at that hour.
    """
    length, config = model.context, model.config
    tokens, hours = model.tokens(batch), batch.met.shape[1]
    windows = hours - length + 1
    chips = _Chips.of(tokens, windows) if len(tokens.rows) else None
    present = tokens.present[:, 0].unfold(0, length, 1)[..., None].clone()
    if chips:
        present[:, 0, 0] = (chips.first_bias == 0).any(-1)[:, 0]
    shared = [_Shared.of(cross, tokens, chips) for cross in model.cross]
    latents = model.latents.expand(windows, -1, -1).clone()
    # Windows that would begin before the first hour or end after the last fill the hours up; nobody reads them.
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


def _finish(model: EcoPerceiver, latents: Tensor) -> Tensor:
    for layer in model.self_layers:
        latents = layer(latents, model.future)
    return model.emit(latents[:, -1])


class _Chips(NamedTuple):
    """Chips of a stretch, by hour.

    Attributes
    ----------
    rows : (C,) int64 Tensor
        Hours of the chips, ascending.
    bands, bias : (C, b, H_i), (C, 1, V + b) Tensor
        Their tokens; masks of all tokens of their hours.
    first : (E,) int64 Tensor
        Which chip stands at the first hour of each window; 0 where none does.
    first_bias : (E, 1, V + b) Tensor
        Masks of all tokens of each window's first hour.
    """

    rows: Tensor
    bands: Tensor
    bias: Tensor
    first: Tensor
    first_bias: Tensor

    @classmethod
    def of(cls, tokens: Tokens, windows: int) -> _Chips:
        rows, order = tokens.rows.sort()
        met = tokens.values.shape[1]
        bands, bias = tokens.more[order, met:], tokens.more_bias[order]
        first = torch.searchsorted(rows, torch.arange(windows, device=rows.device), right=True) - 1
        band_bias = bias[first.clamp(min=0), :, met:].masked_fill((first < 0)[:, None, None], MASKED)
        return cls(rows, bands, bias, first.clamp(min=0), torch.cat([tokens.bias[:windows], band_bias], -1))


class _Shared(NamedTuple):
    """Keys and values (h, ...) of one cross-attention for a stretch of N hours, V tokens each.

    Attributes
    ----------
    heads : int
    hours : tuple of Tensor
        Keys and values (N, h, V, d) and masks (N, 1, 1, V), None where every token is seen.
    chips : _Chips or None
    at_chips, at_first : tuple of Tensor
        The same with the bands' tokens, for hours of a chip and for first hours of windows; empty without chips.
    """

    heads: int
    hours: tuple
    chips: _Chips | None
    at_chips: tuple
    at_first: tuple

    @classmethod
    def of(cls, cross: WindowedCrossAttention, tokens: Tokens, chips: _Chips | None) -> _Shared:
        heads = cross.heads

        def project(x: Tensor) -> tuple[Tensor, Tensor]:
            key = functional.linear(x, cross.key.weight) * (cross.key.out_features // heads) ** -0.5
            return tuple(y.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous() for y in (key, cross.value(x)))

        met = project(tokens.values)
        hours = (*met, tokens.bias[:, None] if tokens.bias.any() else None)
        if chips is None:
            return cls(heads, hours, None, (), ())
        bands, windows = project(chips.bands), len(chips.first)
        at_chips = [torch.cat([x[chips.rows], y], 2) for x, y in zip(met, bands, strict=True)]
        at_first = [torch.cat([x[:windows], y[chips.first]], 2) for x, y in zip(met, bands, strict=True)]
        return cls(heads, hours, chips, (*at_chips, chips.bias[:, None]), (*at_first, chips.first_bias[:, None]))

    def attend(self, room: Tensor, inside: Tensor) -> None:
        """Put attention in the place of queries (E, T, H), `inside` of `room` (E + 2 T - 2, T, H)."""
        length, width = inside.shape[1:]
        split = (self.heads, width // self.heads)
        first = inside[:, 0].unflatten(-1, split)[:, :, None].clone()
        # Row k of hour t is the latent of window t + k (of `room`) at its hour T - 1 - k.
        shape = (len(inside) + length - 1, self.heads, length, split[1])
        by_hour = room.as_strided(shape, (length * width, split[1], (length - 1) * width, 1), (length - 1) * width)
        rows = by_hour[self.chips.rows] if self.chips else None
        for at in range(0, shape[0], _PIECE):
            piece = slice(at, at + _PIECE)
            by_hour[piece] = _attention(by_hour[piece], *(x if x is None else x[piece] for x in self.hours))
        if self.chips:
            by_hour[self.chips.rows] = _attention(rows, *self.at_chips)
            inside[:, 0] = _attention(first, *self.at_first).flatten(1)


def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of (N, h, q, d) over (N, h, V, d)."""
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores += bias
    return (scores.softmax(-1) @ value).to(query.dtype)  # autocast halves products
