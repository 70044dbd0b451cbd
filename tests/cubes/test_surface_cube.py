"""Surface reflectance in cubes: from series and from tiles, hourly and daily, built and appended."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from packages import optional
from tower_files import PLACES, columns, write_archive, write_places

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.report import open_report
from fluxcube.errors import ConfigError, SourceError, UnknownNameError
from fluxcube.schema import validate_cube

BANDS = ("red", "nir", "swir2")
DAYS = np.arange("2008-06-01", "2011-06-01", dtype="datetime64[D]")
SITES = ("FJ-Ddd", "IN-Bbb", "US-Aaa")
DAY = np.timedelta64(1, "D")


def series(sites=SITES, *, seed: int = 0, bands=BANDS, days=DAYS, quality: bool = True, **attrs: object) -> xr.Dataset:
    """Reflectance of some sites, half of the days clear, at their coordinates."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.01, 0.6, (len(sites), len(days), len(bands))).astype(np.float32)
    values[rng.random((len(sites), len(days))) < 0.5] = np.nan
    places = np.array([PLACES.get(site, (0.0, 0.0))[:2] for site in sites], float)
    ds = xr.Dataset(
        {"surface": (("site", "day", "band"), values, {"product": "MOD09GA", "collection": "006", **attrs})},
        {
            "site": np.array(sites, object),
            "day": days.astype("datetime64[ns]"),
            "band": np.array(bands, object),
            "latitude": ("site", places[:, 0]),
            "longitude": ("site", places[:, 1]),
        },
    )
    share = (("site", "day"), np.isfinite(values[..., 0]).astype(np.float32))
    return ds.assign(surface_quality=share) if quality else ds


def files(path: Path, start: str = "") -> dict[str, bytes]:
    """Bytes of the files of a store below some path."""
    return {
        name: p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and (name := p.relative_to(path).as_posix()).startswith(start)
    }


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    """Three sites of five days each, in January, February and April of 2010; tests must not change them."""
    folder = tmp_path_factory.mktemp("towers")
    write_places(folder, {site: PLACES[site] for site in SITES})
    for i, site in enumerate(SITES):
        write_archive(folder, site, columns(5 * 48, i), start=f"2010-0{(4, 2, 1)[i]}-01T00:00")
    return folder


@pytest.fixture(scope="module")
def store(towers, tmp_path_factory) -> Path:
    """An hourly cube with reflectance of two of its three sites; tests must not change it."""
    path = tmp_path_factory.mktemp("surface") / "c.zarr"
    build_carbonsense(towers, path, surface=series(SITES[1:]))
    return path


def check_window(ds: xr.Dataset, source: xr.Dataset, day: str, band: str) -> None:
    """Compare the cube with its source: the same values from 96 days before a site's start to its end, else nothing."""
    for site in source.site.values:
        mine = ds.sel(site=site)
        first = (mine.time_start.values - 96 * DAY).astype("datetime64[D]")
        last = (mine.time_stop.values - np.timedelta64(1, "h")).astype("datetime64[D]")
        days = mine[day].values
        inside = (days >= first) & (days <= last)
        expected = source.surface.sel(site=site).reindex(day=days[inside], band=mine[band].values)
        np.testing.assert_array_equal(mine.surface.values[inside], expected.values)
        assert np.isfinite(mine.surface.values[inside]).any() and np.isnan(mine.surface.values[~inside]).all()
        if "surface_quality" in source:
            held = source.surface_quality.sel(site=site).reindex(day=days[inside])
            np.testing.assert_array_equal(mine.surface_quality.values[inside], held)


def check_climatology(ds: xr.Dataset, source: xr.Dataset) -> None:
    """Compare the statistics with those of the whole source, all years."""
    found = ds.surface_climatology.sel(site=source.site)
    assert found.statistic.values.tolist() == list(STATISTICS)
    assert found.feature.values.tolist() == list(surface_features(source.band.values))
    expected = surface_climatology(source.surface.values, source.day.values, source.band.values)
    np.testing.assert_array_equal(found, expected)


