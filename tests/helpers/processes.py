"""The environment of a process that a test starts."""

from __future__ import annotations

import os
from pathlib import Path

HELPERS = Path(__file__).parent


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Return this process's environment, in which the helper modules and those of `folders` can be imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HELPERS, *folders)))} | variables
