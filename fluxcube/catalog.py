"""Where the data are: the default store of `open_carbonsense`, and the driver that intake opens entries with.

This module and the command line alone read the environment: ``FLUXCUBE_DATA`` names a cube store, or a
folder that holds ``carbonsense.zarr``.
"""

from __future__ import annotations

import os
from pathlib import Path

import xarray as xr

from fluxcube.cubes import carbonsense
from fluxcube.errors import StoreError, missing_package, unknown
from fluxcube.stores import open_store

#: The environment variable that names the default store.
VARIABLE = "FLUXCUBE_DATA"


def default_store() -> Path:
    """Return the store that ``FLUXCUBE_DATA`` names.

    Raises
    ------
    StoreError
        If the variable is not set, or names nothing; the message says how to get a store.
    """
    how = (
        f"give open_carbonsense a store, or set {VARIABLE} to one (or to a folder that holds carbonsense.zarr). "
        "`fluxcube build RAW carbonsense.zarr` makes one from downloaded archives, `fluxcube demo` a simulated one."
    )
    value = os.environ.get(VARIABLE)
    if not value:
        raise StoreError(f"no store given, and {VARIABLE} is not set: {how}")
    for path in (Path(value) / "carbonsense.zarr", Path(value)):
        if (path / "zarr.json").is_file():
            return path
    raise StoreError(f"{VARIABLE}={value} holds no store: {how}")


def open_carbonsense(
    store: str | os.PathLike | None = None,
    *,
    sites: str | list[str] | None = None,
    igbp: str | list[str] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    time: slice | tuple | None = None,
    variables: str | list[str] | None = None,
    targets: str | list[str] | None = None,
    max_qc: int | dict[str, int] | None = None,
    max_fill_days: float | dict[str, float] | None = None,
    min_quality: float | dict[str, float] | None = None,
    normalized: bool = False,
) -> xr.Dataset:
    """Open the CarbonSense cube, lazily; see `fluxcube.cubes.carbonsense.open_carbonsense` for the selections.

    Parameters
    ----------
    store : path, optional
        A store that `build_carbonsense` made; without one, what ``FLUXCUBE_DATA`` names.

    Returns
    -------
    xr.Dataset
        A cube (`fluxcube.schema`).

    Raises
    ------
    StoreError
        If there is no such store.
    UnknownNameError
        If a site, class, variable or target is none of the cube's.
    """
    return carbonsense.open_carbonsense(
        default_store() if store is None else store,
        sites=sites, igbp=igbp, bbox=bbox, time=time, variables=variables, targets=targets,
        max_qc=max_qc, max_fill_days=max_fill_days, min_quality=min_quality, normalized=normalized,
    )  # fmt: skip


def open_entry(kind: str, store: str | os.PathLike | None = None, **selection: object) -> xr.Dataset:
    """Open one catalog entry: a cube (with the selections of `open_carbonsense`; default store if none) or maps."""
    if kind == "cube":
        return open_carbonsense(store, **selection)
    if kind == "maps":
        return open_store(store, kind="maps")
    raise unknown("kind of catalog entry", kind, ("cube", "maps"))


def __getattr__(name: str) -> object:
    # intake is optional, and its driver must be a class that derives from intake's: made on first use.
    if name == "FluxcubeSource":
        return _driver()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _driver() -> type:
    """Make the intake driver, once."""
    try:
        from intake.source.base import DataSource, Schema
    except ImportError:
        raise missing_package("intake", "catalog", "opening catalog entries") from None

    class FluxcubeSource(DataSource):
        """intake's view of a fluxcube store: ``driver: fluxcube``, ``args: {kind: cube|maps, store: PATH}``."""

        name = "fluxcube"
        container = "xarray"
        version = "1"
        partition_access = False

        def __init__(self, kind: str, store: str | None = None, metadata: dict | None = None, **selection: object):
            super().__init__(metadata=metadata)
            self._open = lambda: open_entry(kind, store, **selection)

        def _get_schema(self) -> Schema:
            return Schema(datashape=None, dtype=None, shape=None, npartitions=1, extra_metadata={})

        def to_dask(self) -> xr.Dataset:
            """Return the Dataset, lazily."""
            return self._open()

        def read(self) -> xr.Dataset:
            """Return the Dataset, in memory."""
            return self._open().load()

    globals()["FluxcubeSource"] = FluxcubeSource
    return FluxcubeSource
