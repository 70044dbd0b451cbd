"""Packages that are installed beside fluxcube add models, networks, products and predictors, used as those of ours."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import SOURCES, forget, install, uninstall

import fluxcube as fc
from fluxcube import cli, extensions
from fluxcube.errors import ConfigError, ExtensionError, MissingPackageError, UnknownNameError
from fluxcube.models import registry
from fluxcube.simulation.archives import write_archive
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.products.table import products
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import networks, parse_name
from fluxcube.sources.towers.readers import read_archive
from fluxcube.variables import declared
from fluxcube.variables import forget as undeclare

pytestmark = pytest.mark.usefixtures("short_applicability")

MODULES = ("tiny_model", "toy_network", "toy_product", "toy_predictor", "broken")
FAST = {"epochs": 2, "windows_per_epoch": 128}


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """An empty folder of the path, for packages; they are forgotten afterwards."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    forget(*MODULES)
    yield folder
    forget(*MODULES)
    undeclare("DAY_LENGTH")


@pytest.fixture
def tiny(beside):
    return install(beside, "tiny_model", {"models tiny": "Tiny"})


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run a command in this process, in the folder of the test; its text, errors last."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, status: int = 0) -> str:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["fluxcube", *line.split()])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, str) == bool(status), (end.value.code, err.getvalue())
        return out.getvalue() + err.getvalue() + (end.value.code if status else "")

    return run


def train(cube, out, **options):
    return fc.fit(cube, model="tiny", out=out, **{"training": FAST, "seed": 4, "bands": ()} | options)


# A model.


def test_the_model_takes_its_author_forty_lines():
    assert len((SOURCES / "tiny_model.py").read_text().splitlines()) <= 40


