"""Fixtures that several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real towers, ERA5 and MODIS; tests that need it are skipped where it is missing."""
    if not _SHARED.is_dir():
        pytest.skip(f"no real data: {_SHARED} is missing")
    return _SHARED
