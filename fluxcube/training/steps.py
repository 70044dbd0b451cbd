"""Records of training steps: their sums stay on the device until several are read together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fluxcube.samples.loader import Windows


class Estimates(NamedTuple):
    """What a forward pass estimated, to name the windows of a loss that is not finite.

    Attributes
    ----------
    loss : () Tensor
        Sum of the losses.
    out, targets : (B, emits, columns) Tensor
        Estimates and fluxes.
    site, time : (B,) int64 Tensor
        As in a batch of `fluxcube.samples.loader.Windows`.
    """

    loss: Tensor
    out: Tensor
    targets: Tensor
    site: Tensor
    time: Tensor

    @classmethod
    def of(cls, loss: Tensor, out: Tensor, batch: Mapping[str, Tensor]) -> Estimates:
        """Return the estimates of a batch."""
        return cls(loss.detach(), out.detach(), batch["targets"], batch["site"], batch["time"])


class StepRecord(NamedTuple):
    """One step whose sums have not been read yet.

    Attributes
    ----------
    step, update : int
        Number of the step in its epoch, from 0, and in the run, from 1.
    windows : int
        Number of windows, of all processes.
    lr : float
        Learning rate.
    sums : (5,) float64 Tensor
        Sums of the loss and of the carbon balance of this process; number or sum of weights of the fluxes, number of
        losses that are not finite, and whether the gradient is not finite, of all processes.
    estimates : tuple of Estimates
        Of each forward pass.
    """

    step: int
    update: int
    windows: int
    lr: float
    sums: Tensor
    estimates: tuple[Estimates, ...]


def read_sums(records: list[StepRecord]) -> list[list[float]]:
    """Return the sums of steps as numbers; the only wait for the device."""
    return torch.stack([record.sums for record in records]).tolist()


def loss_not_finite(record: StepRecord, windows: Windows) -> str:
    """Return the names of the windows whose estimates or errors are not finite, or of all if none is."""
    bad = [one for one in record.estimates if not torch.isfinite(one.loss)]
    return _where_not_finite(bad[0], windows) if bad else "windows of another process"


def gradient_not_finite(record: StepRecord, windows: Windows) -> str:
    """Return the names of all windows of a step."""
    site, time = (
        torch.cat([getattr(one, name) for one in record.estimates]).cpu().numpy() for name in ("site", "time")
    )
    return _named(site, time, windows)


def _where_not_finite(one: Estimates, windows: Windows) -> str:
    """Return the names of the windows of one pass, all of them if only the sum of their losses is not finite."""
    fluxes, estimates = one.targets.cpu().numpy(), one.out.float().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.where(np.isfinite(fluxes), np.square(estimates[..., : fluxes.shape[-1]] - fluxes), 0)
    rows = ~(np.isfinite(estimates).all((1, 2)) & np.isfinite(error).all((1, 2)))
    rows = rows if rows.any() else np.ones(len(rows), bool)
    return _named(one.site.cpu().numpy()[rows], one.time.cpu().numpy()[rows], windows)


def _named(site: np.ndarray, time: np.ndarray, windows: Windows) -> str:
    """Return the sites of windows, and the last time step of the first one."""
    sites = [windows.sites[i] for i in np.unique(site)]
    more = f" and {len(sites) - 10} more" if len(sites) > 10 else ""
    last = np.asarray(time[0]).astype(f"datetime64[{windows.spec.step}]")
    return f"windows of {', '.join(sites[:10])}{more} (the first ends at {last}{windows.spec.time_resolution.zone})"
