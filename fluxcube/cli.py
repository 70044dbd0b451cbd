"""The command line: it parses, calls and prints; the work is in the library.

Exit status: 0 done; 1 a one-line error; 2 wrong usage; 3 done, but something was left out (listed).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fluxcube.cli_maps import app as maps_app
from fluxcube.errors import ConfigError, FluxcubeError
from fluxcube.models import registry
from fluxcube.terminal import Overwrite, bar, period

app = typer.Typer(
    help="Towers, satellites and reanalysis in; maps of carbon fluxes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

#: Exit status of a job that ended but left something out.
LEFT_OUT = 3

Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
MaxQc = Annotated[
    str | None,
    typer.Option(
        help="Maximum quality flag of hourly fluxes, 0 (measured) to 3, or all; default 1 to train, 0 to evaluate."
    ),
]
MinQuality = Annotated[
    str | None,
    typer.Option(
        help="Minimum quality of daily fluxes, 0 to 1 (whole days), or all; default 0.5 to train, 1 to evaluate."
    ),
]


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Folder of raw archives, or a cube, or maps (also s3://...).")],
    resolution: Annotated[str, typer.Option(help="What a build would look for: hourly or daily.")] = "hourly",
    order: Annotated[str, typer.Option(help="Which publication wins: newest or paper.")] = "newest",
    everything: Annotated[bool, typer.Option("--all", help="Name every file that is left aside.")] = False,
) -> None:
    """Tell what is there, what of it will be used and what not, and why; nothing is read whole.

    Example: `fluxcube inspect downloads/`.
    """
    from fluxcube.inventory import inspect as tell

    with bar("inspect") as progress:
        text = tell(path, order=order, resolution=resolution, most=None if everything else 10, progress=progress)
    typer.echo(text)


@app.command()
def build(
    raw: Annotated[Path, typer.Argument(help="Folder of downloaded archives, BADM or site tables among them.")],
    store: Annotated[Path, typer.Argument(help="Cube to write, e.g. cube.zarr.")],
    also: Annotated[list[Path] | None, typer.Option(help="Another such folder; may be repeated.")] = None,
    modis: Annotated[
        Path | None, typer.Option(help="Folder of MCD43A4 and MCD43A2 rasters (MOD09GA for a daily cube).")
    ] = None,
    land_cover: Annotated[
        Path | None, typer.Option(help="MCD12Q1 rasters, for sites whose metadata tell no class.")
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only this site; may be repeated.")] = None,
    resolution: Annotated[str, typer.Option(help="hourly (UTC) or daily (local days).")] = "hourly",
    order: Annotated[str, typer.Option(help="Which publication wins: newest or paper.")] = "newest",
    rule: Annotated[str, typer.Option(help="Which source wins: newest or quality.")] = "newest",
    clock: Annotated[str, typer.Option(help="DOY and TOD in solar or standard time.")] = "solar",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first site that cannot be read, or whose clock is doubtful.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Keep a cube that is there; add what is new or changed.")
    ] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Two thirds of the room; opens only where fluxcube is installed.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Build the CarbonSense cube from raw tower archives.

    Example: `fluxcube build downloads/ cube.zarr --modis tiles/`, and after more downloads the same with `--append`.
    Exit status 3 if a site was left out.
    """
    from fluxcube.cubes.carbonsense import build_carbonsense

    with bar("build") as progress:
        report = build_carbonsense(
            [raw, *(also or [])],
            store,
            resolution=resolution,
            modis=modis,
            land_cover=land_cover,
            sites=site,
            order=order,
            rule=rule,
            clock=clock,
            strict=strict,
            append=append,
            compact=compact,
            overwrite=overwrite,
            progress=progress,
        )
    kept = f", {len(report.unchanged)} of them unchanged" if append else ""
    typer.echo(f"{report.store}: {len(report.sites)} sites{kept}")
    for name, reason in report.left_out.items():
        typer.echo(f"left out {name}: {reason}", err=True)
    if report.left_out:
        raise typer.Exit(LEFT_OUT)


