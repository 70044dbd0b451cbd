"""The command `plot`: maps, towers, series, cycles and scatter, each a kind of figure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxcube.cli_maps import color_range, only, opened
from fluxcube.cli_report import labelled
from fluxcube.errors import ConfigError, unknown
from fluxcube.terminal import MaxQc, MinQuality, bar, box, period, quality_options

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

app = typer.Typer(rich_markup_mode="markdown")


@dataclass(frozen=True)
class _Wanted:
    """What the command line asks for: the data, the file to write, and the options that were passed."""

    data: str
    png: Path
    options: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an option, or its default where it was not passed."""
        return self.options.get(name, default)


@app.command()
def plot(
    data: Annotated[
        str,
        typer.Argument(help="Maps, a cube (also s3://...), or a CSV table with site,latitude,longitude."),
    ],
    png: Annotated[Path, typer.Argument(help="Image file to write: .png, .svg, .pdf.")],
    kind: Annotated[
        str | None,
        typer.Option(help="map, sites, series, cycle or scatter. Default: map for maps, sites for a cube or a table."),
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(help="map: layer to draw (default NEE), repeated for several panels; series: predictor."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="series, cycle, scatter: flux; series: may be repeated. Default: NEE.")
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="series, cycle: tower; may be repeated.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="series, cycle, scatter: run or file of predictions to draw, as PATH or LABEL=PATH; may be repeated."
        ),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Part of a run's split that it predicts: test (the default), val, train, all.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Groups: igbp, koppen, network, site, ...; sites: also a number, e.g. elevation; all: none."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="map, series: period first/last, e.g. 2018-07-01/2018-07-31; default: all.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(help="map: a panel for each month or year; series: means of hour, day or month.")
    ] = None,
    cycle: Annotated[str | None, typer.Option(help="cycle: diurnal, seasonal or both.")] = None,
    projection: Annotated[
        str | None,
        typer.Option(help="map, sites: platecarree, robinson, mollweide, lambert, polar, or a code such as EPSG:3035."),
    ] = None,
    bbox: Annotated[str | None, typer.Option(help="sites: west,south,east,north in degrees.")] = None,
    names: Annotated[bool, typer.Option("--names", help="sites: write the name of each tower.")] = False,
    mark_sites: Annotated[str | None, typer.Option(help="map: mark the towers of this cube or CSV table.")] = None,
    limits: Annotated[
        str | None, typer.Option(help="map, sites: values of the first and last colour: low,high.")
    ] = None,
    cmap: Annotated[str | None, typer.Option(help="map, sites: colours, by their name in matplotlib.")] = None,
    hatch: Annotated[
        bool | None, typer.Option("--hatch/--no-hatch", help="map: hatch where the model is not applicable.")
    ] = None,
    max_qc: MaxQc = None,
    min_quality: MinQuality = None,
) -> None:
    """Draw maps, towers on a map, their series, mean cycles, or predictions against observations.

    Examples: `fluxcube plot maps.zarr nee.png --variable NEE --time 2018-07-01/2018-07-31 --projection robinson`;
    `fluxcube plot carbonsense.zarr sites.png --by igbp`;
    `fluxcube plot carbonsense.zarr series.png --kind series --site DE-Tha --model runs/eco`.
    """
    passed = {key: value for key, value in locals().items() if key not in ("data", "png", "kind")}
    options = {key: value for key, value in passed.items() if value not in (None, False, []) or key == "hatch"}
    options = {key: value for key, value in options.items() if value is not None}
    kind = _kind_of(data) if kind is None else kind
    if kind not in _KINDS:
        raise unknown("kind of figure", kind, _KINDS)
    draw, known = _KINDS[kind]
    if foreign := sorted(set(options) - known):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        others = ", ".join(name for name, (_, theirs) in _KINDS.items() if set(foreign) <= theirs)
        raise ConfigError(f"--kind {kind} has no {flags}" + (f", which --kind {others} has." if others else "."))
    draw(_Wanted(data, png, options))
    typer.echo(str(png))


def _kind_of(data: str) -> str:
    """Return the kind of figure that shows the data: a map of maps, towers of a cube or a table."""
    from fluxcube.stores.reading import current_place, store_attrs

    if data.endswith(".csv"):
        return "sites"
    return "sites" if store_attrs(current_place(data)).get("kind") == "cube" else "map"


