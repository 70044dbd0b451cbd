"""Fetch ERA5 and ERA5-Land from the Climate Data Store: for a box, a region, or the sites of a cube."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from fluxcube.errors import ConfigError, missing_package, to_type, unknown
from fluxcube.fetch.era5_cloud import copy, plan_copy
from fluxcube.fetch.era5_regions import region_box
from fluxcube.fetch.era5_request import (
    ERA5,
    ERA5_LAND,
    SUFFIX,
    Period,
    Place,
    Product,
    Request,
    monthly_requests,
    point_requests,
)
from fluxcube.fetch.era5_script import script
from fluxcube.fetch.items import Item, Plan
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.periods import Years, parse_years
from fluxcube.fetch.run import Progress, fetch_all, make_plan
from fluxcube.fetch.sites import SiteChoice, find_sites
from fluxcube.inference.loading import load_model
from fluxcube.sources.era5.clouds import STORES
from fluxcube.sources.era5.parameters import PARAMETERS
from fluxcube.sources.era5.variables import needed_parameters
from fluxcube.variables import WEATHER, table

#: Variables that are requested where neither a model nor variables are named: what most models use.
DEFAULT_VARIABLES = tuple(name for name in WEATHER if name in table())
#: Seconds that a request takes, from the queue to the file: assumed, since it depends on the load of the service.
_SECONDS = 600.0
#: Default of the hours that a request may wait in the queue.
TIMEOUT_HOURS = 24.0
#: The default source: the Climate Data Store.
CDS = "cds"
#: Number of requests per site above which a plan recommends a copy of ERA5 in a cloud.
_MANY = 200


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is requested of ERA5; the options of `era5` and `era5_land`."""

    product: Product
    years: Years = None
    region: str | None = None
    bbox: Sequence[float] | None = None
    at_sites: SiteChoice | None = None
    model: str | os.PathLike | Sequence | None = None
    variables: str | Sequence[str] | None = None
    data_format: str = "netcdf"
    source: str = CDS

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.region, self.bbox, self.at_sites)) != 1:
            names = to_type(python="region, bbox and at_sites", shell="--region, --bbox and --at-sites")
            raise ConfigError(f"pass one of {names}.")
        if self.model is not None and self.variables is not None:
            names = to_type(python="model= or variables=", shell="--model or --variables")
            raise ConfigError(f"pass either {names}, not both.")
        if self.data_format not in SUFFIX:
            raise ConfigError(f"data_format must be 'netcdf' or 'grib', found {self.data_format!r}.")
        _check_source(self.source, self.product)
        if self.source != CDS and self.at_sites is not None:
            raise ConfigError("the sites of a cube are fetched from the CDS: leave out source, or pass a box.")
        if self.years is None and self.at_sites is None:
            example = to_type(python="years='2018-2020'", shell="--years 2018-2020")
            raise ConfigError(f"pass years, such as {example}.")
        object.__setattr__(self, "years", parse_years(self.years))


def _check_source(source: str, product: Product) -> None:
    """Refuse a name of a store that is not known, or that has another product."""
    if source == CDS or "://" in source or Path(source).exists():
        return
    if source not in STORES:
        raise unknown("source of ERA5", source, (CDS, *STORES))
    if source.endswith(ERA5_LAND.name) != (product.name == ERA5_LAND.name):
        right = [name for name in STORES if name.endswith(ERA5_LAND.name) == (product.name == ERA5_LAND.name)]
        raise ConfigError(
            f"{source} does not have {product.title}: "
            f"pass {to_type(python='source=', shell='--source ')}{' or '.join((CDS, *right))}."
        )


@dataclass(frozen=True)
class _Needs:
    """The parameters and days that are needed."""

    parameters: tuple[str, ...]
    lead: int
    notes: tuple[str, ...]


