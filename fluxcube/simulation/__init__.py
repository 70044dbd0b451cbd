"""A simulated planet whose true fluxes are known everywhere, and the files of its towers, satellite and reanalysis."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxcube.simulation.example import example_cube as example_cube
    from fluxcube.simulation.example import example_forcing as example_forcing
    from fluxcube.simulation.grids import write_era5 as write_era5
    from fluxcube.simulation.grids import write_land_cover as write_land_cover
    from fluxcube.simulation.planet import Planet as Planet
    from fluxcube.simulation.planet import truth as truth
    from fluxcube.simulation.raw import write_modis as write_modis
    from fluxcube.simulation.raw import write_raw as write_raw
    from fluxcube.simulation.raw import write_reflectance as write_reflectance
    from fluxcube.simulation.raw import write_towers as write_towers

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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
