"""Pace of training: learning rate, speed and time left, and batches that are prepared ahead."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fluxcube.errors import FluxcubeError

T = TypeVar("T")


def rate(at: float, epochs: float, warmup: float) -> float:
    """Return the fraction of the highest learning rate `at` epochs into a run: linear rise, then a cosine to zero.

    Examples
    --------
    >>> [round(rate(at, 11, 1), 3) for at in (0.5, 1, 6, 11)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if at < warmup:
        return at / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (at - warmup) / max(epochs - warmup, 1e-9))))


@dataclass
class Clock:
    """Speed of a run in this process, since it began or resumed.

    Attributes
    ----------
    now : callable
        Returns the time in seconds.
    """

    now: Callable[[], float] = time.monotonic

    def __post_init__(self):
        self.started, self.steps, self.windows = self.now(), 0, 0

    def text(self, done: int, total: int, windows: int) -> str:
        """Count one more step of `windows` windows; return windows per second and the time left.

        Examples
        --------
        >>> ticks = iter([0.0, 2.0])
        >>> Clock(lambda: next(ticks)).text(done=1, total=91, windows=32)
        ', 16 windows/s, 3 min left'
        """
        self.steps, self.windows = self.steps + 1, self.windows + windows
        passed = max(self.now() - self.started, 1e-9)
        left = passed / self.steps * (total - done)
        span = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
        return f", {self.windows / passed:,.0f} windows/s, {span} left"


def ahead(batches: Iterable[T], depth: int = 2) -> Iterator[T]:
    """Yield batches, up to `depth` of which are prepared in a thread while the present one is processed.

    Examples
    --------
    >>> list(ahead(range(5)))
    [0, 1, 2, 3, 4]
    """
    ready: queue.Queue = queue.Queue(depth)
    ended = threading.Event()

    def put(item: tuple[str, object]) -> bool:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not put(("batch", batch)):
                    return
            put(("end", None))
        except FluxcubeError as error:
            put(("error", error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        ended.set()
        thread.join()
