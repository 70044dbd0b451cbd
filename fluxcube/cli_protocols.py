"""Commands for benchmark protocols: list them, and score runs or tables of predictions by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fluxcube.errors import ConfigError
from fluxcube.terminal import Format, bar, show_table

if TYPE_CHECKING:
    import xarray as xr

    from fluxcube.evaluation.protocols import Protocol

app = typer.Typer(rich_markup_mode="markdown")

#: The option of `evaluate` that names a protocol.
Name = Annotated[
    str | None,
    typer.Option(
        help="Benchmark protocol, e.g. fluxtrapolation/TA40 (`fluxcube protocols` lists them); --out is then a folder."
    ),
]


class Numbers(NamedTuple):
    """Options of the intervals: size of the clusters of sites (km), number of resampled sets, and seed."""

    clusters_km: float
    draws: int
    seed: int


@app.command()
def protocols(form: Format = "table") -> None:
    """List the benchmark protocols by which `fluxcube evaluate --protocol NAME` scores.

    Example: `fluxcube protocols`, then
    `fluxcube train carbonsense.zarr runs/ta40 --split benchmark:fluxtrapolation/TA40` and
    `fluxcube evaluate runs/ta40 carbonsense.zarr --protocol fluxtrapolation/TA40 --out scores/`.
    """
    import pandas as pd

    from fluxcube.evaluation.protocols import PROTOCOLS

    rows = [
        {
            "protocol": protocol.name,
            "steps": protocol.resolution,
            "targets": ", ".join(protocol.targets),
            "test sites": len(protocol.sites()),
            "aggregation": protocol.aggregation,
            "source": protocol.source,
        }
        for protocol in PROTOCOLS.values()
    ]
    table = pd.DataFrame(rows)
    if form in ("csv", "json"):
        show_table(table, form)
    else:
        notes = [
            f"{name.partition('/')[0]}: {source}." for name, source in zip(table.protocol, table.source, strict=True)
        ]
        show_table(table.drop(columns="source"), form, notes=list(dict.fromkeys(notes)))


def check_alone(**options: object) -> None:
    """Refuse options of `evaluate` that a benchmark protocol sets itself (ConfigError); None and False are not set."""
    passed = [f"--{name.replace('_', '-')}" for name, value in options.items() if value not in (None, False)]
    if passed:
        raise ConfigError(
            f"--protocol sets rows, scales and groups itself, and checks no digest: leave out {', '.join(passed)}."
        )


def check_form(form: str) -> None:
    """Refuse a form of `evaluate` that the scores of a protocol do not have (ConfigError)."""
    if form not in ("table", "md"):
        raise ConfigError(
            f"--protocol prints Markdown, not {form}: leave --format out, and pass --out FOLDER for CSV files."
        )


def score(
    name: str,
    runs: Sequence[Sequence[Path]],
    store: Path,
    out: Path | None,
    numbers: Numbers,
    *,
    missing: bool,
    other: bool,
    device: str | None = None,
) -> None:
    """Score runs, or tables of predictions, by a benchmark protocol, print the scores, and write the files.

    Parameters
    ----------
    name : str
        Protocol.
    runs : sequence of sequence of path
        The runs of each model to mix; or one table of predictions (CSV, parquet or NetCDF).
    store : path
        Cube, or the benchmark's own table.
    out : path, optional
        Folder to write.
    numbers : Numbers
        Options of the intervals.
    missing, other : bool
        Options --allow-missing and --allow-other-product of `evaluate`.
    device : str or None
        Device of the runs, as `fluxcube.load_model` takes it.
    """
    from fluxcube.evaluation.protocols import evaluate_protocol, find_protocol, write_protocol
    from fluxcube.evaluation.protocols.files import markdown
    from fluxcube.evaluation.protocols.tables import is_benchmark_table

    protocol = find_protocol(name)
    if out is not None and out.is_file():
        raise ConfigError(f"{out} is a file: --out of --protocol is a folder.")
    if numbers.draws < 100:
        raise ConfigError(f"--protocol needs --draws of at least 100, found {numbers.draws}.")
    table = is_benchmark_table(store)
    obs = _observed(protocol, store, table=table)
    predictions = {}
    for paths in runs:
        label = "+".join(path.name.removesuffix(".csv").removesuffix(".nc") for path in paths)
        if label in predictions:
            raise ConfigError(f"two models are named {label}: rename a folder or file.")
        predictions[label] = _predicted(
            label,
            paths,
            None if table else obs,
            by_seed=protocol.benchmark == "carbonsense",
            missing=missing,
            other=other,
            device=device,
        )
    scores = evaluate_protocol(
        protocol, obs, predictions, clusters=numbers.clusters_km, draws=numbers.draws, seed=numbers.seed
    )
    typer.echo(markdown(scores))
    if out is not None:
        for path in write_protocol(scores, out, overwrite=True):
            typer.echo(str(path), err=True)


def _observed(protocol: Protocol, store: Path, *, table: bool) -> xr.Dataset:
    """Return the observations: a benchmark's own table, or the test sites of a cube."""
    from fluxcube.catalog import open_carbonsense
    from fluxcube.errors import SplitError
    from fluxcube.evaluation.protocols import read_benchmark

    if table:
        return read_benchmark(store, sites=protocol.sites())
    cube = open_carbonsense(store)
    sites = [site for site in map(str, cube["site"].values) if site in set(protocol.sites())]
    if not sites:
        raise SplitError(f"{store} contains none of the {len(protocol.sites())} test sites of {protocol.name}.")
    return cube.sel(site=sites)


def _predicted(
    label: str,
    paths: Sequence[Path],
    cube: xr.Dataset | None,
    *,
    by_seed: bool,
    missing: bool,
    other: bool,
    device: str | None,
) -> list[xr.Dataset]:
    """Return the predictions of a model, one for each of its seeds."""
    from fluxcube.evaluation.protocols import read_predicted_table
    from fluxcube.evaluation.protocols.tables import is_benchmark_table
    from fluxcube.evaluation.report import read_predictions
    from fluxcube.inference.loading import load_model
    from fluxcube.inference.towers import predict

    if len(paths) == 1 and paths[0].is_file():
        file = paths[0]
        return [read_predicted_table(file) if is_benchmark_table(file) else read_predictions(file)]
    if cube is None:
        raise ConfigError(
            f"{label}: a benchmark's own table contains no inputs for a run; pass a file of its predictions (CSV, "
            "parquet or NetCDF), or a cube of these towers."
        )
    # The table of CarbonSense averages the scores of seeds; the other protocols score the mean prediction.
    seeds = sorted(path for path in paths[0].glob("seed-*") if path.is_dir()) if by_seed and len(paths) == 1 else []
    models = [[seed] for seed in seeds] or [list(paths)]
    with bar(f"predict {label}") as progress:
        return [
            predict(
                load_model(model, device=device),
                cube,
                allow_missing=missing,
                allow_other_product=other,
                progress=progress,
            )
            for model in models
        ]
