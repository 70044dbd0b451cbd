"""Losses over observed fluxes: squared error, the Gaussian likelihood of a mean and a variance, and carbon balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def squared_error(out: Tensor, fluxes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sum of squared errors over observed fluxes.

    Parameters
    ----------
    out : (B, hours, targets or more) Tensor
        Scaled means; further columns are not used.
    fluxes : (B, hours, targets) Tensor
        Scaled fluxes; NaN is not observed, for each target by itself.
    weights : (B, hours, targets) Tensor, optional
        Finite where a flux is observed.

    Examples
    --------
    >>> squared_error(torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[3.0, torch.nan]]]))
    tensor(4.)
    """
    seen = torch.isfinite(fluxes)
    mean = out[..., : fluxes.shape[-1]].float()
    error = torch.where(seen, mean - torch.where(seen, fluxes, 0.0), 0.0).square()
    return (error if weights is None else error * torch.where(seen, weights, 0.0)).sum()


def gaussian_nll(out: Tensor, fluxes: Tensor, weights: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """Return the sum of negative log-likelihoods over observed fluxes.

    Without the constant, one is (error^2 / variance + log variance) / 2.

    Parameters
    ----------
    out : (B, hours, 2 targets) Tensor
        Scaled means, then logarithms of variances.
    fluxes, weights
        As for `squared_error`.
    beta : float
        Exponent of the variance that weights the loss of each time step; no gradient flows through this weight.

    References
    ----------
    Nix & Weigend 1994, doi:10.1109/ICNN.1994.374138; Seitzer et al. 2022 (beta), arXiv:2203.09168.

    Examples
    --------
    >>> gaussian_nll(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0]]]))
    tensor(2.)
    """
    seen = torch.isfinite(fluxes)
    mean, log_variance = out.float().chunk(2, -1)
    error = torch.where(seen, mean - torch.where(seen, fluxes, 0.0), 0.0).square()
    loss = 0.5 * (error * torch.exp(-log_variance) + log_variance)
    if beta:
        loss = loss * torch.exp(beta * log_variance.detach())
    if weights is not None:
        loss = loss * torch.where(seen, weights, 0.0)
    return torch.where(seen, loss, 0.0).sum()


@dataclass(frozen=True)
class Balance:
    """The carbon balance of estimates: NEE = RECO - GPP, with the signs of the variable table, of one partitioning.

    Attributes
    ----------
    nee, gpp, reco : int
        Positions of these fluxes among the targets.
    mean, scale : sequence of float
        Scaling of all targets: flux = scaled * scale + mean. The scale of NEE is its standard deviation at the training
        towers.

    References
    ----------
    Rozanov, Renganathan & Kumar 2026, arXiv:2603.09974
    """

    nee: int
    gpp: int
    reco: int
    mean: Sequence[float]
    scale: Sequence[float]

    def squares(self, out: Tensor) -> Tensor:
        """Return the sum of (NEE - (RECO - GPP))^2 over all estimates, observed or not, in units of NEE's variance.

        The difference is computed in the units of the fluxes and then divided by the variance of NEE at the training
        towers, so that it is of the same kind as the squared error of a scaled flux.

        Parameters
        ----------
        out : (..., targets or more) Tensor
            Scaled means; further columns are not used.

        Examples
        --------
        >>> balance = Balance(0, 1, 2, mean=(0.0, 4.0, 3.0), scale=(2.0, 4.0, 1.0))
        >>> balance.squares(torch.tensor([[-1.0, 0.25, 0.0]]))  # NEE -2, GPP 5, RECO 3
        tensor(0.)
        """
        nee, gpp, reco = (out[..., i].float() * self.scale[i] + self.mean[i] for i in (self.nee, self.gpp, self.reco))
        return ((nee - (reco - gpp)) / self.scale[self.nee]).square().sum()