def test_an_hourly_cube_has_the_reflectance_of_its_towers(store):
    ds = validate_cube(open_carbonsense(store))
    assert ds.surface.dims == ("site", "surface_day", "surface_band") and ds.surface.dtype == np.float32
    assert ds.surface_quality.dims == ("site", "surface_day") and ds.surface.chunks
    assert ds.surface.attrs["units"] == "1" and ds.surface.attrs["product"] == "MOD09GA"
    assert ds.surface.attrs["collection"] == "006" and ds.surface.attrs["lookahead_days"] == 0
    assert "day" not in ds.dims and not [name for name in ds.coords if str(name).endswith("held")]
    ds = ds.load()
    check_window(ds, series(SITES[1:]), "surface_day", "surface_band")
    check_climatology(ds, series(SITES[1:]))
    assert ds.surface.notnull().any(["site", "surface_band"]).all()
    nothing = ds.sel(site="FJ-Ddd")
    assert nothing.surface.isnull().all() and nothing.surface_climatology.isnull().all()


def test_a_tower_without_a_series_is_named_once(towers, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = build_carbonsense(towers, tmp_path / "c", surface=series(SITES[1:]))
    assert caplog.text.count("no surface reflectance of FJ-Ddd") == 1
    (note,) = [text for text in report.report["warnings"]["FJ-Ddd"] if "surface" in text]
    assert "no series of FJ-Ddd" in note
    assert not [site for site in SITES[1:] if any("surface" in t for t in report.report["warnings"].get(site, ()))]
    notes = open_report(tmp_path / "c", "notes")
    assert notes.text.str.contains("surface").sum() == 1 and not report.left_out


def test_a_daily_cube_has_it_on_days_and_bands(towers, tmp_path):
    build_carbonsense(towers, tmp_path / "d", resolution="daily", surface=series())
    ds = validate_cube(open_carbonsense(tmp_path / "d")).load()
    assert ds.surface.dims == ("site", "day", "band")
    check_window(ds, series(), "day", "band")
    check_climatology(ds, series())


def test_selections_keep_the_days_that_features_need(store):
    whole = open_carbonsense(store).load()
    one = open_carbonsense(store, sites="US-Aaa")
    assert one.surface_day.values[0] >= one.time_start.values[0] - 96 * DAY
    xr.testing.assert_identical(one.surface.load(), whole.surface.sel(site=["US-Aaa"], surface_day=one.surface_day))
    part = open_carbonsense(store, time=slice("2010-02-02", "2010-02-03"))
    days = whole.surface_day.values
    kept = (days >= np.datetime64("2010-02-02") - 96 * DAY) & (days <= np.datetime64("2010-02-03"))
    np.testing.assert_array_equal(part.surface_day.values, days[kept])
    scaled = open_carbonsense(store, normalized=True)
    xr.testing.assert_identical(scaled.surface.load(), whole.surface)
    wide = whole.fluxcube.to_variables()
    xr.testing.assert_identical(wide.surface, whole.surface)
    xr.testing.assert_identical(wide.surface_climatology, whole.surface_climatology)


def test_the_same_again_changes_nothing(store, towers, tmp_path):
    before = files(store)
    report = build_carbonsense(towers, store, surface=series(SITES[1:]), append=True)
    assert report.unchanged == tuple(sorted(SITES)) and files(store) == before
    build_carbonsense(towers, tmp_path / "again", surface=series(SITES[1:]))
    assert files(tmp_path / "again") == before


def test_a_changed_series_rewrites_its_site_alone(towers, tmp_path):
    build_carbonsense(towers, tmp_path / "c", surface=series())
    before = files(tmp_path / "c")
    changed = series()
    changed.surface[2, 100] = 0.25  # a day of 2008, long before US-Aaa measured: the statistics change
    report = build_carbonsense(towers, tmp_path / "c", surface=changed, append=True)
    assert report.unchanged == tuple(sorted(SITES))
    after = files(tmp_path / "c")
    different = {name for name in after if after[name] != before.get(name)}
    assert {name for name in different if "/c/" in name} == {"surface_climatology/c/2/0/0"}
    build_carbonsense(towers, tmp_path / "new", surface=changed)
    xr.testing.assert_identical(open_carbonsense(tmp_path / "c").load(), open_carbonsense(tmp_path / "new").load())


def test_a_series_that_lost_its_days_empties_its_site(towers, tmp_path):
    build_carbonsense(towers, tmp_path / "c", surface=series())
    lost = series()
    lost.surface[1, np.datetime64("2009-01-01") < DAYS] = np.nan
    build_carbonsense(towers, tmp_path / "c", surface=lost, append=True)
    ds = open_carbonsense(tmp_path / "c").load()
    assert ds.surface.sel(site="IN-Bbb").isnull().all() and ds.surface.sel(site="US-Aaa").notnull().any()
    assert ds.surface_climatology.sel(site="IN-Bbb", statistic="p50").notnull().all()
    (note,) = [t for t in open_report(tmp_path / "c", "notes").text if "IN-Bbb" in t]
    assert "has none of its own time, 2010-01-31 to 2010-02-05, only that of other years" in note


def test_append_adds_reflectance_to_a_cube_without(towers, tmp_path):
    build_carbonsense(towers, tmp_path / "c")
    plain = files(tmp_path / "c")
    build_carbonsense(towers, tmp_path / "c", surface=series(), append=True)
    both = files(tmp_path / "c")
    for name in plain:
        if "/c/" in name and name.split("/")[0] in ("predictors", "fluxes", "predictors_qc", "fluxes_qc"):
            assert both[name] == plain[name], name
    check_climatology(open_carbonsense(tmp_path / "c").load(), series())
    # Series of a part of the sites leave the others as they are.
    other = series(("US-Aaa",), seed=1)
    build_carbonsense(towers, tmp_path / "c", surface=other, append=True)
    ds = open_carbonsense(tmp_path / "c").load()
    check_window(ds, other, "surface_day", "surface_band")
    check_window(ds, series().sel(site=["FJ-Ddd", "IN-Bbb"]), "surface_day", "surface_band")


def test_a_new_site_keeps_the_bands_of_the_cube(towers, tmp_path, caplog):
    build_carbonsense(towers, tmp_path / "c", surface=series(SITES[1:]), sites=SITES[1:])
    before = files(tmp_path / "c")
    more = series(("FJ-Ddd",), bands=("red", "blue", "nir"), quality=False)
    build_carbonsense(towers, tmp_path / "c", surface=[series(SITES[1:]), more], append=True)
    assert "has no bands blue: not added" in caplog.text
    ds = open_carbonsense(tmp_path / "c").load()
    assert ds.surface_band.values.tolist() == list(BANDS)
    fiji = ds.surface.sel(site="FJ-Ddd")
    assert fiji.sel(surface_band="swir2").isnull().all() and fiji.sel(surface_band="nir").notnull().any()
    after = files(tmp_path / "c")
    assert after["surface/c/1/0/0"] == before["surface/c/0/0/0"], "the other sites' files stay"


def test_a_changed_tower_without_its_series_is_warned_about(towers, tmp_path):
    import shutil

    shutil.copytree(towers, tmp_path / "raw")
    build_carbonsense(tmp_path / "raw", tmp_path / "c", surface=series())
    write_archive(tmp_path / "raw", "US-Aaa", columns(6 * 48, 9), start="2010-01-01T00:00")
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c", append=True)
    assert any("append again with surface (--surface)" in text for text in report.report["warnings"]["US-Aaa"])
    ds = open_carbonsense(tmp_path / "c").load()
    assert ds.surface.sel(site="US-Aaa").isnull().all() and ds.surface.sel(site="IN-Bbb").notnull().any()


def test_places_are_compared(towers, tmp_path):
    far = series()
    far.latitude[2] += 0.6
    with pytest.raises(SourceError, match=r"US-Aaa: its series is of 40\.6000, -90\.0000, 66\.7 km from the tower"):
        build_carbonsense(towers, tmp_path / "c", surface=far)
    assert not (tmp_path / "c").exists()
    build_carbonsense(towers, tmp_path / "c", surface=far, max_distance_km=70)
    near = series()
    near.latitude[2] += 0.017  # 1.9 km
    build_carbonsense(towers, tmp_path / "c", surface=near, overwrite=True)
    check_window(open_carbonsense(tmp_path / "c").load(), series(), "surface_day", "surface_band")
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="max_distance_km"):
            build_carbonsense(towers, tmp_path / "c", surface=near, max_distance_km=wrong, overwrite=True)
    with pytest.raises(SourceError, match=r"66\.7 km"):
        short = far.rename(latitude="lat", longitude="lon").reset_coords(["lat", "lon"])
        build_carbonsense(towers, tmp_path / "c", surface=short, overwrite=True)
    unknown = series().drop_vars(["latitude", "longitude"])
    build_carbonsense(towers, tmp_path / "c", surface=unknown, overwrite=True)


