"""The models of days: what modulation is, what support does, and what no output may depend on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.models import registry
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ensemble import Ensemble
from fluxcube.models.tamrl import TAMLSTM, TAMRL, TAMLSTMConfig, TAMRLConfig

torch.set_num_threads(1)  # tests run beside each other

SIZES = Sizes(inputs=4, numbers=1, classes=(3, 2), targets=2, cyclic=(0,), protected=(0,))
CONFIG = TAMRLConfig(hidden=8, embedding=6, code=3, encoder=5, generator=7, support=4, context=12, dropout=0.0)
DAYS = 12


def build(kind="tam-rl", config=CONFIG, seed=0, *, modulated=True):
    """A model with random weights, those of the generator included, which begins with none."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = registry.build(kind, config, SIZES)
        torch.nn.init.normal_(model.head.weight, std=0.5)
        if kind == "tam-rl" and modulated:
            torch.nn.init.normal_(model.generator[-1].weight, std=0.5)
            torch.nn.init.normal_(model.generator[-1].bias, std=0.5)
    return model.eval()


def windows(count=6, seed=1, code=0):
    rng = np.random.default_rng(seed)
    met = rng.uniform(-1, 1, (count, DAYS, 4)).astype("float32")
    met[rng.random(met.shape) < 0.05] = np.nan
    numbers = rng.uniform(-0.5, 0.5, (count, 1 + code)).astype("float32")
    classes = np.stack([rng.integers(-1, 3, count), rng.integers(-1, 2, count)], 1)
    none = np.empty((count, 0, 0, 64), np.float32)
    return Batch(inputs=met, images=none, image_step=np.empty((count, 0), np.int64), numbers=numbers, classes=classes)


def support(count, seed=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, CONFIG.support, DAYS, 4)).astype("float32")


def coded(batch, codes):
    return batch._replace(numbers=np.concatenate([batch.numbers[:, :1], codes], 1))


def last(model, batch):
    given = model.predict(batch)
    assert np.isnan(given[:, :-1]).all() and np.isfinite(given[:, -1]).all()
    return given[:, -1]


def forward_model(tam):
    """The forward model of a TAM-RL, on its own."""
    config = TAMLSTMConfig(**{f.name: getattr(tam.config, f.name) for f in dataclasses.fields(TAMLSTMConfig)})
    alone = TAMLSTM(config, SIZES)
    alone.load_state_dict({k: v for k, v in tam.state_dict().items() if k in alone.state_dict()})
    return alone.eval()


@pytest.mark.parametrize("skip", [False, True])
def test_with_gamma_one_and_beta_zero_it_is_its_forward_model(skip):
    config = dataclasses.replace(CONFIG, skip=skip)
    tam = build(config=config, modulated=False)
    batch = coded(windows(), tam.encode(support(6)))
    film = tam.film(torch.from_numpy(tam.encode(support(6))))
    assert (film.gamma1 == 1).all() and (film.gamma2 == 1).all()
    assert (film.beta1 == 0).all() and (film.beta2 == 0).all()
    np.testing.assert_array_equal(last(tam, batch), last(forward_model(tam), windows()))
    modulated = build(config=config)
    assert np.abs(last(modulated, batch) - last(forward_model(modulated), windows())).max() > 0.01


def test_modulation_is_what_it_says():
    """By hand: x' = gamma1 x + beta1 before the LSTM, h' = gamma2 h + beta2 after it."""
    tam, codes = build(), torch.randn(6, 3)
    film = tam.film(codes)
    batch = coded(windows(), codes.numpy()).map(torch.from_numpy)
    with torch.no_grad():
        x = tam.embed_input(tam.features(batch))
        hidden, _ = tam.lstm(film.gamma1 * x + film.beta1)
        by_hand = tam.head(film.gamma2[:, 0] * hidden[:, -1] + film.beta2[:, 0])
    np.testing.assert_allclose(last(tam, batch.map(lambda a: a.numpy())), by_hand.numpy(), atol=1e-6)
    raw = build(config=dataclasses.replace(CONFIG, embedding=0))
    assert raw.film(codes).gamma1.shape[-1] == raw.lstm.input_size == 5 + 1 + 5


