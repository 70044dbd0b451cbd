"""Passes that do not fit in memory are halved, and what is too small or broken is named."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.errors import DeviceError, StoreError
from fluxcube.inference import memory
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.models.base import Batch
from fluxcube.simulation.example import example_forcing


@pytest.fixture
def small_memory(run, monkeypatch, device):
    """A function that returns the model with a memory for a number of time steps, and the sizes of its passes."""

    def limited(steps: int, error: type[Exception] = torch.OutOfMemoryError, text: str = "CUDA out of memory."):
        model = copy.deepcopy(load_model(run / "seed-4", device=device))
        alone = dataclasses.replace(model, path=None)
        on_device, sizes = alone.model.on_device, []

        def counted(batch):
            sizes.append(batch.inputs.shape[:2])
            if batch.inputs.shape[0] * batch.inputs.shape[1] > steps:
                raise error(text)
            return on_device(batch)

        monkeypatch.setattr(alone.model, "on_device", counted)  # before forward passes of windows and of series
        return alone, sizes

    return limited


class Copies:
    """Copies of models that are this model."""

    def __init__(self, model):
        self.model = model

    def deepcopy(self, model):
        return copy.deepcopy(self.model)


@pytest.mark.parametrize("stride", [1, 24])
@pytest.mark.parametrize("steps", [24, 60, 100])
def test_a_pass_is_halved_until_it_fits_and_the_size_is_kept(small_memory, run, cube, device, stride, steps):
    towers = cube.isel(site=slice(2))
    model, sizes = small_memory(steps)
    found = predict(model, towers, stride=stride)
    expected = predict(run / "seed-4", towers, device=device, stride=stride)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5 * float(expected[name].std()), rtol=1e-6)
    failed = [size for size in sizes if size[0] * size[1] > steps]
    assert 0 < len(failed) <= 10  # once for each halving, not once for each pass
    sizes.clear()
    predict(model, towers, stride=stride)
    assert all(rows * length <= steps for rows, length in sizes)


def test_a_memory_too_small_for_one_window_is_named(small_memory, cube):
    model, _ = small_memory(23)
    with pytest.raises(DeviceError, match=r"too small for one window of this model \(CUDA out of memory"):
        predict(model, cube.isel(site=[0]))


def test_memory_of_the_cpu_is_halved_too(small_memory, cube):
    model, sizes = small_memory(200, RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried")
    assert np.isfinite(predict(model, cube.isel(site=[0]), stride=24).NEE).any() and len(sizes) > 1


def test_the_cpu_computes_what_a_card_has_no_memory_for_only_if_it_may(small_memory, run, cube, monkeypatch, caplog):
    model, _ = small_memory(0)
    monkeypatch.setattr(memory, "on_gpu", lambda model: True)
    monkeypatch.setattr(memory, "_measured", lambda known, model, batch, call: call(model, batch))
    monkeypatch.setattr(memory, "pass_size", lambda *args, **kwargs: 8)
    monkeypatch.setattr(memory, "device_name", lambda device: "a small card")
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    with pytest.raises(DeviceError, match="memory of a small card is too small"):
        predict(model, cube.isel(site=[0]))
    moved = dataclasses.replace(model, device="cuda,cpu")
    monkeypatch.setattr(memory, "copy", Copies(load_model(run / "seed-4", device="cpu").model))
    found = predict(moved, cube.isel(site=[0]))
    np.testing.assert_allclose(found.NEE, predict(run / "seed-4", cube.isel(site=[0]), device="cpu").NEE, rtol=1e-4)
    assert caplog.text.count("the CPU computes from here on") == 1 and emptied


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: unspecified launch failure\nCompile with"), "accelerator"], ids=["text", "type"]
)
def test_a_driver_that_fails_is_named_and_other_errors_are_not_hidden(small_memory, cube, error):
    kind = getattr(torch, "AcceleratorError", RuntimeError) if error == "accelerator" else RuntimeError
    text = "CUDA error: unspecified launch failure\nCompile with"
    model, _ = small_memory(0, kind, text)
    with pytest.raises(DeviceError, match=r"failed \(CUDA error: unspecified launch failure\): this process"):
        predict(model, cube.isel(site=[0]))
    model, _ = small_memory(0, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        predict(model, cube.isel(site=[0]))


def test_maps_stop_when_a_card_fails_and_continue(small_memory, run, tmp_path, monkeypatch, device):
    forcing = example_forcing(shape=(3, 2), days=4).chunk(latitude=1)
    model, sizes = small_memory(10**9)
    healthy = model.model.on_device

    def failing(batch):
        if len(sizes) >= 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return healthy(batch)

    monkeypatch.setattr(model.model, "on_device", failing)
    maps = upscale(model, forcing)
    with pytest.raises(StoreError, match=r"DeviceError: .* failed .* regions of .* are written; the same call"):
        write_maps(maps, tmp_path / "maps.zarr", workers=1, scheduler="threads")
    monkeypatch.setattr(model.model, "on_device", healthy)
    again = open_maps(write_maps(maps, tmp_path / "maps.zarr", workers=1, scheduler="threads"))
    np.testing.assert_allclose(again.NEE, upscale(run / "seed-4", forcing, device=device).NEE, rtol=1e-4)


def test_the_pass_of_a_card_follows_its_free_memory(run, monkeypatch):
    model = copy.deepcopy(load_model(run / "seed-4", device="cpu").model)
    monkeypatch.setattr(memory, "on_gpu", lambda model: True)
    free = {"bytes": 10**9}
    monkeypatch.setattr(memory, "_free_bytes", lambda model: free["bytes"])
    assert memory.pass_size(model, 128, 2048) == 128  # nothing is measured yet
    memory.memory_of(model).step_bytes = 10_000.0
    assert memory.pass_size(model, 128, 2048) == 2048
    free["bytes"] = 100_000_000
    assert memory.pass_size(model, 128, 2048) == 100_000_000 // 2 // 10_000 // model.context
    free["bytes"] = 0
    assert memory.pass_size(model, 128, 2048) == 1
    free["bytes"], memory.memory_of(model).limit = 10**9, model.context * 5
    assert memory.pass_size(model, 128, 2048) == 5


def test_the_memory_of_a_pass_is_measured(run, cube, monkeypatch):
    model = dataclasses.replace(load_model(run / "seed-4", device="cpu"), path=None)
    alone = dataclasses.replace(model, model=copy.deepcopy(model.model))
    expected = predict(model, cube.isel(site=[0]), stride=24)
    monkeypatch.setattr(memory, "on_gpu", lambda model: True)
    allocated = iter([1000, 5000, 1000] + [1000, 1000] * 1000)
    names = {"reset_peak_memory_stats": None, "memory_reserved": 9000, "mem_get_info": (10**7, 10**8)}
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: next(allocated))
    found = predict(alone, cube.isel(site=[0]), stride=24)
    np.testing.assert_array_equal(found.NEE, expected.NEE)
    windows = memory.memory_of(alone.model).step_bytes * alone.model.context
    assert windows == pytest.approx(4000 / 12)  # of twelve days
    assert memory.pass_size(alone.model, 128, 10**6) == int(0.5 * (10**7 + 8000) / windows)


def test_halves_of_a_series_keep_the_images_that_they_see():
    class Sizes:
        image_kinds = ((1, 1), (1, 1))

    class Windows:
        context, sizes, streams = 4, Sizes, False

    class Streams(Windows):
        streams = True

    inputs, images = np.arange(10.0)[None, :, None], np.zeros((1, 6, 1, 1))
    step = np.array([[0, 2, 8, -1, 5, 4]])  # three slots of each of two kinds
    batch = Batch(inputs, images, step, np.zeros((1, 0)), np.zeros((1, 0), int))
    first, second, repeated = memory._halves(batch, Windows)
    assert first.inputs.ravel().tolist() == list(range(7)) and repeated == 3
    assert second.inputs.ravel().tolist() == list(range(4, 10))
    assert first.image_step.tolist() == [[0, 2, -1, -1, 5, 4]]
    assert second.image_step.tolist() == [[-1, 0, 4, -1, 1, 0]]  # the latest earlier one is at the first time step
    _, second, _ = memory._halves(batch, Streams)
    assert second.image_step.tolist() == [[-1, -1, 4, -1, 1, 0]]
    assert memory._halves(batch._replace(inputs=inputs[:, :4]), Windows) is None
    table = batch._replace(inputs=np.repeat(inputs, 3, 0), image_step=np.repeat(step, 3, 0))
    one, two, _ = memory._halves(table, Windows)
    assert (len(one.inputs), len(two.inputs)) == (1, 2) and len(one.image_step) == 1
