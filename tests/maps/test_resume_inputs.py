"""A stopped run goes on with the inputs that it was begun with, and with no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from inference_fakes import fake

from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.errors import StoreError
from fluxcube.inference.grid import upscale
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.simulation.example import example_forcing
from fluxcube.sources.era5.copy import copy_era5
from fluxcube.stores.identity import input_digests


class Stop(Exception):
    pass


def stop_after(count):
    def progress(done, total, text):
        if done >= count:
            raise Stop

    return progress


def chunked(forcing):
    return forcing.chunk(latitude=2, longitude=3, time=48)


def maps_of(forcing, **model):
    return upscale(fake(**model), forcing, time_chunk=48)


def begun(maps, store):
    with pytest.raises(Stop):
        write_maps(maps, store, scheduler="threads", workers=1, progress=stop_after(2))
    return store


@pytest.fixture(scope="module")
def forcing():
    return example_forcing(shape=(4, 6), days=4).load()


STORE = "forcing.zarr"
CHANGES = {
    "predictors": lambda ds: ds.assign(predictors=ds.predictors * 0.99),
    "igbp": lambda ds: ds.assign_coords(igbp=xr.full_like(ds.igbp, "ENF")),
    "elevation": lambda ds: ds.assign_coords(elevation=ds.elevation + 100),
    "modis": lambda ds: ds.assign(modis=ds.modis * 0.5),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "in RAM"])
def test_other_values_are_refused_by_name(forcing, tmp_path, name, lazy):
    prepare = chunked if lazy else (lambda ds: ds)
    store = begun(maps_of(prepare(forcing)), tmp_path / "maps.zarr") if lazy else tmp_path / "maps.zarr"
    if not lazy:  # one region only: stopped before it
        with pytest.raises(Stop):
            write_maps(maps_of(forcing), store, scheduler="threads", progress=stop_after(0))
    with pytest.raises(StoreError, match=rf"begun with other inputs: {name} differ.*overwrite=True"):
        write_maps(maps_of(prepare(CHANGES[name](forcing))), store, scheduler="threads")
    write_maps(maps_of(prepare(forcing.copy(deep=True))), store, scheduler="threads")
    expected = maps_of(prepare(forcing)).load()
    np.testing.assert_array_equal(open_maps(store).NEE.values, expected.NEE.values)
    write_maps(maps_of(prepare(CHANGES[name](forcing))), store, scheduler="threads", overwrite=True)


def test_a_forcing_store_that_was_written_again_is_refused(forcing, tmp_path):
    path = write_forcing(chunked(forcing), tmp_path / "forcing.zarr")
    store = begun(maps_of(open_forcing_store(path)), tmp_path / "maps.zarr")
    write_forcing(chunked(forcing).assign(modis=forcing.modis * 0.5), path, overwrite=True)
    with pytest.raises(StoreError, match="other inputs: modis, predictors differ"):
        write_maps(maps_of(open_forcing_store(path)), store, scheduler="threads")
    write_forcing(chunked(forcing), path, overwrite=True)  # the same values, but another store
    with pytest.raises(StoreError, match="other inputs: modis, predictors differ"):
        write_maps(maps_of(open_forcing_store(path)), store, scheduler="threads")


@pytest.mark.parametrize("name", ["predictors", "modis", "igbp"])
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "in RAM"])
def test_a_forcing_store_is_continued_with_the_same_inputs_only(forcing, tmp_path, name, lazy):
    prepare = chunked if lazy else (lambda ds: ds)
    with pytest.raises(Stop):
        write_forcing(prepare(forcing), tmp_path / "forcing.zarr", progress=stop_after(1))
    with pytest.raises(StoreError, match=f"begun with other inputs: {name} differ"):
        write_forcing(prepare(CHANGES[name](forcing)), tmp_path / "forcing.zarr")
    write_forcing(prepare(forcing.copy(deep=True)), tmp_path / "forcing.zarr")


def era5(path, factor=1.0):
    time = np.arange("2019-07-01T00", "2019-07-03T01", dtype="datetime64[h]").astype("datetime64[ns]")
    shape, dims = (len(time), 4, 6), ("time", "latitude", "longitude")
    axes = {"time": time, "latitude": np.arange(48.0, 47.0, -0.25), "longitude": np.arange(7.0, 8.5, 0.25)}
    values = {"t2m": (290.0, "K"), "d2m": (280.0, "K"), "ssrd": (1e6 * factor, "J m**-2")}
    arrays = {n: (dims, np.full(shape, v, "float32"), {"units": u}) for n, (v, u) in values.items()}
    # Files that are open are replaced, not overwritten.
    xr.Dataset(arrays, axes).to_netcdf(path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    return path


def of_files(path, **options):
    options |= {"accumulation": "hour", "check": False}
    forcing = open_forcing(path, chunks={"latitude": 2, "longitude": 3}, **options)
    return upscale(fake(), forcing, allow_missing=True, time_chunk=24)


def test_a_file_that_was_replaced_is_refused_even_with_its_old_time_or_its_old_size(tmp_path):
    store = begun(of_files(era5(tmp_path / "era5.nc")), tmp_path / "maps.zarr")
    write_maps(of_files(tmp_path / "era5.nc"), tmp_path / "whole.zarr", scheduler="threads")
    before = (tmp_path / "era5.nc").stat()
    (tmp_path / "other").mkdir()
    for path in (era5(tmp_path / "era5.nc", 0.3), era5(tmp_path / "other" / "era5.nc", 0.3)):
        with pytest.raises(StoreError, match="other inputs: predictors differ"):
            write_maps(of_files(path), store, scheduler="threads")
    with open(tmp_path / "era5.nc", "ab") as file:
        file.write(b"\0")
    os.utime(tmp_path / "era5.nc", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match="other inputs: predictors differ"):
        write_maps(of_files(tmp_path / "era5.nc"), store, scheduler="threads")
    with pytest.raises(StoreError, match="other inputs: igbp"):
        era5(tmp_path / "era5.nc")
        os.utime(tmp_path / "era5.nc", ns=(before.st_atime_ns, before.st_mtime_ns))
        write_maps(of_files(tmp_path / "era5.nc", igbp="ENF"), store, scheduler="threads")
    write_maps(of_files(tmp_path / "era5.nc"), store, scheduler="threads")
    np.testing.assert_array_equal(open_maps(store).NEE.values, open_maps(tmp_path / "whole.zarr").NEE.values)


def test_a_zarr_store_whose_chunks_were_written_again_is_refused(tmp_path):
    """A final release written into the store of a preliminary one leaves its metadata as they are."""
    path, preliminary = tmp_path / "era5.zarr", xr.open_dataset(era5(tmp_path / "era5.nc")).load()
    preliminary.chunk(time=24).to_zarr(path, consolidated=False)
    store = begun(of_files(path), tmp_path / "maps.zarr")
    before = [file.stat().st_mtime_ns for file in path.rglob("zarr.json")]
    final = (preliminary[["ssrd"]] * 0.3).isel(time=slice(0, 24)).drop_vars(["latitude", "longitude"])
    final.to_zarr(path, region={"time": slice(0, 24)}, consolidated=False)
    assert [file.stat().st_mtime_ns for file in path.rglob("zarr.json")] == before
    with pytest.raises(StoreError, match="other inputs: predictors differ"):
        write_maps(of_files(path), store, scheduler="threads")


def test_a_copy_of_era5_is_continued_with_the_same_files_only(tmp_path, monkeypatch):
    from fluxcube.sources.era5 import copy

    file, out = era5(tmp_path / "era5.nc"), tmp_path / "copy.zarr"

    def killed(*args, **kwargs):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(copy, "finish_regions", killed)
        with pytest.raises(Stop):
            copy_era5(file, out, accumulation="hour", check=False)
    era5(file, 0.3)
    with pytest.raises(StoreError, match=r"copy\.zarr exists"):
        copy_era5(file, out, accumulation="hour", check=False)


def test_a_relative_path_is_the_same_file(forcing, tmp_path, monkeypatch):
    era5(tmp_path / "era5.nc")
    write_forcing(chunked(forcing), tmp_path / STORE)
    options = {"accumulation": "hour", "check": False}

    def digests(folder):
        return [input_digests(open_forcing(folder / "era5.nc", **options)), input_digests(open_forcing(folder / STORE))]

    absolute = digests(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert digests(Path()) == absolute


def test_another_calibration_or_other_support_years_are_other_settings(forcing):
    digests = {input_digests(forcing, {"calibration": factor}) for factor in (None, 1.0, 1.5)}
    assert len(digests) == 3


def test_daily_forcing_and_maps_of_another_origin_have_digests_too(forcing, tmp_path):
    one, same, other = (
        input_digests(daily_forcing(chunked(ds)))
        for ds in (forcing, forcing.copy(deep=True), CHANGES["modis"](forcing))
    )
    assert one == same != other
    maps = maps_of(chunked(forcing)).load()
    maps.attrs.pop("input_digests")
    pieces = {"time": 48, "latitude": 2, "longitude": 3}
    store = begun(maps.chunk(pieces), tmp_path / "maps.zarr")
    with pytest.raises(StoreError, match="other inputs: NEE differ"):
        write_maps(maps.assign(NEE=maps.NEE * 2).chunk(pieces), store, scheduler="threads")
    write_maps(maps.copy(deep=True).chunk(pieces), store, scheduler="threads")


def test_a_store_that_appears_meanwhile_is_not_replaced(forcing, tmp_path, monkeypatch):
    from fluxcube.maps import store as module

    path, create = tmp_path / "maps.zarr", module.create

    def both(*args, **kwargs):  # another program moves a store to the path just before this run does
        create(path, *args[1:], **kwargs)
        return create(*args, **kwargs)

    monkeypatch.setattr(module, "create", both)
    with pytest.raises(StoreError, match="appeared while it was being written"):
        write_maps(maps_of(chunked(forcing)), path, scheduler="threads")


DIGESTS = """
import sys, numpy as np
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.identity import input_digests
forcing = example_forcing(shape=(2, 2), days=3).chunk(latitude=1, time=24)
dims = ("latitude", "longitude", "block")
modis = forcing.modis.expand_dims(block=2, axis=2).assign_coords(block_weight=(dims, np.full((2, 2, 2), 0.5)))
for ds in (forcing, daily_forcing(forcing), daily_forcing(forcing.assign(modis=modis))):
    sys.stdout.write(input_digests(ds) + "\\n")
"""


def test_digests_are_the_same_in_every_process():
    command = [sys.executable, "-c", DIGESTS]
    first, second = (
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second and len(first.splitlines()) == 3
