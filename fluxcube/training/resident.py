"""Training data on the device: windows are cut there, so that a step waits neither for the host nor for a copy."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fluxcube.resolution import HOURLY
from fluxcube.samples.loader import Windows
from fluxcube.samples.windows import ZERO
from fluxcube.training.pace import ahead
from fluxcube.training.weights import SupportedWindows, WeightedWindows

log = logging.getLogger(__name__)

#: Share of the free memory of a GPU that the training data may take; the rest is left for the steps.
_SHARE = 0.5


class ResidentWindows:
    """Batches of `Windows`, cut on a device out of all time steps of the towers, which lie there.

    The batches are those of the windows, bit by bit, without "mask". Before each place lie T - 1 rows of NaN, so that
    also a window that begins before the record is one stretch of rows: one gather, and no shape depends on the data.

    Parameters
    ----------
    windows : Windows
        Windows of this process; their support windows are cut on the host.
    device : torch.device
        Device of the data and of the batches.
    """

    def __init__(self, windows: Windows, device: torch.device):
        self.windows, self.device = windows, device
        towers, series = windows.towers, windows.towers.series
        places = np.arange(len(series.hours))
        self._start = self._moved(series.start)
        # First row of each place's time steps, less that of the place without the rows of NaN.
        self._shift = self._moved((places + 1) * (windows.length - 1))
        self._inputs = self._padded(series.inputs)
        self._fluxes = self._padded(towers.fluxes)
        self._weights = None
        if isinstance(windows, WeightedWindows):
            self._weights = torch.nan_to_num(self._padded(windows.weights), nan=0.0)
        self._places = {"numbers": self._moved(series.numbers), "classes": self._moved(series.classes)}
        self._places["site"] = self._moved(towers.site)
        self._first_hour = self._moved(towers.first_hour)
        self._zero = self._moved(series.chip_zero)
        kinds = [(series.chips, series.chip_key), *series.images]
        if series.images and not series.chips.shape[1]:
            kinds = kinds[1:]
        self._images = [(self._with_missing(pixels), self._moved(key)) for pixels, key in kinds]

    @staticmethod
    def size(windows: Windows) -> int:
        """Return the number of bytes of the data on a device, before anything is moved."""
        series = windows.towers.series
        arrays = [series.inputs, windows.towers.fluxes, series.chips, *(kind.pixels for kind in series.images)]
        if isinstance(windows, WeightedWindows):
            arrays.append(windows.weights)
        rows = 1 + (windows.length - 1) * len(series.hours) / max(len(series.inputs), 1)
        return int(rows * sum(array.nbytes for array in arrays))

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch from one on, as tensors on the device."""
        size = self.windows.batch_size
        ends = self._moved(self.windows.ends(epoch))  # once an epoch
        count = len(ends) // size if self.windows.drop_last else -(-len(ends) // size)
        for batch in range(first_batch, count):
            yield self._batch(ends[batch * size : (batch + 1) * size]) | self._support(epoch, batch)

    def _batch(self, ends: Tensor) -> dict[str, Tensor]:
        """Return the windows that end at these time steps of the series."""
        length, emits = self.windows.length, self.windows.emits
        place = torch.searchsorted(self._start, ends, right=True) - 1
        stop = ends - self._start[place] + 1
        last = ends + self._shift[place]
        images, step = self._image_slots(place, stop)
        batch = {
            "inputs": _stretches(self._inputs, last, length),
            "images": images,
            "image_step": step,
            "targets": _stretches(self._fluxes, last, emits),
            "time": self._first_hour[place] + stop - 1,
        }
        if self._weights is not None:
            batch["weights"] = _stretches(self._weights, last, emits)
        return batch | {name: values[place] for name, values in self._places.items()}

    def _support(self, epoch: int, batch: int) -> dict[str, Tensor]:
        """Return the support windows of a batch, if the windows have any."""
        if not isinstance(self.windows, SupportedWindows):
            return {}
        return {name: self._moved(array) for name, array in self.windows.support(epoch, batch).items()}

    def _image_slots(self, place: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of each window and their time steps, laid out as by `fluxcube.samples.windows.gather`."""
        count = self.windows.length // HOURLY.steps_per_day + 2
        origin, first = self._zero[place], stop - self.windows.length
        packed = bool(self.windows.towers.series.images)
        if not packed and not len(self._images[0][1]):
            pixels = self._images[0][0]
            return pixels.new_empty(len(place), 0, *pixels.shape[1:]), stop.new_empty(len(place), 0)
        slots = _repeated if self.windows.repeat_images else _slots
        parts = [slots(pixels, key, origin, first, stop, count) for pixels, key in self._images]
        if not packed:
            return parts[0]
        flat = [images.flatten(2) for images, _ in parts]
        width = max(one.shape[-1] for one in flat)
        wide = [torch.nn.functional.pad(one, (0, width - one.shape[-1]), value=torch.nan) for one in flat]
        return torch.cat(wide, 1)[:, :, None], torch.cat([step for _, step in parts], 1)

    def _padded(self, rows: np.ndarray) -> Tensor:
        """Return rows (N, C) of all places on the device, T - 1 rows of NaN before each place."""
        series, before = self.windows.towers.series, self.windows.length - 1
        out = torch.full((len(rows) + before * len(series.hours), rows.shape[1]), torch.nan, device=self.device)
        for i, (start, hours) in enumerate(zip(series.start.tolist(), series.hours.tolist(), strict=True)):
            at = start + (i + 1) * before
            out[at : at + hours] = self._moved(rows[start : start + hours])
        return out

    def _with_missing(self, pixels: np.ndarray) -> Tensor:
        """Return images (M + 1, b, p) on the device; the last one is missing."""
        out = torch.full((len(pixels) + 1, *pixels.shape[1:]), torch.nan, device=self.device)
        out[:-1] = self._moved(pixels)
        return out

    def _moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def _stretches(rows: Tensor, last: Tensor, length: int) -> Tensor:
    """Return the stretches (B, length, C) of rows that end with these rows."""
    columns = rows.shape[1]
    # Each stretch is one long row of this view, which is copied at once.
    view = rows.as_strided((max(len(rows) - length + 1, 0), length * columns), (columns, 1))
    return view.index_select(0, last - (length - 1)).view(len(last), length, columns)


def _slots(
    pixels: Tensor, key: Tensor, origin: Tensor, first: Tensor, stop: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return the images (B, count, b, p) of one kind of each window, and their time steps in it (B, count)."""
    index = (torch.searchsorted(key, origin + first, right=True) - 1)[:, None]
    index = index + torch.arange(count, device=index.device)
    inside = (index >= 0) & (index < len(key))
    hour = key[index.clamp(0, len(key) - 1)] - origin[:, None] if len(key) else torch.zeros_like(index)
    inside &= (hour >= -ZERO) & (hour < stop[:, None])
    rows = torch.where(inside, index, len(key))
    images = pixels.index_select(0, rows.flatten()).view(*rows.shape, *pixels.shape[1:])
    return images, torch.where(inside, (hour - first[:, None]).clamp(min=0), -1)


def _repeated(
    pixels: Tensor, key: Tensor, origin: Tensor, first: Tensor, stop: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return images and their time steps as `_slots` does, the latest one at the same hour of every day."""
    if not len(key):
        return _slots(pixels, key, origin, first, stop, count)
    day = HOURLY.steps_per_day
    earliest = key[torch.searchsorted(key, origin - ZERO).clamp(max=len(key) - 1)] - origin
    step = torch.remainder(earliest - first, day)[:, None] + day * torch.arange(count, device=key.device)
    hour = first[:, None] + step
    index = torch.searchsorted(key, origin[:, None] + hour, right=True) - 1
    inside = (index >= 0) & (hour < stop[:, None])
    inside &= key[index.clamp(min=0)] - origin[:, None] >= -ZERO
    rows = torch.where(inside, index, len(key))
    images = pixels.index_select(0, rows.flatten()).view(*rows.shape, *pixels.shape[1:])
    return images, torch.where(inside, step, -1)


def batches(
    windows: Windows, device: torch.device, epoch: int, step: int, resident: ResidentWindows | None
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of an epoch from a step on, as tensors on a device, from resident data or from the host."""
    windows.set_epoch(epoch, step)
    if resident is not None:
        yield from resident.epoch(epoch, step)
        return
    tensors = (on_device(batch, device) for batch in windows)
    yield from ahead(tensors) if device.type == "cuda" else tensors


def resident_on(windows: Windows, device: torch.device) -> ResidentWindows | None:
    """Return the training data on a GPU, or None if they stay in RAM: on a CPU, or where they take too much memory."""
    if device.type != "cuda":
        return None
    size, (free, _) = ResidentWindows.size(windows), torch.cuda.mem_get_info(device)
    if size > _SHARE * free:
        log.info(
            "the training data (%.1f GB) stay in RAM: %s has %.1f GB of free memory, of which they may take %d %%",
            size / 1e9,
            device,
            free / 1e9,
            100 * _SHARE,
        )
        return None
    log.info("the training data (%.1f GB) lie on %s", size / 1e9, device)
    return ResidentWindows(windows, device)


def on_device(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return a batch as tensors on a device; to a GPU it is copied from pinned memory, beside the computation."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in batch.items() if name != "mask"}
    if device.type == "cuda":
        return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in tensors.items()}
    return {name: tensor.to(device) for name, tensor in tensors.items()}
