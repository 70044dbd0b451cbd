"""Commands for maps that are there: totals, files for other programs, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcube.errors import ConfigError, unknown
from fluxcube.terminal import Overwrite, bar, period

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer(rich_markup_mode="markdown")

Maps = Annotated[Path, typer.Argument(help="Maps that `upscale` wrote.")]
Time = Annotated[str | None, typer.Option(help="first/last, e.g. 2018-07-01/2018-07-31; default all.")]
Flux = Annotated[str, typer.Option(help="Flux to draw.")]
Coverage = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least share of hours (and land) with values; 0 takes all.")
]


@app.command()
def totals(
    maps: Maps,
    by: Annotated[str | None, typer.Option(help="region, igbp or latitude; default all land.")] = None,
    regions: Annotated[Path | None, typer.Option(help="GeoJSON file of polygons.")] = None,
    name: Annotated[str, typer.Option(help="Property of a GeoJSON feature that names it.")] = "name",
    every: Annotated[str | None, typer.Option(help="month or year; default one total for the whole time.")] = None,
    flux: Annotated[list[str] | None, typer.Option(help="Flux to add up; may be repeated. Default all.")] = None,
    latitude_step: Annotated[float, typer.Option(help="Height of bands of latitude, degrees.")] = 10.0,
    time: Time = None,
    min_coverage: Coverage = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table, as CSV.")] = None,
) -> None:
    """Add fluxes up: land fraction times cell area times seconds, with the share of hours and land that has values.

    Example: `fluxcube totals maps.zarr --by igbp --every month`, or `fluxcube totals maps.zarr --regions eu.geojson`.
    """
    from fluxcube.maps.totals import totals as add_up

    with bar("totals") as progress:
        told = add_up(
            _open(maps, time),
            by=by,
            regions=regions,
            every=every,
            fluxes=flux,
            name=name,
            latitude_step=latitude_step,
            min_coverage=0.9 if min_coverage is None else min_coverage,
            progress=progress,
        )
    table = told.to_dataframe() if told.dims else told.expand_dims("time").to_dataframe()
    typer.echo(table.to_string(float_format=lambda value: f"{value:.4g}"))
    units = {str(n): a.attrs["units"] for n, a in told.data_vars.items() if a.attrs["units"] != "1"}
    typer.echo("units: " + ", ".join(f"{name} {unit}" for name, unit in {**units, "area": "m2"}.items()))
    if out is not None:
        table.to_csv(out)


@app.command()
def export(
    maps: Maps,
    out: Annotated[Path, typer.Argument(help="File to write (.nc, .tif), or a folder that exists.")],
    format: Annotated[str | None, typer.Option(help="Of files in a folder: netcdf or geotiff.")] = None,
    variable: Annotated[list[str] | None, typer.Option(help="May be repeated; default all.")] = None,
    every: Annotated[str | None, typer.Option(help="Average over day, month, year or all; default hours.")] = None,
    cycle: Annotated[bool, typer.Option("--cycle", help="The mean day of each period instead of its mean.")] = False,
    clock: Annotated[str | None, typer.Option(help="utc or solar; default utc, and solar for mean days.")] = None,
    units: Annotated[str | None, typer.Option(help="Turn fluxes into these, e.g. 'gC m-2 d-1'.")] = None,
    time: Time = None,
    min_coverage: Coverage = None,
    overwrite: Overwrite = False,
) -> None:
    """Write maps or their means for other programs: CF NetCDF as X-BASE has it, or cloud-optimised GeoTIFF.

    Example: `fluxcube export maps.zarr products/ --format netcdf --every month --units "gC m-2 d-1"`.
    """
    from fluxcube.maps.export import export_maps

    chosen = _averaged(_open(maps, time), every, cycle, clock, min_coverage)
    with bar("export") as progress:
        files = export_maps(
            chosen, out, format=format, variables=variable, units=units, overwrite=overwrite, progress=progress
        )
    for file in files:
        typer.echo(str(file))


@app.command()
def plot(
    maps: Maps,
    png: Annotated[Path, typer.Argument(help="Picture to write.")],
    variable: Flux = "NEE",
    time: Time = None,
    limits: Annotated[str | None, typer.Option(help="Values of the first and last colour: low,high.")] = None,
    hatch: Annotated[bool, typer.Option("--hatch/--no-hatch", help="Hatch where the model is not applicable.")] = True,
) -> None:
    """Draw the mean map of one flux, hatched outside the area of applicability where the maps tell it.

    Example: `fluxcube plot maps.zarr nee.png --variable NEE --time 2018-07-01/2018-07-31`.
    """
    from fluxcube.maps.means import mean_maps
    from fluxcube.plotting.maps import plot_map

    mean = mean_maps(_only(_open(maps, time), variable, "applicable"), None, min_coverage=0)
    applicable = mean.get("applicable") if hatch else None
    plot_map(mean[variable], png, limits=_limits(limits), applicable=applicable)
    typer.echo(str(png))


@app.command()
def animate(
    maps: Maps,
    gif: Annotated[Path, typer.Argument(help="Moving picture to write, e.g. day.gif.")],
    variable: Flux = "NEE",
    time: Time = None,
    clock: Annotated[str, typer.Option(help="utc: the sun goes round; solar: one hour everywhere.")] = "utc",
    limits: Annotated[str | None, typer.Option(help="Values of the first and last colour: low,high.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the day.")] = 6.0,
) -> None:
    """Draw the mean day of a flux as a moving picture, an hour a picture.

    Example: `fluxcube animate maps.zarr day.gif --variable NEE --time 2018-07-01/2018-07-31`.
    """
    from fluxcube.plotting.animation import animate_cycle

    chosen = _only(_open(maps, time), variable)
    animate_cycle(chosen, gif, variable=variable, clock=clock, limits=_limits(limits), seconds=seconds)
    typer.echo(str(gif))


def _open(path: Path, time: str | None) -> xr.Dataset:
    from fluxcube.maps.store import open_maps

    ds, wanted = open_maps(path), period(time)
    chosen = ds.sel(time=wanted) if wanted else ds
    if not chosen.sizes["time"]:
        first, last = ds.time.values[[0, -1]].astype("datetime64[h]")
        raise ConfigError(f"--time {time} selects no hour: the maps run from {first} to {last}.")
    return chosen


def _only(ds: xr.Dataset, variable: str, *beside: str) -> xr.Dataset:
    """Maps of one flux and what belongs to it, with all coordinates."""
    if variable not in ds:
        raise unknown("flux", variable, ds.data_vars)
    return ds.drop_vars([name for name in ds.data_vars if name not in (variable, *beside)])


def _averaged(
    ds: xr.Dataset, every: str | None, cycle: bool, clock: str | None, min_coverage: float | None
) -> xr.Dataset:
    from fluxcube.maps.means import mean_cycle, mean_maps

    if cycle:
        periods = None if every == "all" else every
        return mean_cycle(ds, periods, clock=clock or "solar", min_coverage=min_coverage)
    if every is None:
        if clock is not None or min_coverage is not None:
            raise ConfigError("--clock and --min-coverage are for means: give --every or --cycle, too.")
        return ds
    return mean_maps(ds, None if every == "all" else every, clock=clock or "utc", min_coverage=min_coverage)


def _limits(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--limits must be low,high; found {text!r}.") from None
    if not low < high:
        raise ConfigError(f"--limits must rise, found {text!r}.")
    return low, high