def test_a_model_of_a_package_resumes_makes_ensembles_predicts_and_maps(tiny, cube, tmp_path):
    whole = train(cube, tmp_path / "whole", config={"width": 8})

    def stop(done, total, text):
        if done > total // 2 and (tmp_path / "run" / "state.safetensors").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cube, tmp_path / "run", config={"width": 8}, progress=stop)
    with pytest.raises(Exception, match="no run"):
        fc.load_model(tmp_path / "run")
    run = train(cube, tmp_path / "run", config={"width": 8})
    assert (run.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    model = fc.load_model(run)
    assert model.metadata["package"] == {"name": "tiny-model", "version": "1.0"}
    pair = train(cube, tmp_path / "pair", config={"width": 8}, seeds=2)
    assert len(fc.load_model(pair).model.members) == 2
    predictions = fc.predict(pair, cube, uncertainty="spread", applicability=True)
    assert predictions.attrs["model_package"] == "tiny-model 1.0"
    assert {"NEE_spread", "applicable"} <= set(predictions)
    maps = fc.upscale([run, pair], example_forcing(shape=(3, 3), days=3), allow_missing=True)
    assert maps.attrs["model_package"] == "tiny-model 1.0" and np.isfinite(maps.NEE.values).any()


def test_commands_train_evaluate_report_and_map_with_a_model_of_a_package(tiny, call, cube_store, planet_files):
    listed = next(line for line in call("models").splitlines() if line.startswith("tiny "))
    assert "hourly" in listed and "gradient descent" in listed and "tiny-model 1.0" in listed
    few = "--predictors TA,SW_IN,VPD --static latitude --no-chips --set training.windows_per_epoch=64 --epochs 1"
    call(f"train {cube_store} runs/tiny --model tiny --set config.width=8 {few}")
    assert json.loads(Path("runs/tiny/run.json").read_text())["config"] == {"width": 8, "context": 6}
    assert "NEE" in call(f"evaluate runs/tiny {cube_store} --draws 0")
    call(f"report tiny=runs/tiny --cube {cube_store} --out page --draws 0")
    assert "tiny" in Path("page/report.html").read_text()
    # Worker processes find the package by its name, as this one does.
    call(f"upscale runs/tiny {planet_files / 'era5'} maps.zarr --workers 1 --scheduler processes")
    assert np.isfinite(fc.open_maps("maps.zarr").NEE).any()
    text = call(f"train {cube_store} runs/b --model tyni", status=1)
    assert "did you mean 'tiny'" in text


def test_a_checkpoint_says_which_package_it_needs(tiny, cube, tmp_path, caplog):
    run = train(cube, tmp_path / "run")
    uninstall(tiny, "tiny_model")
    with pytest.raises(MissingPackageError, match=r"pip install 'tiny-model==1\.0'"):
        fc.predict(_copy(run.path, tmp_path / "a"), cube)
    with pytest.raises(UnknownNameError, match="unknown model 'tiny'"):
        train(cube, tmp_path / "other")
    install(tiny, "tiny_model", {"models tiny": "Tiny"}, version="2.0")
    forget("tiny_model")
    with caplog.at_level(logging.WARNING):
        fc.load_model(_copy(run.path, tmp_path / "b"))
    assert "was trained with tiny-model 1.0, and version 2.0 is installed" in caplog.text


def _copy(folder, target):
    """A copy, since a model that was read is kept in the process."""
    shutil.copytree(folder, target)
    about = json.loads((target / "run.json").read_text())
    about.pop("seal")
    (target / "run.json").write_text(json.dumps(about))
    return target


# What is wrong with packages.


def test_names_of_ours_are_not_replaced(beside, cube, tmp_path):
    text = (SOURCES / "tiny_model.py").read_text().replace('kind = "tiny"', 'kind = "xgboost"')
    install(beside, "tiny_model", {"models xgboost": "Tiny"}, text=text)
    assert "boosting" in registry.model_class("xgboost").__module__
    assert "tiny_model" not in sys.modules
    with pytest.raises(ExtensionError, match=r"tiny-model 1\.0.*fluxcube itself has this name"):
        registry.every().made(extensions.installed("models")[0])


def test_a_broken_package_is_named_and_harms_nothing_else(beside, call, cube, tmp_path, caplog):
    install(
        beside,
        "broken",
        {"models none": "Model", "networks none": "N", "products none": "P", "predictors none": "P"},
        text="import absent_dependency",
    )
    install(beside, "toy_network", {"networks Toy network": "NETWORK"})
    fc.fit(cube, model="sw-linear", out=tmp_path / "run")
    assert "broken" not in sys.modules and not caplog.records
    with pytest.raises(ExtensionError, match=r"comes from the package broken 1\.0.*absent_dep"):
        fc.fit(cube, model="none", out=tmp_path / "none")
    assert "Toy network" in list(networks()) and "x-base" in list(products())
    assert caplog.text.count("comes from the package broken") == 2  # a network and a product, once each
    list(networks())
    assert caplog.text.count("comes from the package broken") == 2
    table = call("extensions")
    assert table.count("cannot be used") > 4 and "works" in table and "absent_dependency" in table


@pytest.mark.parametrize(
    ("points", "text", "match"),
    [
        ({"models tiny": "dataclass"}, "", "expected a class derived from Network or RowModel"),
        ({"models tiny": "absent"}, "", "AttributeError"),
        ({"models small": "Tiny"}, None, "kind of the class must be the name of the entry point, 'small'"),
        ({"models tiny": "Tiny"}, ("settings = TinyConfig", ""), "settings must be the class of its settings"),
        ({"models tiny": "Tiny"}, ('("hourly",)', '("weekly",)'), "resolutions must be some of"),
        ({"models tiny": "Tiny"}, ("class Tiny(", "raise SystemExit(3)\nclass Tiny("), "SystemExit"),
    ],
)
def test_a_model_that_is_none_is_refused(beside, points, text, match):
    whole = (SOURCES / "tiny_model.py").read_text()
    install(beside, "tiny_model", points, text=whole.replace(*text) if text else whole)
    with pytest.raises(ExtensionError, match=match):
        registry.find(next(iter(points)).split()[1])


def test_of_two_packages_with_one_name_the_first_is_used(beside):
    for module in ("tiny_model", "broken"):
        text = (SOURCES / "tiny_model.py").read_text()
        install(beside, module, {"models tiny": "Tiny"}, text=text)
    first, second = extensions.installed("models")
    assert registry.model_class("tiny").__module__ == "broken" == first.package
    with pytest.raises(ExtensionError, match="the package broken has the same name"):
        registry.every().made(second)


def test_packages_in_the_current_folder_are_ignored(beside, monkeypatch, tmp_path):
    downloads = install(tmp_path / "downloads", "tiny_model", {"models tiny": "Tiny"})
    monkeypatch.chdir(downloads)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    forget()
    assert extensions.installed() == ()
    monkeypatch.setattr(sys, "path", [str(downloads), *sys.path])
    assert extensions.installed() == ()
    monkeypatch.setenv("PYTHONPATH", str(downloads))  # it was asked for
    assert [one.name for one in extensions.installed()] == ["tiny"]


def test_what_an_interrupted_installation_left_is_passed_over(beside, tiny):
    (beside / "half-1.0.dist-info").mkdir()
    forget()
    assert [one.name for one in extensions.installed()] == ["tiny"]


# A network.


@pytest.fixture
def tower(tmp_path):
    """A folder with a file of the toy network, and one of ONEFlux under another name."""
    start = np.arange("2010-06-01", "2010-06-21", np.timedelta64(30, "m"), "datetime64[m]")
    phase = 2 * np.pi * (start - start[0]).astype(float) / 1440
    rows = [
        f"{when};{ta:.3f};{nee:.3f};yes".replace(".", ",")
        for when, ta, nee in zip(start, 15 - 5 * np.cos(phase), 2 + 10 * np.minimum(np.cos(phase), 0), strict=True)
    ]
    raw = tmp_path / "raw"
    raw.mkdir()
    text = "\n".join(["50.0;10.0", "when;warmth;carbon;good", *rows]) + "\n"
    (raw / "TOY_XX-Toy_2010-2010.csv").write_text(text)
    return raw


def test_files_of_a_network_of_a_package_become_a_cube(beside, tower, call):
    assert discover(tower).archives == ()
    install(beside, "toy_network", {"networks Toy network": "NETWORK"})
    assert "Toy network" in call(f"inspect {tower}")
    call(f"build {tower} toy.zarr")
    built = fc.open_carbonsense("toy.zarr")
    assert built.network.values.tolist() == ["Toy network"] and built.latitude.values.tolist() == [50.0]
    measured = built.fluxes.sel(target="NEE").isel(site=0).dropna("time")
    half_hours = pd.read_csv(next(tower.iterdir()), sep=";", decimal=",", skiprows=1).carbon.to_numpy()
    np.testing.assert_allclose(measured, half_hours.reshape(-1, 2).mean(1), atol=1e-5)
    assert "A toy (2010)" in json.dumps(built.attrs)


def test_a_network_of_a_package_may_have_files_in_a_dialect_of_ours(beside, tmp_path):
    place = Place(site="US-Zzz", latitude=40.0, longitude=-90.0, igbp="CRO", utc_offset=-6)
    record = simulate_record(place, "2010-06-01", days=3)
    write_archive(tmp_path / "published", "FLUXNET2015", record, place=place, form="gzip")
    (tmp_path / "raw").mkdir()
    next((tmp_path / "published").rglob("*_HH_*.csv.gz")).rename(
        tmp_path / "raw" / "PLAIN_US-Zzz_FULLSET_HH_2010-2010.csv.gz"
    )
    install(beside, "toy_network", {"networks Plain network": "PLAIN"})
    (archive,) = discover(tmp_path / "raw").archives
    assert (archive.network, archive.site, archive.product) == ("Plain network", "US-Zzz", "FULLSET")
    found = read_archive(archive, utc_offset=-6)
    np.testing.assert_allclose(found.TA, record.columns["TA_F"], atol=1e-3)


def test_a_name_that_two_networks_have_is_read_as_ours(beside):
    text = (SOURCES / "toy_network.py").read_text().replace("TOY_<site>_<years>", "FLX_<site>_.*")
    install(beside, "toy_network", {"networks Toy network": "NETWORK"}, text=text)
    assert parse_name("FLX_US-MMS_FLUXNET2015_SUBSET_HR_2012-2014_1-4.zip").network == "FLUXNET2015"
    assert "toy_network" not in sys.modules
    with pytest.raises(ExtensionError, match="named 'Toy network'"):
        install(beside, "toy_network", {"networks Other": "NETWORK"}, text=text)
        forget()
        networks()["Other"]


# A product.


@pytest.fixture
def gridded(tmp_path, cube):
    """A file of the toy product on the days and around the towers of the cube."""
    time = pd.date_range(cube.time.values[0], periods=8, freq="D")
    coords = {"time": time, "lat": np.arange(-89.5, 90), "lon": np.arange(-179.5, 180)}
    field = np.broadcast_to(np.arange(8.0)[:, None, None], (8, 180, 360))
    data = xr.Dataset({"carbon_uptake": (("time", "lat", "lon"), field)}, coords)
    path = tmp_path / "toyflux_2020.nc"
    data.to_netcdf(path)
    return path


def test_a_product_of_a_package_is_recognised_converted_and_scored(beside, gridded, cube):
    with pytest.raises(Exception, match="is no product that fluxcube recognises"):
        fc.open_product(gridded)
    install(beside, "toy_product", {"products toy": "PRODUCT"})
    maps = fc.open_product(gridded)
    assert (maps.attrs["product"], maps.attrs["citation"]) == ("toy", "A toy (2024)")
    assert maps.NEE.attrs["units"] == "gC m-2 d-1"
    np.testing.assert_allclose(maps.NEE.isel(latitude=0, longitude=0), -np.arange(8.0))
    assert fc.open_product(gridded, "toy").identical(maps)
    with pytest.raises(UnknownNameError, match="did you mean 'toy'"):
        fc.open_product(gridded, "toi")


def test_a_report_samples_a_product_of_a_package(beside, gridded, call, cube_store):
    install(beside, "toy_product", {"products toy": "PRODUCT"})
    with xr.open_dataset(gridded) as data:
        start = fc.open_carbonsense(cube_store).time.values[0]
        shifted = data.assign_coords(time=data.time - data.time[0] + start).load()
    shifted.to_netcdf("toyflux_2021.nc")
    call(f"report --cube {cube_store} --out page --product toy=toyflux_2021.nc --draws 0")
    assert re.search(r"toy. NEE: \d+ hours at \d+ towers", Path("page/report.html").read_text())


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("{'title': 'A', 'file': []}", "did you mean 'files'"),
        ("{'files': []}", "expected a mapping with title"),
        ("{'title': 'A', 'files': ['(']}", "unterminated|missing \\)"),
        ("{'title': 'A', 'variables': [{'flux': 'NEE'}]}", "names"),
    ],
)
def test_a_product_that_is_none_is_refused(beside, row, match):
    install(beside, "toy_product", {"products toy": "PRODUCT"}, text=f"PRODUCT = {row}")
    with pytest.raises(ExtensionError, match=match):
        products()["toy"]


