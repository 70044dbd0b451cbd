"""Mixed ensembles of daily models: embeddings of each member, and RECO that each member clips at zero."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from daily_cubes import FAST, daily_cube, daily_forcing, train

from fluxcube.errors import ConfigError
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model, save_mixed
from fluxcube.inference.predictor import MixedReference
from fluxcube.inference.towers import predict

pytestmark = pytest.mark.usefixtures("short_applicability")
torch.set_num_threads(1)  # tests run beside each other

FLUXES = ("NEE", "GPP_NT", "RECO")


@pytest.fixture(scope="module")
def cube():
    return daily_cube(days=120)


@pytest.fixture(scope="module")
def runs(cube, tmp_path_factory):
    """Two TAM-RL of other sizes and contexts, and an LSTM with a head for respiration."""
    folder, training = tmp_path_factory.mktemp("daily"), dataclasses.replace(FAST, epochs=2, keep="last")
    kinds = {
        "tam": ("tam-rl", {}, ("NEE", "GPP_NT")),
        "long": ("tam-rl", {"context": 30, "code": 4, "stride": 3}, ("GPP_NT", "NEE")),
        "lstm": ("lstm", {"context": 15}, ("NEE", "GPP_NT", "RECO_NT")),
    }
    return [
        train(cube, folder / name, kind, config=config, target=targets, training=training).path
        for name, (kind, config, targets) in kinds.items()
    ]


def test_towers_are_the_mean_of_the_members_and_so_is_their_respiration(cube, runs):
    alone = [predict(run, cube) for run in runs]
    made = predict(runs, cube, uncertainty="spread")
    assert "RECO_NT" not in made and made.RECO.attrs["derived"] == "NEE + GPP_NT"
    own = np.maximum(alone[2].NEE + np.maximum(alone[2].GPP_NT, 0), 0)
    each = {name: [one[name].values for one in alone[:2]] for name in FLUXES}
    for name, values in each.items():
        last = own.values if name == "RECO" else alone[2][name].values
        mean = np.mean([*values, last], 0, dtype=np.float64)
        np.testing.assert_allclose(made[name].values, mean, rtol=1e-5, atol=1e-6)
    finite = np.isfinite(made.NEE.values)
    assert not finite[:, :29].any() and finite[:, 29:].all() and float(made.RECO.min()) >= 0


def test_grids_compute_the_embeddings_of_each_member(cube, runs, tmp_path):
    forcing = daily_forcing(cube)
    alone = [upscale(run, forcing) for run in runs]
    stored = save_mixed(tmp_path / "mixed", runs, weights=(1, 2, 1))
    whole = upscale(stored, forcing, applicability=False).load()
    for name in ("NEE", "GPP_NT"):
        mean = sum(w * one[name].values.astype(float) for w, one in zip((0.25, 0.5, 0.25), alone, strict=True))
        np.testing.assert_allclose(whole[name].values, mean, rtol=1e-5, atol=1e-5)
    pieces = upscale(stored, forcing.chunk(longitude=5), time_chunk=40, applicability=False)
    for name in FLUXES:
        np.testing.assert_allclose(pieces[name].values, whole[name].values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predict(stored, cube).NEE.values, whole.NEE.transpose(..., "time").values[0], atol=1e-4)


def test_the_graph_of_runs_that_are_stored_in_no_common_folder_contains_their_folders_only(cube, runs):
    mixed = load_model(runs)
    assert isinstance(mixed.reference, MixedReference) and len(pickle.dumps(mixed.reference)) < 2000
    lazy = predict(mixed, cube.chunk(site=1))
    assert b"_rebuild_tensor" not in pickle.dumps(lazy.NEE.data.dask)
    xr.testing.assert_allclose(lazy.load(), predict(mixed, cube))


def test_support_years_are_those_of_the_members_that_use_them(cube, runs):
    mixed = load_model(runs)
    assert mixed.support_years == () and len(mixed.settings["members"]) == 3
    chosen = mixed.with_support([2004])
    assert chosen.support_years == (2004,) and chosen.parts[2] is mixed.parts[2]
    xr.testing.assert_allclose(predict(chosen, cube)[list(FLUXES)], predict(mixed, cube)[list(FLUXES)])
    with pytest.raises(ConfigError, match="no day in the support years"):
        predict(mixed.with_support([1999]), cube)
    with pytest.raises(ConfigError, match=r"those of a member \(tam, long, lstm\)"):
        mixed.embed(cube)
    with pytest.raises(ConfigError, match="has none"):
        upscale(mixed.with_support([1999]), daily_forcing(cube))