@pytest.mark.parametrize("name", ["us_aaa", "USAAA", "us-aaa"])
def test_names_of_sites_may_be_written_otherwise(name, towers, tmp_path):
    other = series().assign_coords(site=np.array(["FJ-Ddd", "IN-Bbb", name], object))
    build_carbonsense(towers, tmp_path / "c", surface=other, sites="US-Aaa")
    check_window(open_carbonsense(tmp_path / "c").load(), series().sel(site=["US-Aaa"]), "surface_day", "surface_band")


def test_another_country_code_at_the_same_place_is_used_and_noted(towers, tmp_path):
    other = series().assign_coords(site=np.array(["FJ-Ddd", "IN-Bbb", "CA-Aaa"], object))
    report = build_carbonsense(towers, tmp_path / "c", surface=other)
    assert any("the series CA-Aaa, 0.0 km from" in text for text in report.report["warnings"]["US-Aaa"])
    other = series().assign_coords(site=np.array(["FJ-Ddd", "IN-Bbb", "tower 1"], object))
    report = build_carbonsense(towers, tmp_path / "e", surface=other)
    (note,) = [text for text in report.report["warnings"]["US-Aaa"] if "surface" in text]
    assert "tower 1 is 0.0 km away: rename it" in note
    numbered = series().assign_coords(site=np.array(["1", "2", "3"], object))
    beside = series(("x",), seed=7).assign_coords(latitude=("site", [40.01]), longitude=("site", [-90.0]))
    build_carbonsense(towers, tmp_path / "g", surface=xr.concat([numbered, beside], "site"))
    check_window(open_carbonsense(tmp_path / "g").load(), series(), "surface_day", "surface_band")
    with pytest.raises(SourceError, match="found series of CA-Xxx"):
        nowhere = series(("CA-Xxx",))
        build_carbonsense(towers, tmp_path / "f", surface=nowhere)


