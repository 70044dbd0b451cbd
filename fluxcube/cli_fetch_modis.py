"""Commands that fetch MODIS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fluxcube.tabletext import counted
from fluxcube.terminal import PlanForm, bar, box, check_plan_form, names, show_plan

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def modis(
    out: Annotated[Path, typer.Argument(help="Folder of the files, e.g. modis/; it is made if it does not exist.")],
    service: Annotated[
        Literal["earthengine", "earthdata", "planetary", "appeears"], typer.Option(help="Where to fetch from.")
    ] = "earthengine",
    products: Annotated[
        str | None,
        typer.Option(
            help="MCD43A4, MCD43A2, MOD09GA, MODOCGA, MCD12Q1, separated by commas; "
            "default: those of chips, and land cover for an area."
        ),
    ] = None,
    at_sites: Annotated[
        str | None,
        typer.Option(
            help="Cube, table with site, latitude and longitude (and first_year, last_year), or ids of known towers "
            "such as DE-Tha,US-Ha1."
        ),
    ] = None,
    bbox: Annotated[
        str | None, typer.Option(help="Area: west,south,east,north in degrees; west > east crosses 180.")
    ] = None,
    tiles: Annotated[str | None, typer.Option(help="Tiles, separated by commas, e.g. h18v04,h18v03.")] = None,
    years: Annotated[
        str | None, typer.Option(help="Years, e.g. 2018 or 2015-2018,2020; default: those of each site of a cube.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Each n-th day of the year.")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="List requests, bytes, time and quota; order nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Number of files fetched at the same time.")] = 4,
    project: Annotated[
        str | None, typer.Option(help="Google Cloud project (Earth Engine); default: EARTHENGINE_PROJECT.")
    ] = None,
    series: Annotated[
        bool, typer.Option("--series", help="AppEEARS: a table of the pixel at each site instead of chips.")
    ] = False,
    wait_hours: Annotated[float, typer.Option(help="AppEEARS: longest wait in its queue, hours.")] = 24.0,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of a mirror or test server of the service; default: the service's own.")
    ] = None,
    form: PlanForm = "table",
) -> None:
    """Fetch MODIS around sites, or of an area; the same command continues a stopped fetch.

    Example: `fluxcube fetch modis modis/ --at-sites sites.csv --years 2015-2018 --plan`.
    """
    from fluxcube.fetch import modis as fetch_modis

    check_plan_form(form, plan)
    with bar("modis") as progress:
        result = fetch_modis(
            out,
            service=service,
            products=names(products),
            at_sites=at_sites,
            bbox=box(bbox),
            tiles=names(tiles),
            years=years,
            every=every,
            plan=plan,
            jobs=jobs,
            progress=progress,
            project=project,
            series=series,
            wait_hours=wait_hours,
            endpoint=endpoint,
        )
    if isinstance(result, list):
        typer.echo(f"{out}: {counted(len(result), 'file')}")
    else:
        show_plan(result, form)
