"""Several processes as one: each works off its part of every batch, and all make the same step."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from fluxcube.errors import ConfigError, FluxcubeError
from fluxcube.training.run import by_torchrun

T = TypeVar("T")

#: Seconds for the threads of the last messages to end.
_DRAIN = 0.3


@dataclass(frozen=True)
class World:
    """Processes that train one model, and which of them is this one.

    Attributes
    ----------
    device : torch.device
        Of this process.
    rank, size : int
        Its number, and how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Join the processes that `torchrun` started, by nccl on GPUs and gloo elsewhere; alone without it.

        Parameters
        ----------
        device : str
            "auto" is this process's GPU where there is one.
        """
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device is {device!r}, but torch finds no GPU here: give device='auto' or 'cpu'.")
        if not by_torchrun() and not _started():
            return cls(_device(name))
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
            torch.cuda.set_device(name)
        if not _started():
            if not distributed.is_available():
                raise ConfigError("this build of torch cannot train in several processes: start one, without torchrun.")
            distributed.init_process_group("nccl" if name.startswith("cuda") else "gloo")
            atexit.register(_leave)
        return cls(_device(name), distributed.get_rank(), distributed.get_world_size())

    def first(self, call: Callable[[], T]) -> T:
        """Let the first process do something; all return what it gave, or raise what it raised."""
        if self.size == 1:
            return call()
        given: list = [None, None]
        if not self.rank:
            try:
                given[0] = call()
            except FluxcubeError as error:
                given[1] = error
        distributed.broadcast_object_list(given, src=0, device=self.device)
        if given[1] is not None:
            raise given[1]
        return given[0]

    def meet(self) -> None:
        """Wait for all: what one has sent the others have got, and any may leave."""
        if self.size > 1:
            distributed.barrier()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add the gradients of all processes up; one that no process has stays None, as in one process."""
        if self.size == 1:
            return
        parameters = list(parameters)
        flat = torch.cat(
            [p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in parameters]
        )
        has = flat.new_tensor([p.grad is not None for p in parameters], dtype=flat.dtype)
        flat = torch.cat([flat, has])
        distributed.all_reduce(flat)
        *grads, has = flat.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, grad, any_has in zip(parameters, grads, has.tolist(), strict=True):
            parameter.grad = grad.view_as(parameter) if any_has else None


def _device(name: str) -> torch.device:
    """A device that can be used, or a ConfigError."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device is {name!r}, which torch cannot use here: give 'auto', 'cpu' or 'cuda'.") from error
    return torch.device(name)


def _started() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _leave() -> None:
    # A thread of gloo that still holds the last message's tensors when Python ends kills the process ("terminate called
    # without an active exception", pytorch issue 190489): let it drop them while Python lives.
    time.sleep(_DRAIN)
    if _started():
        distributed.destroy_process_group()
