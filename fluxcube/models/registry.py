"""Models by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from fluxcube.errors import missing_package, unknown
from fluxcube.models.base import Model, Sizes


@dataclass(frozen=True)
class Row:
    """Where a model is, and what it is for.

    Attributes
    ----------
    module, cls, config : str
        Where its classes are.
    resolutions : tuple of str
        Cubes that it works on, "hourly" or "daily".
    descent : bool
        Whether gradient descent trains it.
    """

    module: str
    cls: str
    config: str
    resolutions: tuple[str, ...]
    descent: bool = False


_BOTH = ("hourly", "daily")
_KINDS = {
    "ecoperceiver": Row("fluxcube.models.ecoperceiver", "EcoPerceiver", "EcoPerceiverConfig", ("hourly",), True),
    "tam-rl": Row("fluxcube.models.tamrl", "TAMRL", "TAMRLConfig", ("daily",), True),
    "tam-lstm": Row("fluxcube.models.tamrl", "TAMLSTM", "TAMLSTMConfig", ("daily",), True),
    "ct-lstm": Row("fluxcube.models.lstm", "CTLSTM", "LSTMConfig", ("daily",), True),
    "lstm": Row("fluxcube.models.lstm", "PlainLSTM", "LSTMConfig", ("daily",), True),
    "xgboost": Row("fluxcube.models.boosting", "Boosting", "BoostingConfig", _BOTH),
    "sw-linear": Row("fluxcube.models.simple", "SWLinear", "SWLinearConfig", _BOTH),
    "mean-cycle": Row("fluxcube.models.simple", "MeanCycle", "MeanCycleConfig", _BOTH),
}


def names(*, descent: bool | None = None) -> tuple[str, ...]:
    """Return the models' names; only those that gradient descent trains, or does not, if asked.

    Examples
    --------
    >>> names(descent=False)
    ('xgboost', 'sw-linear', 'mean-cycle')
    """
    return tuple(name for name, row in _KINDS.items() if descent is None or row.descent == descent)


def resolutions(name: str) -> tuple[str, ...]:
    """Return the cubes that a model works on: "hourly", "daily" or both.

    Raises
    ------
    UnknownNameError
        Naming the nearest model.
    """
    return _row(name).resolutions


def model_class(name: str) -> type:
    """Return a model's class (UnknownNameError, naming the nearest model)."""
    return _load(name)[0]


def config_class(name: str) -> type:
    """Return the class of a model's config.

    Raises
    ------
    UnknownNameError
        Naming the nearest model.
    """
    return _load(name)[1]


def build(name: str, config: object | Mapping, sizes: Sizes | Mapping) -> Model:
    """Make an untrained model.

    Parameters
    ----------
    name : str
        One of `names`.
    config : config or mapping
        Its settings; a mapping's unknown keys are refused.
    sizes : Sizes or mapping
        Its inputs and targets.

    Examples
    --------
    >>> build("sw-linear", {"column": 3}, {"inputs": 6}).n_targets
    1
    """
    cls, config_cls = _load(name)
    if isinstance(config, Mapping):
        config = config_cls.from_dict(config)
    if isinstance(sizes, Mapping):
        sizes = Sizes.from_dict(sizes)
    return cls(config, sizes)


def _row(name: str) -> Row:
    if name not in _KINDS:
        raise unknown("model", name, _KINDS)
    return _KINDS[name]


def _load(name: str) -> tuple[type, type]:
    row = _row(name)
    try:
        loaded = importlib.import_module(row.module)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "safetensors"):
            raise missing_package(error.name, "train", f"the model {name}") from error
        raise
    return getattr(loaded, row.cls), getattr(loaded, row.config)
