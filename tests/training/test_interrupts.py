"""Signals during training: the state is saved after the current step, and rows are never cut short."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from packages import optional
from training_helpers import FAST, eco, small_cube, weights, without_time

from fluxcube.interrupts import Interrupted
from fluxcube.models.rows import WholeRows

torch.set_num_threads(1)  # tests run beside each other


@contextmanager
def raising(number):
    """Let a signal raise Interrupted, as it does in a command."""

    def arrive(arrived, frame):
        raise Interrupted(arrived)

    before = signal.signal(number, arrive)
    try:
        yield
        assert signal.getsignal(number) is arrive
    finally:
        signal.signal(number, before)


def sender(number, step, times=1):
    """Progress that sends this process a signal at a step of training."""
    seen = []

    def progress(done, total, text):
        if text.startswith("epoch"):
            seen.append(text)
            for _ in range(times if len(seen) == step else 0):
                os.kill(os.getpid(), number)

    return progress


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def whole(cube, tmp_path_factory):
    return eco(cube, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    ("number", "step", "times"), [(signal.SIGTERM, 3, 2), (signal.SIGINT, 8, 1), (signal.SIGUSR1, 1, 1)]
)
def test_a_signal_saves_the_state_of_its_step(cube, whole, tmp_path, number, step, times):
    with raising(number), pytest.raises(Interrupted) as caught:
        eco(cube, tmp_path / "run", progress=sender(number, step, times))
    assert caught.value.number == number
    assert "saved" in caught.value.__notes__[0] and str(tmp_path / "run") in caught.value.__notes__[0]
    steps = []
    total = eco(cube, tmp_path / "run", progress=lambda done, total, text: steps.append(text))
    expected = sum(math.ceil(row["windows"] / FAST.batch_size) for row in whole.history) - step - 1
    assert sum(text.startswith("epoch") for text in steps) == expected
    assert weights(total.path) == weights(whole.path)
    assert without_time(total.history) == without_time(whole.history)


def test_the_caller_receives_the_keyboard_interrupt(cube, tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        eco(cube, tmp_path / "run", progress=sender(signal.SIGINT, 2))
    assert (tmp_path / "run" / "state.safetensors").exists() and caught.value.__notes__
    with pytest.raises(KeyboardInterrupt):  # the second does not wait for the step
        eco(cube, tmp_path / "run", progress=sender(signal.SIGINT, 1, times=2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_during_the_validation_of_an_epoch(cube, whole, tmp_path, monkeypatch):
    from fluxcube.training.validation import Validation

    score = Validation.score

    def slow(self, model, check=None):
        if check is not None and not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, model, check)

    training = dataclasses.replace(FAST, ema=0.9)
    plain = eco(cube, tmp_path / "plain", training=training)
    monkeypatch.setattr(Validation, "score", slow)
    with raising(signal.SIGTERM), pytest.raises(Interrupted):
        eco(cube, tmp_path / "run", training=training)
    resumed = eco(cube, tmp_path / "run", training=training)
    assert weights(resumed.path) == weights(plain.path)
    assert without_time(resumed.history) == without_time(plain.history)


def test_xgboost_never_takes_an_interrupt_for_the_end_of_the_rows():
    optional("xgboost")
    from fluxcube.models.boosting import Feed

    class Parts(WholeRows):
        def chunks(self):
            for at in range(0, len(self.rows), 10):
                if at == 30:
                    os.kill(os.getpid(), signal.SIGINT)
                yield self.rows[at : at + 10], self.y[at : at + 10]

    rows = Parts(np.arange(100, dtype=np.float32)[:, None], np.arange(100, dtype=np.float32)[:, None])
    with pytest.raises(KeyboardInterrupt):
        Feed(rows, 0).matrix()
    assert Feed(WholeRows(rows.rows, rows.y), 0).matrix().num_row() == 100


def test_a_process_that_is_gone_is_an_error_of_training():
    from fluxcube.errors import TrainingError
    from fluxcube.training.parallel import _peers

    with pytest.raises(TrainingError, match=r"another process.*Connection closed by peer.*continue"), _peers():
        raise RuntimeError("Connection closed by peer\nException raised from ...")


def test_an_ensemble_whose_members_were_killed_resumes(tmp_path):
    from fluxcube.training.seeds import _prepare

    (tmp_path / "seed-0").mkdir()
    (tmp_path / ".seed-0.lock").touch()  # left by a member that was killed
    _prepare(tmp_path, [0, 1], overwrite=False)
