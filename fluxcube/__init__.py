"""Eddy-covariance towers, satellites and reanalysis as xarray cubes, and maps of how the land breathes carbon.

The names below are loaded on first use, in the order of the pipeline: importing fluxcube reads no file
and loads neither xarray nor torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

#: What a user types, and the module it lives in.
_FACE = {
    "inspect": "fluxcube.inventory",
    "inspect_raw": "fluxcube.sources.towers.inspection",
    "read_table": "fluxcube.sources.towers.table",
    "build_carbonsense": "fluxcube.cubes.carbonsense",
    "append_site": "fluxcube.cubes.append",
    "open_carbonsense": "fluxcube.catalog",
    "open_report": "fluxcube.cubes.report",
    "copy_era5": "fluxcube.sources.era5.copy",
    "open_forcing": "fluxcube.cubes.forcing",
    "write_forcing": "fluxcube.cubes.forcing_store",
    "daily_forcing": "fluxcube.cubes.forcing_daily",
    "load_windows": "fluxcube.samples.loader",
    "fit": "fluxcube.training.fit",
    "load_model": "fluxcube.inference.loading",
    "predict": "fluxcube.inference.towers",
    "upscale": "fluxcube.inference.grid",
    "write_maps": "fluxcube.maps.store",
    "open_maps": "fluxcube.maps.store",
    "totals": "fluxcube.maps.totals",
    "mean_maps": "fluxcube.maps.means",
    "mean_cycle": "fluxcube.maps.means",
    "export_maps": "fluxcube.maps.export",
    "evaluate": "fluxcube.evaluation.skill",
    "compare": "fluxcube.evaluation.skill",
    "plot_map": "fluxcube.plotting.maps",
    "animate_cycle": "fluxcube.plotting.animation",
    "run_demo": "fluxcube.demo",
}

__all__ = ["__version__", *_FACE]


def __getattr__(name: str) -> object:
    if name not in _FACE:
        raise AttributeError(f"module 'fluxcube' has no attribute {name!r}; it has {', '.join(_FACE)}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
