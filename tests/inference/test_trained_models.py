"""Every model of the registry, trained briefly: from a run folder to towers, maps, threads and processes."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.inference import loading as module
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models import checkpoint
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.fit import fit

pytestmark = pytest.mark.usefixtures("short_applicability")

MODELS = ("mean-cycle", "sw-linear", "xgboost", "ecoperceiver")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each model on one split; a few epochs, since only their plumbing is looked at."""
    pytest.importorskip("torch")
    pytest.importorskip("xgboost")
    cube, split, runs = example_cube(sites=12, days=6), None, {}
    for name in MODELS:
        windows = {"attention": "window", "context": 32}
        config = {"xgboost": {"n_estimators": 5}, "ecoperceiver": windows}.get(name)
        runs[name] = fit(
            cube,
            model=name,
            target=("NEE", "GPP_NT"),
            out=tmp_path_factory.mktemp("run") / name,
            split=split,
            memory_days=(1,),
            epochs=5 if name == "ecoperceiver" else None,
            config=config,
        )
        split = runs[name].split
    return runs


@pytest.mark.parametrize("name", MODELS)
def test_chunks_change_nothing(runs, name):
    model = load_model(runs[name])
    forcing = example_forcing(shape=(3, 4), days=6)
    whole = upscale(model, forcing, time_chunk=240)
    parts = upscale(model, forcing.chunk(latitude=2, longitude=3), time_chunk=24)
    for flux in ("NEE", "GPP_NT", "RECO"):
        np.testing.assert_allclose(parts[flux].values, whole[flux].values, rtol=1e-4, atol=1e-4)
    assert np.isfinite(whole.NEE.values[48:, 1:]).all() and whole.NEE.std() > 0.1
    assert whole.NEE.attrs["units"] == "umol m-2 s-1" and whole.attrs["model"] == name
    assert whole.attrs["model_digest"] == checkpoint.digest(runs[name].path)


@pytest.mark.parametrize("name", MODELS)
def test_towers_and_their_split(runs, name):
    model = load_model(runs[name])
    assert model.split == runs[name].split
    cube = example_cube(sites=12, days=6).sel(site=list(model.split.test))
    eager, lazy = predict(model, cube), predict(runs[name].path, cube.chunk(site=1))
    xr.testing.assert_allclose(lazy.compute(), eager)
    assert np.isfinite(eager.NEE.values[:, 48:]).all()


def test_strides_of_a_dense_head(runs):
    model = load_model(runs["ecoperceiver"])
    cube = example_cube(sites=2, days=6)
    default = predict(model, cube)
    xr.testing.assert_identical(default, predict(model, cube, stride=8))
    last = predict(model, cube, stride=1)
    assert np.isfinite(last.NEE.values).sum(1).tolist() == [144 - 31] * 2
    # The last hour of each stride has seen the whole window, whatever the stride.
    ends = (cube.time.values.astype("datetime64[h]").astype(int) + 1) % 8 == 0
    np.testing.assert_allclose(default.NEE.values[:, ends], last.NEE.values[:, ends], rtol=1e-4, atol=1e-4)
    assert np.nanmax(np.abs(default.NEE.values - last.NEE.values)[:, ~ends]) > 0.01
    with pytest.raises(ConfigError, match=r"1\.\.32"):
        predict(model, cube, stride=33)


def test_the_boundary_of_a_record_is_honest(runs):
    """The first day of a map is missing, not guessed, and the last hours are there."""
    maps = upscale(load_model(runs["ecoperceiver"]), example_forcing(shape=(2, 2), days=4).isel(time=slice(3, 91)))
    has = np.isfinite(maps.NEE.values[:, 1, 1])
    assert has[-1] and not has[:24].any() and has[32:].all()


def test_a_model_is_read_once_by_all_threads(runs, monkeypatch):
    reads = []
    real = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: reads.append(path) or real(path))
    monkeypatch.setattr(module, "_loaded", {})
    threads = [threading.Thread(target=load_model, args=(runs["sw-linear"].path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert load_model(runs["sw-linear"]) is load_model(runs["sw-linear"].path)


def test_a_folder_trained_anew_is_not_taken_for_what_it_was(runs, tmp_path, monkeypatch):
    shutil.copytree(runs["sw-linear"].path, tmp_path / "run")
    model = load_model(tmp_path / "run")
    maps = upscale(model, example_forcing(shape=(2, 2), days=3))
    fit(
        example_cube(sites=12, days=9, seed=3),
        model="sw-linear",
        target=("NEE", "GPP_NT"),
        out=tmp_path / "run",
        memory_days=(1,),
        overwrite=True,
    )
    monkeypatch.setattr(module, "_loaded", {})  # another process
    with pytest.raises(CheckpointError, match="other weights"):
        maps.NEE.compute()
    assert load_model(tmp_path / "run").digest != model.digest


def test_maps_of_another_model_do_not_go_on(runs, tmp_path):
    from fluxcube.errors import StoreError

    forcing = example_forcing(shape=(2, 2), days=4)
    one, other = (upscale(load_model(runs[name]), forcing, time_chunk=24) for name in ("sw-linear", "mean-cycle"))

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_maps(one, tmp_path / "maps.zarr", workers=1, progress=stop)
    with pytest.raises(StoreError, match="sw-linear"):
        write_maps(other, tmp_path / "maps.zarr")
    write_maps(one, tmp_path / "maps.zarr")
    np.testing.assert_array_equal(open_maps(tmp_path / "maps.zarr").NEE.values, one.NEE.values)


def test_worker_processes_load_the_model_by_its_path(runs, tmp_path):
    from distributed import Client, LocalCluster

    maps = upscale(load_model(runs["xgboost"]), example_forcing(shape=(4, 4), days=4).chunk(latitude=2), time_chunk=48)
    here = maps.compute()
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        path = write_maps(maps, tmp_path / "maps.zarr", workers=3)
    xr.testing.assert_allclose(open_maps(path).NEE.load(), here.NEE, rtol=1e-6)
