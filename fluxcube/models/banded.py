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
        heads, size, lead = self.heads, self.block, self.before * self.block
        blocks = -(-length // size)
        split = self.query_key_value(latents).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        # (3, B h, lead + hours, d): the hours of each head follow each other in RAM.
        split = functional.pad(split, (0, 0, lead, blocks * size - length)).flatten(1, 2)
        copied = torch.is_grad_enabled() or torch.compiler.is_compiling()
        query, key, value = self._copies(split) if copied else self._views(split)
        scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = self._biased(scores.view(batch, heads, -1, *scores.shape[1:])).flatten(0, 2)
        seen = torch.bmm(scores.softmax(-1)[: len(value)].to(value.dtype), value)
        apart = scores.shape[0] // len(split[0]) * size * seen.shape[-1]
        seen = seen.as_strided((batch, length, heads, seen.shape[-1]), (heads * apart, seen.shape[-1], apart, 1))
        return self.out(seen.reshape(batch, length, width))

    def _copies(self, split: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries of each block (n blocks, size, d), and the keys and values (..., lead + size, d) it reads.

        The parameter is (3, n, lead + hours, d).
        """
        blocks = split.unflatten(2, (-1, self.block))
        count = blocks.shape[2] - self.before
        query = blocks[0, :, self.before :].flatten(0, 1)
        read = torch.cat([blocks[1:, :, at : at + count] for at in range(self.before + 1)], 3).flatten(1, 2)
        return query, read[0], read[1]

    def _views(self, split: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `_copies` returns without a copy: views of (3, n, lead + hours, d) that overlap.

        They contain further blocks, which begin in one series and end in the next; no result is read from these.
        """
        size, lead, features = self.block, self.before * self.block, split.shape[-1]
        count, strides = split[0].numel() // (size * features), (size * features, features, 1)
        part, start = split[0].numel(), split.storage_offset()
        query = split.as_strided((count, size, features), strides, start + lead * features)
        key = split.as_strided((count, lead + size, features), strides, start + part)
        return query, key, split.as_strided((count - self.before, *key.shape[1:]), strides, start + 2 * part)

    def _biased(self, scores: Tensor) -> Tensor:
        """Add the biases to scores (B, h, blocks, size, lead + size) in place, and mask hours before the first."""
        scores += (self.relative[:, self.distance] + self.outside)[:, None]
        for block in range(min(self.before, scores.shape[2])):
            scores[:, :, block, :, : (self.before - block) * self.block] = MASKED
        return scores
