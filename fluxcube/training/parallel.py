"""Training in several processes: each processes its part of every batch, and all make the same step."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from fluxcube.devices import card_count, card_failure, device_name, find_device, is_card_failure, is_exhausted
from fluxcube.errors import ConfigError, DeviceError, FluxcubeError, TrainingError
from fluxcube.training.run import by_torchrun

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds to wait for other processes, unless the environment sets FLUXCUBE_PATIENCE.
PATIENCE = 1800.0
#: Seconds after which a message reports that processes have not come.
_NOTICE = 8.0
#: Seconds between two reports of the first process that it still computes what it computes alone, such as scores.
_REPORT = 20.0
#: Seconds to wait for the threads of the last messages to end.
_DRAIN = 0.3


@dataclass(frozen=True)
class World:
    """The processes that train one model, and the position of this process.

    Numbers and objects are exchanged on the CPU, by gloo, also where gradients are exchanged between cards by nccl:
    nccl ends a process whose peers do not answer in time, without an error that could be caught, while gloo raises one.
    Every exchange of gradients follows one of numbers, so that processes wait for each other in gloo alone.

    Attributes
    ----------
    device : torch.device
        Device of this process.
    rank, size : int
        Number of this process, from 0, and number of processes.
    control : ProcessGroup or None
        Group that exchanges numbers and objects; None is the default one.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    control: distributed.ProcessGroup | None = None

    @classmethod
    def join(cls, device: str) -> World:
        """Connect the processes that `torchrun` started, by nccl on GPUs and gloo elsewhere; one process without it.

        Parameters
        ----------
        device : str
            As `fluxcube.devices.check_device` takes it; "auto" is the GPU of this process if there is one. Processes
            that share a card, by its number ("cuda:0"), exchange gradients by gloo, since nccl needs a card for each.

        Raises
        ------
        ConfigError
            If there is no such device, or there are fewer cards than processes.
        """
        name = find_device(device)
        if not by_torchrun() and not _started():
            return cls(_device(name))
        on_cards = name.startswith("cuda")
        shares_card = on_cards and device.startswith("cuda:") and _local_processes() > 1
        if on_cards:
            if not shares_card:
                _check_cards(device)
            torch.cuda.set_device(name)
        control = None
        if not _started():
            if not distributed.is_available():
                raise ConfigError("this build of torch cannot train in several processes: start one, without torchrun.")
            _connect("cpu:gloo,cuda:nccl" if on_cards and not shares_card else "gloo")
            atexit.register(_leave)
        elif "gloo" not in distributed.get_backend():
            control = distributed.new_group(backend="gloo", timeout=datetime.timedelta(seconds=_patience()))
        return cls(_device(name), distributed.get_rank(), distributed.get_world_size(), control)

    def first(self, call: Callable[[], T]) -> T:
        """Call a function in the first process; all processes return its result, or raise its error.

        The others wait as long as it takes: the first process reports every few seconds that it still computes.
        """
        if self.size == 1:
            return call()
        result: list = [None, None]
        if not self.rank:
            with self._reports():
                try:
                    result[0] = call()
                except FluxcubeError as error:
                    result[1] = error
        with _peers(report=False):
            self._wait_for_first()
            distributed.broadcast_object_list(result, src=0, group=self.control, device=torch.device("cpu"))
        if result[1] is not None:
            raise result[1]
        return result[0]

    @contextlib.contextmanager
    def _reports(self) -> Iterator[None]:
        """Tell the other processes every few seconds, from a thread, that this one still computes."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(min(_REPORT, _patience() / 4)):
                try:
                    distributed.broadcast(torch.zeros(1), 0, group=self.control)
                except RuntimeError:  # another process has ended: the next exchange reports it
                    return

        thread = threading.Thread(target=report, name="fluxcube-first", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _wait_for_first(self) -> None:
        """Wait until the first process has ended its call; in that process, tell the others."""
        ended = torch.full((1,), float(not self.rank))
        distributed.broadcast(ended, 0, group=self.control)
        while not ended.item():
            distributed.broadcast(ended, 0, group=self.control)

    def meet(self) -> None:
        """Wait until all processes have received all messages, so that any process may end."""
        if self.size > 1:
            with _peers():
                distributed.all_reduce(torch.zeros(1), group=self.control)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _peers():
            distributed.all_reduce(total, group=self.control)
        return total.tolist()

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, on its device; no process waits for it."""
        if self.size > 1:
            value = value.clone()
            with _peers():
                distributed.all_reduce(value)
        return value

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter], bad: torch.Tensor) -> torch.Tensor:
        """Sum the gradients of all processes, and `bad`, which is returned, by one message.

        A gradient that no process has stays None, as in one process.
        """
        if self.size == 1:
            return bad
        parameters = list(parameters)
        flat = torch.cat(
            [p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in parameters]
        )
        has = self.sum([float(p.grad is not None) for p in parameters])
        flat = torch.cat([flat, bad.to(flat.dtype)[None]])
        with _peers():
            distributed.all_reduce(flat)
        *grads, bad = flat.split([*(p.numel() for p in parameters), 1])
        for parameter, grad, any_has in zip(parameters, grads, has, strict=True):
            parameter.grad = grad.view_as(parameter) if any_has else None
        return bad[0].double()


