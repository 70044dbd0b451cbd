"""Windows of a stretch at once: what one pass for each window gives, and what a plain implementation gives."""

from __future__ import annotations

import dataclasses
import importlib.util
import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ecoperceiver import TINY, make_batch, make_model

from fluxcube.inference.predictor import Predictor
from fluxcube.models.base import BaseModel, Batch, Sizes
from fluxcube.models.ensemble import Ensemble
from fluxcube.models.sliding import predict_sliding
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.windows import flatten, gather

torch.set_num_threads(1)

#: Of the output's spread: what float32 leaves.
LIMIT = 4e-6
ALL = Sizes(inputs=6, bands=3, numbers=2, classes=(4, 3), targets=2, protected=(0, 1))
BARE = Sizes(inputs=5)
BOTH = pytest.mark.parametrize("sizes", [ALL, BARE], ids=["all inputs", "weather only"])


def plain(config, sizes, attention, model):
    path = Path(__file__).parents[2] / "benchmarks" / "naive.py"
    spec = importlib.util.spec_from_file_location("naive", path)
    naive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(naive)
    other = naive.NaiveEcoPerceiver(config, sizes, attention).eval()
    other.load_state_dict(model.state_dict())
    return other


def block(sizes, hours, places=1, seed=0, chips=True):
    """Places with holes, hours without anything, bands and numbers that are missing, and chips at odd hours."""
    rng = np.random.default_rng(seed)
    met = rng.uniform(-0.5, 0.5, (places, hours, sizes.inputs)).astype(np.float32)
    met[rng.random(met.shape) < 0.3] = np.nan
    met[:, 3:6] = np.nan
    met[:, hours // 2] = np.nan
    hour = np.sort(rng.integers(0, 24, (places, 1)) + 24 * np.arange(-1, hours // 24 + 1), 1)
    hour = hour if sizes.bands and chips else hour[:, :0]
    images = rng.random((places, hour.shape[1], sizes.bands, 64), dtype=np.float32)
    images[rng.random(images.shape[:3]) < 0.3] = np.nan
    numbers = rng.uniform(-0.5, 0.5, (places, sizes.numbers)).astype(np.float32)
    numbers[:, 1:] = np.nan
    classes = [rng.integers(-1, n, places) for n in sizes.classes]
    return Block(
        inputs=met,
        observed=np.isfinite(met).any(-1),
        numbers=numbers,
        chips=images,
        chip_hour=hour,
        first_hour=500_000,
        classes=np.stack(classes, 1) if classes else np.empty((places, 0), np.int64),
    )


def tensors(arrays):
    return Batch.of(arrays).map(lambda a: torch.from_numpy(np.asarray(a)))


def both(model, block, length):
    """A stretch at once, and one pass for each of its windows."""
    series, hours = flatten(block), block.inputs.shape[1]
    with torch.inference_mode():
        stretch = predict_sliding(model, tensors(gather(series, np.array([0]), np.array([hours]), hours)))[0]
        stops = np.arange(length, hours + 1)
        windows = [tensors(gather(series, np.array([0]), np.array([s]), length)) for s in stops]
        return stretch, torch.cat([model(w)[:, -1] for w in windows])


def assert_same(a, b):
    assert a.shape == b.shape and torch.isfinite(b).all()
    assert (a - b).abs().max() <= LIMIT * b.std(0).max(), ((a - b).abs().max() / b.std(0).max()).item()


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"head": "last"},
        {"head": "last", "causal": False},
        {"share": False},
        {"self_layers": 0},
        {"heads": 1},
        {"frequencies": 0},
        {"context": 1},
        {"context": 2},
        {"context": 31, "latent": 24, "heads": 3},
        {"distribution": "gaussian"},
    ],
    ids=str,
)
def test_a_stretch_gives_what_its_windows_give(sizes, change):
    config = dataclasses.replace(TINY, **change)
    model = make_model(config, sizes)
    assert_same(*both(model, block(sizes, 70), config.context))


@pytest.mark.parametrize("windows", [1, 2, 11, 33])
def test_stretches_of_any_length(windows):
    model = make_model()
    sizes = model.sizes
    assert_same(*both(model, block(sizes, windows + 40, seed=windows), 12))
    shortest = block(sizes, 11 + windows, seed=windows)
    stretch, alone = both(model, shortest, 12)
    torch.testing.assert_close(stretch, alone, rtol=1e-5, atol=1e-5)


def test_a_model_with_bands_and_a_place_without_chips():
    model = make_model(sizes=ALL)
    assert_same(*both(model, block(ALL, 50, chips=False), 12))


def test_the_published_preset_within_float32():
    config = dataclasses.replace(TINY.published())
    model = make_model(config, dataclasses.replace(ALL, inputs=21))
    assert_same(*both(model, block(model.sizes, 64), 32))


