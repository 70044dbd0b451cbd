"""Commands that fetch ERA5, and that print requests for it."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode="markdown")
request_app = typer.Typer(rich_markup_mode="markdown", help="Print a request, to be sent where the account is.")
