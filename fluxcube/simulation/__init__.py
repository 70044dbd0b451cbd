"""A simulated planet whose true fluxes are known everywhere, and the files of its towers, satellite and reanalysis."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Planet": "planet",
    "truth": "planet",
    "write_raw": "raw",
    "write_towers": "raw",
    "write_modis": "raw",
    "write_reflectance": "raw",
    "write_era5": "grids",
    "write_land_cover": "grids",
    "example_cube": "example",
    "example_forcing": "example",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