def test_a_window_hears_only_its_own_hours():
    """Hours before a window's first change nothing, those in it do."""
    model = make_model(sizes=BARE)
    one = block(BARE, 40)
    other = dataclasses.replace(one, inputs=one.inputs.copy())
    other.inputs[0, 20, 1] = 0.123
    (a, _), (b, _) = both(model, one, 12), both(model, other, 12)
    changed = (a != b).any(-1).numpy()
    assert changed[9:21].all() and not changed[:9].any() and not changed[21:].any()


def test_half_precision_differs_by_what_it_rounds():
    model = make_model(sizes=ALL)
    exact, _ = both(model, block(ALL, 60), 12)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = both(model, block(ALL, 60), 12)
    assert 0 < ((half - exact).square().mean().sqrt() / exact.std()).item() < 0.03


@BOTH
@pytest.mark.parametrize("attention", ["matmul", "sdpa"])
@pytest.mark.parametrize("change", [{"head": "dense"}, {"head": "last", "causal": False}, {"share": False}], ids=str)
def test_the_plain_implementation_is_the_same_model(sizes, attention, change):
    config = dataclasses.replace(TINY, **change)
    model = make_model(config, sizes)
    arrays = gather(flatten(block(sizes, 60, places=3)), np.arange(30) % 3, np.arange(30) + 12, 12)
    with torch.inference_mode():
        ours, theirs = model(tensors(arrays)), plain(config, sizes, attention, model)(tensors(arrays))
    assert_same(ours, theirs)


SPEC = FeatureSpec(
    predictors=("TA", "SW_IN", "VPD", "PA", "WS", "WD"),
    bands=("red", "nir", "snow"),
    static=("latitude", "elevation"),
    targets=("NEE", "LE"),
    target_mean=(1.0, 2.0),
    target_scale=(3.0, 4.0),
)
PLACED = Sizes(inputs=6, bands=3, numbers=2, targets=2)


class OneByOne(BaseModel):
    """A model without sliding-window inference that records the longest window it predicts."""

    context, emits, quantities = (
        property(operator.attrgetter(f"model.{name}")) for name in ("context", "emits", "quantities")
    )

    def __init__(self, model):
        self.model, self.longest = model, 0
        self.kind, self.sizes, self.config = model.kind, model.sizes, model.config

    def predict_all(self, batch):
        return self.model.predict_all(batch)

    def predict(self, batch):
        self.longest = max(self.longest, batch.inputs.shape[1])
        return self.model.predict(batch)


class Sliding(OneByOne):
    """A model that can."""

    sliding_window = True


@pytest.mark.parametrize("hours", [12, 30, 40, 300])
def test_the_predictor_slides_where_it_can_and_gives_the_same(hours):
    model = make_model(sizes=PLACED)
    places = block(PLACED, hours, places=3)
    if hours > 100:
        places.inputs[1, 60:64] = np.nan
        places.inputs[2, 100:] = np.nan
        places = dataclasses.replace(places, observed=np.isfinite(places.inputs).any(-1))
    single, sliding = OneByOne(model), Sliding(model)
    ours, plainly = (Predictor(m, SPEC).predict_block(places, stride=1) for m in (sliding, single))
    assert model.sliding_window and single.longest == 12
    assert sliding.longest == {12: 12, 30: 12, 40: 12 + 18, 300: 12 + 127}[hours]  # short runs go one by one
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(plainly))
    np.testing.assert_allclose(ours, plainly, atol=2e-5, rtol=1e-5)
    if hours == 300:
        assert np.flatnonzero(np.isnan(ours[0, 11:, 0])).tolist() == [150 - 11]  # an hour without anything


def test_an_ensemble_slides_with_its_members():
    config = dataclasses.replace(TINY, distribution="gaussian")
    members = [make_model(config, PLACED, seed) for seed in (0, 1)]
    places = block(PLACED, 90)
    together = Ensemble(members)
    assert together.sliding_window and not Ensemble([OneByOne(m) for m in members]).sliding_window
    given = Predictor(together, SPEC).predict_block(places, stride=1, uncertainty=True)
    alone = Predictor(Ensemble([OneByOne(m) for m in members]), SPEC)
    np.testing.assert_allclose(given, alone.predict_block(places, stride=1, uncertainty=True), atol=1e-4, rtol=1e-4)


def test_predict_of_a_stretch_fills_all_but_the_first_hours():
    model = make_model()
    batch = make_batch(2, 40)
    out = model.predict(batch.map(lambda a: a.numpy()))
    assert out.shape == (2, 40, 2)
    assert np.isnan(out[:, :11]).all() and np.isfinite(out[:, 11:]).all()
