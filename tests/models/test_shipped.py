"""The model that ships with the package: small, whole, described, and ready to use."""

import json

import numpy as np
import pytest

import fluxcube as fc
from fluxcube.errors import CheckpointError
from fluxcube.models import checkpoint, shipped
from fluxcube.samples.splits import Split
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig

NAME = "ecoperceiver-towers"
FOLDER = shipped.FOLDER / NAME


def test_it_is_under_five_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 5e6


def test_its_card_names_every_tower_it_saw_and_says_where_they_come_from():
    card = (FOLDER / "README.md").read_text("utf-8")
    _, about = checkpoint.load(FOLDER)
    missing = [site for site in about["training_sites"] if site not in card]
    assert len(about["training_sites"]) == 109 and not missing
    for part in ("10.1038/s41597-020-0534-3", "2406.04940", "CC-BY-4.0", "## Limits", "## Scores"):
        assert part in card


def test_it_predicts_towers_out_of_the_box_in_the_units_it_says():
    cube = example_cube(sites=2, days=40)
    made = fc.predict(fc.load_model(NAME), cube)
    assert made.NEE.attrs["units"] == "umol m-2 s-1"
    late = made.NEE.isel(time=slice(-24, None)).values
    assert np.isfinite(late).all() and np.ptp(late) > 1 and np.abs(late).max() < 60


def test_it_takes_up_carbon_by_day_and_gives_it_off_by_night():
    """A relation that any model of a green summer must hold, whatever it was trained on."""
    cube = example_cube(sites=2, days=40)
    nee = fc.predict(fc.load_model(NAME), cube).NEE.isel(time=slice(-240, None)).values
    sun = cube.predictors.sel(variable="SW_IN").isel(time=slice(-240, None)).values
    assert nee[sun > 300].mean() < nee[sun < 1].mean()


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert shipped.find(NAME) == tmp_path / NAME
    monkeypatch.chdir("/")
    assert shipped.find(NAME) == FOLDER


def test_an_unknown_name_is_told_which_there_are(tmp_path, monkeypatch):
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
    """What the card says of the recipe is what the run says of itself."""
    request = json.loads((FOLDER / checkpoint.ENSEMBLE).read_text("utf-8"))
    assert request["features"]["memory_days"] == [1, 7, 30]
    assert request["features"]["targets"] == ["NEE", "GPP_NT", "RECO_NT"]
    assert len(request["members"]) == 5


def test_the_standard_deviation_that_nothing_calibrated_is_reported(caplog):
    predicted = fc.predict(NAME, example_cube(sites=1, days=3), uncertainty=True, min_context=1)
    assert "NEE_spread" in predicted and "NEE_std" not in predicted
    assert "no standard deviation of NEE, GPP_NT, RECO_NT: nothing calibrated it" in caplog.text
