"""Extensions: models, networks of towers, products and predictors that other installed packages offer.

A package offers one by an entry point of the group ``fluxcube.models``, ``fluxcube.networks``, ``fluxcube.products`` or
``fluxcube.predictors``; the name of the entry point is the name by which it is used. Nothing is imported before a name
of its group is needed that fluxcube does not have itself, and names of fluxcube are never replaced. Packages in the
current folder are ignored, as the program ``fluxcube`` ignores its modules.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint
from typing import TypeVar

from fluxcube.errors import ExtensionError, FluxcubeError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What code of another package may raise, and what is reported with the name of the package.
_FAULTS = (Exception, SystemExit)

#: Kinds of extensions; the group of a kind is "fluxcube." and the kind.
KINDS = ("models", "networks", "products", "predictors")


@dataclass(frozen=True, kw_only=True)
class Extension:
    """One entry point of an installed package.

    Attributes
    ----------
    kind : {"models", "networks", "products", "predictors"}
        What it adds.
    name : str
        Name by which it is used.
    package, version : str
        The installed package that offers it.
    place : str
        "module:object".
    """

    kind: str
    name: str
    package: str
    version: str
    place: str
    point: EntryPoint = field(repr=False, compare=False)

    def load(self) -> object:
        """Import the object.

        Raises
        ------
        ExtensionError
            If the module cannot be imported or has no such object; the message names the package.
        """
        try:
            return self.point.load()
        except _FAULTS as error:
            raise self.error(f"{type(error).__name__}: {error}") from error

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Return the result of a function of the extension (ExtensionError if it fails)."""
        try:
            return function(*args)
        except FluxcubeError:
            raise
        except _FAULTS as error:
            raise self.error(f"{type(error).__name__}: {error}") from error

    def error(self, why: str) -> ExtensionError:
        """Return the error that this extension cannot be used."""
        return ExtensionError(
            f"{self.name!r} of fluxcube.{self.kind} comes from the package {self.package} {self.version} "
            f"({self.place}) and cannot be used: {why.rstrip('.')}. Update or remove the package, or ask its authors: "
            f"pip install --upgrade {self.package}."
        )


def installed(kind: str | None = None) -> tuple[Extension, ...]:
    """Return the extensions of a kind, or of all kinds, from the metadata of packages; nothing is imported.

    Examples
    --------
    >>> all(one.kind == "models" for one in installed("models"))
    True
    """
    path = tuple((folder, _changed(folder)) for folder in sys.path)
    found = _installed(path, os.getcwd(), os.environ.get("PYTHONPATH", ""))
    return tuple(one for one in found if kind in (None, one.kind))


def find(kind: str, name: str) -> Extension | None:
    """Return the extension of a name, the first in the order of packages; None if no package offers one."""
    return next((one for one in installed(kind) if one.name == name), None)


def _changed(folder: str) -> float:
    """Return when a folder of the path was changed: a package may be installed while a notebook runs."""
    try:
        return os.stat(folder or ".").st_mtime
    except OSError:
        return 0.0


@functools.lru_cache(8)
def _installed(path: tuple[tuple[str, float], ...], folder: str, requested: str) -> tuple[Extension, ...]:
    """Return all extensions on a path; those of the current folder only if PYTHONPATH names it."""
    importlib.invalidate_caches()
    excluded = os.path.realpath(folder)
    if excluded in (os.path.realpath(one) for one in requested.split(os.pathsep) if os.path.isabs(one)):
        excluded = ""
    found: dict[str, list[Extension]] = {}
    for package in importlib.metadata.distributions(path=[one for one, _ in path]):
        if os.path.realpath(str(package.locate_file(""))) != excluded and (name := _name(package)):
            found.setdefault(name, _of_package(package))  # the first one on the path is imported
    every = (one for group in found.values() for one in group)
    return tuple(sorted(every, key=lambda one: (KINDS.index(one.kind), one.package, one.name)))


def _name(package: Distribution) -> str | None:
    """Return the name of a package; None of one whose metadata are lost, as an interrupted `pip` leaves it behind."""
    try:
        return package.name
    except (LookupError, OSError):  # newer versions of the library raise these, older ones return None
        return None


def _of_package(package: Distribution) -> list[Extension]:
    groups = {f"fluxcube.{kind}": kind for kind in KINDS}
    return [
        Extension(
            kind=groups[point.group],
            name=point.name,
            package=package.name,
            version=package.version,
            place=point.value,
            point=point,
        )
        for point in package.entry_points
        if point.group in groups
    ]


#: What was made of each extension in this process, or the error.
_MADE: dict[Extension, object] = {}


class Extended(Mapping[str, T]):
    """A table of the package, followed by what extensions add to it.

    A name of the package is found without looking for extensions, and the extension of another name is imported alone.
    Iteration imports all; those that fail are logged once, and left out.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    own : mapping
        Table of the package.
    make : callable
        ``make(extension)`` returns an entry of the table.
    """

    def __init__(self, kind: str, own: Mapping[str, T], make: Callable[[Extension], T]):
        self._kind, self._own, self._make = kind, own, make

    def __getitem__(self, name: str) -> T:
        if name in self._own:
            return self._own[name]
        extension = find(self._kind, name)
        if extension is None:
            raise KeyError(name)
        return self.made(extension)

    def __contains__(self, name: object) -> bool:
        return name in self._own or find(self._kind, str(name)) is not None

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        for extension in installed(self._kind):
            if extension.name not in self._own and self._usable(extension):
                yield extension.name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def extensions(self) -> tuple[Extension, ...]:
        """Return the installed extensions of this table."""
        return installed(self._kind)

    def names(self) -> tuple[str, ...]:
        """Return all names, of extensions that cannot be imported, too; nothing is imported."""
        return tuple(dict.fromkeys([*self._own, *(one.name for one in installed(self._kind))]))

    def made(self, extension: Extension) -> T:
        """Return the entry of an extension, which is made once in a process.

        Raises
        ------
        ExtensionError
            If it cannot be imported or is not what it should be, or another one has its name.
        """
        if extension not in _MADE:
            try:
                _MADE[extension] = self._checked(extension)
            except ExtensionError as error:
                _MADE[extension] = error
        found = _MADE[extension]
        if isinstance(found, ExtensionError):
            raise found
        return found  # type: ignore[return-value]  # what `make` of this kind returned

    def _checked(self, extension: Extension) -> T:
        first = find(extension.kind, extension.name)
        if extension.name in self._own:
            raise extension.error("fluxcube itself has this name, which an extension cannot replace")
        if first is not None and first != extension:
            raise extension.error(f"the package {first.package} has the same name, and is used")
        try:
            return self._make(extension)
        except ExtensionError:
            raise
        except _FAULTS as error:
            raise extension.error(str(error) or type(error).__name__) from error

    def _usable(self, extension: Extension) -> bool:
        known = extension in _MADE
        try:
            self.made(extension)
        except ExtensionError as error:
            if not known:
                log.warning("%s", error)
            return False
        return True
