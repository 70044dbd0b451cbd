"""Default locations of data, the catalog, and the intake driver.

Only this module and the command line read the environment (and `fluxcube.fetch`, for credentials): ``FLUXCUBE_DATA``
names a cube, or a folder (or URL) that contains ``carbonsense.zarr`` and optionally ``carbonsense_daily.zarr``,
``maps.zarr``, ``era5/``, ``modis/``, ``surface/`` and ``land_cover/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import xarray as xr

from fluxcube.cubes.selection import Selection, open_cube
from fluxcube.errors import ConfigError, StoreError, missing_package, unknown
from fluxcube.resolution import HOURLY, find_resolution, resolution_of
from fluxcube.schema import TOWER
from fluxcube.stores.reading import is_url, open_store

#: The environment variable that names the default store.
VARIABLE = "FLUXCUBE_DATA"


def default_store(name: str = HOURLY.store) -> Path | str:
    """Return the path of a store in ``FLUXCUBE_DATA``, which may also be the path of the cube itself.

    A URL that ends in ``.zarr`` is taken as the cube, another one as its folder; neither is checked.

    Parameters
    ----------
    name : str
        File name of the store.

    Returns
    -------
    Path or str
        A URL is returned as str.

    Raises
    ------
    StoreError
        If the variable is not set, or there is no such store; the message explains how to create one.
    """
    how = (
        f"pass a store, or set {VARIABLE} to one (or to a folder that contains {name}). "
        "`fluxcube build RAW carbonsense.zarr` builds one from downloaded archives, `fluxcube demo` a simulated one. "
        "`fluxcube fetch towers RAW` downloads the archives of the FLUXNET Shuttle, and `fluxcube fetch towers RAW "
        "--source zenodo` the published CarbonSense (add --plan to see size, time and licence first)."
    )
    value = os.environ.get(VARIABLE)
    if not value:
        raise StoreError(f"no store: none was passed, and {VARIABLE} is not set: {how}")
    if is_url(value):
        value = value.rstrip("/")
        return value if value.endswith(".zarr") and name == HOURLY.store else f"{_folder_url(value)}/{name}"
    itself = [Path(value)] if name == HOURLY.store else []
    for path in (Path(value) / name, *itself):
        if (path / "zarr.json").is_file():
            return path
    raise StoreError(f"{VARIABLE}={value} contains no store{'' if itself else f' {name}'}: {how}")


def _folder_url(url: str) -> str:
    return url.rpartition("/")[0] if url.endswith(".zarr") else url


def _default_files(name: str) -> Path | None:
    """Return a folder of files in ``FLUXCUBE_DATA``, or None."""
    path = Path(os.environ.get(VARIABLE, ""), name)
    return path if os.environ.get(VARIABLE) and path.is_dir() else None


def open_carbonsense(
    store: str | os.PathLike | None = None,
    *,
    sites: str | Sequence[str] | None = None,
    igbp: str | Sequence[str] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    time: slice | tuple | str | None = None,
    variables: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    max_qc: int | Mapping[str, int] | None = None,
    max_fill_days: float | Mapping[str, float] | None = None,
    min_quality: float | Mapping[str, float] | None = None,
    normalized: bool = False,
    drivers: str = TOWER,
    version: str | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open a cube that `build_carbonsense` wrote, or a part of it, lazily.

    Parameters
    ----------
    store : path or URL, optional
        The cube; a URL such as ``s3://bucket/carbonsense.zarr`` is read through fsspec. Default: the cube that the
        environment variable ``FLUXCUBE_DATA`` names.
    sites : str or sequence of str, optional
        Sites to select; they are returned in this order.
    igbp : str or sequence of str, optional
        Select sites of these IGBP classes, such as ``"DBF"``.
    bbox : (west, south, east, north), optional
        Select sites within these degrees; a box with ``west > east`` crosses the antimeridian.
    time : slice, (start, stop) or str, optional
        Period to select: UTC hours or, in a daily cube, local dates. Both ends are included, as in xarray:
        ``slice("2004", "2006")`` is three years, ``"2004"`` is one. Sites without any value in the period remain. Chips
        are cut to the same days and the last day before, whose chip describes the land when the period begins; surface
        reflectance to the same days and the 96 days before, which trailing means need.
    variables, targets : str or sequence of str, optional
        Predictors and fluxes to select; they are returned in this order. Default: all.
    max_qc : int or mapping of str to int, optional
        Maximum quality flag, from 0 (measured) to 3 (poor gap filling): values with a worse flag become missing, each
        variable according to its own flag; the flags remain. A mapping contains limits by name; variables without a
        limit are not masked. For hourly cubes.
    max_fill_days : number or mapping of str to number, optional
        Maximum length, in days, of a filled gap: filled values (flags 1 to 3) in a longer gap become missing; the flags
        remain. A gap is a run of hours of one variable and site that are not measured. Its whole length counts even
        where `time` cuts it, for which all flags of a site are read. For hourly cubes.
    min_quality : number or mapping of str to number, optional
        Minimum quality, which is the share of a day that is measured or well filled (0 to 1): days with a lower or
        unknown quality become missing, each variable according to its own quality; the qualities remain. For daily
        cubes, instead of `max_qc` and `max_fill_days`.
    normalized : bool
        Return predictors and fluxes scaled by their bounds (`fluxcube.normalisation`) instead of physical values, and
        uncertainties scaled by the same width; `fluxcube.normalisation.denormalise` reverses this.
    drivers : str
        Drivers of the predictors: the tower's own, or another source that the cube has, such as "era5"
        (`fluxcube.add_drivers`, or ``drivers=`` of `build_carbonsense`; see `fluxcube.use_drivers`). Their flags are 0
        and their qualities 1 wherever they have a value.
    version : str, optional
        Identifier (``store_id``) of a state of the store, or its first characters: the current one, or an earlier one
        that was kept (``keep=True`` of `build_carbonsense`). Default: the current state.
    storage_options : mapping, optional
        Options of fsspec to reach a URL, such as ``{"anon": True}``; neither kept in the Dataset nor logged.

    Returns
    -------
    xr.Dataset
        A cube (`fluxcube.schema`) of Dask arrays with one chunk for each site and two years. Its time axis runs from
        the first to the last step of the selected sites.

    Raises
    ------
    StoreError
        If the store does not exist, is not a complete cube, or has no state `version`; the message lists those it has.
    UnknownNameError
        If a site, class, variable, target or source of drivers does not exist.
    ConfigError
        If nothing is left of the cube (the message names the selection that removed the last site or hour), if a
        selection is malformed, or if a limit does not suit the resolution of the cube.

    Examples
    --------
    >>> import fluxcube
    >>> fluxcube.open_carbonsense("carbonsense.zarr", igbp=["DBF", "ENF"], time="2005", max_qc=1)  # doctest: +SKIP
    """
    selection = Selection(
        sites=sites,
        igbp=igbp,
        bbox=bbox,
        time=time,
        variables=variables,
        targets=targets,
        max_qc=max_qc,
        max_fill_days=max_fill_days,
        min_quality=min_quality,
        normalized=normalized,
        drivers=drivers,
    )
    place = default_store() if store is None else store
    return open_cube(place, selection, storage_options=storage_options, version=version)


