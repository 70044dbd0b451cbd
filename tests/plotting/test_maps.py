"""Test figures of maps and scores: they show the values of their input, and invalid input is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from packages import optional

from fluxcube.errors import ConfigError, MissingPackageError, SchemaError, StoreError, UnknownNameError
from fluxcube.evaluation.skill import compare
from fluxcube.maps.means import mean_cycle, mean_maps
from fluxcube.plotting.animation import animate_cycle
from fluxcube.plotting.canvas import print_units
from fluxcube.plotting.maps import plot_map
from fluxcube.plotting.outlines import coast_lines
from fluxcube.plotting.scorebars import plot_differences, plot_scores
from fluxcube.simulation.example import example_cube, example_maps
from fluxcube.variables import table

optional("matplotlib")


def flux(name="NEE", shape=(6, 8), offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return xr.DataArray(
        rng.normal(offset, 1, shape),
        dims=("latitude", "longitude"),
        name=name,
        coords={"latitude": 50 - 0.25 * np.arange(shape[0]), "longitude": 5 + 0.25 * np.arange(shape[1])},
        attrs=table()[name].attrs if name in table() else {},
    )


def mesh_of(ax):
    from matplotlib.collections import QuadMesh

    return next(c for c in ax.collections if isinstance(c, QuadMesh))


def test_the_map_shows_the_array_at_its_coordinates():
    da = flux()
    da[2, 3] = np.nan
    mesh = mesh_of(plot_map(da))
    drawn = mesh.get_array().filled(np.nan).reshape(da.shape)
    np.testing.assert_array_equal(drawn, da.values)
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(
        (corners[:-1, :-1] + corners[1:, 1:]) / 2,
        np.stack(np.broadcast_arrays(da.longitude.values[None], da.latitude.values[:, None]), -1),
    )


def test_order_of_dimensions_and_a_single_time_do_not_matter():
    da = flux()
    one = da.transpose("longitude", "latitude").expand_dims(time=np.array(["2018-07-01T12"], "datetime64[ns]"))
    ax = plot_map(one)
    np.testing.assert_array_equal(mesh_of(ax).get_array().filled().reshape(da.shape), da.values)
    assert "2018-07-01 12:00 UTC" in ax.get_title() and "net ecosystem exchange" in ax.get_title()


def test_several_times_are_refused_with_a_suggestion():
    with pytest.raises(SchemaError, match=r'time of length 3.*da\.mean\("time"\)'):
        plot_map(flux().expand_dims(time=3))
    with pytest.raises(SchemaError, match="latitude, longitude"):
        plot_map(flux().isel(latitude=0))
    with pytest.raises(SchemaError, match="no finite value"):
        plot_map(flux() * np.nan)


def test_nee_has_colours_centred_at_zero():
    mesh = mesh_of(plot_map(flux(offset=3.0)))
    low, high = mesh.get_clim()
    assert low == -high and mesh.get_cmap().name == "RdBu_r"
    red, _, blue, _ = mesh.get_cmap()(mesh.norm(high))
    assert red > blue  # a source is red


@pytest.mark.parametrize(("name", "cmap"), [("GPP_NT", "YlGn"), ("RECO", "YlOrBr")])
def test_colours_of_gpp_and_reco_begin_at_zero(name, cmap):
    mesh = mesh_of(plot_map(flux(name, offset=9.0)))
    assert mesh.get_cmap().name == cmap and mesh.get_clim()[0] == 0


def test_colours_can_be_chosen():
    assert mesh_of(plot_map(flux(), limits=(-7, 8))).get_clim() == (-7, 8)
    assert mesh_of(plot_map(flux(offset=9), diverging=False)).get_cmap().name == "viridis"
    assert mesh_of(plot_map(flux("GPP_NT", offset=9), diverging=True)).get_cmap().name == "RdBu_r"
    assert plot_map(flux(), title="mine").get_title() == "mine"
    low, high = mesh_of(plot_map(flux() * 0)).get_clim()
    assert low < 0 < high


def test_the_colour_bar_has_the_units():
    ax = plot_map(flux())
    ax.figure.draw_without_rendering()
    assert [c.get_ylabel() for c in ax.child_axes] == ["NEE (µmol CO₂ m⁻² s⁻¹)"]
    assert print_units("umol CO2 m-2 s-1") == "µmol CO₂ m⁻² s⁻¹"
    assert print_units("W m-2") == "W m⁻²" and print_units("degC") == "°C" and print_units("") == ""


def test_a_lazy_map_and_a_single_row(tmp_path):
    plot_map(flux().chunk(latitude=2), tmp_path / "lazy.png")
    plot_map(flux(), tmp_path / "eager.png")
    assert (tmp_path / "lazy.png").read_bytes() == (tmp_path / "eager.png").read_bytes()
    for name, shape in (("row.png", (1, 8)), ("cell.png", (1, 1))):
        plot_map(flux(shape=shape), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_coasts_stay_on_the_map_and_never_cross_it():
    lines = coast_lines()
    points = np.concatenate(lines)
    assert 4000 < len(points) < 8000
    assert (np.abs(points) <= (180, 90)).all()
    assert max(np.abs(np.diff(line[:, 0])).max() for line in lines) < 20
    # Land's End, Cape Agulhas and Cape Horn, within what an outline of 1:110 million knows
    for cape in ((-5.7, 50.1), (20.0, -34.8), (-67.3, -55.9)):
        assert np.hypot(*(points - cape).T).min() < 1.2


def test_no_line_is_drawn_along_the_antimeridian():
    for line in coast_lines():
        end = np.abs(line[:, 0]) == 180
        assert not (end[1:] & end[:-1]).any()


def world(longitude, name="NEE"):
    """A map whose value is its longitude from -180 on."""
    latitude = np.arange(75.0, -90, -30)
    east = (longitude + 180) % 360 - 180
    values = np.broadcast_to(east, (len(latitude), len(east))).astype(float)
    coords = {"latitude": latitude, "longitude": longitude}
    return xr.DataArray(values, coords, ("latitude", "longitude"), name, table()["NEE"].attrs)


@pytest.mark.parametrize(
    ("longitude", "edges"),
    [
        (np.arange(0.0, 360, 30), (-195.0, 165.0)),
        (np.arange(15.0, 375, 30), (-180.0, 180.0)),
        (np.array([150.0, 165, -180, -165, -150]), (142.5, 217.5)),
        (np.arange(150.0, 211, 15), (142.5, 217.5)),
        (np.arange(-60.0, -180, -30)[::-1], (-165.0, -45.0)),
    ],
)
def test_longitudes_of_any_convention_are_drawn_in_one_piece(longitude, edges):
    ax = plot_map(world(longitude), limits=(-180, 180))
    assert ax.get_xlim() == edges
    corners, drawn = mesh_of(ax).get_coordinates(), mesh_of(ax).get_array()
    middle = (corners[:-1, :-1, 0] + corners[1:, 1:, 0]) / 2
    np.testing.assert_allclose((middle + 180) % 360 - 180, drawn.reshape(middle.shape))
    first, last = (ax.xaxis.get_major_formatter()(x, 0) for x in (-180, 180))
    assert first == last == "180°"


def hatched(ax):
    from matplotlib.collections import PolyCollection

    boxes = next((c for c in ax.collections if type(c) is PolyCollection), None)
    return [] if boxes is None else [path.get_extents().extents for path in boxes.get_paths()]


def test_only_cells_outside_the_area_of_applicability_are_hatched():
    da = flux()
    da[0, 0] = np.nan
    share = xr.zeros_like(da).where(da.longitude < 5.6, 1.0)
    share[3, :] = 0.5
    ax = plot_map(da, applicable=share)
    boxes = hatched(ax)
    assert len(boxes) == 5, "a box a row, but for the one that is half inside"
    widths = sorted(round(b[2] - b[0], 6) for b in boxes)
    assert widths == [0.5, 0.75, 0.75, 0.75, 0.75], "no box where there is no value"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no value", "outside the area of applicability"]
    assert hatched(plot_map(da, applicable=xr.ones_like(da))) == []
    turned = plot_map(da, applicable=share.isel(latitude=slice(None, None, -1)).sortby("latitude", ascending=False))
    assert len(hatched(turned)) == 5
    with pytest.raises(SchemaError, match="cells of the map"):
        plot_map(da, applicable=share.isel(longitude=slice(0, 3)))


def test_ocean_differs_from_land_without_a_value():
    da = flux()
    da[0, 0] = da[1, 1] = np.nan
    land = xr.ones_like(da)
    land[0, 0] = land[5, 5] = 0
    ax = plot_map(da.assign_coords(land_fraction=land))
    from matplotlib.collections import QuadMesh

    _, ocean = (c for c in ax.collections if isinstance(c, QuadMesh))
    drawn = ~np.ma.getmaskarray(ocean.get_array()).reshape(da.shape)
    assert drawn[0, 0] and drawn.sum() == 1, "a value over the ocean stays what it is"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no value"]


def test_large_maps_are_drawn_as_means_of_blocks():
    rows, columns = 2100, 30
    values = np.arange(rows * columns, dtype="float32").reshape(rows, columns)
    coords = {"latitude": 50 - 0.01 * np.arange(rows), "longitude": 5 + 0.01 * np.arange(columns)}
    da = xr.DataArray(values, coords, ("latitude", "longitude"), "GPP_NT")
    drawn = mesh_of(plot_map(da, coast=False)).get_array()
    np.testing.assert_allclose(drawn.reshape(1050, 30), (values[::2] + values[1::2]) / 2)


def test_the_title_reports_the_averaging_period():
    maps = example_maps(days=31).isel(time=slice(0, 720))
    told = {every: plot_map(_first(mean_maps(maps, every).NEE)).get_title() for every in ("day", "month", None)}
    assert told["day"].endswith("\n2018-06-01") and told["month"].endswith("\n2018-06")
    assert told[None].endswith("mean of 2018-06-01 to 2018-06-30") and "exchange of CO₂" in told[None]
    hour = plot_map(mean_cycle(maps, "month").NEE.isel(time=0, hour=13)).get_title()
    assert hour.endswith("2018-06, 13 to 14 h local mean solar time")


def _first(da):
    return da.isel(time=0) if "time" in da.dims else da


def test_animation_shows_the_mean_diurnal_cycle(tmp_path):
    from PIL import Image

    maps = example_maps(days=2).isel(time=slice(0, 48))
    cycle = mean_cycle(maps, clock="utc", min_coverage=0).isel(hour=[0, 6, 12])
    done = []
    path = animate_cycle(
        cycle, tmp_path / "day.gif", seconds=1.5, coast=False, progress=lambda *step: done.append(step[:2])
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    with Image.open(path) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 500 and gif.info["loop"] == 0
        pictures = []
        for i in range(3):
            gif.seek(i)
            pictures.append(np.asarray(gif.convert("RGB"), int))
    assert len({picture.shape for picture in pictures}) == 1
    middle = [picture[200:400, 200:400].mean((0, 1)) for picture in pictures]
    assert middle[0][0] > middle[0][2] and middle[2][2] > middle[2][0], "a source by night, red; a sink by day, blue"
    for picture in pictures:
        same = np.abs(pictures[0] - picture).max(-1) < 40
        assert same[:, :40].mean() > 0.99 and same[:, -40:].mean() > 0.99, "only the map and its title change"
        assert all((edge > 250).all() for edge in (picture[:, :2], picture[:, -2:], picture[:2], picture[-2:])), (
            "cut off"
        )


def test_invalid_animations_are_refused(tmp_path):
    maps = example_maps(days=2)
    with pytest.raises(ConfigError, match=r"\.gif"):
        animate_cycle(maps, tmp_path / "day.png")
    with pytest.raises(UnknownNameError, match="NEE"):
        animate_cycle(maps, tmp_path / "day.gif", variable="NE")
    with pytest.raises(StoreError, match="does not exist"):
        animate_cycle(maps, tmp_path / "no" / "day.gif")
    with pytest.raises(ConfigError, match="seconds"):
        animate_cycle(maps, tmp_path / "day.gif", seconds=0)
    with pytest.raises(SchemaError, match="choose one"):
        animate_cycle(mean_cycle(maps, "month", min_coverage=0), tmp_path / "day.gif")


def test_coasts_can_be_left_out():
    assert len(plot_map(flux(), coast=False).collections) == len(plot_map(flux(), borders=False).collections) - 1


def test_files_are_written_and_replaced(tmp_path):
    path = tmp_path / "map.png"
    plot_map(flux(), path)
    first = path.read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    plot_map(flux(seed=1), path)
    assert path.read_bytes() != first
    plot_map(flux(), tmp_path / "map.pdf")
    assert (tmp_path / "map.pdf").read_bytes()[:4] == b"%PDF"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        plot_map(flux(), tmp_path / "nowhere/map.png")
    with pytest.raises(ConfigError, match="png"):
        plot_map(flux(), tmp_path / "map.doc")


def test_no_global_state():
    plot_map(flux())
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_existing_axes_are_used():
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 2)
    assert plot_map(flux(), ax=axes[1]) is axes[1] and not axes[0].collections


def test_without_matplotlib_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingPackageError, match=r"fluxcube\[plot\]"):
        plot_map(flux())


def test_bars_have_the_height_of_the_scores():
    cube = example_cube(sites=4, days=4)
    fluxes = cube.fluxes.sel(target=["NEE"])
    scores = compare(cube, {"good": fluxes * 0.9, "bad": fluxes * -0.8}, by="igbp")
    ax = plot_scores(scores)
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers}
    np.testing.assert_allclose(heights["good"], scores[scores.model == "good"].nse)
    assert heights["bad"] == [-1.0] * 4
    assert [t.get_text() for t in ax.texts] == [f"{v:.1f}" for v in scores[scores.model == "bad"].nse]
    rmse = plot_scores(scores, score="rmse")
    np.testing.assert_allclose([b.get_height() for b in rmse.containers[1]], scores[scores.model == "bad"].rmse)
    assert "µmol" in rmse.get_ylabel()
    with pytest.raises(ConfigError, match="GPP"):
        plot_scores(scores, target="GPP")


def test_differences_are_dots_within_their_intervals(tmp_path):
    cube = example_cube(sites=8, days=4)
    predictions = {"a": cube.fluxes + 1, "b": cube.fluxes * 0.7, "c": cube.fluxes * 0.9}
    table = compare(cube, {k: v.sel(target=["NEE"]) for k, v in predictions.items()}, clusters=0, draws=200)
    ax = plot_differences(table, tmp_path / "d.png", score="rmse")
    assert (tmp_path / "d.png").stat().st_size > 0
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["b", "c"], "the model of reference differs from itself by nothing, and is not drawn"
    (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots.get_xdata(), table.rmse_diff.dropna())
    assert ax.get_xlabel() == "RMSE (µmol m⁻² s⁻¹), difference from a"
    whiskers = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(whiskers, table[["rmse_diff_low", "rmse_diff_high"]].dropna())
    with pytest.raises(ConfigError, match="clusters"):
        plot_differences(compare(cube, {"a": cube.fluxes}))
