"""Run files: the options of a training in a TOML or YAML file, and the complete file that is written beside a run."""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fluxcube.errors import ConfigError, unknown
from fluxcube.models.checkpoint import write_atomically
from fluxcube.resolution import QualityLimit
from fluxcube.schema import USED_DRIVERS
from fluxcube.stores.objects import is_bucket
from fluxcube.training.callbacks import Watch
from fluxcube.training.plan import Plan
from fluxcube.training.run import RUN_FILE, SPLIT
from fluxcube.training.settings import LABEL_SETTINGS, searched_settings, takes_weights

#: Word for no value, which TOML lacks, in the tables of settings.
NONE = "null"
#: Keys whose values are names, or numbers, one or several.
_NAMES = ("target", "predictors", "static", "surface", "bands", "images", "train_igbp", "log")
_NUMBERS = ("memory_days", "seeds")
#: Other keys, and the types of their values.
_TYPES: dict[str, tuple[type, ...]] = {
    "store": (str,),
    "out": (str,),
    "model": (str,),
    "preset": (str,),
    "bounds": (str,),
    "lookahead": (int,),
    "pixels": (int,),
    "chips": (bool,),
    "split": (str,),
    "epochs": (int,),
    "seed": (int,),
    "jobs": (int,),
    "init": (str,),
    "search": (int,),
    "bag": (int, float),
    "max_qc": (int, str),
    "min_quality": (int, float, str),
    "drivers": (str,),
    "device": (str,),
    "deterministic": (bool,),
    "config": (dict,),
    "training": (dict,),
}
#: Other spellings of keys: those of the command line.
_SAME = {"run": "out", "memory": "memory_days"}


def read_run_file(path: str | os.PathLike) -> dict[str, Any]:
    """Return the options of a run file, as `fluxcube.fit` takes them, with ``store`` and ``preset`` of the command.

    Parameters
    ----------
    path : path
        A file ``.toml``, ``.yaml`` or ``.yml``. Its keys are the options of ``fluxcube train`` and the parameters of
        `fluxcube.fit`, with ``-`` or ``_``; ``[config]`` and ``[training]`` are tables of settings, in which "null"
        stands for no value. Relative paths start at the folder of the file.

    Raises
    ------
    ConfigError
        If it cannot be read, or a value has another type.
    UnknownNameError
        If a key is unknown; the message names the nearest one.
    """
    path = Path(path)
    found = {key.replace("-", "_"): value for key, value in _parsed(path).items()}
    options: dict[str, Any] = {}
    for key, value in found.items():
        name = _SAME.get(key, key)
        if name not in (*_NAMES, *_NUMBERS, *_TYPES):
            raise unknown(f"key of {path}", key, (*_NAMES, *_NUMBERS, *_TYPES))
        options[name] = _checked(path, name, value)
    if options.pop("chips", True) is False:
        options["bands"] = ()
    return _with_paths(path.parent, options)


def _parsed(path: Path) -> dict[str, Any]:
    """Return the content of a file (ConfigError if it cannot be read)."""
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"{path}: a run file ends in .toml, .yaml or .yml.")
    try:
        text = path.read_text("utf-8")
        found: Any = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such run file; every run has one, run.toml.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read ({reason}): write it as KEY = VALUE, texts in quotes.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{path}: expected options by name, found {type(found).__name__}.")
    return found


