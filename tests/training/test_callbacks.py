"""Callbacks and loggers: told of each event by plain dicts; they change no weight, and their errors keep the state."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import sys
import types

import pytest
import torch
from training_helpers import FAST, eco, small_cube, weights

from fluxcube.errors import CallbackError, ConfigError, MissingPackageError, UnknownNameError
from fluxcube.training.callbacks import Callback
from fluxcube.training.fit import fit

torch.set_num_threads(1)  # tests run beside each other

SHORT = dataclasses.replace(FAST, epochs=2, windows_per_epoch=64, val_windows=16)


class Recorder(Callback):
    """Keeps what it is told; fails, or sends this process a signal, at a step."""

    def __init__(self, fail_at=None, stop_at=None):
        self.told, self.fail_at, self.stop_at = [], fail_at, stop_at

    def on_start(self, about):
        self.told.append(("start", about))

    def on_step(self, row):
        self.told.append(("step", row))
        if row["update"] == self.fail_at:
            raise OSError("the disk is full")
        if row["update"] == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation(self, row):
        self.told.append(("validation", row))

    def on_end(self, about):
        self.told.append(("end", about))

    def of(self, event):
        return [row for name, row in self.told if name == event]


class AppendsToFile:
    """A callback of one method, which can be copied to another process."""

    def __init__(self, path):
        self.path = path

    def on_start(self, about):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{about['seed']}\n")


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def plain(cube, tmp_path_factory):
    return eco(cube, tmp_path_factory.mktemp("plain") / "run", training=SHORT)


def steps_of(folder):
    with open(folder / "steps.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_callbacks_are_told_everything_and_change_nothing(cube, plain, tmp_path):
    recorder = Recorder()
    run = eco(cube, tmp_path / "run", training=SHORT, callbacks=[recorder], log="csv")
    assert weights(run.path) == weights(plain.path)
    (start,), (end,) = recorder.of("start"), recorder.of("end")
    assert (start["model"], start["seed"], start["targets"]) == ("ecoperceiver", 4, ["NEE", "GPP_NT"])
    assert (start["epochs"], start["steps_per_epoch"], start["resumed"]) == (2, 4, None)
    assert start["train_sites"] == len(run.split.train) and start["run"] == str(tmp_path / "run")
    assert end == {"state": "complete", "summary": run.summary}
    assert [row["update"] for row in recorder.of("step")] == list(range(1, 9))
    assert recorder.of("validation") == list(run.history)
    # The epoch's loss is the mean of the losses of its steps, each weighted by its fluxes; here about equally many.
    first = [row["loss"] for row in recorder.of("step")[:4]]
    assert min(first) <= run.history[0]["loss"] <= max(first)
    assert [float(row["loss"]) for row in steps_of(run.path)] == [row["loss"] for row in recorder.of("step")]


def test_an_error_of_a_callback_saves_the_state_and_the_call_resumes(cube, plain, tmp_path):
    recorder = Recorder(fail_at=6)
    with pytest.raises(CallbackError, match=r"Recorder.on_step failed \(OSError: the disk is full\).*1 epoch and 2"):
        eco(cube, tmp_path / "run", training=SHORT, callbacks=[recorder], log="csv")
    assert recorder.of("end")[0]["state"] == "stopped" and "disk is full" in recorder.of("end")[0]["summary"]
    again, said = Recorder(), []
    options = {"callbacks": [again], "log": "csv", "progress": lambda *args: said.append(args[2])}
    run = eco(cube, tmp_path / "run", training=SHORT, **options)
    assert weights(run.path) == weights(plain.path)
    assert again.of("start")[0]["resumed"] == {"epochs": 1, "steps": 2, "updates": 6}
    assert [row["update"] for row in again.of("step")] == [7, 8]
    assert "resumes after 1 epoch and 2 of 4 steps" in said
    assert [int(row["update"]) for row in steps_of(run.path)] == list(range(1, 9)), "each step once"


def test_an_interrupt_ends_the_loggers_and_resumes(cube, plain, tmp_path):
    recorder = Recorder(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        eco(cube, tmp_path / "run", training=SHORT, callbacks=[recorder], log="csv")
    assert recorder.of("end")[0]["state"] == "stopped"
    assert weights(eco(cube, tmp_path / "run", training=SHORT, log="csv").path) == weights(plain.path)
    assert [int(row["update"]) for row in steps_of(tmp_path / "run")] == list(range(1, 9))


def test_a_failed_end_is_an_error_of_a_complete_run(cube, tmp_path):
    class Ends:
        def on_end(self, about):
            raise RuntimeError("no network")

    with pytest.raises(CallbackError, match=r"Ends.on_end failed .*no network.*the run is complete"):
        fit(cube, model="sw-linear", out=tmp_path / "run", callbacks=[Ends()])
    assert (tmp_path / "run/run.json").exists()


def test_members_are_told_apart_and_trained_side_by_side(cube, tmp_path):
    recorder = Recorder()
    fit(cube, model="sw-linear", out=tmp_path / "two", seeds=2, callbacks=[recorder])
    assert [about["seed"] for about in recorder.of("start")] == [0, 1]
    assert [about["state"] for about in recorder.of("end")] == ["complete", "complete"]
    path = tmp_path / "seeds.txt"
    fit(cube, model="sw-linear", out=tmp_path / "jobs", seeds=2, jobs=2, callbacks=[AppendsToFile(path)])
    assert sorted(path.read_text("utf-8").split()) == ["0", "1"]
    with pytest.raises(ConfigError, match=r"cannot be copied.*jobs=1"):
        local = types.SimpleNamespace(on_start=lambda about: None)
        fit(cube, model="sw-linear", out=tmp_path / "no", seeds=2, jobs=2, callbacks=[local])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"callbacks": [object()]}, ConfigError, "on_start, on_step, on_validation, on_end, found object"),
        ({"callbacks": [Recorder]}, ConfigError, r"found the class Recorder: pass Recorder\(\)"),
        ({"callbacks": Recorder()}, ConfigError, r"a list of callbacks.*pass \[callback\]"),
        ({"log": "tensorbord"}, UnknownNameError, "did you mean 'tensorboard'"),
        ({"log": ["csv", "wandb"]}, MissingPackageError, "pip install wandb"),
    ],
)
def test_what_cannot_be_told_is_refused_at_once(cube, tmp_path, monkeypatch, options, error, message):
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    with pytest.raises(error, match=message):
        fit(cube, model="sw-linear", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


class FakeWandb:
    """Stands for W&B: what `init` got, and what was logged."""

    def __init__(self):
        self.inits, self.rows, self.ended = [], [], []

    def init(self, **options):
        self.inits.append(options)
        run = types.SimpleNamespace(id=options["id"] or "ab12", summary={})
        run.log = self.rows.append
        run.finish = lambda exit_code: self.ended.append((run.summary["state"], exit_code))
        return run


def test_wandb_continues_the_run_of_a_resumed_training(cube, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    long = dataclasses.replace(SHORT, windows_per_epoch=144, batch_size=16, epochs=3)
    with pytest.raises(CallbackError):
        eco(cube, tmp_path / "eco", training=long, log="wandb", callbacks=[Recorder(fail_at=15)])
    run = eco(cube, tmp_path / "eco", training=long, log="wandb")
    assert [one["id"] for one in fake.inits] == [None, "ab12"], "the second one continues the first"
    assert fake.inits[0]["name"] == "eco, seed 4" and fake.inits[0]["config"]["training.lr"] == 5e-3
    assert [row["update"] for row in fake.rows if "update" in row] == [10, 20]
    assert [row["epoch/loss"] for row in fake.rows if "epoch/loss" in row] == [row["loss"] for row in run.history]
    assert fake.ended == [("stopped", 1), ("complete", 0)]


def test_mlflow_writes_its_file_store(cube, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    run = eco(cube, tmp_path / "eco", training=dataclasses.replace(SHORT, epochs=1), log="mlflow")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("fluxcube").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["training.lr"] == "0.005"
    assert found.data.metrics["epoch/loss"] == pytest.approx(run.history[0]["loss"])
