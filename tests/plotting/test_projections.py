"""Maps in projections: places and colours agree with pyproj, and what a projection cannot show is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr
from packages import optional

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.plotting.canvas import figure_of
from fluxcube.plotting.maps import plot_map
from fluxcube.plotting.projections import Box, projection_of, turned
from fluxcube.variables import table

optional("matplotlib")

PLACES = pd.DataFrame({"site": ["a", "b"], "latitude": [52.0, 48.0], "longitude": [5.0, 9.0]})


def field(west, east, south, north, step, name="NEE"):
    """A map whose value is unique in each cell."""
    lat, lon = np.arange(north - step / 2, south, -step), np.arange(west + step / 2, east, step)
    values = np.arange(float(lat.size * lon.size)).reshape(lat.size, lon.size)
    coords = {"latitude": lat, "longitude": (lon + 180) % 360 - 180}
    return xr.DataArray(values, coords, ("latitude", "longitude"), name, dict(table()["NEE"].attrs))


def mesh_of(ax):
    from matplotlib.collections import QuadMesh

    return next(c for c in ax.collections if isinstance(c, QuadMesh))


GLOBE, EUROPE, PACIFIC = (-180, 180, -90, 90, 10), (-10, 40, 36, 70, 2), (150, 220, 50, 72, 2)


@pytest.mark.parametrize(
    ("projection", "area", "crs"),
    [
        ("robinson", GLOBE, "+proj=robin +R=6371007"),
        ("mollweide", GLOBE, "+proj=moll +R=6371007"),
        ("lambert", EUROPE, "+proj=laea +lat_0=53 +lon_0=15"),
        ("lambert", PACIFIC, "+proj=laea +lat_0=61 +lon_0=185"),
        ("polar", (-180, 180, 60, 90, 5), "+proj=laea +lat_0=90 +lon_0=0"),
        ("polar", (-180, 180, -90, -60, 5), "+proj=laea +lat_0=-90 +lon_0=0"),
        ("EPSG:3035", EUROPE, "EPSG:3035"),
        ("+proj=robin +lon_0=150", GLOBE, "+proj=robin +lon_0=150"),
    ],
)
def test_every_drawn_cell_has_the_value_of_its_place(projection, area, crs):
    da = field(*area)
    mesh = mesh_of(plot_map(da, projection=projection))
    corners, drawn = mesh.get_coordinates(), mesh.get_array()
    centres = (corners[:-1, :-1] + corners[1:, 1:] + corners[1:, :-1] + corners[:-1, 1:]) / 4
    lon, lat = pyproj.Proj(crs)(centres[..., 0], centres[..., 1], inverse=True)
    shown = ~np.ma.getmaskarray(drawn).reshape(lon.shape) & (
        np.abs(lat) < (80 if area is GLOBE else 91)
    )  # near a pole the middle of a bent cell is not in it
    assert shown.mean() > 0.85
    turns = (lon[shown] - da.longitude.values[0] + area[4] / 2) % 360 // area[4]
    rows = (da.latitude.values[0] + area[4] / 2 - lat[shown]) // area[4]
    expected = da.values[rows.astype(int), turns.astype(int)]
    np.testing.assert_array_equal(np.asarray(drawn).reshape(lon.shape)[shown], expected)


def test_towers_are_marked_where_pyproj_places_them():
    ax = plot_map(field(*EUROPE), projection="EPSG:3035", mark_sites=PLACES)
    dots = np.asarray(ax.collections[-1].get_offsets())
    np.testing.assert_allclose(
        dots, np.stack(pyproj.Proj("EPSG:3035")(PLACES.longitude, PLACES.latitude), 1), rtol=1e-9
    )
    plain = plot_map(field(0, 40, 36, 70, 2).assign_coords(longitude=np.arange(361.0, 401, 2)), mark_sites=PLACES)
    np.testing.assert_allclose(np.asarray(plain.collections[-1].get_offsets()) % 360, PLACES[["longitude", "latitude"]])


def test_the_whole_map_is_within_its_axes():
    for area, projection in ((GLOBE, "robinson"), (EUROPE, "lambert"), (PACIFIC, "lambert")):
        ax = plot_map(field(*area), projection=projection)
        corners = mesh_of(ax).get_coordinates().reshape(-1, 2)
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert left <= corners[:, 0].min() and corners[:, 0].max() <= right
        assert bottom <= corners[:, 1].min() and corners[:, 1].max() <= top
        assert np.ptp(corners[:, 0]) > 0.95 * (right - left)


def test_no_line_of_a_coast_crosses_the_map():
    from matplotlib.collections import LineCollection

    for projection in ("robinson", "+proj=robin +lon_0=150", "polar"):
        ax = plot_map(field(*GLOBE), projection=projection)
        coast = next(c for c in ax.collections if isinstance(c, LineCollection))
        longest = max(np.hypot(*np.diff(line, axis=0).T).max() for line in coast.get_segments() if len(line) > 1)
        assert longest < 0.12 * np.ptp(ax.get_xlim())


def test_a_cell_at_the_seam_is_cut_in_two():
    edges, columns = turned(np.arange(-195.0, 166, 30), Box(-180, 180, -90, 90))
    assert edges[0] == -180 and edges[-1] == 180 and columns[0] == columns[-1] == 0
    np.testing.assert_array_equal(columns[1:-1], np.arange(1, 12))


def test_a_projection_that_cannot_show_the_map_is_refused():
    with pytest.raises(UnknownNameError, match="robinson"):
        plot_map(field(*EUROPE), projection="robinsn")
    with pytest.raises(ConfigError, match="180 degrees"):
        plot_map(field(*GLOBE), projection="lambert")
    with pytest.raises(ConfigError, match="lon_0 near 185"):
        plot_map(field(*PACIFIC), projection="+proj=robin +lon_0=0")
    with pytest.raises(ConfigError, match="platecarree"):
        plot_map(field(*EUROPE), projection="EPSG:4326")
    assert projection_of("platecarree", Box(-180, 180, -90, 90)) is None


def test_projections_of_cartopy_are_taken_as_they_are():
    crs = pytest.importorskip("cartopy.crs")
    ours, theirs = (
        mesh_of(plot_map(field(*GLOBE), projection=p)) for p in ("+proj=moll +a=6378137 +b=6378137", crs.Mollweide())
    )
    np.testing.assert_allclose(ours.get_coordinates(), theirs.get_coordinates(), atol=1.0)
    from matplotlib.figure import Figure

    ax = Figure().subplots(subplot_kw={"projection": crs.LambertAzimuthalEqualArea(15, 53)})
    corners = mesh_of(plot_map(field(*EUROPE), ax=ax)).get_coordinates()
    x, _ = pyproj.Proj("+proj=laea +lat_0=53 +lon_0=15 +ellps=WGS84")(40 - 1e-6, 36)
    np.testing.assert_allclose(corners[..., 0].max(), x, rtol=1e-6)


def test_lazy_and_eager_maps_are_the_same_picture(tmp_path):
    da = field(*EUROPE)
    plot_map(da.chunk(latitude=5), tmp_path / "lazy.png", projection="lambert")
    plot_map(da, tmp_path / "eager.png", projection="lambert")
    assert (tmp_path / "lazy.png").read_bytes() == (tmp_path / "eager.png").read_bytes()


@pytest.mark.parametrize("name", ["GPP_NT", "RECO_NT", "NEE_std", "NEE_spread", "P"])
def test_colours_of_fields_of_one_sign_begin_at_zero(name):
    da = abs(field(*EUROPE)).rename(name)
    low, high = mesh_of(plot_map(da)).get_clim()
    assert low == 0 < high
    low, high = mesh_of(plot_map((-da).rename("sink"))).get_clim()
    assert low < 0 == high


def test_panels_of_a_dimension_share_their_colours_and_those_of_variables_do_not():
    da = xr.concat([field(*EUROPE) * k for k in (1, 2, 3)], xr.DataArray([1, 7, 12], dims="month", name="month"))
    axes = plot_map(da, panels="month", columns=2)
    assert [ax.get_title() for ax in axes] == ["January", "July", "December"]
    assert len({mesh_of(ax).get_clim() for ax in axes}) == 1
    for ax, k in zip(axes, (0, 1, 2), strict=True):
        np.testing.assert_array_equal(mesh_of(ax).get_array().ravel(), da.isel(month=k).values.ravel())
    one, two = plot_map(
        xr.Dataset({"NEE": da[0].drop_vars("month"), "GPP_NT": da[1].drop_vars("month"), "place": da.latitude})
    )
    assert mesh_of(one).get_clim()[0] < 0 == mesh_of(two).get_clim()[0]
    with pytest.raises(UnknownNameError, match="month"):
        plot_map(da, panels="months")
    with pytest.raises(ConfigError, match="leave ax out"):
        plot_map(da, panels="month", ax=one)
    with pytest.raises(SchemaError, match='panels="month"'):
        plot_map(da)


def test_applicability_is_drawn_as_two_classes_with_a_legend():
    share = xr.zeros_like(field(*EUROPE)).rename("applicable").where(lambda a: a.longitude < 10, 1.0)
    share[0, 0] = np.nan
    ax = plot_map(share.assign_attrs(averaged_over="2018-06"))
    assert not ax.child_axes, "no colour bar"
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == [
        "outside the area of applicability more than half of the time",
        "within the area of applicability at least half of the time",
        "no value",
    ]
    drawn = mesh_of(ax).get_array().reshape(share.shape)
    np.testing.assert_array_equal(drawn.filled(-1), np.nan_to_num(share.values, nan=-1))
    flags = {"flag_values": [0, 1], "flag_meanings": "water open_land"}
    ax = plot_map(share.rename("cover").assign_attrs(flags))
    assert [t.get_text() for t in ax.get_legend().get_texts()][:2] == ["water", "open land"]


@pytest.mark.parametrize("size", [(2.4, 3.0), (8.0, 4.0), (16.0, 4.0)])
def test_titles_fit_into_the_figure(size):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    long = field(*EUROPE).assign_attrs(long_name="net ecosystem exchange of CO2 of a model that has a long name" * 2)
    ax = plot_map(long, ax=figure.subplots())
    figure.draw_without_rendering()
    box = ax.title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    panels = plot_map(xr.Dataset({"a": long, "b": long, "c": long}))
    figure_of(panels[0]).draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in panels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
