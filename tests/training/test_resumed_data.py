"""An unfinished run is resumed on the data that it began with, by one process at a time, or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from daily_cubes import daily_cube
from training_helpers import eco, small_cube

from fluxcube.errors import CheckpointError, ConfigError, StoreError
from fluxcube.models import checkpoint
from fluxcube.models.boosting import ROUNDS, BoostingConfig
from fluxcube.samples.towers import cube_spec
from fluxcube.simulation.example import example_cube
from fluxcube.training.digest import data_digest
from fluxcube.training.fit import fit
from fluxcube.training.run import DATA, prepare, run_lock


class Killed(BaseException):
    """Stands for a kill."""


def killer(after):
    def stop(done, total, text):
        if text.startswith("epoch") and done == after:
            raise Killed

    return stop


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def begun(cube, tmp_path_factory):
    """Folder of an unfinished run."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.raises(Killed):
        eco(cube, folder, progress=killer(1 + epoch_steps(cube, folder)))
    return folder


def epoch_steps(cube, folder):
    seen = []
    with pytest.raises(Killed):
        eco(cube, folder.parent / "count", progress=lambda d, t, text: seen.append(t) or killer(1)(d, t, text))
    return seen[-1] // 3


def changed(cube, name, site, **at):
    """The same cube with one value of one site changed."""
    array = cube[name].copy(deep=True)
    place = {"site": list(cube.site.values).index(site)} | at
    array[place] = array[place] + 1
    return cube.assign({name: array})


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("name", ["fluxes", "predictors"])
def test_other_values_are_refused(cube, begun, tmp_path, part, name):
    folder = shutil.copytree(begun, tmp_path / "run")
    site = json.loads((folder / "split.json").read_text("utf-8"))[part][0]
    column = {"target": 0} if name == "fluxes" else {"variable": list(cube["variable"].values).index("TA")}
    with pytest.raises(ConfigError, match=r"unfinished run on other data.*overwrite=True"):
        eco(changed(cube, name, site, time=70, **column), folder)


def test_the_same_values_resume_in_whatever_chunks_and_beside_other_sites(cube, begun, tmp_path):
    folder = shutil.copytree(begun, tmp_path / "run")
    split = json.loads((folder / "split.json").read_text("utf-8"))
    test = changed(cube, "fluxes", split["test"][0], time=3, target=0)  # no tower of the run
    run = eco(test.chunk(time=50), folder)
    digest = json.loads((run.path / "run.json").read_text("utf-8"))["cube"]["data_digest"]
    assert len(digest) == 32 and not (run.path / DATA).exists()


def test_a_state_of_an_earlier_version_resumes_with_a_warning(cube, begun, tmp_path, caplog):
    folder = shutil.copytree(begun, tmp_path / "run")
    (folder / DATA).unlink()
    eco(cube, folder)
    assert "did not record its data" in caplog.text


def boost(cube, out, **options):
    config = BoostingConfig(n_estimators=ROUNDS + 5)
    return fit(cube, model="xgboost", target=("NEE", "GPP_NT"), out=out, config=config, **options)


def test_trees_and_searches_and_ensembles_too(cube, tmp_path, monkeypatch):
    from fluxcube.training import rows

    save = rows.save_growth

    def kill(*given):
        save(*given)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rows, "save_growth", kill)
        boost(cube, tmp_path / "trees")
    other = cube.assign(predictors=cube.predictors * 1.01)
    with pytest.raises(ConfigError, match="unfinished run on other data"):
        boost(other, tmp_path / "trees")
    run = fit(cube, model="sw-linear", out=tmp_path / "seeds", seeds=2)
    with pytest.raises(ConfigError, match=r"seed-0 was trained on other data|unfinished run on other data"):
        fit(other, model="sw-linear", out=tmp_path / "seeds", seeds=3, split=run.split)
    more = fit(cube.chunk(site=1), model="sw-linear", out=tmp_path / "seeds", seeds=3, split=run.split)
    assert len(checkpoint.load(more)[0].members) == 3


def test_the_digest_is_of_every_input():
    cube = example_cube(sites=3, days=5)
    spec = cube_spec(cube, targets=("NEE",))
    sites = ["XX-S00", "XX-S01"]
    was = data_digest(cube, sites, spec)
    igbp = cube.igbp.values.astype(object)
    igbp[1] = "WET"
    others = {
        "a flag": cube.assign(fluxes_qc=cube.fluxes_qc.where(cube.time != cube.time[5], 3)),
        "a class": cube.assign_coords(igbp=("site", igbp)),
        "a place": cube.assign_coords(latitude=cube.latitude + 0.5),
        "chips": cube.assign(modis=cube.modis * 0.5),
        "a missing value": cube.assign(predictors=cube.predictors.where(cube.time != cube.time[7])),
        "its years": cube.isel(time=slice(0, 100)).assign_coords(time_stop=("site", [cube.time.values[100]] * 3)),
    }
    assert len({was, *(data_digest(other, sites, spec) for other in others.values())}) == 1 + len(others)
    assert data_digest(cube.isel(site=[0, 1]), sites, spec) == was
    longer = xr.concat(
        [cube.modis.isel(day=[0]).assign_coords(day=cube.day[:1] - np.timedelta64(9, "D")), cube.modis], "day"
    )
    assert data_digest(cube.drop_vars("modis").drop_vars("day").assign(modis=longer), sites, spec) == was
    part = cube.assign(predictors=cube.predictors * 1.01)
    assert data_digest(part, sites, spec, sample=True) != data_digest(cube, sites, spec, sample=True)
    unused = cube.assign(fluxes=cube.fluxes.where(cube.target == "NEE", 0.0))
    assert data_digest(unused, sites, spec) == was
    days = daily_cube(sites=3, days=40)
    assert data_digest(days, ["XX-D00"], cube_spec(days)) != data_digest(
        days.assign(fluxes_quality=days.fluxes_quality * np.float32(0.9)), ["XX-D00"], cube_spec(days)
    )


def test_two_processes_do_not_train_into_one_folder(cube, tmp_path):
    code = (
        "import sys, pathlib; from fluxcube.training.run import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        for options in ({}, {"seeds": 2}):
            with pytest.raises(StoreError, match=r"another run .* is writing it"):
                fit(cube, model="sw-linear", out=tmp_path / "run", overwrite=True, **options)
        other.communicate(b"")
    run = fit(cube, model="sw-linear", out=tmp_path / "run")
    with run_lock(tmp_path / "other"):
        pass
    assert checkpoint.load(run)[0].kind == "sw-linear"


def test_partial_files_have_the_name_of_their_process_and_are_removed(tmp_path):
    (tmp_path / ".state.safetensors.1.part").write_bytes(b"left by a kill")
    (tmp_path / "thesis.tex").write_bytes(b"of the user")
    with run_lock(tmp_path), pytest.raises(CheckpointError, match="other files"):
        prepare(tmp_path, {}, overwrite=True, resume=True)
    assert len(list(tmp_path.iterdir())) == 2  # nothing is removed beside the files of somebody else
    (tmp_path / "thesis.tex").unlink()
    with run_lock(tmp_path):
        prepare(tmp_path, {}, overwrite=False, resume=True)
        assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError):
        checkpoint.write_atomically(tmp_path / "a.json", "text")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
