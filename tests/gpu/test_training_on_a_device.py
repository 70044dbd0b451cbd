"""Training on a device: the batches, masks and steps are those of the CPU, and a step waits for nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from training_helpers import FAST, TARGETS, TINY, small_cube

from fluxcube.errors import TrainingError
from fluxcube.models import registry
from fluxcube.models.dropout import DropoutKey
from fluxcube.resolution import HOURLY
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.training.job import Job
from fluxcube.training.loop import _Run
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan
from fluxcube.training.resident import ResidentWindows, on_device

torch.set_num_threads(1)  # tests run beside each other

SINGLE = dataclasses.replace(FAST, precision="float32")


@pytest.fixture(scope="module")
def towers():
    cube = small_cube()
    spec = cube_spec(cube, targets=TARGETS)
    return load_towers(cube, [str(s) for s in cube.site.values[:3]], spec, HOURLY.limit(1)).scaled()


def make_run(towers, device, **changes):
    torch.manual_seed(0)
    plan = Plan(None, "ecoperceiver", towers.spec, None, TINY, FAST, HOURLY.limit(1))
    model = registry.build("ecoperceiver", TINY, plan.sizes()).to(device)
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=8, partial=True)
    config = dataclasses.replace(SINGLE, **changes)
    job = Job(model=model, windows=windows, config=config, world=World(torch.device(device)), request={"seed": 0})
    return _Run(job, torch.optim.AdamW(model.parameters(), 1e-3, fused=True))


def test_batches_are_those_of_the_host(towers, device):
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=16, partial=True)
    own = ResidentWindows(windows, torch.device(device)).epoch(0)
    for found, expected in zip(own, list(windows), strict=True):
        assert all(value.device.type == device for value in found.values())
        for name, value in found.items():
            torch.testing.assert_close(
                value.cpu(), torch.from_numpy(expected[name]), rtol=0, atol=0, equal_nan=True, msg=name
            )


def test_masks_are_those_of_the_cpu(device):
    key, rows = DropoutKey(seed=1, epoch=2, step=3), torch.arange(100)
    expected = key.dropped(rows, (24, 6), 0.3, part=0)
    assert torch.equal(key.dropped(rows.to(device), (24, 6), 0.3, part=0).cpu(), expected)


def test_an_epoch_is_that_of_the_cpu(towers, device):
    """In float32, with dropout, and averaged weights: the same losses and weights, except for rounding."""
    run, plain = make_run(towers, device, ema=0.9), make_run(towers, "cpu", ema=0.9)
    assert (run.resident is not None) == (device == "cuda")
    run.epoch()
    plain.epoch()
    assert run.counters.hours == plain.counters.hours
    assert run.counters.loss == pytest.approx(plain.counters.loss, rel=1e-3)
    for name, value in plain.average.items():
        torch.testing.assert_close(run.average[name].cpu(), value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_step_that_is_not_finite_is_skipped_and_named(towers, device):
    run = make_run(towers, device)
    run.read_together, run.model = 32, run.model.train()
    before = {}
    for step in range(4):
        batch = on_device(run.windows[step], torch.device(device))
        if step == 1:
            batch["targets"][2, 4] = 1e30
            before = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.counters.step = step
        run._step(batch)
    with pytest.raises(TrainingError, match=r"the loss of epoch 1, step 2 .* windows of XX-"):
        run._read()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_waits_for_nothing(towers, device):
    run = make_run(towers, device)
    run.read_together, run.model = 100, run.model.train()
    own = ResidentWindows(run.windows, torch.device(device)).epoch(0)
    run._step(next(own))
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        run._step(next(own))
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert not run.counters.windows, "sums of steps are read together, later"
    run._read()
    assert run.counters.windows > 0 and 0 < run.counters.loss < float("inf")
