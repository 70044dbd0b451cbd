"""EcoPerceiver with a summary of what changes slowly: masks, causality, and the same result in every kind of pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import fluxcube as fc
from fluxcube.errors import ConfigError
from fluxcube.models import tokens
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.models.sliding import predict_sliding
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig

torch.set_num_threads(1)

SIZES = Sizes(inputs=9, numbers=2, classes=(4,), targets=2, protected=(0, 1), means=4, cyclic=(0, 1))
CONFIG = EcoPerceiverConfig(
    latent=16, frequencies=2, embedding=4, context=8, heads=2, blocks=2, self_layers=1, head="dense", summary=12
)


@pytest.fixture(params=[2, 0], ids=["K=2", "K=0"])
def model(request):
    torch.manual_seed(0)
    model = EcoPerceiver(dataclasses.replace(CONFIG, frequencies=request.param), SIZES)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def make_batch(count=3, length=8, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, length, SIZES.inputs)).astype("float32")
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    inputs[..., :2] = rng.uniform(-1, 1, (count, length, 2))
    empty = np.empty((count, 0, 0, 64), "float32"), np.empty((count, 0), np.int64)
    numbers = rng.uniform(-0.5, 0.5, (count, 2)).astype("float32")
    return Batch(*map(torch.from_numpy, (inputs, *empty, numbers, rng.integers(-1, 4, (count, 1)))))


def run(model, batch):
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("column", range(SIZES.inputs))
def test_every_input_counts_from_its_hour_on_and_a_missing_one_is_not_zero(model, column):
    batch = make_batch()
    zero, missing = batch.inputs.clone(), batch.inputs.clone()
    zero[:, 4, column], missing[:, 4, column] = 0.0, torch.nan
    first, second = (run(model, batch._replace(inputs=x)) for x in (zero, missing))
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.isclose(first[:, 4:], second[:, 4:]).all()


def test_static_numbers_and_classes_count_and_unknown_ones_differ_from_zero(model):
    batch = make_batch()
    out = run(model, batch)
    for change in (
        {"numbers": torch.zeros_like(batch.numbers)},
        {"numbers": torch.full_like(batch.numbers, torch.nan)},
        {"classes": (batch.classes + 2) % 4},
        {"classes": torch.full_like(batch.classes, -1)},
    ):
        assert not torch.allclose(out, run(model, batch._replace(**change)))


def test_no_output_depends_on_the_placeholder_or_on_the_batch(model, monkeypatch):
    batch = make_batch()
    out = run(model, batch)
    for i in range(3):
        np.testing.assert_allclose(run(model, batch.take(slice(i, i + 1)))[0], out[i], atol=1e-5)
    monkeypatch.setattr(tokens, "_PLACEHOLDER", 0.37)
    assert torch.equal(run(model, batch), out)


def test_sliding_windows_give_what_single_windows_give(model):
    batch = make_batch(count=1, length=30)
    slid = predict_sliding(model, batch)[0]
    for end in (8, 9, 20, 30):
        window = batch._replace(inputs=batch.inputs[:, end - 8 : end])
        with torch.no_grad():
            np.testing.assert_allclose(slid[end - 8].detach(), model(window)[0, -1], atol=1e-5)


def test_every_weight_is_used(model):
    model.train()
    model(make_batch()).square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not [name for name in unused if "key.bias" not in name]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    cube = example_cube(sites=4, days=12)
    out = tmp_path_factory.mktemp("summary") / "run"
    config = dataclasses.asdict(CONFIG)
    training = TrainingConfig(epochs=1, windows_per_epoch=64, batch_size=16, keep="last")
    sites = tuple(map(str, cube.site.values))
    options = {"memory_days": (1, 3), "static": ("igbp",), "bands": (), "split": Split(train=sites[:3], test=sites[3:])}
    run = fc.fit(cube, out=out, config=config, training=training, **options)
    return cube, run


def test_hourly_inputs_are_standardised_on_the_training_towers(fitted):
    cube, run = fitted
    model = fc.load_model(run)
    spec = model.spec
    assert len(spec.input_scale) == len(spec.inputs) and spec.input_mean[0] == 0.0
    held = fc.load_windows(cube, spec, sites=run.split.train, length=8, batch_size=4096, stride=1)
    values = held.towers.series.inputs[:, len(spec.predictors) :]
    np.testing.assert_allclose(np.nanmean(values, 0), 0, atol=1e-3)
    np.testing.assert_allclose(np.nanstd(values, 0), 1, atol=1e-3)
    assert np.isfinite(fc.predict(model, cube).NEE).any()


def test_training_goes_on_with_the_same_inputs_and_with_no_others(fitted, tmp_path):
    cube, run = fitted
    more = {"epochs": 1, "windows_per_epoch": 32, "batch_size": 16, "keep": "last"}
    same = {"memory_days": (1, 3), "static": ("igbp",), "bands": (), "split": run.split}
    again = fc.fit(cube, out=tmp_path / "again", init=run.path, training=TrainingConfig(**more), **same)
    assert fc.load_model(again).spec.inputs == fc.load_model(run).spec.inputs
    with pytest.raises(ConfigError, match="memory_days"):
        fc.fit(
            cube,
            out=tmp_path / "other",
            init=run.path,
            training=TrainingConfig(**more),
            **same | {"memory_days": (1,)},
        )
