"""Random masks of dropout from a counter: the same ones on any device, for any division of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Version of the generator. A training state records it, since a run continues with the generator that it began with.
GENERATOR = 1
#: Distinguishes the random numbers of dropout from those of windows.
_DROPOUT = 1
_GOLDEN, _FIRST, _SECOND = (
    int(np.uint64(x).view(np.int64)) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
#: Number of bits of a random number that is compared with the share.
_BITS = 24


@dataclass(frozen=True)
class DropoutKey:
    """Position of a training step, from which all random numbers of its dropout follow.

    A number is the hash of the key, of the position of the window in the step's whole batch, and of the position of the
    value in the window (SplitMix64). It depends neither on other windows nor on the number of processes, the size of a
    pass or the device.

    Attributes
    ----------
    seed, epoch, step : int
        Seed of the run, and position of the step.

    References
    ----------
    Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195.
    """

    seed: int
    epoch: int
    step: int

    def dropped(self, rows: Tensor, shape: tuple[int, ...], share: float, *, part: int) -> Tensor:
        """Return which values are dropped.

        Parameters
        ----------
        rows : (B,) int64 Tensor
            Positions of the windows in the whole batch of the step, which all processes share.
        shape : tuple of int
            Shape of the values of one window; equal for all windows of a step.
        share : float
            Fraction that is dropped.
        part : int
            Distinguishes arrays of the same windows.

        Returns
        -------
        (B, *shape) bool Tensor
            On the device of `rows`.

        Examples
        --------
        >>> key = DropoutKey(seed=0, epoch=0, step=0)
        >>> whole = key.dropped(torch.arange(1000), (32, 6), 0.3, part=0)
        >>> bool((key.dropped(torch.tensor([999]), (32, 6), 0.3, part=0) == whole[999:]).all())
        True
        >>> round(float(whole.float().mean()), 2)
        0.3
        """
        count = int(np.prod(shape))
        place = rows[:, None] * count + torch.arange(1, count + 1, device=rows.device)
        state = np.random.SeedSequence((self.seed, _DROPOUT, self.epoch, self.step, part)).generate_state(1, np.uint64)
        number = _mixed(place * _GOLDEN + int(state.view(np.int64)[0]))
        return (_shifted(number, 64 - _BITS) < round(share * 2**_BITS)).view(len(rows), *shape)


def _mixed(state: Tensor) -> Tensor:
    """Return the output function of SplitMix64; products of int64 wrap around."""
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift to the right as unsigned numbers."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