@pytest.mark.parametrize("kind", ["lstm", "ct-lstm", "tam-lstm", "tam-rl"])
def test_beside_the_hidden_state_stands_the_day_itself(kind):
    """With an LSTM that says nothing, a model is of the last day alone, and without this of no day."""
    for skip in (False, True):
        config = registry.config_class(kind).from_dict({"hidden": 8, "context": 12, "skip": skip})
        model = build(kind, config, modulated=False)
        for weights in model.lstm.parameters():
            torch.nn.init.zeros_(weights)
        batch = windows(code=model.embedding_size)
        past, day = batch.inputs.copy(), batch.inputs.copy()
        past[:, :-1] *= -1
        day[:, -1] *= -1
        given = last(model, batch)
        np.testing.assert_array_equal(last(model, batch._replace(inputs=past)), given)
        assert np.array_equal(last(model, batch._replace(inputs=day)), given) != skip


def test_support_changes_the_prediction_and_its_order_does_not():
    tam, batch = build(), windows()
    one, other = (last(tam, coded(batch, tam.encode(support(6, seed)))) for seed in (2, 3))
    assert np.abs(one - other).max() > 1e-3
    turned = tam.encode(support(6)[:, ::-1])
    np.testing.assert_allclose(turned, tam.encode(support(6)), atol=1e-6)
    whole = tam.encode(support(6))
    parts = np.mean([tam.encode(support(6)[:, [k]]) for k in range(CONFIG.support)], 0)
    np.testing.assert_allclose(whole, parts, atol=1e-6, err_msg="the embedding is the mean over the windows")


def test_support_in_training_is_the_embedding_of_inference():
    tam, given, group = build(), support(3), np.array([0, 2, 2, 1, 0, 1])
    batch = windows().map(torch.from_numpy)
    with torch.no_grad():
        out = tam(batch, torch.from_numpy(given), torch.from_numpy(group))[:, -1].numpy()
    np.testing.assert_allclose(out, last(tam, coded(windows(), tam.encode(given)[group])), atol=1e-6)


@pytest.mark.parametrize("kind", ["tam-rl", "tam-lstm", "ct-lstm", "lstm"])
def test_what_else_is_in_the_batch_does_not_matter(kind):
    model = build(kind, CONFIG if kind == "tam-rl" else {"hidden": 8, "context": DAYS})
    batch = windows(9)
    if kind == "tam-rl":
        codes = model.encode(support(9))
        alone = np.concatenate([model.encode(support(9)[[i]]) for i in range(9)])
        np.testing.assert_allclose(alone, codes, atol=1e-6)
        batch = coded(batch, codes)
    together = last(model, batch)
    for rows in ([4], [7, 0], [3, 3, 1]):
        np.testing.assert_allclose(last(model, batch.take(rows)), together[rows], atol=1e-6)
    assert np.array_equal(last(model, batch), together), "twice the same"


def test_a_missing_driver_is_its_training_mean_and_the_year_has_no_edge():
    model, batch = build("ct-lstm", {"hidden": 8, "context": DAYS}), windows()
    filled = batch.inputs.copy()
    filled[np.isnan(filled)] = 0.0
    np.testing.assert_array_equal(last(model, batch), last(model, batch._replace(inputs=filled)))
    ends = []
    for value in (-1.0, 1.0, 0.5):
        met = filled.copy()
        met[..., 0] = value
        ends.append(last(model, batch._replace(inputs=met)))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6, err_msg="the last day of a year is next to its first")
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "config", "sees"),
    [("lstm", {}, False), ("ct-lstm", {}, True), ("tam-lstm", {}, True), ("tam-lstm", {"static": False}, False)],
)
def test_who_sees_what_the_place_is(kind, config, sees):
    model, batch = build(kind, {"hidden": 8, "context": DAYS, **config}), windows()
    for other in (batch._replace(classes=(batch.classes + 1) % 2), batch._replace(numbers=batch.numbers + 0.3)):
        assert (np.abs(last(model, other) - last(model, batch)).max() > 1e-4) == sees
    unknown = batch._replace(classes=np.full_like(batch.classes, -1), numbers=np.full_like(batch.numbers, np.nan))
    assert np.isfinite(last(model, unknown)).all()


