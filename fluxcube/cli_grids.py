"""Commands that need a grid of weather: the forcing of maps, and the maps themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxcube.errors import ConfigError, without_secrets
from fluxcube.terminal import (
    AllowMissing,
    Deterministic,
    Device,
    Digest,
    Mix,
    Overwrite,
    Seed,
    bar,
    box,
    period,
)

if TYPE_CHECKING:
    import xarray as xr

    from fluxcube.inference.predictor import Predictor

app = typer.Typer(rich_markup_mode="markdown")

Era5 = Annotated[
    str,
    typer.Argument(help="ERA5 or ERA5-Land files, a folder of them, or a store that `forcing` wrote (also s3://...)."),
]
Modis = Annotated[Path | None, typer.Option(help="Folder of MCD43A4 and MCD43A2 GeoTIFFs.")]
Surface = Annotated[
    Path | None,
    typer.Option(
        help="Folder of MOD09GA tiles with state flags; or NetCDF or Zarr with surface reflectance of the grid."
    ),
]
LandCover = Annotated[Path | None, typer.Option(help="MCD12Q1 GeoTIFF, or a folder of them.")]
Igbp = Annotated[str | None, typer.Option(help="IGBP class of every cell, if there is no land cover.")]
Bbox = Annotated[str | None, typer.Option(help="Area: west,south,east,north in degrees.")]
Resolution = Annotated[float | None, typer.Option(help="Step of a grid finer than ERA5's, degrees, e.g. 0.05.")]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="Compare ERA5 values with their units, and sunlight with the sun.")
]
ChipsPerCell = Annotated[
    int | None, typer.Option(min=1, max=64, help="Number of chips per cell, by land cover; default one.")
]


@app.command()
def forcing(
    era5: Era5,
    store: Annotated[str, typer.Argument(help="Store to write, e.g. forcing.zarr or s3://bucket/forcing.zarr.")],
    modis: Modis = None,
    surface: Surface = None,
    land_cover: LandCover = None,
    igbp: Igbp = None,
    bbox: Bbox = None,
    resolution: Resolution = None,
    chips_per_cell: ChipsPerCell = None,
    time: Annotated[str | None, typer.Option(help="Period: first/last, e.g. 2018-01-01/2018-12-31.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of threads; default: one per processor.")] = None,
    overwrite: Overwrite = False,
    check: Check = True,
) -> None:
    """Compute predictors and chips of a grid once, for many maps; the same command continues a stopped run.

    Example: `fluxcube forcing era5/ forcing.zarr --modis tiles/ --land-cover landcover/`.
    """
    from fluxcube.cubes.forcing import open_forcing
    from fluxcube.cubes.forcing_store import write_forcing
    from fluxcube.inference.checks import check_values

    grid = open_forcing(
        era5,
        modis=modis,
        surface=surface,
        land_cover=land_cover,
        igbp=igbp,
        bbox=box(bbox),
        time=period(time),
        resolution=resolution,
        chips_per_cell=chips_per_cell,
        check=check,
    )
    check_values(grid)
    with bar("forcing") as progress:
        write_forcing(grid, store, overwrite=overwrite, workers=workers, progress=progress)
    typer.echo(f"{without_secrets(store)}: {', '.join(map(str, grid['variable'].values))} on {_sizes(grid.predictors)}")
    if line := _reflectance(grid):
        typer.echo(line)


@app.command()
def upscale(
    run: Annotated[
        str,
        typer.Argument(
            help="Run folder or URL (s3://bucket/run), or the name of a shipped model, e.g. ecoperceiver-towers."
        ),
    ],
    forcing: Era5,
    out: Annotated[
        str | None, typer.Argument(help="Maps to write, e.g. maps.zarr or s3://bucket/maps.zarr; not for --plan.")
    ] = None,
    mix: Mix = None,
    digest: Digest = None,
    modis: Modis = None,
    surface: Surface = None,
    land_cover: LandCover = None,
    igbp: Igbp = None,
    koppen: Annotated[
        str | None, typer.Option(help="Köppen class of every cell; default: computed from the years of the files.")
    ] = None,
    bbox: Bbox = None,
    resolution: Resolution = None,
    chips_per_cell: ChipsPerCell = None,
    time: Annotated[str | None, typer.Option(help="Period to map: first/last, e.g. 2018-06-01/2018-06-30.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Flux to map; may be repeated. Default: all.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Number of time steps predicted from one window; default: the model's.")
    ] = None,
    min_context: Annotated[
        int | None,
        typer.Option(min=1, help="Minimum window length, in time steps, for the first steps of the forcing."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the model: float32, bfloat16, or tf32 on GPUs.")
    ] = None,
    device: Device = None,
    deterministic: Deterministic = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also map standard deviations.")] = False,
    applicability: Annotated[
        bool | None,
        typer.Option(
            "--applicability/--no-applicability", help="Map the area of applicability; default: if the run contains it."
        ),
    ] = None,
    allow_missing: AllowMissing = False,
    allow_other_product: Annotated[
        bool, typer.Option("--allow-other-product", help="Map with another satellite product than in training.")
    ] = False,
    time_chunk: Annotated[
        int | None, typer.Option(min=1, help="Time steps of a region, whole days; default: of the model.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://...; default: processes on this machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of regions computed at once on this machine; default: by cores and RAM."),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            help="Seconds to wait for a scheduler (default 8), for its first worker (180), and for a sign of life when "
            "all workers are lost (900)."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue an unfinished store.")] = True,
    overwrite: Overwrite = False,
    check: Check = True,
    plan: Annotated[
        bool, typer.Option("--plan", help="Report tasks, bytes, hours, cost and RAM from a sample; write no maps.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", help="Format of the plan: table or json.")] = "table",
    sample_tasks: Annotated[int, typer.Option(min=1, help="Number of tasks that a plan computes.")] = 6,
    seed: Seed = 0,
    price_gpu: Annotated[float, typer.Option(help="Price of a GPU-hour in a plan, USD.")] = 3.0,
    price_cpu: Annotated[float, typer.Option(help="Price of a core-hour in a plan, USD.")] = 0.04,
    cores_per_gpu: Annotated[
        float, typer.Option(help="Number of cores that one GPU replaces, for a plan that is made on a CPU.")
    ] = 100.0,
) -> None:
    """Map fluxes on a grid, region by region; the same command continues a stopped run.

    For a daily model, hourly forcing is averaged over days of local mean solar time. With `--plan`, nothing is written:
    some tasks are computed into a temporary folder, and all others are estimated from them.

    Example: `fluxcube upscale runs/eco era5.nc maps.zarr --igbp GRA`, or
    `fluxcube upscale runs/eco forcing.zarr --plan --workers 64`.
    """
    from fluxcube.cubes.forcing import open_forcing
    from fluxcube.inference.checks import check_values
    from fluxcube.inference.grid import upscale as upscale_grid
    from fluxcube.inference.loading import load_model
    from fluxcube.maps.store import is_finished, write_maps
    from fluxcube.maps.workers import connected

    _check_plan(plan, format_, out)
    area = box(bbox)
    if not plan:
        with connected(scheduler, patience):  # an absent scheduler is reported before the forcing is read
            pass
    model = load_model([run, *(mix or [])], digest=digest, device="cpu")  # here it is only described
    grid = open_forcing(
        forcing,
        modis=modis,
        surface=surface,
        land_cover=land_cover,
        igbp=igbp,
        bbox=area,
        resolution=resolution,
        chips_per_cell=chips_per_cell,
        check=check,
    )
    grid = _for_model(grid, model, koppen)
    options: dict[str, Any] = {
        "targets": target,
        "time": period(time),
        "stride": stride,
        "min_context": min_context,
        "precision": precision,
        "uncertainty": uncertainty,
        "applicability": applicability,
        "allow_missing": allow_missing,
        "allow_other_product": allow_other_product,
        "time_chunk": time_chunk,
        "device": "auto" if device is None else device,
        "deterministic": deterministic,
    }
    if plan or out is None:
        prices = {"price_gpu": price_gpu, "price_cpu": price_cpu, "cores_per_gpu": cores_per_gpu}
        options |= {"workers": workers, "sample_tasks": sample_tasks, "seed": seed, **prices}
        typer.echo(_plan(model, grid, format_, options))
        return
    maps = upscale_grid(model, grid, **options)
    if resume and not overwrite and is_finished(maps, out):  # such as a job that a cluster starts again
        typer.echo(f"{without_secrets(out)} is finished: nothing was computed; --overwrite computes it again")
        return
    check_values(grid)
    with bar("upscale") as progress:
        write_maps(
            maps,
            out,
            overwrite=overwrite,
            resume=resume,
            workers=workers,
            scheduler=scheduler,
            patience=patience,
            progress=progress,
        )
    typer.echo(f"{without_secrets(out)}: {', '.join(map(str, maps.data_vars))} on {_sizes(maps)}")
    if model.spec.surface_bands and (line := _reflectance(grid)):
        typer.echo(line)
    if maps.attrs.get("masked_predictors"):
        typer.echo(f"masked, since the grid does not contain them: {maps.attrs['masked_predictors']}", err=True)


def _sizes(maps: xr.Dataset | xr.DataArray) -> str:
    """Return the number of time steps and cells, such as "744 time x 4 latitude x 5 longitude"."""
    return " x ".join(f"{size:,} {dim}" for dim, size in maps.sizes.items() if dim not in ("variable", "bnds"))


def _check_plan(plan: bool, form: str, out: str | None) -> None:
    """Raise a ConfigError if the options of a plan do not fit."""
    if form not in ("table", "json"):
        raise ConfigError(f"--format: expected table or json, found {form!r}.")
    if out is None and not plan:
        raise ConfigError("expected the path of the maps to write after the forcing, or --plan; found neither.")


def _plan(model: Predictor, grid: xr.Dataset, form: str, options: dict[str, Any]) -> str:
    """Return the plan of maps as a table or as JSON."""
    import json

    from fluxcube.planning.maps import plan_maps

    with bar("plan") as progress:
        plan = plan_maps(model, grid, progress=progress, **options)
    return json.dumps(plan.to_dict(), indent=2) if form == "json" else plan.text()


def _for_model(grid: xr.Dataset, model: Predictor, koppen: str | None) -> xr.Dataset:
    """Return a grid with the Köppen classes and of the resolution that a model needs."""
    from fluxcube.cubes.climates import add_climates
    from fluxcube.cubes.forcing_daily import daily_forcing
    from fluxcube.resolution import DAILY, resolution_of

    if "koppen" in model.spec.static:
        grid = add_climates(grid, koppen)
    elif koppen is not None:
        raise ConfigError("--koppen: this model does not use Köppen classes; leave the option out.")
    daily = model.resolution == DAILY.name and resolution_of(grid) is not DAILY
    return daily_forcing(grid) if daily else grid


def _reflectance(grid: xr.Dataset) -> str:
    """Return a line on the surface reflectance of a grid; "" if it has none."""
    if "surface" not in grid:
        return ""
    surface = grid.surface
    day, band = surface.dims[-2:]
    first, last = surface[day].values[[0, -1]].astype("datetime64[D]")
    product = surface.attrs.get("product", "of an unknown product")
    return f"surface reflectance: {product}, {', '.join(map(str, surface[band].values))}, {first} to {last}"
