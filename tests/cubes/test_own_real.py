"""Real predictors at real towers: LAI of AT-Neu (MCD15A2H) and the dates of phenology (MCD12Q2)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.samples.towers import cube_spec
from fluxcube.simulation.example import example_cube
from fluxcube.variables import forget


@pytest.fixture(autouse=True)
def _no_declarations():
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def cube():
    """Simulated weather of June and July 2018 at the places of two real towers."""
    places = {"latitude": ("site", [47.117, 50.962]), "longitude": ("site", [11.318, 13.565])}
    return example_cube(sites=2, days=60).assign_coords(site=["AT-Neu", "DE-Tha"], **places)


@pytest.fixture(scope="module")
def pixels(shared_data):
    return pd.read_csv(shared_data / "vegetation/mcd15a2h_AT-Neu_5x5px.csv.gz")


def test_leaf_area_of_a_meadow(cube, pixels, caplog):
    fc.declare("LAI", units="m2 m-2", bounds=(0, 10), long_name="leaf area index (MCD15A2H)")
    with pytest.raises(SchemaError, match=r"keep one value.*groupby\(\['site', 'calendar_date'\]\)"):
        fc.add_predictor(cube, "LAI", pixels, column="Lai_500m")
    good = pixels[pixels.FparLai_QC % 2 == 0]
    lai = good.groupby(["site", "calendar_date"])["Lai_500m"].mean().reset_index()
    out = fc.add_predictor(cube, "LAI", lai, column="Lai_500m", hold_days=8)
    assert "1 of 2 sites have no value (DE-Tha)" in caplog.text and "bounds" not in caplog.text
    hours = out.predictors.sel(variable="LAI", site="AT-Neu").load()
    assert float(np.isfinite(hours).mean()) == 1 and 0.5 < float(hours.min()) < float(hours.max()) < 7
    # A composite that begins on a date is known eight days later, from local midnight on (the sun is 45 minutes early).
    composite = lai[lai.calendar_date == "2018-06-18"].iloc[0]
    known = pd.Timestamp("2018-06-26") - pd.Timedelta(45, "min")
    assert float(hours.sel(time=known.ceil("h"))) == pytest.approx(composite.Lai_500m, rel=1e-6)
    before = lai[lai.calendar_date == "2018-06-10"].iloc[0]
    assert float(hours.sel(time=known.floor("h"))) == pytest.approx(before.Lai_500m, rel=1e-6)
    assert cube_spec(out, ["AT-Neu"], bands=()).inputs[-1] == "LAI"


def test_a_scale_factor_that_was_not_applied_is_refused(cube, pixels):
    fc.declare("LAI", units="m2 m-2", bounds=(0, 10))
    raw = pixels.assign(Lai=pixels.Lai_500m * 10).query("pixel == 13")  # as integers of the product
    with pytest.raises(ConfigError, match="scale factor"):
        fc.add_predictor(cube, "LAI", raw.assign(Lai=raw.Lai + 5), column="Lai")


def test_the_mean_date_of_greenup_is_a_static_predictor(cube, shared_data):
    fc.declare(
        "GREENUP", units="d", bounds=(1, 367), kind="static", long_name="mean day of the year of greenup (MCD12Q2)"
    )
    table = pd.read_csv(shared_data / "vegetation/mcd12q2_phenology_siteyears.csv.gz")
    dates = pd.to_datetime(table.m_gup_1)
    greenup = dates.dt.day_of_year.groupby(table.site).mean()
    out = fc.add_predictor(cube, "GREENUP", greenup)
    assert 60 < float(out.GREENUP.sel(site="AT-Neu")) < 130 and 60 < float(out.GREENUP.sel(site="DE-Tha")) < 130
    spec = cube_spec(out, bands=())
    assert spec.numbers[-1] == "GREENUP" and spec.to_dict()["declared"][0]["bounds"] == [1, 367]
