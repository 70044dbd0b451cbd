"""The command line: commands parse options, call the library and print results.

Exit status: 0 success; 1 a one-line error; 2 wrong usage; 3 success, but something was left out (and is listed);
128 and the number of a signal that ended the command: 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcube import __version__, cli_maps, cli_protocols
from fluxcube.cli_demo import app as demo_app
from fluxcube.cli_extensions import app as extensions_app
from fluxcube.cli_fetch import app as fetch_app
from fluxcube.cli_fetch_era5 import request_app
from fluxcube.cli_grids import app as grids_app
from fluxcube.cli_models import app as models_app
from fluxcube.cli_models import models_by_name
from fluxcube.cli_plot import app as plot_app
from fluxcube.cli_report import app as report_app
from fluxcube.cli_sites import app as sites_app
from fluxcube.cli_split import app as split_app
from fluxcube.cli_train import train
from fluxcube.errors import ConfigError, without_secrets
from fluxcube.tabletext import counted
from fluxcube.terminal import (
    AllowMissing,
    Commands,
    Device,
    Digest,
    Format,
    MaxQc,
    MinQuality,
    Mix,
    Overwrite,
    Seed,
    bar,
    check_output_file,
    quality_options,
    run_app,
    show_table,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    import xarray as xr

    from fluxcube.evaluation.skill import IntervalOptions
    from fluxcube.evaluation.sums import QualityOptions
    from fluxcube.inference.predictor import Predictor
    from fluxcube.samples.partition import Split

app = typer.Typer(
    help="Carbon fluxes from towers, satellites and reanalysis: build cubes, train models, write flux maps.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(chosen: bool) -> None:
    """Print the version and end, if --version was chosen."""
    if chosen:
        typer.echo(f"fluxcube {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    """Carbon fluxes from towers, satellites and reanalysis: build cubes, train models, write flux maps."""


#: Exit status of a command that succeeded but left something out.
LEFT_OUT = 3


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Folder of raw archives, a cube, maps (also s3://...), or a run.")],
    resolution: Annotated[str, typer.Option(help="Resolution of the cube to build: hourly or daily.")] = "hourly",
    order: Annotated[str, typer.Option(help="Preferred publication of a site: newest or paper.")] = "newest",
    everything: Annotated[bool, typer.Option("--all", help="List every file that is not used.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every chunk of a store and compare checksums.")
    ] = False,
) -> None:
    """Report the contents of raw archives, a cube, maps or a run: what is used, what is not, and why.

    Example: `fluxcube inspect downloads/`.
    """
    from fluxcube.inventory import inspect as describe
    from fluxcube.inventory import verify_store

    if verify:
        with bar("verify") as progress:
            text = verify_store(path, progress=progress)
        typer.echo(text)
        return

    with bar("inspect") as progress:
        text = describe(
            path, order=order, resolution=resolution, max_files=None if everything else 10, progress=progress
        )
    typer.echo(text)


@app.command()
def build(
    raw: Annotated[Path, typer.Argument(help="Folder of downloaded archives, with BADM or site tables.")],
    store: Annotated[str, typer.Argument(help="Cube to write, e.g. carbonsense.zarr or s3://bucket/carbonsense.zarr.")],
    also: Annotated[list[Path] | None, typer.Option(help="Another folder of archives; may be repeated.")] = None,
    modis: Annotated[
        Path | None, typer.Option(help="Folder of MCD43A4 and MCD43A2 rasters (MOD09GA for a daily cube).")
    ] = None,
    surface: Annotated[
        list[Path] | None,
        typer.Option(help="Surface reflectance: folder of MOD09GA rasters, or a file of series; may be repeated."),
    ] = None,
    max_distance_km: Annotated[
        float,
        typer.Option(
            "--max-distance-km",
            "--max-distance",
            help="Maximum distance of the place of a series from the site of its name.",
        ),
    ] = 2.0,
    land_cover: Annotated[
        Path | None, typer.Option(help="MCD12Q1 rasters, for sites whose metadata contain no class.")
    ] = None,
    drivers: Annotated[
        list[Path] | None,
        typer.Option(
            help="Second source of predictors, e.g. reanalysis: a folder of ERAI or ERA5 files (RAW itself for those "
            "of the archives), a table of sites, or a forcing; may be repeated."
        ),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="Build this site only; may be repeated.")] = None,
    resolution: Annotated[str, typer.Option(help="hourly (UTC) or daily (local days).")] = "hourly",
    order: Annotated[str, typer.Option(help="Preferred publication of a site: newest or paper.")] = "newest",
    rule: Annotated[str, typer.Option(help="Preferred source of a value: newest or quality.")] = "newest",
    clock: Annotated[str, typer.Option(help="Clock of the predictors DOY and TOD: solar or standard time.")] = "solar",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Stop at the first site that cannot be read or has no sure clock and place."),
    ] = False,
    trust: Annotated[
        list[str] | None, typer.Option(help="Accept the unit and sign of this variable in any record; may be repeated.")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Keep an existing cube; add new and changed sites.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Round to the decimals of the source (0.59 of the size, needs fluxcube).")
    ] = False,
    overwrite: Overwrite = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the earlier state of a cube that is replaced or appended to.")
    ] = False,
) -> None:
    """Build the CarbonSense cube from raw tower archives.

    Example: `fluxcube build downloads/ carbonsense.zarr --modis tiles/`, and with `--append` after more downloads.
    Exit status 3 if a site was left out.
    """
    from fluxcube.cubes.carbonsense import build_carbonsense

    with bar("build") as progress:
        report = build_carbonsense(
            [raw, *(also or [])],
            store,
            resolution=resolution,
            modis=modis,
            surface=tuple(surface or ()),
            max_distance_km=max_distance_km,
            land_cover=land_cover,
            drivers=tuple(drivers) if drivers else False,
            sites=site,
            order=order,
            rule=rule,
            clock=clock,
            strict=strict,
            trust=tuple(trust or ()),
            append=append,
            compact=compact,
            overwrite=overwrite,
            keep=keep,
            progress=progress,
        )
    from fluxcube.tabletext import counted

    kept = f", {len(report.unchanged)} of them unchanged" if append else ""
    typer.echo(f"{without_secrets(str(report.store))}: {counted(len(report.sites), 'site')}{kept}")
    for name, reason in report.left_out.items():
        typer.echo(f"left out {name}: {reason}", err=True)
    if report.left_out:
        raise typer.Exit(LEFT_OUT)


app.command()(train)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="Run folder, also in a bucket: s3://bucket/run.")],
    store: Annotated[
        str | None, typer.Argument(help="Cube with the measured fluxes; default: that of FLUXCUBE_DATA.")
    ] = None,
    mix: Mix = None,
    digest: Digest = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Another run, scored at the same hours; may be repeated.")
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(help="Maps that `upscale` wrote, scored in the cells of the towers; may be repeated."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Groups: igbp (the default), koppen, climate, continent, site, network, season, year, time_of_day or "
            "subset; several, as igbp,season; all: no groups."
        ),
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the run's split to score: test, val, train or all.")] = "test",
    clusters_km: Annotated[
        float, typer.Option(min=0, help="Size of the clusters of sites that intervals resample, km; 0: single sites.")
    ] = 50.0,
    draws: Annotated[int, typer.Option(min=0, help="Number of resampled sets; 0: no intervals.")] = 1000,
    scales: Annotated[
        bool, typer.Option("--scales", help="Score at eight scales, from hourly (or daily) to spatial.")
    ] = False,
    protocol: cli_protocols.Name = None,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    drivers: Annotated[str | None, typer.Option(help="Source of the predictors: tower (default) or e.g. era5.")] = None,
    device: Device = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the table, as CSV.")] = None,
    form: Format = "table",
    allow_missing: AllowMissing = False,
    allow_other_product: Annotated[
        bool, typer.Option("--allow-other-product", help="Predict with another satellite product than in training.")
    ] = False,
) -> None:
    """Score runs on held-out towers: by default measured values only, the same for all runs, with intervals.

    Example: `fluxcube evaluate runs/eco carbonsense.zarr --against runs/xgb`; with `--mix runs/xgb`, the mean of both
    runs.
    With `--protocol`, RUN may be a file of predictions, and STORE a benchmark's own table of observations.
    """
    from fluxcube.catalog import default_store

    store = str(default_store() if store is None else store)
    if protocol is not None:
        cli_protocols.check_form(form)
        cli_protocols.check_alone(
            by=by,
            scales=scales,
            max_qc=max_qc,
            min_quality=min_quality,
            part=None if part == "test" else part,
            drivers=drivers,
            maps=maps,
            digest=digest,
        )
        from fluxcube.stores.objects import is_bucket

        if any(map(is_bucket, (run, store, *(mix or []), *(against or [])))):
            raise ConfigError("--protocol reads runs and cubes of a disk: copy them from the bucket.")
        runs = [[Path(one) for one in (run, *(mix or []))], *([Path(one)] for one in against or [])]
        numbers = cli_protocols.Numbers(clusters_km, draws, seed)
        others = {"missing": allow_missing, "other": allow_other_product}
        cli_protocols.score(protocol, runs, Path(store), out, numbers, **others, device=device)
        return
    from fluxcube.evaluation.groups import check_groups
    from fluxcube.evaluation.report import shown_scores
    from fluxcube.evaluation.scales import scale_table
    from fluxcube.evaluation.skill import compare
    from fluxcube.resolution import quality_limit, resolution_of

    _check_by(by)
    if out is not None:
        check_output_file(out)
    models = models_by_name([[run, *(mix or [])], *([path] for path in against or [])], digest, device)
    first = next(iter(models.values()))
    stored = cli_maps.named_maps(maps or [], taken=models)
    cube, limits = _part(first, part, store), quality_options(max_qc, min_quality)
    quality_limit(resolution_of(cube), **limits, default=None)  # refused before anything is predicted
    check_groups(cube, None if by == "all" else by)
    for name, model in models.items():
        if known := _known(model.split, first.split, part, cube):
            typer.echo(f"{name} was trained on sites that are scored here: {', '.join(known)}", err=True)
    predictions = {
        name: _predict(
            name, model, cube, std=not scales, missing=allow_missing, other=allow_other_product, drivers=drivers
        )
        for name, model in models.items()
    } | stored
    names = list(predictions)
    intervals: IntervalOptions = {
        "clusters": clusters_km if draws else None,
        "draws": draws,
        "seed": seed,
        "against": names[1] if len(names) > 1 else None,
    }
    if scales and by in (None, "all"):
        table = scale_table(cube, predictions, **limits, **intervals)
    elif scales:
        table = compare(cube, predictions, by=by, scales=True, **limits, **intervals)
    else:
        table = _score_table(cube, predictions, by or "igbp", first.spec.igbp_classes, limits, intervals)
    shown, notes = shown_scores(table)
    if form in ("table", "md"):
        show_table(shown, form, notes=[*notes, "More scores: --format csv or json, or --out."])
    else:
        show_table(table, form, notes=notes)
    if out is not None:
        write_table(table, out)


@app.command()
def energy(
    store: Annotated[
        str | None, typer.Argument(help="Cube with LE, H, NETRAD and G; default: that of FLUXCUBE_DATA.")
    ] = None,
    soil_heat: Annotated[
        bool, typer.Option("--soil-heat/--no-soil-heat", help="Whether the soil heat flux G is subtracted from NETRAD.")
    ] = True,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table, as CSV.")] = None,
    form: Format = "table",
) -> None:
    """Report the energy balance closure of each tower: LE + H against NETRAD - G, by default in measured hours.

    Example: `fluxcube energy carbonsense.zarr --out closure.csv`.
    """
    from fluxcube.evaluation.energy import energy_balance

    if out is not None:
        check_output_file(out)
    closure = energy_balance(_open(store), soil_heat=soil_heat, **quality_options(max_qc, min_quality))
    table = closure.reset_coords(["igbp", "lacking"])[["igbp", *closure.data_vars, "lacking"]].reset_coords(drop=True)
    frame = table.to_dataframe().reset_index()
    median = f"median ratio of {counted(int(closure.ratio.count()), 'tower')}: {float(closure.ratio.median()):.2f}"
    show_table(frame, form, notes=[median])
    if out is not None:
        write_table(frame, out)


app.add_typer(fetch_app, name="fetch")
app.add_typer(request_app, name="request")
app.add_typer(sites_app)
app.add_typer(split_app)
app.add_typer(models_app)
app.add_typer(extensions_app)
app.add_typer(cli_protocols.app)
app.add_typer(demo_app)
app.add_typer(report_app)
app.add_typer(grids_app)
app.add_typer(cli_maps.app)
app.add_typer(plot_app)


def main() -> None:
    """Run the command line."""
    run_app(app)


def _open(store: str | Path | None) -> xr.Dataset:
    from fluxcube.catalog import open_carbonsense

    return open_carbonsense(store)


def _predict(
    name: str, model: Predictor, cube: xr.Dataset, *, std: bool, missing: bool, other: bool, drivers: str | None
) -> xr.Dataset:
    """Return predictions with a progress bar: with `std`, their standard deviations, where they are calibrated."""
    from fluxcube.inference.towers import predict

    with bar(f"predict {name}") as progress:
        return predict(
            model,
            cube,
            uncertainty=std and bool(model.calibrated),
            allow_missing=missing,
            allow_other_product=other,
            drivers=drivers,
            progress=progress,
        )


def _score_table(
    cube: xr.Dataset,
    predictions: Mapping[str, xr.Dataset],
    by: str,
    seen: Iterable[str],
    limits: QualityOptions,
    intervals: IntervalOptions,
) -> pd.DataFrame:
    """Return scores over all time steps and by group, with the coverage of intervals."""
    from fluxcube.evaluation.coverage import sums_with_coverage
    from fluxcube.evaluation.groups import kinds_of
    from fluxcube.evaluation.masks import subset_masks
    from fluxcube.evaluation.skill import whole_and_groups, with_coverage

    kinds = () if by == "all" else kinds_of(by)
    subsets = subset_masks(cube) if "subset" in kinds else None
    sums, covered = sums_with_coverage(cube, predictions, **limits, periods=kinds, subsets=subsets)
    table = whole_and_groups(sums, by, seen, **intervals)
    return with_coverage(table, covered, by=None if by == "all" else by)


def _part(model: Predictor, part: str, store: str) -> xr.Dataset:
    """Return the cube with the fluxes of one part of the model's split."""
    if part not in ("train", "val", "test", "all"):
        raise ConfigError(f"--part: expected test, val, train or all, found {part!r}.")
    cube = _open(store)
    if part == "all":
        return cube
    sites = {"train": model.split.train, "val": model.split.val, "test": model.split.test}[part]
    if not sites:
        raise ConfigError(f"the run's split has no {part} sites: choose another --part, or all.")
    if absent := sorted(set(sites) - set(map(str, cube["site"].values))):
        some = f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}"
        raise ConfigError(
            f"{store} lacks {len(absent)} of the {len(sites)} {part} sites of the run ({some}): pass the cube that was "
            "split, or --part all for every site of this one."
        )
    return model.split.part(cube, part)


def _check_by(by: str | None) -> None:
    from fluxcube.errors import unknown
    from fluxcube.evaluation.groups import GROUPS

    for name in [] if by is None or by == "all" else by.split(","):
        if name.strip() not in GROUPS:
            raise unknown("group", name.strip(), ("all", *GROUPS))


def _known(split: Split, scored: Split, part: str, cube: xr.Dataset) -> list[str]:
    """Return the scored sites that a split trains on, if test or all sites are scored, in overlapping periods."""
    from fluxcube.samples.partition import share_hours

    if part == "all":
        return [site for site in map(str, cube["site"].values) if site in split.train]
    return [s for s in scored.test if share_hours(split, "train", scored, "test", s)] if part == "test" else []
