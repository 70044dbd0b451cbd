"""Reflectance is of one satellite product in training and on the map."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
from inference_fakes import fake

import fluxcube as fc
from fluxcube.cubes.chips import CHIP_ATTRS
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.cubes.satellite import satellite_product
from fluxcube.errors import ConfigError
from fluxcube.inference.checks import check_product
from fluxcube.inference.grid import upscale
from fluxcube.resolution import DAILY, HOURLY
from fluxcube.simulation.example import example_cube, example_forcing


def hours(**attrs):
    forcing = example_forcing(shape=(2, 2), days=3)
    forcing["modis"].attrs.update(attrs)
    return forcing


def trained_on(product, **options):
    record = {"satellite_product": product} if product else {}
    return dataclasses.replace(fake(**options), metadata={"cube": record})


def daily_model(product):
    model = trained_on(product)
    return dataclasses.replace(
        model,
        spec=dataclasses.replace(
            model.spec, resolution="daily", predictors=("DOY", "TA", "SW_IN"), bands=(), surface=("red", "nir")
        ),
    )


def test_the_product_is_read_from_what_stores_of_every_version_say():
    assert satellite_product(hours(**CHIP_ATTRS)) == satellite_product(hours(product="MCD43A4")) == "MCD43A4"
    assert satellite_product(hours()) is None and satellite_product(hours().drop_vars("modis")) is None
    assert satellite_product(hours(long_name=HOURLY.satellite_title)) == "MCD43A4"
    days = daily_forcing(hours(**CHIP_ATTRS))
    assert satellite_product(days) == days.surface.attrs["product"] == "MCD43A4"
    days.surface.attrs = {"long_name": DAILY.satellite_title}
    assert satellite_product(days) == "MOD09GA"
    assert "product" not in daily_forcing(hours()).surface.attrs


def test_another_product_is_refused_and_recorded_where_it_is_allowed():
    days = daily_forcing(hours(**CHIP_ATTRS))
    with pytest.raises(ConfigError, match=r"trained on MOD09GA.*data \(surface\) is MCD43A4.*allow_other_product=True"):
        check_product(daily_model("MOD09GA"), days, False)
    allowed = check_product(daily_model("MOD09GA"), days, True)
    assert allowed == {"satellite_product": "MCD43A4", "satellite_product_of_training": "MOD09GA"}
    assert check_product(daily_model("MCD43A4"), days, False)["satellite_product"] == "MCD43A4"
    with pytest.raises(ConfigError, match=r"trained on MCD43A4.*data \(modis\) is MOD09GA"):
        upscale(trained_on("MCD43A4"), hours(product="MOD09GA"))
    maps = upscale(trained_on("MCD43A4"), hours(product="MOD09GA"), allow_other_product=True)
    assert (maps.attrs["satellite_product"], maps.attrs["satellite_product_of_training"]) == ("MOD09GA", "MCD43A4")


@pytest.mark.parametrize(("model", "forcing"), [(None, "MCD43A4"), ("MCD43A4", None), (None, None)])
def test_a_product_that_is_not_recorded_is_a_warning(model, forcing, caplog):
    with caplog.at_level(logging.WARNING):
        maps = upscale(trained_on(model), hours(**({"product": forcing} if forcing else {})))
    assert f"model {model or 'unknown'}, data {forcing or 'unknown'}" in caplog.text
    assert maps.attrs["satellite_product"] == (forcing or "unknown")


def test_a_model_or_a_forcing_without_reflectance_is_not_concerned(caplog):
    with caplog.at_level(logging.WARNING):
        for model, forcing in (
            (trained_on("MOD09GA", bands=()), hours(product="MCD43A4")),
            (trained_on(None, bands=()), hours()),
        ):
            assert check_product(model, forcing, False) == {}
        assert check_product(trained_on("MOD09GA"), hours().drop_vars("modis"), False) == {}
    assert "satellite product" not in caplog.text


def test_training_records_the_product(tmp_path):
    cube = example_cube(sites=12, days=6)
    cube["modis"].attrs["long_name"] = HOURLY.satellite_title
    run = fc.fit(cube, model="sw-linear", out=tmp_path / "run")
    assert fc.load_model(run).metadata["cube"]["satellite_product"] == "MCD43A4"
    plain = fc.fit(example_cube(sites=12, days=6), model="sw-linear", out=tmp_path / "plain")
    assert "satellite_product" not in json.loads(json.dumps(dict(fc.load_model(plain).metadata["cube"])))
