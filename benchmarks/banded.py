"""Measure maps of a banded EcoPerceiver relative to those of the dense form, from a store to a store.

    OMP_NUM_THREADS=1 python benchmarks/banded.py [--preset small] [--rounds 5] [--hours 1440] [--cells 2] [--bands 9]

The dense head is measured at stride 8, which leaves each hour at least 24 hours of history, and at stride 32; the
banded form with a band of the same T and of half of it. All maps have the same cells and hours, and take turns in each
round; CPU time of the process, one thread, random weights. Required: 5 times stride 8, and as fast as stride 32.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import torch
from upscale import BANDS, FLUXES, PREDICTORS, compared, forcing, mapped, spec
from windows import shape

from fluxcube.cubes.forcing_store import write_forcing
from fluxcube.models.base import Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver


def network(preset: str, targets: int, bands: int, **changes) -> EcoPerceiver:
    torch.manual_seed(0)
    config = dataclasses.replace(shape(preset), **({"head": "dense"} | changes))
    model = EcoPerceiver(config, Sizes(inputs=len(PREDICTORS), bands=bands, targets=targets))
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def main(preset: str, rounds: int, hours: int, cells: int, bands: int) -> None:
    torch.set_num_threads(1)
    targets = FLUXES if preset == "small" else FLUXES[:1]
    features = spec(targets, bands=bool(bands))
    dense = network(preset, len(targets), bands, attention="window")
    models = {f"dense, stride {n}": (dense, {"stride": n, "time_chunk": 720}) for n in (8, dense.context)}
    for band in (dense.config.context, dense.config.context // 2):
        model = network(preset, len(targets), bands, attention="banded", context=band)
        models[f"banded, band {band}, context {model.context}"] = (model, {})
    print(f"{preset}, {bands} bands, {len(targets)} targets, {hours} hours, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = write_forcing(forcing((cells, cells), 10 + hours // 24, bool(bands)), folder / "forcing.zarr")
        compared(
            {
                label: lambda model=model, options=options: mapped(
                    model, features, store, folder / "maps.zarr", hours, cells, **options
                )
                for label, (model, options) in models.items()
            },
            "dense, stride 8",
            rounds,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("published", "small"), default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hours", type=int, default=1440)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--bands", type=int, choices=(0, len(BANDS)), default=len(BANDS))
    arguments = vars(parser.parse_args())
    main(**arguments)