def era5(
    out: str | os.PathLike,
    *,
    years: Years = None,
    region: str | None = None,
    bbox: Sequence[float] | None = None,
    at_sites: SiteChoice | None = None,
    model: str | os.PathLike | Sequence | None = None,
    variables: str | Sequence[str] | None = None,
    data_format: str = "netcdf",
    source: str = CDS,
    plan: bool = False,
    jobs: int = 4,
    timeout_hours: float = TIMEOUT_HOURS,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> Plan | list[Path]:
    """Fetch hourly ERA5 from the Climate Data Store.

    Requests are split by month, and into instantaneous and accumulated parameters. The days before the first year that
    a model's trailing means need, and one day after the last year, are requested as well.

    Parameters
    ----------
    out : path
        Folder of the files. With `at_sites` it has a folder for each site.
    years : int, str or sequence of int
        Such as 2018 or "2015-2018,2020". With `at_sites`, by default the years of each site.
    region : str, optional
        Name in `fluxcube.fetch.era5_regions.REGIONS`, such as "europe".
    bbox : (west, south, east, north), optional
        Degrees; west > east crosses the antimeridian. It is widened to whole cells, and by one cell.
    at_sites : cube, path of a cube or table, DataFrame, mapping of site to (latitude, longitude), or ids, optional
        The cell of each site is fetched, from the CDS's series of points as far as they have the parameters, which is
        one request for each site. Ids such as "DE-Tha,US-Ha1" are those of `fluxcube.known_sites`.
    model : path, Run or str, optional
        Run folder, several of them, or the name of a shipped model: what it needs is fetched.
    variables : str or sequence of str, optional
        Tower variables, such as TA and SW_IN; default `DEFAULT_VARIABLES`.
    data_format : {"netcdf", "grib"}
        Format of gridded files; the reader accepts both.
    source : str
        "cds", or a cloud store: a name such as "arco-era5" (`fluxcube.sources.era5.clouds.STORES`), which needs no
        account, or an address. The region is copied into a Zarr store (`fluxcube.copy_era5`).
    plan : bool
        Only return the plan: requests, bytes, time and quota.
    jobs : int
        Number of requests that are queued at the same time.
    timeout_hours : float
        Hours that a request may wait in the queue; a later call finds it again.
    progress : callable, optional
        ``progress(done, total, text)``.
    endpoint : str, optional
        Address of a mirror or of a test server of the CDS, such as ``https://.../api``, used without the user's
        account.

    Returns
    -------
    Plan, or list of Path
        The files, which `fluxcube.open_forcing` opens as a folder.

    Raises
    ------
    ConfigError
        If options are invalid, or contradict each other.
    CredentialsError
        If there is no account in ``~/.cdsapirc`` or the environment.
    LicenceError, QuotaError, FetchError
        If the service refuses a request, or a request fails.

    Examples
    --------
    >>> era5("era5", years=2018, bbox=(5, 45, 11, 48), variables=["TA", "SW_IN"], plan=True).text().splitlines()[0]
    'ERA5 (Climate Data Store): 29 of 29 files to fetch, about 14.9 MB'
    """
    order = Order(
        product=ERA5,
        years=years,
        region=region,
        bbox=bbox,
        at_sites=at_sites,
        model=model,
        variables=variables,
        data_format=data_format,
        source=source,
    )
    if plan:
        return plan_order(out, order, jobs=jobs)
    return fetch_order(out, order, jobs=jobs, timeout_hours=timeout_hours, progress=progress, endpoint=endpoint)


def era5_land(
    out: str | os.PathLike,
    *,
    years: Years = None,
    region: str | None = None,
    bbox: Sequence[float] | None = None,
    at_sites: SiteChoice | None = None,
    model: str | os.PathLike | Sequence | None = None,
    variables: str | Sequence[str] | None = None,
    data_format: str = "netcdf",
    source: str = CDS,
    plan: bool = False,
    jobs: int = 4,
    timeout_hours: float = TIMEOUT_HOURS,
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> Plan | list[Path]:
    """Fetch hourly ERA5-Land from the Climate Data Store; parameters and errors as of `era5`.

    Examples
    --------
    >>> era5_land("land", years=2018, bbox=(5, 45, 11, 48), variables=["TA"], plan=True)  # doctest: +SKIP
    """
    order = Order(
        product=ERA5_LAND,
        years=years,
        region=region,
        bbox=bbox,
        at_sites=at_sites,
        model=model,
        variables=variables,
        data_format=data_format,
        source=source,
    )
    if plan:
        return plan_order(out, order, jobs=jobs)
    return fetch_order(out, order, jobs=jobs, timeout_hours=timeout_hours, progress=progress, endpoint=endpoint)


def plan_order(out: str | os.PathLike, order: Order, *, jobs: int = 4) -> Plan:
    """Return the plan of an order into a folder; nothing is sent. Errors as of `era5`."""
    if order.source != CDS:
        return plan_copy(Path(out), order.product, order.source, *_grid(order, _needs(order), _today()))
    return _prepared(Path(out), order, jobs)[0]


def fetch_order(
    out: str | os.PathLike,
    order: Order,
    *,
    jobs: int = 4,
    timeout_hours: float = TIMEOUT_HOURS,
    progress: Progress | None = None,
    endpoint: str | None = None,
    again: str = "the same command",
) -> list[Path]:
    """Fetch an order into a folder; parameters and errors as of `era5` and `fluxcube.fetch.run.fetch_all`."""
    if not timeout_hours >= 0:
        raise ConfigError(f"timeout_hours must be 0 or a positive number of hours, found {timeout_hours}.")
    if order.source != CDS:
        return copy(Path(out), order.product, order.source, *_grid(order, _needs(order), _today()), progress)
    plan, ordered = _prepared(Path(out), order, jobs)
    if not plan.missing:  # no account is needed
        return fetch_all(plan, out, _nothing, progress=progress)
    try:
        import requests  # noqa: F401  (the modules that all share do not know for what they are imported)
    except ImportError:
        raise missing_package("requests", "fetch-era5", "fetching ERA5") from None
    from fluxcube.fetch.era5_cds import DataStore

    store, ledger = DataStore(3600.0 * timeout_hours, endpoint), Ledger(out)

    def one(item: Item, path: Path) -> object:
        request = ordered[item.name]
        return store.fetch(item, path, dataset=request.dataset, body=request.body, ledger=ledger)

    return fetch_all(plan, out, one, jobs=jobs, progress=progress, again=again)


def _prepared(folder: Path, order: Order, jobs: int) -> tuple[Plan, dict[str, Request]]:
    requests, notes = find_requests(order)
    items, ordered = _without_known(folder, requests)
    return _plan(folder, order, items, ordered, notes, jobs), ordered


def _nothing(item: Item, path: Path) -> object:
    raise AssertionError(f"{item.name} is there already")


def request_script(order: Order) -> str:
    """Return a Python program that sends the requests of an order, for a computer that has an account."""
    requests, notes = find_requests(order)
    return "\n".join([script(requests), *(f"# {note}" for note in notes)])


def find_requests(order: Order, today: date | None = None) -> tuple[list[Request], list[str]]:
    """Return the requests of an order, and notes for the user.

    Raises
    ------
    ConfigError
        If a variable cannot be derived from ERA5, or years, boxes or sites are invalid.
    """
    needs, today = _needs(order), today or _today()
    notes = list(needs.notes)
    if order.at_sites is None:
        place, periods, parameters = _grid(order, needs, today)
        return list(monthly_requests(order.product, place, periods, parameters, order.data_format)), notes
    requests: list[Request] = []
    places, more = _site_places(order, today)
    notes += more
    for place, years in places:
        periods = Period.of_years(years, needs.lead, order.product, today)
        requests += _at_site(order, place, periods, needs.parameters)
    left = [name for name in needs.parameters if name not in order.product.at_points and name not in ("z", "lsm")]
    if left:
        notes.append(
            f"{order.product.points} does not contain {', '.join(PARAMETERS[name].request for name in left)}: they are "
            "requested month by month"
            + (", which is slow: copy them from ARCO-ERA5 (fluxcube.copy_era5)." if len(requests) > _MANY else ".")
        )
    return requests, notes


def _today() -> date:
    return datetime.now(UTC).date()


def _grid(order: Order, needs: _Needs, today: date) -> tuple[Place, list[Period], tuple[str, ...]]:
    """Return the box, the periods and the parameters of an order that is not at sites."""
    box = order.bbox if order.bbox is not None else region_box(str(order.region))
    periods = Period.of_years(parse_years(order.years) or (), needs.lead, order.product, today)
    return Place.of_box(order.product, box), periods, needs.parameters


def _needs(order: Order) -> _Needs:
    """Return the parameters that an order needs, and the days before its first year."""
    lead, notes = 1, []
    if order.model is not None:
        specs = [one.spec for one in load_model(order.model).singles]
        names = list(dict.fromkeys(name for spec in specs for name in spec.predictors))
        lead += max((days for spec in specs for days in spec.memory_days), default=0)
        if any(spec.bands or spec.surface or spec.images for spec in specs):
            notes.append("the model needs images, too: fluxcube fetch modis.")
    elif order.variables is None:
        names = list(DEFAULT_VARIABLES)
    else:
        names = [order.variables] if isinstance(order.variables, str) else list(order.variables)
    parameters, missing = needed_parameters(names, order.product.without)
    if missing and order.model is None:
        raise ConfigError(
            f"{', '.join(missing)} cannot be derived from {order.product.dataset}: choose among the variables of "
            "docs/forcing.md."
        )
    if missing:
        notes.append(f"no parameter of {order.product.dataset} corresponds to {', '.join(missing)}: masked in maps.")
    static = tuple(name for name in ("z", "lsm") if name not in order.product.without)
    if not static:
        notes.append(
            "the CDS has no orography and land-sea mask of ERA5-Land: download both files from "
            "https://confluence.ecmwf.int/display/CKB/ERA5-Land and put them into the folder (models that use the "
            "elevation need them; cells outside the region are ignored)."
        )
    return _Needs((*parameters, *static), lead, tuple(notes))


def _at_site(order: Order, place: Place, periods: Sequence[Period], parameters: Sequence[str]) -> Iterator[Request]:
    """Yield the requests of a site: the series of a point as far as they have the parameters, and the rest by month."""
    at_points = [name for name in parameters if name in order.product.at_points]
    if at_points:
        yield from point_requests(order.product, place, periods, at_points)
    rest = [name for name in parameters if name not in at_points]
    yield from monthly_requests(order.product, place, periods, rest, order.data_format)


def _site_places(order: Order, today: date) -> tuple[list[tuple[Place, list[int]]], list[str]]:
    """Return the cell and the years of each site, and notes about sites that are left out."""
    assert order.at_sites is not None
    sites, notes = find_sites(order.at_sites)
    chosen = parse_years(order.years)
    if chosen is None and any(site.years is None for site in sites):
        example = to_type(python="years='2015-2018'", shell="--years 2015-2018")
        raise ConfigError(
            f"years: the sites have no years of their own: pass {example}, or a table with columns first_year and "
            "last_year."
        )
    places = []
    for site in sites:
        own = range(order.product.first_year, today.year + 1) if site.years is None else site.years
        years = [year for year in own if order.product.first_year <= year <= today.year]
        years = [year for year in years if chosen is None or year in chosen]
        if years:
            places.append((Place.of_site(order.product, site.name, site.latitude, site.longitude), years))
    if not places:
        raise ConfigError(f"no site of {len(sites)} has data in the requested years: choose other years.")
    return places, notes


def _without_known(folder: Path, requests: Iterable[Request]) -> tuple[list[Item], dict[str, Request]]:
    """Return items and their requests; parameters that other complete files of the folder contain are not requested.

    A second call with more variables, or for another model, fetches only what is missing. The other files are items,
    too, so that the result lists all files.
    """
    ledger = Ledger(folder)
    items: dict[str, Item] = {}
    ordered: dict[str, Request] = {}
    known = _complete(folder, ledger)
    for request in requests:
        others = [] if ledger.done(request.item()) else [one for one in known if _covers(one, request)]
        there = {name for one in others for name in _listed(one, "parameters")}
        items |= {one.name: one for one in others if set(_listed(one, "parameters")) & set(request.parameters)}
        rest = [name for name in request.parameters if name not in there]
        if rest:
            reduced = request.only(rest) if len(rest) < len(request.parameters) else request
            items[reduced.name], ordered[reduced.name] = reduced.item(), reduced
    return list(items.values()), ordered


def _covers(item: Item, request: Request) -> bool:
    """Return whether a file has the area and all days of a request."""
    return item.about.get("scope") == request.scope and set(request.days) <= set(_listed(item, "days"))


def _complete(folder: Path, ledger: Ledger) -> list[Item]:
    """Return the items of all complete files of ERA5 in a folder."""
    items = []
    for path in sorted([*folder.glob("era5*_*.*"), *folder.glob("*/era5*_*.*")]):
        entry = ledger.entry(path.relative_to(folder).as_posix())
        if entry is not None and isinstance(entry.get("about"), dict):
            item = Item(entry["name"], entry["key"], entry["size"], about=entry["about"])
            items += [item] if ledger.done(item) else []
    return items


def _listed(item: Item, what: str) -> list[str]:
    """Return a list of texts that the ledger has of a file."""
    values = item.about.get(what)
    return [str(value) for value in values] if isinstance(values, list) else []


def _plan(
    out: str | os.PathLike,
    order: Order,
    items: Sequence[Item],
    requests: Mapping[str, Request],
    notes: Iterable[str],
    jobs: int,
) -> Plan:
    source = f"{order.product.title} (Climate Data Store)"
    plan = make_plan(source, out, items, licence=order.product.licence)
    fields = [requests[item.name].fields for item in plan.missing]
    queue = (
        f"the CDS queues requests, for minutes or hours; {_SECONDS / 60:.0f} minutes are assumed for each. A stopped "
        "call finds its requests again."
    )
    return replace(
        plan,
        notes=(*notes, queue),
        seconds=_SECONDS * -(-len(fields) // max(1, jobs)),
        cost=f"{sum(fields)} fields in {len(fields)} requests, {max(fields, default=0)} at most in one",
    )
