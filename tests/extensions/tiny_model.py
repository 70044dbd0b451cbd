"""A model of another package: a perceptron on the last hours of a window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fluxcube.models.network import Network
from fluxcube.models.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TinyConfig(Settings):
    """Width of the hidden layer, and number of hours of a window."""

    width: int = 16
    context: int = 6


class Tiny(Network):
    """A perceptron with one hidden layer."""

    kind = "tiny"
    settings = TinyConfig
    resolutions = ("hourly",)

    def __init__(self, config, sizes):
        super().__init__(config, sizes)
        inputs = config.context * sizes.inputs
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, config.width), nn.GELU(), nn.Linear(config.width, sizes.targets)
        )

    def forward(self, batch):
        """Return scaled fluxes (windows, 1, targets) of the last hour of each window; missing inputs are 0."""
        return self.layers(torch.nan_to_num(batch.inputs))[:, None]
