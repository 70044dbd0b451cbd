"""NetCDF files that refer to other files, or that are damaged, are refused before they are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("netCDF4")

import netCDF4
from hostile_hdf5 import Hdf5, write_netcdf

from fluxcube.errors import SourceError
from fluxcube.sources import netcdf
from fluxcube.sources.era5 import open as era5

REFERENCES = {
    "external link": lambda file: file.external_link("extra", "other.nc"),
    "external link in a group": lambda file: file.external_link("inner/extra", "/etc/other.nc"),
    "external storage": lambda file: file.external_storage("extra", "secret.bin"),
    "virtual dataset": lambda file: file.virtual_dataset("extra", "other.nc"),
    "soft link": lambda file: file.soft_link("extra", "/v0"),
    "soft link to its own group": lambda file: file.soft_link("inner/again", "/inner"),
    "group within itself": lambda file: file.hard_link("inner/again", "/inner"),
    "root within a group": lambda file: file.hard_link("inner/again", "/"),
}
REASONS = {
    "external link": "external link",
    "external link in a group": "external link",
    "external storage": "external storage",
    "virtual dataset": "virtual dataset",
    "soft link": "soft link",
    "soft link to its own group": "soft link",
    "group within itself": "also at another place",
    "root within a group": "also at another place",
}


@pytest.mark.parametrize("what", REFERENCES)
@pytest.mark.parametrize("variables", [2, 20])  # HDF5 stores more than eight links in another way
def test_references_are_refused(tmp_path, what, variables):
    path = write_netcdf(tmp_path / "a.nc", variables=variables)
    write_netcdf(tmp_path / "other.nc")
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64)
    with Hdf5(path) as file:
        REFERENCES[what](file)
    with pytest.raises(SourceError, match=rf"a\.nc: .*{REASONS[what]}"):
        netcdf.check_netcdf(path)


@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"])
def test_good_files_are_opened(tmp_path, format):
    path = write_netcdf(tmp_path / "a.nc", format)
    with netcdf.open_netcdf(path) as ds:
        assert np.array_equal(ds.v1, np.ones((4, 3)))


def test_a_header_at_another_position_is_found(tmp_path):
    path = write_netcdf(tmp_path / "a.nc")
    with Hdf5(path) as file:
        file.external_link("extra", "other.nc")
    path.write_bytes(bytes(512) + path.read_bytes())
    with pytest.raises(SourceError):
        netcdf.check_netcdf(path)


def test_an_error_is_that_of_the_changed_file(tmp_path):
    path = write_netcdf(tmp_path / "a.nc")
    good = path.read_bytes()
    netcdf.check_netcdf(path)
    path.write_bytes(good[:-2000])
    with pytest.raises(SourceError, match="cannot be"):
        netcdf.check_netcdf(path)
    path.write_bytes(good)
    os.utime(path, ns=(1, 1))
    netcdf.check_netcdf(path)


def test_a_crash_of_the_library_is_an_error(tmp_path, monkeypatch):
    process = netcdf.ReaderProcess("crashing_reader", "NetCDF")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.setattr(netcdf, "process", process)
    path = write_netcdf(tmp_path / "a.nc")
    with pytest.raises(SourceError, match="NetCDF library ended with status -11"):
        netcdf.check_netcdf(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nc")
    with pytest.raises(SourceError, match="pipe or device"):
        netcdf.open_netcdf(tmp_path / "a.nc")


def test_a_coordinate_of_absurd_length_is_refused(tmp_path):
    import netCDF4

    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", 10**12)
        file.createVariable("time", "f8", ("time",), chunksizes=(1000,))
    with pytest.raises(SourceError, match="coordinates of at most"):
        netcdf.check_netcdf(tmp_path / "a.nc")


def test_good_files_of_services_pass(shared_data):
    files = sorted(shared_data.rglob("*.nc"))
    for path in files:
        netcdf.check_netcdf(path)
    assert len(files) > 5


@pytest.fixture
def with_text(tmp_path):
    """A file with text of variable length, as ``expver`` of ERA5."""
    return write_text(tmp_path / "era5.nc", "0001")


def write_text(path, text):
    """Write three hours of text and of a number."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("time", 3)
        file.createVariable("expver", str, ("time",))[:] = np.array([text] * 3, object)
        file.createVariable("t2m", "f4", ("time",))[:] = int(text)
    return path


def handles(path):
    """Number of open handles of this process on a file."""
    found = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    return found.count(os.path.realpath(path))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux only")
def test_a_file_has_one_handle_whatever_its_name_and_however_often_it_is_open(with_text, tmp_path):
    """With two handles, HDF5 crashes after one of them is closed (netcdf4-python issue 1444)."""
    (tmp_path / "link").symlink_to(tmp_path)
    names = [with_text, tmp_path / "link" / with_text.name] * 2
    first, *others = [netcdf.open_netcdf(name) for name in names]
    source = era5.Source(str(with_text)).open()
    assert handles(with_text) == 1 and first.encoding["source"] == str(with_text)
    first.close()
    assert handles(with_text) == 0
    assert all((ds.t2m.values == 1).all() for ds in (*others, source, first)) and handles(with_text) == 1


def test_a_file_that_is_often_opened_and_closed_is_read_to_the_end(with_text):
    """HDF5 crashed here with a handle for each opening."""
    draw, opened = np.random.default_rng(0), []
    for _ in range(100):
        opened.append(netcdf.open_netcdf(with_text))
        while len(opened) > draw.integers(1, 6):
            opened.pop(draw.integers(len(opened))).close()
        assert (opened[-1].t2m.values == 1).all()


def test_a_file_that_changes_while_it_is_open_is_opened_anew(with_text):
    before = netcdf.open_netcdf(with_text)
    assert (before.t2m.values == 1).all()
    other = write_text(with_text.with_name("other.nc"), "0005")
    with_text.write_bytes(other.read_bytes())
    os.utime(with_text, ns=(1, 1))
    assert (netcdf.open_netcdf(with_text).t2m.values == 5).all()
