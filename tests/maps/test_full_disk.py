"""Files on a disk that accepts no more: a named error, no half of a file, and the old file stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from packages import optional
from processes import environment

from fluxcube.errors import StoreError
from fluxcube.maps.export import export_maps
from fluxcube.maps.geotiff import _check_whole
from fluxcube.maps.means import mean_maps
from fluxcube.simulation.example import example_maps
from fluxcube.stores.files import replacing

rasterio = optional("rasterio")

SCRIPT = """
import matplotlib.backends.backend_agg, matplotlib.backends.backend_pdf, netCDF4
import PIL.GifImagePlugin, PIL.PngImagePlugin, rasterio, resource, signal, sys
from typer.testing import CliRunner
import fluxcube as fc, fluxcube.cli, fluxcube.cli_maps, fluxcube.maps.totals
from fluxcube.errors import FluxcubeError
from fluxcube.simulation.example import example_maps
maps = example_maps(days=2)
calls = {
    "x.nc": lambda path: fc.export_maps(maps, path, overwrite=True),
    "x.tif": lambda path: fc.export_maps(maps, path, variables=["NEE"], overwrite=True),
    "x.png": lambda path: fc.plot_map(fc.mean_maps(maps, None).NEE, path),
    "x.pdf": lambda path: fc.plot_map(fc.mean_maps(maps, None).NEE, path),
    "x.gif": lambda path: fc.animate_cycle(maps, path),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the system then refuses to write, as where a disk is full
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for name, call in calls.items():
    try:
        call(f"{sys.argv[1]}/{name}")
    except FluxcubeError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 1000))
command = ["totals", sys.argv[2], "--out", f"{sys.argv[1]}/x.csv", "--min-coverage", "0"]
result = CliRunner().invoke(fluxcube.cli.app, command)
sys.stdout.write(f"{type(result.exception).__name__}: {result.exception}\\n")
"""


def test_every_file_that_the_disk_refuses_is_named_and_the_old_one_stays(tmp_path):
    from inference_fakes import fake

    from fluxcube.inference.grid import upscale
    from fluxcube.maps.store import write_maps
    from fluxcube.simulation.example import example_forcing

    maps = write_maps(upscale(fake(), example_forcing(shape=(2, 2), days=3)), tmp_path / "maps.zarr")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("x.nc", "x.tif", "x.png", "x.pdf", "x.gif", "x.csv"):
        (folder / name).write_bytes(b"old")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(maps)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert len(lines) == 6, ended.stdout + ended.stderr
    for line, name in zip(lines, ("x.nc", "x.tif", "x.png", "x.pdf", "x.gif", "x.csv"), strict=True):
        assert line.startswith(f"StoreError: cannot write {folder / name} ("), line
        assert line.endswith("make room there, or write to another disk.")
    assert sorted(os.listdir(folder)) == ["x.csv", "x.gif", "x.nc", "x.pdf", "x.png", "x.tif"]
    assert {(folder / name).read_bytes() for name in os.listdir(folder)} == {b"old"}


def test_a_geotiff_that_was_cut_short_is_noticed(tmp_path):
    (path,) = export_maps(mean_maps(example_maps(days=2)), tmp_path / "x.tif", variables=["NEE"])
    _check_whole(path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(OSError, match="No space left"):
        _check_whole(path)


def test_errors_of_the_data_are_not_taken_for_those_of_the_disk(tmp_path):
    for error in (OSError(5000, "of the source", "elsewhere.nc"), RuntimeError("of the model"), ValueError("other")):
        with pytest.raises(type(error)) as caught, replacing(tmp_path / "x.nc"):
            raise error
        assert caught.value is error
    for error in (OSError(28, "No space left on device"), RuntimeError("NetCDF: HDF error")):
        with (
            pytest.raises(StoreError, match=r"cannot write .*x\.nc \(N.*make room there"),
            replacing(tmp_path / "x.nc"),
        ):
            raise error
    with pytest.raises(StoreError, match="does not exist; make it first"), replacing(tmp_path / "no" / "x.csv"):
        pass
    assert not list(tmp_path.iterdir())
