"""Worker processes of this machine: one for each region that is computed at once, or one for each of its cards."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from fluxcube.devices import VISIBLE
from fluxcube.maps.allocation import allocator_environment
from fluxcube.processes import child_command, child_environment

logger = logging.getLogger(__name__)


class Team(NamedTuple):
    """Worker processes of this machine that are started together.

    Attributes
    ----------
    processes, threads : int
        Number of processes, and of threads of each.
    card : str
        The card of the processes, as CUDA_VISIBLE_DEVICES identifies it; "" for processes without one of their own.
    """

    processes: int
    threads: int
    card: str = ""


def make_teams(count: int, cards: Sequence[str]) -> list[Team]:
    """Return the processes that compute `count` regions at once: one for each card, else one for each region.

    The threads of a card's process take turns at the card (`fluxcube.inference.memory`): while one computes, the others
    read and prepare their regions, so that at most one region per thread is in RAM.

    Examples
    --------
    >>> make_teams(3, ())
    [Team(processes=3, threads=1, card='')]
    >>> make_teams(5, ("0", "2"))
    [Team(processes=1, threads=3, card='0'), Team(processes=1, threads=2, card='2')]
    """
    if not cards:
        return [Team(count, 1)]
    used = cards[:count]
    return [Team(1, len(range(i, count, len(used))), card) for i, card in enumerate(used)]


def start_team(team: Team, address: str, memory_limit: int, patience: float) -> subprocess.Popen:
    """Start the processes of a team, which connect to a scheduler within `patience` seconds.

    Dask's command line starts the workers: started by Python's multiprocessing, each would run the caller's script
    again from the top.
    """
    command = [
        *child_command("distributed.cli.dask_worker"),
        address,
        "--nworkers",
        str(team.processes),
        "--nthreads",
        str(team.threads),
        "--memory-limit",
        str(memory_limit),
        "--no-dashboard",
        "--death-timeout",
        str(int(patience)),
    ]
    log = subprocess.DEVNULL if not logger.isEnabledFor(logging.INFO) else None
    environment = allocator_environment(child_environment()) | ({VISIBLE: team.card} if team.card else {})
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def text_of(teams: Sequence[Team], memory_limit: int) -> str:
    """Return a description of worker processes for the user."""
    memory = f"{memory_limit / 2**30:.1f} GiB of memory each"
    if not teams[0].card:
        return f"{teams[0].processes} processes of one thread and {memory}"
    threads = sum(team.threads for team in teams)
    return f"one process for each of {len(teams)} GPUs, {threads} threads in all, and {memory}"