def test_files_of_one_place_are_joined(towers, tmp_path):
    whole = series()
    early, late = whole.isel(day=slice(0, 700)), whole.isel(day=slice(690, None))
    red, rest = late.sel(band=["red"]), late.sel(band=["swir2", "nir"]).drop_vars("surface_quality")
    other_names = early.assign_coords(site=np.array(["fj_ddd", "in_bbb", "us_aaa"], object))
    build_carbonsense(towers, tmp_path / "c", surface=[late.isel(day=slice(None, None, -1)), other_names])
    build_carbonsense(towers, tmp_path / "d", surface=[red, early, rest])
    build_carbonsense(towers, tmp_path / "e", surface=whole)
    for name in "cd":
        xr.testing.assert_identical(open_carbonsense(tmp_path / name).load(), open_carbonsense(tmp_path / "e").load())
    other = late.copy(deep=True)
    other["surface"] = late.surface + 0.01
    with pytest.raises(SourceError, match="has two values of red on 2010"):
        build_carbonsense(towers, tmp_path / "f", surface=[early, other])
    for key, value in (("product", "MCD43A4"), ("collection", "061")):
        changed = late.assign(surface=late.surface.assign_attrs({key: value}))
        with pytest.raises(SourceError, match=f"{key} {value}, and the files before it have"):
            build_carbonsense(towers, tmp_path / "f", surface=[early, changed])


def test_another_product_is_not_appended(store, towers):
    before = files(store)
    other = series(SITES[1:], seed=4, product="MCD43A4")
    with pytest.raises(ConfigError, match="has product MOD09GA, and the new one has MCD43A4"):
        build_carbonsense(towers, store, surface=other, append=True)
    assert files(store) == before


def test_a_cube_is_a_source_too(store, towers, tmp_path):
    build_carbonsense(towers, tmp_path / "d", resolution="daily", surface=open_carbonsense(store))
    daily, hourly = open_carbonsense(tmp_path / "d").load(), open_carbonsense(store).load()
    site = dict(site="US-Aaa")
    both = np.intersect1d(daily.day, hourly.surface_day)
    np.testing.assert_array_equal(
        daily.surface.sel(day=both, **site), hourly.surface.sel(surface_day=both, **site).values
    )


def test_a_site_is_appended_with_its_reflectance(store, towers, tmp_path):
    import shutil

    from fluxcube.cubes.append import append_site
    from fluxcube.sources.towers.discovery import discover
    from fluxcube.sources.towers.readers import read_archive

    shutil.copytree(store, tmp_path / "c")
    (archive,) = (a for a in discover([towers]).archives if a.site == "US-Aaa")
    place = {"site": "US-New", "latitude": 40.0, "longitude": -90.0, "igbp": "GRA"}
    record = read_archive(archive, utc_offset=-6).assign_attrs(place)
    mine = series(("US-Aaa",), seed=5).assign_coords(site=np.array(["US-New"], object))
    append_site(tmp_path / "c", record, surface=mine)
    ds = open_carbonsense(tmp_path / "c").load()
    check_window(ds, mine, "surface_day", "surface_band")
    check_window(ds, series(SITES[1:]), "surface_day", "surface_band")
    with pytest.raises(SourceError, match="US-Far: its series is of"):
        far = record.assign_attrs(site="US-Far", latitude=41.0)
        append_site(tmp_path / "c", far, surface=mine.assign_coords(site=np.array(["US-Far"], object)))
    with pytest.raises(SourceError, match="found series of FJ-Ddd"):
        append_site(tmp_path / "c", record.assign_attrs(site="US-Oth"), surface=series(SITES[:2]))
    assert open_carbonsense(tmp_path / "c").site.values.tolist() == [*SITES, "US-New"]


