"""Commands that fetch MODIS."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode="markdown")
