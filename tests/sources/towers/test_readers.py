"""A network is added from outside the package: registered, found by name, read by its own reader, and in a cube."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import fluxcube as fc
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers import networks as networks_module
from fluxcube.sources.towers import readers as readers_module
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import Archive, Network, networks, parse_name, register_network
from fluxcube.sources.towers.readers import (
    Reader,
    chips_of,
    place_of,
    read_archive,
    read_daily_archive,
    reader_of,
    register_reader,
)
from fluxcube.sources.towers.stamped import to_utc

NAME = "TOY_XX-Toy_2010-2010.csv"
TOY = Network(
    name="Toy network",
    names=("TOY_<site>_<years>",),
    resolution="HH",
    reader="toy",
    licence="CC0",
    citation="A toy (2010)",
)
START = np.arange("2010-06-01", "2010-06-21", np.timedelta64(30, "m"), "datetime64[m]")
PHASE = 2 * np.pi * (START - START[0]).astype(float) / 1440
TA = 15 - 5 * np.cos(PHASE)
NEE = 2 + 10 * np.minimum(np.cos(PHASE), 0)


class ToyReader(Reader):
    """Reads ``when;warmth;carbon;good`` with decimal commas; the first line contains the coordinates."""

    def read(self, archive: Archive, *, utc_offset, variables=None) -> xr.Dataset:
        with open(archive.path, newline="") as stream:
            next(stream)
            rows = list(csv.DictReader(stream, delimiter=";"))
        start = np.array([row["when"] for row in rows], "datetime64[m]")
        time, kept = to_utc(start, 30, utc_offset)
        columns = {"TA": "warmth", "NEE": "carbon"}
        names = [name for name in columns if variables is None or name in set(variables)]
        flags = np.array([0 if row["good"] == "yes" else 3 for row in rows], np.int8)
        record = xr.Dataset(coords={"time": time.astype("datetime64[ns]")})
        for name in names:
            values = np.array([row[columns[name]].replace(",", ".") for row in rows], np.float32)
            record[name], record[f"{name}_QC"] = ("time", values[kept]), ("time", flags[kept])
        return record.assign_attrs(
            step_minutes=30,
            source_file=archive.path.name,
            site=archive.site,
            network=archive.network,
            columns=json.dumps({name: columns[name] for name in names}),
            flags_assumed="{}",
            clock_repeats=int((~kept).sum()),
        )

    def place(self, archive: Archive) -> SiteInfo:
        latitude, longitude = archive.path.read_text().splitlines()[0].split(";")
        return SiteInfo(
            site=archive.site,
            latitude=float(latitude),
            longitude=float(longitude),
            igbp="GRA",
            utc_offset=1.0,
            utc_offsets=((None, 1.0),),
        )


@pytest.fixture
def toy(monkeypatch):
    """Register the toy network and its reader for one test."""
    monkeypatch.setattr(networks_module, "_REGISTERED", {})
    monkeypatch.setattr(readers_module, "_READERS", dict(readers_module._READERS))
    register_reader("toy", ToyReader())
    register_network(TOY)


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = [
        f"{when};{ta:.3f};{nee:.3f};{'no' if i % 5 == 0 else 'yes'}".replace(".", ",")
        for i, (when, ta, nee) in enumerate(zip(START, TA, NEE, strict=True))
    ]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / NAME).write_text("\n".join(["50.0;10.0", "when;warmth;carbon;good", *rows]) + "\n")
    return raw


def test_a_registered_network_is_found_and_read(toy, folder):
    (archive,) = discover(folder).archives
    assert (archive.network, archive.site, archive.resolution, archive.last_year) == (
        "Toy network",
        "XX-Toy",
        "HH",
        2010,
    )
    record = read_archive(archive, utc_offset=1.0)
    np.testing.assert_allclose(record.TA, TA, atol=1e-3)
    assert record.time.values[0] == np.datetime64("2010-05-31T23:00") and set(record.NEE_QC.values) == {0, 3}
    assert place_of(archive).latitude == 50.0
    assert read_daily_archive(archive) is None and chips_of(archive) is None
    with pytest.raises(SourceError, match="one file per site"):
        reader_of(archive).list_sites(archive.path)


def test_a_cube_is_built_from_a_registered_network(toy, folder, tmp_path):
    (row,) = fc.inspect_raw(folder).to_dict("records")
    assert row["used"] and (row["network"], row["latitude"], row["igbp"]) == ("Toy network", 50.0, "GRA")
    report = fc.build_carbonsense(folder, tmp_path / "cube.zarr")
    assert report.sites == ("XX-Toy",) and not report.left_out
    cube = fc.open_carbonsense(tmp_path / "cube.zarr")
    assert str(cube.network.values[0]) == "Toy network"
    nee = cube.fluxes.sel(target="NEE").isel(site=0).dropna("time")
    np.testing.assert_allclose(nee.values[:24], NEE.reshape(-1, 2).mean(axis=1)[:24], atol=1e-3)


def test_a_daily_cube_is_built_from_its_half_hours(toy, folder, tmp_path):
    report = fc.build_carbonsense(folder, tmp_path / "daily.zarr", resolution="daily")
    assert report.sites == ("XX-Toy",)


def test_without_registration_the_file_is_ignored(folder):
    assert discover(folder).archives == () and parse_name(NAME) is None
    assert "Toy network" not in networks()


def test_a_registered_network_ranks_after_published_ones(toy, folder):
    (folder / "FLX_XX-Toy_FLUXNET2015_FULLSET_HH_2010-2010_1-4.csv").write_text("")
    for order in ("newest", "paper"):
        assert [archive.network for archive in discover(folder, order=order).archives] == ["FLUXNET2015", "Toy network"]


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Network(name="FLUXNET2015", names=("A_<site>",), reader="oneflux"), "exists already"),
        (Network(name="New", names=("A_<site>",)), "expected a reader"),
        (Network(name="New", reader="oneflux"), "names or files"),
        (Network(name="New", names=("A_.*",), reader="oneflux"), "expected <site>"),
        (Network(name="New", names=("A_<site>(",), reader="oneflux"), "not a regular expression"),
    ],
)
def test_networks_are_checked(network, match):
    with pytest.raises(ConfigError, match=match):
        register_network(network)
    assert "New" not in networks()


def test_readers_are_checked(toy):
    with pytest.raises(ConfigError, match="reader 'oneflux' exists already"):
        register_reader("oneflux", ToyReader())
    register_network(Network(name="New", names=("A_<site>",), reader="nobody"))
    archive = Archive(path=Path("a.csv"), site="XX-One", network="New", product="", resolution="HH")
    with pytest.raises(ConfigError, match="no reader 'nobody'; add it with register_reader"):
        reader_of(archive)
    with pytest.raises(SourceError, match=r"'Unknown' is not in networks\.yml and not registered"):
        reader_of(Archive(path=Path("a.csv"), site="XX-One", network="Unknown", product="", resolution="HH"))