# A predictor.


def test_a_predictor_of_a_package_is_trained_with_and_mapped(beside, cube, tmp_path):
    install(beside, "toy_predictor", {"predictors DAY_LENGTH": "DAY_LENGTH"})
    names = ["TA", "SW_IN", "DAY_LENGTH"]
    run = fc.fit(cube, model="xgboost", out=tmp_path / "run", predictors=names, config={"n_estimators": 4})
    assert fc.load_model(run).spec.predictors == tuple(names)
    assert np.isfinite(fc.predict(run, cube).NEE).any()
    forcing = example_forcing(shape=(3, 3), days=3)
    maps = fc.upscale(run, forcing)
    added = fc.upscale(run, fc.add_predictor(forcing, "DAY_LENGTH"))
    assert maps.attrs["masked_predictors"] == "" and "DAY_LENGTH" not in forcing["variable"].values
    np.testing.assert_array_equal(maps.NEE, added.NEE)
    uninstall(beside, "toy_predictor")
    with pytest.raises(ConfigError, match="DAY_LENGTH, which the forcing lacks"):
        fc.upscale(run, forcing)


def test_values_of_a_package_are_those_of_its_function(beside, cube):
    install(beside, "toy_predictor", {"predictors DAY_LENGTH": "DAY_LENGTH"})
    added = fc.add_predictor(cube, "DAY_LENGTH").predictors.sel(variable="DAY_LENGTH")
    assert declared()["DAY_LENGTH"].units == "h"
    light = cube.predictors.sel(variable="SW_IN_POT") > 0
    for site in cube.site.values[:4]:
        day = light.sel(site=site).isel(time=slice(48, 72))
        assert abs(float(day.sum()) - float(added.sel(site=site).isel(time=60))) < 1.6  # hours that sunlight touches
    with pytest.raises(ConfigError, match="has no effect without values"):
        fc.add_predictor(cube, "DAY_LENGTH", hold_days=8)
    with pytest.raises(ConfigError, match=r"no installed package supplies it \(supplied: DAY_LENGTH\)"):
        fc.add_predictor(cube, "LAI")


