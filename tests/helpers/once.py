"""Files that all workers of a run of the tests share, made by the one that needs them first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` fills once in a run; other workers of pytest-xdist wait for it.

    Parameters
    ----------
    factory : pytest.TempPathFactory
        Of this worker; the folder of its workers' folders is that of the run.
    name : str
        Name of the folder, of no other fixture.
    make : callable
        Fills the folder, of which it receives the path; the folder does not exist yet.
    """
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.with_suffix(".made").exists():
            shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
            make(path)
            path.with_suffix(".made").touch()
    return path
