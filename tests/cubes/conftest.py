"""The small raw folder and its cube."""

from __future__ import annotations

from pathlib import Path

import pytest
from tower_files import write_raw


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """The small raw folder; tests must not change it."""
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def store(raw, tmp_path_factory) -> Path:
    """The cube of the small raw folder."""
    from fluxcube.cubes.carbonsense import build_carbonsense

    path = tmp_path_factory.mktemp("cube") / "cube.zarr"
    build_carbonsense(raw, path)
    return path
