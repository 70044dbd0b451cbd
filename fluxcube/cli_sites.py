"""Commands about sites: add one of a user's own to a cube, and cite those of a cube."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluxcube.errors import ConfigError, without_secrets
from fluxcube.terminal import Format, Overwrite, bar, show_table

app = typer.Typer(rich_markup_mode="markdown")


@app.command("add-site")
def add_site(
    table: Annotated[Path, typer.Argument(help="CSV file or spreadsheet of one site.")],
    store: Annotated[
        str | None, typer.Argument(help="Cube to add the site to; one of this site alone is made if there is none.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Name of the site, e.g. XX-Own.")] = None,
    latitude: Annotated[float | None, typer.Option(help="Degrees north.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Degrees east.")] = None,
    utc_offset: Annotated[float | None, typer.Option(help="Hours east of UTC of the times, standard time.")] = None,
    igbp: Annotated[str | None, typer.Option(help="IGBP class, e.g. GRA.")] = None,
    elevation: Annotated[float | None, typer.Option(help="Metres above sea level.")] = None,
    columns: Annotated[str | None, typer.Option(help="Column of each variable: NEE=Fc,TA=Tair.")] = None,
    units: Annotated[str | None, typer.Option(help="Units in the file: NEE=umol m-2 s-1,TA=degC.")] = None,
    flags: Annotated[str | None, typer.Option(help="Columns of quality flags: NEE=qc_Fc.")] = None,
    stamp: Annotated[str | None, typer.Option(help="Whether a time is the start, middle or end of its period.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Column of times, or those of dates and of clock times: Date,Time.")
    ] = None,
    time_format: Annotated[str | None, typer.Option(help="Format of times, e.g. '%d/%m/%Y %H:%M'.")] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            help="Accept a variable that others contradict, or utc_offset that sunlight contradicts (repeat for more)."
        ),
    ] = None,
    declaration: Annotated[Path | None, typer.Option(help="TOML file with these options, of --describe.")] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print such a file with guesses from the header, to edit.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Report what was understood, and write nothing.")] = False,
    overwrite: Overwrite = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the earlier state of the cube.")] = False,
) -> None:
    """Add your own site to a cube.

    Example: `fluxcube add-site my_site.csv --describe > my_site.toml`; edit it, then
    `fluxcube add-site my_site.csv carbonsense.zarr --declaration my_site.toml` (first with `--plan`).
    """
    from fluxcube.cubes import own_site

    if describe:
        typer.echo(own_site.describe_site(table), nl=False)
        return
    with bar("add-site") as progress:
        found = own_site.add_site(
            table,
            store,
            declaration=declaration,
            plan=plan,
            overwrite=overwrite,
            keep=keep,
            progress=progress,
            site=site,
            latitude=latitude,
            longitude=longitude,
            utc_offset=utc_offset,
            igbp=igbp,
            elevation=elevation,
            columns=own_site.pairs(columns, "--columns"),
            units=own_site.pairs(units, "--units"),
            flags=own_site.pairs(flags, "--flags"),
            stamp=stamp,
            time=None if time is None else tuple(part.strip() for part in time.split(",")),
            time_format=time_format,
            trust=None if trust is None else tuple(trust),
        )
    typer.echo(str(found))
    if not plan:
        typer.echo(f"{without_secrets(str(store))}: {found.record.attrs['site']} added")


@app.command()
def citations(
    store: Annotated[str, typer.Argument(help="Cube whose towers are cited.")],
    site: Annotated[list[str] | None, typer.Option(help="A tower; may be repeated. Default: all.")] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Write BibTeX instead of a table.")] = False,
    form: Format = "table",
) -> None:
    """Print what to cite for the towers of a cube: publication, DOI and licence of each.

    Example: `fluxcube citations carbonsense.zarr --bibtex > towers.bib`.
    """
    from fluxcube.catalog import open_carbonsense

    if bibtex and form != "table":
        raise ConfigError(f"--bibtex is a form of its own: leave out --format {form}.")
    cube = open_carbonsense(store, sites=site or None)
    if bibtex:
        typer.echo(cube.fluxcube.citations(format="bibtex"))
    else:
        show_table(cube.fluxcube.citations(), form)
