"""The first hour of a new user: a few towers, words instead of lists of names, paths, and lists of sites."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fluxcube as fc
from fluxcube import cli as program
from fluxcube.errors import CheckpointError, ConfigError, SplitError, StoreError, UnknownNameError, from_shell
from fluxcube.samples.clusters import cluster_sites
from fluxcube.samples.listed_split import listed_sites
from fluxcube.samples.splits import Split, per_igbp, sites_split
from fluxcube.simulation.example import example_cube
from fluxcube.variables import grid_predictors

pytestmark = pytest.mark.usefixtures("short_applicability")

#: Classes of the first thirteen towers of a user: too many classes for a split by class.
CLASSES = ["ENF", "DBF", "GRA", "CRO", "WET", "MF", "SAV", "WSA", "OSH", "ENF", "GRA", "EBF", "CRO"]


def towers(count, *, apart_km=1000.0):
    """Towers of many classes in a row along a meridian."""
    cube = example_cube(sites=count, days=6)
    along = np.arange(count) * apart_km / 111.2
    places = {"latitude": -60 + along, "longitude": np.full(count, 8.0), "igbp": np.array(CLASSES[:count], object)}
    return cube.assign_coords({name: ("site", values) for name, values in places.items()})


@pytest.mark.parametrize("count", [3, 4, 5, 8, 12, 13])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_split_never_starves(count, seed):
    cube = towers(count)
    with pytest.raises(SplitError, match="sites would train"):
        per_igbp(cube, seed=seed)
    split = fc.split(cube, seed=seed)
    assert sorted((*split.train, *split.val, *split.test)) == sorted(cube.site.values)
    assert split.train and split.val and split.test
    assert 2 * len(split.train) >= count or count < 5
    assert split == fc.split(cube, "auto", seed=seed)
    assert split.notes[-1].startswith(f"{count} towers, {len(set(CLASSES[:count]))} IGBP classes: fold 1 of ")
    assert split.kind == f"kfold 1 of {min(count, 5)}"


def test_the_default_split_keeps_clusters_whole():
    cube = towers(13)
    pairs = cube.assign_coords(latitude=("site", cube.latitude.values.round(-1)))  # several towers at one latitude
    split = fc.split(pairs)
    side = {site: part for part in ("train", "val", "test") for site in getattr(split, part)}
    groups = cluster_sites(pairs.latitude, pairs.longitude)
    for group in set(groups):
        assert len({side[site] for site in pairs.site.values[groups == group]}) == 1


def test_where_classes_suffice_the_split_is_by_class():
    cube = example_cube(sites=20, days=2)
    assert fc.split(cube, seed=3) == per_igbp(cube, seed=3)


def test_towers_of_one_cluster_are_refused_with_what_to_type():
    near = towers(6, apart_km=3.0)
    with pytest.raises(SplitError, match=r"all 6 towers are one cluster.*kfold\(cube, k=3, buffer_km=2\)\[0\]"):
        fc.split(near)
    assert fc.kfold(near, k=3, buffer_km=2)[0].train  # what the message says
    with from_shell(), pytest.raises(SplitError, match=r"--kind kfold --k 3 --buffer-km 2`, then --split folds.json:1"):
        fc.split(near)
    with pytest.raises(SplitError, match=r'only tower.*split="time"'):
        fc.split(towers(1))
    with from_shell(), pytest.raises(SplitError, match=r"only tower.*--split time"):
        fc.split(towers(1))


def test_fit_takes_a_path_and_records_store_and_split(tmp_path, cube_store):
    cube = fc.open_carbonsense(cube_store)
    run = fc.fit(cube_store, model="mean", out=tmp_path / "a", predictors="grid")
    assert run.split == fc.split(cube_store) == fc.split(cube) == Split.load(tmp_path / "a" / "split.json")
    model = fc.load_model(run)
    assert model.metadata["cube"]["store_id"] == cube.attrs["store_id"]
    assert set(model.spec.predictors) == set(grid_predictors())  # the planet has all, and more
    assert {"CO2", "TS_1"} & set(map(str, cube["variable"].values))


def test_fit_takes_what_split_and_kfold_return(tmp_path):
    cube = towers(12)
    folds = fc.kfold(cube, k=4)
    assert fc.fit(cube, model="mean", out=tmp_path / "a", split=folds[2]).split == folds[2]
    assert fc.fit(cube, model="mean", out=tmp_path / "b", split=folds[:1]).split == folds[0]
    with pytest.raises(SplitError, match=r"a list of 4: pass one of them, such as split=folds\[0\]"):
        fc.fit(cube, model="mean", out=tmp_path / "c", split=folds)


@pytest.fixture
def cube():
    return example_cube(sites=12, days=6)


def _without(cube, name, sites):
    """The cube without a predictor at some sites."""
    gone = cube.site.isin(sites) & (cube["variable"] == name)
    return cube.assign(
        predictors=cube.predictors.where(~gone), predictors_qc=cube.predictors_qc.where(~gone, np.int8(-1))
    )


def test_the_word_grid_is_what_maps_are_made_from_and_towers_have(cube):
    spec = fc.load_windows(cube, length=24, predictors="grid").spec
    assert spec.predictors == ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT")  # of the example, all that it has
    with_co2 = cube.copy()
    with_co2["predictors"] = cube.predictors.copy()
    with_co2.predictors.loc[{"variable": "CO2"}] = 400.0
    with_co2["predictors_qc"] = cube.predictors_qc.copy()
    with_co2.predictors_qc.loc[{"variable": "CO2"}] = 0
    assert "CO2" in fc.load_windows(with_co2, length=24).spec.predictors
    assert "CO2" not in fc.load_windows(with_co2, length=24, predictors="grid").spec.predictors
    assert fc.load_windows(with_co2, length=24, predictors=["grid", "CO2"]).spec.predictors[-1] == "CO2"


def test_the_word_common_leaves_out_what_a_tenth_of_the_towers_lacks(cube, caplog):
    one, two = (_without(cube, "VPD", cube.site.values[:n]) for n in (1, 2))
    assert "VPD" in fc.load_windows(one, length=24, predictors="common").spec.predictors
    assert "VPD is missing at 1 of 12 training towers: XX-S00" in caplog.text
    assert "VPD" not in fc.load_windows(two, length=24, predictors="common").spec.predictors
    assert "VPD" in fc.load_windows(two, length=24, predictors="grid").spec.predictors
    assert "VPD is missing at 2 of 12 training towers: XX-S00, XX-S01" in caplog.text


def test_wrong_words_and_useless_ones_are_refused(cube, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'grid'"):
        fc.fit(cube, model="sw-linear", out=tmp_path / "a", predictors="grids")
    bare = cube
    for name in ("TA", "SW_IN", "VPD"):
        bare = _without(bare, name, cube.site.values)
    with pytest.raises(ConfigError, match="predictors='grid': the training towers have none of them"):
        fc.fit(bare, model="sw-linear", out=tmp_path / "a", predictors="grid")
    with pytest.raises(ConfigError, match="predictors without spec"):
        fc.load_windows(cube, fc.load_windows(cube, length=24).spec, length=24, predictors="grid")


@pytest.mark.parametrize(("shell", "advice"), [(False, "fluxcube.build_carbonsense"), (True, "`fluxcube build ")])
def test_a_folder_of_raw_files_is_no_cube(planet_files, tmp_path, shell, advice):
    with from_shell() if shell else contextlib.nullcontext(), pytest.raises(StoreError, match=f"raw files.*{advice}"):
        fc.fit(planet_files / "towers", model="mean", out=tmp_path / "run")


def test_the_folder_above_a_cube_names_the_cube(cube_store, tmp_path):
    with pytest.raises(StoreError, match=r"pass .*carbonsense\.zarr"):
        fc.fit(cube_store.parent, model="mean", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="expected a Dataset, or the path or URL of a cube, found int"):
        fc.fit(5, model="mean", out=tmp_path / "run")


def test_a_cube_is_no_run(cube_store, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no run\.json: it is a store .* check the order of paths"):
        fc.load_model(cube_store)
    with from_shell(), pytest.raises(CheckpointError, match=r"it is no run.* repeat the command `fluxcube train`"):
        fc.load_model(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "XX-S01\nXX-S03\n",
        "# my sites\nsite\nXX-S01  # the first\n\nXX-S03\n",
        "SITE_ID,IGBP,LAT\nXX-S01,DBF,50\nXX-S03,GRA,51\n",
        "name;site;part\nfirst;XX-S01;test\nsecond;XX-S03;test\n",
        'latitude\t"Site ID"\n50\tXX-S01\n51\tXX-S03\n',
    ],
)
def test_a_list_of_sites_may_have_a_header_and_more_columns(tmp_path, cube, text):
    path = tmp_path / "sites.csv"
    path.write_text(text, "utf-8")
    assert listed_sites(path) == {"XX-S01": "test", "XX-S03": "test"}
    assert sites_split(cube, path).test == ("XX-S01", "XX-S03")


def test_a_table_without_a_header_is_told_apart(tmp_path):
    path = tmp_path / "sites.csv"
    path.write_text("XX-S01,DBF,50\n", "utf-8")
    with pytest.raises(SplitError, match=r"line 1.*a list with more columns needs a header with a column site"):
        listed_sites(path)
    path.write_text("site,part\n,test\n", "utf-8")
    with pytest.raises(SplitError, match="line 2: expected a site"):
        listed_sites(path)


def test_unknown_sites_of_a_list_are_named_with_the_nearest(tmp_path, cube):
    path = tmp_path / "sites.txt"
    path.write_text("XX-S1\nXX-S03\nAA-Far\n", "utf-8")
    (note,) = [note for note in sites_split(cube, path).notes if "not in the cube" in note]
    assert "(2): XX-S1 (did you mean XX-S" in note and note.endswith("AA-Far")


def test_public_functions_take_paths_of_cubes_forcing_and_maps(tmp_path, planet_files, cube_store):
    few = list(fc.split(cube_store).test)[:2]
    cube = fc.open_carbonsense(cube_store, sites=few, time=slice("2018-06-01", "2018-06-04"))
    model = fc.fit(cube_store, model="sw-linear", out=tmp_path / "run", predictors=["TA", "SW_IN"], static=(), bands=())
    predicted = fc.predict(model, cube_store)
    assert predicted.attrs["cube_store_id"] == cube.attrs["store_id"]
    pred = fc.predict(model, cube)
    assert fc.evaluate(cube_store, pred).identical(fc.evaluate(fc.open_carbonsense(cube_store), pred))
    assert fc.compare(cube_store, {"a": pred}).equals(fc.compare(fc.open_carbonsense(cube_store), {"a": pred}))
    files = fc.open_forcing(planet_files / "era5", predictors=["TA", "SW_IN"])
    forcing = files.isel(time=slice(0, 48), latitude=slice(0, 2), longitude=slice(0, 2))
    fc.write_forcing(forcing, tmp_path / "forcing.zarr")
    maps = fc.upscale(model, tmp_path / "forcing.zarr", applicability=False)
    assert maps.attrs["forcing_store_id"] == fc.open_forcing(tmp_path / "forcing.zarr").attrs["store_id"]
    fc.write_maps(maps, tmp_path / "maps.zarr")
    opened = fc.open_maps(tmp_path / "maps.zarr")
    assert fc.mean_maps(str(tmp_path / "maps.zarr")).identical(fc.mean_maps(opened))
    assert fc.mean_cycle(tmp_path / "maps.zarr").identical(fc.mean_cycle(opened))
    with pytest.raises(ConfigError, match="maps: expected a Dataset, or the path or URL of maps, found int"):
        fc.totals(3)
    with pytest.raises(ConfigError, match="forcing: expected a Dataset"):
        fc.upscale(model, 3)


def test_the_program_tells_its_version_also_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fluxcube", "--version"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert not ended.value.code and capsys.readouterr().out == f"fluxcube {fc.__version__}\n"


def test_commands_score_the_default_store(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("FLUXCUBE_DATA", raising=False)
    for line in (["energy"], ["evaluate", "runs/eco"]):
        monkeypatch.setattr(sys, "argv", ["fluxcube", *line])
        with pytest.raises(SystemExit, match=r"FLUXCUBE_DATA is not set.*`fluxcube build RAW carbonsense.zarr`"):
            program.main()
    monkeypatch.setenv("FLUXCUBE_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["fluxcube", "energy"])
    with pytest.raises(SystemExit, match="contains no store"):
        program.main()


def test_examples_and_defaults_have_one_name_of_the_store():
    package = Path(fc.__file__).parent
    texts = [package.parent / "README.md", *package.glob("cli*.py"), package / "catalog.py"]
    faults = [path.name for path in texts if re.search(r"(?<![\w/-])cube\.zarr", path.read_text("utf-8"))]
    assert not faults
    assert all("carbonsense.zarr" in path.read_text("utf-8") for path in (texts[0], package / "catalog.py"))
