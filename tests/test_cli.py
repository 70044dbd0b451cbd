"""The command line on the small planet: every command, and one line for every mistake."""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fluxcube.catalog import open_carbonsense
from fluxcube.cli import app, main
from fluxcube.samples.splits import Split, load_folds

pytestmark = pytest.mark.usefixtures("short_applicability")

COMMANDS = ("inspect", "build", "split", "train", "evaluate", "forcing", "upscale", "plot", "demo", "fetch")


def run(*arguments: object, status: int = 0, program: bool = False) -> subprocess.CompletedProcess:
    """Run a command, and check its exit status: within this process, or as the installed `program`."""
    words = list(map(str, arguments))
    done = as_program(words) if program else here(words)
    assert done.returncode == status, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done


def as_program(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([str(Path(sys.executable).parent / "fluxcube"), *words], capture_output=True, text=True)


def here(words: list[str]) -> subprocess.CompletedProcess:
    """Do what the program does, without its start: with logging as it sets it up, and any exception a failed test."""
    out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
    status: int | str | None = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["fluxcube", *words])
        patch.setattr(root, "handlers", [])
        try:
            main()
        except SystemExit as end:
            status = end.code
    told = f"{status}\n" if isinstance(status, str) else ""
    return subprocess.CompletedProcess(words, 1 if told else status or 0, out.getvalue(), err.getvalue() + told)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    assert f"fluxcube {command}" in " ".join(run(command, "--help").stdout.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def store(cube_store) -> Path:
    return cube_store


def few_towers(planet_files, raw) -> Path:
    """A raw folder of two towers."""
    raw.mkdir()
    towers = sorted((planet_files / "towers").iterdir())
    for path in [p for p in towers if p.suffix != ".zip"] + [p for p in towers if p.suffix == ".zip"][:2]:
        (raw / path.name).write_bytes(path.read_bytes())
    return raw


def test_the_program_builds_a_cube(planet_files, store, tmp_path):
    raw, out = few_towers(planet_files, tmp_path / "raw"), tmp_path / "cube.zarr"
    done = run("build", raw, out, "--modis", planet_files / "modis", program=True)
    assert "sites" in done.stdout
    told = [line for line in done.stderr.splitlines() if "were out of bounds and became missing" not in line]
    told = [line for line in told if not line.startswith("build: ")]  # of a busy machine
    assert told == [], "no bar is drawn where nobody watches; what was done to values is told"
    built = open_carbonsense(out)
    expected = open_carbonsense(store, sites=built.site.values.tolist())
    for name in ("predictors", "fluxes"):
        np.testing.assert_array_equal(built[name], expected[name])


@pytest.fixture(scope="module")
def trained(store, folder) -> Path:
    options = ["--predictors", "DOY,TOD,TA,SW_IN,VPD,SW_IN_POT", "--memory", "1,7"]
    run("train", store, folder / "xgb", "--model", "xgboost", *options)
    run("train", store, folder / "sw", "--model", "sw-linear", *options, "--split", folder / "xgb/split.json")
    return folder / "xgb"


def test_folds_are_drawn_kept_and_trained_on(store, folder):
    done = run("split", store, folder / "folds.json", "--kind", "kfold", "--k", 3, "--buffer-km", 20)
    assert done.stdout.count("kfold") == 3
    assert "overwrite" in run("split", store, folder / "folds.json", status=1).stderr
    run(
        "train",
        store,
        folder / "fold",
        "--model",
        "sw-linear",
        "--predictors",
        "SW_IN",
        "--split",
        f"{folder}/folds.json:2",
    )
    assert Split.load(folder / "fold/split.json") == load_folds(folder / "folds.json")[1]
    assert "3 folds" in run("train", store, folder / "x", "--split", folder / "folds.json", status=1).stderr


def test_towers_are_scored_on_one_row_mask(store, trained, folder):
    done = run("evaluate", trained, store, "--against", folder / "sw", "--out", folder / "scores.csv")
    assert "xgb" in done.stdout and "sw" in done.stdout and "nse" in done.stdout.lower()
    assert (folder / "scores.csv").read_text("utf-8").count("\n") > 2
    assert "Differences are from sw" in " ".join(done.stdout.split()) and "nse_diff_low" in (
        folder / "scores.csv"
    ).read_text("utf-8")
    done = run("evaluate", trained, store, "--against", folder / "sw", "--scales", "--draws", 0)
    assert "weekly" in done.stdout and "difference" not in done.stdout


def test_runs_of_one_name_and_runs_that_know_the_sites_are_told_apart(store, trained, folder):
    """The same data under a split turned round: its training sites are the first run's test sites."""
    split = Split.load(trained / "split.json")
    turned = Split(train=split.test, val=split.val, test=split.train)
    turned.save(folder / "turned.json")
    (folder / "other").mkdir()
    options = ["--predictors", "SW_IN,TA", "--split", folder / "turned.json"]
    run("train", store, folder / "other/xgb", "--model", "sw-linear", *options)
    done = run("evaluate", trained, store, "--against", folder / "other/xgb", "--format", "csv")
    assert str(trained) in done.stdout and str(folder / "other/xgb") in done.stdout
    assert "trained on sites that are scored here" in done.stderr and turned.train[0] in done.stderr


def test_a_map_from_raw_reanalysis(trained, planet_files, folder):
    land_cover = next((planet_files / "land_cover").glob("*.tif"))
    run(
        "upscale",
        trained,
        planet_files / "era5",
        folder / "maps.zarr",
        "--modis",
        planet_files / "modis",
        "--land-cover",
        land_cover,
        "--time",
        "2018-06-03/2018-06-12",
    )
    run("plot", folder / "maps.zarr", folder / "nee.png")
    assert (folder / "nee.png").read_bytes()[:4] == b"\x89PNG"
    unknown = run("plot", folder / "maps.zarr", folder / "x.png", "--variable", "NEEE", status=1)
    assert "did you mean 'NEE'" in unknown.stderr


def test_a_map_from_a_store_of_forcing_is_that_from_the_files(trained, planet_files, folder):
    from fluxcube.maps.store import open_maps

    sources = ["--modis", planet_files / "modis", "--land-cover", next((planet_files / "land_cover").glob("*.tif"))]
    run("forcing", planet_files / "era5", folder / "forcing.zarr", *sources)
    some = ["--time", "2018-06-03/2018-06-05", "--target", "NEE"]
    run("upscale", trained, planet_files / "era5", folder / "files.zarr", *sources, *some)
    run("upscale", trained, folder / "forcing.zarr", folder / "stored.zarr", *some)
    again = run("upscale", trained, folder / "forcing.zarr", folder / "stored.zarr", *some)
    assert "stored.zarr is finished: nothing was computed" in again.stdout
    other = run("upscale", trained, folder / "forcing.zarr", folder / "stored.zarr", *some, "--stride", "3", status=1)
    assert "it is finished" in other.stderr and "--overwrite" in other.stderr
    files, stored = (open_maps(folder / f"{name}.zarr").NEE.values for name in ("files", "stored"))
    assert np.isfinite(stored).any()
    np.testing.assert_allclose(stored, files, rtol=1e-5, atol=1e-5)
    asked = run("upscale", trained, folder / "forcing.zarr", folder / "x.zarr", "--igbp", "GRA", status=1).stderr
    assert "can no longer change it" in asked
    outside = run("upscale", trained, folder / "forcing.zarr", folder / "x.zarr", "--bbox", "100,-60,110,-50", status=1)
    assert "contains no cell of the forcing" in outside.stderr and not (folder / "x.zarr").exists()


def test_nothing_is_overwritten(store, planet_files):
    done = run("build", planet_files / "towers", store, status=1)
    assert "--overwrite" in done.stderr or "overwrite" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "nowhere", "nothing.zarr"), "nowhere"),
        (("train", "nothing.zarr", "run"), "nothing.zarr"),
        (("build", "nowhere", "cube.zarr"), "nowhere"),
        (("evaluate", "loop", "nothing.zarr"), "loop"),
        (("mix", "loop", "one", "two"), "one"),
        (("upscale", "loop", "era5.nc", "out.zarr"), "loop"),
        (("plot", "nothing.zarr", "x.png"), "nothing.zarr"),
        (("upscale", "nowhere", "era5.nc", "out.zarr", "--bbox", "1,2,3"), "west,south,east,north"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    done = run(*arguments, status=1, program=arguments[0] == "upscale")
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("train c.zarr --out runs/x", "fluxcube train STORE RUN"),
        ("evaluate --run x", "fluxcube evaluate RUN STORE"),
        ("split c.zarr -o s.json", "fluxcube split STORE OUT"),
        ("fetch modis --out x", "fluxcube fetch modis OUT"),
        ("train c.zarr x --predictor grid", "--predictors"),
    ],
)
def test_a_path_by_name_is_answered_with_the_order_of_arguments(words, order):
    """In Python ``fit(cube, out=...)``, in the shell two arguments."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words.split(), prog_name="fluxcube")
    assert done.exit_code == 2 and order in done.output, done.output


def test_a_scheduler_that_is_not_there_is_found_before_the_forcing_is_opened(tmp_path):
    pytest.importorskip("distributed")
    maps = ("upscale", tmp_path / "run", tmp_path / "era5.nc", tmp_path / "maps.zarr", "--scheduler")
    assert "no Dask scheduler answers" in run(*maps, "tcp://127.0.0.1:9", "--patience", "1", status=1).stderr
    assert "slurm is no address of a Dask scheduler" in run(*maps, "slurm", status=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "STORE", "URL", "--model", "mean"),
        ("mix", "URL", "one", "two"),
        ("forcing", "s3://KEY:SEC/RET@bucket/x.zarr", "f.zarr"),
        ("fetch", "era5", "URL"),
        ("URL",),
    ],
)
def test_a_url_with_a_password_names_no_folder_and_is_masked(arguments, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = "https://user:SEC@RET@127.0.0.1:9/x?token=RET"
    words = [{"URL": url, "STORE": store}.get(word, word) for word in arguments]
    done = run(*words, status=1 if len(words) > 3 or words[0] == "forcing" else 2, program=True)
    assert "RET" not in done.stdout + done.stderr and "***" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_line_starts_without_the_libraries_of_stores():
    code = "import sys, fluxcube.cli; sys.exit('zarr' in sys.modules or 'xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bad_site_is_left_out_and_the_status_says_so(planet_files, tmp_path):
    raw = few_towers(planet_files, tmp_path / "raw")
    broken = sorted(raw.glob("*.zip"))[0]
    broken.write_bytes(broken.read_bytes()[:-200])
    done = run("build", raw, tmp_path / "cube.zarr", status=3)
    assert broken.name in done.stderr and "left out" in done.stderr
    run("build", raw, tmp_path / "strict.zarr", "--strict", status=1)
    assert not (tmp_path / "strict.zarr").exists()


def test_towers_of_a_cube_are_cited(store):
    table = run("citations", store, "--format", "csv").stdout
    sites = [str(site) for site in open_carbonsense(store)["site"].values]
    assert table.startswith("site,network,citation,doi,licence") and all(f"\n{site}," in table for site in sites)
    one = run("citations", store, "--site", sites[0], "--bibtex").stdout
    assert one.startswith("@") and sites[1] not in one
    assert "leave out --format csv" in run("citations", store, "--bibtex", "--format", "csv", status=1).stderr


def test_a_split_that_is_not_there_is_told_from_one_that_is_damaged(store, folder):
    told = run("train", store, folder / "none", "--split", folder / "absent.json:1", status=1).stderr
    assert "there is no file" in told and "`fluxcube split STORE" in told


def test_what_is_given_in_the_wrong_place_is_named(trained, store, folder):
    told = run("upscale", trained, store, folder / "no.zarr", status=1).stderr
    assert "has towers and no grid" in told and "`fluxcube evaluate`" in told
    assert "it is a run of a model" in run("plot", trained, folder / "no.png", status=1).stderr