def faults() -> dict[str, tuple]:
    """Faulty Datasets, and what the error says."""
    good = series()

    def scaled(factor: float) -> xr.Dataset:
        return good.assign(surface=good.surface * factor)

    fill = good.copy(deep=True)
    fill.surface[2, 4, 1] = -28672
    text = good.assign_coords(day=good.day.dt.strftime("%Y%j").values.astype(int))
    twice = xr.concat([good, good.isel(day=[3])], "day")
    zeros = good.fillna(0.0)
    return {
        "not scaled": (scaled(1e4), SourceError, "not scaled"),
        "in percent": (scaled(100), SourceError, "not scaled"),
        "ten times too large": (scaled(10), SourceError, "not scaled"),
        "zeros for clouds": (zeros, SourceError, "0 in every band, the first of FJ-Ddd on 2008-06"),
        "scaled twice": (scaled(1e-4), SourceError, "scaled twice"),
        "a fill": (fill, SourceError, "-28672 in nir of US-Aaa and 1 values outside"),
        "days of year": (text, SourceError, r"must contain dates.*2008153"),
        "a day twice": (twice, SourceError, "1 days are there more than once, the first 2008-06-04"),
        "a band of no name": (good.assign_coords(band=["red", "nir", "b6"]), UnknownNameError, "b6"),
        "bands without names": (good.drop_vars("band"), SourceError, "band of surface has no labels"),
        "another name": (good.rename(surface="reflectance"), SourceError, "reflectance"),
        "a grid": (good.rename(site="pixel"), SourceError, "must have the dimensions"),
        "a site twice": (xr.concat([good, good.isel(site=[0])], "site"), SourceError, "FJ-Ddd is there 2 times"),
        "other years": (series(days=DAYS + 4000), SourceError, "no reflectance from 2009-09-27 to 2010-04-05"),
        "all clouds": (good.where(False), SourceError, "no reflectance from"),
    }


@pytest.mark.parametrize("fault", faults())
def test_faulty_series_are_named(fault, towers, tmp_path):
    ds, error, text = faults()[fault]
    with pytest.raises(error, match=text):
        build_carbonsense(towers, tmp_path / "c", surface=ds)
    assert not (tmp_path / "c").exists()


def test_other_forms_of_a_good_dataset(towers, tmp_path):
    """One site without a dimension, lazy and transposed arrays, times at noon, small negative reflectance."""
    one = series().sel(site="US-Aaa").drop_vars("surface_quality")
    noon = series().transpose("band", "day", "site").chunk(day=100)
    noon = noon.assign_coords(day=noon.day + np.timedelta64(12, "h"))
    low = series()
    low.surface[:, 5] = -0.009
    timed = series().rename(day="time", latitude="lat", longitude="lon").reset_coords(["lat", "lon"])
    for i, ds in enumerate((one, noon, low, timed)):
        build_carbonsense(towers, tmp_path / f"c{i}", surface=ds, sites="US-Aaa")
        cube = open_carbonsense(tmp_path / f"c{i}").load()
        expected = (low if ds is low else series()).sel(site=["US-Aaa"])
        check_window(cube, expected if i else expected.drop_vars("surface_quality"), "surface_day", "surface_band")
        assert ("surface_quality" in cube) == bool(i)


def test_arrays_and_tables_are_sources(towers, tmp_path):
    """The array alone, a Dataset with one variable for each band, and a table give the same reflectance."""
    whole = series(quality=False)
    table = whole.surface.to_series().unstack("band").reset_index()
    places = {site: PLACES[site] for site in SITES}
    table = table.assign(
        **{name: table.site.map(lambda s, i=i: places[s][i]) for i, name in enumerate(("latitude", "longitude"))}
    )
    apart = whole.surface.to_dataset("band").rename(day="time")
    for name, source in (("a", whole.surface), ("b", apart), ("c", table)):
        build_carbonsense(towers, tmp_path / name, surface=source)
        check_window(open_carbonsense(tmp_path / name).load(), whole, "surface_day", "surface_band")


