"""Training data on a device: batches equal those of the windows; steps are read later; a bad step changes nothing."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from daily_cubes import DRIVERS, daily_cube
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import FAST, TARGETS, TINY, eco, small_cube, weights

from fluxcube.errors import CheckpointError, TrainingError
from fluxcube.models import registry
from fluxcube.models.dropout import GENERATOR
from fluxcube.resolution import DAILY, HOURLY
from fluxcube.samples.images import Images
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.training import resident
from fluxcube.training.job import Job
from fluxcube.training.loop import _Run
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan
from fluxcube.training.resident import ResidentWindows, batches, on_device
from fluxcube.training.weights import SupportedWindows, WeightedWindows

torch.set_num_threads(1)  # tests run beside each other

CPU = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def towers():
    """Three towers; the record of one has a gap, so that one stretch of it is shorter than a window."""
    cube = small_cube().isel(time=np.r_[0:100, 110:130, 140:288])
    spec = cube_spec(cube, targets=TARGETS)
    return load_towers(cube, [str(s) for s in cube.site.values[:3]], spec, HOURLY.limit(1)).scaled()


def assert_equal(one, other):
    assert set(one) == set(other) - {"mask"}
    for name, value in one.items():
        assert value.numpy().dtype == other[name].dtype, name
        np.testing.assert_array_equal(value.numpy(), other[name], err_msg=name)


def assert_equal_batches(windows, epochs=(0, 1), first=0):
    own = ResidentWindows(windows, torch.device("cpu"))
    for epoch in epochs:
        windows.set_epoch(epoch, first)
        expected = list(windows)
        found = list(own.epoch(epoch, first))
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"length": 24, "emits": 24, "stride": 12, "partial": True},
        {"length": 24, "emits": 1},
        {"length": 1, "drop_last": True},
        {"length": 48, "emits": 7, "stride": 5, "shuffle": False},
        {"length": 60, "emits": 60, "stride": 30, "partial": True, "repeat_images": True},
        {"length": 24, "emits": 24, "partial": True, "rank": 1, "world_size": 2, "limit": 101},
    ],
    ids=str,
)
@pytest.mark.parametrize("chips", [True, False])
def test_batches_are_those_of_the_windows(towers, options, chips):
    if not chips:
        series = dataclasses.replace(towers.series, chips=towers.series.chips[:0], chip_key=towers.series.chip_key[:0])
        towers = dataclasses.replace(towers, series=series)
    assert_equal_batches(Windows(towers, batch_size=16, seed=5, **options))


def test_a_resumed_epoch_goes_on_where_it_was(towers):
    assert_equal_batches(Windows(towers, length=24, batch_size=16, stride=7), first=3)


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("chips", [True, False])
def test_images_of_several_kinds(towers, chips, repeat):
    rng = np.random.default_rng(0)
    series = towers.series
    kinds = tuple(
        Images(rng.random((len(key), bands, pixels), np.float32), key)
        for key, bands, pixels in ((series.chip_key[::2], 3, 9), (series.chip_key[:0], 2, 1), (series.chip_key, 1, 4))
    )
    own = series.chips if chips else series.chips[:, :0]
    changed = dataclasses.replace(towers, series=dataclasses.replace(series, images=kinds, chips=own))
    options = {"length": 24, "emits": 24, "stride": 12, "partial": True, "repeat_images": repeat}
    assert_equal_batches(Windows(changed, batch_size=16, **options))


def test_weights_and_support_windows(towers):
    rng = np.random.default_rng(0)
    flux_weights = rng.random(towers.fluxes.shape, np.float32)
    flux_weights[5] = np.nan
    assert_equal_batches(WeightedWindows(towers, flux_weights, length=24, emits=24, stride=12, partial=True))
    cube = daily_cube()
    spec = cube_spec(cube, targets=TARGETS, predictors=DRIVERS, static=("igbp",))
    daily = load_towers(cube, [str(s) for s in cube.site.values], spec, DAILY.limit(0.5)).scaled()
    flux_weights = rng.random(daily.fluxes.shape, np.float32)
    assert_equal_batches(SupportedWindows(daily, flux_weights, 3, 4, length=20, stride=5, batch_size=48, seed=1))


def test_data_that_are_too_large_stay_in_ram(towers, monkeypatch, caplog):
    windows, size = Windows(towers, length=24), ResidentWindows.size(Windows(towers, length=24))
    own = ResidentWindows(windows, torch.device("cpu"))
    moved = [own._inputs, own._fluxes, *(pixels for pixels, _ in own._images)]
    assert abs(size / sum(t.numel() * t.element_size() for t in moved) - 1) < 0.05
    made = []
    monkeypatch.setattr(resident, "ResidentWindows", lambda *args: made.append(args) or "resident")
    resident.ResidentWindows.size = lambda windows: size
    card = torch.device("cuda", 1)
    for free, found in ((3 * size, "resident"), (size, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * size))
        assert resident.resident_on(windows, card) == found
    assert len(made) == 1 and resident.resident_on(windows, torch.device("cpu")) is None


def make_run(towers, *, config=TINY, training=FAST, fused=True, **changes):
    torch.manual_seed(0)
    plan = Plan(None, "ecoperceiver", towers.spec, None, config, FAST, HOURLY.limit(1))
    model = registry.build("ecoperceiver", config, plan.sizes())
    windows = Windows(towers, length=24, emits=24, stride=12, batch_size=8, partial=True)
    job = Job(model=model, windows=windows, config=training, world=CPU, request={"seed": 0}, **changes)
    return _Run(job, torch.optim.AdamW(model.parameters(), 1e-2, fused=fused))


@pytest.mark.parametrize("together", [1, 4, 100])
def test_steps_are_the_same_however_many_are_read_together(towers, together):
    rows = []
    run = make_run(towers, on_step=lambda update, row: rows.append((update, row)))
    run.read_together = together
    run.epoch()
    plain = make_run(towers)
    plain.epoch()
    assert not run.records and run.counters.updates == len(rows) == plain.counters.updates > 5
    assert [update for update, _ in rows] == list(range(1, len(rows) + 1))
    for name in ("loss", "hours", "windows", "imbalance"):
        assert getattr(run.counters, name) == getattr(plain.counters, name) != (0 if name != "imbalance" else 1)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name


def test_data_on_the_device_make_the_same_steps(towers):
    run, plain = make_run(towers), make_run(towers)
    run.resident = ResidentWindows(run.windows, CPU.device)
    run.epoch()
    plain.epoch()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_step_after_one_that_is_not_finite_changes_a_weight(towers, what, fused):
    """The bad step is the third of eight whose sums are read together."""
    run = make_run(towers, fused=fused)
    run.read_together, run.model = 8, run.model.train()
    own = [on_device(run.windows[n], CPU.device) for n in range(6)]
    if what == "loss":
        own[2]["targets"][3, 5] = 1e30
    hook = None
    before = {}
    for n, batch in enumerate(own):
        run.counters.step = n
        if n == 2:
            before = copy.deepcopy(run.model.state_dict())
            if what == "gradient":
                hook = run.model.head.weight.register_hook(lambda gradient: gradient * torch.nan)
        run._step(batch)
        if hook:
            hook.remove()
    site = towers.sites[own[2]["site"][3]]
    with pytest.raises(TrainingError, match=rf"the {what} of epoch 1, step 3 .* windows of .*{site}"):
        run._read()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Waits(TorchDispatchMode):
    """Record the operations for which a host waits for its device."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "_unique2", "masked_select"):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, {"distribution": "gaussian"}, {"dropout": 0.0}], ids=str)
