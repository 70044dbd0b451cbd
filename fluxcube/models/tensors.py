"""Write the weights of a torch module as one safetensors file, and read them; move arrays to a device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

_FILE = "model.safetensors"


def to_files(module: nn.Module) -> dict[str, bytes]:
    """Return the weights as one safetensors file: its name and content."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    return {_FILE: safetensors.torch.save(tensors)}


def from_files(module: nn.Module, files: Mapping[str, bytes]) -> None:
    """Load weights into a module that `to_files` returned.

    Raises
    ------
    ValueError
        If the file cannot be read, or its tensors do not fit; they are named.
    """
    try:
        tensors = safetensors.torch.load(files[_FILE])
    except safetensors.SafetensorError as error:
        raise ValueError(f"{_FILE} cannot be read: {error}") from error
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"tensors do not fit the settings: {', '.join(names)}")
    module.load_state_dict(tensors)


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Return an array or a tensor as a tensor on a device.

    An array goes to a card through pinned memory, which torch keeps for the next one: the copy is not awaited, and runs
    while the card computes.
    """
    if isinstance(array, Tensor) or device.type != "cuda":
        return torch.as_tensor(array, device=device)
    return torch.from_numpy(np.ascontiguousarray(array)).pin_memory().to(device, non_blocking=True)
