"""EcoPerceiver: its size, its masks, causality, and that each setting does something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.models import ecoperceiver, tokens
from fluxcube.models.base import Batch, Model, Sizes
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig

torch.set_num_threads(1)  # tests run beside each other

SIZES = Sizes(inputs=6, bands=3, numbers=2, classes=(4,), targets=2, protected=(0, 1))
TINY = EcoPerceiverConfig(
    latent=16, frequencies=4, embedding=4, context=12, heads=2, blocks=2, self_layers=1, head="dense", dropout=0.3
)


def make_model(config=TINY, sizes=SIZES, seed=0):
    torch.manual_seed(seed)
    model = EcoPerceiver(config, sizes)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def make_batch(count=3, length=12, sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    met = rng.uniform(-0.5, 0.5, (count, length, sizes.inputs)).astype("float32")
    met[rng.random(met.shape) < 0.1] = np.nan
    met[..., 0] = 0.1
    step = np.tile([0, length // 2, -1], (count, 1)) if sizes.bands else np.empty((count, 0), np.int64)
    return Batch(
        inputs=torch.from_numpy(met),
        images=torch.from_numpy(rng.random((count, step.shape[1], sizes.bands, 64), dtype="float32")),
        image_step=torch.from_numpy(step),
        numbers=torch.from_numpy(rng.uniform(-0.5, 0.5, (count, sizes.numbers)).astype("float32")),
        classes=torch.from_numpy(rng.integers(0, 4, (count, len(sizes.classes)))),
    )


def run(model, batch):
    with torch.no_grad():
        return model(batch)


def test_published_preset_has_the_published_size():
    config = EcoPerceiverConfig.published()
    model = EcoPerceiver(config, Sizes(inputs=21, bands=9, targets=1, protected=(0, 1)))
    assert sum(p.numel() for p in model.parameters()) == 988_633
    assert (config.latent, config.frequencies, config.context, config.heads) == (128, 12, 32, 8)
    assert (config.blocks, config.self_layers, config.dropout, config.dropout_unit) == (8, 4, 0.3, "token")


def test_small_preset_is_small():
    sizes = Sizes(inputs=40, bands=9, numbers=2, classes=(16,), targets=5)
    model = EcoPerceiver(EcoPerceiverConfig.small(), sizes)
    assert sum(p.numel() for p in model.parameters()) <= 200_000
    assert isinstance(model, Model)
    assert model.streams and model.context == 46 and model.emits == 1


@pytest.mark.parametrize(
    "change",
    [
        {"latent": 32},
        {"frequencies": 5},
        {"static_frequencies": 1},
        {"embedding": 6},
        {"context": 14},
        {"heads": 4},
        {"mlp_ratio": 2},
        {"blocks": 3},
        {"self_layers": 2},
        {"share": False},
        {"head": "last"},
        {"dropout": 0.0},
        {"dropout_unit": "variable"},
        {"distribution": "gaussian"},
        {"summary": 8},
        {"attention": "banded"},
    ],
    ids=str,
)
def test_every_setting_changes_something(change):
    changed = dataclasses.replace(TINY, **change)
    outputs = []
    for config in (TINY, changed):
        model, batch = make_model(config), make_batch()
        if "dropout" in next(iter(change)):
            batch = model.drop(batch, DropoutKey(seed=5, epoch=0, step=0), torch.arange(3))
        outputs.append(run(model, batch))
    assert outputs[0].shape != outputs[1].shape or not torch.allclose(*outputs)


def test_every_field_is_covered_by_the_test_above():
    marks = test_every_setting_changes_something.pytestmark
    covered = {next(iter(c)) for c in marks[0].args[1]} | {"causal", "inputs"}  # which have tests of their own
    assert covered == {f.name for f in dataclasses.fields(EcoPerceiverConfig)}


def test_without_causality_an_earlier_hour_sees_a_later_one():
    """The last hour sees all before it either way; what it hears from the first differs with what that one sees."""
    config = dataclasses.replace(TINY, head="last", self_layers=2)
    causal, free = make_model(config), make_model(dataclasses.replace(config, causal=False))
    assert causal.weights() == free.weights()
    assert not torch.allclose(run(causal, make_batch()), run(free, make_batch()))
    with pytest.raises(ConfigError, match="causal"):
        dataclasses.replace(TINY, causal=False)


GAUSSIAN = dataclasses.replace(TINY, distribution="gaussian")


def test_a_gaussian_head_begins_with_the_training_spread_and_leaves_the_mean_alone():
    plain, gaussian = make_model(), make_model(GAUSSIAN)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            gaussian.get_parameter(name).copy_(parameter)
    batch = make_batch().map(lambda a: a.numpy())
    both = gaussian.predict_all(batch)
    assert gaussian.quantities == ("mean", "std") and plain.quantities == ("mean",)
    np.testing.assert_array_equal(both[..., :2], plain.predict(batch))
    np.testing.assert_array_equal(gaussian.predict(batch), plain.predict(batch))
    np.testing.assert_array_equal(both[..., 2:], 1.0)


def test_the_variance_stays_within_bounds_and_comes_back():
    x = torch.tensor([-1e9, -20.0, 0.0, 20.0, 1e9], requires_grad=True)
    y = ecoperceiver.bounded_log_variance(x)
    assert (y.abs() <= 8).all() and y[2] == 0
    y.sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad[1] > 0 and x.grad[3] > 0 and x.grad[2] == 1


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("distribution", ["none", "gaussian"])
@pytest.mark.parametrize("head", ["last", "dense"])
def test_a_sample_without_any_predictor_gives_a_finite_number(head, distribution, half):
    for sizes in (SIZES, Sizes(inputs=6, targets=2)):
        model = make_model(dataclasses.replace(TINY, head=head, distribution=distribution), sizes).train()
        batch = make_batch(3, sizes=sizes)
        if not sizes.classes:
            batch = batch._replace(classes=torch.empty(3, 0, dtype=torch.int64))
        batch.inputs[1] = torch.nan
        batch = batch._replace(
            images=batch.images.index_fill(0, torch.tensor([1]), torch.nan),
            numbers=batch.numbers.index_fill(0, torch.tensor([1]), torch.nan),
            classes=batch.classes.index_fill(0, torch.tensor([1]), -1),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(batch)
        assert torch.isfinite(out).all()
        out.float().square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_every_weight_is_used():
    model = make_model()
    model(make_batch()).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("key.bias"):  # adds the same to all scores of an hour
            continue
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_future_cannot_change_the_past():
    model, batch = make_model(), make_batch()
    later = batch._replace(inputs=batch.inputs.clone(), images=batch.images.clone())
    later.inputs[:, 8:] = torch.rand(3, 4, 6) - 0.5
    later.images[:, 1] = 0.0  # stands at step 6
    before, after = run(model, batch), run(model, later)
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, 6], after[:, 6])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_the_placeholder_of_a_masked_input_cannot_change_the_output(monkeypatch):
    model, batch = make_model(), make_batch()
    batch.images[0, 0, 1] = np.nan
    batch.images[1, 1, 2, :5] = np.nan
    batch.numbers[1, 0] = np.nan
    batch.classes[2, 0] = -1
    first = run(model, batch)
    monkeypatch.setattr(tokens, "_PLACEHOLDER", 0.37)
    batch.images[:, 2] = 99.0  # no step: not there
    assert torch.equal(run(model, batch), first)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", ["inputs", "images", "numbers", "classes"])
def test_an_observed_input_changes_the_output_and_a_missing_one_is_not_zero(name):
    model, batch = make_model(), make_batch()
    changed = batch._replace(**{name: getattr(batch, name).clone()})
    masked = batch._replace(**{name: getattr(batch, name).clone()})
    at = {"inputs": (0, 3, 2), "images": (0, 0, 1), "numbers": (0, 0), "classes": (0, 0)}[name]
    getattr(changed, name)[at] = (getattr(batch, name)[at] + 1) % 4 if name == "classes" else 0.0
    getattr(masked, name)[at] = -1 if name == "classes" else torch.nan
    outputs = [run(model, b)[0] for b in (batch, changed, masked)]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])


def test_an_hour_without_tokens_passes_its_latent_through():
    sizes = Sizes(inputs=3)
    model = make_model(sizes=sizes)
    batch = make_batch(2, sizes=sizes)._replace(numbers=torch.empty(2, 0), classes=torch.empty(2, 0, dtype=torch.int64))
    batch.inputs[0, 5] = torch.nan
    tokens = model.tokens(batch)
    layer, latents = model.cross[0], torch.randn(2, 12, 16)
    layer.out.bias.data.normal_()
    out = layer(latents, tokens)
    torch.testing.assert_close(out[0, 5], latents[0, 5], rtol=0, atol=0)
    assert not torch.allclose(out[0, 4], latents[0, 4] + layer.mlp(layer.mlp_norm(latents[0, 4])))
    batch.inputs[1] = torch.nan
    model(batch).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_order_of_variables_and_bands_does_not_matter():
    model, batch = make_model(), make_batch()
    turned, bands = make_model(), torch.tensor([2, 0, 1])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        turned.variables[:6] = model.variables[:6][order]
        turned.bands.copy_(model.bands[bands])
        turned.band_weight.copy_(model.band_weight[bands])
        turned.band_bias.copy_(model.band_bias[bands])
    moved = batch._replace(inputs=batch.inputs[..., order], images=batch.images[:, :, bands])
    torch.testing.assert_close(run(turned, moved), run(model, batch), atol=1e-5, rtol=1e-5)


def test_a_window_does_not_depend_on_its_batch():
    model, batch = make_model(), make_batch(5)
    together = run(model, batch)
    for i in range(5):
        alone = run(model, batch.take(slice(i, i + 1)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("count", "length"), [(1, 12), (2, 1), (1, 1), (2, 5)])
def test_single_windows_single_hours_and_short_windows(count, length):
    batch = make_batch(count, length)
    out = run(make_model(), batch)
    assert out.shape == (count, length, 2)
    assert torch.isfinite(out).all()


def test_a_short_window_is_refused_only_when_too_long():
    with pytest.raises(ConfigError, match="12 hours"):
        run(make_model(), make_batch(1, 13))


def test_last_head_emits_the_last_hour():
    last = make_model(dataclasses.replace(TINY, head="last"))
    dense = make_model()
    batch = make_batch()
    torch.testing.assert_close(run(last, batch), run(dense, batch)[:, -1:])
    out = last.predict(batch.map(lambda a: a.numpy()))
    assert out.shape == (3, 12, 2)
    assert np.isnan(out[:, :-1]).all() and np.isfinite(out[:, -1]).all()


def test_one_batch_can_be_learned():
    model = EcoPerceiver(dataclasses.replace(TINY, latent=32, dropout=0.0), SIZES)
    batch, wanted = make_batch(4), torch.randn(4, 12, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (model(batch) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_same_seed_same_weights():
    one, two, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    assert one.weights() == two.weights()
    assert one.weights() != other.weights()


def test_bad_configs_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'latent'"):
        EcoPerceiverConfig.from_dict({"latents": 3})
    for bad in ({"heads": 3}, {"dropout": 1.0}, {"dropout_unit": "hour"}, {"head": "first"}, {"blocks": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            EcoPerceiverConfig(**bad)
    with pytest.raises(ConfigError, match="protected"):
        Sizes(inputs=2, protected=(2,))


def test_a_model_without_chips_or_static_inputs():
    sizes = Sizes(inputs=6)
    batch = make_batch(2, sizes=sizes)._replace(classes=torch.empty(2, 0, dtype=torch.int64))
    assert run(make_model(sizes=sizes), batch).shape == (2, 12, 1)
    with_chips = make_batch(2)._replace(numbers=batch.numbers, classes=batch.classes)
    model = make_model(sizes=sizes)  # a batch may hold chips that the model has no bands for
    torch.testing.assert_close(run(model, with_chips._replace(inputs=batch.inputs)), run(model, batch))


def test_without_frequencies_a_value_stands_for_itself():
    """K = 0 is the paper's model without Fourier features: tokens are the value and its variable's embedding."""
    config = dataclasses.replace(TINY, frequencies=0)
    model, batch = make_model(config), make_batch()
    assert config.coding == 1 and model.met_norm.normalized_shape == (1 + config.embedding,)
    expected = torch.where(torch.isfinite(batch.inputs), batch.inputs, 0.0)
    (encoded,) = model._encoded(expected)
    torch.testing.assert_close(encoded[..., 0], expected)
    before = run(model, batch)
    assert torch.isfinite(before).all()
    moved = batch._replace(inputs=batch.inputs + 0.01)
    assert (run(model, moved) != before).any()
    assert EcoPerceiverConfig.published().coding == 24
    with pytest.raises(ConfigError, match="frequencies"):
        EcoPerceiverConfig(frequencies=-1)
