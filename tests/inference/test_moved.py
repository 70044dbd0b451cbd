"""Windows that are cut on a device equal those cut in RAM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxcube.inference.moved import Source, cut_tensor
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.passes import predict_scaled
from fluxcube.models.base import Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver
from fluxcube.models.ecoperceiver_config import EcoPerceiverConfig
from fluxcube.samples.features import Block
from fluxcube.samples.windows import cut, flatten, gather

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def block() -> Block:
    rng = np.random.default_rng(2)
    inputs = rng.random((3, 90, 4), np.float32)
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    return Block(
        inputs=inputs,
        observed=np.ones((3, 90), bool),
        numbers=rng.random((3, 1), np.float32),
        classes=np.zeros((3, 0), np.int64),
        chips=rng.random((3, 4, 2, 64), np.float32),
        chip_hour=np.array([[-6, 18, 42, 66]] * 3),
        first_hour=0,
    )


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a card")
    return request.param


@pytest.mark.parametrize("length", [1, 20, 90, 300])
def test_windows_cut_on_a_device_equal_those_cut_in_ram(device, length):
    series = flatten(block())
    place, stop = np.repeat([0, 1, 2], 30), np.tile(np.arange(1, 91, 3), 3)
    found = cut_tensor(torch.from_numpy(series.inputs).to(device), series.start[place], stop, length)
    np.testing.assert_array_equal(found.cpu().numpy(), cut(series.inputs, series.start[place], stop, length))


@pytest.mark.parametrize("table", [False, True])
def test_a_source_gathers_what_gather_does(device, table):
    series = flatten(block())
    place, stop = np.array([0, 2, 2]), np.array([30, 5, 90])
    source, expected = Source.on(series, device), gather(series, place, stop, 26, table=table)
    found = source.gather(place, stop, 26, table=table)
    assert found.keys() == expected.keys() and found["inputs"].device.type == device
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(torch.as_tensor(found[name]).cpu()), array)
    assert Source(series).gather(place, stop, 26)["inputs"].__class__ is np.ndarray


@pytest.mark.parametrize("stride", [1, 6])
def test_predictions_from_a_block_on_the_device_equal_those_from_ram(device, stride, monkeypatch):
    torch.manual_seed(0)
    config = EcoPerceiverConfig.small()
    config = type(config).from_dict(
        {**vars(config), "attention": "window", "context": 24, "head": "dense" if stride > 1 else "last"}
    )
    model = EcoPerceiver(config, Sizes(inputs=4, bands=2, numbers=1)).eval()
    torch.nn.init.normal_(model.head.weight)
    options = PredictionOptions(stride=stride, min_context=5)
    out = np.full((2, 3, 90, 1), np.nan, np.float32)
    predict_scaled(model, block(), options, slice(0, 90), out[0])
    model.to(device)
    monkeypatch.setattr(Source, "of", classmethod(lambda cls, series, _: cls.on(series, device)))
    predict_scaled(model, block(), options, slice(0, 90), out[1])
    assert np.isfinite(out[1][:, 4:]).all()
    np.testing.assert_allclose(out[1], out[0], atol=1e-6 if device == "cpu" else 1e-4)


def test_a_card_without_room_for_a_block_gets_windows_cut_in_ram(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch.Tensor, "to", full)
    assert Source.on(flatten(block()), "cpu").inputs is None
