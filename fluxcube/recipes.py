"""Recipes: read their metadata, run them from a command line, and do the steps that several of them share.

A recipe is a folder with `meta.yaml`, `recipe.py`, which calls functions of the library only, and `README.md`. The
folder `recipes` of the repository contains them.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.forcing import open_forcing
from fluxcube.errors import ConfigError, StoreError, unknown
from fluxcube.evaluation.report import write_report
from fluxcube.evaluation.skill import score_table
from fluxcube.experiments import Variant, score_variants
from fluxcube.fetch.era5_fetch import era5
from fluxcube.fetch.era5_regions import region_box
from fluxcube.fetch.items import Plan
from fluxcube.fetch.modis_fetch import modis
from fluxcube.fetch.periods import Box
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models.settings import from_known_keys
from fluxcube.parsing import parse_yaml, read_text
from fluxcube.samples.features import CHIP_PIXELS
from fluxcube.samples.splits import split_for
from fluxcube.samples.surface import bands_needed
from fluxcube.simulation.grids import write_era5, write_land_cover
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.raw import write_modis, write_reflectance, write_towers
from fluxcube.stores.reading import store_attrs
from fluxcube.terminal import command_line

#: Product of which maps take the IGBP class of each cell.
_LAND_COVER = "MCD12Q1"
#: Folders of land cover, chips and daily views.
_LAND, _CHIPS, _VIEWS = "land_cover", "modis", "reflectance"
#: Half a cell of ERA5, and half a chip at 60 degrees north, degrees.
_MARGIN = 0.2
#: Services of which a recipe can use a mirror.
_SERVICES = ("towers", "era5", "modis")
#: Name of a region, or its west, south, east and north in degrees.
Region = str | Sequence[float]
#: What writes the raw files of a sample, by folder.
_PARTS: Mapping[str, Callable[[Planet, Path], object]] = {
    "towers": write_towers,
    "modis": write_modis,
    "era5": write_era5,
    "land_cover": write_land_cover,
    "reflectance": functools.partial(write_reflectance, every=8),
}


@dataclass(frozen=True, kw_only=True)
class Product:
    """A store that a recipe writes, and how the catalog opens it.

    Attributes
    ----------
    entry : str
        Name of the entry in the catalog.
    description : str
        What it contains.
    kind : {"cube", "forcing", "maps"}
        How it is opened (`fluxcube.catalog.open_entry`).
    store : str
        Path of the store in the recipe's output folder; "" if the output is a folder of files.
    path : str
        Default location in the catalog, relative to the repository; "" for the location that ``FLUXCUBE_DATA`` names.
    resolution : str
        "hourly" or "daily", of a cube; "" for others.
    """

    entry: str
    description: str
    kind: str
    store: str = ""
    path: str = ""
    resolution: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The metadata of a recipe, `meta.yaml`.

    Attributes
    ----------
    name : str
        Name of its folder.
    title, description, licence : str
    sources : tuple of str
        Data sets and their DOIs.
    access, time, size : str
        Accounts that it needs; how long it takes; how much it downloads and writes.
    parameters, sample : mapping
        Arguments of the recipe's function ``main``, and those that `--sample` replaces.
    products : tuple of Product
        Stores that it writes.
    """

    name: str
    title: str
    description: str
    sources: tuple[str, ...]
    licence: str
    access: str = ""
    time: str = ""
    size: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)
    products: tuple[Product, ...] = ()


def read_recipe(folder: str | Path) -> Recipe:
    """Read the metadata of a recipe.

    Parameters
    ----------
    folder : path
        Folder of the recipe.

    Returns
    -------
    Recipe

    Raises
    ------
    ConfigError
        If `meta.yaml` is missing, is not a mapping, or lacks a title, description, sources or licence.
    UnknownNameError
        If it has a key that does not exist.
    """
    path = Path(folder) / "meta.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a recipe: it contains no meta.yaml.")
    try:
        values = parse_yaml(read_text(path), dict)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected YAML of names and values: {error}; correct it.") from error
    if missing := sorted({"title", "description", "sources", "licence"} - set(values)):
        raise ConfigError(f"{path} lacks {', '.join(missing)}: add it.")
    try:
        products = tuple(
            from_known_keys(Product, {"entry": k, **v}) for k, v in (values.pop("products", None) or {}).items()
        )
        values |= {"sources": tuple(map(str, values["sources"])), "products": products}
        return from_known_keys(Recipe, {"name": Path(folder).resolve().name, **values})
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: a value has another form than the other recipes have ({error}).") from error


