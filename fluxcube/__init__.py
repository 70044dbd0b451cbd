"""Eddy-covariance towers, satellite images and reanalysis as xarray cubes, and maps of carbon fluxes.

The names below, in the order of the pipeline, are imported on first use: importing fluxcube reads no file and imports
neither xarray nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with _PUBLIC
    from fluxcube import fetch as fetch
    from fluxcube import scores as scores
    from fluxcube.catalog import open_carbonsense as open_carbonsense
    from fluxcube.cubes.append import append_site as append_site
    from fluxcube.cubes.carbonsense import build_carbonsense as build_carbonsense
    from fluxcube.cubes.driver_comparison import compare_drivers as compare_drivers
    from fluxcube.cubes.drivers import add_drivers as add_drivers
    from fluxcube.cubes.drivers import use_drivers as use_drivers
    from fluxcube.cubes.drivers_store import add_drivers_to_store as add_drivers_to_store
    from fluxcube.cubes.forcing import open_forcing as open_forcing
    from fluxcube.cubes.forcing_daily import daily_forcing as daily_forcing
    from fluxcube.cubes.forcing_store import write_forcing as write_forcing
    from fluxcube.cubes.images import add_images as add_images
    from fluxcube.cubes.own import add_predictor as add_predictor
    from fluxcube.cubes.own_site import add_site as add_site
    from fluxcube.cubes.products import product_bias as product_bias
    from fluxcube.cubes.report import open_report as open_report
    from fluxcube.demo import run_demo as run_demo
    from fluxcube.distillation import distil as distil
    from fluxcube.evaluation.calibration import calibrate as calibrate
    from fluxcube.evaluation.energy import energy_balance as energy_balance
    from fluxcube.evaluation.skill import compare as compare
    from fluxcube.evaluation.skill import evaluate as evaluate
    from fluxcube.figures.cycles import plot_cycle as plot_cycle
    from fluxcube.figures.scatter import plot_scatter as plot_scatter
    from fluxcube.figures.series import plot_series as plot_series
    from fluxcube.inference.grid import upscale as upscale
    from fluxcube.inference.loading import load_model as load_model
    from fluxcube.inference.loading import save_mixed as save_mixed
    from fluxcube.inference.towers import predict as predict
    from fluxcube.inventory import inspect as inspect
    from fluxcube.knownsites import known_sites as known_sites
    from fluxcube.maps.at_sites import sample_at_sites as sample_at_sites
    from fluxcube.maps.export import export_maps as export_maps
    from fluxcube.maps.means import mean_cycle as mean_cycle
    from fluxcube.maps.means import mean_maps as mean_maps
    from fluxcube.maps.store import open_maps as open_maps
    from fluxcube.maps.store import write_maps as write_maps
    from fluxcube.maps.totals import totals as totals
    from fluxcube.maps.wetland import weight_by_wetland as weight_by_wetland
    from fluxcube.planning.maps import plan_maps as plan_maps
    from fluxcube.planning.training import plan_training as plan_training
    from fluxcube.plotting.animation import animate_cycle as animate_cycle
    from fluxcube.plotting.maps import plot_map as plot_map
    from fluxcube.plotting.sitemaps import plot_sites as plot_sites
    from fluxcube.progress import show_progress as show_progress
    from fluxcube.reports.write import report as report
    from fluxcube.samples.loader import load_windows as load_windows
    from fluxcube.samples.splits import kfold as kfold
    from fluxcube.samples.splits import split as split
    from fluxcube.sources.era5.copy import copy_era5 as copy_era5
    from fluxcube.sources.modis.surface import read_surface as read_surface
    from fluxcube.sources.products.open import open_product as open_product
    from fluxcube.sources.towers.inspection import inspect_raw as inspect_raw
    from fluxcube.sources.towers.table import read_table as read_table
    from fluxcube.training.fit import fit as fit
    from fluxcube.variables import declare as declare

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
    "add_site": "fluxcube.cubes.own_site",
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
    "split": "fluxcube.samples.splits",
    "kfold": "fluxcube.samples.splits",
    "plan_training": "fluxcube.planning.training",
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
    "show_progress": "fluxcube.progress",
}

#: Parts of the package with functions of their own.
_MODULES = ("fetch", "scores")

__all__ = ["__version__", *_MODULES, *_PUBLIC]


if not TYPE_CHECKING:  # with it, a misspelled name would be an object of unknown type to a type checker

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return importlib.import_module(f"fluxcube.{name}")
        if name not in _PUBLIC:
            import difflib

            near = difflib.get_close_matches(name, _PUBLIC, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(_PUBLIC)}"
            raise AttributeError(f"module 'fluxcube' has no attribute {name!r}{hint}")
        return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
