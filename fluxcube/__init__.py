"""Eddy-covariance towers, satellite images and reanalysis as xarray cubes, and maps of carbon fluxes.

The names below, in the order of the pipeline, are imported on first use: importing fluxcube reads no file and imports
neither xarray nor torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

#: The public API: each name, and the module that defines it.
_PUBLIC = {
    "inspect": "fluxcube.inventory",
    "known_sites": "fluxcube.knownsites",
    "inspect_raw": "fluxcube.sources.towers.inspection",
    "read_table": "fluxcube.sources.towers.table",
    "read_surface": "fluxcube.sources.modis.surface",
    "build_carbonsense": "fluxcube.cubes.carbonsense",
    "append_site": "fluxcube.cubes.append",
    "declare": "fluxcube.variables",
    "add_predictor": "fluxcube.cubes.own",
    "add_images": "fluxcube.cubes.images",
    "add_drivers": "fluxcube.cubes.drivers",
    "add_drivers_to_store": "fluxcube.cubes.drivers_store",
    "use_drivers": "fluxcube.cubes.drivers",
    "compare_drivers": "fluxcube.cubes.driver_comparison",
    "open_carbonsense": "fluxcube.catalog",
    "open_report": "fluxcube.cubes.report",
    "copy_era5": "fluxcube.sources.era5.copy",
    "open_forcing": "fluxcube.cubes.forcing",
    "write_forcing": "fluxcube.cubes.forcing_store",
    "daily_forcing": "fluxcube.cubes.forcing_daily",
    "product_bias": "fluxcube.cubes.products",
    "open_product": "fluxcube.sources.products.open",
    "load_windows": "fluxcube.samples.loader",
    "fit": "fluxcube.training.fit",
    "distil": "fluxcube.distillation",
    "load_model": "fluxcube.inference.loading",
    "save_mixed": "fluxcube.inference.loading",
    "predict": "fluxcube.inference.towers",
    "upscale": "fluxcube.inference.grid",
    "write_maps": "fluxcube.maps.store",
    "open_maps": "fluxcube.maps.store",
    "plan_maps": "fluxcube.planning.maps",
    "sample_at_sites": "fluxcube.maps.at_sites",
    "totals": "fluxcube.maps.totals",
    "weight_by_wetland": "fluxcube.maps.wetland",
    "mean_maps": "fluxcube.maps.means",
    "mean_cycle": "fluxcube.maps.means",
    "export_maps": "fluxcube.maps.export",
    "evaluate": "fluxcube.evaluation.skill",
    "compare": "fluxcube.evaluation.skill",
    "report": "fluxcube.reports.write",
    "energy_balance": "fluxcube.evaluation.energy",
    "calibrate": "fluxcube.evaluation.calibration",
    "plot_map": "fluxcube.plotting.maps",
    "plot_sites": "fluxcube.plotting.sitemaps",
    "plot_series": "fluxcube.figures.series",
    "plot_cycle": "fluxcube.figures.cycles",
    "plot_scatter": "fluxcube.figures.scatter",
    "animate_cycle": "fluxcube.plotting.animation",
    "run_demo": "fluxcube.demo",
}

#: Parts of the package with functions of their own.
_MODULES = ("fetch", "scores")

__all__ = ["__version__", *_MODULES, *_PUBLIC]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"fluxcube.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fluxcube' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
