"""Banded causal self-attention: each hour of a series of any length attends to the T hours up to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxcube.models.layers import MASKED, CausalSelfAttention

#: Minimum number of hours of a block: matrix products of fewer rows are slow.
_BLOCK = 16


class BandedSelfAttention(CausalSelfAttention):
    """Each hour's latent attends to those of its own and the T - 1 hours before it, in a series of any length.

    The series is cut into blocks of hours. A block attends to itself and to the hours before it that a band reaches, so
    that the work is proportional to the length. What an hour sees does not depend on where the series begins: positions
    are relative, by a learned bias of each head for each distance, which begins as that of ALiBi.

    Parameters
    ----------
    width, heads, ratio : int
        As for `WindowedCrossAttention`.
    band : int
        T, number of hours.

    References
    ----------
    Press et al. 2022 (ALiBi), arXiv:2108.12409; Beltagy et al. 2020 (sliding windows), arXiv:2004.05150.
    """

    distance: Tensor
    outside: Tensor

    def __init__(self, width: int, heads: int, ratio: int, band: int):
        super().__init__(width, heads, ratio)
        slopes = torch.exp2(-8.0 * torch.arange(1, heads + 1) / heads)
        self.relative = nn.Parameter(-slopes[:, None] * torch.arange(band))
        #: Hours of a block, and whole blocks before it that are read.
        self.block = max(_BLOCK, -(-band // 2))
        self.before = -(-(band - 1) // self.block)
        distance = self.before * self.block + torch.arange(self.block)[:, None]
        distance = distance - torch.arange((self.before + 1) * self.block)
        inside = (distance >= 0) & (distance < band)
        self.register_buffer("distance", distance.clamp(0, band - 1), persistent=False)
        self.register_buffer("outside", torch.where(inside, 0.0, MASKED), persistent=False)

    def forward(self, latents: Tensor, future: Tensor | None = None) -> Tensor:
        """Return the latents (B, N, H) after attention and the MLP; the band takes the place of `future`."""
        latents = latents + self.attend(self.norm(latents), future)
        return latents + self.mlp(self.mlp_norm(latents))

    def attend(self, latents: Tensor, future: Tensor | None = None) -> Tensor:
        """Return the attention of latents (B, N, H) to each other (B, N, H)."""
        batch, length, width = latents.shape
        size, heads, lead = self.block, self.heads, self.before * self.block
        blocks = -(-length // size)
        split = functional.pad(self.query_key_value(latents), (0, 0, lead, blocks * size - length))
        # (3, B h, lead + hours, d): the hours of each head follow each other in RAM.
        split = (
            split.view(batch, lead + blocks * size, 3, heads, -1)
            .permute(2, 0, 3, 1, 4)
            .reshape(3, batch * heads, -1, width // heads)
        )
        query, key, value = split.unbind(0)
        query = query[:, lead:].reshape(-1, size, query.shape[-1]) * query.shape[-1] ** -0.5
        key, value = (self._overlapping(x) for x in (key, value))
        scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, blocks, size, lead + size)
        scores = scores + self._bias(blocks).to(scores.dtype)
        seen = torch.bmm(scores.softmax(-1).to(value.dtype).flatten(0, 2), value)
        seen = seen.view(batch, heads, blocks * size, -1).transpose(1, 2).reshape(batch, -1, width)
        return self.out(seen[:, :length])

    def _overlapping(self, rows: Tensor) -> Tensor:
        """Return what each block reads of rows (n, lead + hours, d): (n blocks, lead + size, d)."""
        read = (self.before + 1) * self.block
        return rows.unfold(1, read, self.block).flatten(0, 1).transpose(1, 2)

    def _bias(self, blocks: int) -> Tensor:
        """Return what is added to the scores (h, blocks, size, lead + size), which masks hours before the first."""
        bias = self.relative[:, self.distance] + self.outside
        hours = torch.arange(bias.shape[-1], device=bias.device) - self.before * self.block
        first = hours + self.block * torch.arange(blocks, device=bias.device)[:, None]
        return bias[:, None] + torch.where(first < 0, MASKED, 0.0)[:, None]
