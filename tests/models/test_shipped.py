"""The models that ship with the package: small, whole, described, calibrated, and ready to use."""

import json

import numpy as np
import pytest
from daily_cubes import daily_cube
from surface_cubes import with_surface

import fluxcube as fc
from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models import checkpoint, shipped
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig

NAME = "ecoperceiver-towers"
FOLDER = shipped.FOLDER / NAME
NAMES = shipped.names()
HOURLY = [name for name in NAMES if not name.startswith("tamrl")]


@pytest.fixture(scope="module")
def cubes():
    """A summer of two towers with reflectance, hourly and daily."""
    daily = with_surface(daily_cube(sites=2, days=90)).assign_attrs(clock="standard")
    return {"hourly": with_surface(example_cube(sites=2, days=40)), "daily": daily}


def cube_for(name, cubes):
    return cubes["hourly" if name in HOURLY else "daily"]


def size(name):
    return sum(path.stat().st_size for path in (shipped.FOLDER / name).rglob("*") if path.is_file())


def test_these_models_ship_and_are_small():
    assert set(NAMES) == {
        "ecoperceiver-towers",
        "ecoperceiver-towers-modis",
        "xgboost-towers-modis",
        "mixed-towers-modis",
        "tamrl-towers-modis",
    }
    assert all(size(name) < 8e6 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_lists_every_training_tower_and_the_sources(name):
    card = (shipped.FOLDER / name / "README.md").read_text("utf-8")
    sites = fc.load_model(name).metadata["training_sites"]
    assert len(sites) == {"tamrl-towers-modis": 155}.get(name, 157) and not [
        site for site in sites if f"{site} (" not in card
    ]
    for part in ("10.1038/s41597-020-0534-3", "CC-BY-4.0", "## Limits", "## Scores", "## Uncertainty", f"# {name}"):
        assert part in card


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_towers_out_of_the_box_with_a_calibrated_error(name, cubes):
    made = fc.predict(name, cube_for(name, cubes), uncertainty=True)
    units = "umol m-2 s-1" if name in HOURLY else "gC m-2 d-1"
    assert made.NEE.attrs["units"] == units and made.NEE_std.attrs["units"] == units
    late = made.isel(time=slice(-24, None))
    assert np.isfinite(late.NEE).all() and np.ptp(late.NEE.values) > 0.2 and np.abs(late.NEE).max() < 60
    assert (late.NEE_std > 0.1).all(), "the error of a place that was not trained on, not the spread of the members"


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-modis")])
def test_reflectance_matters_and_is_required(name, cubes):
    cube = cube_for(name, cubes)
    band = cube.surface.dims[-1]
    browner = cube.assign(surface=cube.surface.where(cube[band] != "nir", 0.5 * cube.surface))
    late = slice(-24, None)
    made, other = (fc.predict(name, one).NEE.isel(time=late).values for one in (cube, browner))
    assert np.abs(made - other).max() > 0.01
    with pytest.raises(ConfigError, match="surface"):
        fc.predict(name, cube.drop_dims("surface_day" if name in HOURLY else "day", errors="ignore"))


@pytest.mark.parametrize("name", HOURLY)
def test_it_takes_up_carbon_by_day_and_releases_it_by_night(name, cubes):
    """A relation that any model of a green summer must hold, whatever it was trained on."""
    cube = cubes["hourly"]
    nee = fc.predict(name, cube).NEE.isel(time=slice(-240, None)).values
    sun = cube.predictors.sel(variable="SW_IN").isel(time=slice(-240, None)).values
    assert nee[sun > 300].mean() < nee[sun < 1].mean()


def test_the_mixed_model_is_the_mean_of_its_parts(cubes):
    made = fc.predict("mixed-towers-modis", cubes["hourly"]).NEE
    parts = [fc.predict(name, cubes["hourly"]).NEE for name in ("ecoperceiver-towers-modis", "xgboost-towers-modis")]
    np.testing.assert_allclose(made, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-4)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert shipped.find(NAME) == tmp_path / NAME
    monkeypatch.chdir("/")
    assert shipped.find(NAME) == FOLDER


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=NAME):
        fc.load_model("ecoperceiver-tower")


def test_a_member_of_it_can_be_trained_further(tmp_path):
    cube = example_cube(sites=2, days=40)
    training = TrainingConfig(epochs=1, windows_per_epoch=4, batch_size=2, keep="last")
    split = Split(train=tuple(map(str, cube.site.values)))
    run = fc.fit(cube, out=tmp_path / "run", init=f"{NAME}/seed-0", split=split, training=training)
    assert fc.load_model(run).spec.targets == fc.load_model(NAME).spec.targets


def test_its_request_is_that_of_the_recipe():
    """What the card reports of the recipe is what the run records."""
    request = json.loads((FOLDER / checkpoint.ENSEMBLE).read_text("utf-8"))
    assert request["features"]["memory_days"] == [1, 7, 30]
    assert request["features"]["targets"] == ["NEE", "GPP_NT", "RECO_NT"]
    assert len(request["members"]) == 5


def test_a_standard_deviation_that_nothing_calibrated_is_reported(caplog):
    """A member alone was not calibrated: its ensemble was."""
    runs = [f"{NAME}/seed-0", f"{NAME}/seed-1"]
    predicted = fc.predict(runs, example_cube(sites=1, days=3), uncertainty=True, min_context=1)
    assert "NEE_spread" in predicted and "NEE_std" not in predicted
    assert "no standard deviation of NEE, GPP_NT, RECO_NT: nothing calibrated it" in caplog.text
