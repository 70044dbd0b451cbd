"""Test grid cells: adjacent edges, and areas on the ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import SchemaError
from fluxcube.geometry import cell_area, cell_bounds, west_to_east

#: Of WGS84 (NIMA TR8350.2), m2: 4 pi times the square of the authalic radius, 6371007.1809 m.
SURFACE = 4 * np.pi * 6371007.1809**2


def globe(step: float, *, poles: bool = False):
    latitude = np.arange(90, -90 - step / 2, -step) if poles else np.arange(90 - step / 2, -90, -step)
    return cell_bounds(latitude, (-90, 90)), cell_bounds(np.arange(0, 360, step))


@pytest.mark.parametrize(("step", "poles"), [(0.25, True), (0.25, False), (1.0, False), (2.5, True), (30.0, True)])
def test_cells_of_the_globe_add_up_to_its_surface(step, poles):
    assert cell_area(*globe(step, poles=poles)).sum() == pytest.approx(SURFACE, rel=1e-9)


def test_areas_are_those_of_an_independent_geodesic_library():
    pyproj = pytest.importorskip("pyproj")
    geod = pyproj.Geod(ellps="WGS84")
    latitude, longitude = np.array([[46.0, 46.25], [-1.0, 0.5], [89.75, 90.0]]), np.array([[7.0, 7.25]])
    along = np.linspace(*longitude[0], 400)  # parallels are no geodesics: follow them in short steps
    for (south, north), area in zip(latitude, cell_area(latitude, longitude)[:, 0], strict=True):
        ring = np.concatenate([along, along[::-1]]), np.repeat([south, north], 400)
        assert abs(geod.polygon_area_perimeter(*ring)[0]) == pytest.approx(area, rel=1e-7)


def test_errors_of_a_sphere_are_as_documented():
    step = np.deg2rad(0.25)
    for edges, share in (([0, 0.25], 0.0045), ([89.75, 90], -0.009)):
        band = np.diff(np.sin(np.deg2rad(edges)))[0]
        sphere = 6371007.1809**2 * step * band
        assert sphere / cell_area([edges], [[0, 0.25]])[0, 0] - 1 == pytest.approx(share, rel=0.03)


@settings(deadline=None)
@given(st.floats(-80, 80), st.floats(0.01, 5), st.integers(2, 30), st.floats(-400, 400), st.sampled_from([1, -1]))
def test_edges_meet_whatever_the_direction_and_the_turn(south, step, count, west, sign):
    latitude = (south + step * np.arange(count))[::sign]
    latitude = latitude[np.abs(latitude) <= 90]
    if len(latitude) < 2:
        return
    bounds = cell_bounds(latitude, (-90, 90))
    np.testing.assert_allclose(bounds[1:, 0], bounds[:-1, 1])
    assert ((bounds.min(1) <= latitude) & (latitude <= bounds.max(1))).all()
    longitude = west + step * np.arange(count)
    plain, wrapped = cell_bounds(longitude), cell_bounds((longitude + 180) % 360 - 180)
    np.testing.assert_allclose(np.diff(plain), np.diff(wrapped))
    np.testing.assert_allclose(np.mod(plain - wrapped + 1e-6, 360), 1e-6, atol=1e-5)
    area = cell_area(bounds, plain)
    assert (area > 0).all()
    np.testing.assert_allclose(area, cell_area(bounds[:, ::-1], wrapped), rtol=1e-6)


def test_cells_can_be_divided():
    edges = np.linspace(40, 41, 11)
    fine = cell_area(np.stack([edges[:-1], edges[1:]], 1), np.stack([edges[:-1], edges[1:]], 1))
    assert fine.sum() == pytest.approx(cell_area([[40, 41]], [[40, 41]])[0, 0])


@pytest.mark.parametrize(
    ("centres", "limits", "words"),
    [
        ([1.0, 2.0, 4.0], None, "cells are missing"),
        ([1.0, 2.0, 1.5], None, "increasing or decreasing"),
        ([1.0, 1.0], (-90, 90), "increasing or decreasing"),
        ([5.0], None, "width of a single cell"),
        ([], None, "finite cell centres"),
        ([1.0, np.nan], None, "finite cell centres"),
        ([89.0, 90.0, 91.0], (-90, 90), "within"),
        (np.arange(0, 365, 1.0), None, "at most 360"),
    ],
)
def test_irregular_axes_are_refused(centres, limits, words):
    with pytest.raises(SchemaError, match=words):
        cell_bounds(np.array(centres), limits)


def test_a_single_cell_has_the_given_width():
    np.testing.assert_allclose(cell_bounds([5.0], width=0.5), [[4.75, 5.25]])
    np.testing.assert_allclose(cell_bounds([90.0], (-90, 90), width=0.5), [[89.75, 90.0]])


def test_invalid_edges_are_refused():
    with pytest.raises(SchemaError, match="latitude_bnds"):
        cell_area([0, 1], [[0, 1]])
    with pytest.raises(SchemaError, match="-90 to 90"):
        cell_area([[89, 91]], [[0, 1]])


@settings(deadline=None)
@given(st.floats(-400, 400), st.floats(0.05, 3), st.integers(1, 40), st.randoms())
def test_a_region_begins_at_its_western_end_in_any_order(west, step, count, random):
    longitude = west + step * np.arange(count)
    shuffled = list(longitude)
    random.shuffle(shuffled)
    order, east = west_to_east((np.array(shuffled) + 180) % 360 - 180)
    np.testing.assert_allclose(np.diff(east), step, atol=1e-9)
    np.testing.assert_allclose(np.array(shuffled)[order], longitude)
    assert -180 <= east[0] < 180 + 1e-9
