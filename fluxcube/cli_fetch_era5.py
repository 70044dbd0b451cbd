"""Commands that fetch ERA5, and that print requests for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxcube.tabletext import counted
from fluxcube.terminal import bar, box, names

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
Bbox = Annotated[str | None, typer.Option(help="Area: west,south,east,north in degrees; west > east crosses 180.")]
AtSites = Annotated[
    str | None,
    typer.Option(
        help="Cube, table with site, latitude and longitude (and first_year, last_year), or ids of known towers such "
        "as DE-Tha,US-Ha1: the cells of the sites, in a folder for each site."
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", "--for", help="Run folder, or shipped model, whose inputs are fetched; may be repeated."),
]
Variables = Annotated[
    str | None, typer.Option(help="Tower variables, such as TA,SW_IN; default TA,SW_IN,LW_IN,VPD,PA,P,WS.")
]
DataFormat = Annotated[str, typer.Option("--data-format", "--format", help="Format of the files: netcdf or grib.")]
Source = Annotated[
    str,
    typer.Option(
        "--source",
        "--from",
        help="cds, or a cloud store: arco-era5 (no account), earth-data-hub-era5, earth-data-hub-era5-land, or an "
        "address of a Zarr store.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of the files.")]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Only list requests, bytes, time and quota; order nothing.")]
Jobs = Annotated[int, typer.Option(min=1, max=20, help="Number of requests that are queued at the same time.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout-hours",
        "--timeout",
        min=0.0,
        help="Hours that a request may wait in the queue; a later call finds it again.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(help="Address (with /api) of a mirror or test server of the CDS, used without your account."),
]

#: Name of a product in commands, its title, and the example and a hint in the help.
_PRODUCTS = (
    (
        *("era5", "ERA5", "--region alps --years 2018 --model ecoperceiver-towers"),
        " Without an account, `--source arco-era5` copies the region from a public store.",
    ),
    ("era5-land", "ERA5-Land", "--bbox 5,45,11,48 --years 2018-2019", ""),
)


def _fetch_command(product: str) -> Callable[..., None]:
    """Return the command that fetches a product."""

    def fetch(
        years: Years = None,
        region: Region = None,
        bbox: Bbox = None,
        at_sites: AtSites = None,
        model: Model = None,
        variables: Variables = None,
        data_format: DataFormat = "netcdf",
        source: Source = "cds",
        out: Out = Path(product),
        plan: PlanOnly = False,
        jobs: Jobs = 4,
        timeout_hours: Timeout = 24.0,
        endpoint: Endpoint = None,
    ) -> None:
        options = _options(years, region, bbox, at_sites, model, variables, data_format)
        _run(_order(product, source=source, **options), out, plan, jobs, timeout_hours, endpoint)

    return fetch


def _request_command(product: str) -> Callable[..., None]:
    """Return the command that prints the requests for a product."""

    def request(
        years: Years = None,
        region: Region = None,
        bbox: Bbox = None,
        at_sites: AtSites = None,
        model: Model = None,
        variables: Variables = None,
        data_format: DataFormat = "netcdf",
    ) -> None:
        from fluxcube.fetch.era5_fetch import request_script

        options = _options(years, region, bbox, at_sites, model, variables, data_format)
        typer.echo(request_script(_order(product, **options)))

    return request


for _name, _title, _example, _more in _PRODUCTS:
    app.command(
        _name,
        help=f"Fetch hourly {_title} from the Climate Data Store (needs a free account: ~/.cdsapirc).\n\n"
        f"Example: `fluxcube fetch {_name} {_example} --plan`.{_more}",
    )(_fetch_command(_name))
    request_app.command(
        _name,
        help=f"Print a Python program that requests {_title}, to be run where the account is.\n\n"
        f"Example: `fluxcube request {_name} {_example} > request.py`.",
    )(_request_command(_name))


def _options(
    years: str | None,
    region: str | None,
    bbox: str | None,
    at_sites: str | None,
    model: list[str] | None,
    variables: str | None,
    data_format: str,
) -> dict[str, Any]:
    """Return the texts of a command as options of an order."""
    return {
        "years": years,
        "region": region,
        "bbox": box(bbox),
        "at_sites": at_sites,
        "model": model or None,
        "variables": names(variables),
        "data_format": data_format,
    }


def _order(product: str, **options: Any) -> Order:
    from fluxcube.fetch.era5_fetch import Order
    from fluxcube.fetch.era5_request import ERA5, ERA5_LAND

    return Order(product={"era5": ERA5, "era5-land": ERA5_LAND}[product], **options)


def _run(order: Order, out: Path, plan: bool, jobs: int, timeout: float, endpoint: str | None) -> None:
    from fluxcube.fetch.era5_fetch import fetch_order, plan_order

    if plan:
        typer.echo(plan_order(out, order, jobs=jobs).text())
        return
    again = f"`{shlex.join(['fluxcube', *sys.argv[1:]])}`" if sys.argv[1:2] == ["fetch"] else "the same command"
    with bar(order.product.title) as progress:
        paths = fetch_order(
            out,
            order,
            jobs=jobs,
            timeout_hours=timeout,
            progress=progress,
            endpoint=endpoint,
            again=again,
        )
    typer.echo(
        f"{out}: {counted(len(paths), 'file')} of {order.product.title}; "
        f"open them with fluxcube.open_forcing({str(out)!r})"
    )
