"""Steps: the plain loop to the bit, accumulation, averaged weights, early stopping, and what is not finite."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from training_helpers import FAST, TARGETS, TINY, eco, small_cube, weights, without_time

from fluxcube.errors import ConfigError, TrainingError
from fluxcube.models import registry
from fluxcube.models.base import Batch
from fluxcube.models.dropout import DropoutKey
from fluxcube.resolution import HOURLY
from fluxcube.samples.loader import Windows
from fluxcube.samples.splits import per_igbp
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.training import state
from fluxcube.training.job import Job
from fluxcube.training.loop import _Run
from fluxcube.training.pace import rate
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan
from fluxcube.training.resident import on_device
from fluxcube.training.validation import stalled

torch.set_num_threads(1)  # tests run beside each other

CPU = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def towers(cube):
    split = per_igbp(cube, seed=4)
    return load_towers(cube, split.train, cube_spec(cube, split.train, targets=TARGETS), HOURLY.limit(1)).scaled()


def sizes(towers, split=None):
    return Plan(None, "ecoperceiver", towers.spec, split, TINY, FAST, HOURLY.limit(1)).sizes()


def job(model, windows, config, *, seed=0, state=None):
    return Job(model=model, windows=windows, config=config, world=CPU, request={"seed": seed}, state=state)


def make_step(run, batch):
    """Make a step of a batch of arrays, and read its sums."""
    run._step(on_device(batch, CPU.device))
    run._read()


def plain_loop(towers, config, training, seed):
    """Gradient descent as one would write it down, without any option."""
    torch.manual_seed(seed)
    model = registry.build("ecoperceiver", config, sizes(towers))
    windows = Windows(
        towers,
        length=model.context,
        emits=model.emits,
        stride=model.context // 2,
        batch_size=training.batch_size,
        partial=True,
        seed=seed,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.lr, betas=training.betas, weight_decay=training.weight_decay, fused=True
    )
    model.train()
    for epoch in range(training.epochs):
        windows.set_epoch(epoch)
        steps = len(windows)
        for step, batch in enumerate(windows):
            for group in optimizer.param_groups:
                group["lr"] = training.lr * rate(epoch + step / steps, training.epochs, training.warmup_epochs)
            wanted = torch.from_numpy(batch["targets"])
            seen = torch.isfinite(wanted)
            features = Batch.of({name: torch.from_numpy(part) for name, part in batch.items()})
            features = model.drop(features, DropoutKey(seed, epoch, step), torch.arange(len(wanted)))
            out = model(features)
            error = torch.where(seen, out - torch.where(seen, wanted, 0.0), 0.0).square().sum()
            optimizer.zero_grad(set_to_none=True)
            (error / seen.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
            optimizer.step()
    return model


@pytest.mark.parametrize("changes", [{}, {"dropout_unit": "variable"}], ids=str)
def test_without_options_it_is_the_plain_loop_to_the_bit(cube, towers, tmp_path, changes):
    config = dataclasses.replace(TINY, **changes)
    run = eco(cube, tmp_path / "run", config=config, training=dataclasses.replace(FAST, keep="last"))
    with torch.random.fork_rng():
        plain = plain_loop(towers, config, FAST, 4)
    assert weights(run.path) == plain.weights()["model.safetensors"]


def one_step(towers, config, training, *, seed=0, batch=64, drop=()):
    """Gradients of one step over the first windows of an epoch."""
    torch.manual_seed(seed)
    model = registry.build("ecoperceiver", config, sizes(towers))
    torch.nn.init.normal_(model.head.weight)  # else no other weight has a gradient yet
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=batch, partial=True, seed=seed)
    first = windows[0]
    for i in drop:
        first["targets"][i] = np.nan
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    run = _Run(job(model.train(), windows, training, seed=seed), optimizer)
    make_step(run, first)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("distribution", ["none", "gaussian"])
@pytest.mark.parametrize("unit", ["token", "variable"])
def test_passes_add_up_to_the_gradient_of_one_large_batch(towers, unit, distribution):
    """With dropout, with windows of unequal numbers of fluxes, and a last pass that is smaller."""
    config = dataclasses.replace(TINY, dropout_unit=unit, distribution=distribution)
    training = dataclasses.replace(FAST, effective_batch=64, batch_size=64, grad_clip=0.0, mse_epochs=0)
    options = {"drop": range(0, 20)}
    whole = one_step(towers, config, training, **options)
    assert sum(g.abs().sum() for g in whole.values()) > 0
    for size in (24, 16, 1):
        parts = one_step(towers, config, dataclasses.replace(training, batch_size=size), **options)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_size_of_a_pass_does_not_change_a_run(cube, tmp_path):
    training = dataclasses.replace(FAST, effective_batch=32, batch_size=32, windows_per_epoch=90)
    whole = eco(cube, tmp_path / "whole", training=training)
    parts = eco(cube, tmp_path / "parts", training=dataclasses.replace(training, batch_size=12))
    assert_close(whole.path, parts.path)
    other = eco(cube, tmp_path / "other", training=dataclasses.replace(training, effective_batch=64))
    with pytest.raises(AssertionError):
        assert_close(whole.path, other.path)


def assert_close(a, b, tolerance=2e-4):
    one, two = (safetensors.torch.load(weights(folder)) for folder in (a, b))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=tolerance, atol=tolerance, msg=name)


def test_averaged_weights_are_the_running_mean(towers):
    torch.manual_seed(0)
    model = registry.build("ecoperceiver", TINY, sizes(towers))
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=16, partial=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = dataclasses.replace(FAST, ema=0.5)
    run = _Run(job(model.train(), windows, training), optimizer)
    mean = copy.deepcopy(model.state_dict())
    for n in range(1, 8):
        make_step(run, windows[n])
        decay = min(0.5, (1 + n) / (10 + n))
        mean = {name: decay * mean[name] + (1 - decay) * value for name, value in model.state_dict().items()}
    own = copy.deepcopy(model.state_dict())
    with run._averaged():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, mean[name], msg=name)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert not torch.equal(own["head.weight"], mean["head.weight"])


def test_patience_ends_a_run_and_keeps_its_best(cube, tmp_path):
    training = dataclasses.replace(FAST, epochs=12, lr=0.05, warmup_epochs=0.1, patience=1)
    run = eco(cube, tmp_path / "run", training=training)
    scores = [np.mean([row[f"val_nse_{name}"] for name in TARGETS]) for row in run.history]
    assert len(scores) < 12 and int(np.argmax(scores)) == len(scores) - 2
    for done in range(1, len(scores)):
        assert not stalled(run.history[:done], 1)
    whole = eco(cube, tmp_path / "whole", training=dataclasses.replace(training, patience=None))
    assert without_time(whole.history[: len(scores)]) == without_time(run.history)


def test_patience_needs_towers_to_validate_on(cube, tmp_path):
    split = dataclasses.replace(per_igbp(cube, seed=4), val=(), counts={})
    with pytest.raises(ValueError, match="no validation sites, which patience needs"):
        eco(cube, tmp_path / "run", split=split, training=dataclasses.replace(FAST, keep="last", patience=3))


def test_a_run_whose_loss_is_not_finite_is_named_and_its_state_is_kept(cube, tmp_path):
    split = per_igbp(cube, seed=4)
    training = dataclasses.replace(FAST, checkpoint_seconds=0.0, lr=1e30)
    with pytest.raises(TrainingError, match=r"loss of epoch 1, step \d+ .* windows of XX-.* state stays in") as caught:
        eco(cube, tmp_path / "run", split=split, training=training)
    assert not set(split.val + split.test) & set(str(caught.value).replace(",", "").split())
    kept = safetensors.torch.load((tmp_path / "run" / "state.safetensors").read_bytes())
    assert all(torch.isfinite(value).all() for value in kept.values() if value.is_floating_point())


def test_what_is_not_finite_changes_no_weight(towers, tmp_path):
    torch.manual_seed(0)
    model = registry.build("ecoperceiver", TINY, sizes(towers))
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=16, partial=True)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    state = tmp_path / "state.safetensors"
    run = _Run(job(model.train(), windows, FAST, state=state), optimizer)
    make_step(run, windows[0])
    run.save()
    kept, before = state.read_bytes(), copy.deepcopy(model.state_dict())
    bad = windows[1]
    bad["targets"][3, 5] = 1e30
    site = towers.sites[bad["site"][3]]
    with pytest.raises(TrainingError, match=rf"the loss of epoch 1, step 1 .* windows of {site} .*last saved state"):
        make_step(run, bad)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.head.weight.fill_(3e38)  # finite itself
    with pytest.raises(TrainingError, match="is not a finite number"):
        make_step(run, windows[2])
    assert state.read_bytes() == kept


def test_a_gradient_that_is_not_finite_is_named(towers):
    torch.manual_seed(0)
    model = registry.build("ecoperceiver", TINY, sizes(towers))
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=16, partial=True)
    run = _Run(job(model, windows, FAST), torch.optim.SGD(model.parameters(), 0.1))
    model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match="the gradient of epoch 1, step 1"):
        make_step(run, windows[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_progress_tells_loss_score_speed_and_the_time_left(cube, tmp_path):
    texts = []
    eco(cube, tmp_path / "run", progress=lambda done, total, text: text.startswith("epoch") and texts.append(text))
    assert "NSE" not in texts[0] and "NSE 0." in texts[-1]
    assert all("loss" in text and "windows/s" in text and text.endswith("left") for text in texts)
    assert ", 0 s left" in texts[-1]


@pytest.mark.parametrize(
    "bad",
    [
        {"ema": 1.0},
        {"ema": -0.1},
        {"patience": 0},
        {"effective_batch": 8, "batch_size": 16},
        {"nll_beta": 2.0},
        {"mse_epochs": -1},
        {"precision": "float16"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        dataclasses.replace(FAST, **bad)


def test_a_gpu_that_is_not_there_is_named(cube, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="device is 'cuda', but"):
        eco(cube, tmp_path / "run", training=dataclasses.replace(FAST, device="cuda"))


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_optimizer_resumes_with_its_number_of_steps_on_the_device(fused):
    """Its kernel reads them there: on a card, an address of the host would end the process."""
    model = torch.nn.Linear(2, 2)
    names = ("exp_avg", "exp_avg_sq", "step")
    parts = {key: {"weight": torch.ones(() if key == "step" else (2, 2))} for key in names}
    (moments,) = state._moments(parts, model.to("meta"), on_device=fused).values()
    expected = {"exp_avg": "meta", "exp_avg_sq": "meta", "step": "meta" if fused else "cpu"}
    assert {key: value.device.type for key, value in moments.items()} == expected