def test_the_command_line_builds_and_reports_it(towers, tmp_path):
    from typer.testing import CliRunner

    from fluxcube.cli import app

    far = series()
    far.latitude[2] += 0.05
    far.isel(site=[1]).to_netcdf(tmp_path / "one.nc")
    far.isel(site=[0, 2]).to_netcdf(tmp_path / "two.nc")
    sources = ["--surface", str(tmp_path / "one.nc"), "--surface", str(tmp_path / "two.nc")]
    refused = CliRunner().invoke(app, ["build", str(towers), str(tmp_path / "c"), *sources])
    assert refused.exit_code == 1 and "5.6 km" in str(refused.exception or refused.output)
    done = CliRunner().invoke(app, ["build", str(towers), str(tmp_path / "c"), *sources, "--max-distance", "6"])
    assert done.exit_code == 0, done.output
    check_window(open_carbonsense(tmp_path / "c").load(), series(quality=False), "surface_day", "surface_band")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "c")]).output
    days = open_carbonsense(tmp_path / "c").sizes["surface_day"]
    assert f"satellite: surface (MOD09GA 006) on {days} days" in shown


def test_a_year_without_a_clear_view_is_noted(tmp_path):
    write_places(tmp_path / "raw", {"US-Aaa": PLACES["US-Aaa"]})
    write_archive(tmp_path / "raw", "US-Aaa", columns(24 * 730), step=60, start="2009-01-01T00:00")
    cloudy = series(("US-Aaa",))
    cloudy.surface[:, (np.datetime64("2009-12-31") < DAYS) & (np.datetime64("2011-01-01") > DAYS)] = np.nan
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c", surface=cloudy)
    (note,) = [text for text in report.report["warnings"]["US-Aaa"] if "surface" in text]
    assert note.endswith("US-Aaa has no clear view in 2010")


def test_swapped_bands_are_noted_and_logged_once(towers, tmp_path, caplog):
    ds = series(SITES[1:])
    ds.surface[..., 0] = ds.surface[..., 0] / 4  # red
    build_carbonsense(towers, tmp_path / "right", surface=ds)
    assert "probably swapped" not in caplog.text
    wrong = ds.assign_coords(band=["nir", "red", "swir2"])
    wrong.to_netcdf(tmp_path / "wrong.nc")
    for name, source in (("dataset", wrong), ("file", tmp_path / "wrong.nc")):
        caplog.clear()
        report = build_carbonsense(towers, tmp_path / name, surface=source)
        assert caplog.text.count("probably swapped") == 1 and "IN-Bbb, US-Aaa" in caplog.text
        notes = [text for site in SITES[1:] for text in report.report["warnings"][site] if "swapped" in text]
        assert len(notes) == 2 and "IN-Bbb has a negative NDVI" in notes[0]


