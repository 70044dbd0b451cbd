"""What tests of training share: a small model, a short training, and runs on an example cube."""

from __future__ import annotations

from fluxcube.models.ecoperceiver import EcoPerceiverConfig
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit

TINY = EcoPerceiverConfig(
    latent=16, frequencies=4, embedding=4, context=24, heads=2, blocks=1, self_layers=1, head="dense"
)
FAST = TrainingConfig(epochs=3, batch_size=16, val_windows=64, lr=5e-3)
TARGETS = ("NEE", "GPP_NT")


def small_cube():
    """Twelve towers and as many days."""
    return example_cube(sites=12, days=12)


def eco(cube, out, **changes):
    """Train the small model."""
    settings = {"model": "ecoperceiver", "config": TINY, "training": FAST, "target": TARGETS, "seed": 4}
    return fit(cube, out=out, **settings | changes)


def weights(folder) -> bytes:
    """The content of a run's weights."""
    return (folder / "model.safetensors").read_bytes()


def without_time(history):
    """A history without what another machine would not repeat."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]
