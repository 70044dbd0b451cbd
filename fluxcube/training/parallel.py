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

from fluxcube.errors import ConfigError, FluxcubeError, TrainingError
from fluxcube.training.run import by_torchrun

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds to wait for other processes, unless the environment sets FLUXCUBE_PATIENCE: the first one validates alone.
PATIENCE = 1800.0
#: Seconds after which a message reports that processes have not come.
_NOTICE = 8.0
#: Seconds to wait for the threads of the last messages to end.
_DRAIN = 0.3


@dataclass(frozen=True)
class World:
    """The processes that train one model, and the position of this process.

    Attributes
    ----------
    device : torch.device
        Device of this process.
    rank, size : int
        Number of this process, from 0, and number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Connect the processes that `torchrun` started, by nccl on GPUs and gloo elsewhere; one process without it.

        Parameters
        ----------
        device : str
            "auto" is the GPU of this process if there is one.
        """
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {device!r}, but torch finds no GPU here: pass device='auto' or 'cpu'.")
        if not by_torchrun() and not _started():
            return cls(_device(name))
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
            torch.cuda.set_device(name)
        if not _started():
            if not distributed.is_available():
                raise ConfigError("this build of torch cannot train in several processes: start one, without torchrun.")
            _connect("nccl" if name.startswith("cuda") else "gloo")
            atexit.register(_leave)
        return cls(_device(name), distributed.get_rank(), distributed.get_world_size())

    def first(self, call: Callable[[], T]) -> T:
        """Call a function in the first process; all processes return its result, or raise its error."""
        if self.size == 1:
            return call()
        result: list = [None, None]
        if not self.rank:
            try:
                result[0] = call()
            except FluxcubeError as error:
                result[1] = error
        with _peers(report=False):
            distributed.broadcast_object_list(result, src=0, device=self.device)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def meet(self) -> None:
        """Wait until all processes have received all messages, so that any process may end."""
        if self.size > 1:
            with _peers():
                distributed.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _peers():
            distributed.all_reduce(total)
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


def _device(name: str) -> torch.device:
    """Return a device that torch can use (ConfigError otherwise)."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device is {name!r}, which torch cannot use here: pass 'auto', 'cpu' or 'cuda'.") from error
    return torch.device(name)


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
