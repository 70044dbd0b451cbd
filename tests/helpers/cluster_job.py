"""The map of the tests on clusters: a program, so that it can be killed, and what workers import."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from inference_fakes import WindowModel, fake

from fluxcube.inference.grid import upscale
from fluxcube.maps.store import write_maps
from fluxcube.simulation.example import example_forcing


@dataclass(frozen=True)
class SlowModel(WindowModel):
    """Takes its time, so that a kill meets a task."""

    pause: float = 0.0

    def predict(self, batch):
        time.sleep(self.pause)
        return super().predict(batch)


def make_maps(pause=0.0, days=10, model=SlowModel):
    """Maps of 4 x days regions."""
    import dataclasses

    forcing = example_forcing(shape=(4, 6), days=days).chunk(latitude=2, longitude=3)
    return upscale(dataclasses.replace(fake(), model=model(pause=pause)), forcing, time_chunk=24)


if __name__ == "__main__":
    store, scheduler, pause, days = sys.argv[1:]
    write_maps(make_maps(float(pause), int(days)), store, scheduler=scheduler)