def find_recipes(folder: str | Path) -> tuple[Recipe, ...]:
    """Return the recipes in the folders of a folder, in the order of their names."""
    return tuple(read_recipe(path.parent) for path in sorted(Path(folder).glob("*/meta.yaml")))


def run_recipe(main: Callable[..., object], file: str | Path, arguments: Sequence[str] | None = None) -> object:
    """Run a recipe from its command line: ``OUT [--sample] [--plan] [--set NAME=VALUE ...]``.

    Parameters
    ----------
    main : callable
        ``main(out, *, sample, **parameters)`` with the parameters of `meta.yaml`; it has an argument ``plan`` if the
        recipe can report what it would do.
    file : path
        The recipe, beside its `meta.yaml`.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    object
        What `main` returns.

    Raises
    ------
    ConfigError
        If a parameter does not exist, or a value is not YAML.
    """
    recipe = read_recipe(Path(file).parent)
    parser = argparse.ArgumentParser(prog=f"recipes/{recipe.name}/recipe.py", description=recipe.description)
    parser.add_argument("out", type=Path, help="folder of everything that the recipe writes")
    parser.add_argument("--sample", action="store_true", help="run offline on small simulated data, in seconds")
    if "plan" in inspect.signature(main).parameters:
        parser.add_argument("--plan", action="store_true", help="report requests, bytes, time and cost; fetch nothing")
    text = f"replace a parameter: {', '.join(recipe.parameters) or 'none'}"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    options = vars(parser.parse_args(arguments))
    out, changes = options.pop("out"), dict(_change(recipe, one) for one in options.pop("set"))
    chosen = {**recipe.parameters, **(recipe.sample if options["sample"] else {}), **changes}
    out.mkdir(parents=True, exist_ok=True)
    if arguments is not None:
        return main(out, **options, **chosen)
    with command_line("finished steps stay; the same command continues"):
        return main(out, **options, **chosen)


def _change(recipe: Recipe, text: str) -> tuple[str, object]:
    """Return name and value of ``NAME=VALUE``."""
    name, sign, value = text.partition("=")
    if not sign or name not in recipe.parameters:
        known = ", ".join(recipe.parameters) or "none"
        raise ConfigError(f"--set {text}: expected NAME=VALUE with one of the recipe's parameters ({known}).")
    try:
        return name, parse_yaml(value, object)
    except ValueError as error:
        raise ConfigError(f"--set {text}: the value is not YAML ({error}); quote it.") from error


def sample_raw(out: str | Path, *parts: str) -> Path:
    """Return a folder with raw files of a small simulated planet; each part is written once.

    Parameters
    ----------
    out : path
        Output folder of the recipe.
    *parts : {"towers", "modis", "era5", "land_cover", "reflectance"}
        Folders that are needed.

    Returns
    -------
    Path
        ``out/raw``, which contains a folder for each part.
    """
    raw, unfinished = Path(out) / "raw", Path(out) / "raw.part"
    raw.mkdir(exist_ok=True)
    for part in parts:
        if not (raw / part).exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            _PARTS[part](Planet(seed=0, quick=True), unfinished)
            unfinished.rename(raw / part)
    return raw


def build_once(raw: str | Path, store: str | Path, **options: Any) -> Path:
    """Build a cube if it does not exist yet.

    Parameters
    ----------
    raw, store : path
        Folder of archives, and the cube.
    **options
        Options of `fluxcube.build_carbonsense`.

    Returns
    -------
    Path
        The cube.

    Raises
    ------
    ConfigError
        If the cube was built with other options, which ``STORE.options.json`` records.
    """
    store = Path(store)
    record, text = store.with_name(f"{store.name}.options.json"), json.dumps(options, default=str, sort_keys=True)
    if not store.exists():
        build_carbonsense(raw, store, **options)
        record.write_text(text, "utf-8")
    elif record.is_file() and (found := record.read_text("utf-8")) != text:
        raise ConfigError(f"{store} was built with {found}, not with {text}: remove it, or pass another output folder.")
    return store


