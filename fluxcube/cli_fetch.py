"""Commands that fetch data from the services that publish them."""

from __future__ import annotations

import typer

from fluxcube.cli_fetch_era5 import app as era5_app
from fluxcube.cli_fetch_modis import app as modis_app
from fluxcube.cli_fetch_towers import app as towers_app

app = typer.Typer(
    name="fetch",
    help="Fetch towers, ERA5 and MODIS; the same command continues a stopped fetch, and --plan only lists it.\n\n"
    "Example: `fluxcube fetch towers raw/ --igbp DBF --plan`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

app.add_typer(towers_app)
app.add_typer(era5_app)
app.add_typer(modis_app)