def open_entry(kind: str, store: str | os.PathLike | None = None, **options: object) -> xr.Dataset:
    """Open the data of a catalog entry.

    Parameters
    ----------
    kind : {"cube", "maps", "forcing"}
        ``cube`` accepts the selections of `open_carbonsense` and ``resolution`` (default "hourly"), which is checked;
        ``maps`` is a store of maps; ``forcing`` accepts the arguments of `fluxcube.open_forcing`.
    store : path or URL, optional
        Default: the store of this kind in ``FLUXCUBE_DATA``, or for a forcing, its files.
    **options
        ``storage_options`` for a URL, and the options of the kind; None and "" count as not set.

    Returns
    -------
    xr.Dataset
        Lazy.

    Raises
    ------
    UnknownNameError
        If the kind or resolution does not exist.
    StoreError
        If there is no such store, or it has another resolution.
    ConfigError
        If forcing has no ERA5 files.
    """
    # From YAML: the functions that are called check names and values.
    entry: dict[str, Any] = {name: value for name, value in options.items() if value not in (None, "")}
    if kind == "cube":
        return _open_cube(store, str(entry.pop("resolution", "hourly")), entry)
    if kind == "maps":
        return open_store(store or default_store("maps.zarr"), kind="maps", **entry)
    if kind == "forcing":
        return _open_forcing(store, entry)
    raise unknown("kind of catalog entry", kind, ("cube", "maps", "forcing"))


