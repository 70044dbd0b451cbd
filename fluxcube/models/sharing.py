"""Parameters that several blocks share, so that their gradients are added for all parameters at once.

Autograd adds the gradients of a shared parameter one at a time: with eight blocks that share 24 tensors, 168 kernels of
a GPU. Here each block has a view of each tensor, and all gradients of a block are added by one kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.func import functional_call

from fluxcube.models.layers import CausalSelfAttention, Folded, Tokens, WindowedCrossAttention

#: Self-attention: from latents and what is added to the scores to latents.
SelfLayer = Callable[[Tensor, Tensor], Tensor]

Item = TypeVar("Item")


class _Repeated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for _ in range(count) for x in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        each = list(zip(*_cut(gradients, len(ctx.needs_input_grad) - 1), strict=True))
        known = [[g for g in one if g is not None] for one in each]
        totals: list[Tensor | None] = [one[0] if one else None for one in known]
        # Kernels for several tensors need one type; a tensor that fewer blocks used has fewer gradients.
        groups = {(one[0].dtype, len(one)) for one in known if one}
        for dtype, count in sorted(groups, key=str):
            at = [i for i, one in enumerate(known) if one and (one[0].dtype, len(one)) == (dtype, count)]
            for i, total in zip(at, _sums([known[i] for i in at]), strict=True):
                totals[i] = total
        return None, *totals


def _sums(parts: list[list[Tensor]]) -> Sequence[Tensor]:
    """Return the sum of each list of tensors; all lists have one length."""
    first, *others = zip(*parts, strict=True)
    totals: tuple[Tensor, ...] = tuple(first)
    for other in others:
        totals = torch._foreach_add(totals, tuple(other))
    return totals


def repeated(tensors: Sequence[Tensor], count: int) -> list[tuple[Tensor, ...]]:
    """Return `count` tuples of views of tensors, whose gradients are added for all tensors at once.

    Examples
    --------
    >>> a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> blocks = repeated([a, b], 4)
    >>> sum(x.sum() + y.sum() for x, y in blocks).backward()
    >>> a.grad, b.grad
    (tensor([4., 4.]), tensor([4., 4., 4.]))
    """
    return _cut(_Repeated.apply(count, *tensors), len(tensors))


def _cut(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    return [tuple(items[at : at + size]) for at in range(0, len(items), size)]


def shared_blocks(
    cross: WindowedCrossAttention, block_self: CausalSelfAttention, tokens: Tokens, count: int
) -> list[tuple[Callable[[Tensor], Tensor], SelfLayer]]:
    """Return the attention to tokens and the self-attention of each of `count` blocks that share two layers.

    Parameters
    ----------
    cross, block_self : WindowedCrossAttention, CausalSelfAttention
        The layers, computed by few kernels.
    tokens : Tokens
        What all blocks attend to.
    count : int
        Number of blocks.
    """
    folded = cross.fold()
    # The weights of the attention itself are used once, to fold them.
    first = {name: x for name, x in cross.named_parameters() if name.startswith(("norm.", "mlp"))}
    second = dict(block_self.named_parameters())
    blocks: list[tuple[Callable[[Tensor], Tensor], SelfLayer]] = []
    for views in repeated([*first.values(), *second.values(), *folded, tokens.values], count):
        of_first, rest = dict(zip(first, views, strict=False)), views[len(first) :]
        of_second, rest = dict(zip(second, rest, strict=False)), rest[len(second) :]
        read = {"tokens": tokens._replace(values=rest[-1]), "folded": Folded(*rest[:-1])}
        blocks.append((partial(_call, cross, of_first, **read), partial(_call, block_self, of_second)))
    return blocks


def _call(layer: nn.Module, parameters: dict[str, Tensor], *inputs: Tensor, **others: object) -> Tensor:
    return functional_call(layer, parameters, inputs, others)
