"""Registry: one row per model with its class, settings, trainer, presets and resolutions.

Models of other packages (entry points of the group ``fluxcube.models``) are found by name, in every process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fluxcube.errors import ConfigError, missing_package, unknown
from fluxcube.extensions import Extended, Extension
from fluxcube.extensions import find as find_extension
from fluxcube.models.base import BaseModel, Config, Model, Sizes

#: How a model is trained: by gradient descent on windows, or fitted on feature rows.
Trainer = Literal["descent", "rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model.

    Attributes
    ----------
    model, config : str or type
        Its class and that of its settings, or "module:Class", which is imported when it is needed.
    trainer : {"descent", "rows"}
        Gradient descent (a `fluxcube.models.network.Network`), or a fit on feature rows (a
        `fluxcube.models.rows.RowModel`).
    resolutions : tuple of str
        Cubes that it works on, "hourly" or "daily".
    presets : mapping
        Name of each preset, a class method of the settings, to that of the matching training settings
        (`fluxcube.training.config.TrainingConfig.preset`).
    default : str or None
        Preset that is used if no settings are passed; None where settings are completed from the features.
    """

    model: str | type
    config: str | type
    trainer: Trainer
    resolutions: tuple[str, ...]
    presets: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None


_BOTH = ("hourly", "daily")
_NETWORK = {"quick": "quick", "small": "default", "published": "default"}
_ROWS: dict[str, Row] = {
    "ecoperceiver": Row(
        model="fluxcube.models.ecoperceiver:EcoPerceiver",
        config="fluxcube.models.ecoperceiver:EcoPerceiverConfig",
        trainer="descent",
        resolutions=("hourly",),
        presets={"quick": "quick", "small": "default", "published": "published"},
        default="small",
    ),
    "tam-rl": Row(
        model="fluxcube.models.tamrl:TAMRL",
        config="fluxcube.models.tamrl:TAMRLConfig",
        trainer="descent",
        resolutions=("daily",),
        presets=_NETWORK,
        default="small",
    ),
    "tam-lstm": Row(
        model="fluxcube.models.tamrl:TAMLSTM",
        config="fluxcube.models.tamrl:TAMLSTMConfig",
        trainer="descent",
        resolutions=("daily",),
        presets=_NETWORK,
        default="small",
    ),
    "ct-lstm": Row(
        model="fluxcube.models.lstm:CTLSTM",
        config="fluxcube.models.lstm:LSTMConfig",
        trainer="descent",
        resolutions=("daily",),
        presets=_NETWORK,
        default="small",
    ),
    "lstm": Row(
        model="fluxcube.models.lstm:PlainLSTM",
        config="fluxcube.models.lstm:LSTMConfig",
        trainer="descent",
        resolutions=("daily",),
        presets=_NETWORK,
        default="small",
    ),
    "xgboost": Row(
        model="fluxcube.models.boosting:Boosting",
        config="fluxcube.models.boosting:BoostingConfig",
        trainer="rows",
        resolutions=_BOTH,
        presets={"quick": "default", "published": "default", "xbase": "default", "small": "default"},
    ),
    "mean": Row(
        model="fluxcube.models.simple:Mean",
        config="fluxcube.models.simple:MeanConfig",
        trainer="rows",
        resolutions=_BOTH,
    ),
    "sw-linear": Row(
        model="fluxcube.models.simple:SWLinear",
        config="fluxcube.models.simple:SWLinearConfig",
        trainer="rows",
        resolutions=_BOTH,
    ),
    "mean-cycle": Row(
        model="fluxcube.models.simple:MeanCycle",
        config="fluxcube.models.simple:MeanCycleConfig",
        trainer="rows",
        resolutions=_BOTH,
    ),
    "met-regression": Row(
        model="fluxcube.models.regressions:MetRegression",
        config="fluxcube.models.regressions:MetRegressionConfig",
        trainer="rows",
        resolutions=_BOTH,
    ),
    "met-clusters": Row(
        model="fluxcube.models.regressions:MetClusters",
        config="fluxcube.models.regressions:MetClustersConfig",
        trainer="rows",
        resolutions=_BOTH,
    ),
}


def register(name: str, row: Row) -> None:
    """Add a model in this process.

    A process that loads its checkpoints, a worker of Dask among them, must register it, too; a model of an installed
    package needs no registration (`fluxcube.extensions`).

    Parameters
    ----------
    name : str
        Its name, as `fluxcube.fit` takes it; the `kind` of the class.
    row : Row
        The model.

    Raises
    ------
    ConfigError
        If the name is taken, or the row names an unknown trainer, resolution or default preset.
    """
    if name in _ROWS:
        raise ConfigError(f"a model named {name!r} is registered already: choose another name, or unregister it.")
    _check_row(row)
    _ROWS[name] = row


def _check_row(row: Row) -> None:
    if row.trainer not in ("descent", "rows"):
        raise ConfigError(f"trainer must be descent or rows, found {row.trainer!r}.")
    if not row.resolutions or not set(row.resolutions) <= set(_BOTH):
        raise ConfigError(f"resolutions must be some of {', '.join(_BOTH)}, found {row.resolutions}.")
    if row.default is not None and row.default not in row.presets:
        raise ConfigError(f"default must be one of the presets {tuple(row.presets)}, found {row.default!r}.")


