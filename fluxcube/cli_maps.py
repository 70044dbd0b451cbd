"""Commands for existing maps: totals, export to other formats, animations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fluxcube.errors import ConfigError, unknown, without_secrets
from fluxcube.tabletext import with_units
from fluxcube.terminal import Format, Overwrite, bar, period, show_table

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer(rich_markup_mode="markdown")

Maps = Annotated[
    str, typer.Argument(help="Maps that `upscale` wrote: a folder or a URL (s3://..., gs://..., az://...).")
]
Time = Annotated[str | None, typer.Option(help="Period: first/last, e.g. 2018-07-01/2018-07-31; default: all.")]
Flux = Annotated[str, typer.Option(help="Flux to draw.")]
Coverage = Annotated[
    float | None, typer.Option(min=0, max=1, help="Minimum share of time (and land) with values; 0: no minimum.")
]
Wetland = Annotated[
    Path | None, typer.Option(help="NetCDF file of the wetland fraction of each cell, by which FCH4 is weighted.")
]


@app.command()
def totals(
    maps: Maps,
    by: Annotated[str | None, typer.Option(help="Groups: region, igbp or latitude; default: all land.")] = None,
    regions: Annotated[Path | None, typer.Option(help="GeoJSON file of polygons.")] = None,
    name: Annotated[str, typer.Option(help="Property of a GeoJSON feature that contains its name.")] = "name",
    every: Annotated[str | None, typer.Option(help="month or year; default: one total for the whole period.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "--flux", help="Flux to sum; may be repeated. Default: all.")
    ] = None,
    latitude_step: Annotated[float, typer.Option(help="Height of the bands of latitude, degrees.")] = 10.0,
    time: Time = None,
    min_coverage: Coverage = None,
    wetland: Wetland = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    form: Format = "table",
) -> None:
    """Compute totals of fluxes over land and time, with the share of time and land that has values.

    Example: `fluxcube totals maps.zarr --by igbp --every month`, or `fluxcube totals maps.zarr --regions eu.geojson`.
    """
    from fluxcube.maps.totals import totals as compute_totals
    from fluxcube.stores.files import replacing

    with bar("totals") as progress:
        result = compute_totals(
            opened(maps, time),
            by=by,
            regions=regions,
            every=every,
            targets=target,
            name=name,
            latitude_step=latitude_step,
            min_coverage=0.9 if min_coverage is None else min_coverage,
            wetland=None if wetland is None else _only_array(wetland),
            progress=progress,
        )
    table = result.to_dataframe() if result.dims else result.expand_dims("time").to_dataframe()
    units = {str(n): a.attrs["units"] for n, a in result.data_vars.items() if a.attrs["units"] != "1"}
    show_table(with_units(table.reset_index(), {**units, "area": "m2"}), form)
    if out is not None:
        with replacing(out) as temporary:
            table.to_csv(temporary)


@app.command()
def export(
    maps: Annotated[
        str, typer.Argument(help="Maps, a cube or a forcing: a folder or URL; or predictions: a NetCDF file.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write (.nc; .tif of maps), or a folder.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of files in a folder: netcdf (default) or geotiff; of towers csv (default) or netcdf."
        ),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(help="Variable to write; may be repeated; all for each one. Default: the fluxes of the maps."),
    ] = None,
    every: Annotated[
        str | None, typer.Option(help="Average over day, month, year or all; default: no average.")
    ] = None,
    cycle: Annotated[
        bool, typer.Option("--cycle", help="Write the mean diurnal cycle of each period instead of its mean.")
    ] = False,
    clock: Annotated[
        str | None, typer.Option(help="Clock that dates follow: utc or solar; default utc, solar for diurnal cycles.")
    ] = None,
    units: Annotated[str | None, typer.Option(help="Convert fluxes into these units, e.g. 'gC m-2 d-1'.")] = None,
    time: Time = None,
    min_coverage: Coverage = None,
    wetland: Wetland = None,
    overwrite: Overwrite = False,
) -> None:
    """Write maps, their means, towers or predictions for other programs: CF NetCDF, GeoTIFF, or a CSV for each tower.

    Examples: `fluxcube export maps.zarr maps.nc`; `fluxcube export maps.zarr products/ --every month --units
    "gC m-2 d-1"`; `fluxcube export carbonsense.zarr towers/` (one file for each tower).
    """
    from fluxcube.maps.export import default_variables, export_maps
    from fluxcube.maps.wetland import weight_by_wetland

    if (data := _not_maps(maps, time)) is not None:
        only_maps = {"--variable": variable, "--every": every, "--cycle": cycle, "--clock": clock, "--units": units}
        _refuse({**only_maps, "--min-coverage": min_coverage, "--wetland": wetland})
        _export_data(data, out, format, overwrite)
        return
    ds = opened(maps, time)
    ds = ds if wetland is None else weight_by_wetland(ds, _only_array(wetland))
    selected = _averaged(ds, every, cycle, clock, min_coverage)
    names, left_out = (variable, []) if variable else default_variables(selected)
    chosen = "all" if names == ["all"] else names
    with bar("export") as progress:
        files = export_maps(
            selected, out, format=format, variables=chosen, units=units, overwrite=overwrite, progress=progress
        )
    for file in files:
        typer.echo(str(file))
    if left_out:
        typer.echo(f"not exported: {', '.join(left_out)}; --variable all writes every variable", err=True)


def _not_maps(path: str, time: str | None) -> xr.Dataset | None:
    """Return a cube, a forcing or predictions of towers; None if the path is something else, such as maps."""
    from fluxcube.catalog import open_carbonsense
    from fluxcube.cubes.forcing import open_forcing
    from fluxcube.evaluation.report import read_predictions
    from fluxcube.exports.netcdf import SUFFIXES
    from fluxcube.stores.reading import is_url, store_attrs

    place, selection = Path(path), period(time)
    if place.suffix.lower() in SUFFIXES and place.is_file():
        ds = read_predictions(place)
        return (ds.sel(time=selection) if selection else ds) if "site" in ds.dims else None
    if not is_url(path) and not (place / "zarr.json").is_file():
        return None
    kind = store_attrs(path).get("kind")
    if kind not in ("cube", "forcing"):
        return None
    ds = open_carbonsense(path) if kind == "cube" else open_forcing(path)
    return ds.sel(time=selection) if selection else ds


def _refuse(options: Mapping[str, object]) -> None:
    """Refuse options that have a meaning for maps only."""
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)} applies to maps only: leave it out for towers and forcings.")


def _export_data(ds: xr.Dataset, out: Path, format: str | None, overwrite: bool) -> None:
    """Write a cube, a forcing or predictions as one NetCDF file, or a file for each tower."""
    if out.suffix.lower() not in (".nc", ".nc4", "") and not out.is_dir():
        raise ConfigError(f"{out}: expected a file that ends in .nc, or a folder for a file of each tower.")
    with bar("export") as progress:
        if out.suffix.lower() in (".nc", ".nc4"):
            files = [ds.fluxcube.to_netcdf(out, overwrite=overwrite, progress=progress)]
        else:
            files = ds.fluxcube.to_sites(out, format=format or "csv", overwrite=overwrite, progress=progress)
    for file in files:
        typer.echo(str(file))


@app.command()
def animate(
    maps: Maps,
    gif: Annotated[Path, typer.Argument(help="Animation to write, e.g. day.gif.")],
    variable: Flux = "NEE",
    time: Time = None,
    clock: Annotated[
        str, typer.Option(help="utc: the same moment everywhere; solar: the same local hour everywhere.")
    ] = "utc",
    limits: Annotated[str | None, typer.Option(help="Values of the first and last colour: low,high.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the animation, seconds.")] = 6.0,
) -> None:
    """Draw the mean diurnal cycle of a flux as an animation, one frame per hour.

    Example: `fluxcube animate maps.zarr day.gif --variable NEE --time 2018-07-01/2018-07-31`.
    """
    from fluxcube.plotting.animation import animate_cycle

    selected = only(opened(maps, time), variable)
    ends = color_range(limits)
    with bar("animate") as progress:
        animate_cycle(selected, gif, variable=variable, clock=clock, limits=ends, seconds=seconds, progress=progress)
    typer.echo(str(gif))


def opened(path: str, time: str | None) -> xr.Dataset:
    """Return the maps of a store, in a period (ConfigError if that selects nothing)."""
    from fluxcube.maps.store import open_maps

    ds, selection = open_maps(path), period(time)
    selected = ds.sel(time=selection) if selection else ds
    if not selected.sizes["time"]:
        first, last = ds.time.values[[0, -1]].astype("datetime64[h]")
        raise ConfigError(f"--time {time} selects no time step: the maps run from {first} to {last}.")
    return selected


def _only_array(path: Path) -> xr.DataArray:
    """Return the only variable of a NetCDF file."""
    from fluxcube.sources.netcdf import open_netcdf

    if not path.is_file():
        raise ConfigError(f"--wetland: there is no file {path}; check the path.")
    ds = open_netcdf(path)
    arrays = [name for name in ds.data_vars if {"latitude", "longitude"} <= set(ds[name].dims)]
    if len(arrays) != 1:
        raise ConfigError(
            f"--wetland {path}: expected one variable with the dimensions latitude and longitude, found "
            f"{', '.join(map(str, arrays)) or 'none'}: write one that has only the wetland fraction."
        )
    return ds[arrays[0]]


def only(ds: xr.Dataset, *variables: str, optional: Sequence[str] = ()) -> xr.Dataset:
    """Return maps of some fluxes, and of `optional` if there are any, with all coordinates."""
    for variable in variables:
        if variable not in ds:
            raise unknown("flux", variable, map(str, ds.data_vars))
    return ds.drop_vars([name for name in ds.data_vars if name not in (*variables, *optional)])


def _averaged(
    ds: xr.Dataset, every: str | None, cycle: bool, clock: str | None, min_coverage: float | None
) -> xr.Dataset:
    from fluxcube.maps.means import mean_cycle, mean_maps

    if cycle:
        periods = None if every == "all" else every
        return mean_cycle(ds, periods, clock=clock or "solar", min_coverage=min_coverage)
    if every is None:
        if clock is not None or min_coverage is not None:
            raise ConfigError("--clock and --min-coverage apply to means: add --every or --cycle.")
        return ds
    return mean_maps(ds, None if every == "all" else every, clock=clock or "utc", min_coverage=min_coverage)


def color_range(text: str | None) -> tuple[float, float] | None:
    """Parse low,high (ConfigError if it is not such a pair)."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--limits: expected low,high; found {text!r}.") from None
    if not low < high:
        raise ConfigError(f"--limits: expected low below high, found {text!r}.")
    return low, high


def named_maps(paths: Sequence[str], *, taken: Iterable[str]) -> dict[str, xr.Dataset]:
    """Return maps to score by the name of their store, or by their path or URL if that name is taken."""
    from fluxcube.maps.store import open_maps

    names = [Path(path).stem for path in paths]
    clear = len({*names, *taken}) == len(names) + len(set(taken))
    return {name if clear else without_secrets(path): open_maps(path) for name, path in zip(names, paths, strict=True)}
