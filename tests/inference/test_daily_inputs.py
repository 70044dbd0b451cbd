"""What a daily forcing supplies to a model: reflectance and what is made of it, and classes."""

from __future__ import annotations

from types import SimpleNamespace

from fluxcube.cubes.climates import add_climates
from fluxcube.cubes.forcing_daily import daily_forcing
from fluxcube.inference.options import PredictionOptions
from fluxcube.inference.outputs import masked_inputs, provenance
from fluxcube.inference.predictor import Predictor
from fluxcube.samples.features import FeatureSpec
from fluxcube.simulation.example import example_forcing

SPEC = FeatureSpec(
    predictors=("TA", "TA_RANGE", "SW_IN", "SW_IN_POT"),
    surface=("nir", "NDVI", "NIRv"),
    static=("igbp", "koppen"),
    igbp_classes=("GRA",),
    koppen_classes=("C",),
    resolution="daily",
)


def test_indices_are_there_where_their_bands_are_and_climates_where_they_are_given():
    model, hours = Predictor(SimpleNamespace(), SPEC), example_forcing(days=4)
    assert masked_inputs(model, daily_forcing(add_climates(hours, "Cfb")), "grid") == ()
    assert masked_inputs(model, daily_forcing(hours), "grid") == ("koppen",)
    assert masked_inputs(model, daily_forcing(add_climates(hours, "C").drop_vars("modis")), "grid") == (
        "nir",
        "NDVI",
        "NIRv",
    )
    fewer = daily_forcing(add_climates(hours, "C"))
    fewer = fewer.sel(band=["red", "blue"]).sel(variable=["TA", "SW_IN", "SW_IN_POT"])
    assert masked_inputs(model, fewer, "grid") == ("TA_RANGE", "nir", "NDVI", "NIRv")


def test_attributes_count_in_days_and_tell_no_clock_of_the_towers():
    """Maps of days have dates of solar time, whatever the midnight was of the days that the model saw."""
    wanted = PredictionOptions(stride=1, min_context=45)
    given = {"spec": SPEC, "metadata": {}, "model": SimpleNamespace(context=45), "digest": "d"}
    predictor = SimpleNamespace(**given)
    predictor.singles = (predictor,)
    attrs = provenance(predictor, wanted, ())
    assert (attrs["context_days"], attrs["stride_days"], attrs["min_context_days"]) == (45, 1, 45)
    assert "clock" not in attrs and not any("hours" in name for name in attrs)