def test_real_towers_have_their_clear_reflectance(shared_data, tmp_path):
    """Three towers against the file, masked by hand: a wet tropical one, and one that ended before MODIS."""
    path = shared_data / "vegetation/mod09ga_daily_towers2.nc"
    sites = ["US-Var", "ZM-Mon", "US-LWW"]
    report = build_carbonsense(shared_data / "towers2", tmp_path / "c", sites=sites, surface=path)
    notes = {site: [t for t in texts if "surface" in t] for site, texts in report.report["warnings"].items()}
    assert [site for site, texts in notes.items() if texts] == ["US-LWW"]
    ds = open_carbonsense(tmp_path / "c").load()
    with xr.open_dataset(path) as raw:
        for site in sites[:2]:
            one = ds.sel(site=site).dropna("surface_day", subset=["surface"], how="all")
            mine = raw.sel(site=site, time=one.surface_day.values).load()
            state = mine.state_1km.values.astype(int)
            assert (state & 0b11 == 0).all() and not (state & (0b100 | 0b11 << 8 | 1 << 10 | 1 << 13)).any()
            for band, name in (("red", "b01"), ("nir", "b02"), ("green531", "b11")):
                np.testing.assert_allclose(one.surface.sel(surface_band=band), mine[f"sur_refl_{name}"], atol=1e-6)
    ndvi = ds.surface_climatology.sel(feature="NDVI")
    assert (ndvi.sel(statistic="p10") < ndvi.sel(statistic="p90")).all()
    var = ndvi.sel(site="US-Var")
    assert float(var.sel(statistic="m04")) > float(var.sel(statistic="m09")) + 0.2  # grass of a dry summer


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> tuple[Path, Path, xr.DataArray]:
    """A tower in the Alps and MOD09GA tiles of four days: before, in and after its time, and in another year."""
    optional("pyhdf.SD")
    from modis_files import daily, name_of, tile_of, write_hdf

    from fluxcube.cubes.chips import block_index
    from fluxcube.cubes.surface import build_surface

    folder = tmp_path_factory.mktemp("tiles")
    latitude, longitude = 46.8153, 9.8559
    rows, cols = block_index(latitude, longitude, [750, 250, -250, -750], [-750, -250, 250, 750])
    corner = (int(rows.min()) - 8) // 2 * 2, (int(cols.min()) - 8) // 2 * 2
    raw = np.random.default_rng(0).integers(100, 6000, (7, 24, 24))
    (folder / "modis").mkdir()
    for day in ("2009-10-20", "2010-01-01", "2010-06-01", "2015-06-01"):
        grids = daily(raw + int(day[-2:]), np.full((12, 12), 0b1000 | (1 << 12) * (day > "2011")), corner)
        write_hdf(folder / "modis" / name_of("MOD09GA", day, tile_of(corner)), grids)
    write_archive(folder / "raw", "CH-Aaa", columns(5 * 48))
    write_archive(folder / "raw", "US-Bbb", columns(5 * 48, 1))
    write_places(folder / "raw", {"CH-Aaa": (latitude, longitude, 1, "GRA"), "US-Bbb": (40.0, -90.0, -6, "DBF")})
    return folder / "raw", folder / "modis", build_surface(folder / "modis", [latitude], [longitude])


def test_tiles_are_cut_for_hourly_and_daily_cubes(tiles, tmp_path, monkeypatch):
    raw, modis, expected = tiles
    report = build_carbonsense(raw, tmp_path / "h", surface=modis)
    assert "US-Bbb lies outside the tiles" in "".join(report.report["warnings"]["US-Bbb"])
    hourly = validate_cube(open_carbonsense(tmp_path / "h")).load()
    assert hourly.surface_day.values.astype("datetime64[D]").astype(str).tolist() == ["2009-10-20", "2010-01-01"]
    assert hourly.surface_band.values.tolist()[-1] == "snow" and hourly.surface.attrs["collection"] == "061"
    np.testing.assert_array_equal(hourly.surface[0], expected[0].sel(day=hourly.surface_day.values))
    assert (hourly.surface_quality[0] == 1).all() and hourly.surface[1].isnull().all()
    means = hourly.surface_climatology.sel(site="CH-Aaa", statistic="m06")
    june = expected[0].sel(day=["2010-06-01", "2015-06-01"]).mean("day")
    np.testing.assert_allclose(means.sel(feature=june.band.values), june, rtol=1e-6)
    assert float(means.sel(feature="snow")) == 0.5
    build_carbonsense(raw, tmp_path / "d", resolution="daily", modis=modis)
    build_carbonsense(raw, tmp_path / "e", resolution="daily", surface=modis)
    assert files(tmp_path / "d", "surface") == files(tmp_path / "e", "surface")
    daily = validate_cube(open_carbonsense(tmp_path / "d")).load()
    np.testing.assert_array_equal(daily.surface[0], hourly.surface[0])
    np.testing.assert_array_equal(daily.surface_climatology, hourly.surface_climatology)
    monkeypatch.setattr("fluxcube.cubes.surface_sources._BYTES", 1)
    build_carbonsense(raw, tmp_path / "spans", surface=modis)
    assert files(tmp_path / "spans") == files(tmp_path / "h")


