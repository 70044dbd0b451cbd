"""The command that splits towers into training, validation and test towers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluxcube.errors import ConfigError
from fluxcube.terminal import Format, Overwrite, Seed, check_output_file, show_table

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def split(
    store: Annotated[str, typer.Argument(help="Cube with the towers to split.")],
    out: Annotated[Path, typer.Argument(help="File to write, e.g. folds.json.")],
    kind: Annotated[
        str,
        typer.Option(help="auto, per-igbp, kfold, blocks, time, warm-site, extrapolation, sites or benchmark:NAME."),
    ] = "kfold",
    k: Annotated[
        int | None, typer.Option(min=2, help="Number of folds of kfold, blocks and warm-site; default 5.")
    ] = None,
    buffer_km: Annotated[
        float | None,
        typer.Option(min=0, help="Towers closer than this are in the same part; default 50, for blocks 150."),
    ] = None,
    val_km: Annotated[
        float | None,
        typer.Option(min=0, help="Distance of validation blocks from training towers; default: the buffer."),
    ] = None,
    setting: Annotated[
        str | None, typer.Option(help="Dimension of an extrapolation: time, space (the default) or temperature.")
    ] = None,
    sites: Annotated[
        Path | None,
        typer.Option(help="File for the kind sites, with lines SITE or SITE,part; or a list by name, such as xbase."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    form: Format = "table",
) -> None:
    """Split towers into training, validation and test towers, before any training.

    Example: `fluxcube split carbonsense.zarr folds.json --kind kfold --k 5 --seed 0`, then
    `fluxcube train carbonsense.zarr runs/eco-1 --split folds.json:1`.
    """
    import pandas as pd

    from fluxcube.catalog import open_carbonsense
    from fluxcube.samples.splits import make_splits, save_folds

    check_output_file(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists: add --overwrite to replace it. Trained runs keep their own split.")
    splits = make_splits(
        open_carbonsense(store), kind, k=k, seed=seed, buffer_km=buffer_km, val_km=val_km, setting=setting, sites=sites
    )
    if len(splits) == 1:
        splits[0].save(out)
    else:
        save_folds(splits, out)
    places = [str(out)] if len(splits) == 1 else [f"{out}:{i}" for i in range(1, len(splits) + 1)]
    counts = [(one.kind, len(one.train), len(one.val), len(one.test)) for one in splits]
    rows = [(place, *count) for place, count in zip(places, counts, strict=True)]
    show_table(pd.DataFrame(rows, columns=["split", "kind", "train", "val", "test"]), form)
    for note in dict.fromkeys(note for one in splits for note in one.notes):
        typer.echo(note, err=True)
