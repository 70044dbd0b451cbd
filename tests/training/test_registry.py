"""A model from outside the package: one class, one row of the registry, and it trains, scores and maps."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.skill import evaluate
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import registry
from fluxcube.models.base import Model, Sizes
from fluxcube.models.network import Network
from fluxcube.models.rows import RowModel
from fluxcube.models.settings import from_known_keys
from fluxcube.samples.splits import per_igbp
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.settings import configure


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Settings of both toys."""

    column: int = 0
    context: int = 6

    @classmethod
    def brief(cls):
        return cls(context=4)

    @classmethod
    def from_dict(cls, values):
        return from_known_keys(cls, values)


class ToyRows(RowModel):
    """The mean flux by day and by night."""

    kind = "toy-rows"
    needed_columns = {"column": "SW_IN"}  # noqa: RUF012

    def __init__(self, config, sizes):
        self.config, self.sizes = config, sizes
        self.means = np.zeros((2, sizes.targets))

    def rows(self, batch):
        sun = batch.inputs[:, -1, self.config.column]
        return np.float32(np.nan_to_num(sun, nan=-1.0) > -0.9)[:, None]

    def fit(self, rows, targets, val_rows=None, val_targets=None, *, seed=0, progress=None):
        for half in (0, 1):
            self.means[half] = np.nanmean(targets[rows[:, 0] == half], 0)
        return {}

    def predict_rows(self, rows):
        return self.means[rows[:, 0].astype(int)].astype(np.float32)

    def weights(self):
        return {"model.json": json.dumps(self.means.tolist()).encode()}

    def load_weights(self, files):
        self.means = np.array(json.loads(files["model.json"]))


class ToyNetwork(Network):
    """A linear layer on the inputs of the last time step."""

    kind = "toy-network"

    def __init__(self, config, sizes):
        super().__init__(config, sizes)
        self.layer = nn.Linear(sizes.inputs, sizes.targets)

    @property
    def context(self):
        return self.config.context

    def forward(self, batch):
        return self.layer(torch.nan_to_num(batch.inputs[:, -1:]))

    def predict(self, batch):
        self.eval()
        out = np.full((*batch.inputs.shape[:2], self.n_targets), np.nan, np.float32)
        with torch.inference_mode():
            out[:, -1:] = self(self.on_device(batch)).cpu().numpy()
        return out


ROWS = {
    "toy-rows": registry.Row(model=ToyRows, config=ToyConfig, trainer="rows", resolutions=("hourly",)),
    "toy-network": registry.Row(
        model=ToyNetwork,
        config=ToyConfig,
        trainer="descent",
        resolutions=("hourly",),
        presets={"brief": "default"},
        default="brief",
    ),
}


@pytest.fixture(params=ROWS)
def toy(request):
    registry.register(request.param, ROWS[request.param])
    yield request.param
    registry.unregister(request.param)


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=8)


def test_a_model_from_outside_trains_scores_and_maps(toy, cube, tmp_path):
    options = {"training": TrainingConfig(epochs=2, windows_per_epoch=128)} if toy == "toy-network" else {}
    run = fit(cube, model=toy, out=tmp_path / "run", predictors=("DOY", "TA", "SW_IN"), bands=(), seed=4, **options)
    model = load_model(run)
    assert isinstance(model.model, Model) and model.model.kind == toy
    test = cube.sel(site=list(per_igbp(cube, seed=4).test))
    predictions = predict(model, test)
    scores = evaluate(test, predictions)
    assert np.isfinite(scores.to_array().values if hasattr(scores, "to_array") else scores.nse.values).any()
    maps = upscale(model, example_forcing(shape=(3, 3), days=3), allow_missing=True).NEE.compute()
    assert np.isfinite(maps.values).any()
    again = fit(cube, model=toy, out=tmp_path / "two", predictors=("DOY", "TA", "SW_IN"), bands=(), seeds=2, **options)
    assert len(load_model(again).model.members) == 2


def test_options_are_those_that_the_toy_has(toy, cube, tmp_path):
    with pytest.raises(ConfigError, match=f"search is not available for {toy}"):
        fit(cube, model=toy, out=tmp_path / "run", search=3)
    config, _ = configure(toy, None, ["config.column=1"])
    assert config == ({"column": 1} if toy == "toy-rows" else ToyConfig(column=1, context=4))
    if toy == "toy-network":
        assert configure(toy, "brief")[0] == ToyConfig.brief()
    else:
        with pytest.raises(UnknownNameError, match="preset of toy-rows"):
            configure(toy, "brief")
        with pytest.raises(ConfigError, match="not trained in epochs"):
            fit(cube, model=toy, out=tmp_path / "run", epochs=2)


def test_the_registry_refuses_what_it_cannot_hold(cube, tmp_path):
    row = ROWS["toy-rows"]
    with pytest.raises(ConfigError, match="registered already"):
        registry.register("xgboost", row)
    with pytest.raises(ConfigError, match="resolutions must be"):
        registry.register("toy", registry.Row(model=ToyRows, config=ToyConfig, trainer="rows", resolutions=("weekly",)))
    with pytest.raises(ConfigError, match="default must be"):
        registry.register(
            "toy",
            registry.Row(model=ToyRows, config=ToyConfig, trainer="rows", resolutions=("hourly",), default="small"),
        )
    with pytest.raises(UnknownNameError, match="toy-rows"):
        registry.unregister("toy-rows")
    assert registry.build("sw-linear", {"column": 0}, Sizes(inputs=2)).members == ()


def test_a_wrong_trainer_is_named(cube, tmp_path):
    registry.register(
        "toy-rows", registry.Row(model=ToyRows, config=ToyConfig, trainer="descent", resolutions=("hourly",))
    )
    try:
        with pytest.raises(ConfigError, match="derive it from Network"):
            fit(cube, model="toy-rows", out=tmp_path / "run", predictors=("DOY", "SW_IN"), bands=(), config=ToyConfig())
    finally:
        registry.unregister("toy-rows")
