"""Start helper processes of Python that never import files of the current folder.

Python puts the current folder first on the path of ``python -m`` and ``python -c``: a file ``json.py`` or ``random.py``
among downloads would be executed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SAFE = "PYTHONSAFEPATH"


def child_command(module: str) -> list[str]:
    """Return the command that runs a module as a program in a new process, without its arguments."""
    return [sys.executable, "-P", "-m", module]


def child_environment() -> dict[str, str]:
    """Return the environment of a new process that can import what this one can, but nothing of the current folder.

    An absolute path in PYTHONPATH is kept, since it was requested, even if it is the current folder.

    Returns
    -------
    dict of str to str
        With PYTHONPATH and PYTHONSAFEPATH. If fluxcube itself is in the current folder, that folder comes last, behind
        the standard library.
    """
    requested = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and os.path.isabs(p)]
    here = os.path.realpath(os.getcwd())
    others = [p for p in sys.path if p and (p in requested or os.path.realpath(p) != here)]
    own = str(Path(__file__).parents[1])
    path = dict.fromkeys([*requested, *map(os.path.abspath, others), own])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), _SAFE: "1"}


@contextmanager
def safe_children() -> Iterator[None]:
    """Let the processes that `multiprocessing` starts within the block leave the current folder off their path."""
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before