def test_a_step_waits_for_nothing(towers, changes):
    """Not with data on the device: until sums are read, the host never waits."""
    run = make_run(towers, config=dataclasses.replace(TINY, **changes))
    run.read_together, run.model = 100, run.model.train()
    own = batches(run.windows, CPU.device, 0, 0, ResidentWindows(run.windows, CPU.device))
    with Waits() as waits:
        for _ in range(2):
            run._step(next(own))
    assert waits.found == []
    with waits:
        run._read()


def test_compilation_is_an_option_that_changes_no_request(towers, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model.forward)
    plain, run = make_run(towers), make_run(towers, training=dataclasses.replace(FAST, compile=True))
    assert compiled == [run.model]
    for one in (plain, run):
        one.epoch()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name
    assert dataclasses.replace(FAST, compile=True).learned == FAST.learned


def test_a_state_with_another_generator_is_refused_by_name(tmp_path):
    """Without dropout, which would be drawn from another generator, a run of an earlier version continues."""
    cube = small_cube()

    class Stopped(BaseException):
        """As a kill."""

    def stop(done, total, text):
        if text.startswith("epoch") and done == 4:
            raise Stopped

    training = dataclasses.replace(FAST, checkpoint_seconds=0.0, epochs=1)
    for dropout in (0.0, 0.3):
        config, folder = dataclasses.replace(TINY, dropout=dropout), tmp_path / str(dropout)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr("fluxcube.training.loop.GENERATOR", 0)
            eco(cube, folder, config=config, training=training, progress=stop)
        if dropout:
            with pytest.raises(CheckpointError, match=r"state.safetensors .*earlier version .*dropout.*overwrite=True"):
                eco(cube, folder, config=config, training=training)
        else:
            whole = eco(cube, tmp_path / "whole", config=config, training=training)
            assert weights(eco(cube, folder, config=config, training=training).path) == weights(whole.path)
    assert GENERATOR == 1