@app.command()
def train(
    store: Annotated[Path, typer.Argument(help="Cube to train on.")],
    run: Annotated[Path, typer.Argument(help="Folder of the run to write.")],
    model: Annotated[
        str,
        typer.Option(
            help=f"For hourly cubes {', '.join(registry.names(resolution='hourly'))}; "
            f"for daily ones {', '.join(registry.names(resolution='daily'))}."
        ),
    ] = "ecoperceiver",
    target: Annotated[list[str] | None, typer.Option(help="Flux to learn; may be repeated. Default NEE.")] = None,
    predictors: Annotated[str | None, typer.Option(help="Comma-separated names; default all that have data.")] = None,
    memory: Annotated[str | None, typer.Option(help="Comma-separated days of trailing means, e.g. 1,7,30.")] = None,
    static: Annotated[
        str | None,
        typer.Option(help="Comma-separated: latitude,elevation,igbp (the default), koppen for days; '' for none."),
    ] = None,
    chips: Annotated[bool, typer.Option("--chips/--no-chips", help="Use MODIS chips where the cube has them.")] = True,
    split: Annotated[
        str | None,
        typer.Option(help="Split file, folds.json:2, or a kind: per-igbp (the default), kfold:2, time, sites:FILE ..."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Preset of the settings, such as small or published.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, e.g. training.lr=1e-3 or config.dropout=0.3; may be repeated."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training windows.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train an ensemble of so many, from --seed up.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds trained side by side.")] = 1,
    init: Annotated[Path | None, typer.Option(help="Run to train further; what is not given is its own.")] = None,
    train_igbp: Annotated[str | None, typer.Option(help="Train on these IGBP classes only, e.g. GRA,CRO.")] = None,
    search: Annotated[
        int | None,
        typer.Option(min=1, help="Number of settings to try first on the training towers (xgboost)."),
    ] = None,
    bag: Annotated[
        float, typer.Option(help="Share of the training towers that each seed learns from, e.g. 0.6.")
    ] = 1.0,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a model; a killed run goes on where it was when the same command is given again.

    Example: `fluxcube train cube.zarr runs/eco --model ecoperceiver --target NEE --memory 1,7,30`. On several GPUs:
    `torchrun --nproc-per-node 4 --no-python fluxcube train cube.zarr runs/eco --preset published`, with
    `--set training.effective_batch=4096` or with what else `TrainingConfig` holds.
    """
    from fluxcube.training.fit import fit
    from fluxcube.training.run import by_torchrun
    from fluxcube.training.settings import configure

    config, training = configure(model, preset, settings or (), search=search, init=init, epochs=epochs)
    first = not by_torchrun() or os.environ["RANK"] == "0"
    with bar("train") if first else contextlib.nullcontext() as progress:
        done = fit(
            _open(store),
            model=model,
            target=target or None,
            out=run,
            predictors=_names(predictors),
            memory_days=_days(memory),
            bands=None if chips else (),
            static=_names(static),
            split=split,
            config=config,
            training=training,
            epochs=epochs,
            seed=seed,
            seeds=seeds,
            jobs=jobs,
            init=init,
            train_igbp=_names(train_igbp),
            search=search,
            bag=bag,
            **_limits(max_qc, min_quality),
            overwrite=overwrite,
            progress=(progress or _lines()) if first else None,
        )
    if first:
        typer.echo(f"{done.path}: {done.summary}")


@app.command()
def split(
    store: Annotated[Path, typer.Argument(help="Cube whose towers are split.")],
    out: Annotated[Path, typer.Argument(help="File to write, e.g. folds.json.")],
    kind: Annotated[
        str, typer.Option(help="per-igbp, kfold, blocks, time, warm-site, extrapolation or sites.")
    ] = "kfold",
    k: Annotated[int | None, typer.Option(min=2, help="Of kfold, blocks and warm-site: folds, by default 5.")] = None,
    buffer_km: Annotated[
        float | None, typer.Option(min=0, help="Towers closer than this are on one side; default 50, blocks 150.")
    ] = None,
    val_km: Annotated[
        float | None, typer.Option(min=0, help="Validate on blocks this far from training towers; default the buffer.")
    ] = None,
    setting: Annotated[
        str | None, typer.Option(help="Of extrapolation: time, space (the default) or temperature.")
    ] = None,
    sites: Annotated[Path | None, typer.Option(help="Of sites: file with a line SITE or SITE,part each.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Split towers into those that train, stop training and test, before anything is trained.

    Example: `fluxcube split cube.zarr folds.json --kind kfold --k 5 --seed 0`, then
    `fluxcube train cube.zarr runs/eco-1 --split folds.json:1`.
    """
    from fluxcube.samples.splits import make_splits, save_folds

    _check_out(out)
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists: give --overwrite to replace it. Runs that were trained keep their own split.")
    made = make_splits(
        _open(store), kind, k=k, seed=seed, buffer_km=buffer_km, val_km=val_km, setting=setting, sites=sites
    )
    if len(made) == 1:
        made[0].save(out)
    else:
        save_folds(made, out)
    for one in made:
        typer.echo(f"{one.kind}: {len(one.train)} train, {len(one.val)} val, {len(one.test)} test")
        for note in one.notes:
            typer.echo(f"  {note}", err=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    store: Annotated[Path, typer.Argument(help="Cube whose measured fluxes it is scored on.")],
    against: Annotated[list[Path] | None, typer.Option(help="Another run, on the same rows; may be repeated.")] = None,
    by: Annotated[
        str | None, typer.Option(help="igbp (the default), koppen, site, season or network; all: no groups.")
    ] = None,
    part: Annotated[str, typer.Option(help="Sites of the run's split to score: test, val, train or all.")] = "test",
    clusters_km: Annotated[
        float, typer.Option(min=0, help="Intervals resample clusters of sites within so many km; 0: single sites.")
    ] = 50.0,
    draws: Annotated[int, typer.Option(min=0, help="Resampled sets; 0: no intervals.")] = 1000,
    scales: Annotated[
        bool, typer.Option("--scales", help="Score at eight time scales, hourly (or daily) to spatial.")
    ] = False,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the table, as CSV.")] = None,
) -> None:
    """Score runs on held-out towers: by default on measured data only, on one row mask, with intervals.

    Example: `fluxcube evaluate runs/eco cube.zarr --against runs/xgb`.
    """
    from fluxcube.evaluation.report import format_table
    from fluxcube.evaluation.scales import scale_table
    from fluxcube.inference.loading import load_model
    from fluxcube.inference.towers import predict
    from fluxcube.resolution import quality_limit, resolution_of

    _check_by(by, scales)
    if out is not None:
        _check_out(out)
    paths = [run, *(against or [])]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a run is compared with itself: give --against another one, each once.")
    same = len({path.name for path in paths}) < len(paths)  # runs of one name in two folders go by their paths
    models = {str(path) if same else path.name: load_model(path) for path in paths}
    first = next(iter(models.values()))
    cube, limits = _part(first, part, store), _limits(max_qc, min_quality)
    quality_limit(resolution_of(cube), **limits, default=None)  # refused before anything is predicted
    for name, model in models.items():
        if known := _known(model.split, first.split, part, cube):
            typer.echo(f"{name} was trained on sites that are scored here: {', '.join(known)}", err=True)
    predictions = {}
    for name, model in models.items():
        with bar(f"predict {name}") as progress:
            predictions[name] = predict(model, cube, progress=progress)
    names = list(models)
    intervals = {
        "clusters": clusters_km if draws else None,
        "draws": draws,
        "seed": seed,
        "against": names[1] if len(names) > 1 else None,
    }
    if scales:
        table = scale_table(cube, predictions, **limits, **intervals)
    else:
        table = _scores(cube, predictions, by or "igbp", first.spec.igbp_classes, limits, intervals)
    typer.echo(format_table(table))
    if out is not None:
        table.to_csv(out, index=False)


Era5 = Annotated[Path, typer.Argument(help="ERA5 or ERA5-Land files, a folder of them, or a store of `forcing`.")]
Modis = Annotated[Path | None, typer.Option(help="Folder of MCD43A4 and MCD43A2 GeoTIFFs.")]
LandCover = Annotated[Path | None, typer.Option(help="MCD12Q1 GeoTIFF, or a folder of them.")]
Igbp = Annotated[str | None, typer.Option(help="One class for every cell, where there is no land cover.")]
Bbox = Annotated[str | None, typer.Option(help="west,south,east,north in degrees.")]
Resolution = Annotated[float | None, typer.Option(help="Step of a finer grid than ERA5's, degrees, e.g. 0.05.")]
ChipsPerCell = Annotated[int | None, typer.Option(min=1, max=64, help="Blocks of a cell, by land cover; default one.")]


@app.command()
def forcing(
    era5: Era5,
    store: Annotated[Path, typer.Argument(help="Store to write, e.g. forcing.zarr.")],
    modis: Modis = None,
    land_cover: LandCover = None,
    igbp: Igbp = None,
    bbox: Bbox = None,
    resolution: Resolution = None,
    chips_per_cell: ChipsPerCell = None,
    time: Annotated[str | None, typer.Option(help="Hours wanted: first/last, e.g. 2018-01-01/2018-12-31.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; default one a processor.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Derive predictors and chips of a grid once, for many maps; the same command goes on after a kill.

    Example: `fluxcube forcing era5/ forcing.zarr --modis tiles/ --land-cover landcover/`.
    """
    from fluxcube.cubes.forcing import open_forcing
    from fluxcube.cubes.forcing_store import write_forcing
    from fluxcube.inference.checks import check_values

    grid = open_forcing(
        era5,
        modis=modis,
        land_cover=land_cover,
        igbp=igbp,
        bbox=_box(bbox),
        time=period(time),
        resolution=resolution,
        chips_per_cell=chips_per_cell,
    )
    check_values(grid)
    with bar("forcing") as progress:
        write_forcing(grid, store, overwrite=overwrite, workers=workers, progress=progress or _lines())
    typer.echo(f"{store}: {', '.join(map(str, grid['variable'].values))} on {dict(grid.predictors.sizes)}")


@app.command()
def upscale(
    run: Annotated[Path, typer.Argument(help="Run folder, or the name of a model that ships: ecoperceiver-towers.")],
    forcing: Era5,
    out: Annotated[Path, typer.Argument(help="Maps to write, e.g. maps.zarr.")],
    modis: Modis = None,
    land_cover: LandCover = None,
    igbp: Igbp = None,
    koppen: Annotated[
        str | None, typer.Option(help="Köppen class of every cell; default: that of the files' own years.")
    ] = None,
    bbox: Bbox = None,
    resolution: Resolution = None,
    chips_per_cell: ChipsPerCell = None,
    time: Annotated[str | None, typer.Option(help="Hours to map: first/last, e.g. 2018-06-01/2018-06-30.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Flux to map; may be repeated. Default all.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Hours that one window emits; default: the model's.")
    ] = None,
    min_context: Annotated[
        int | None, typer.Option(min=1, help="Map the first hours from windows of at least so many hours.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Map standard deviations, too.")] = False,
    applicability: Annotated[
        bool | None, typer.Option("--applicability/--no-applicability", help="Map where to believe; default if known.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Do without predictors that the forcing lacks.")
    ] = False,
    time_chunk: Annotated[int | None, typer.Option(min=1, help="Hours of a region; default: the model's.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="tcp://... of a Dask scheduler; default: processes of this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Regions at once on this machine; default by cores and memory.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished store.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Run a model over a grid, region by region; the same command goes on after a kill.

    Of a model of days the hours become days of local mean solar time.

    Example: `fluxcube upscale runs/eco era5.nc maps.zarr --igbp GRA`.
    """
    from fluxcube.cubes.climates import add_climates
    from fluxcube.cubes.forcing import open_forcing
    from fluxcube.cubes.forcing_daily import daily_forcing
    from fluxcube.inference.checks import check_values
    from fluxcube.inference.grid import upscale as upscale_grid
    from fluxcube.inference.loading import load_model
    from fluxcube.maps.store import write_maps
    from fluxcube.resolution import DAILY, resolution_of

    box = _box(bbox)
    model = load_model(run)
    grid = open_forcing(
        forcing,
        modis=modis,
        land_cover=land_cover,
        igbp=igbp,
        bbox=box,
        resolution=resolution,
        chips_per_cell=chips_per_cell,
    )
    if "koppen" in model.spec.static:
        grid = add_climates(grid, koppen)
    elif koppen is not None:
        raise ConfigError("--koppen: this model does not look at climates; leave it out.")
    if model.resolution == DAILY.name and resolution_of(grid) is not DAILY:
        grid = daily_forcing(grid)
    maps = upscale_grid(
        model,
        grid,
        targets=target,
        time=period(time),
        stride=stride,
        min_context=min_context,
        precision=precision,
        uncertainty=uncertainty,
        applicability=applicability,
        allow_missing=allow_missing,
        time_chunk=time_chunk,
    )
    check_values(grid)
    with bar("upscale") as progress:
        write_maps(
            maps,
            out,
            overwrite=overwrite,
            resume=resume,
            workers=workers,
            scheduler=scheduler,
            progress=progress or _lines(),
        )
    typer.echo(f"{out}: {', '.join(map(str, maps.data_vars))} on {dict(maps.sizes)}")
    if maps.attrs.get("masked_predictors"):
        typer.echo(f"masked, since the grid does not supply them: {maps.attrs['masked_predictors']}", err=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("demo"),
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller planet and shorter training, to see that it runs.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on a simulated planet, from raw files to scored maps.

    Example: `fluxcube demo --out demo --seed 1`.
    """
    from fluxcube.demo import run_demo

    with bar("demo") as progress:
        result = run_demo(out, seed=seed, quick=quick, overwrite=overwrite, progress=progress, log=typer.echo)
    typer.echo(result.text)


app.add_typer(maps_app)


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit status 1."""
    # Threads of torch that wait by spinning starve whatever shares the processors: 5 times slower on a busy machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    logging.basicConfig(level=os.environ.get("FLUXCUBE_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except FluxcubeError as error:
        sys.exit(f"fluxcube: {error}")
    except KeyboardInterrupt:
        sys.exit("fluxcube: interrupted (train and upscale go on if given again)")


def _lines(every: float = 60.0) -> Callable[[int, int, str], None]:
    """Return progress as a line a minute on standard error, for the log of a job that nobody watches."""
    last = time.monotonic()

    def progress(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            typer.echo(f"{done} of {total}: {text}", err=True)

    return progress


def _open(store: Path, **selection: object):
    from fluxcube.catalog import open_carbonsense

    return open_carbonsense(store, **selection)


def _part(model: object, part: str, store: Path):
    """The cube, its fluxes cut to a part of the model's split."""
    if part not in ("train", "val", "test", "all"):
        raise ConfigError(f"--part must be test, val, train or all, found {part!r}.")
    cube = _open(store)
    if part == "all":
        return cube
    wanted = getattr(model.split, part)
    if not wanted:
        raise ConfigError(f"the run's split has no {part} sites: give another --part, or all.")
    if absent := sorted(set(wanted) - set(map(str, cube["site"].values))):
        some = f"{', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}"
        raise ConfigError(
            f"{store} lacks {len(absent)} of the {len(wanted)} {part} sites of the run ({some}): give the cube that it "
            "was split on, or --part all for every site of this one."
        )
    return model.split.part(cube, part)


def _limits(max_qc: str | None, min_quality: str | None) -> dict[str, float | None]:
    """Return those limits of quality that are on the command line, as the library takes them; "all" is None there."""
    passed = {"max_qc": max_qc, "min_quality": min_quality}
    return {name: _limit(name, text) for name, text in passed.items() if text is not None}


def _limit(name: str, text: str) -> float | None:
    if text == "all":
        return None
    try:
        return int(text) if name == "max_qc" else float(text)
    except ValueError:
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(f"{option} must be a number, or all to use every value; found {text!r}.") from None


def _check_by(by: str | None, scales: bool) -> None:
    from fluxcube.errors import unknown
    from fluxcube.evaluation.skill import GROUPS

    if scales and by is not None:
        raise ConfigError(f"--scales groups by time scale: leave out --by {by}.")
    if by not in (None, "all", *GROUPS):
        raise unknown("group", by, ("all", *GROUPS))


def _scores(cube: object, predictions: dict, by: str, seen: object, limits: dict, intervals: dict):
    """Scores of all rows together, then by group."""
    import pandas as pd

    from fluxcube.evaluation.skill import score_table
    from fluxcube.evaluation.sums import site_sums

    sums = site_sums(cube, predictions, **limits, seasons=by == "season")
    whole = score_table(sums, **intervals)
    if by == "all":
        return whole
    groups = score_table(sums, by=by, seen=seen if by == "igbp" else None, **intervals)
    marks = {name: value for name, value in (("zero_shot", False), ("counted", True)) if name in groups}
    table = pd.concat([whole.assign(**marks), groups], ignore_index=True)
    table.attrs = groups.attrs
    return table


def _check_out(path: Path) -> None:
    """Refuse a file that could not be written, before what it would hold is made."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'lies in no folder that exists'}: name a file.")


def _known(split: object, scored: object, part: str, cube: object) -> list[str]:
    """Sites that a split trains on and that are scored as test or as all, in whole or in periods that overlap."""
    from fluxcube.samples.partition import share_hours

    if part == "all":
        return [site for site in map(str, cube["site"].values) if site in split.train]
    return [s for s in scored.test if share_hours(split, "train", scored, "test", s)] if part == "test" else []


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _days(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(day) for day in _names(text))
    except ValueError:
        raise ConfigError(f"--memory must be whole days, as 1,7,30; found {text!r}.") from None


def _box(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--bbox must be west,south,east,north in degrees; found {text!r}.") from None
    return west, south, east, north
