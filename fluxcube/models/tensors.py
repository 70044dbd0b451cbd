"""Write the weights of a torch module as one safetensors file, and read them."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import nn

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