@contextlib.contextmanager
def card_errors(device: torch.device) -> Iterator[None]:
    """Raise DeviceError if the memory of a card does not suffice for training, or the card fails."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, FluxcubeError) or device.type == "cpu":
            raise
        if is_exhausted(error):
            raise DeviceError(
                f"the memory of {device_name(str(device))} does not suffice ({_first_line(error)}): train with a "
                "smaller batch_size, and the same effective_batch if a step is to learn from as many windows."
            ) from error
        if is_card_failure(error):
            raise card_failure(str(device), error) from error
        raise


def _device(name: str) -> torch.device:
    """Return a device that torch can use (ConfigError otherwise)."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device is {name!r}, which torch cannot use here: pass 'auto', 'cpu' or 'cuda'.") from error
    return torch.device(name)


def _local_processes() -> int:
    """Return the number of processes that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _check_cards(device: str) -> None:
    """Refuse more processes than cards on this machine (ConfigError)."""
    processes, cards = _local_processes(), card_count()
    if processes > cards:
        raise ConfigError(
            f"torchrun started {processes} processes on this machine, which shows {cards} card{'s'[: cards != 1]}: "
            f"start one for each card (--nproc-per-node {cards}), or pass device='cpu' (found {device!r}), or "
            "device='cuda:0' for processes that share a card."
        )


def _connect(backend: str) -> None:
    """Connect to the other processes; report after a while that they have not come."""
    text = "waiting for the other %s processes that torchrun starts, at %s, for up to %.0f s (FLUXCUBE_PATIENCE)"
    values = int(os.environ["WORLD_SIZE"]) - 1, os.environ["MASTER_ADDR"], _patience()
    notice = threading.Timer(_NOTICE, log.warning, (text, *values))
    notice.daemon = True
    notice.start()
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=_patience()))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the processes that torchrun starts did not meet within {_patience():.0f} s ({_first_line(error)}): check "
            "that all run, and reach each other."
        ) from error
    finally:
        notice.cancel()


def _patience() -> float:
    """Return the seconds to wait for other processes, from the environment variable FLUXCUBE_PATIENCE."""
    text = os.environ.get("FLUXCUBE_PATIENCE", "")
    try:
        return float(text) if text else PATIENCE
    except ValueError:
        raise ConfigError(f"FLUXCUBE_PATIENCE: expected a number of seconds, found {text!r}.") from None


@contextlib.contextmanager
def _peers(*, report: bool = True) -> Iterator[None]:
    """Raise TrainingError if another process ends, or does not answer in time, during an exchange of messages.

    A wait is reported, but for what the first process alone does (`report`), which may take long.
    """
    text = "another process of this training has not answered for %.0f s; waiting for up to %.0f s (FLUXCUBE_PATIENCE)"
    notice = threading.Timer(_NOTICE, log.warning, (text, _NOTICE, _patience()))
    notice.daemon = True
    if report:
        notice.start()
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this training has ended, or gave no answer within {_patience():.0f} s "
            f"({_first_line(error)}); the last saved state stays: start all of them again to continue."
        ) from error
    finally:
        notice.cancel()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _leave() -> None:
    # A thread of gloo that still references the tensors of the last message when Python ends kills the process
    # ("terminate called without an active exception", pytorch issue 190489): wait until it has released them.
    time.sleep(_DRAIN)
    if _started():
        distributed.destroy_process_group()