def test_the_command_trains_and_maps_with_a_predictor_of_a_package(beside, call, cube_store, planet_files):
    install(beside, "toy_predictor", {"predictors DAY_LENGTH": "DAY_LENGTH"})
    few = "--model xgboost --no-chips --set config.n_estimators=4 --predictors TA,SW_IN,DAY_LENGTH --static latitude"
    call(f"train {cube_store} runs/days {few}")
    call(f"upscale runs/days {planet_files / 'era5'} maps.zarr --scheduler threads")
    assert "DAY_LENGTH" in fc.open_maps("maps.zarr").attrs["predictors"]


def test_a_function_that_fails_is_named_with_its_package(beside, cube):
    text = (SOURCES / "toy_predictor.py").read_text().replace("np.unique(", "np.absent(")
    install(beside, "toy_predictor", {"predictors DAY_LENGTH": "DAY_LENGTH"}, text=text)
    with pytest.raises(ExtensionError, match=r"package toy-predictor 1\.0.*AttributeError"):
        fc.add_predictor(cube, "DAY_LENGTH")


def test_looking_for_packages_reads_no_file_of_the_folder(beside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_model.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w')")
    install(beside, "tiny_model", {"models tiny": "Tiny"})
    registry.find("tiny")
    assert not (tmp_path / "ran").exists()


def test_what_an_interrupted_removal_leaves_behind_is_passed_over(beside):
    (beside / "gone-1.0.dist-info").mkdir()  # without METADATA: newer libraries raise, older ones have no name
    install(beside, "tiny_model", {"models tiny": "Tiny"})
    assert [one.name for one in extensions.installed("models")] == ["tiny"]


@pytest.mark.parametrize("error", [FileNotFoundError, KeyError])
def test_a_package_whose_metadata_cannot_be_read_has_no_name(error):
    class Lost:
        @property
        def name(self):
            raise error("Name")

    assert extensions._name(Lost()) is None
