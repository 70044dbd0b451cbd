"""Totals: what regions hold adds up to the land's, whatever the grid's conventions, and gaps are no zeros."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.geometry import cell_area, cell_bounds
from fluxcube.maps.totals import totals
from fluxcube.simulation.example import example_maps


def grid(values, *, latitude, longitude, start="2018-01-01", step="h", land=1.0, name="NEE", units="umol m-2 s-1"):
    """Maps of given values, broadcast to (time, latitude, longitude)."""
    shape = (values.shape[0], len(latitude), len(longitude))
    time = np.datetime64(start, "s") + np.arange(shape[0]) * np.timedelta64(1, step)
    return xr.Dataset(
        {name: (("time", "latitude", "longitude"), np.broadcast_to(values, shape), {"units": units})},
        coords={
            "time": time.astype("datetime64[ns]"),
            "latitude": latitude,
            "longitude": longitude,
            "land_fraction": (("latitude", "longitude"), np.broadcast_to(land, shape[1:]).astype(float)),
        },
    )


def globe(values, size=5.0, **options):
    return grid(values, latitude=np.arange(90 - size / 2, -90, -size), longitude=np.arange(0.0, 360, size), **options)


def noisy(hours=48, shape=(12, 16), seed=0, **options):
    rng = np.random.default_rng(seed)
    latitude, longitude = 60 - 0.5 * np.arange(shape[0]), 5 + 0.5 * np.arange(shape[1])
    values = rng.normal(-1, 3, (hours, *shape))
    return grid(values, latitude=latitude, longitude=longitude, land=rng.uniform(0, 1, shape), **options)


def same(one, other, **tolerance):
    assert set(one.data_vars) == set(other.data_vars) and len(one.data_vars)
    for name in one.data_vars:
        assert np.isfinite(one[name]).any() and one[name].dims == other[name].dims, name
        np.testing.assert_allclose(one[name], other[name], **({"rtol": 1e-9, "atol": 1e-15} | tolerance), err_msg=name)


def polygon(*points):
    return {"type": "Polygon", "coordinates": [[*map(list, points), list(points[0])]]}


def box(west, south, east, north):
    return polygon((west, south), (east, south), (east, north), (west, north))


def test_one_micromole_over_the_globe_is_the_total_worked_out_by_hand():
    # 510.0656217e12 m2 x 1e-6 mol m-2 s-1 x 12.011 g mol-1 x 31,536,000 s = 193.202 PgC
    whole = globe(np.ones((8760, 1, 1), "float32"), size=15.0)
    year = totals(whole)
    assert float(year.NEE) == pytest.approx(193.202, abs=0.001) and year.NEE.attrs["units"] == "PgC yr-1"
    assert float(year.years) == 1 and float(year.area) == pytest.approx(510.0656217e12, rel=1e-9)
    # a day of it is the same rate, and the amount is that of a day
    day = totals(whole.isel(time=slice(0, 24)))
    assert float(day.NEE) == pytest.approx(float(year.NEE)) and float(day.years) == pytest.approx(1 / 365)


def test_other_fluxes_add_up_to_what_their_fields_tell():
    # 100 W m-2 over the globe: 5.1e16 W; / 2.45e6 J kg-1 x 31,536,000 s / 1e12 kg km-3 = 656,550 km3
    heat = totals(globe(np.full((24, 1, 1), 100.0), name="LE", units="W m-2"))
    assert float(heat.LE) == pytest.approx(510.0656217e14) and heat.LE.attrs["units"] == "W"
    assert float(heat.ET) == pytest.approx(656_550, rel=1e-4) and heat.ET.attrs["units"] == "km3 yr-1"
    # 10 nmol m-2 s-1 x 16.043 g mol-1 over a tenth of the globe: 258.06 Tg
    maps = globe(np.full((24, 1, 1), 10.0), name="FCH4", units="nmol m-2 s-1")
    methane = totals(maps, wetland=xr.full_like(maps.land_fraction, 0.1))
    assert float(methane.FCH4) == pytest.approx(258.06, abs=0.01) and methane.FCH4.attrs["units"] == "TgCH4 yr-1"
    # daily maps: 1 gC m-2 d-1 over the globe for a year
    daily = totals(globe(np.ones((365, 1, 1)), step="D", name="GPP_NT", units="gC m-2 d-1"))
    assert float(daily.GPP_NT) == pytest.approx(510.0656217e12 * 365e-15)


def test_only_land_counts():
    maps = noisy()
    half = totals(maps.assign_coords(land_fraction=maps.land_fraction / 2))
    np.testing.assert_allclose(half.NEE * 2, totals(maps).NEE)
    assert float(half.area) * 2 == pytest.approx(float(totals(maps).area))
    ocean = maps.land_fraction.where(maps.longitude > 8, 0.0)
    wet = maps.assign_coords(land_fraction=ocean)
    same(totals(wet), totals(wet.assign(NEE=maps.NEE.where(ocean > 0))))


def test_the_sum_is_that_of_a_plain_loop():
    maps = noisy(shape=(3, 4))
    bounds = cell_bounds(maps.latitude.values, (-90, 90)), cell_bounds(maps.longitude.values)
    area, amount = cell_area(*bounds), 0.0
    for hour in range(48):
        for i in range(3):
            for j in range(4):
                flux = float(maps.NEE[hour, i, j])
                amount += flux * 1e-6 * 12.011 * area[i, j] * float(maps.land_fraction[i, j]) * 3600
    assert float(totals(maps).NEE) == pytest.approx(amount / 1e15 / (48 / 8760))


def test_given_areas_go_before_computed_ones():
    maps = noisy()
    area = xr.DataArray(np.full((12, 16), 7e8), dims=("latitude", "longitude"))
    assert float(totals(maps.assign_coords(cell_area=area)).area) == pytest.approx(
        float(maps.land_fraction.sum() * 7e8)
    )
    edges = np.stack([maps.latitude.values + 0.5, maps.latitude.values], 1)
    moved = maps.assign_coords(latitude_bnds=(("latitude", "bnds"), edges))
    assert float(totals(moved).area) < float(totals(maps).area)  # cells further north are smaller


@pytest.mark.parametrize("by", [None, "region", "latitude", "igbp"])
def test_conventions_of_the_grid_do_not_matter(by):
    maps = globe(
        np.random.default_rng(1).normal(0, 1, (24, 36, 72)), land=np.random.default_rng(2).uniform(0, 1, (36, 72))
    )
    maps = maps.assign_coords(
        igbp=(("latitude", "longitude"), np.random.default_rng(3).choice(["GRA", "ENF"], (36, 72)))
    )
    given = {"by": by, "regions": {"far": box(171.3, -20, 192.2, 31)} if by == "region" else None}
    first = totals(maps, **given)
    west = maps.assign_coords(longitude=(maps.longitude + 180) % 360 - 180)
    for other in (
        maps.isel(latitude=slice(None, None, -1)),
        west.sortby("longitude"),
        west.roll(longitude=7, roll_coords=True),
        maps.isel(longitude=slice(None, None, -1)),
        maps.transpose("longitude", "time", "latitude"),
        maps.chunk(time=7, latitude=5, longitude=11),
        maps.chunk(time=24, latitude=36, longitude=72),
    ):
        same(first, totals(other, **given))


def test_an_antimeridian_region_may_be_written_either_way():
    maps = globe(np.random.default_rng(1).normal(0, 1, (24, 36, 72)))
    across = totals(maps, regions={"a": box(171.3, -20, 192.2, 31)})
    cut = {
        "type": "MultiPolygon",
        "coordinates": [box(171.3, -20, 180, 31)["coordinates"], box(-180, -20, -167.8, 31)["coordinates"]],
    }
    same(across, totals(maps, regions={"a": cut}))


def triangles(seed=0, count=7):
    """A fan of polygons that together are a box, edges at odd angles."""
    rng = np.random.default_rng(seed)
    corners = [(4.75, 54.25), (12.75, 54.25), (12.75, 60.25), (4.75, 60.25)]
    ring = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        ring += [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in [0, *np.sort(rng.uniform(0.1, 0.9, count))]]
    middle = (8.1234, 57.0101)
    return {f"{i}": polygon(middle, a, b) for i, (a, b) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True))}


@pytest.mark.parametrize("by", ["region", "igbp", "latitude"])
def test_groups_that_share_the_land_out_add_up_to_all_of_it(by):
    maps = noisy()
    classes = np.random.default_rng(5).choice(["ENF", "GRA", ""], (12, 16))
    maps = maps.assign_coords(igbp=(("latitude", "longitude"), classes))
    parts = totals(maps, by=by, regions=triangles() if by == "region" else None, latitude_step=0.7)
    whole = totals(maps)
    dim = parts.NEE.dims[0]
    assert parts.sizes[dim] > 2
    assert float(parts.NEE.sum()) == pytest.approx(float(whole.NEE), rel=1e-9)
    assert float(parts.area.sum()) == pytest.approx(float(whole.area), rel=1e-9)
    if by == "igbp":
        assert list(parts.igbp.values) == ["ENF", "GRA", "unknown"]


def test_a_hole_is_what_is_in_it():
    maps = noisy()
    outer, inner = box(6, 55, 11, 59)["coordinates"][0], polygon((7, 56.1), (9.3, 57), (8, 58.3))["coordinates"][0]
    parts = totals(
        maps,
        regions={
            "ring": {"type": "Polygon", "coordinates": [outer, inner]},
            "hole": {"type": "Polygon", "coordinates": [inner]},
            "all": {"type": "Polygon", "coordinates": [outer[::-1]]},
        },
    )
    ring, hole, whole = parts.NEE.values
    assert ring + hole == pytest.approx(whole) and hole != 0


def test_months_and_years_are_weighted_by_their_length():
    days = np.datetime64("2020-01-01", "D") + np.arange(731)
    values = (days.astype("datetime64[M]").astype(int) % 12 + 1.0)[:, None, None]
    maps = globe(values, start="2020-01-01", step="D", units="gC m-2 d-1")
    months, years = totals(maps, every="month"), totals(maps, every="year")
    np.testing.assert_allclose(years.years, 1)
    assert years.sizes["time"] == 2 and months.sizes["time"] == 24
    for at, year in enumerate((2020, 2021)):
        of = months.isel(time=slice(12 * at, 12 * at + 12))
        np.testing.assert_allclose(float((of.NEE * of.years).sum()), float(years.NEE[at]))
        assert f"{year}-12" in str(of.time.values[-1])
    assert float(years.NEE[0]) > float(years.NEE[1])  # a leap year has one more day of 2 gC m-2 d-1 in 366
    both = totals(maps)
    assert float(both.years) == 2 and float(both.NEE) == pytest.approx(float(years.NEE.mean()))


def test_missing_nights_are_no_missing_days():
    hour = np.arange(24 * 10) % 24
    day = np.where((hour >= 6) & (hour < 18), -10.0, 4.0)[:, None, None]
    maps = globe(day)
    truth = totals(maps)
    # the nights of one day are missing: the plain mean of what is left would take up more
    kept = xr.DataArray((day[:, 0, 0] < 0) | (np.arange(240) >= 24), dims="time")
    gaps = maps.assign(NEE=maps.NEE.where(kept))
    told = totals(gaps)
    assert float(told.NEE) == pytest.approx(float(truth.NEE))
    assert float(told.NEE_coverage) == pytest.approx(1 - 12 / 240)
    assert float(gaps.NEE.mean()) < float(maps.NEE.mean())


def test_land_without_a_value_is_not_taken_for_zero():
    maps = globe(np.full((24, 1, 1), 2.0))
    gaps = maps.assign(NEE=maps.NEE.where(maps.longitude >= 20))
    assert float(totals(gaps).NEE) == pytest.approx(float(totals(maps).NEE))
    assert float(totals(gaps).NEE_coverage) == pytest.approx(1 - 20 / 360)


def test_too_little_is_refused_and_told_only_if_asked():
    maps = globe(np.full((48, 1, 1), 2.0))
    gaps = maps.assign(NEE=maps.NEE.where(maps.latitude > -30))
    with pytest.raises(SchemaError, match=r"74\.9%.*min_coverage"):
        totals(gaps)
    told = totals(gaps, min_coverage=0.7)
    assert float(told.NEE_coverage) == pytest.approx(0.75, abs=0.001)
    with pytest.raises(SchemaError, match=r"'90S to 80S'.*0\.0%"):
        totals(gaps, by="latitude", min_coverage=0.7)
    bands = totals(gaps, by="latitude", min_coverage=0)
    assert np.isnan(bands.NEE.sel(band="80S to 70S")) and np.isfinite(bands.NEE.sel(band="70N to 80N"))


def test_half_a_month_is_no_month():
    maps = globe(np.ones((24 * 40, 1, 1)))
    with pytest.raises(SchemaError, match="2018-02"):
        totals(maps, every="month")
    told = totals(maps, every="month", min_coverage=0)
    np.testing.assert_allclose(told.NEE_coverage, [1, 9 / 28])


def test_an_hour_of_the_day_that_never_has_a_value_is_refused():
    maps = globe(np.ones((240, 1, 1)))
    gaps = maps.assign(NEE=maps.NEE.where(maps.time.dt.hour != 3))
    with pytest.raises(SchemaError, match="some hour of the day"):
        totals(gaps)


def test_a_region_beyond_the_grid_is_refused():
    maps = noisy()
    with pytest.raises(SchemaError, match=r"'half' lies within the maps to 5\d"):
        totals(maps, regions={"half": box(0.75, 55, 8.75, 57)})
    told = totals(maps, regions={"half": box(0.75, 55, 8.75, 57)}, min_coverage=0)
    assert float(told.inside[0]) == pytest.approx(0.5)
    same(told.squeeze(drop=True), totals(maps, regions={"in": box(4.75, 55, 8.75, 57)}).squeeze(drop=True))


def test_spread_and_applicability_come_along():
    maps = noisy()
    maps["NEE_spread"] = abs(maps.NEE.roll(time=1)).assign_attrs(units="umol m-2 s-1")
    maps["applicable"] = ((maps.longitude > 8) & (maps.NEE > -99)).astype("float32")
    told = totals(maps)
    flat = maps.drop_vars("NEE").rename(NEE_spread="NEE").drop_vars("applicable")
    assert float(told.NEE_spread) == pytest.approx(float(totals(flat).NEE))
    assert "upper bound" in told.NEE_spread.attrs["error_correlation"]
    east = totals(maps.isel(longitude=slice(7, None)), targets=["NEE"])
    assert float(told.applicable) == pytest.approx(float(east.area / told.area))
    # an upper bound of what members differ by, however their errors hang together
    members = [noisy(seed=seed).assign_coords(land_fraction=maps.land_fraction) for seed in range(5)]
    spread = xr.concat([m.NEE for m in members], "member").std("member", ddof=1).assign_attrs(units="umol m-2 s-1")
    bound = totals(members[0].assign(NEE_spread=spread)).NEE_spread
    own = xr.concat([totals(m).NEE for m in members], "member").std("member", ddof=1)
    assert 0 < float(own) < float(bound)


def test_geojson_is_read_and_its_mistakes_are_told(tmp_path):
    maps, path = noisy(), tmp_path / "regions.geojson"
    features = [
        {"type": "Feature", "properties": {"name": k, "iso": k * 2}, "geometry": v} for k, v in triangles().items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    same(totals(maps, regions=path), totals(maps, regions=triangles()))
    assert totals(maps, regions=path, name="iso").region.values[1] == "11"
    with pytest.raises(ConfigError, match="it has iso, name"):
        totals(maps, regions=path, name="country")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [features[0], features[0]]}))
    with pytest.raises(ConfigError, match="two features"):
        totals(maps, regions=path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="expected GeoJSON"):
        totals(maps, regions=path)
    with pytest.raises(ConfigError, match="no file"):
        totals(maps, regions=tmp_path / "none.geojson")
    with pytest.raises(ConfigError, match="overlap or cross"):
        totals(maps, regions={"twice": {"type": "MultiPolygon", "coordinates": [box(6, 55, 8, 57)["coordinates"]] * 2}})
    with pytest.raises(ConfigError, match="'Point'"):
        totals(maps, regions={"dot": {"type": "Point", "coordinates": [6, 55]}})


def test_what_cannot_be_added_up_is_refused():
    maps = noisy()
    with pytest.raises(SchemaError, match="land_fraction"):
        totals(maps.drop_vars("land_fraction"))
    with pytest.raises(SchemaError, match="no land"):
        totals(maps.assign_coords(land_fraction=0 * maps.land_fraction))
    with pytest.raises(SchemaError, match="a flux"):
        totals(maps.rename(NEE="dissimilarity"))
    with pytest.raises(UnknownNameError, match="GPP"):
        totals(maps, targets=["GPP"])
    with pytest.raises(ConfigError, match="by: expected"):
        totals(maps, by="biome")
    with pytest.raises(ConfigError, match="need each other"):
        totals(maps, by="region")
    with pytest.raises(ConfigError, match="every: expected"):
        totals(maps, every="week")
    with pytest.raises(SchemaError, match="rising order without overlap"):
        totals(maps.isel(time=slice(None, None, -1)))
    with pytest.raises(SchemaError, match="time_bnds"):
        totals(maps.isel(time=[0]))


def test_blocks_without_land_are_not_read():
    import dask.array as da

    maps = noisy(shape=(8, 8))
    land = maps.land_fraction.where(maps.longitude >= 7, 0.0)
    read = []

    def block(values, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return values

    lazy = da.map_blocks(block, maps.NEE.chunk(time=24, latitude=4, longitude=4).data, dtype=float)
    read.clear()
    totals(maps.assign(NEE=maps.NEE.copy(data=lazy)).assign_coords(land_fraction=land))
    assert len(read) == 4 and {column for _, _, column in read} == {1}


def test_example_maps_are_as_their_fluxes_say():
    told = totals(example_maps())
    assert float(told.NEE) == pytest.approx(float(told.RECO_NT - told.GPP_NT), rel=1e-5)


@pytest.mark.parametrize("units", ["", "furlong", "g m-2 d-1"])
def test_units_without_a_total_are_refused_before_anything_is_computed(units):
    maps = noisy(units=units)
    with pytest.raises(ConfigError, match="NEE"):
        totals(maps.map(lambda a: xr.full_like(a.chunk(), 1).map_blocks(_never, template=a.chunk())))


def _never(block):
    raise AssertionError("computed")
