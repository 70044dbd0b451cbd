"""The plan of a training: its counts are those of the run, it leaves nothing behind, and says where it resumes."""

from __future__ import annotations

import dataclasses
import tempfile

import pytest
import torch
from daily_cubes import TINY_TAM, daily_cube
from training_helpers import FAST, TARGETS, TINY, small_cube

import fluxcube as fc
from fluxcube.errors import CallbackError, CheckpointError, ConfigError, UnknownNameError, from_shell

torch.set_num_threads(1)  # tests run beside each other

SHORT = dataclasses.replace(FAST, epochs=2, windows_per_epoch=72, val_windows=20)
ECO = {"config": TINY, "training": SHORT, "target": TARGETS, "seed": 4}


@pytest.fixture(scope="module")
def cube():
    return small_cube()


class Counts:
    """A callback that counts, and fails at a step."""

    def __init__(self, fail_at=None):
        self.start, self.steps, self.fail_at = {}, 0, fail_at

    def on_start(self, about):
        self.start = about

    def on_step(self, row):
        self.steps += 1
        if self.steps == self.fail_at:
            raise OSError


def test_a_plan_counts_what_a_run_does(cube, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    counts = Counts(fail_at=7)
    plan = fc.plan_training(cube, out=tmp_path / "run", callbacks=[counts], **ECO)
    left = [path.name for path in tmp_path.rglob("*")]
    assert not counts.start and "run" not in left and not any(name.startswith("fluxcube-plan") for name in left)
    with pytest.raises(CallbackError):
        fc.fit(cube, out=tmp_path / "run", callbacks=[counts], **ECO)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    unfinished = fc.plan_training(cube, out=tmp_path / "run", **ECO)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before
    assert plan.done == 0 and unfinished.done == 7 / plan.steps
    assert "resumes    after 1 epoch and 2 steps (7 in all)" in str(unfinished)
    rest = Counts()
    run = fc.fit(cube, out=tmp_path / "run", callbacks=[rest], **ECO)
    assert plan.steps == counts.steps + rest.steps == plan.epochs * counts.start["steps_per_epoch"]
    assert plan.windows["train"] == run.history[0]["windows"] == 72 and plan.windows["val"] == 20
    assert plan.sites == {part: len(getattr(run.split, part)) for part in ("train", "val", "test")}
    assert f"{plan.parameters:,} parameters" in run.summary
    size = sum(path.stat().st_size for path in run.path.iterdir())
    assert 0.7 * size < plan.written < 1.1 * size
    assert all(value > 0 for value in plan.seconds.values()) and plan.memory > 2**26
    with pytest.raises(CheckpointError, match=r"is complete.*fluxcube.predict\(.*overwrite=True"):
        fc.plan_training(cube, out=tmp_path / "run", **ECO)
    with from_shell(), pytest.raises(CheckpointError, match=r"`fluxcube evaluate .*--overwrite"):
        fc.fit(cube, out=tmp_path / "run", **ECO)


def test_plans_of_trees_ensembles_and_daily_models(cube, tmp_path):
    pytest.importorskip("xgboost")
    trees = {"model": "xgboost", "config": {"n_estimators": 20, "early_stopping": 0}, "target": TARGETS}
    plan = fc.plan_training(cube, seeds=3, out=tmp_path / "trees", **trees)
    assert (plan.steps, plan.members, plan.epochs) == (40, 3, None) and "40 boosting rounds" in str(plan)
    fc.fit(cube, seeds=1, out=tmp_path / "trees", **trees)
    more = fc.plan_training(cube, seeds=3, out=tmp_path / "trees", **trees)
    assert more.members == 2 and more.resumes == "after 1 of 3 members"
    short = {"epochs": 2, "windows_per_epoch": 8, "val_windows": 4, "batch_size": 4}
    found = fc.plan_training(daily_cube(days=80), model="tam-rl", config=TINY_TAM, training=short)
    assert found.steps == 2 * -(-found.windows["train"] // 4) and found.seconds["validation"] > 0


def test_what_cannot_be_planned(cube):
    with pytest.raises(ConfigError, match="leave search out"):
        fc.plan_training(cube, model="xgboost", search=3)
    with pytest.raises(UnknownNameError, match="did you mean 'epochs'"):
        fc.plan_training(cube, epoch=3)