def _map(wanted: _Wanted) -> None:
    from fluxcube.maps.means import mean_maps, refuse_standard_deviation
    from fluxcube.plotting.maps import plot_map

    variables = wanted.get("variable", ["NEE"])
    for name in variables:
        refuse_standard_deviation(name)
    every = wanted.get("every")
    if every is not None and len(variables) > 1:
        raise ConfigError("--every draws a panel for each period: pass one --variable.")
    maps = opened(wanted.data, wanted.get("time"))
    mean = mean_maps(only(maps, *variables, optional=("applicable",)), every, min_coverage=0)
    style: dict[str, Any] = {"limits": color_range(wanted.get("limits"))}
    style |= {name: wanted.get(name) for name in ("projection", "cmap")}
    if "mark_sites" in wanted.options:
        style["mark_sites"] = _places(wanted.get("mark_sites"))
    if wanted.get("hatch", True) and every is None and "applicable" not in variables:
        style["applicable"] = mean.get("applicable")
    if every is not None:
        plot_map(mean[variables[0]], wanted.png, panels="time", **style)
    else:
        plot_map(mean[variables[0]] if len(variables) == 1 else mean[variables], wanted.png, **style)


def _places(path: str) -> xr.Dataset | pd.DataFrame:
    """Return the towers of a cube or of a table."""
    if not path.endswith(".csv"):
        return _cube(path)
    import pandas as pd

    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path}: pass a cube, or a CSV table with site,latitude,longitude.")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _cube(path: str) -> xr.Dataset:
    from fluxcube.catalog import open_carbonsense

    return open_carbonsense(path)


def _sites(wanted: _Wanted) -> None:
    from fluxcube.plotting.sitemaps import plot_sites

    places = _places(wanted.data)
    by = wanted.get("by", "igbp" if "igbp" in places else "all")
    plot_sites(
        places,
        wanted.png,
        by=None if by == "all" else by,
        bbox=box(wanted.get("bbox")),
        limits=color_range(wanted.get("limits")),
        **{name: wanted.get(name) for name in ("projection", "cmap")},
        names=wanted.get("names", False),
    )


def _series(wanted: _Wanted) -> None:
    from fluxcube.figures.series import plot_series

    cube = _cube(wanted.data)
    chosen = {"sites": wanted.get("site"), "targets": wanted.get("target"), "variables": wanted.get("variable")}
    selection = {"time": period(wanted.get("time")), "every": wanted.get("every")}
    with tempfile.TemporaryDirectory() as folder:
        models = _predictions(wanted, cube, folder)
        plot_series(cube, models or None, wanted.png, **chosen, **selection)


def _cycle(wanted: _Wanted) -> None:
    from fluxcube.figures.cycles import plot_cycle

    cube, by = _cube(wanted.data), wanted.get("by", "igbp")
    limits = quality_options(wanted.get("max_qc"), wanted.get("min_quality"))
    options = {"target": _one_target(wanted), "cycle": wanted.get("cycle"), "sites": wanted.get("site")}
    with tempfile.TemporaryDirectory() as folder:
        models = _predictions(wanted, cube, folder) or None
        plot_cycle(cube, models, wanted.png, by=None if by == "all" else by, **options, **limits)


def _scatter(wanted: _Wanted) -> None:
    from fluxcube.figures.scatter import plot_scatter

    if "model" not in wanted.options:
        raise ConfigError("--kind scatter: pass the predictions, --model runs/NAME or --model FILE.nc.")
    cube, by = _cube(wanted.data), wanted.get("by")
    limits = quality_options(wanted.get("max_qc"), wanted.get("min_quality"))
    with tempfile.TemporaryDirectory() as folder:
        models = _predictions(wanted, cube, folder)
        by = None if by == "all" else by
        plot_scatter(cube, models, wanted.png, target=_one_target(wanted), by=by, **limits)


def _one_target(wanted: _Wanted) -> str | None:
    targets = wanted.get("target", [None])
    if len(targets) > 1:
        raise ConfigError(f"--target: a figure of this kind has one flux, found {', '.join(targets)}; draw them apart.")
    return targets[0]


def _predictions(wanted: _Wanted, cube: xr.Dataset, folder: str) -> dict[str, xr.Dataset]:
    """Return the predictions of the models that are passed, by their label; those of runs are written to a folder."""
    from fluxcube.reports.gather import gather

    models = labelled(wanted.get("model", []))
    if "part" in wanted.options and not models:
        raise ConfigError("--part is the part that a run predicts: pass --model, too.")
    with bar("predict") as progress:
        gathered = {
            label: gather(label, paths, cube, Path(folder), part=wanted.get("part", "test"), progress=progress)
            for label, paths in models.items()
        }
    return {label: one.predictions.load() for label, one in gathered.items()}


#: Each kind of figure, and the options that it has.
_KINDS: dict[str, tuple[Callable[[_Wanted], None], frozenset[str]]] = {
    "map": (_map, frozenset(["variable", "time", "every", "projection", "limits", "cmap", "hatch", "mark_sites"])),
    "sites": (_sites, frozenset(["by", "bbox", "projection", "names", "limits", "cmap"])),
    "series": (_series, frozenset(["site", "target", "variable", "model", "part", "time", "every"])),
    "cycle": (_cycle, frozenset(["site", "target", "model", "part", "by", "cycle", "max_qc", "min_quality"])),
    "scatter": (_scatter, frozenset(["target", "model", "part", "by", "max_qc", "min_quality"])),
}
