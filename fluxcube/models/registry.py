"""Models by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from fluxcube.errors import missing_package, unknown
from fluxcube.models.base import Model, Sizes

_KINDS = {
    "ecoperceiver": ("fluxcube.models.ecoperceiver", "EcoPerceiver", "EcoPerceiverConfig"),
    "xgboost": ("fluxcube.models.boosting", "Boosting", "BoostingConfig"),
    "sw-linear": ("fluxcube.models.simple", "SWLinear", "SWLinearConfig"),
    "mean-cycle": ("fluxcube.models.simple", "MeanCycle", "MeanCycleConfig"),
}


def names() -> tuple[str, ...]:
    """Return the models' names."""
    return tuple(_KINDS)


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


def _load(name: str) -> tuple[type, type]:
    if name not in _KINDS:
        raise unknown("model", name, _KINDS)
    module, cls, config = _KINDS[name]
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "safetensors"):
            raise missing_package(error.name, "train", f"the model {name}") from error
        raise
    return getattr(loaded, cls), getattr(loaded, config)
