"""Fetch MODIS reflectance, flags and land cover from Earth Engine, NASA Earthdata, Planetary Computer or AppEEARS."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

from fluxcube.errors import ConfigError, to_type, unknown
from fluxcube.fetch import appeears, earthdata, earthengine, planetary
from fluxcube.fetch.items import Plan
from fluxcube.fetch.modis_places import find_places
from fluxcube.fetch.modis_products import find_products
from fluxcube.fetch.modis_request import Progress, Request
from fluxcube.fetch.periods import Box, Years
from fluxcube.fetch.sites import SiteChoice

Service = Literal["earthengine", "earthdata", "planetary", "appeears"]

#: Products of chips, and of maps, which need land cover, too.
_CHIPS, _MAPS = ("MCD43A4", "MCD43A2"), ("MCD43A4", "MCD43A2", "MCD12Q1")


class _Module(Protocol):
    """A module that fetches from one service."""

    @property
    def PRODUCTS(self) -> tuple[str, ...]:
        """Names of the products that the service has."""

    @property
    def OPTIONS(self) -> tuple[str, ...]:
        """Options of `modis` that the service has in addition to the common ones."""

    def plan(self, request: Request) -> Plan:
        """Return the plan."""

    def fetch(self, request: Request) -> list[Path]:
        """Fetch the files."""


_SERVICES: dict[str, _Module] = {
    "earthengine": earthengine,
    "earthdata": earthdata,
    "planetary": planetary,
    "appeears": appeears,
}


def modis(
    out: str | os.PathLike,
    *,
    service: Service = "earthengine",
    products: Iterable[str] | None = None,
    at_sites: SiteChoice | None = None,
    bbox: Box | None = None,
    tiles: Iterable[str] | None = None,
    years: Years = None,
    every: int = 1,
    plan: bool = False,
    jobs: int = 4,
    progress: Progress | None = None,
    project: str | None = None,
    series: bool = False,
    wait_hours: float = 24.0,
    endpoint: str | None = None,
) -> Plan | list[Path]:
    """Fetch MODIS into a folder, from which `build_carbonsense`, `read_surface` and `open_forcing` read it.

    Whatever the service, pixels are the native ones of the 500 m sinusoidal grid, so that a cube is the same. A second
    call fetches what is missing; the ledger ``fetch.jsonl`` and ``LICENCE.md`` are written beside the files.

    Parameters
    ----------
    out : path
        Folder of the files; it is made if it does not exist.
    service : {"earthengine", "earthdata", "planetary", "appeears"}
        Earth Engine: the pixels around each site, one file a site and year, or the part of tiles in an area. NASA
        Earthdata: whole HDF4 tiles. Planetary Computer: parts of cloud-optimised GeoTIFFs (MCD43A4 only), without an
        account. AppEEARS: extracts that the service makes, after a wait in its queue.
    products : iterable of str, optional
        Of MCD43A4, MCD43A2, MOD09GA, MODOCGA and MCD12Q1; by default those of chips, and land cover for an area.
    at_sites : cube, path of a cube or table, DataFrame, mapping of site to (latitude, longitude), or ids, optional
        Sites around which chips are cut; ids such as "DE-Tha,US-Ha1" are those of `fluxcube.known_sites`.
    bbox : (west, south, east, north), optional
        Area, degrees; west > east crosses the antimeridian.
    tiles : iterable of str, optional
        Tiles such as "h18v04".
    years : int, str or sequence of int, optional
        Such as 2018 or "2015-2018"; by default those of each site of a cube.
    every : int
        Each n-th day of the year; MCD43A4 is a mean over 16 days, so that of two neighbouring days most is the same.
    plan : bool
        Return the plan instead: requests, bytes, time and quota. Catalogues are searched, nothing is ordered.
    jobs : int
        Number of files fetched at the same time.
    progress : callable, optional
        Called with (complete files, files, text).
    project : str, optional
        Google Cloud project (Earth Engine); by default ``EARTHENGINE_PROJECT`` of the environment.
    series : bool
        With AppEEARS: a table of the pixel at each site instead of chips, for `read_surface`.
    wait_hours : float
        With AppEEARS: longest wait in the queue; the same call continues later.
    endpoint : str, optional
        Address of a mirror or of a test server of the service.

    Returns
    -------
    list of Path, or Plan
        All files of the request, also those that were there before.

    Raises
    ------
    ConfigError
        If an option is invalid, or the service does not have a product.
    CredentialsError, LicenceError, QuotaError
        If an account or a licence is missing, or a quota is used up; the message contains the page to open.
    FetchError
        If files could not be fetched; the others are complete.
    MissingPackageError
        If the client of the service is not installed (``pip install 'fluxcube[fetch-modis]'``).

    Examples
    --------
    >>> import fluxcube as fc
    >>> print(fc.fetch.modis("modis", at_sites="sites.csv", years=2018, plan=True).text())  # doctest: +SKIP
    """
    if service not in _SERVICES:
        raise unknown("MODIS service", service, _SERVICES)
    module = _SERVICES[service]
    names = products if products is not None else _default_products(module, at_sites is not None)
    chosen = find_products(names)
    if missing := [product.name for product in chosen if product.name not in module.PRODUCTS]:
        raise ConfigError(
            f"products: {service} has {', '.join(module.PRODUCTS)}, not {', '.join(missing)}: leave them out, or use "
            "another service (earthengine has all)."
        )
    _check_options(module, service, every=every != 1, project=project is not None, series=series)
    if every < 1 or jobs < 1 or not wait_hours > 0:
        raise ConfigError(f"every, jobs and wait_hours must be positive, found {every}, {jobs} and {wait_hours}.")
    if series and at_sites is None:
        sites = to_type(python="at_sites=", shell="--at-sites")
        raise ConfigError(f"series: a table of pixels needs sites; pass {sites}.")
    request = Request(
        folder=Path(out),
        products=chosen,
        places=find_places(at_sites=at_sites, bbox=bbox, tiles=tiles, years=years),
        every=every,
        jobs=jobs,
        progress=progress,
        project=project,
        endpoint=endpoint,
        series=series,
        wait_hours=wait_hours,
    )
    _check_days(request)
    return module.plan(request) if plan else module.fetch(request)


def _check_days(request: Request) -> None:
    """Refuse a request of which no product can have an image."""
    years = request.places.years
    if not any(len(product.days(year, request.every)) for product in request.products for year in years):
        first = min(product.first for product in request.products)
        raise ConfigError(
            f"years: {', '.join(product.name for product in request.products)} has images from {first} to yesterday, "
            f"found the years {years[0]} to {years[-1]}."
        )


def _default_products(module: _Module, at_sites: bool) -> tuple[str, ...]:
    return tuple(name for name in (_CHIPS if at_sites else _MAPS) if name in module.PRODUCTS)


def _check_options(module: _Module, service: str, **used: bool) -> None:
    """Refuse options that a service does not have."""
    if other := [name for name, value in used.items() if value and name not in module.OPTIONS]:
        raise ConfigError(f"{other[0]}: {service} does not have this option; leave it out.")