def is_complete(store: str | Path) -> bool:
    """Return whether there is a complete store of a forcing or of maps at a path."""
    try:
        return bool(store_attrs(store).get("complete"))
    except StoreError:
        return False


def read_endpoints(endpoints: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Return the address of each service, None for its own.

    Parameters
    ----------
    endpoints : mapping, optional
        Addresses of mirrors or test servers of "towers", "era5" and "modis"; the others are the services' own.

    Raises
    ------
    ConfigError
        If it is not such a mapping.
    UnknownNameError
        If it names another service.
    """
    if not isinstance(endpoints or {}, Mapping):
        raise ConfigError(f"endpoints: expected addresses by service ({', '.join(_SERVICES)}), found {endpoints!r}.")
    addresses: dict[str, str | None] = dict.fromkeys(_SERVICES)
    for service, address in (endpoints or {}).items():
        if service not in addresses:
            raise unknown("service", service, _SERVICES)
        addresses[service] = address
    return addresses


def _box(region: Region) -> Box:
    """Return the box of a region: by its name, or by its west, south, east and north."""
    if isinstance(region, str) and "," not in region:
        return region_box(region)
    edges = region.split(",") if isinstance(region, str) else region
    try:
        west, south, east, north = map(float, edges)
    except (TypeError, ValueError):
        raise ConfigError(
            f"region: expected a name such as alps, or [west, south, east, north] in degrees; found {region!r}."
        ) from None
    return west, south, east, north


def plan_forcing(
    out: str | Path,
    *,
    region: Region,
    years: Sequence[int],
    model: str,
    project: str | None = None,
    endpoints: Mapping[str, str | None] | None = None,
) -> tuple[Plan, ...]:
    """Return the plans of what a model needs to map a region: ERA5, land cover, images; nothing is ordered."""
    return tuple(step(plan=True) for step in _forcing_steps(Path(out), region, years, model, project, endpoints))


def fetch_forcing(
    out: str | Path,
    *,
    region: Region,
    years: Sequence[int],
    model: str,
    project: str | None = None,
    endpoints: Mapping[str, str | None] | None = None,
    resolution: float | None = None,
    sample: bool = False,
) -> xr.Dataset:
    """Fetch the ERA5, land cover and images that a model needs to map a region, and open them as a forcing cube.

    Parameters
    ----------
    out : path
        Folder in which ``era5`` and ``land_cover`` are written and, for a model that needs images, ``modis`` or
        ``reflectance``.
    region : str, or (west, south, east, north)
        Name in `fluxcube.fetch.era5_regions.REGIONS`, or a box, degrees.
    years : sequence of int
        Years to map; the days before them that the model's trailing means need are fetched as well.
    model : str
        Run, or name of a shipped model.
    project : str, optional
        Google Cloud project, for the land cover.
    endpoints : mapping, optional
        Addresses of mirrors, as of `read_endpoints`.
    resolution : float, optional
        Step of a grid finer than ERA5's, degrees.
    sample : bool
        Open the files of a small simulated planet, offline.

    Returns
    -------
    xr.Dataset
        Lazy.

    Raises
    ------
    FetchError
        If files could not be fetched; the same call continues.
    """
    images = _images_of(model)
    if sample:
        folder = sample_raw(out, "era5", _LAND, *images)
    else:
        folder = Path(out)
        for step in _forcing_steps(folder, region, years, model, project, endpoints):
            step()
    return open_forcing(
        folder / "era5",
        land_cover=folder / _LAND,
        modis=folder / _CHIPS if _CHIPS in images else None,
        surface=folder / _VIEWS if _VIEWS in images else None,
        bbox=None if sample else _box(region),
        resolution=resolution,
    )


def _forcing_steps(
    out: Path,
    region: Region,
    years: Sequence[int],
    model: str,
    project: str | None,
    endpoints: Mapping[str, str | None] | None,
) -> tuple[Callable[..., Any], ...]:
    """Return the fetches of a forcing, which take ``plan``: weather, land cover, and images that the model needs."""
    box, addresses = _box(region), read_endpoints(endpoints)
    area: dict[str, Any] = {"region": region} if isinstance(region, str) and "," not in region else {"bbox": box}
    area["years"] = list(years)
    weather = functools.partial(era5, out / "era5", **area, model=model, endpoint=addresses["era5"])
    images: dict[str, Any] = {"bbox": _around(box), "years": list(years), "project": project}
    images["endpoint"] = addresses["modis"]
    products = {_LAND: ([_LAND_COVER], 1), **_images_of(model)}
    return (
        weather,
        *(
            functools.partial(modis, out / folder, products=names, every=every, **images)
            for folder, (names, every) in products.items()
        ),
    )


def _around(box: Box) -> Box:
    """Return a box with the whole cells whose centres are on its edges, and the chips there."""
    west, south, east, north = box
    south, north = max(south - _MARGIN, -90.0), min(north + _MARGIN, 90.0)
    if (east - west) % 360 == 0 and east != west:
        return west, south, east, north
    return _wrapped(west - _MARGIN), south, _wrapped(east + _MARGIN), north


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0


def _images_of(model: str) -> dict[str, tuple[list[str], int]]:
    """Return the products that a model needs, and each how many days, by the folder into which they are fetched."""
    specs = [one.spec for one in load_model(model).singles]
    arrays = {kind.array for spec in specs for kind in spec.images}
    arrays |= {"modis" if spec.pixels == CHIP_PIXELS else "surface" for spec in specs if spec.bands}
    arrays |= {"surface" for spec in specs if spec.surface or bands_needed([], spec.static)}
    # A composite is a mean over 16 days; of daily views the clear ones are used.
    products = {"modis": {_CHIPS: (["MCD43A4", "MCD43A2"], 4)}, "surface": {_VIEWS: (["MOD09GA"], 1)}}
    return {folder: names for array, one in products.items() if array in arrays for folder, names in one.items()}


def map_once(
    model: str, forcing: xr.Dataset, store: str | Path, *, period: Sequence[str], **options: Any
) -> xr.Dataset:
    """Map fluxes of a period into a store, unless it is complete; an unfinished one is continued.

    Parameters
    ----------
    model : str
        Run, or name of a shipped model.
    forcing : xr.Dataset
        Forcing cube.
    store : path
        Store of the maps.
    period : (str, str)
        First and last time; both are included.
    **options
        Options of `fluxcube.write_maps`, such as ``scheduler``.

    Returns
    -------
    xr.Dataset
        The maps, lazy.
    """
    if not is_complete(store):
        first, last = map(str, period)
        write_maps(upscale(model, forcing, time=slice(first, last)), store, **options)
    return open_maps(store)


def score_models(
    cube: xr.Dataset,
    out: str | Path,
    *,
    models: Sequence[Mapping[str, Any]],
    split: str = "per-igbp",
    by: str | None = "igbp",
    seed: int = 0,
    log: Callable[[str], object] | None = None,
) -> pd.DataFrame:
    """Train models on one split, and write the scores of its test towers: ``scores/scores.md``, CSV and figures.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers.
    out : path
        Folder of runs, predictions and scores; what is finished there is not repeated.
    models : sequence of mapping
        Settings of each model (`fluxcube.experiments.Variant`).
    split : str
        Kind of split, or a file (`fluxcube.samples.splits.split_for`).
    by : {"igbp", "koppen"} or None
        Groups of the table.
    seed : int
        Random seed of the split.
    log : callable, optional
        Called with one line of text for each finished step.

    Returns
    -------
    pd.DataFrame
        One row for each flux, group and model, on time steps that all models predict.
    """
    variants = [Variant.from_dict(dict(line)) for line in models]
    chosen = split_for(cube, split, seed=seed)
    sums = score_variants(cube, {"split": chosen}, variants, out, log=log)
    table = score_table(sums, by=by)
    write_report(table, Path(out) / "scores", overwrite=True, title=f"Test towers of the split {chosen.kind}")
    return table
