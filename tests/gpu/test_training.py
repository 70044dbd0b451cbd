"""Training on a device: it resumes, repeats itself where that is requested, and processes share a card."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from processes import HELPERS, environment
from training_helpers import FAST, eco, weights, without_time

from fluxcube.devices import device_name, find_device
from fluxcube.inference.devices import device_of
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.training import state
from fluxcube.training.fit import fit

SHORT = dataclasses.replace(FAST, epochs=2, windows_per_epoch=48, val_windows=16, precision="float32")


@pytest.fixture(autouse=True)
def short(short_applicability):
    """Weight inputs by few windows."""


def test_a_training_that_was_stopped_ends_as_an_unbroken_one(cube, device, tmp_path):
    settings = dataclasses.replace(SHORT, checkpoint_seconds=0.0, deterministic=True, effective_batch=24)
    whole = eco(cube, tmp_path / "whole", training=settings, device=device)

    class Stopped(Exception):
        pass

    def stop(done, total, text):
        if text.startswith("epoch") and done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        eco(cube, tmp_path / "broken", training=settings, device=device, progress=stop)
    again = eco(cube, tmp_path / "broken", training=settings, device=device)
    assert without_time(again.history) == without_time(whole.history)
    assert weights(again.path) == weights(whole.path)
    about = json.loads((whole.path / "run.json").read_text())
    assert about["trained_on"]["device"] == device_name(find_device(device))


@pytest.mark.parametrize("precision", ["auto", "tf32", "bfloat16"])
def test_precisions_of_training(cube, device, tmp_path, precision):
    settings = dataclasses.replace(SHORT, epochs=1, precision=precision)
    run = eco(cube, tmp_path / "run", training=settings, device=device)
    assert np.isfinite(run.history[0]["loss"]) and torch.backends.cuda.matmul.fp32_precision in ("none", "ieee")
    used = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(precision, precision)
    assert json.loads((run.path / "run.json").read_text())["trained_on"]["precision"] == used


def test_the_state_contains_the_generator_of_the_device(device, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "check_held", lambda path: None)
    model = torch.nn.Linear(2, 2).to(find_device(device))
    optimizer = torch.optim.AdamW(model.parameters())
    path = tmp_path / state.STATE
    state.save_state(path, model, optimizer, {}, state.Counters(), {}, {})
    expected = torch.rand(3, device=find_device(device))
    state.load_state(path.read_bytes(), path, model, optimizer)
    torch.testing.assert_close(torch.rand(3, device=find_device(device)), expected, rtol=0, atol=0)


def test_trees_predict_on_the_device_as_on_the_cpu(cube, device, tmp_path):
    config = {"n_estimators": 20, "device": "cpu"}
    run = fit(cube, model="xgboost", out=tmp_path / "trees", config=config, target=("NEE", "GPP_NT"), bands=())
    towers = cube.isel(site=slice(2))
    expected, found = (predict(run, towers, device=name) for name in ("cpu", device))
    np.testing.assert_allclose(found.NEE, expected.NEE, atol=1e-5 * float(expected.NEE.std()), rtol=1e-5)
    import xgboost

    built = xgboost.build_info().get("USE_CUDA")
    assert device_of(load_model(run, device=device).model) == (find_device(device) if built else "cpu")


@pytest.mark.gpu
def test_two_processes_on_one_card_make_the_steps_of_one(cube, tmp_path):
    """They exchange gradients by gloo, since nccl needs a card for each process."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    script = [str(HELPERS / "train_apart.py"), "card", str(tmp_path / "two"), "0"]
    done = subprocess.run(
        [sys.executable, *launcher, *script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:6000]
    from train_apart import CARD

    one = eco(cube, tmp_path / "one", **CARD)
    found, expected = (safetensors.torch.load(weights(path)) for path in (tmp_path / "two", one.path))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-3, msg=name)
