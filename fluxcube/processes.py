"""Start helper processes of Python that never import files of the current folder, and never outlive their parent.

Python puts the current folder first on the path of ``python -m`` and ``python -c``: a file ``json.py`` or ``random.py``
among downloads would be executed. A process learns from a pipe that its parent has ended, in whatever way: the system
closes the other end. This module is the program that such a process runs first.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing.connection import Connection

T = TypeVar("T")

_SAFE = "PYTHONSAFEPATH"
#: Seconds that a process of a pool may take to save its state after its parent has ended or asked it to stop.
_LAST = 20.0
#: Seconds that the parent waits for the next message before it looks whether a process has ended its work.
_LISTEN = 0.2
#: Bytes of the longest message: the system writes that many at once, so that messages of several processes never mix.
_LONGEST = 512


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
def process_pool(count: int) -> Iterator[tuple[ProcessPoolExecutor, Connection]]:
    """Yield processes that end when the block ends by an error, or when this process ends in any way.

    They receive a SIGTERM then, so that they can save their state, and are ended if they have not ended by themselves.

    Parameters
    ----------
    count : int
        Number of processes.

    Yields
    ------
    pool : ProcessPoolExecutor
    messages : Connection
        What the processes send by `tell`, for `as_told`.
    """
    from concurrent.futures import ProcessPoolExecutor

    theirs, ours = multiprocessing.Pipe(duplex=False)
    messages, to_parent = multiprocessing.Pipe(duplex=False)
    with safe_children(), theirs, messages, to_parent:
        start = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, start, _begin_process, (theirs, to_parent))
        try:
            yield pool, messages
            pool.shutdown()
        finally:
            ours.close()
            pool.shutdown(cancel_futures=True)


def tell(*message: str | float) -> None:
    """Send a message from a process of a pool to its parent; one that is too long is not sent."""
    text = json.dumps(message).encode()
    if _to_parent is not None and len(text) <= _LONGEST:
        with suppress(OSError):  # the parent has ended, and this process is about to
            _to_parent.send_bytes(text)


def as_told(futures: Collection[Future[T]], messages: Connection, hear: Callable[..., object]) -> Iterator[Future[T]]:
    """Yield futures of a pool as they complete; meanwhile call ``hear(*message)`` for each message of its processes."""
    from concurrent.futures import wait

    pending = set(futures)
    while pending:
        if messages.poll(_LISTEN):
            hear(*json.loads(messages.recv_bytes()))
        done, pending = wait(pending, timeout=0)
        yield from done


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


#: Connection of a process of a pool on which it sends messages to its parent.
_to_parent: Connection | None = None


def _begin_process(parent: Connection, messages: Connection) -> None:
    global _to_parent
    _to_parent = messages
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