def test_tiles_of_another_product_are_cut_around_the_towers(tiles, tmp_path):
    """MCD43A4: nadir reflectance, which uses views up to eight days later."""
    from modis_files import A4, grid, name_of, tile_of, write_hdf

    from fluxcube.cubes.chips import chip_index

    raw, _, _ = tiles
    rows, cols = chip_index(46.8153, 9.8559)
    corner = int(rows.min()) - 8, int(cols.min()) - 8
    values = np.full((7, 32, 32), 2500, "int16") + np.arange(7, dtype="int16")[:, None, None]
    fields = {name: (v, {"_FillValue": 32767, "scale_factor": 1e-4}) for name, v in zip(A4, values, strict=True)}
    quality = np.zeros((32, 32), "uint8")
    fields |= {f"BRDF_Albedo_Band_Mandatory_Quality_Band{i}": (quality, {"_FillValue": 255}) for i in range(1, 8)}
    (tmp_path / "tiles").mkdir()
    path, path_day = tmp_path / "tiles" / name_of("MCD43A4", "2010-01-02", tile_of(corner)), date(2010, 1, 2)
    write_hdf(path, [grid("MOD_Grid_BRDF", corner, fields)])
    build_carbonsense(raw, tmp_path / "c", surface=tmp_path / "tiles", sites="CH-Aaa")
    ds = open_carbonsense(tmp_path / "c").load()
    np.testing.assert_allclose(ds.surface.values.ravel()[:7], 0.25 + np.arange(7) * 1e-4, rtol=1e-5)
    assert ds.surface.attrs["product"] == "MCD43A4" and ds.surface.attrs["lookahead_days"] == 8
    # The same tiles as chips, beside the reflectance of another product, whose days and bands are others.
    mine = series(("CH-Aaa",)).drop_vars(["latitude", "longitude"])
    build_carbonsense(raw, tmp_path / "both", modis=tmp_path / "tiles", surface=mine, sites="CH-Aaa")
    both = validate_cube(open_carbonsense(tmp_path / "both", time="2010-01-03"))
    assert both.modis.dims == ("site", "day", "band", "y", "x") and both.sizes["band"] == 9
    assert both.day.values.astype("datetime64[D]").tolist() == [path_day] and both.sizes["surface_day"] > 40
    check_window(open_carbonsense(tmp_path / "both").load(), mine, "surface_day", "surface_band")
    build_carbonsense(raw, tmp_path / "both", modis=tmp_path / "tiles", sites=["CH-Aaa", "US-Bbb"], append=True)
    check_window(open_carbonsense(tmp_path / "both").load(), mine, "surface_day", "surface_band")


def test_only_tiles_of_a_site_are_part_of_its_stamp(tiles, tmp_path):
    import shutil

    from modis_files import name_of

    raw, modis, _ = tiles
    shutil.copytree(modis, tmp_path / "modis")
    build_carbonsense(raw, tmp_path / "c", surface=tmp_path / "modis")
    before = files(tmp_path / "c")
    (any_tile, *_) = sorted((tmp_path / "modis").iterdir())
    shutil.copy(any_tile, tmp_path / "modis" / name_of("MOD09GA", "2010-01-02", (1, 9)))
    build_carbonsense(raw, tmp_path / "c", surface=tmp_path / "modis", append=True)
    assert files(tmp_path / "c") == before


def test_series_come_before_tiles(tiles, tmp_path):
    raw, modis, _ = tiles
    one = series(("CH-Aaa",), bands=("nir", "red"), collection="061").drop_vars(["latitude", "longitude"])
    build_carbonsense(raw, tmp_path / "c", surface=[modis, one])
    ds = open_carbonsense(tmp_path / "c").load().sel(site=["CH-Aaa"])
    check_window(ds, one, "surface_day", "surface_band")


def test_a_daily_cube_of_an_older_version_stays_as_it_is(tiles, towers, tmp_path, monkeypatch):
    """It has seven bands and no statistics: it opens, a site is appended to it, and its files stay."""
    from fluxcube.cubes import surface_layout

    raw, modis, _ = tiles
    with monkeypatch.context() as patch:
        patch.setattr("fluxcube.cubes.surface_sources.in_order", lambda bands: ("red", "nir"))
        patch.setattr(surface_layout, "surface_features", lambda bands: ())
        build_carbonsense(raw, tmp_path / "d", resolution="daily", modis=modis)
    assert "surface_climatology" not in open_carbonsense(tmp_path / "d")
    before = files(tmp_path / "d", "surface/c")
    build_carbonsense(towers, tmp_path / "d", resolution="daily", append=True)
    assert files(tmp_path / "d", "surface/c").items() >= before.items()
    assert "surface_climatology" not in open_carbonsense(tmp_path / "d")
    build_carbonsense(
        towers, tmp_path / "d", resolution="daily", append=True, surface=series(product="MOD09GA", collection="061")
    )
    ds = validate_cube(open_carbonsense(tmp_path / "d")).load()
    assert ds.band.values.tolist() == ["red", "nir"]
    assert ds.surface_climatology.feature.values.tolist() == ["red", "nir", "NDVI", "NIRv"]
