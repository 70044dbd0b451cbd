"""A process of two: the first one computes alone for longer than the others wait for a sign of life."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import time

import torch
from torch import distributed

from fluxcube.errors import ConfigError
from fluxcube.training import parallel
from fluxcube.training.parallel import World

#: Seconds without a sign of life after which an exchange fails, between two signs, and of the computation.
PATIENCE, parallel._REPORT, SECONDS = map(float, sys.argv[1:4])
limit = datetime.timedelta(seconds=PATIENCE)
joined = World.join("cpu")
world = dataclasses.replace(joined, control=distributed.new_group(backend="gloo", timeout=limit))


def score() -> str:
    """Compute for some seconds in the first process."""
    time.sleep(SECONDS)
    return f"score of {world.rank}"


def refuse() -> None:
    """Raise an error in the first process."""
    raise ConfigError("refused by the first process")


print(world.first(score), world.sum([1.0, world.rank]))
try:
    world.first(refuse)
except ConfigError as error:
    print(error)
parameter = torch.nn.Parameter(torch.zeros(2))
parameter.grad = torch.full((2,), 1.0 + world.rank)
unused = torch.nn.Parameter(torch.zeros(1))
world.add_gradients([parameter, unused], torch.zeros(()))
print(parameter.grad.tolist(), unused.grad)
world.meet()
