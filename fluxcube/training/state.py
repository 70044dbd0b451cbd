"""Training state: what a killed run needs to resume as if it had not been interrupted."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from fluxcube.errors import CheckpointError, overwrite_option
from fluxcube.models.checkpoint import write_atomically
from fluxcube.parsing import file_size, parse_json, read_bytes
from fluxcube.stores.lock import check_held

STATE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
#: What a damaged file raises, in its header or in its tensors.
_FAULTS = (
    safetensors.SafetensorError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    OSError,
)


@dataclass
class Counters:
    """Progress of a run.

    Attributes
    ----------
    epoch, step : int
        Number of finished epochs, and of finished steps of the next one.
    updates : int
        Number of steps of all epochs.
    loss, hours : float
        Sum of the losses and number (or sum of weights) of the fluxes of the epoch so far.
    windows : int
        Number of windows of the epoch so far.
    imbalance : float
        Sum over these windows of the carbon balance: the mean of (NEE - (RECO - GPP))^2 over NEE's variance.
    best : float or None
        Best validation score so far.
    seconds : float
        Duration of the training.
    history : list of dict
        One log entry per epoch.
    dropout : int
        Version of the generator of dropout (`fluxcube.models.dropout.GENERATOR`); 0 in states of earlier versions.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss: float = 0.0
    hours: float = 0.0
    windows: int = 0
    imbalance: float = 0.0
    best: float | None = None
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    dropout: int = 0


def save_state(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Mapping[str, torch.Tensor]],
    counters: Counters,
    request: Mapping,
    features: Mapping,
) -> None:
    """Write weights, `kept` ones (best, averaged), moments, random state and counters; a kill leaves the last state.

    `features` is the specification of the features of the weights, with their scaling.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for part, weights in kept.items():
        tensors |= {f"{part}/{k}": v for k, v in weights.items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if (card := _card_of(model)) is not None:  # not the current card: training may use another one
        tensors["random/cuda"] = torch.cuda.get_rng_state(card)
    # Shared storage cannot be written: each tensor is copied.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    metadata = {"counters": asdict(counters), "request": request, "features": features}
    about = {name: json.dumps(value) for name, value in metadata.items()}
    check_held(path)
    write_atomically(path, safetensors.torch.save(tensors, about | {"digest": _digest(tensors, about)}))


def load_state(
    content: bytes, path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, torch.Tensor]], Counters]:
    """Restore a saved state; return the kept weights by part (best, averaged), and the counters.

    Parameters
    ----------
    content : bytes
        Content of the state's file, which only the first process may be able to read.
    path : Path
        Name of the file, for messages.
    model, optimizer : Module, Optimizer
        Changed in place.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    try:
        about, tensors = _checked(content)
        counters = Counters(**parse_json(about["counters"], dict))
        parts: dict[str, dict] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = value
        model.load_state_dict(parts["model"])
        random = parts["random"]["cpu"]
        _check_types(counters)
        restored = _moments(parts, model, on_device=bool(optimizer.defaults.get("fused")))
        torch.set_rng_state(random)
        if "cuda" in parts["random"] and (card := _card_of(model)) is not None:
            torch.cuda.set_rng_state(parts["random"]["cuda"], card)
    except _FAULTS as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error
    optimizer.state.update(restored)
    return {part: parts[part] for part in ("best", "average") if part in parts}, counters


def _card_of(model: torch.nn.Module) -> torch.device | None:
    """Return the card of a model, whose generator draws its masks; None on a CPU."""
    device = next(model.parameters()).device
    return device if device.type == "cuda" else None


def _moments(parts: Mapping[str, Mapping[str, torch.Tensor]], model: torch.nn.Module, *, on_device: bool) -> dict:
    """Return the moments of each parameter of a model, as its optimizer keeps them (ValueError if one is damaged).

    A fused optimizer reads the number of steps on the device of the parameter (`on_device`), others on the CPU.
    """
    out = {}
    for name, parameter in model.named_parameters():
        if name in parts.get("step", {}):
            out[parameter] = {
                key: parts[key][name].to(parameter.device if key != "step" or on_device else "cpu") for key in _MOMENTS
            }
            if any(out[parameter][key].shape != parameter.shape for key in _MOMENTS if key != "step"):
                raise ValueError(f"the moments of {name} have another shape than its weights")
    return out


def _check_types(counters: Counters) -> None:
    """Raise a ValueError if a counter of a state is no number."""
    for name, value in vars(counters).items():
        kind = list if name == "history" else type(None) | int | float if name == "best" else int | float
        if not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r:.40}")


def read_request(path: Path) -> dict:
    """Return the request of a saved state (CheckpointError if the file is damaged)."""
    try:
        file_size(path)
        with safetensors.safe_open(path, "pt") as file:
            return parse_json(file.metadata()["request"], dict)
    except _FAULTS as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error


def read_counters(path: Path) -> Counters:
    """Return the counters of a saved state (CheckpointError if the file is damaged)."""
    try:
        file_size(path)
        with safetensors.safe_open(path, "pt") as file:
            counters = Counters(**parse_json(file.metadata()["counters"], dict))
        _check_types(counters)
    except _FAULTS as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error
    return counters


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict, dict]:
    """Return the best weights of a saved state, or its own before the first epoch's end; its features and request.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    try:
        content = read_bytes(path, sys.maxsize)
        about, tensors = _checked(content)
        part = "best/" if any(name.startswith("best/") for name in tensors) else "model/"
        weights = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        return weights, parse_json(about["features"], dict), parse_json(about["request"], dict)
    except _FAULTS as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error


def _checked(content: bytes) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata and the tensors of a state (ValueError if a bit was changed since it was written)."""
    about, tensors = _about(content), safetensors.torch.load(content)
    stored = about.pop("digest", None)
    if stored is not None and stored != _digest(tensors, about):  # earlier versions recorded none
        raise ValueError("its digest is not that of its content")
    return about, tensors


def _digest(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """Return a digest of tensors, which determine how training continues, and of their metadata."""
    sha = hashlib.blake2b(json.dumps(dict(sorted(about.items()))).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _about(content: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file: the length of the header, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return parse_json(content[8 : 8 + length], dict)["__metadata__"]
