"""Devices of models: on which processor, and in which precision, networks compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fluxcube.models.base import Model


def on_gpu(model: Model) -> bool:
    """Return whether the networks of a model are on a GPU."""
    return any(parameter.is_cuda for network in model.networks[:1] for parameter in network.parameters())


def to_gpu(model: Model) -> None:
    """Move the networks of a model to the GPU of this process, if it has one."""
    if model.networks:
        import torch

        if torch.cuda.is_available():
            for network in model.networks:
                network.to("cuda")


@contextlib.contextmanager
def matrix_precision(model: Model, precision: str) -> Iterator[None]:
    """Compute the matrix products of networks in a precision ("float32" or "bfloat16")."""
    if precision == "float32":
        yield
        return
    import torch

    with torch.autocast("cuda" if on_gpu(model) else "cpu", getattr(torch, precision)):
        yield
