"""NetCDF files that refer to other files, or that are damaged, are refused before they are read."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("netCDF4")

from hostile_hdf5 import Hdf5, write_netcdf

from fluxcube.errors import SourceError
from fluxcube.sources import netcdf

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
