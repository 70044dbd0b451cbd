"""Commands that fetch data from the services that publish them."""

from __future__ import annotations

import typer

from fluxcube.cli_fetch_era5 import app as era5_app
from fluxcube.cli_fetch_modis import app as modis_app

app = typer.Typer(
    name="fetch",
    help="Fetch towers, ERA5 and MODIS; the same command continues a stopped fetch, and --plan only lists it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

app.add_typer(era5_app)
app.add_typer(modis_app)
