"""The table of known sites supplies what a download lacks; its own metadata come first, and differences are named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tower_files import columns, write_archive

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.report import open_report
from fluxcube.errors import SourceError
from fluxcube.sources.towers.completion import completed_from_table, notes_on_table, placed_by_table
from fluxcube.sources.towers.inspection import inspect_raw
from fluxcube.sources.towers.siteinfo import DatedPlace, SiteInfo

OWN = SiteInfo(
    site="DE-Tha",
    latitude=50.96,
    longitude=13.57,
    elevation=380.0,
    igbp="ENF",
    utc_offset=1.0,
    utc_offsets=((None, 1.0),),
)


def test_what_is_complete_stays():
    assert completed_from_table(OWN) is OWN or completed_from_table(OWN) == OWN
    other = SiteInfo(site="XX-Xxx")
    assert completed_from_table(other) == other and placed_by_table(other) is None


def test_what_is_missing_is_supplied_and_named():
    found = completed_from_table(replace(OWN, elevation=None, igbp=""))
    assert (found.elevation, found.igbp, found.utc_offset) == (380.0, "ENF", 1.0)
    (note,) = notes_on_table(found)
    assert note == "its elevation (380 m), IGBP class (ENF) are from the table of known sites (FLUXNET2015 BIF)"
    bare = completed_from_table(SiteInfo(site="DE-Tha"))
    assert (
        bare.latitude == 50.9626 and len(bare.notes) == 1 and bare.notes[0].startswith("its place (50.9626, 13.5651),")
    )
    sources = completed_from_table(SiteInfo(site="IE-Cra")).notes[0]
    assert "FLUXNET Shuttle snapshot 2026-06-24" in sources and "IANA time zones" in sources


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"igbp": "CRO"}, "IGBP class is CRO; the table of known sites has ENF"),
        ({"utc_offset": 2.0, "utc_offsets": ((None, 2.0),)}, "UTC offset is +2; the table of known sites has +1"),
        ({"latitude": -50.96}, "km from that of DE-Tha in the table of known sites"),
    ],
)
def test_a_difference_is_named_and_the_metadata_are_used(change, text):
    info = replace(OWN, elevation=None, **change)
    found = completed_from_table(info)
    assert all(getattr(found, name) == value for name, value in change.items())
    assert text in found.notes[0]
    assert (found.elevation is None) == ("latitude" in change)  # nothing of another place


def test_a_site_that_moved_is_the_same_site():
    places = (
        DatedPlace(since=None, latitude=50.9626, longitude=13.5651, elevation=None),
        DatedPlace(since=np.datetime64("2020-01-01", "m"), latitude=52.0, longitude=13.6, elevation=None),
    )
    assert not completed_from_table(replace(OWN, latitude=52.0, longitude=13.6, places=places)).notes


def test_archives_alone_give_a_cube(tmp_path, caplog):
    write_archive(tmp_path / "raw", "US-MMS", columns(48 * 20))
    write_archive(tmp_path / "raw", "AU-ASM", columns(48 * 20))
    build_carbonsense(tmp_path / "raw", tmp_path / "c", strict=True)
    ds = open_carbonsense(tmp_path / "c")
    assert ds.igbp.values.tolist() == ["SAV", "DBF"] and ds.utc_offset.values.tolist() == [9.5, -5]
    notes = open_report(tmp_path / "c", "notes").set_index("site").text
    for site in ("AU-ASM", "US-MMS"):
        assert "from the table of known sites (FLUXNET2015 BIF)" in notes[site]
        assert caplog.text.count(f"{site}: {notes[site]}") == 1
    assert ds.fluxcube.citations().doi.tolist() == ["10.18140/FLX/1440194", "10.18140/FLX/1440083"]
    assert inspect_raw(tmp_path / "raw").why.str.contains("table of known sites").all()
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c", append=True)
    assert report.unchanged == ("AU-ASM", "US-MMS")
    (tmp_path / "raw/sites.csv").write_text(
        "site,latitude,longitude\nUS-MMS,39.32,-86.41\n"
    )  # better known by the user
    report = build_carbonsense(tmp_path / "raw", tmp_path / "c", append=True)
    assert report.unchanged == ("AU-ASM",) and open_carbonsense(tmp_path / "c").latitude.values[1] == pytest.approx(
        39.32
    )


def test_an_unknown_site_is_refused_with_the_way_out(tmp_path):
    write_archive(tmp_path / "raw", "XX-New", columns(48))
    with pytest.raises(SourceError, match=r"not in the table of known sites.*sites\.csv"):
        build_carbonsense(tmp_path / "raw", tmp_path / "c")


def test_real_archives_give_the_same_cube_with_and_without_their_metadata(shared_data, tmp_path):
    sites = ("AU-ASM", "ES-Ln2", "CH-Cha")
    for folder in ("towers", "towers2"):
        for path in (shared_data / folder).glob("FLX_*"):
            if path.name.split("_")[1] in (*sites, "AA-Flx"):
                for to in ("with", "without"):
                    (tmp_path / to / folder).mkdir(parents=True, exist_ok=True)
                    if to == "with" or path.suffix == ".zip":
                        shutil.copyfile(path, tmp_path / to / folder / path.name)
    one, other = (build_carbonsense(tmp_path / to, tmp_path / f"{to}.zarr") for to in ("with", "without"))
    assert one.sites == other.sites == tuple(sorted(sites))
    assert not any(one.report["warnings"].values()) and all(other.report["warnings"].values())
    first, second = (open_carbonsense(tmp_path / f"{to}.zarr").load() for to in ("with", "without"))
    assert first.predictors.equals(second.predictors) and first.fluxes.equals(second.fluxes)
    for name in ("latitude", "longitude", "elevation", "igbp", "utc_offset"):
        assert first[name].equals(second[name])
