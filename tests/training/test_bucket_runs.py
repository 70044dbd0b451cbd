"""Runs in buckets: trained, resumed, loaded and kept apart as on a disk."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from buckets import SECRET, bucket_server, s3_server  # noqa: F401
from processes import environment
from tower_files import write_raw
from training_helpers import TINY, small_cube
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import CheckpointError, ConfigError, StoreError
from fluxcube.evaluation.calibration import store_calibration
from fluxcube.inference import loading
from fluxcube.models.boosting import ROUNDS
from fluxcube.samples.splits import Split
from fluxcube.stores.bucket_lock import bucket_lock
from fluxcube.stores.objects import Bucket
from fluxcube.training import loop, mirror, rows

SHORT = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0, "windows_per_epoch": 64, "val_windows": 32}


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def s3():
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(s3, request):
    return Bucket(f"{s3[0]}/{abs(hash(request.node.name))}", s3[1])


def learn(cube, out, **options):
    return fc.fit(cube, out=out, **{"model": "sw-linear", "target": "NEE"} | options)


def test_every_service_has_runs(bucket_server, cube, tmp_path, short_applicability):  # noqa: F811
    url, options = bucket_server
    run = learn(cube, f"{url}/runs/line", storage_options=options)
    here = learn(cube, tmp_path / "line")
    there = fc.load_model(f"{url}/runs/line", storage_options=options)
    assert there.digest == fc.load_model(here).digest == fc.load_model(run).digest
    assert sorted(run.path.entries()) == sorted(path.name for path in here.path.iterdir())
    np.testing.assert_array_equal(fc.predict(there, cube).NEE, fc.predict(here, cube).NEE)
    with pytest.raises(CheckpointError, match="contains a finished run"):
        learn(cube, f"{url}/runs/line", storage_options=options)
    learn(cube, f"{url}/runs/line", storage_options=options, overwrite=True, model="mean")
    assert fc.load_model(run).model.kind == "mean"


def killed_after(patch, name, module, times=1):
    """Stop a training after some states; nothing is copied afterwards, as after SIGKILL."""
    plain, count = getattr(module, name), [0]

    def stop(*given, **named):
        plain(*given, **named)
        count[0] += 1
        if count[0] == times:
            time.sleep(3 * mirror.PAUSE)
            patch.setattr(mirror.Mirror, "copy", lambda self: None)
            raise Killed

    patch.setattr(module, name, stop)


@pytest.mark.parametrize("kind", ["network", "trees"])
def test_a_killed_run_resumes_from_the_bucket(kind, cube, bucket, tmp_path, monkeypatch, short_applicability):
    monkeypatch.setattr(mirror, "PAUSE", 0.05)
    module, saves, options = {
        "network": (loop, "save_state", {"model": "ecoperceiver", "config": TINY, "training": SHORT, "bands": ()}),
        "trees": (rows, "save_growth", {"model": "xgboost", "config": {"n_estimators": ROUNDS + 5}}),
    }[kind]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(patch, saves, module)
        learn(cube, bucket, **options)
    left = bucket.entries()
    assert {"data.json", "split.json"} < left.keys() and "run.json" not in left
    with pytest.raises(CheckpointError, match=r"s3://.*has no run\.json|s3://.*unfinished"):
        fc.load_model(bucket)
    with pytest.raises(ConfigError, match=r"s3://.*unfinished run on other data"):
        learn(cube.assign(fluxes=cube.fluxes * 1.1), bucket, **options)
    resumed = learn(cube, bucket, **options)
    whole = learn(cube, tmp_path / "whole", **options)
    assert fc.load_model(resumed).digest == fc.load_model(whole).digest
    assert not {"data.json", "state.safetensors", ".rows.state"} & resumed.path.entries().keys()
    if kind == "network":
        further = learn(cube, tmp_path / "further", **options, init=resumed)
        assert json.loads((further.path / "run.json").read_text())["init"] == fc.load_model(resumed).digest
    assert SECRET not in f"{resumed!r} {fc.load_model(resumed)!r} {json.loads(bucket.read('run.json'))}"


SCRIPT = """
import json, sys, torch
from training_helpers import TINY, small_cube
import fluxcube as fc
from fluxcube.training import mirror
torch.set_num_threads(1)
mirror.PAUSE = 0.05
settings = json.loads(sys.argv[2])
fc.fit(small_cube(), out=sys.argv[1], model="ecoperceiver", target="NEE", config=TINY, bands=(), **settings)
"""


def test_a_run_killed_by_the_system_ends_with_the_weights_of_an_unbroken_one(cube, bucket, tmp_path):
    settings = {"training": SHORT | {"epochs": 40}, "storage_options": dict(bucket.options)}
    command = [sys.executable, "-c", SCRIPT, bucket.url, json.dumps(settings)]
    with subprocess.Popen(command, env=environment(OMP_NUM_THREADS="1")) as other:
        end = time.monotonic() + 60
        while "state.safetensors" not in bucket.entries() and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(StoreError, match=r"another run .* is writing it"):
            learn(cube, bucket)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert "run.json" not in bucket.entries()
    options = {"model": "ecoperceiver", "config": TINY, "bands": (), "training": SHORT | {"epochs": 40}}
    run = learn(cube, bucket, **options)
    assert fc.load_model(run).digest == fc.load_model(learn(cube, tmp_path / "whole", **options)).digest


def test_the_commands_take_runs_in_buckets(s3, tmp_path, monkeypatch, short_applicability):
    url, options = s3
    for name, value in {
        "AWS_ACCESS_KEY_ID": options["key"],
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": options["client_kwargs"]["endpoint_url"],
    }.items():
        monkeypatch.setenv(name, value)
    fc.build_carbonsense(write_raw(tmp_path / "raw", days=5), tmp_path / "cube.zarr")
    Split(("IN-Bbb", "NP-Ccc"), (), ("US-Aaa",)).save(tmp_path / "split.json")
    run, cube = f"{url}/commands/mean", str(tmp_path / "cube.zarr")
    done = call("train", cube, run, "--model", "mean", "--split", tmp_path / "split.json", "--predictors", "TA")
    assert f"{run}: mean" in done
    about = json.loads(Bucket(run, options).read("run.json"))
    text = call("inspect", run)
    assert about["cube"]["store_id"] in text and "mean" in text
    scored = ("evaluate", run, cube, "--by", "all", "--draws", "0", "--max-qc", "all", "--digest")
    assert f"cube derived_from {about['cube']['store_id'][:12]}" in " ".join(call(*scored, about["digest"]).split())
    with pytest.raises(CheckpointError, match="has the digest"):
        call(*scored, "0" * 12)


def call(*arguments):
    found = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_an_ensemble_grows_in_a_bucket(cube, bucket, monkeypatch, short_applicability):
    learn(cube, bucket, seeds=1)
    first = bucket.entries()
    run = learn(cube, bucket, seeds=2)
    assert {"ensemble.json", "seed-0/run.json", "seed-1/run.json"} <= bucket.entries().keys()
    assert first["seed-0/run.json"] == bucket.entries()["seed-0/run.json"]  # it was not written again
    model = fc.load_model(run)
    assert len(model.model.members) == 2
    reference = pickle.loads(pickle.dumps(model.reference))
    assert reference.path == bucket.url and SECRET not in repr(reference)
    monkeypatch.setattr(loading, "_loaded", {})  # as in a process of Dask
    assert loading.load_reference(reference).digest == model.digest
    store_calibration(model, {"NEE": {"factor": 1.5}})
    assert fc.load_model(run).metadata["calibration"]["NEE"] == {"factor": 1.5}
    monkeypatch.setattr(loading, "_loaded", {})
    with pytest.raises(CheckpointError, match=r"s3://.*calibrated again"):
        loading.load_reference(reference)
    with pytest.raises(ConfigError, match=r"other settings|other data"):
        learn(cube, bucket, seeds=3, predictors=("SW_IN", "TA"))


def test_two_trainings_are_kept_apart(cube, bucket):
    with bucket_lock(bucket), pytest.raises(StoreError, match=r"another run .* is writing it"):
        learn(cube, bucket)
    assert not bucket.entries()
    done = []

    def one(model):
        try:
            done.append(learn(cube, bucket, model=model).path.url)
        except (StoreError, CheckpointError) as error:
            done.append(str(error))

    threads = [threading.Thread(target=one, args=(model,)) for model in ("mean", "sw-linear")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert done.count(bucket.url) == 1, done
    assert fc.load_model(bucket).digest


def test_an_object_of_another_writer_is_never_replaced(cube, bucket, monkeypatch):
    plain = mirror.Mirror.fetch

    def fetch(self, **named):
        plain(self, **named)
        Bucket(bucket.url, bucket.options).write("model.json", b"of somebody else")

    monkeypatch.setattr(mirror.Mirror, "fetch", fetch)
    with pytest.raises(StoreError, match=r"model\.json appeared.*The run is complete in /"):
        learn(cube, bucket)
    assert bucket.read("model.json") == b"of somebody else" and bucket.read("run.json") is None


@pytest.mark.parametrize("name", ["thesis.tex", "seed-0/seed-1/run.json", "models/run.json", "..\\x"])
def test_a_folder_of_other_objects_is_refused(cube, bucket, name):
    bucket.write(name, b"of the user")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match="contains other objects"):
            learn(cube, bucket, overwrite=overwrite)
    assert bucket.entries().keys() == {name}


def test_a_damaged_object_is_noticed(cube, bucket):
    learn(cube, bucket)
    content = bucket.read("model.json")
    bucket.write("model.json", content.replace(b"1", b"2"))
    with pytest.raises(CheckpointError, match=r"s3://.*model\.json is damaged"):
        fc.load_model(bucket)
    bucket.remove("model.json")
    with pytest.raises(CheckpointError, match=r"s3://.*model\.json is missing"):
        fc.load_model(bucket)
