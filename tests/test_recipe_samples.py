"""Every recipe of real data runs offline on its sample (`make samples`), and plans without ordering anything."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

import fluxcube as fc
from fluxcube import recipes
from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.planning import maps as planning
from fluxcube.planning.sample import MapSample, TaskSample
from fluxcube.stores.reading import store_attrs

pytestmark = pytest.mark.usefixtures("short_applicability")

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
NAMES = (
    "carbonsense",
    "tower_chips",
    "era5_forcing",
    "regional_map",
    "global_map_025",
    "global_map_005",
    "ecoperceiver_published",
    "carbonsense_table1",
    "tamrl_daily",
)
MODEL = "ecoperceiver-towers"
MEASURED = TaskSample(
    place="x",
    work=(1.0, 6144.0, 192_000.0),
    land=6144,
    cpu=8.0,
    wall=9.0,
    memory=5 * 10**8,
    read=10**6,
    written=10**5,
    missing=0,
    gpu=False,
)


def run(name, out, *arguments):
    """Run a recipe as its command line does."""
    file = FOLDER / name / "recipe.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return recipes.run_recipe(module.main, file, [str(out), *arguments])


@pytest.fixture
def out(planet_files, tmp_path):
    """Output folder with the raw files of the sample."""
    (tmp_path / "raw").symlink_to(planet_files)
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection."""

    def refuse(*args, **options):
        raise AssertionError("a sample or an offline plan opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_short_composes_the_library_and_reports_access_time_and_size(name):
    recipe = recipes.read_recipe(FOLDER / name)
    assert recipe.access and recipe.time and recipe.size and recipe.sources and recipe.licence
    assert set(recipe.sample) <= {*recipe.parameters, "scheduler"}
    text = (FOLDER / name / "recipe.py").read_text("utf-8")
    assert len(text.splitlines()) < 80
    imported = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    roots = {(getattr(n, "module", None) or n.names[0].name).split(".")[0] for n in imported}
    assert roots <= {"fluxcube", "pathlib"}
    readme = (FOLDER / name / "README.md").read_text("utf-8")
    assert all(f"| {row} |" in readme for row in ("access", "time", "size", "licence")) and "--sample" in readme


@pytest.mark.sample
def test_the_sample_of_carbonsense_and_of_chips_is_a_cube_with_chips_and_is_built_once(out, offline):
    for name, store in (("carbonsense", "carbonsense.zarr"), ("tower_chips", "chips.zarr")):
        cube = run(name, out, "--sample")
        assert cube.sizes["site"] == 2 and "modis" in cube
        stamp = (out / store / "zarr.json").stat().st_mtime_ns
        assert run(name, out, "--sample").identical(cube)
        assert (out / store / "zarr.json").stat().st_mtime_ns == stamp


@pytest.mark.sample
def test_the_sample_of_the_forcing_is_a_complete_store(out, offline):
    forcing = run("era5_forcing", out, "--sample")
    assert store_attrs(out / "forcing.zarr")["complete"] == 1 and {"TA", "SW_IN", "VPD"} <= set(
        forcing["variable"].values
    )
    assert run("era5_forcing", out, "--sample").identical(forcing)


@pytest.mark.sample
def test_the_sample_of_a_region_writes_maps_totals_and_a_figure(out, offline):
    totals = run("regional_map", out, "--sample")
    assert np.isfinite(totals.NEE).all() and "NEE" in (out / "totals.csv").read_text("utf-8")
    assert (out / "NEE.png").read_bytes()[:4] == b"\x89PNG"
    maps = fc.open_maps(out / "maps.zarr")
    assert maps.sizes["time"] == 7 * 24 and bool(maps.NEE.notnull().all())


@pytest.mark.sample
@pytest.mark.parametrize("name, step, hours", [("global_map_025", 0.25, 120), ("global_map_005", 0.05, 24)])
def test_the_sample_of_global_maps_is_continued_and_has_their_resolution(out, offline, name, step, hours):
    arguments = ["--sample", "--set", "period=['2018-06-01', '2018-06-01']"] if hours == 24 else ["--sample"]
    maps = run(name, out, *arguments)
    assert maps.sizes["time"] == hours and abs(float(maps.latitude[0] - maps.latitude[1]) - step) < 1e-6
    assert run(name, out, *arguments).identical(maps)


@pytest.mark.sample
@pytest.mark.parametrize("name", ["ecoperceiver_published", "carbonsense_table1", "tamrl_daily"])
def test_the_sample_of_models_trains_them_and_writes_scores_by_class(out, offline, name):
    table = run(name, out, "--sample")
    assert len(table) and {"scores.csv", "scores.md"} <= {path.name for path in (out / "scores").iterdir()}
    labels = [line["label"] for line in recipes.read_recipe(FOLDER / name).parameters["models"]]
    assert all(label in (out / "scores" / "scores.md").read_text("utf-8") for label in labels)
    assert run(name, out, "--sample").equals(table)


@pytest.mark.parametrize("name", ["era5_forcing", "regional_map"])
def test_a_plan_of_a_region_is_made_offline_and_writes_no_data(tmp_path, offline, name):
    text = run(name, tmp_path, "--plan", "--set", "region=alps")
    assert "fields in 29 requests" in text and "Earth Engine" in text and "licence: CC-BY-4.0" in text
    assert not list(tmp_path.rglob("*.nc")) and not list(tmp_path.rglob("*.zarr"))


@pytest.mark.parametrize("name, tasks", [("global_map_025", "1,406"), ("global_map_005", "27,132")])
def test_a_plan_of_the_globe_has_tasks_bytes_hours_and_cost(out, offline, monkeypatch, name, tasks):
    seen = []

    def measure(every, number, seed, **options):
        seen.append((every.count, number))
        return MapSample(tasks=(MEASURED,), start_cpu=3.0, start_wall=5.0, parent_cpu=1.0)

    monkeypatch.setattr(planning, "measure_tasks", measure)
    period = "period=['2018-06-01', '2018-06-01']"
    text = run(name, out, "--plan", "--set", "price=10", "--set", "sample_tasks=2", "--set", period)
    for word in (f"{tasks}: ", "GPU-hours", "CPU-hours", "10 USD for a GPU-hour", "on disk", "59.4 GB", "simulated"):
        assert word in text, text
    assert seen == [(int(tasks.replace(",", "")), 2)] and "one GPU replaces 100 cores" in text
    assert not list(out.glob("*.zarr"))


def test_faults_of_metadata_and_of_options_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no meta\.yaml"):
        recipes.read_recipe(tmp_path)
    (tmp_path / "meta.yaml").write_text("title: x\n", "utf-8")
    with pytest.raises(ConfigError, match="lacks description, licence, sources"):
        recipes.read_recipe(tmp_path)
    (tmp_path / "meta.yaml").write_text("{title: x, description: y, sources: [z], licence: w, sise: 1}", "utf-8")
    with pytest.raises(UnknownNameError, match="size"):
        recipes.read_recipe(tmp_path)
    for text in ("regon=alps", "region", "region=[alps"):
        with pytest.raises(ConfigError, match="--set"):
            run("era5_forcing", tmp_path / "out", "--plan", "--set", text)
    with pytest.raises(UnknownNameError, match="alps"):
        run("era5_forcing", tmp_path / "out", "--plan", "--set", "region=alp")
    with pytest.raises(SystemExit):
        run("carbonsense_table1", tmp_path / "out", "--plan")


def copying(real, source, calls):
    """Return a fetch with the signature of a real one, which links files that are there."""

    def fetch(out, **options):
        inspect.signature(real).bind(out, **options)
        calls.append((Path(out).name, options))
        if not Path(out).exists():
            Path(out).symlink_to(source(Path(out).name))

    return fetch


def test_without_sample_a_recipe_fetches_and_continues_with_what_was_fetched(planet_files, tmp_path, monkeypatch):
    calls = []
    for name in ("era5", "modis"):
        fetch = copying(getattr(fc.fetch, name), lambda folder: planet_files / folder, calls)
        monkeypatch.setattr(recipes, name, fetch)
        monkeypatch.setattr(fc.fetch, name, fetch, raising=False)
    towers = copying(fc.fetch.towers, lambda folder: planet_files / folder, calls)
    monkeypatch.setattr(fc.fetch, "towers", towers, raising=False)
    cube = run("carbonsense", tmp_path / "a", "--set", "sites=[US-Zgr]", "--set", "project=p")
    assert "modis" in cube and [name for name, _ in calls] == ["towers", "modis"]
    assert calls[1][1]["project"] == "p" and Path(calls[1][1]["at_sites"]).name == "towers.zarr"
    calls.clear()
    run("era5_forcing", tmp_path / "b", "--set", "region=europe", "--set", "project=p")
    assert [name for name, _ in calls] == ["era5", "land_cover"]
    assert calls[0][1]["region"] == "europe" and calls[0][1]["model"] == MODEL
    assert calls[1][1]["products"] == ["MCD12Q1"] and calls[1][1]["project"] == "p"


def test_a_cube_of_other_options_is_not_taken_for_the_requested_one(planet_files, tmp_path):
    sites = sorted({path.name.split("_")[1] for path in (planet_files / "towers").glob("*.zip")})[:2]
    options = {"sites": sites[:1]}
    store = recipes.build_once(planet_files / "towers", tmp_path / "cube.zarr", **options)
    assert recipes.build_once(planet_files / "towers", store, **options) == store
    with pytest.raises(ConfigError, match=f"was built with .*{sites[0]}.*, not with .*{sites[1]}"):
        recipes.build_once(planet_files / "towers", store, sites=sites)
