"""Training in other processes: two make the steps of one, and one that was killed goes on as if it had not been."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from processes import HELPERS, Fork, environment
from train_apart import KILLED, SHARED, main
from training_helpers import TARGETS, eco, small_cube, weights, without_time

from fluxcube.errors import ConfigError
from fluxcube.models import checkpoint
from fluxcube.training.fit import fit

torch.set_num_threads(1)  # tests run beside each other

SCRIPT = HELPERS / "train_apart.py"


def apart(*arguments, launcher=()):
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    """Killed by the system in the midst of the second epoch, with passes, averages and a Gaussian head."""
    cube = small_cube()
    whole = eco(cube, tmp_path / "whole", **KILLED)
    assert Fork(lambda output: main("killed", tmp_path / "broken", 8)).wait() == -signal.SIGKILL
    assert not (tmp_path / "broken/run.json").exists()
    steps = []
    resumed = eco(cube, tmp_path / "broken", **KILLED, progress=lambda d, t, text: steps.append(text))
    assert sum(text.startswith("epoch") for text in steps) == 3 * 5 - 8  # 150 windows are five steps of 32 at most
    assert weights(resumed.path) == weights(whole.path)
    assert without_time(resumed.history) == without_time(whole.history)
    assert resumed.calibration == whole.calibration


@pytest.mark.proof(part=1)
def test_two_processes_make_the_steps_of_one(tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = apart("shared", tmp_path / "two", 0, launcher=torchrun)
    assert done.returncode == 0, done.stderr[:6000]
    one = eco(small_cube(), tmp_path / "one", **SHARED)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in one.path.iterdir())
    a, b = (safetensors.torch.load(weights(tmp_path / name)) for name in ("one", "two"))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=2e-4, atol=2e-4, msg=name)
    _, about = checkpoint.load(tmp_path / "two")
    for mine, theirs in zip(one.history, about["history"], strict=True):
        assert mine["windows"] == theirs["windows"] == 90
        for name in ("loss", *(f"val_nse_{t}" for t in TARGETS)):
            np.testing.assert_allclose(theirs[name], mine[name], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="without torchrun"):
        fit(small_cube(), model="sw-linear", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="jobs"):
        fit(small_cube(), out=tmp_path / "run", seeds=2, jobs=2)
