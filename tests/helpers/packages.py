"""Install a small package beside fluxcube: a module and its metadata in a folder of the path, as pip writes them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

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
    parts = [(*key.partition(" ")[::2], place) for key, place in points.items()]
    lines = [f"[fluxcube.{group}]\n{name} = {module}:{place}\n" for group, name, place in parts]
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
