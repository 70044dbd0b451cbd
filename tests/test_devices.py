"""Devices by name: what is refused, which card a process gets, and that settings of torch are restored."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube import devices
from fluxcube.cli import app
from fluxcube.errors import ConfigError
from fluxcube.simulation.example import example_cube, example_forcing


@pytest.fixture
def cards(monkeypatch):
    """A function that lets torch report a number of cards."""

    def report(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device}")

    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    devices._claimed.cache_clear()
    yield report
    devices._claimed.cache_clear()


@pytest.mark.parametrize(
    "name", ["gpu", "", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cpu,cuda", "cuda 0", "0", "auto,cpu"]
)
def test_a_name_that_is_none_is_refused_with_those_that_are(name):
    with pytest.raises(ConfigError, match="expected 'auto', 'cpu', 'cuda'"):
        devices.check_device(name)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_deterministic_is_true_or_false(value):
    from fluxcube.inference.options import PredictionOptions
    from fluxcube.training.config import TrainingConfig

    with pytest.raises(ConfigError, match=f"deterministic: expected True or False, found {value!r}"):
        PredictionOptions(stride=1, min_context=1, deterministic=value)
    with pytest.raises(ConfigError, match=f"deterministic must be .*found {value!r}"):
        TrainingConfig(deterministic=value)


def test_mps_is_named_as_unsupported():
    with pytest.raises(ConfigError, match="mps is not supported"):
        devices.find_device("mps")


def test_without_a_card_auto_is_the_cpu_and_cuda_an_error_that_says_what_to_type(cards, caplog):
    cards(0)
    devices._tell.cache_clear()
    assert devices.find_device("auto") == devices.find_device("cpu") == "cpu" == devices.find_device("cuda,cpu")
    assert devices.find_device("cuda,cpu") == "cpu" and caplog.text.count("computing on the CPU") == 1
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=f"device is '{name}', but .*device='cpu'"):
            devices.find_device(name)


def test_the_error_says_why_there_is_no_card(cards, monkeypatch):
    cards(0)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(ConfigError, match=r"CUDA 12.8.* finds no card: check that nvidia-smi"):
        devices.find_device("cuda")
    monkeypatch.setenv(devices.VISIBLE, "")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES='' hides all cards"):
        devices.find_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="built for CPUs"):
        devices.find_device("cuda")


def test_a_card_beyond_the_last_is_refused_with_those_there_are(cards, monkeypatch):
    cards(2)
    assert devices.find_device("cuda:1") == "cuda:1"
    monkeypatch.setenv(devices.VISIBLE, "4,7")
    with pytest.raises(ConfigError, match=r"2 cards, cuda:0 to cuda:1 \(CUDA_VISIBLE_DEVICES=4,7\)"):
        devices.find_device("cuda:2")
    assert devices.find_device("cuda:2,cpu") == "cpu"


def test_of_several_cards_the_first_or_that_of_the_rank(cards, monkeypatch):
    cards(3)
    assert devices.find_device("auto") == devices.find_device("cuda") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert devices.find_device("cuda") == "cuda:2"
    assert devices.device_name("cuda:2") == "card cuda:2"


def test_cards_are_identified_as_the_scheduler_of_the_cluster_does(cards, monkeypatch):
    cards(2)
    assert devices.card_ids() == ("0", "1") and devices.card_ids("cpu") == ()
    monkeypatch.setenv(devices.VISIBLE, "GPU-12ab, 3")
    assert devices.card_ids() == ("GPU-12ab", "3") and devices.card_ids("cuda:1") == ("3",)


CLAIM = """
import sys
from fluxcube import devices
print(devices._claimed(("0", "GPU-1/2")), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="claims are locks of Unix")
def test_processes_of_a_machine_claim_different_cards_and_release_them_when_they_are_killed(tmp_path):
    def claim():
        child = subprocess.Popen(
            [sys.executable, "-c", CLAIM],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return int(child.stdout.readline())

    children: list[subprocess.Popen] = []
    try:
        assert [claim() for _ in range(4)] == [0, 1, 0, 1]  # the third shares the first card
        children[1].kill()
        children[1].wait()
        assert claim() == 1
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.parametrize("setting", ["tf32", "deterministic"])
def test_settings_of_torch_are_restored_by_the_last_thread_that_uses_them(setting, monkeypatch):
    def state():
        return (
            getattr(torch.backends.cuda.matmul, "fp32_precision", None),
            torch.are_deterministic_algorithms_enabled(),
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        )

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, used = state(), getattr(devices, setting)
    one, two = used(), used()
    one.__enter__()
    changed = state()
    assert changed != before
    two.__enter__()
    one.__exit__(None, None, None)
    assert state() == changed
    two.__exit__(None, None, None)
    assert state() == before
    with used(False):
        assert state() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu avx2\nbugs : avx512_bf16\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("model name : x\n", None),
    ],
)
def test_bfloat16_is_looked_up_in_the_description_of_the_processor(text, found, monkeypatch):
    monkeypatch.setattr(devices.Path, "read_text", lambda *args: text)
    assert devices.cpu_has_bfloat16() is found


def test_precisions_without_a_gain_on_a_cpu_are_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    devices.warn_of_precision("cuda:0", "bfloat16")
    devices.warn_of_precision("cpu", "bfloat16")
    devices.warn_of_precision("cuda:0", "tf32")
    assert not caplog.text
    devices.warn_of_precision("cpu", "tf32")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    devices.warn_of_precision("cpu", "bfloat16")
    assert "only cards have" in caplog.text and "6.6 times as long" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    devices.warn_of_precision("cuda:0", "bfloat16")
    assert "which an old card emulates" in caplog.text


def test_errors_of_memory_and_of_the_driver_are_told_apart():
    full = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when"),
    ]
    assert all(map(devices.is_exhausted, full))
    failed = [RuntimeError("CUDA error: an illegal memory access was encountered"), RuntimeError("CUDNN_STATUS_X")]
    assert all(map(devices.is_card_failure, failed)) and not any(map(devices.is_exhausted, failed))
    assert not devices.is_card_failure(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("device", ["", "gpu", 0])
def test_an_empty_or_wrong_device_is_not_taken_for_the_default(device, tmp_path):
    model, forcing = "ecoperceiver-towers/seed-0", example_forcing(days=2)
    calls = (
        lambda: fc.load_model(model, device=device),
        lambda: fc.load_model([model, "ecoperceiver-towers/seed-1"], device=device),
        lambda: fc.upscale(model, forcing, device=device, allow_missing=True),
        lambda: fc.upscale(fc.load_model(model), forcing, device=device, allow_missing=True),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=r"device: expected 'auto'"):
            call()


def test_an_empty_device_is_refused_by_the_command_line(tmp_path):
    fc.write_forcing(example_forcing(days=2), tmp_path / "forcing.zarr")
    arguments = ["upscale", "ecoperceiver-towers/seed-0", str(tmp_path / "forcing.zarr"), str(tmp_path / "maps.zarr")]
    result = CliRunner().invoke(app, [*arguments, "--device", "", "--allow-missing"])
    assert result.exit_code != 0 and not (tmp_path / "maps.zarr").exists()


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"config": {"device": "cuda"}}])
def test_trees_on_a_card_that_does_not_exist_are_refused_before_a_folder_is_created(options, tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.models.treedevice.is_built_for_cards", lambda: False)
    with pytest.raises(ConfigError, match="device is 'cuda', but this XGBoost"):
        fc.fit(example_cube(sites=12, days=3), model="xgboost", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
