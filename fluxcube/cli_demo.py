"""The command that runs the whole pipeline on a simulated planet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fluxcube.terminal import Overwrite, Seed, bar

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use a smaller planet and shorter training, as a test.")
    ] = False,
    model: Annotated[
        Literal["both", "ecoperceiver", "xgboost"],
        typer.Option(help="Model to train beside two simple ones; xgboost needs no torch."),
    ] = "both",
    from_services: Annotated[
        bool,
        typer.Option("--from-services", help="Fetch the raw files from local servers, as from the real services."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the whole pipeline on a simulated planet, from raw files to scored maps.

    Example: `fluxcube demo --out demo --seed 1`.
    """
    from fluxcube.demo import run_demo

    with bar("demo") as progress:
        result = run_demo(
            out,
            seed=seed,
            quick=quick,
            model=model,
            from_services=from_services,
            overwrite=overwrite,
            progress=progress,
            log=typer.echo,
        )
    typer.echo(result.text)
