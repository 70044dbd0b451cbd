"""Blocks on a card: the model inputs of a block are moved once, and windows are cut out of them there.

A window of T hours that emits `stride` of them repeats each hour T / stride times: with 72 inputs, T = 32 and stride 8
these are 1,152 bytes for each hour that is predicted, and 288 if the block is moved instead.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.inference.devices import on_gpu
from fluxcube.models.base import Model
from fluxcube.samples.windows import Series, gather

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Series of places, and their inputs on the device of a model.

    Attributes
    ----------
    series : Series
        Places end to end, in RAM.
    inputs : Tensor or None
        `Series.inputs` (N, V) on the device; None if windows are cut in RAM.
    """

    series: Series
    inputs: Tensor | None = None

    @classmethod
    def of(cls, series: Series, model: Model) -> Source:
        """Return a source whose inputs are on the card of a model, if it is on one that has room for them."""
        card = card_of(model)
        return cls(series) if card is None else cls.on(series, card)

    @classmethod
    def on(cls, series: Series, place: str) -> Source:
        """Return a source whose inputs are on a device, if it has room for them."""
        import torch

        try:
            return cls(series, torch.from_numpy(np.ascontiguousarray(series.inputs)).to(place))
        except torch.OutOfMemoryError:
            log.info("no room for %d bytes of inputs on %s: windows are cut in RAM", series.inputs.nbytes, place)
            return cls(series)

    def gather(
        self, place: np.ndarray, stop: np.ndarray, length: int, *, repeat_images: bool = False, table: bool = False
    ) -> dict:
        """Cut windows as `fluxcube.samples.windows.gather` does; their inputs are a Tensor on the device."""
        if self.inputs is None:
            return gather(self.series, place, stop, length, repeat_images=repeat_images, table=table)
        # The rest of a batch is cut in RAM, from series without an input.
        bare = dataclasses.replace(self.series, inputs=self.series.inputs[:, :0])
        arrays = gather(bare, place, stop, length, repeat_images=repeat_images, table=table)
        return arrays | {"inputs": cut_tensor(self.inputs, self.series.start[place], np.asarray(stop), length)}


def card_of(model: Model) -> str | None:
    """Return the card that a network is on; None on the CPU, and for other models."""
    return str(next(model.networks[0].parameters()).device) if on_gpu(model) else None


def cut_tensor(rows: Tensor, start: np.ndarray, stop: np.ndarray, length: int) -> Tensor:
    """Cut stretches of `length` rows as `fluxcube.samples.windows.cut` does, on the device of the rows.

    Parameters
    ----------
    rows : (N, C) Tensor
        Rows of all places.
    start, stop : (B,) int64
        First row of each stretch's place, and end of each stretch, exclusive, counted from it.
    length : int
        L.

    Returns
    -------
    (B, L, C) Tensor
        NaN before the first row of the place.
    """
    import torch

    columns, first = rows.shape[1], start + stop - length
    short = (stop < length) | (len(rows) < length)
    if short.all():
        out = rows.new_empty((len(first), length, columns))
    else:  # every stretch is one long row of this view
        view = rows.as_strided((len(rows) - length + 1, length * columns), (columns, 1))
        out = view.index_select(0, torch.from_numpy(np.maximum(first, 0)).to(rows.device))
        out = out.view(len(first), length, columns)
    if short.any():
        hour = (stop[short] - length)[:, None] + np.arange(length)
        part = rows[torch.from_numpy(start[short][:, None] + np.maximum(hour, 0)).to(rows.device)]
        part[torch.from_numpy(hour < 0).to(rows.device)] = torch.nan
        out[torch.from_numpy(np.flatnonzero(short)).to(rows.device)] = part
    return out
