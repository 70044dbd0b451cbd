"""Stop a running fetch, and report its bytes, from the threads that fetch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field


class Stopped(KeyboardInterrupt):
    """Raised in a thread of a fetch that the user interrupted; what is half-done continues with the next call."""


@dataclass(frozen=True)
class Control:
    """What a thread of `fluxcube.fetch.run.fetch_all` shares with the others.

    Attributes
    ----------
    stop : threading.Event
        Set when the fetch is interrupted.
    report : callable
        Receives the bytes of the item that are there, and its size or None.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    report: Callable[[int, int | None], None] = lambda done, total: None


#: The control of the thread that fetches; outside of `fetch_all` there is none.
current: ContextVar[Control | None] = ContextVar("fluxcube_fetch_control", default=None)


def check_stop() -> None:
    """Raise Stopped if the fetch was interrupted. Call it in every loop that waits or reads."""
    control = current.get()
    if control is not None and control.stop.is_set():
        raise Stopped("the fetch was interrupted")


def report_bytes(done: int, total: int | None) -> None:
    """Report the bytes of the current item that are there."""
    control = current.get()
    if control is not None:
        control.report(done, total)


def pause(seconds: float) -> None:
    """Wait, but no longer than until the fetch is interrupted."""
    control = current.get()
    if control is None:
        time.sleep(seconds)
    elif control.stop.wait(seconds):
        raise Stopped("the fetch was interrupted")