def test_embeddings_must_come_along():
    with pytest.raises(ConfigError, match=r"an embedding of 3 numbers after its 1 static.*found 0"):
        build().predict(windows())
    plain = build(config=dataclasses.replace(CONFIG, modulate=False))
    np.testing.assert_array_equal(last(plain, windows()), last(forward_model(plain), windows()))


def test_an_ensemble_gives_each_member_its_own_embedding():
    members = [build(seed=seed) for seed in (0, 1, 2)]
    both, batch = Ensemble(members), windows()
    codes = both.encode(support(6))
    assert both.embedding_size == 9 == codes.shape[1] and both.support_windows == CONFIG.support
    alone = [last(m, coded(batch, m.encode(support(6)))) for m in members]
    np.testing.assert_allclose(last(both, coded(batch, codes)), np.mean(alone, 0), atol=1e-6)
    spread = both.predict_all(coded(batch, codes))[:, -1, 4:]
    np.testing.assert_allclose(spread, np.std(alone, 0, ddof=1), atol=1e-5)


def test_weights_come_back():
    tam, other = build(seed=0), build(seed=1)
    batch = coded(windows(), tam.encode(support(6)))
    assert np.abs(last(tam, batch) - last(other, batch)).max() > 1e-3
    other.load_weights(tam.weights())
    np.testing.assert_array_equal(last(tam, batch), last(other, batch))
    with pytest.raises(ValueError, match=r"do not fit the settings: code"):
        build(config=dataclasses.replace(CONFIG, code=4)).load_weights(tam.weights())
    with pytest.raises(ValueError, match="cannot be read"):
        tam.load_weights({"model.safetensors": b"nothing"})


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 9},
        {"layers": 2},
        {"embedding": 5},
        {"code": 2},
        {"encoder": 4},
        {"generator": 6},
        {"static": False},
        {"skip": True},
    ],
    ids=str,
)
def test_every_size_changes_the_weights(change):
    def count(config):
        return sum(p.numel() for p in TAMRL(config, SIZES).parameters())

    assert count(dataclasses.replace(CONFIG, **change)) != count(CONFIG)


def test_training_gives_the_supervised_days_and_drops():
    config = dataclasses.replace(CONFIG, supervised=5, dropout=0.5)
    tam = build(config=config).train()
    batch = windows(code=3).map(torch.from_numpy)
    one, two = tam(batch), tam(batch)
    assert one.shape == (6, 5, 2) and not torch.equal(one, two)
    tam.eval()
    assert tam(batch).shape == (6, 1, 2) and torch.equal(tam(batch), tam(batch))
    assert (tam.emits, tam.supervised, tam.context, tam.training_stride) == (1, 5, 12, 15)


def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    tam = build(modulated=False).train()
    batch, given = windows(8).map(torch.from_numpy), torch.from_numpy(support(8))
    wanted = torch.randn(8, 1, 2)
    optimizer = torch.optim.Adam(tam.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (tam(batch, given) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * wanted.square().mean()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tam.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 0},
        {"dropout": 1.0},
        {"supervised": 46},
        {"embedding": -1},
        {"code": 0},
        {"queries": 0},
        {"context": "9"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TAMRLConfig(**wrong)
    with pytest.raises(UnknownNameError, match="hidden"):
        TAMRLConfig.from_dict({"hiden": 3})
