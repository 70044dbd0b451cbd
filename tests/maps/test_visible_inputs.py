"""Inputs that a worker of a cluster cannot find are named before the first task."""

from __future__ import annotations

import pytest
from inference_fakes import fake

import fluxcube as fc
from fluxcube.errors import StoreError
from fluxcube.maps.inputs import expected_files, input_paths
from fluxcube.maps.regions import even_chunks, region_tasks, regions
from fluxcube.maps.workers import Cluster, _check_cluster, _worker_state
from fluxcube.simulation.example import example_forcing


def inputs_of(maps, path):
    maps = even_chunks(maps)
    (task,) = region_tasks(maps, path, list(regions(maps).values())[:1])
    return input_paths(task.graph)


def test_the_forcing_store_and_the_run_of_a_task_are_found(tmp_path):
    store = fc.write_forcing(example_forcing(shape=(2, 2), days=40), tmp_path / "forcing.zarr")
    maps = fc.upscale("ecoperceiver-towers/seed-0", fc.open_forcing(store))
    found = inputs_of(maps, tmp_path / "maps.zarr")
    assert (
        str(store) in found and any(path.endswith("ecoperceiver-towers/seed-0") for path in found) and len(found) == 2
    )
    assert inputs_of(fc.upscale(fake(), example_forcing()), tmp_path / "maps.zarr") == ()


def test_the_files_of_a_task_are_found(planet_files, tmp_path):
    forcing = fc.open_forcing(
        planet_files / "era5", land_cover=planet_files / "land_cover", modis=planet_files / "modis"
    )
    found = inputs_of(fc.upscale(fake(), forcing), tmp_path / "maps.zarr")
    assert any("/era5/" in path for path in found) and any("/modis/" in path for path in found)


def test_an_empty_folder_in_the_place_of_a_store_is_not_taken_for_it(tmp_path):
    (tmp_path / "f.zarr").mkdir()
    assert expected_files([str(tmp_path / "f.zarr")]) == (str(tmp_path / "f.zarr"),)
    for name in ("zarr.json", "a.nc"):
        (tmp_path / "f.zarr" / name).write_text("{}")
    files = tuple(str(tmp_path / "f.zarr" / name) for name in ("a.nc", "zarr.json"))
    assert expected_files([str(tmp_path / "f.zarr"), files[0]]) == (*files, files[0])


class Memory:
    memory_limit = None


class OneWorker:
    """What `_check_cluster` uses of a worker and of a client."""

    memory_manager = Memory()
    dashboard_link, status, scheduler = "", "running", None

    def wait_for_workers(self, *args, **options):
        """There is one."""

    def run(self, function, *args, **options):
        return {"tcp://10.0.0.7:1": function(*args, dask_worker=self)}


def test_a_worker_that_lacks_an_input_is_named_with_the_input_and_its_host(tmp_path):
    maps = fc.write_maps(fc.upscale(fake(), example_forcing()), tmp_path / "maps.zarr", scheduler="threads")
    cluster = Cluster(OneWorker(), "a cluster")
    _check_cluster(cluster, 1.0, maps, 0, "cpu", [str(tmp_path)])
    with pytest.raises(StoreError, match=r"10\.0\.0\.7:1 on the host .* cannot find /nowhere/f\.zarr.*all hosts"):
        _check_cluster(cluster, 1.0, maps, 0, "cpu", [str(tmp_path), "/nowhere/f.zarr"])
    assert _worker_state(maps, (), "cpu", OneWorker())[3] is None
