"""What a cube is: the checks accept the examples, refuse each defect, and name it."""

from __future__ import annotations

import numpy as np
import pytest

from fluxcube.errors import SchemaError
from fluxcube.schema import CHIP_X, CHIP_Y, validate_cube, validate_forcing, validate_maps
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.variables import variable


@pytest.mark.parametrize("name", ["predictors", "predictors_qc", "fluxes", "fluxes_qc"])
def test_a_missing_array_is_named(name):
    with pytest.raises(SchemaError, match=name):
        validate_cube(example_cube(sites=1, days=1).drop_vars(name))


@pytest.mark.parametrize("name", ["latitude", "igbp", "utc_offset", "time_start"])
def test_a_missing_coordinate_is_named(name):
    with pytest.raises(SchemaError, match=name):
        validate_cube(example_cube(sites=1, days=1).drop_vars(name))


def test_order_of_dimensions_and_holes_in_time_are_refused():
    cube = example_cube(sites=2, days=2)
    with pytest.raises(SchemaError, match="transpose"):
        validate_cube(cube.transpose("time", "site", ...))
    with pytest.raises(SchemaError, match="without holes"):
        validate_cube(cube.isel(time=[0, 1, 3]))
    forcing = example_forcing(days=1)
    with pytest.raises(SchemaError, match="land_fraction"):
        validate_forcing(forcing.drop_vars("land_fraction"))
    with pytest.raises(SchemaError, match="maps must contain"):
        validate_maps(forcing[[]])


def test_one_variable_per_name_keeps_values_units_and_flags():
    cube = example_cube(sites=2, days=2)
    wide = cube.fluxcube.to_variables()
    for name in ("TA", "SW_IN", "NEE", "LE"):
        assert wide[name].dims == ("site", "time") and wide[name].attrs["units"] == variable(name).units
        assert f"{name}_QC" in wide
    np.testing.assert_array_equal(wide.TA, cube.predictors.sel(variable="TA"))
    np.testing.assert_array_equal(wide.NEE_QC, cube.fluxes_qc.sel(target="NEE"))
    assert "variable" not in wide.dims and wide.modis.dims == cube.modis.dims


def test_to_variables_computes_nothing():
    cube = example_cube(sites=2, days=2).chunk({"site": 1})
    wide = cube.fluxcube.to_variables()
    assert wide.TA.chunks and wide.NEE_QC.chunks


def test_a_chip_s_pixels_are_centred():
    assert CHIP_Y.sum() == 0 and CHIP_X.sum() == 0 and len(CHIP_Y) == 8 and CHIP_Y[0] > CHIP_Y[-1]
