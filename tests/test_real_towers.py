"""The main job on real files, in short: twelve FLUXNET2015 towers, both models, a month of ERA5 over Davos."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube.samples.splits import kfold
from fluxcube.training.config import TrainingConfig

PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT")


@pytest.fixture(scope="module")
def towers(shared_data, tmp_path_factory):
    sites = (shared_data / "towers/small.txt").read_text("utf-8").split()
    store = tmp_path_factory.mktemp("real") / "cube.zarr"
    report = fc.build_carbonsense(shared_data / "towers", store, sites=sites)
    assert not report.left_out and sorted(report.sites) == sorted(sites)
    return fc.open_carbonsense(store)


@pytest.fixture(scope="module")
def runs(towers, tmp_path_factory):
    folder, split = tmp_path_factory.mktemp("runs"), kfold(towers, k=3, seed=0)[0]
    short = {"ecoperceiver": {"training": TrainingConfig(epochs=1, windows_per_epoch=600, val_windows=128)}}
    short["xgboost"] = {"config": {"n_estimators": 40}}
    return {
        name: fc.fit(towers, model=name, out=folder / name, predictors=PREDICTORS, split=split, **short.get(name, {}))
        for name in ("ecoperceiver", "xgboost", "mean-cycle")
    }


def test_measured_hours_are_those_of_the_files(towers, shared_data):
    """Every measured half-hour is in an hour of flag 0, so hours number at least half of the half-hours measured."""
    table = pd.read_csv(shared_data / "towers/sites.csv").set_index("site_id")
    flags = towers.fluxes_qc.sel(target="NEE").load()
    for site in towers.site.values:
        row, hours = table.loc[site], int((flags.sel(site=site) == 0).sum())
        steps = 60 // row.step_minutes
        assert row.nee_measured / steps * 0.5 < hours <= row.nee_measured


@pytest.mark.proof
def test_sunlight_and_the_solar_clock_agree(towers):
    """Measured light and potential light peak together: the clock is right at every tower."""
    wide = towers.fluxcube.to_variables()
    light, potential = (wide[name].load() for name in ("SW_IN", "SW_IN_POT"))
    for site in towers.site.values:
        measured = light.sel(site=site).where(wide.SW_IN_QC.sel(site=site) == 0)
        scores = {lag: float(_corr(measured, potential.sel(site=site).shift(time=lag))) for lag in (-1, 0, 1)}
        assert max(scores, key=scores.get) == 0, (site, scores)


def test_partition_adds_up(towers):
    flux = towers.fluxes.sel(target=["NEE", "GPP_NT", "RECO_NT"]).load().to_dataset("target")
    residual = np.abs(flux.NEE - (flux.RECO_NT - flux.GPP_NT))
    assert float(residual.quantile(0.999)) < 0.01


@pytest.mark.proof
def test_both_models_score_on_towers_they_never_saw(towers, runs):
    split = runs["xgboost"].split
    assert not set(split.test) & {*split.train, *split.val}
    test = towers.sel(site=list(split.test))
    table = fc.compare(test, {name: fc.predict(fc.load_model(run), test) for name, run in runs.items()})
    scores = table.set_index("model").corr2
    assert table.n.nunique() == 1 and table.n.iloc[0] <= int((test.fluxes_qc.sel(target="NEE") == 0).sum())
    # Eight towers and seconds of training cannot give the level of other biomes' fluxes, but their course.
    assert scores["xgboost"] > 0.1 and scores["ecoperceiver"] > 0.1


@pytest.mark.proof
def test_a_month_of_maps_from_real_era5(runs, shared_data, tmp_path):
    forcing = fc.open_forcing(shared_data / "era5/era5_davos_2020-01.nc", igbp="GRA")
    for name in ("ecoperceiver", "xgboost"):
        store = fc.write_maps(
            fc.upscale(fc.load_model(runs[name]), forcing, allow_missing=True), tmp_path / f"{name}.zarr"
        )
        maps = fc.open_maps(store)
        assert maps.NEE.dims == ("time", "latitude", "longitude") and maps.NEE.attrs["units"] == "umol m-2 s-1"
        late = maps.NEE.isel(time=slice(48, -24)).load()
        assert np.isfinite(late).all() and float(np.abs(late).max()) < 50
        assert float(late.std("time").min()) > 0


def _corr(a, b):
    both = np.isfinite(a) & np.isfinite(b)
    return np.corrcoef(a.values[both], b.values[both])[0, 1]
