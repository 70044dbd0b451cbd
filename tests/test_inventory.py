"""What `inspect` tells of raw archives, cubes and maps agrees with what they hold."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from surface_cubes import with_surface

import fluxcube as fc
from fluxcube.errors import SourceError, StoreError
from fluxcube.inventory import _of_reflectance
from fluxcube.resolution import resolution_of
from fluxcube.simulation.example import example_cube
from fluxcube.simulation.published import write_v2
from fluxcube.simulation.records import Place, simulate_record


def test_of_raw_archives_it_tells_each_site_and_what_is_left_aside(planet_files):
    text = fc.inspect(planet_files / "towers")
    table = fc.inspect_raw(planet_files / "towers")
    for site in table.site[table.used]:
        assert re.search(rf"^{site} .* yes ", text, re.MULTILINE), site
    assert f"{table.site[table.used].nunique()} sites in {int(table.used.sum())} archives will be used" in text
    assert f"{int((~table.used).sum())} ignored" in text or table.used.all()


def test_of_a_cube_it_counts_what_the_cube_holds(cube_store):
    text, ds = fc.inspect(cube_store), fc.open_carbonsense(cube_store)
    assert f"hourly cube of {ds.sizes['site']} sites" in text
    flags = ds.fluxes_qc.sel(target="NEE").values
    line = next(line for line in text.splitlines() if line.startswith("NEE "))
    _, sites, values, measured = line.split()[:4]
    assert int(sites) == int((flags >= 0).any(1).sum())
    assert int(values.replace(",", "")) == int((flags >= 0).sum())
    assert abs(int(measured) - 100 * (flags == 0).sum() / (flags >= 0).sum()) <= 0.5


def test_what_a_publication_lost_is_told_once_with_its_sites(tmp_path, caplog):
    places = [Place(site=f"US-Z{i}z", latitude=40.0 + i, longitude=-90.0, utc_offset=-6) for i in range(3)]
    write_v2(
        tmp_path / "carbonsense_v2.sql", [(place, simulate_record(place, "2012-02-20", days=5)) for place in places]
    )
    fc.build_carbonsense(tmp_path / "carbonsense_v2.sql", tmp_path / "cube.zarr")
    notes = fc.open_report(tmp_path / "cube.zarr", "notes")
    assert not notes[notes.kind == "warning"].text.str.contains("Soil water").any()
    texts = notes[notes.kind == "lost"].groupby("text").site.nunique()
    said = [record.getMessage() for record in caplog.records]
    assert all(said.count(f"{text} (3 sites)") == 1 for text in texts.index)
    assert len(texts) > 5 and (texts == 3).all()
    lines = fc.inspect(tmp_path / "cube.zarr", max_files=None).splitlines()
    assert f"lost before ({len(texts)}):" in lines
    for text in texts.index:
        assert lines.count(f"  {text} (3 sites)") == 1


def test_of_a_daily_cube_it_tells_the_share_of_days_by_quality(planet_files, tmp_path):
    site = fc.inspect_raw(planet_files / "towers").site[0]
    fc.build_carbonsense(planet_files / "towers", tmp_path / "d", resolution="daily", sites=site)
    text, ds = fc.inspect(tmp_path / "d"), fc.open_carbonsense(tmp_path / "d", targets="NEE")
    quality = ds.fluxes_quality.values[np.isfinite(ds.fluxes.values)]
    line = next(line for line in text.splitlines() if line.startswith("NEE "))
    days, *shares = (float(word.replace(",", "")) for word in line.replace("%", "").split()[2:6])
    assert days == quality.size
    for share, least in zip(shares, (0.5, 0.75, 1), strict=True):
        assert abs(share - 100 * (quality >= least).mean()) <= 0.5


@pytest.fixture
def maps() -> xr.Dataset:
    coords = {"time": np.arange("2020-01-01T00", "2020-01-01T04", dtype="datetime64[h]").astype("datetime64[ns]")}
    coords |= {"latitude": [1.0, 0.0], "longitude": [5.0, 6.0]}
    values = xr.DataArray(np.ones((4, 2, 2), "float32"), coords, ("time", "latitude", "longitude")).chunk(time=2)
    land = ("latitude", "longitude"), np.ones((2, 2))
    return xr.Dataset({"NEE": values}, attrs={"model": "some model"}).assign_coords(land_fraction=land)


def test_maps_that_are_not_whole_say_so(maps, tmp_path):
    whole = fc.write_maps(maps, tmp_path / "whole.zarr")
    assert "NOT COMPLETE" not in fc.inspect(whole) and "some model" in fc.inspect(whole)
    assert "complete; 0.0% of the land's cell-hours have no value" in fc.inspect(whole)

    def fail(block, block_info=None):
        if block_info[0]["array-location"][0][0] == 2:
            raise OSError("unreadable")
        return block

    broken = maps.assign(NEE=maps.NEE.copy(data=maps.NEE.data.map_blocks(fail, dtype="float32")))
    with pytest.raises(OSError, match="unreadable"):
        fc.write_maps(broken, tmp_path / "part.zarr", workers=1)
    assert "NOT COMPLETE: 1 of 2 regions" in fc.inspect(tmp_path / "part.zarr")


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no such"):
        fc.inspect(tmp_path / "absent")
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(StoreError):
        fc.inspect(tmp_path)


def test_a_folder_without_towers_is_an_error_that_names_what_is_there(tmp_path):
    with pytest.raises(SourceError, match=r"no archive of a tower was found.*Found no file\.$"):
        fc.inspect(tmp_path)
    (tmp_path / "more").mkdir()
    for name in ("a.nc", "b.NC", "more/c.nc", "LICENCE"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"Found 3 \.nc files, 1 other file\. ERA5 .*open_forcing\.$"):
        fc.inspect(tmp_path)


def test_files_of_modis_among_towers_are_named_with_their_options(tmp_path):
    for name in ("towers-MOD09GA-061-results.csv", "mod09ga_8day.csv.gz", "mcd15a2h_AT-Neu.csv", "notes.csv"):
        (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    with pytest.raises(SourceError) as error:
        fc.inspect(tmp_path)
    advice, _, others = str(error.value).partition("its name matches no network")
    assert "--surface" in advice and "fluxcube.add_predictor" in advice
    assert "notes.csv" in others and advice.count(".csv\n") + advice.count(".csv.gz\n") == 3


def test_of_surface_reflectance_it_tells_bands_and_clear_days():
    ds = with_surface(example_cube(sites=3, days=10), clear=0.5)
    ds["surface"][1] = np.nan
    bands, clear = _of_reflectance(ds, resolution_of(ds))
    assert bands.strip() == "bands: " + ", ".join(ds.surface_band.values)
    assert "(0% to " in clear and clear.endswith(f"none at {ds.site.values[1]}")
