"""The memory of a card: how many windows pass a network at once, and smaller passes where the memory does not suffice.

A pass that runs out of memory is halved, by windows and then in time, down to one window; the size that fits is kept.
"""

from __future__ import annotations

import copy
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from fluxcube.devices import allows_cpu, card_failure, device_name, is_card_failure, is_exhausted
from fluxcube.errors import DeviceError
from fluxcube.inference.devices import device_of, on_gpu, place
from fluxcube.models.base import Batch, Model

log = logging.getLogger(__name__)

#: Share of the free memory of a card that a pass may take.
_SHARE = 0.5

Call = Callable[[Model, Batch], np.ndarray]


class PassMemory:
    """What is known of the memory that passes of a model take.

    Attributes
    ----------
    limit : int or None
        Maximum number of time steps (windows times their length) of a pass; None if no pass was too large.
    step_bytes : float
        Bytes of a card per time step, measured; 0 if unknown.
    substitute : Model or None
        Copy of the model on the CPU, from the pass on for which the card was too small ("cuda,cpu").
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.step_bytes = 0.0
        self.substitute: Model | None = None


_known: weakref.WeakKeyDictionary[Model, PassMemory] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def memory_of(model: Model) -> PassMemory:
    """Return what is known of the memory of a model in this process."""
    with _lock:
        return _known.setdefault(model, PassMemory())


def pass_size(model: Model, usual: int, maximum: int) -> int:
    """Return the number of windows of one pass of a network.

    Parameters
    ----------
    model : Model
        A model with networks.
    usual : int
        Number of windows on a CPU, and of the first pass on a card, whose memory is measured.
    maximum : int
        Maximum number of windows on a card.
    """
    known = memory_of(model)
    fitting = usual if known.limit is None else known.limit // model.context
    if on_gpu(model) and known.step_bytes:
        fitting = int(_SHARE * _free_bytes(model) / (known.step_bytes * model.context))
        fitting = min(fitting, maximum, maximum if known.limit is None else known.limit // model.context)
    elif not on_gpu(model):
        fitting = min(fitting, usual)
    return max(1, fitting)


def run_pass(model: Model, batch: Batch, device: str, call: Call) -> np.ndarray:
    """Return the estimates of a pass, which is halved as often as its memory requires.

    Parameters
    ----------
    model : Model
        The model.
    batch : Batch
        Windows, or series that are longer than a window.
    device : str
        Device as the user named it: with "cuda,cpu" the CPU computes what a card has no memory for.
    call : callable
        Computes the estimates (B, T, columns) of a model for a batch.

    Raises
    ------
    DeviceError
        If one window does not fit in memory, or the card fails.
    """
    if not model.networks:
        return call(model, batch)
    known = memory_of(model)
    if known.substitute is not None:
        return call(known.substitute, batch)
    try:
        if not on_gpu(model):
            return _in_parts(known, model, batch, call)
        with _turn(device_of(model)):
            return _in_parts(known, model, batch, call)
    except _TooSmallError as error:
        name = device_name(device_of(model))
        if not (allows_cpu(device) and on_gpu(model)):
            raise DeviceError(
                f"the memory of {name} is too small for one window of this model ({error}): end other programs that "
                "use it, or pass device='cpu', or device='cuda,cpu' for the CPU where a card is too small."
            ) from error
        log.warning("the memory of %s is too small for one window of this model: the CPU computes from here on", name)
    known.substitute = copy.deepcopy(model)
    place(known.substitute, "cpu")
    return call(known.substitute, batch)


@functools.cache
def _turn(device: str) -> AbstractContextManager:
    """Return the lock of a card: threads that share it take turns, so that one computes and the others gather."""
    return threading.RLock()


class _TooSmallError(Exception):
    """The memory does not suffice for one window."""


def _in_parts(known: PassMemory, model: Model, batch: Batch, call: Call) -> np.ndarray:
    """Return the estimates of a batch, in halves of halves if it is larger than what fits."""
    size = batch.inputs.shape[0] * batch.inputs.shape[1]
    if known.limit is None or size <= known.limit or _halves(batch, model) is None:
        estimates, why = _attempt(known, model, batch, call)
        if estimates is not None:
            return estimates
        if _halves(batch, model) is None:
            raise _TooSmallError(why)
        known.limit = max(model.context, size // 2)
        log.info("a pass of %d time steps does not fit in memory: %d from here on (%s)", size, known.limit, why)
    parts = _halves(batch, model)
    assert parts is not None
    first, second, repeated = parts
    results = [_in_parts(known, model, part, call) for part in (first, second)]
    if len(batch.inputs) > 1:
        return np.concatenate(results)
    return np.concatenate([results[0], results[1][:, repeated:]], 1)


def _attempt(known: PassMemory, model: Model, batch: Batch, call: Call) -> tuple[np.ndarray | None, str]:
    """Return the estimates of a batch; None, and why, if memory does not suffice (DeviceError if the card fails)."""
    try:
        return _measured(known, model, batch, call), ""
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            if is_card_failure(error):
                raise card_failure(device_of(model), error) from error
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0]
    if on_gpu(model):  # after the error, whose traceback refers to the tensors of the pass
        import torch

        torch.cuda.empty_cache()
    return None, why


def _measured(known: PassMemory, model: Model, batch: Batch, call: Call) -> np.ndarray:
    """Return the estimates of a batch; on a card, measure the memory that they take."""
    if not on_gpu(model):
        return call(model, batch)
    import torch

    device = device_of(model)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    estimates = call(model, batch)
    taken = torch.cuda.max_memory_allocated(device) - before
    known.step_bytes = max(known.step_bytes, taken / (batch.inputs.shape[0] * batch.inputs.shape[1]))
    return estimates


def _free_bytes(model: Model) -> int:
    """Return the bytes of a card that are free, or that torch has reserved and does not use."""
    import torch

    device = device_of(model)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _halves(batch: Batch, model: Model) -> tuple[Batch, Batch, int] | None:
    """Return two halves of a batch, by windows or else in time; None for one window.

    Returns
    -------
    tuple of Batch, Batch and int
        The last number is that of the first time steps of the second half that only are the context of the others.
    """
    rows, steps = batch.inputs.shape[:2]
    if rows > 1:
        middle = rows // 2
        return _rows(batch, slice(middle)), _rows(batch, slice(middle, rows)), 0
    context, kinds = model.context, max(1, len(model.sizes.image_kinds))
    if steps <= context:
        return None
    middle, repeated = (steps + context) // 2, context - 1
    # Of a model with streams, each image is where it belongs, and the first time step has no earlier one.
    carry = not getattr(model, "streams", False)
    first, second = _steps(batch, 0, middle, kinds, carry), _steps(batch, middle - repeated, steps, kinds, carry)
    return first, second, repeated


def _rows(batch: Batch, rows: slice) -> Batch:
    """Return some windows of a batch, with the table of images that they share."""
    shared: Sequence[str] = () if getattr(batch, "image_row", None) is None else ("images",)
    arrays = batch._asdict()
    return Batch(**{k: a if a is None or k in shared else a[rows] for k, a in arrays.items()})


def _steps(batch: Batch, start: int, stop: int, kinds: int, carry: bool) -> Batch:
    """Return time steps [start, stop) of the series of a batch.

    With `carry`, the latest earlier image of each kind is at the first of them. The slots of one kind follow those of
    another.
    """
    step = batch.image_step.reshape(kinds, -1)
    moved = np.where((step > start) & (step < stop), step - start, -1)
    earlier = np.where(step <= start if carry else step == start, step, -1)
    if earlier.shape[1]:
        every, latest = np.arange(kinds), earlier.argmax(1)
        known = earlier[every, latest] >= 0
        moved[every[known], latest[known]] = 0
    return batch._replace(inputs=batch.inputs[:, start:stop], image_step=moved.reshape(batch.image_step.shape))