def _row_of(extension: Extension) -> Row:
    """Return the row of a model of another package: its entry point names a class, or a Row."""
    found = extension.load()
    row = found if isinstance(found, Row) else _row_of_class(found)
    _check_row(row)
    kind = getattr(_load(extension.name, row.model), "kind", None)
    if kind != extension.name:
        raise ConfigError(f"kind of the class must be the name of the entry point, {extension.name!r}, found {kind!r}")
    return row


def _row_of_class(model: object) -> Row:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigError(f"expected a class derived from Network or RowModel, or a Row, found {model!r:.80}")
    if model.settings is None:
        raise ConfigError(f"{model.__name__}.settings must be the class of its settings, found None")
    return Row(
        model=model,
        config=model.settings,
        trainer="descent" if model.trainer == "descent" else "rows",
        resolutions=tuple(model.resolutions),
        presets=model.presets,
        default=next(iter(model.presets), None),
    )


#: Models of this package and registered ones, then those of other packages.
_ALL: Extended[Row] = Extended("models", _ROWS, _row_of)


def unregister(name: str) -> None:
    """Remove a model of this process (UnknownNameError, naming the nearest model)."""
    if name not in _ROWS:
        raise unknown("model", name, _ROWS)
    del _ROWS[name]


def find(name: str) -> Row:
    """Return the row of a model.

    Raises
    ------
    UnknownNameError
        If there is no such model; the message names the nearest one.
    ExtensionError
        If it is a model of another package that cannot be used.

    Examples
    --------
    >>> find("tam-rl").resolutions, find("xgboost").trainer
    (('daily',), 'rows')
    """
    if name not in _ALL:
        raise unknown("model", name, _ALL.names())
    return _ALL[name]


def extension_of(name: str) -> Extension | None:
    """Return the installed extension that a model comes from; None if it is of this package or registered."""
    return None if name in _ROWS else find_extension("models", name)


def every() -> Extended[Row]:
    """Return the rows of all models by name: of this package, registered ones, then those of other packages."""
    return _ALL


def names(*, trainer: Trainer | None = None, resolution: str | None = None) -> tuple[str, ...]:
    """Return the names of the models of this package and of registered ones, all or with a trainer or resolution.

    Examples
    --------
    >>> names(trainer="rows")
    ('xgboost', 'mean', 'sw-linear', 'mean-cycle', 'met-regression', 'met-clusters')
    """
    return tuple(
        name
        for name, row in _ROWS.items()
        if trainer in (None, row.trainer) and (resolution is None or resolution in row.resolutions)
    )


def by_descent(name: str) -> bool:
    """Return whether gradient descent trains a model (UnknownNameError, naming the nearest model)."""
    return find(name).trainer == "descent"


def model_class(name: str) -> type[Model]:
    """Return the class of a model (UnknownNameError, naming the nearest model)."""
    return _load(name, find(name).model)


def config_class(name: str) -> type[Config]:
    """Return the class of a model's settings (UnknownNameError, naming the nearest model)."""
    return _load(name, find(name).config)


def preset_config(name: str, preset: str | None = None) -> Config | None:
    """Return the settings of a preset, by default of the model's default preset; None if it has no default.

    Parameters
    ----------
    name : str
        Name of the model.
    preset : str, optional
        Name of the preset.

    Raises
    ------
    UnknownNameError
        If there is no such model or preset; the message names the nearest one.

    Examples
    --------
    >>> preset_config("ecoperceiver", "published").latent
    128
    >>> preset_config("xgboost") is None
    True
    """
    row, cls = find(name), config_class(name)
    if preset is not None and preset not in row.presets:
        raise unknown(f"preset of {name}", preset, tuple(row.presets))
    chosen = row.default if preset is None else preset
    return None if chosen is None else getattr(cls, chosen)()


def build(name: str, config: Config | Mapping, sizes: Sizes | Mapping) -> Model:
    """Build an untrained model.

    Parameters
    ----------
    name : str
        One of `names`.
    config : config or mapping
        Its settings; unknown keys of a mapping are refused.
    sizes : Sizes or mapping
        Numbers of its inputs and targets.

    Examples
    --------
    >>> build("sw-linear", {"column": 3}, {"inputs": 6}).n_targets
    1
    """
    cls: Callable[[Config, Sizes], Model] = _load(name, find(name).model)
    if isinstance(config, Mapping):
        config = config_class(name).from_dict(config)
    if isinstance(sizes, Mapping):
        sizes = Sizes.from_dict(sizes)
    return cls(config, sizes)


def _load(name: str, place: str | type) -> type:
    """Return a class, imported if it is named as "module:Class"."""
    if not isinstance(place, str):
        return place
    module, _, cls = place.partition(":")
    try:
        return getattr(importlib.import_module(module), cls)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "safetensors"):
            raise missing_package(error.name, "train", f"the model {name}") from error
        raise