def _open_cube(store: str | os.PathLike | None, resolution: str, options: dict) -> xr.Dataset:
    ds = open_carbonsense(store or default_store(find_resolution(resolution).store), **options)
    if resolution_of(ds).name != resolution:
        raise StoreError(f"{store or VARIABLE}: expected {resolution} data, found a cube of {resolution_of(ds)} data.")
    return ds


def _open_forcing(store: str | os.PathLike | None, options: dict) -> xr.Dataset:
    from fluxcube.cubes.forcing import open_forcing

    if store:
        return open_forcing(store, **options)
    paths = {name: _default_files(name) for name in ("era5", "modis", "surface", "land_cover")}
    folders = {name: path for name, path in paths.items() if path is not None}
    if "igbp" in options:
        folders.pop("land_cover", None)
    options = folders | options
    if "era5" not in options:
        raise ConfigError(f"forcing needs ERA5 files: pass era5=, or set {VARIABLE} to a folder that contains era5/.")
    return open_forcing(options.pop("era5"), **options)


def __getattr__(name: str) -> object:
    # intake is optional, and its driver must be a subclass of intake's class: it is created on first use.
    if name == "FluxcubeSource":
        return _driver()
    if name == "catalog":
        return _installed_catalog()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _installed_catalog() -> object:
    """Open the catalog that fluxcube ships: the object behind ``intake.cat.fluxcube``."""
    try:
        import intake
    except ImportError:
        raise missing_package("intake", "catalog", "opening the catalog") from None
    inside = resources.files("fluxcube") / "data" / "fluxcube.yaml"
    path = Path(str(inside))
    if not path.is_file():  # a checkout: the wheel contains this file
        path = Path(__file__).resolve().parents[1] / "catalogs" / "fluxcube.yaml"
    return intake.open_catalog(str(path))


def _driver() -> type:
    """Create the intake driver, once."""
    try:
        from intake.source.base import DataSource, Schema
    except ImportError:
        raise missing_package("intake", "catalog", "opening catalog entries") from None

    class FluxcubeSource(DataSource):
        """The intake driver of fluxcube: ``driver: fluxcube``, ``args: {kind: cube|maps|forcing, store: PATH}``."""

        name = "fluxcube"
        container = "xarray"
        version = "1"
        partition_access = False

        def __init__(self, kind: str, store: str | None = None, metadata: dict | None = None, **options: object):
            super().__init__(metadata=metadata)
            self._open = lambda: open_entry(kind, store, **options)

        def _get_schema(self) -> Schema:
            return Schema(datashape=None, dtype=None, shape=None, npartitions=1, extra_metadata={})

        def to_dask(self) -> xr.Dataset:
            """Return the Dataset, lazily."""
            return self._open()

        def read(self) -> xr.Dataset:
            """Return the Dataset, loaded into RAM."""
            return self._open().load()

    globals()["FluxcubeSource"] = FluxcubeSource
    return FluxcubeSource
