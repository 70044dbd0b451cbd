"""Several processes of one training: the device of each, who waits for whom, and which random state is saved."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch
from processes import HELPERS, environment
from training_helpers import FAST, eco, small_cube

from fluxcube import devices
from fluxcube.errors import ConfigError, DeviceError
from fluxcube.models.boosting import BoostingConfig
from fluxcube.training import parallel, state
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import _on_device, fit
from fluxcube.training.parallel import World, card_errors


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_the_others_wait_for_the_first_process_as_long_as_it_computes():
    port = str(free_port())
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, HELPERS / "first_is_slow.py", "5", "0.5", "8"],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1", **common),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    for printed, _ in results:
        assert printed.splitlines() == [
            "score of 0 [2.0, 1.0]",
            "refused by the first process",
            "[3.0, 3.0] None",
        ]


@pytest.fixture
def torchrun(monkeypatch):
    """A function that pretends that torchrun started a number of processes on a machine with a number of cards."""

    def start(processes: int, cards: int, rank: int = 0) -> list:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        for name, value in names.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", "29500")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
        chosen: list = []
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(parallel, "_connect", chosen.append)
        monkeypatch.setattr(parallel, "_device", torch.device)
        monkeypatch.setattr(parallel.atexit, "register", lambda function: None)
        monkeypatch.setattr(parallel.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(parallel.distributed, "get_world_size", lambda: processes)
        return chosen

    return start


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda,cpu"])
def test_each_process_has_its_own_card(torchrun, device):
    chosen = torchrun(2, cards=2, rank=1)
    world = World.join(device)
    assert world == World(torch.device("cuda:1"), 1, 2) and chosen == ["cuda:1", "cpu:gloo,cuda:nccl"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_fewer_cards_than_processes_are_refused(torchrun, device):
    torchrun(4, cards=2, rank=3)
    with pytest.raises(ConfigError, match=r"4 processes on this machine, which shows 2 cards: .*--nproc-per-node 2"):
        World.join(device)


def test_processes_may_share_a_card_by_its_number(torchrun):
    chosen = torchrun(2, cards=1, rank=1)
    assert World.join("cuda:0").device == torch.device("cuda:0") and chosen == ["cuda:0", "gloo"]


def test_processes_without_cards_use_the_cpu(torchrun):
    chosen = torchrun(2, cards=0)
    assert World.join("auto").device == torch.device("cpu") and chosen == ["gloo"]
    with pytest.raises(ConfigError, match="device is 'cuda', but"):
        World.join("cuda")


def test_the_random_state_is_that_of_the_card_that_trains(tmp_path, monkeypatch):
    states = {torch.device("cuda:0"): torch.tensor([0], dtype=torch.uint8)}
    card = torch.device("cuda:1")
    states[card] = torch.tensor([1], dtype=torch.uint8)
    monkeypatch.setattr(state, "_card_of", lambda model: card)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, device: states.__setitem__(device, new))
    monkeypatch.setattr(state, "check_held", lambda path: None)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / state.STATE
    state.save_state(path, model, optimizer, {}, state.Counters(), {}, {})
    states[card] = torch.tensor([7], dtype=torch.uint8)
    state.load_state(path.read_bytes(), path, model, optimizer)
    assert states[card].tolist() == [1] and states[torch.device("cuda:0")].tolist() == [0]


def test_errors_of_a_card_are_named_in_training(monkeypatch):
    monkeypatch.setattr(parallel, "device_name", lambda device: "a card")
    card, cpu = torch.device("cuda:0"), torch.device("cpu")
    with pytest.raises(DeviceError, match=r"memory of a card does not suffice .*smaller batch_size"), card_errors(card):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    monkeypatch.setattr(devices, "device_name", lambda device: "a card")
    with pytest.raises(DeviceError, match="a card failed"), card_errors(card):
        raise RuntimeError("CUDA error: device-side assert triggered")
    for device, error in ((cpu, RuntimeError("CUDA error: x")), (card, RuntimeError("sizes differ"))):
        with pytest.raises(RuntimeError) as caught, card_errors(device):
            raise error
        assert caught.value is error


def test_the_device_of_fit_is_that_of_its_settings():
    plain = TrainingConfig()
    found = _on_device("ecoperceiver", None, plain, "cuda,cpu", True)[1]
    assert found == TrainingConfig(device="cuda,cpu", deterministic=True)
    either = {"max_depth": 3, "device": "cuda,cpu"}
    assert _on_device("xgboost", {"max_depth": 3}, plain, "cuda,cpu", None)[0] == either
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is 'cuda', but"):
            _on_device("xgboost", {"max_depth": 3}, plain, "cuda", None)
    assert _on_device("xgboost", BoostingConfig(), plain, "cpu", None)[0].device == "cpu"
    assert _on_device("mean", None, plain, "cpu", None) == (None, plain)
    with pytest.raises(ConfigError, match="mean is trained on the CPU"):
        _on_device("mean", None, plain, "cuda", None)
    with pytest.raises(ConfigError, match="expected 'auto'"):
        _on_device("mean", None, plain, "gpu", None)


def test_requests_of_earlier_versions_are_unchanged():
    assert "deterministic" not in TrainingConfig().learned
    assert TrainingConfig(deterministic=True).learned["deterministic"] is True


def test_what_trained_is_recorded(tmp_path, short_applicability):
    import json

    training = {"epochs": 1, "windows_per_epoch": 32, "batch_size": 16, "precision": "tf32", "deterministic": True}
    run = eco(small_cube(), tmp_path / "run", training=training, device="cpu")
    about = json.loads((run.path / "run.json").read_text())
    assert about["trained_on"] == {"device": "CPU", "processes": 1, "precision": "tf32"}
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_device_that_is_absent_is_refused_before_training(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for settings in ({"device": "cuda"}, {"training": dataclasses.replace(FAST, device="cuda:2")}):
        with pytest.raises(ConfigError, match=r"device is 'cuda.*, but"):
            fit(small_cube(), out=tmp_path / "run", seeds=2, **{"training": FAST} | settings)
    assert not (tmp_path / "run").exists()
