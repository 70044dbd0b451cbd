"""The command `plot`: every kind of figure is written, and an option that a kind does not have is refused."""

from __future__ import annotations

import pandas as pd
import pytest
import xarray as xr
from packages import optional
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.cli_plot import _kind_of
from fluxcube.errors import ConfigError, UnknownNameError, from_shell
from fluxcube.evaluation.report import read_predictions, write_predictions
from fluxcube.simulation.example import example_cube, example_maps

optional("netCDF4")
optional("matplotlib")


def run(*arguments: object) -> str:
    with from_shell():
        done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=3, days=20).load()


@pytest.fixture
def store(cube, monkeypatch):
    """Name of a cube that the command opens without reading a store."""
    monkeypatch.setattr("fluxcube.cli_plot._cube", lambda path: cube)
    return "carbonsense.zarr"


@pytest.fixture(scope="module")
def predictions(cube, tmp_path_factory):
    path = tmp_path_factory.mktemp("predictions") / "eco.nc"
    nee = (cube.fluxes.sel(target="NEE", drop=True) * 0.9).assign_attrs(units="umol m-2 s-1")
    write_predictions(nee.to_dataset(name="NEE"), path)
    return path


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "maps.zarr"
    one = example_maps(days=33)
    one["applicable"] = xr.ones_like(one.NEE).where(one.longitude < 8.3, 0.0)
    fc.write_maps(one.chunk(time=240), path)
    return path


def test_towers_and_maps_are_drawn(store, maps, cube, tmp_path):
    run("plot", store, tmp_path / "sites.png", "--kind", "sites")
    fc.plot_sites(cube, tmp_path / "library.png")
    assert (tmp_path / "sites.png").read_bytes() == (tmp_path / "library.png").read_bytes()
    table = tmp_path / "towers.csv"
    table.write_text("site,latitude,longitude\nA,50,8\nB,51,9\n", "utf-8")
    options = ("--projection", "lambert", "--mark-sites", table, "--cmap", "cividis")
    run("plot", maps, tmp_path / "map.png", "--variable", "NEE", "--variable", "applicable", *options)
    run("plot", maps, tmp_path / "months.png", "--every", "month")
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert all(png[:4] == b"\x89PNG" for png in drawn.values()) and len(set(drawn.values())) == len(drawn) - 1


def test_names_of_towers_that_would_overlap_are_left_out(store, cube, tmp_path):
    run("plot", store, tmp_path / "sites.png", "--kind", "sites", "--names")
    fc.plot_sites(cube, tmp_path / "same.png", names=True)
    assert (tmp_path / "sites.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    towers = pd.DataFrame({"site": ["A", "A2", "B"], "latitude": [50, 50, 52.0], "longitude": [8, 8, 11.0]})
    assert [text.get_text() for text in fc.plot_sites(towers, by=None, names=True).texts] == ["A", "B"]


def test_series_cycles_and_scatter_take_predictions(store, predictions, cube, tmp_path):
    site, model = str(cube.site.values[0]), ("--model", f"eco={predictions}")
    series = ("--kind", "series", "--site", site, *model, "--variable", "TA", "--target", "NEE")
    run("plot", store, tmp_path / "series.png", *series)
    run("plot", store, tmp_path / "scatter.png", "--kind", "scatter", *model)
    pred = read_predictions(predictions)
    fc.plot_series(cube, {"eco": pred}, tmp_path / "lib.png", sites=site, targets="NEE", variables="TA")
    fc.plot_scatter(cube, {"eco": pred}, tmp_path / "lib2.png")
    for one, other in (("series.png", "lib.png"), ("scatter.png", "lib2.png")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
    run("plot", store, tmp_path / "cycle.svg", "--kind", "cycle", "--by", "all", "--max-qc", 1)
    assert (tmp_path / "cycle.svg").read_bytes()[:5] == b"<?xml"


def test_the_kind_of_figure_follows_from_the_data(cube_store, maps):
    assert _kind_of(str(cube_store)) == "sites" == _kind_of("towers.csv")
    assert _kind_of(str(maps)) == "map"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kind", "scater"), "did you mean 'scatter'"),
        (
            ("--kind", "sites", "--target", "NEE"),
            "--kind sites has no --target, which --kind series, cycle, scatter has",
        ),
        (("--kind", "map", "--names", "--site", "A"), "--kind map has no --names, --site"),
        (("--kind", "scatter"), "--model runs/NAME"),
        (("--kind", "cycle", "--target", "NEE", "--target", "LE"), "draw them apart"),
        (("--kind", "cycle", "--part", "val"), "pass --model, too"),
        (("--kind", "sites", "--by", "igpb"), "did you mean 'igbp'"),
        (("--kind", "sites", "--bbox", "1,2"), "west,south,east,north"),
        (("--kind", "cycle", "--cycle", "seasonal"), "--cycle diurnal"),
        (("--kind", "series", "--no-hatch"), "--kind series has no --hatch"),
    ],
)
def test_a_slip_says_what_to_type(store, tmp_path, options, words):
    with pytest.raises((ConfigError, UnknownNameError)) as found:
        run("plot", store, tmp_path / "a.png", *options)
    assert words in str(found.value) and not list(tmp_path.iterdir())
