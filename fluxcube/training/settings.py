"""Settings of models: from presets and the words of a command to a configuration, in one place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TypeVar

from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.base import Config
from fluxcube.models.rows import RowModel
from fluxcube.samples.features import FeatureSpec
from fluxcube.training.config import TrainingConfig
from fluxcube.variables import table

C = TypeVar("C", bound=Config)

#: Settings of training that are weights of fluxes, which trees use as well as networks.
LABEL_SETTINGS = ("weigh", "filled_weight", "weight_by_randunc")
#: Settings that a search determines, besides those that it draws.
_SEARCHED = ("n_estimators", "early_stopping")


def takes_weights(model: str) -> bool:
    """Return whether the training of a model uses weights of fluxes."""
    cls = registry.model_class(model)
    return registry.by_descent(model) or (issubclass(cls, RowModel) and cls.uses_weights)


def complete_config(model: str, config: Config | Mapping | None, spec: FeatureSpec) -> Config:
    """Return the complete settings of a model: a mapping changes its default preset; input columns are filled in.

    Parameters
    ----------
    model : str
        Name of the model.
    config : config, mapping or None
        Its settings, or some of them; None for the default.
    spec : FeatureSpec
        Features, which determine the columns (`Model.needed_columns`).

    Raises
    ------
    ConfigError
        If `config` is of another model, or the features lack a needed column.
    """
    cls = registry.config_class(model)
    if config is not None and not isinstance(config, (cls, Mapping)):
        raise ConfigError(f"config must be a {cls.__name__} or a mapping for {model}, found {type(config).__name__}.")
    if isinstance(config, cls):
        return config
    changes = dict(config) if isinstance(config, Mapping) else {}
    if (preset := registry.preset_config(model)) is not None:
        return changed(preset, changes)  # settings without a name here are the preset's, not those of the paper
    columns = {}
    for setting, name in registry.model_class(model).needed_columns.items():
        if name not in table(spec.resolution):  # daily cubes have no time of day
            continue
        if name not in spec.inputs:
            raise ConfigError(f"{model} needs {name} among the predictors, found {', '.join(spec.predictors)}.")
        columns[setting] = spec.inputs.index(name)
    return cls.from_dict(columns | changes)


def choose_config(
    model: str, preset: str | None = None, changes: Mapping | None = None, *, init: object = None
) -> Config | Mapping | None:
    """Return what `fit` takes as config, from a preset and changes of it.

    Parameters
    ----------
    model : str
        Name of the model.
    preset : str, optional
        Name of a preset; by default the default preset of the model.
    changes : mapping, optional
        Settings that differ from the preset.
    init : path or Run, optional
        As `fit` takes it: without a preset, the changes are those of the checkpoint.

    Returns
    -------
    config, mapping or None
        None if nothing was chosen: `fit` then uses its default. A mapping if the other settings follow from the
        features or from a checkpoint.

    Raises
    ------
    UnknownNameError
        If there is no such model, preset or setting.

    Examples
    --------
    >>> choose_config("ecoperceiver", "published", {"heads": 4}).heads
    4
    >>> choose_config("xgboost", changes={"max_depth": 3})
    {'max_depth': 3}
    """
    chosen = registry.preset_config(model, preset)
    if preset is None and (not changes or init is not None):
        return dict(changes) if changes else None
    if chosen is None:
        return dict(changes or {})
    return changed(chosen, changes or {})


def configure(
    model: str,
    preset: str | None,
    settings: Sequence[str] = (),
    search: int | None = None,
    init: object = None,
    epochs: int | None = None,
    tables: Mapping[str, Mapping] | None = None,
) -> tuple[Config | Mapping | None, TrainingConfig]:
    """Return what `fit` takes as config and training, from the words of a command.

    Parameters
    ----------
    model : str
        Name of the model.
    preset : str or None
        Name of a preset of the model; the matching training settings are used, too.
    settings : sequence of str
        ``config.<key>=<value>`` and ``training.<key>=<value>``: values as JSON, or as Python writes them, or
        numbers or words separated by commas; anything else is text.
    search : int, optional
        As `fit` takes it: settings that it draws are refused.
    init : path or Run, optional
        As `fit` takes it: without a preset, settings change those of the checkpoint.
    epochs : int, optional
        As `fit` takes it: other settings of training must agree with it.
    tables : mapping, optional
        Settings of a run file, ``config`` and ``training``, which `settings` change.

    Raises
    ------
    ConfigError
        If a setting is no such assignment, has an invalid value, or would have no effect.
    UnknownNameError
        If there is no such preset or key.

    Examples
    --------
    >>> config, training = configure("ecoperceiver", None, ["config.dropout=0.3", "training.keep=last"])
    >>> config.dropout, training.keep
    (0.3, 'last')
    """
    changes: dict[str, dict] = {part: dict((tables or {}).get(part) or {}) for part in ("config", "training")}
    for text in settings:
        name, equals, value = text.partition("=")
        part, _, key = name.strip().partition(".")
        if not equals or part not in changes or not key:
            raise ConfigError(f"a setting must be config.<key>=<value> or training.<key>=<value>, found {text!r}.")
        changes[part][key] = _value(value.strip())
    _check_used(model, changes, search)
    config = choose_config(model, preset, changes["config"], init=init)
    training = TrainingConfig.preset(registry.find(model).presets.get(preset or "", "default"))
    changes["training"] |= {"epochs": epochs} if epochs is not None and registry.by_descent(model) else {}
    return config, changed(training, changes["training"])


def _check_used(model: str, changes: Mapping[str, Mapping], search: int | None) -> None:
    """Refuse settings that the model does not use, or that a search determines."""
    used = LABEL_SETTINGS if takes_weights(model) else ()
    if not registry.by_descent(model) and (unused := [key for key in changes["training"] if key not in used]):
        names = ", ".join(f"training.{key}" for key in unused)
        raise ConfigError(f"{names}: gradient descent does not train {model}; its settings are config.<key>=<value>.")
    if search is None:
        return
    if drawn := [key for key in changes["config"] if key in searched_settings()]:
        raise ConfigError(f"{', '.join(drawn)}: determined by the search; leave this setting out, or the search.")


def searched_settings() -> tuple[str, ...]:
    """Return the names of the settings that a search determines."""
    from fluxcube.models.boosting import SPACE

    return (*SPACE, *_SEARCHED)


def changed(config: C, changes: Mapping) -> C:
    """Return settings with some changes; unknown keys and values of another type are refused."""
    return type(config).from_dict(dataclasses.asdict(config) | dict(changes))


def _value(text: str) -> object:
    """Return a value from JSON, or true, false and null as Python writes them, or a list without its brackets."""
    for written in ({"True": "true", "False": "false", "None": "null"}.get(text, text), f"[{text}]"):
        with contextlib.suppress(ValueError):
            return json.loads(written)
    return text.split(",") if "," in text else text
