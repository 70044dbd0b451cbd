"""Devices of models: on which processor, and in which precision, models compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fluxcube.devices import check_device, find_device, tf32
from fluxcube.models.base import Model
from fluxcube.models.rows import RowModel

#: Precisions of the matrix products of networks.
PRECISIONS = ("float32", "tf32", "bfloat16")


def on_gpu(model: Model) -> bool:
    """Return whether the networks of a model are on a GPU."""
    return any(parameter.is_cuda for network in model.networks[:1] for parameter in network.parameters())


def device_of(model: Model) -> str:
    """Return the device of a model as `fluxcube.devices.find_device` does: "cpu", or a card such as "cuda:0"."""
    for network in model.networks:
        for parameter in network.parameters():
            return "cpu" if parameter.device.type == "cpu" else str(parameter.device)
    return next((one.device for one in _row_models(model) if one.device != "cpu"), "cpu")


def uses_cards(model: Model) -> bool:
    """Return whether a model can compute on a card: it has networks, or trees whose XGBoost is built for cards."""
    return bool(model.networks) or any(one.can_use_cards() for one in _row_models(model))


def place(model: Model, device: str) -> None:
    """Move a model to a device, in place.

    Models that are neither networks nor trees compute on the CPU, wherever a user wants the others.

    Parameters
    ----------
    model : Model
        The model.
    device : str
        As `fluxcube.devices.check_device` takes it.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    if model.networks:
        found = find_device(device)
        for network in model.networks:
            network.to(found)
    for one in _row_models(model):
        one.use_device(one.device_for(device))


def is_placed(model: Model, device: str) -> bool:
    """Return whether a model is on a device already (ConfigError if there is no such device)."""
    trees = all(one.device == one.device_for(check_device(device)) for one in _row_models(model))
    return trees and (not model.networks or device_of(model) == find_device(device))


def _row_models(model: Model) -> list[RowModel]:
    """Return the models of feature rows among the members of a model, or the model itself."""
    return [one for one in model.members or (model,) if isinstance(one, RowModel)]


@contextlib.contextmanager
def matrix_precision(model: Model, precision: str) -> Iterator[None]:
    """Compute the matrix products of networks in a precision, one of `PRECISIONS`."""
    if precision != "bfloat16":
        with tf32(precision == "tf32"):
            yield
        return
    import torch

    with torch.autocast("cuda" if on_gpu(model) else "cpu", torch.bfloat16):
        yield
