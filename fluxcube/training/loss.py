"""Losses over observed fluxes: squared error, and the Gaussian likelihood of a mean and a variance."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(out: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of squared errors over observed fluxes.

    Parameters
    ----------
    out : (B, hours, targets or more) Tensor
        Scaled means, whatever follows them.
    wanted : (B, hours, targets) Tensor
        Scaled fluxes; NaN is not observed, of each target by itself.
    weights : (B, hours, targets) Tensor, optional
        Finite where a flux is observed.

    Examples
    --------
    >>> squared_error(torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[3.0, torch.nan]]]))
    tensor(4.)
    """
    seen = torch.isfinite(wanted)
    mean = out[..., : wanted.shape[-1]].float()
    error = torch.where(seen, mean - torch.where(seen, wanted, 0.0), 0.0).square()
    return (error if weights is None else error * torch.where(seen, weights, 0.0)).sum()


def gaussian_nll(out: Tensor, wanted: Tensor, weights: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """Sum of negative log-likelihoods over observed fluxes, less the constant: (error^2 / variance + log variance) / 2.

    Parameters
    ----------
    out : (B, hours, 2 targets) Tensor
        Scaled means, then logarithms of variances.
    wanted, weights
        As for `squared_error`.
    beta : float
        Each hour's loss is weighted by its variance to this power, through which no gradient flows.

    References
    ----------
    Nix & Weigend 1994, doi:10.1109/ICNN.1994.374138; Seitzer et al. 2022 (beta), arXiv:2203.09168.

    Examples
    --------
    >>> gaussian_nll(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0]]]))
    tensor(2.)
    """
    seen = torch.isfinite(wanted)
    mean, log_variance = out.float().chunk(2, -1)
    error = torch.where(seen, mean - torch.where(seen, wanted, 0.0), 0.0).square()
    loss = 0.5 * (error * torch.exp(-log_variance) + log_variance)
    if beta:
        loss = loss * torch.exp(beta * log_variance.detach())
    if weights is not None:
        loss = loss * torch.where(seen, weights, 0.0)
    return torch.where(seen, loss, 0.0).sum()
