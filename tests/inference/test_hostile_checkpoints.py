"""Checkpoints whose JSON was damaged or changed on purpose: one error that names the file, never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest

import fluxcube as fc
from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError
from fluxcube.models import checkpoint
from fluxcube.samples.partition import Split
from fluxcube.simulation.example import example_cube

SPLIT = Split(train=("XX-S00", "XX-S01"), val=("XX-S02",), test=("XX-S03",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile") / "run"
    fc.fit(example_cube(sites=6, days=4), split=SPLIT, model="sw-linear", target="NEE", out=out, predictors=("SW_IN",))
    return out


def changed(run, folder, change, name="run.json"):
    """Return a copy of a run whose JSON was changed, with the seal of the changed JSON."""
    copy = folder / "run"
    shutil.copytree(run, copy)
    about = json.loads((copy / name).read_text())
    change(about)
    about["seal"] = checkpoint._seal(about)
    (copy / name).write_text(json.dumps(about))
    return copy


def put(path, value):
    def change(about):
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = value

    return change


CHANGES = {
    "kind": [(["kind"], value) for value in ("os.system", "../../x", ["xgboost"], None)],
    "files": [
        (["files"], value) for value in (["a"], "x", {"../../etc/passwd": "x"}, {"/etc/passwd": "x"}, {"..": "x"}, {})
    ],
    "sizes": [(["sizes", "inputs"], 10**12), (["sizes", "inputs"], -5), (["sizes"], "x"), (["sizes"], None)],
    "config": [(["config", "evil"], 1), (["config"], [1]), (["config", "column"], float("nan"))],
    "features": [(["features"], []), (["features"], {}), (["features", "targets"], None), (["features", "targets"], 5)],
    "format": [(["format"], [1]), (["format"], 99)],
    "calibration": [(["calibration"], [1]), (["calibration"], {"NEE": 5})],
    "applicability": [(["applicability"], {"sha256": 5}), (["applicability"], [1])],
    "digest": [(["digest"], 5)],
    "split": [(["split"], "x")],
}


@pytest.mark.parametrize("path, value", [pair for pairs in CHANGES.values() for pair in pairs], ids=str)
def test_changed_json_is_refused(run, tmp_path, path, value):
    with pytest.raises(FluxcubeError):
        fc.load_model(changed(run, tmp_path, put(path, value)))


@pytest.mark.parametrize(
    "content", [b"[" * 300_000, b"[]", b"5", b"\xff{}", b'{"format": ' + b"9" * 10_000 + b"}"], ids=len
)
def test_no_json_is_refused(run, tmp_path, content):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="run"):
        fc.load_model(copy)


@pytest.mark.parametrize("members", [[1], "x", {}, {"..": "d"}, {"a/../../b": "x"}, {"": "x"}, {"a": 5}], ids=str)
def test_members_outside_the_folder_are_refused(run, tmp_path, members):
    box = tmp_path / "box"
    shutil.copytree(run, box)
    about = checkpoint.read_about(box)
    (box / "ensemble").mkdir()
    given = (
        {name: about["digest"] if value == "d" else value for name, value in members.items()}
        if isinstance(members, dict)
        else members
    )
    made = {key: about[key] for key in ("format", "kind", "features", "split")} | {"members": given, "digest": "x"}
    if isinstance(members, dict):
        made["digest"] = checkpoint._combined(given)
    (box / "ensemble" / "ensemble.json").write_text(json.dumps(made | {"seal": checkpoint._seal(made)}))
    with pytest.raises(CheckpointError, match="ensemble"):
        fc.load_model(box / "ensemble")


def test_a_digest_pins_the_weights(run, tmp_path):
    digest = fc.load_model(run).digest
    assert fc.load_model(run, digest=digest).digest == fc.load_model(run, digest=digest[:12]).digest == digest
    with pytest.raises(CheckpointError, match="expected 000000000000"):
        fc.load_model(run, digest="0" * 12)
    with pytest.raises(ConfigError, match="at least 12"):
        fc.load_model(run, digest=digest[:4])
