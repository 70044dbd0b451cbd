"""The command that fetches tower data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluxcube.tabletext import counted
from fluxcube.terminal import PlanForm, bar, box, check_plan_form, names, show_plan

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def towers(
    out: Annotated[Path, typer.Argument(help="Folder of the archives; it is made if it does not exist.")],
    source: Annotated[
        str,
        typer.Option(
            help="shuttle (FLUXNET archives of AmeriFlux, ICOS and TERN, no account), icos, ameriflux (account in "
            "AMF_USER and AMF_EMAIL), zenodo (the published CarbonSense); fluxnet2015, fluxnet-ch4 and japanflux name "
            "the page from which a person downloads."
        ),
    ] = "shuttle",
    sites: Annotated[str | None, typer.Option(help="Comma-separated sites, e.g. DE-Hai,US-Ha1.")] = None,
    igbp: Annotated[str | None, typer.Option(help="Comma-separated IGBP classes, e.g. DBF,ENF.")] = None,
    years: Annotated[
        str | None, typer.Option(help="Archives with at least one of these years, e.g. 2015-2020.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="Comma-separated networks or hubs, e.g. NEON,OzFlux.")] = None,
    bbox: Annotated[str | None, typer.Option(help="Area: west,south,east,north in degrees.")] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Snapshot of the FLUXNET Shuttle (CSV); default: what its hubs list today.")
    ] = None,
    release: Annotated[str, typer.Option(help="Release of the published CarbonSense, for zenodo: v1 or v2.")] = "v1",
    table: Annotated[
        Path | None, typer.Option(help="Write the selected archives, with citations, as CSV; also a --snapshot.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="List files, bytes, time and licence; download nothing.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=16, help="Number of archives fetched at the same time.")] = 2,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute checksums of archives that are there; fetch changed ones again.")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Address of a mirror or test server of the services; default: their own.")
    ] = None,
    form: PlanForm = "table",
) -> None:
    """Fetch archives of flux towers; the same command continues a stopped fetch.

    Example: `fluxcube fetch towers raw/ --igbp DBF --years 2015-2020 --plan`, then without `--plan`, then
    `fluxcube build raw/ carbonsense.zarr`.
    """
    from fluxcube.fetch import towers as fetch_towers
    from fluxcube.fetch.items import Plan

    check_plan_form(form, plan)
    with bar("fetch") as progress:
        result = fetch_towers(
            out,
            source=source,
            sites=names(sites),
            igbp=names(igbp),
            years=years,
            network=names(network),
            bbox=box(bbox),
            snapshot=snapshot,
            release=release,
            table=table,
            plan=plan,
            jobs=jobs,
            verify=verify,
            progress=progress,
            endpoint=endpoint,
        )
    if isinstance(result, Plan):
        show_plan(result, form)
    else:
        typer.echo(f"{out}: {counted(len(result), 'file')}; licence and citations in {out / 'LICENCE.md'}")
