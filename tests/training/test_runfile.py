"""Run files: what a run was, in one file that repeats it; wrong files are refused by one line."""

from __future__ import annotations

import shlex
import sys
import tomllib

import pytest
import torch
import yaml

from fluxcube import catalog, cli
from fluxcube.errors import ConfigError, FluxcubeError
from fluxcube.simulation.example import example_cube
from fluxcube.training.runfile import read_run_file, toml

torch.set_num_threads(1)  # tests run beside each other

OPTIONS = "--set config.latent=16 --set config.heads=2 --set config.blocks=1 --set config.context=8 --epochs 1"
OPTIONS += " --set training.windows_per_epoch=32 --set training.val_windows=null --no-chips --predictors TA,SW_IN"


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture
def call(cube, tmp_path, monkeypatch, capsys):
    """Run a command in this process, on the example cube; its status and what it printed."""

    def opened(store):
        found = cube.copy()
        found.encoding["source"] = str(store)
        return found

    monkeypatch.setattr(catalog, "open_carbonsense", opened)
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fluxcube", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def weights(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


def test_the_file_of_a_run_repeats_it(call, tmp_path):
    assert call(f"train c.zarr runs/eco {OPTIONS} --split kfold:1/3 --seed 3")[0] == 0
    kept = tomllib.loads((tmp_path / "runs/eco/run.toml").read_text("utf-8"))
    assert kept["predictors"] == ["TA", "SW_IN"] and kept["store"] == "../../c.zarr" and kept["seed"] == 3
    assert kept["training"]["val_windows"] == "null" and kept["config"]["latent"] == 16
    status, _, err = call("train --config runs/eco/run.toml")
    assert "is complete" in status and "`fluxcube evaluate" in status and "--overwrite" in status, err
    before = weights(tmp_path / "runs/eco")
    assert call("train --config runs/eco/run.toml c.zarr again")[0] == 0, "typed words replace those of the file"
    assert weights(tmp_path / "again") == before
    assert call("train --config runs/eco/run.toml --overwrite")[0] == 0
    assert weights(tmp_path / "runs/eco") == before
    assert call("train --config again/run.toml c.zarr other --seed 4 --set training.lr=1e-3")[0] == 0
    changed = tomllib.loads((tmp_path / "other/run.toml").read_text("utf-8"))
    assert (changed["seed"], changed["training"]["lr"], changed["config"]) == (4, 1e-3, kept["config"])
    assert weights(tmp_path / "other") != before


def test_the_file_of_an_ensemble_of_trees_repeats_it(call, tmp_path):
    pytest.importorskip("xgboost")
    assert call("train c.zarr xgb --model xgboost --set config.n_estimators=4 --seeds 2 --bag 0.7 --max-qc all")[0] == 0
    assert call("train --config xgb/run.toml c.zarr again")[0] == 0
    for seed in (0, 1):
        member = f"seed-{seed}/model.0.ubj"
        assert weights(tmp_path / "again", member) == weights(tmp_path / "xgb", member)
    assert read_run_file(tmp_path / "xgb/run.toml")["max_qc"] is None
    assert call("train --config xgb/run.toml c.zarr third --seeds 3")[0] == 0
    assert (tmp_path / "third/seed-2/run.json").exists()


def test_a_file_of_a_few_options_in_yaml(call, tmp_path):
    (tmp_path / "a").mkdir()
    text = {"store": "../c.zarr", "run": "eco", "model": "mean-cycle", "memory-days": "1,3", "static": "igbp,latitude"}
    (tmp_path / "a/run.yaml").write_text(yaml.safe_dump(text), "utf-8")
    found = read_run_file(tmp_path / "a/run.yaml")
    assert found["memory_days"] == (1, 3) and found["static"] == ("igbp", "latitude")
    assert (found["store"], found["out"]) == (str(tmp_path / "c.zarr"), str(tmp_path / "a/eco"))
    assert call("train --config a/run.yaml --model mean")[0] == 0
    assert tomllib.loads((tmp_path / "a/eco/run.toml").read_text("utf-8"))["model"] == "mean"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "unknown key of run.toml 'sed': did you mean 'seed'"),
        ("seed = '1'", "seed must be of type int, found '1'"),
        ("seed = true", "seed must be of type int"),
        ("memory-days = ['week']", "memory_days must be a list of int"),
        ("seed 1", "run.toml cannot be read"),
        ("model = 'ecoperciever'", "did you mean 'ecoperceiver'"),
        ("[training]\nlearning_rate = 1", "unknown"),
        ("training = 3", "training must be of type dict"),
        ("seed = 1", "STORE is missing: type `fluxcube train STORE RUN`"),
    ],
)
def test_a_wrong_file_is_one_line(call, tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text, "utf-8")
    status, out, _ = call("train --config run.toml" + ("" if "STORE" in message else " c.zarr r"))
    assert message in str(status) and "\n" not in str(status) and not out and not (tmp_path / "r").exists()


def test_files_that_are_none(tmp_path):
    for name, message in (("run.ini", "ends in .toml"), ("run.toml", "no such run file")):
        with pytest.raises(ConfigError, match=message):
            read_run_file(tmp_path / name)
    (tmp_path / "list.yaml").write_text("- 1", "utf-8")
    with pytest.raises(FluxcubeError, match="expected options by name"):
        read_run_file(tmp_path / "list.yaml")


@pytest.mark.parametrize("value", ['a "b" \\ \n\t\x7f ü', 1, True, 1e-05, 0.1, [1, 2], ["a"], [], {"a": [1.5]}])
def test_what_is_written_is_read(value):
    assert tomllib.loads(f"key = {toml(value)}")["key"] == value
