"""Predictions on a device: they equal those of the CPU, in every form, and say where they were computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.devices import device_name, find_device
from fluxcube.errors import ConfigError
from fluxcube.inference import precision
from fluxcube.inference.devices import device_of, on_gpu
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model, load_reference
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.simulation.example import example_forcing

#: Difference from the CPU in float32, in standard deviations of each output.
CLOSE = 1e-5


def assert_close(found, expected, limit=CLOSE):
    """All fluxes are equal within a share of their standard deviation over the time steps."""
    for name in expected.data_vars:
        difference = np.abs(found[name].values - expected[name].values)
        assert np.array_equal(np.isfinite(found[name].values), np.isfinite(expected[name].values)), name
        assert np.nanmax(difference) <= limit * max(float(np.nanstd(expected[name].values)), 1e-6), name


@pytest.fixture(scope="module")
def towers(cube):
    return cube.isel(site=slice(3))


@pytest.fixture(scope="module")
def expected(run, towers):
    return predict(run, towers, device="cpu", uncertainty=True, applicability=True)


def test_a_model_is_on_its_device_and_another_keeps_its_own(run, device):
    model = load_model(run, device=device)
    assert device_of(model.model) == find_device(device) and on_gpu(model.model) == (device == "cuda")
    assert load_model(run, device=device).model is model.model  # read and moved once per process
    other = load_model(model, device="cpu")
    assert device_of(other.model) == "cpu" and device_of(model.model) == find_device(device)
    assert load_reference(model.reference).device == device and model.options().device == device


def test_towers(run, device, towers, expected):
    found = predict(run, towers, device=device, uncertainty=True, applicability=True)
    assert_close(found, expected)
    assert found.attrs["device"] == device_name(find_device(device))


@pytest.mark.parametrize("options", [{"stride": 1}, {"stride": 24}, {"stride": 1, "min_context": 3}], ids=str)
def test_every_form_of_windows(run, device, towers, options):
    assert_close(predict(run, towers, device=device, **options), predict(run, towers, device="cpu", **options))


def test_lazy_predictions(run, device, towers, expected):
    lazy = predict(run, towers.chunk(site=1), device=device, uncertainty=True, applicability=True)
    assert_close(lazy.compute(), expected)


def test_a_model_in_ram_alone_is_moved_in_a_copy(run, device, towers, expected):
    alone = dataclasses.replace(load_model(run, device="cpu"), path=None)
    assert_close(predict(alone, towers, device=device, uncertainty=True, applicability=True), expected)
    assert device_of(alone.model) == "cpu"


def test_an_embedded_mix(run, device, towers):
    seeds = [run / "seed-4", run / "seed-5"]
    assert_close(predict(seeds, towers, device=device), predict(seeds, towers, device="cpu"))


def test_maps_in_threads(run, device, tmp_path):
    forcing = example_forcing(shape=(2, 3), days=4).chunk(latitude=1)
    expected = upscale(run, forcing, device="cpu").compute()
    maps = upscale(run, forcing, device=device)
    assert maps.attrs["device"] == device
    found = open_maps(write_maps(maps, tmp_path / "maps.zarr", workers=2))
    assert_close(found[list(expected.data_vars)], expected)
    assert found.attrs["device"] == device_name(find_device(device))


@pytest.mark.slow
def test_maps_in_processes(run, device, tmp_path):
    forcing = example_forcing(shape=(2, 3), days=4).chunk(latitude=1)
    expected = upscale(run, forcing, device="cpu").compute()
    path = write_maps(upscale(run, forcing, device=device), tmp_path / "maps.zarr", workers=2, scheduler="processes")
    assert_close(open_maps(path)[list(expected.data_vars)], expected)


def test_unfinished_maps_may_be_continued_on_another_device(run, tmp_path):
    from fluxcube.maps.store import _difference, _prepare
    from fluxcube.stores.reading import open_store

    forcing = example_forcing(shape=(2, 3), days=4)
    one, two = (upscale(run, forcing, device=device).drop_attrs(deep=False) for device in ("cpu", "cuda,cpu"))
    assert one.identical(two)
    maps = upscale(run, forcing, device="cpu")
    maps.attrs.pop("device"), maps.attrs.pop("region_bytes")
    assert _prepare(tmp_path / "maps.zarr", maps, 1, False, True)
    again = upscale(run, forcing, device="auto")
    again.attrs.pop("device"), again.attrs.pop("region_bytes")
    assert _difference(open_store(tmp_path / "maps.zarr", kind="maps", allow_partial=True), again) is None


@pytest.mark.parametrize("form", ["tf32", "bfloat16"])
def test_a_precision_is_compared_with_float32_once(run, device, towers, form, caplog):
    caplog.set_level("INFO", precision.__name__)
    model = load_model(run, device=device)
    precision._errors.pop(model.model, None)
    before = torch.backends.cuda.matmul.fp32_precision
    found = predict(model, towers, precision=form)
    error = found.attrs["precision_error"]
    assert 0 <= error < precision.PRECISION_LIMIT and (error > 0) == (form == "bfloat16" or device == "cuda")
    assert_close(found, predict(model, towers), limit=0.5)
    assert caplog.text.count("changes the fluxes by") == 1
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_precision_that_changes_the_fluxes_is_warned_of(run, towers, monkeypatch, caplog):
    monkeypatch.setattr(precision, "PRECISION_LIMIT", 0.0)
    precision._errors.pop(load_model(run).model, None)
    predict(run, towers, precision="bfloat16")
    assert "pass precision='float32'" in caplog.text


@pytest.mark.parametrize("mixed", [False, True])
def test_maps_record_the_error_of_their_precision(run, tmp_path, monkeypatch, caplog, mixed):
    monkeypatch.setattr("fluxcube.devices._precision_errors", {"another model of this process": 1.0})
    monkeypatch.setattr("fluxcube.maps.writer.PRECISION_LIMIT", 0.0)
    monkeypatch.setattr(precision, "_errors", type(precision._errors)())
    forcing = example_forcing(shape=(2, 3), days=4).chunk(latitude=1)
    model = [run / "seed-4", run / "seed-5"] if mixed else run
    path = write_maps(upscale(model, forcing, precision="bfloat16"), tmp_path / "maps.zarr", workers=1)
    assert 0 < open_maps(path).attrs["precision_error"] < precision.PRECISION_LIMIT
    assert caplog.text.count("write the maps again with precision='float32'") <= 2
    plain = write_maps(upscale(model, forcing), tmp_path / "plain.zarr", workers=1)
    assert "precision_error" not in open_maps(plain).attrs


def test_precisions_that_do_not_exist_are_refused(run, towers):
    with pytest.raises(ConfigError, match="float32, tf32 or bfloat16"):
        predict(run, towers, precision="float16")


def test_deterministic_predictions(run, device, towers, expected):
    found = predict(run, towers, device=device, deterministic=True)
    assert_close(found, expected[list(found.data_vars)])
    assert found.attrs["deterministic"] == 1 and not torch.are_deterministic_algorithms_enabled()


def test_a_card_that_is_absent_is_named_before_anything_is_read(run, cube, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="device is 'cuda', but"):
        load_model(run, device="cuda")
    with pytest.raises(ConfigError, match="device is 'cuda:1', but"):
        predict(run, cube, device="cuda:1")
    maps = upscale(run, example_forcing(shape=(2, 3), days=4), device="cuda")  # a cluster may have cards
    with pytest.raises(ConfigError, match="device is 'cuda', but"):
        write_maps(maps, tmp_path / "maps.zarr")
    assert not (tmp_path / "maps.zarr").exists()
    assert "NEE" in predict(run, cube.isel(site=[0]), device="cuda,cpu")
