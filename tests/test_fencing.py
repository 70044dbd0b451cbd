"""A writer that lost its lock, as a suspended laptop may, publishes nothing: it ends with an error that names that."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from processes import Fork
from training_helpers import FAST, TINY, small_cube

import fluxcube as fc
from fluxcube.errors import StoreError
from fluxcube.simulation.example import example_forcing, example_maps
from fluxcube.stores import lock as locks
from fluxcube.stores.building import finish, remove, staging, store_lock
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.lock import lock_file, writer_lock
from fluxcube.stores.owners import this_process
from fluxcube.stores.swap import place_store, replace_store
from fluxcube.training import single
from fluxcube.training.fit import fit


def taken_over(path):
    """Let another machine own the lock of a path."""
    owner = dataclasses.replace(this_process(), host="node7", boot="another")
    lock_file(path).write_text(json.dumps(dataclasses.asdict(owner)))


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


@pytest.fixture
def cube(cube_store, tmp_path):
    return Path(shutil.copytree(cube_store, tmp_path / "s.zarr"))


STEPS = {
    "place": lambda path: place_store(path.with_name("built"), path),
    "replace": lambda path: replace_store(path.with_name("built"), path),
    "finish": finish,
    "remove": remove,
    "mark": lambda path: mark_done(path, {"a": 0}),
}


@pytest.mark.parametrize("step", STEPS)
def test_no_step_that_publishes_is_taken(cube, step):
    before = tree(cube)
    cube.with_name("built").mkdir()
    with pytest.raises(StoreError, match="node7"), store_lock(cube):
        taken_over(cube)
        STEPS[step](cube)
    assert tree(cube) == before and cube.with_name("built").exists()


def test_a_build_that_lost_its_lock_leaves_the_store(cube):
    before = tree(cube)
    with pytest.raises(StoreError, match="node7"), store_lock(cube), staging(cube, overwrite=True) as building:
        fc.write_forcing(example_forcing(shape=(1, 2), days=1), building)
        taken_over(cube)
    assert tree(cube) == before
    assert sorted(os.listdir(cube.parent)) == [lock_file(cube).name, cube.name]


def test_a_forcing_ends_before_it_records_a_block(path):
    def progress(done, total, text):
        if done == 1:
            taken_over(path)

    forcing = example_forcing(shape=(2, 2), days=3).chunk(latitude=1, time=24)
    with pytest.raises(StoreError, match="node7"):
        fc.write_forcing(forcing, path, workers=1, progress=progress)
    assert len(done_regions(path)) == 1
    lock_file(path).unlink()
    fc.write_forcing(forcing, path)
    np.testing.assert_array_equal(fc.open_forcing(path).predictors, forcing.predictors)


def test_maps_end_before_a_worker_writes_a_region(path):
    maps = example_maps(shape=(2, 2), days=4).chunk(time=24)

    def progress(done, total, text):
        if done == 1:
            taken_over(path)

    with pytest.raises(StoreError, match="node7"):
        fc.write_maps(maps, path, workers=1, scheduler="threads", progress=progress)
    assert len(done_regions(path)) == 1 and len(list((path / "NEE/c").rglob("0"))) >= 1
    assert not (path / "NEE/c/2").exists()
    lock_file(path).unlink()
    fc.write_maps(maps, path, scheduler="threads")
    np.testing.assert_array_equal(fc.open_maps(path).NEE, maps.NEE)


@pytest.mark.parametrize("model", ["ecoperceiver", "xgboost"])
def test_a_training_that_lost_its_lock_leaves_the_run_of_the_other(tmp_path, model, monkeypatch, short_applicability):
    folder, settings = tmp_path / "run", {"ecoperceiver": {"config": TINY, "training": FAST}}.get(model, {})
    finish_run = single._finish

    def interrupted(*arguments):
        taken_over(folder)
        (folder / "run.json").write_text("that of the other")
        finish_run(*arguments)

    monkeypatch.setattr(single, "_finish", interrupted)
    with pytest.raises(StoreError, match="node7"):
        fit(small_cube(), model=model, target=("NEE",), seed=4, out=folder, **settings)
    assert (folder / "run.json").read_text() == "that of the other"


def test_a_training_saves_no_state_after_the_loss(tmp_path):
    folder = tmp_path / "run"

    def progress(done, total, text):
        if "epoch 1" in text:
            taken_over(folder)

    with pytest.raises(StoreError, match="node7"):
        fit(
            small_cube(),
            model="ecoperceiver",
            config=TINY,
            training=FAST,
            target=("NEE",),
            out=folder,
            progress=progress,
        )
    assert not (folder / "state.safetensors").exists() and not (folder / "run.json").exists()


def test_a_stopped_writer_that_is_continued_publishes_nothing(cube, tmp_path, monkeypatch):
    """As a suspended machine: the process is stopped, another machine takes its lock over, and it is continued."""
    for name, seconds in {"_RACE": 0.01, "HEARTBEAT": 0.05, "SILENCE": 0.2}.items():
        monkeypatch.setattr(locks, name, seconds)
    monkeypatch.setattr(locks, "_flock", lambda handle: None)  # a disk whose locks the other machine does not see

    def build(output):
        monkeypatch.setattr("fluxcube.stores.owners._boot", lambda: "suspended")
        try:
            with store_lock(cube), staging(cube, overwrite=True) as building:
                fc.write_forcing(example_forcing(shape=(1, 2), days=1), building, workers=1)
                print("built", file=output)
                os.kill(os.getpid(), signal.SIGSTOP)
        except StoreError as error:
            print(error, file=output)

    first = Fork(build)
    assert first.output.readline() == "built\n"
    os.waitpid(first.pid, os.WUNTRACED)
    time.sleep(locks.SILENCE + locks.HEARTBEAT)
    with writer_lock(cube):  # watched until it is silent, then taken over
        before = tree(cube)
        os.kill(first.pid, signal.SIGCONT)
        assert "took it over while this one was stopped" in first.output.readline()
        assert first.wait() == 0
        assert tree(cube) == before
    assert os.listdir(cube.parent) == [cube.name]


def test_a_store_that_was_moved_away_meanwhile_is_named(path):
    with pytest.raises(StoreError, match="moved or removed while"):
        replace_store(path.with_name("built"), path)
