"""What a type checker sees of the public names: read by mypy (`make test`), never run.

An ignored error is one that mypy must find; it refuses an ignore that is not needed.
"""

from typing import assert_type

import xarray as xr

import fluxcube as fc
from fluxcube import simulation
from fluxcube.inference.predictor import Predictor
from fluxcube.training.run import Run

cube = fc.open_carbonsense("carbonsense.zarr", sites=["DE-Tha"])
assert_type(cube, xr.Dataset)
assert_type(simulation.example_cube(), xr.Dataset)
run = fc.fit(cube, target="NEE", out="runs/eco", memory_days=(1, 7, 30))
assert_type(run, Run)
assert_type(fc.load_model(run), Predictor)
assert_type(fc.scores.nse(cube["fluxes"], cube["fluxes"]), xr.DataArray)
fc.upscail  # type: ignore[attr-defined]
fc.open_carbonsense("carbonsense.zarr", site="DE-Tha")  # type: ignore[call-arg]
fc.fit(cube, epochs=3, epoch=3)  # type: ignore[call-arg]
fc.evaluate(cube, cube, skala=True)  # type: ignore[call-arg]
fc.scores.nsee  # type: ignore[attr-defined]
fc.fetch.era5("era5", years="2018", region=5)  # type: ignore[arg-type]
fc.fetch.modiss  # type: ignore[attr-defined]
