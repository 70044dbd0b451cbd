"""Packages of tests: optional ones, which a test imports when it first uses them, and small ones that it installs."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

#: Modules that the tests install.
SOURCES = Path(__file__).parents[1] / "extensions"


def install(
    folder: Path, module: str, points: Mapping[str, str], *, version: str = "1.0", text: str | None = None
) -> Path:
    """Write a module and the metadata of its package into a folder, and return the folder.

    Parameters
    ----------
    folder : path
        A folder of `sys.path`, created if it does not exist.
    module : str
        Module of `SOURCES`, such as "tiny_model"; its package is "tiny-model".
    points : mapping
        Entry points: "group name" (``"models tiny"``) to the object in the module.
    text : str, optional
        Content of the module, by default that of the file in `SOURCES`.
    """
    package = module.replace("_", "-")
    about = folder / f"{module}-{version}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    split = {tuple(key.split(" ", 1)): place for key, place in points.items()}  # a name may contain blanks
    lines = [f"[fluxcube.{kind}]\n{name} = {module}:{place}\n" for (kind, name), place in split.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))
    if text is None:
        shutil.copy(SOURCES / f"{module}.py", folder)
    else:
        (folder / f"{module}.py").write_text(text)
    return folder


def uninstall(folder: Path, module: str) -> None:
    """Remove a package that `install` wrote, and its module from this process."""
    for path in folder.glob(f"{module}-*.dist-info"):
        shutil.rmtree(path)
    (folder / f"{module}.py").unlink(missing_ok=True)
    forget(module)


def forget(*modules: str) -> None:
    """Forget imported modules and what fluxcube read of packages, as in a new process."""
    from fluxcube import extensions

    for module in modules:
        sys.modules.pop(module, None)
    extensions._installed.cache_clear()
    extensions._MADE.clear()


class Package:
    """A package or module whose import waits for the first use of a name in it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(importlib.import_module(self._name), attribute)


def optional(name: str) -> Package:
    """Return a package, or skip the test module where it is not installed."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
    return Package(name)
