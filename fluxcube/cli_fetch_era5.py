"""Commands that fetch ERA5, and that print requests for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcube.errors import ConfigError
from fluxcube.terminal import bar, box, line_progress, names

if TYPE_CHECKING:
    from fluxcube.fetch.era5_fetch import Order

app = typer.Typer(rich_markup_mode="markdown")
request_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Print a request, to be sent where the account is.",
)

Years = Annotated[
    str | None, typer.Option(help="Years: 2018, 2016-2018 or 2016,2018. With --at-sites, default: those of each site.")
]
Region = Annotated[str | None, typer.Option(help="Name of a region, such as europe, alps or world.")]
Bbox = Annotated[str | None, typer.Option(help="Area: west,south,east,north in degrees.")]
AtSites = Annotated[Path | None, typer.Option(help="Cube: the cells of its sites, in a folder for each site.")]
For = Annotated[
    list[str] | None,
    typer.Option("--for", help="Run folder, or shipped model, whose inputs are fetched; may be repeated."),
]
Variables = Annotated[
    str | None, typer.Option(help="Tower variables, such as TA,SW_IN; default TA,SW_IN,LW_IN,VPD,PA,P,WS.")
]
Format = Annotated[str, typer.Option("--format", help="Format of the files: netcdf or grib.")]
Source = Annotated[
    str,
    typer.Option(
        "--from",
        help="cds, or a cloud store: arco-era5 (no account), earth-data-hub-era5, or an address of a Zarr store.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the files.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Only list requests, bytes, time and quota; order nothing.")]
Jobs = Annotated[int, typer.Option(min=1, max=20, help="Number of requests that are queued at the same time.")]
Timeout = Annotated[
    float, typer.Option(min=0.0, help="Hours that a request may wait in the queue; a later call finds it again.")
]
Endpoint = Annotated[
    str | None,
    typer.Option(help="Address (with /api) of a mirror or test server of the CDS, used without your account."),
]


@app.command("era5")
def fetch_era5(
    years: Years = None,
    region: Region = None,
    bbox: Bbox = None,
    at_sites: AtSites = None,
    model: For = None,
    variables: Variables = None,
    data_format: Format = "netcdf",
    source: Source = "cds",
    out: Out = Path("era5"),
    plan: PlanOnly = False,
    jobs: Jobs = 4,
    timeout: Timeout = 24.0,
    endpoint: Endpoint = None,
) -> None:
    """Fetch hourly ERA5 from the Climate Data Store (needs a free account: ~/.cdsapirc).

    Example: `fluxcube fetch era5 --region alps --years 2018 --for ecoperceiver-towers --out era5`. Without an account,
    `--from arco-era5` copies the region from a public store.
    """
    order = _order("era5", years, region, bbox, at_sites, model, variables, data_format, source)
    _run(order, out, plan, jobs, timeout, endpoint)


@app.command("era5-land")
def fetch_era5_land(
    years: Years = None,
    region: Region = None,
    bbox: Bbox = None,
    at_sites: AtSites = None,
    model: For = None,
    variables: Variables = None,
    data_format: Format = "netcdf",
    source: Source = "cds",
    out: Out = Path("era5-land"),
    plan: PlanOnly = False,
    jobs: Jobs = 4,
    timeout: Timeout = 24.0,
    endpoint: Endpoint = None,
) -> None:
    """Fetch hourly ERA5-Land from the Climate Data Store (needs a free account: ~/.cdsapirc).

    Example: `fluxcube fetch era5-land --bbox 5,45,11,48 --years 2018-2019 --plan`.
    """
    order = _order("era5-land", years, region, bbox, at_sites, model, variables, data_format, source)
    _run(order, out, plan, jobs, timeout, endpoint)


@request_app.command("era5")
def print_era5(
    years: Years = None,
    region: Region = None,
    bbox: Bbox = None,
    at_sites: AtSites = None,
    model: For = None,
    variables: Variables = None,
    data_format: Format = "netcdf",
) -> None:
    """Print a Python program that requests ERA5, to be run where the account is.

    Example: `fluxcube request era5 --bbox 5,45,11,48 --years 2018 > request.py`.
    """
    _print(_order("era5", years, region, bbox, at_sites, model, variables, data_format))


@request_app.command("era5-land")
def print_era5_land(
    years: Years = None,
    region: Region = None,
    bbox: Bbox = None,
    at_sites: AtSites = None,
    model: For = None,
    variables: Variables = None,
    data_format: Format = "netcdf",
) -> None:
    """Print a Python program that requests ERA5-Land, to be run where the account is.

    Example: `fluxcube request era5-land --region iberia --years 2018 > request.py`.
    """
    _print(_order("era5-land", years, region, bbox, at_sites, model, variables, data_format))


def parse_years(text: str | None) -> tuple[int, ...] | None:
    """Parse years and ranges of years (ConfigError if it is not such a list).

    Examples
    --------
    >>> parse_years("2010, 2016-2018")
    (2010, 2016, 2017, 2018)
    """
    years: list[int] = []
    for part in names(text) or ():
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise ConfigError(f"--years: expected years such as 2018, 2016-2018 or 2016,2018; found {text!r}.")
        years += range(int(first), int(last or first) + 1)
    return tuple(years) if text is not None else None


def _order(
    product: str,
    years: str | None,
    region: str | None,
    bbox: str | None,
    at_sites: Path | None,
    model: list[str] | None,
    variables: str | None,
    data_format: str,
    source: str = "cds",
) -> Order:
    from fluxcube.fetch.era5_fetch import Order
    from fluxcube.fetch.era5_request import ERA5, ERA5_LAND

    return Order(
        product={"era5": ERA5, "era5-land": ERA5_LAND}[product],
        years=parse_years(years),
        region=region,
        bbox=box(bbox),
        at_sites=at_sites,
        model=model or None,
        variables=names(variables),
        data_format=data_format,
        source=source,
    )


def _run(order: Order, out: Path, plan: bool, jobs: int, timeout: float, endpoint: str | None) -> None:
    from fluxcube.fetch.era5_fetch import fetch_order, plan_order

    if plan:
        typer.echo(plan_order(out, order, jobs=jobs).text())
        return
    again = f"`{' '.join(['fluxcube', *sys.argv[1:]])}`" if sys.argv[1:2] == ["fetch"] else "the same command"
    with bar(order.product.title) as progress:
        paths = fetch_order(
            out,
            order,
            jobs=jobs,
            timeout_hours=timeout,
            progress=progress or line_progress(),
            endpoint=endpoint,
            again=again,
        )
    typer.echo(
        f"{out}: {len(paths)} files of {order.product.title}; open them with fluxcube.open_forcing({str(out)!r})"
    )


def _print(order: Order) -> None:
    from fluxcube.fetch.era5_fetch import request_script

    typer.echo(request_script(order))
