"""Worker processes of this machine: one for each region that is computed at once, or one for each of its cards."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

import dask.config

from fluxcube.devices import VISIBLE
from fluxcube.maps.allocation import allocator_environment
from fluxcube.processes import child_command, child_environment

logger = logging.getLogger(__name__)

#: Settings of Dask for worker processes of this machine: Dask's default, and ours where the user has not changed it. By
#: default a worker wakes up 160 times a second, to sample what its task is doing (for the dashboard), and to measure
#: its delays, load and RAM: up to a fifth of the time of its task. Its RAM is still measured, less often.
_QUIET: dict[str, tuple[object, str]] = {
    "distributed.worker.profile.enabled": (True, "False"),
    "distributed.admin.tick.interval": ("20ms", "1s"),
    "distributed.admin.system-monitor.interval": ("500ms", "5s"),
    "distributed.worker.memory.monitor-interval": ("100ms", "500ms"),
}


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
    environment = _worker_environment(child_environment()) | ({VISIBLE: team.card} if team.card else {})
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def _worker_environment(environ: dict[str, str]) -> dict[str, str]:
    """Return an environment for `dask worker` with our settings of Dask and of malloc, where the user has none."""
    quiet = {
        f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": ours
        for key, (default, ours) in _QUIET.items()
        if dask.config.get(key, default) == default
    }
    before_start = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {**quiet, **allocator_environment(environ, before_start)}


def text_of(teams: Sequence[Team], memory_limit: int) -> str:
    """Return a description of worker processes for the user."""
    memory = f"{memory_limit / 2**30:.1f} GiB of memory each"
    if not teams[0].card:
        return f"{teams[0].processes} processes of one thread and {memory}"
    threads = sum(team.threads for team in teams)
    return f"one process for each of {len(teams)} GPUs, {threads} threads in all, and {memory}"
