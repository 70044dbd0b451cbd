"""Checks of data against models: each member of a mixed ensemble counts, and every message is logged once."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
from inference_fakes import fake

from fluxcube.errors import ConfigError
from fluxcube.inference.checks import check_absent, check_product, note_timing
from fluxcube.inference.grid import upscale
from fluxcube.inference.mixed import mix
from fluxcube.simulation.example import example_forcing
from fluxcube.variables import TIMING, declare, forget


def members(**records):
    """Return a mixed ensemble of two members, each with its record of the cube that trained it."""
    parts = [
        dataclasses.replace(fake(), digest=name, metadata={"cube": record, "training_sites": []})
        for name, record in records.items()
    ]
    return mix(parts)


@pytest.fixture
def forcing():
    ds = example_forcing(shape=(2, 2), days=3)
    ds["modis"].attrs["product"] = "MCD43A4"
    return ds


def test_another_product_is_logged_once_and_the_products_of_all_members_are_recorded(forcing, caplog):
    alike = members(a={"satellite_product": "MOD09GA"}, b={"satellite_product": "MOD09GA"})
    check_product(alike, forcing, True)
    assert [record.message for record in caplog.records] == [
        "the model was trained on MOD09GA, and is used with MCD43A4 as allowed"
    ]
    different = members(a={"satellite_product": "MCD43A4"}, b={"satellite_product": "MOD09GA"})
    with pytest.raises(ConfigError, match=r"MOD09GA.*allow_other_product=True"):
        check_product(different, forcing, False)
    assert check_product(different, forcing, True) == {
        "satellite_product": "MCD43A4",
        "satellite_product_of_training": "MCD43A4, MOD09GA",
    }


def test_other_timing_than_that_of_any_member_is_logged(forcing, caplog):
    timing = json.dumps({"VPD": [8, 8]})
    mixed = members(a={}, b={TIMING: timing})
    note_timing(mixed, forcing.assign_attrs({TIMING: timing}))
    assert not caplog.records
    note_timing(mixed, forcing.assign_attrs({TIMING: json.dumps({"VPD": [8, 0]})}))
    assert "hold_days=8 and delay_days=8, these data have 8 and 0" in caplog.text and len(caplog.records) == 1


def test_absent_inputs_are_either_refused_or_logged(forcing, caplog):
    fewer = forcing.drop_sel(variable="VPD")
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError, match=r"trained on VPD, .*surface=\(\)"):
        upscale(fake(), fewer)
    assert "masked" not in caplog.text
    upscale(fake(), fewer, allow_missing=True)
    assert "masked, since the grid does not supply them: VPD" in caplog.text


def test_the_advice_on_an_absent_predictor_of_the_user_is_how_to_add_it():
    declare("LAI", units="m2 m-2", bounds=(0, 10), long_name="leaf area index")
    try:
        with pytest.raises(ConfigError, match=r"LAI: fluxcube.add_predictor\(forcing, 'LAI', ...\)"):
            check_absent(["LAI"], False, fake().spec)
    finally:
        forget("LAI")
