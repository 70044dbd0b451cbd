"""Linear layers whose products on a CPU are computed by oneDNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

#: Minimum number of multiplications of a product: a call of oneDNN takes 12 us, as long as a smaller one by MKL.
_MIN_SIZE = 2**20


class Linear(nn.Linear):
    """`torch.nn.Linear`, whose products of float32 on a CPU are computed by oneDNN, forward and backward.

    torch computes them by MKL, which uses half of the vector units of AMD's processors: on one core of Zen 5, with the
    matrices of EcoPerceiver, MKL made 92 and oneDNN 160 to 205 GFLOP/s. Parameters and results are those of
    `torch.nn.Linear`, except for rounding. A large product has no second derivative, and `torch.func` cannot transform
    it: disable oneDNN for these (``torch.backends.mkldnn.flags(enabled=False)``).

    Examples
    --------
    >>> layer = Linear(64, 192)
    >>> layer(torch.zeros(8, 32, 64)).shape
    torch.Size([8, 32, 192])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the products with the weights, plus the bias (..., out_features), of (..., in_features)."""
        if not _by_onednn(x, self.weight):
            return functional.linear(x, self.weight, self.bias)
        learns = x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        if learns and torch.is_grad_enabled():
            return _Product.apply(x, self.weight, self.bias)
        return _product(x, self.weight, self.bias)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is a large one of float32 on a CPU; autocast and compilation choose their own kernels."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= _MIN_SIZE
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (..., K) times the transpose of a weight (N, K), plus the bias."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """A linear layer, whose gradients are products by oneDNN, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the products."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of the input, the weight and the bias that need one."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        return (
            _product(rows, weight.t(), None).view(x.shape) if of_x else None,
            _product(rows.t(), inputs.t(), None) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
