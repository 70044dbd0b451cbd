"""Start helper processes of Python that never import files of the current folder, and never outlive their parent.

Python puts the current folder first on the path of ``python -m`` and ``python -c``: a file ``json.py`` or ``random.py``
among downloads would be executed. A process learns from a pipe that its parent has ended, in whatever way: the system
closes the other end. This module is the program that such a process runs first.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.connection import Connection

_SAFE = "PYTHONSAFEPATH"
#: Seconds that a process of a pool may take to save its state after its parent has ended or asked it to stop.
_LAST = 20.0


def child_command(module: str) -> list[str]:
    """Return the command that runs a module as a program in a new process, without its arguments.

    If the standard input of the process is a pipe (``stdin=subprocess.PIPE``), it ends when the parent closes that or
    ends. Start it in a session of its own (``start_new_session=True``), so that Ctrl-C reaches the parent only.
    """
    return [sys.executable, "-P", "-m", "fluxcube.processes", module]


def child_environment() -> dict[str, str]:
    """Return the environment of a new process that can import what this one can, but nothing of the current folder.

    An absolute path in PYTHONPATH is kept, since it was requested, even if it is the current folder.

    Returns
    -------
    dict of str to str
        With PYTHONPATH and PYTHONSAFEPATH. If fluxcube itself is in the current folder, that folder comes last, behind
        the standard library.
    """
    requested = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and os.path.isabs(p)]
    here = os.path.realpath(os.getcwd())
    others = [p for p in sys.path if p and (p in requested or os.path.realpath(p) != here)]
    own = str(Path(__file__).parents[1])
    path = dict.fromkeys([*requested, *map(os.path.abspath, others), own])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), _SAFE: "1"}


@contextmanager
def safe_children() -> Iterator[None]:
    """Let the processes that `multiprocessing` starts within the block leave the current folder off their path."""
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = before


@contextmanager
def process_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that end when the block ends by an error, or when this process ends in any way.

    They receive a SIGTERM then, so that they can save their state, and are ended if they have not ended by themselves.

    Parameters
    ----------
    count : int
        Number of processes.
    """
    from concurrent.futures import ProcessPoolExecutor

    theirs, ours = multiprocessing.Pipe(duplex=False)
    with safe_children(), theirs:
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _watch_connection, (theirs,))
        try:
            yield pool
            pool.shutdown()
        finally:
            ours.close()
            pool.shutdown(cancel_futures=True)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in the processes that are started within the block; in this one, it arrives when the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_connection(parent: Connection) -> None:
    threading.Thread(target=_stop_with, args=(parent,), name="fluxcube-parent", daemon=True).start()


def _stop_with(parent: Connection) -> None:
    parent.poll(None)  # nothing is ever sent: it ends when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST)
    os._exit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    """End this process when the other end of its standard input, a pipe, is closed, whatever it is doing."""
    watched = select.poll()
    watched.register(0, 0)  # closing is always reported; data are read by others
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in watched.poll()):
        time.sleep(1)  # the standard input is closed already, or no pipe
    os._exit(1)


def main() -> None:
    """Run the module that the first argument names as a program, which ends with its parent."""
    if hasattr(select, "poll"):
        threading.Thread(target=_end_with_parent, name="fluxcube-parent", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
