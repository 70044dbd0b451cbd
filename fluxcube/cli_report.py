"""The command `report`: a page on models, maps and products at towers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fluxcube.errors import ConfigError
from fluxcube.terminal import AllowMissing, MaxQc, MinQuality, Overwrite, Seed, bar, names, quality_options

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def report(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, files of predictions (.nc), or folders of these, one for each fold; as PATH, LABEL=PATH or "
            "LABEL=PATH,PATH (folds of one model)."
        ),
    ] = None,
    cube: Annotated[
        Path | None, typer.Option(help="Cube with the measured fluxes; default: that of FLUXCUBE_DATA.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    maps: Annotated[
        list[str] | None, typer.Option(help="Maps to sample at the towers, as LABEL=STORE; may be repeated.")
    ] = None,
    product: Annotated[
        list[str] | None,
        typer.Option(help="Published product to sample at the towers, as LABEL=FILE or LABEL=URL (cf=FILE: CF)."),
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="Split file, or file of folds, of predictions that are passed without runs.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Train the ladder of simple models on the same split, and show it, too.")
    ] = False,
    part: Annotated[str, typer.Option(help="Part of a run's split to predict: test, val, train or all.")] = "test",
    target: Annotated[list[str] | None, typer.Option(help="Flux to score; may be repeated. Default: all.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Label of the model from which differences are computed; default: the first.")
    ] = None,
    clusters_km: Annotated[
        float, typer.Option(min=0, help="Size of the clusters of towers that intervals resample, km; 0: single towers.")
    ] = 50.0,
    draws: Annotated[int, typer.Option(min=0, help="Number of resampled sets; 0: no intervals.")] = 1000,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    seed: Seed = 0,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a page on models at towers that opens without a network, with its tables and figures as files.

    Example: `fluxcube report eco=runs/eco trees=runs/xgb --cube carbonsense.zarr --out report`. Folds of one model are
    joined:
    `fluxcube report "eco=runs/eco-1,runs/eco-2" "trees=runs/xgb-1,runs/xgb-2" --cube carbonsense.zarr`.
    """
    from fluxcube.catalog import open_carbonsense
    from fluxcube.reports.write import report as write

    by_label = {label: paths if len(paths) > 1 else paths[0] for label, paths in labelled(models or ()).items()}
    with bar("report") as progress:
        path = write(
            by_label,
            open_carbonsense(cube),
            out,
            maps=_opened("maps", maps or ()),
            products=_opened("product", product or ()),
            split=split,
            baselines=baselines,
            part=part,
            targets=names(",".join(target)) if target else None,
            against=against,
            **quality_options(max_qc, min_quality),
            clusters=clusters_km,
            draws=draws,
            seed=seed,
            title=title,
            allow_missing=allow_missing,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(str(path))


def labelled(texts: list[str] | tuple[str, ...]) -> dict[str, list[str]]:
    """Return the paths of each label, from texts such as ``LABEL=PATH,PATH`` or ``PATH``.

    Raises
    ------
    ConfigError
        If a label is there twice, or a text has no path.

    Examples
    --------
    >>> labelled(["eco=runs/a,runs/b", "runs/xgb"])
    {'eco': ['runs/a', 'runs/b'], 'xgb': ['runs/xgb']}
    """
    out: dict[str, list[str]] = {}
    for text in texts:
        label, equals, rest = text.partition("=")
        paths = [path for path in (rest if equals else text).split(",") if path]
        label = label.strip() if equals else Path(text.rstrip("/")).stem
        if not label or not paths:
            raise ConfigError(f"{text!r}: expected PATH or LABEL=PATH,PATH.")
        if label in out:
            raise ConfigError(f"the label {label!r} is there twice: pass LABEL=PATH with different labels.")
        out[label] = paths
    return out


def _opened(kind: str, texts: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Return maps or products by label, opened lazily."""
    from fluxcube.maps.store import open_maps
    from fluxcube.sources.products.open import open_product
    from fluxcube.sources.products.table import products

    if not texts:
        return {}
    out = {}
    for text in texts:
        label, equals, path = text.partition("=")
        if not equals or not label or not path:
            raise ConfigError(
                f"--{kind} {text!r}: expected LABEL={'STORE' if kind == 'maps' else 'FILE or LABEL=URL'}."
            )
        if label in out:
            raise ConfigError(f"--{kind}: the label {label!r} is there twice; use different labels.")
        if kind == "maps":
            out[label] = open_maps(path)
        else:  # a label that names a product, such as cf, decides how its file is read
            out[label] = open_product(path, label if label in products() else None)
    return out