def _checked(path: Path, name: str, value: Any) -> Any:
    """Return a value of the right type (ConfigError otherwise)."""
    if name in _TYPES:
        expected = _TYPES[name]
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            words = " or ".join(kind.__name__ for kind in expected)
            raise ConfigError(f"{path}: {name} must be of type {words}, found {value!r}.")
        if isinstance(value, dict):
            return {key: None if one == NONE else one for key, one in value.items()}
        return None if name in ("max_qc", "min_quality") and value == "all" else value
    if name == "seeds" and isinstance(value, int):
        return value
    kind = str if name in _NAMES else int
    values = [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value
    values = [values] if isinstance(values, int) else values
    if kind is int and isinstance(value, str) and all(one.isdecimal() for one in values):
        values = [int(one) for one in values]
    if not isinstance(values, list) or not all(isinstance(one, kind) for one in values):
        raise ConfigError(f"{path}: {name} must be a list of {kind.__name__}, found {value!r}.")
    return tuple(values)


def _with_paths(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return options whose relative paths start at a folder."""
    for name in ("store", "out"):
        if name in options and not is_bucket(options[name]) and "://" not in options[name]:
            options[name] = os.path.normpath(folder / options[name])
    for name in ("split", "init"):  # which may also be a kind of split, or the name of a shipped model
        if name in options:
            head, colon, tail = options[name].partition(":")
            options[name] = f"{folder / head}{colon}{tail}" if head and (folder / head).exists() else options[name]
    return options


def write_run_file(
    folder: Path, plan: Plan, *, seed: int, seeds: Sequence[int] | None = None, watch: Watch | None = None
) -> None:
    """Write the complete options of a run beside it: ``fluxcube train --config`` repeats or resumes it."""
    write_atomically(folder / RUN_FILE, run_text(folder, plan, seed, seeds, watch or Watch()).encode())


def run_text(folder: Path, plan: Plan, seed: int, seeds: Sequence[int] | None, watch: Watch) -> str:
    """Return the complete options of a run as TOML."""
    head = "# Options of this run: `fluxcube train --config run.toml` repeats it, or resumes it if it is unfinished.\n"
    lines = [f"{key} = {toml(value)}" for key, value in _options(folder, plan, seed, seeds, watch).items()]
    config = {key: value for key, value in dataclasses.asdict(plan.config).items()}
    if plan.search:  # which determines the others
        config = {key: value for key, value in config.items() if key not in searched_settings()}
    return head + "\n".join([*lines, "", *_table("config", config), "", *_table("training", _training(plan)), ""])


def _options(folder: Path, plan: Plan, seed: int, seeds: Sequence[int] | None, watch: Watch) -> dict[str, object]:
    spec = plan.spec
    options: dict[str, object] = {
        "store": _relative(watch.store, folder) if watch.store else None,
        "out": ".",
        "model": plan.model,
        "target": spec.targets,
        "predictors": spec.predictors,
        "memory_days": spec.memory_days,
        "bands": spec.bands,
        "static": spec.static,
        "bounds": spec.bounds,
        "surface": spec.surface,
        "lookahead": spec.lookahead,
        "pixels": spec.pixels,
        "images": tuple(kind.name for kind in spec.images),
        "split": SPLIT,
        "init": _relative(str(plan.start.path), folder) if plan.start else None,
        "search": plan.search,
        "bag": plan.bag,
        "seed": seed,
        "seeds": seeds,
        **_quality(plan.limit),
        "drivers": plan.cube.attrs.get(USED_DRIVERS),
        "log": watch.log or None,
    }
    return {key: value for key, value in options.items() if value is not None}


def _training(plan: Plan) -> dict[str, object]:
    """Return the settings of training that the model uses."""
    settings = dataclasses.asdict(plan.training)
    if plan.by_descent:
        return settings
    names = LABEL_SETTINGS if takes_weights(plan.model) else ()
    return {name: settings[name] for name in names if settings[name] not in (None, False)}


def _quality(limit: QualityLimit) -> dict[str, object]:
    return {name: "all" if value is None else value for name, value in limit.to_dict().items()}


def _relative(place: str, folder: Path) -> str:
    """Return a path as it is seen from a folder; URLs and absolute paths as they are."""
    return place if "://" in place or os.path.isabs(place) else os.path.relpath(place, folder)


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    return [f"[{name}]", *(f"{key} = {toml(NONE if value is None else value)}" for key, value in values.items())]


def toml(value: object) -> str:
    r"""Return a value as TOML writes it.

    Examples
    --------
    >>> toml(("a\nb", True, 1e-05)), toml({"x": 1})
    ('["a\\nb", true, 1e-05]', '{ x = 1 }')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
