"""Banded attention: every hour of a series by one pass, from exactly the hours that its context contains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_ecoperceiver import TINY, make_batch, make_model, run
from test_sliding import ALL, BARE, PLACED, SPEC, block, tensors
from torch import Tensor

from fluxcube.errors import ConfigError
from fluxcube.inference import passes
from fluxcube.inference.predictor import Predictor
from fluxcube.models.banded import BandedSelfAttention
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.models.ensemble import Ensemble
from fluxcube.samples.windows import flatten, gather

torch.set_num_threads(1)

BANDED = dataclasses.replace(TINY, attention="banded", context=7)
#: Hours that an estimate depends on: 6 in each of three layers, and its own.
REACH = 19


def banded(sizes=ALL, seed=0, **changes):
    """Return a model with random weights whose heads have biases of any size."""
    model = make_model(dataclasses.replace(BANDED, **changes), sizes, seed)
    for layer in [*model.block_self, *model.self_layers]:
        torch.nn.init.normal_(layer.relative)
        torch.nn.init.normal_(layer.out.weight, std=0.5)
    return model


def plain_attention(layer: BandedSelfAttention, latents: Tensor) -> Tensor:
    """Return the attention of latents (N, H) to each other, by a matrix of all pairs of hours."""
    band, heads = layer.relative.shape[1], layer.heads
    query, key, value = layer.query_key_value(latents).view(len(latents), 3, heads, -1).permute(1, 2, 0, 3)
    distance = torch.arange(len(latents))[:, None] - torch.arange(len(latents))
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5 + layer.relative[:, distance.clamp(0, band - 1)]
    scores = scores.masked_fill((distance < 0) | (distance >= band), -torch.inf)
    return layer.out((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("band", [1, 2, 7, 16, 17, 32, 50])
@pytest.mark.parametrize("hours", [1, 15, 16, 33, 130])
def test_attention_equals_that_by_a_matrix_of_all_pairs(band, hours):
    torch.manual_seed(band)
    layer = BandedSelfAttention(12, 3, 2, band)
    torch.nn.init.normal_(layer.relative)
    latents = torch.randn(2, hours, 12)
    expected = torch.stack([plain_attention(layer, one) for one in latents])
    torch.testing.assert_close(layer.attend(latents), expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(layer.attend(latents), expected, rtol=1e-5, atol=1e-5)
    loss = layer.attend(latents).square().mean()
    (gradient,) = torch.autograd.grad(loss, layer.relative)
    (plainly,) = torch.autograd.grad(expected.square().mean(), layer.relative)
    torch.testing.assert_close(gradient, plainly, rtol=1e-4, atol=1e-6)


def test_heads_begin_with_the_biases_of_alibi():
    layer = BandedSelfAttention(16, 4, 2, 5)
    np.testing.assert_allclose(layer.relative.detach()[0], [0.0, -0.25, -0.5, -0.75, -1.0])
    np.testing.assert_allclose(layer.relative.detach()[3, 4], -4 / 256)


def test_properties_of_a_model_with_streams():
    model = banded()
    assert (model.context, model.emits, model.streams, model.sliding_window) == (REACH, 1, True, False)
    assert (model.training_length, model.supervised, model.training_stride) == (
        2 * model.config.context,
        2 * model.config.context,
        model.config.context,
    )
    window = make_model()
    assert (window.streams, window.training_length, window.supervised) == (False, 12, 12)
    assert EcoPerceiverConfig.published().reach == 32
    assert dataclasses.replace(EcoPerceiverConfig.published(), head="dense", attention="banded").reach == 373


@pytest.mark.parametrize("grad", [True, False])
def test_attention_in_double_precision_is_computed_in_it(grad):
    torch.manual_seed(0)
    layer = BandedSelfAttention(12, 3, 2, 7).double()
    latents = torch.randn(1, 40, 12, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(layer.attend(latents)[0], plain_attention(layer, latents[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change", [{"head": "last"}, {"causal": False, "head": "last"}, {"attention": "wide"}], ids=str
)
def test_settings_that_a_band_excludes(change):
    with pytest.raises(ConfigError, match=r"banded"):
        dataclasses.replace(BANDED, **change)


@pytest.mark.parametrize("changes", [{}, {"summary": 8}, {"share": False, "self_layers": 0, "blocks": 3}], ids=str)
def test_an_hour_depends_on_exactly_its_context(changes):
    model = banded(BARE, **changes)
    batch = make_batch(1, 90, BARE)
    met = batch.inputs.clone().nan_to_num(0.1).requires_grad_()
    at = 60
    model(batch._replace(inputs=met))[0, at, 0].backward()
    reached = met.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert reached.min() == at - model.context + 1 and reached.max() == at
    assert len(reached) == model.context


@pytest.mark.parametrize("sizes", [ALL, BARE], ids=["all inputs", "weather only"])
@pytest.mark.parametrize("cut", [(0, 70), (23, 80), (1, 47), (40, 59)], ids=str)
def test_every_cut_of_a_series_has_the_same_estimates(sizes, cut):
    model, series = banded(sizes), flatten(block(sizes, 90))
    whole = run(model, tensors(gather(series, np.array([0]), np.array([90]), 90, repeat_images=True)))[0]
    start, stop = cut
    part = gather(series, np.array([0]), np.array([stop]), stop - start, repeat_images=True)
    found = run(model, tensors(part))[0]
    context = 0 if start == 0 else model.context - 1
    limit = 4e-6 * whole.std(0).max()
    assert len(found) == stop - start > context
    assert (found[context:] - whole[start + context : stop]).abs().max() <= limit


@pytest.mark.parametrize("changes", [{}, {"summary": 8}, {"distribution": "gaussian"}, {"dropout": 0.0}], ids=str)
def test_gradients_reach_every_parameter(changes):
    model = banded(ALL, **changes).train()
    torch.nn.init.normal_(model.head.weight)
    out = model(tensors(gather(flatten(block(ALL, 40)), np.array([0]), np.array([40]), 40, repeat_images=True)))
    assert out.shape[:2] == (1, 40)
    (out - 1).square().sum().backward()
    without = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()}
    # The bias of keys has no effect on a softmax, and class 0 is not in the batch.
    assert not {name for name in without if not name.endswith("key.bias") and not name.startswith("classes")}


def by_hour(model, places):
    """Return estimates (n, t, targets): a pass for each hour, of its context or all hours before it."""
    series, hours = flatten(places), places.inputs.shape[1]
    out = np.full((len(places.inputs), hours, model.n_targets), np.nan, np.float32)
    for place in range(len(places.inputs)):
        for stop in range(1, hours + 1):
            length = min(stop, model.context)
            arrays = gather(series, np.array([place]), np.array([stop]), length, repeat_images=True)
            if places.observed[place, stop - 1]:
                out[place, stop - 1] = run(model, tensors(arrays))[0, -1]
    return out * np.float32(SPEC.target_scale) + np.float32(SPEC.target_mean)


def holed(hours, places=3):
    made = block(PLACED, hours, places)
    made.inputs[1, 60:64] = np.nan
    made.inputs[1, 90:130] = np.nan
    made.inputs[2, 100:] = np.nan
    return dataclasses.replace(made, observed=np.isfinite(made.inputs).any(-1))


@pytest.fixture(scope="module")
def hourly():
    """A model, places with gaps, and estimates by a pass for each hour."""
    model, places = banded(PLACED), holed(160)
    return model, places, by_hour(model, places)


@pytest.mark.parametrize("least", [None, 1, 5])
@pytest.mark.parametrize(("steps", "rounded"), [(2048, 32), (40, 1), (25, 7)])
def test_the_predictor_estimates_what_a_pass_for_each_hour_estimates(hourly, monkeypatch, least, steps, rounded):
    monkeypatch.setattr(passes, "_STREAM_STEPS", steps)
    monkeypatch.setattr(passes, "_STREAM_ROUND", rounded)
    model, places, expected = hourly
    found = Predictor(model, SPEC).predict_block(places, min_context=least)
    assert np.isnan(found[:, : (least or REACH) - 1]).all()
    found, expected = (values[:, (least or REACH) - 1 :] for values in (found, expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.nanstd(expected))


def test_what_is_kept_does_not_depend_on_the_hours_to_keep():
    model, places = banded(PLACED), holed(160)
    predictor = Predictor(model, SPEC)
    options = predictor.options(min_context=3)
    whole = predictor.predict(places, options)
    for keep in (slice(0, 5), slice(4, 50), slice(70, 160), slice(159, 160)):
        part = predictor.predict(places, options, keep)
        np.testing.assert_allclose(part, whole[:, keep], rtol=0, atol=1e-5 * np.nanstd(whole))


def test_the_stride_is_one():
    predictor = Predictor(banded(PLACED), SPEC)
    assert predictor.stride_or_default(None) == 1 and predictor.hours_before() == REACH - 1
    with pytest.raises(ConfigError, match="leave out stride"):
        predictor.options(stride=8)


def test_an_ensemble_passes_streams_to_its_members():
    members = [banded(PLACED, seed, distribution="gaussian") for seed in (0, 1)]
    places = holed(160)
    together, alone = Predictor(Ensemble(members), SPEC), [Predictor(m, SPEC) for m in members]
    found = together.predict_block(places)
    mean = np.mean([one.predict_block(places) for one in alone], 0)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-5 * np.nanstd(mean))
    assert together.predict_block(places, uncertainty="spread").shape[-1] == 4
    with pytest.raises(ConfigError, match="same inputs and context"):
        Ensemble([members[0], make_model(dataclasses.replace(TINY, context=REACH), PLACED)])


def test_the_latest_image_stands_at_the_same_hour_of_every_day():
    places = block(ALL, 100)
    places = dataclasses.replace(places, chips=places.chips[:, ::3], chip_hour=places.chip_hour[:, ::3])
    first = int(places.chip_hour[0, 0])
    arrays = gather(places, np.array([0]), np.array([100]), 90, repeat_images=True)
    step, images = arrays["image_step"][0], arrays["images"][0]
    noons = step[step >= 0] + 10
    expected = [hour for hour in range(10, 100) if hour % 24 == first % 24 and hour >= first]
    np.testing.assert_array_equal(noons, expected)
    latest = [np.flatnonzero(places.chip_hour[0] <= hour)[-1] for hour in noons]
    np.testing.assert_array_equal(images[step >= 0], places.chips[0, latest])
    assert np.isnan(images[step < 0]).all()


def test_a_place_without_images_beside_one_that_has_some():
    some, none = block(ALL, 60), block(ALL, 60, seed=1, chips=False)
    from fluxcube.samples.windows import join

    arrays = gather(join([some, none]), np.array([0, 1, 0]), np.array([60, 60, 30]), 30, repeat_images=True)
    assert (arrays["image_step"][1] == -1).all() and (arrays["image_step"][0] >= 0).any()
    alone = gather(some, np.array([0]), np.array([60]), 30, repeat_images=True)
    np.testing.assert_array_equal(arrays["image_step"][0], alone["image_step"][0])


def test_forward_compiles_without_a_break():
    layer = BandedSelfAttention(16, 2, 2, 7)
    latents = torch.randn(2, 40, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(latents), layer(latents))


def test_a_model_is_that_of_its_settings_and_weights():
    model = banded()
    other = EcoPerceiver(EcoPerceiverConfig.from_dict(dataclasses.asdict(model.config)), model.sizes)
    other.load_weights(model.weights())
    batch = make_batch(2, 40, ALL, 0)
    batch = batch._replace(classes=torch.zeros(2, 2, dtype=torch.int64))
    torch.testing.assert_close(run(other, batch), run(model, batch), rtol=0, atol=0)
    settings = dataclasses.asdict(TINY)
    del settings["attention"]
    assert EcoPerceiverConfig.from_dict(settings).attention == "window"
