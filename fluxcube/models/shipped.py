"""Models that ship with the package, by name."""

from __future__ import annotations

import os
from pathlib import Path

from fluxcube.errors import CheckpointError, to_type

#: One folder per model: a run as `fluxcube.fit` writes it, and a card, `README.md`.
FOLDER = Path(__file__).parents[1] / "data" / "models"


def names() -> tuple[str, ...]:
    """Return the names of the models that ship with the package.

    Examples
    --------
    >>> "ecoperceiver-towers" in names()
    True
    """
    return tuple(sorted(path.name for path in FOLDER.iterdir() if path.is_dir())) if FOLDER.is_dir() else ()


def find(run: str | os.PathLike) -> Path:
    """Return the folder of a run: a path, or the name of a model that ships with the package.

    A folder of that name comes first, so that a shipped name never hides a user's run. A member of a shipped ensemble
    is "NAME/seed-0" and so on.

    Raises
    ------
    CheckpointError
        If the path does not exist and no shipped model has that name.
    """
    path = Path(os.fspath(run))
    if not path.exists() and path.parts[:1] and path.parts[0] in names():
        return FOLDER / path
    if path.exists() or len(path.parts) > 1:
        return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a link to itself
    trainer = to_type(python="`fit`", shell="`fluxcube train`")
    raise CheckpointError(
        f"{path.absolute()} does not exist: pass the folder of a run that {trainer} wrote, or the name of a model that "
        f"ships with the package ({', '.join(names()) or 'none in this copy'})."
    )


def is_shipped(path: str | os.PathLike) -> bool:
    """Return whether a path is the folder of a model that ships with the package, or of a member of one."""
    return FOLDER.resolve() in Path(os.path.realpath(path)).parents


def find_shipped(name: str) -> Path:
    """Return the folder of a model that ships with the package, "NAME" or "NAME/member".

    Raises
    ------
    CheckpointError
        If no shipped model has that name.
    """
    path = FOLDER / name
    if Path(name).parts[:1] and Path(name).parts[0] in names() and ".." not in Path(name).parts and path.is_dir():
        return path
    raise CheckpointError(
        f"no model {name!r} ships with this version of fluxcube ({', '.join(names()) or 'none in this copy'}): "
        "update fluxcube, or store the mixed ensemble again from run folders."
    )
