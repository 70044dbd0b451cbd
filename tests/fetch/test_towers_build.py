"""From the hubs of the Shuttle to a cube: a fetched folder builds the cube that the same archives build."""

from __future__ import annotations

import numpy as np
import pytest
from packages import optional
from services.shuttle import running

import fluxcube
from fluxcube.simulation.archives import write_archive
from fluxcube.simulation.records import Place, simulate_record

optional("requests")

PLACES = [
    Place(site="US-Zzz", latitude=40.0, longitude=-90.0, elevation=231, igbp="CRO", koppen="Dfa", utc_offset=-6),
    Place(site="AU-Zzz", latitude=-33.0, longitude=146.0, elevation=90, igbp="GRA", koppen="Cfa", utc_offset=10),
]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Archives of the Shuttle by site, as a publisher writes them."""
    folder, paths = tmp_path_factory.mktemp("published"), {}
    for place in PLACES:
        record = simulate_record(place, "2018-06-01T00:00", days=6)
        paths[place.site] = write_archive(folder, "FLUXNET Shuttle 2026", record, place=place)
    return paths


def test_a_fetched_folder_builds_the_same_cube(archives, tmp_path):
    with running() as hubs:
        for place, hub in zip(PLACES, (hubs.icos, hubs.tern), strict=True):
            path = archives[place.site]
            facts = {"igbp": place.igbp, "latitude": place.latitude, "longitude": place.longitude}
            hub.add(place.site, path.name, path.read_bytes(), years=(2018, 2018), **facts)
        fluxcube.fetch.towers(tmp_path / "raw", services=hubs.services)
    for name, folder in (("fetched", tmp_path / "raw"), ("published", archives["US-Zzz"].parent)):
        report = fluxcube.build_carbonsense(folder, tmp_path / f"{name}.zarr")
        assert report.sites == ("AU-Zzz", "US-Zzz") and not report.left_out
    fetched, published = (fluxcube.open_carbonsense(tmp_path / f"{name}.zarr") for name in ("fetched", "published"))
    for name in ("predictors", "fluxes", "latitude", "utc_offset"):
        if name in published:
            np.testing.assert_array_equal(fetched[name].values, published[name].values)
    citations = fetched.fluxcube.citations().citation.to_list()
    assert "https://hdl.handle.net/11676/" in str(citations) and "Person, C. (2026)" in str(citations)
    text = fluxcube.inspect(tmp_path / "raw")
    assert "fetch.jsonl" not in text and "LICENCE.md" not in text


def test_what_is_not_complete_is_not_read(tmp_path):
    from fluxcube.stores.files import visible_files

    for name in ("a.hdf", ".fetching/b.hdf", "sub/.x/c.hdf", "sub/d.hdf", ".e.hdf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in visible_files(tmp_path)] == ["a.hdf", "sub/d.hdf"]
