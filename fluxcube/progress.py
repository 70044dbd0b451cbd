"""Progress of long work with the time left: a bar on a terminal, and a line now and then in a file or a pipe."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

#: What reports progress: the number of parts that are done, the number of all, and what is being done.
Progress = Callable[[int, int, str], None]

#: Seconds after which the first line is written where no bar can be drawn, and between later ones.
FIRST, EVERY = 5.0, 30.0
#: Titles of the progress that is shown now.
_titles: list[str] = []


class TimeLeft:
    """Estimates the time left from the pace since work began; it begins anew when its number of parts changes."""

    def __init__(self) -> None:
        self.done, self._total, self._first = 0, 0, 0
        self._begun = self._updated = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Record that `done` of `total` parts are done."""
        now = time.monotonic()
        if total != self._total or done < self.done:
            # The first part took the time since the last report; more than one were done by an earlier run.
            self._first, self._begun = (0, self._updated) if done == 1 else (done, now)
        self.done, self._total, self._updated = done, total, now

    @property
    def seconds(self) -> float | None:
        """Seconds left; None as long as no part was done."""
        done, left = self.done - self._first, self._total - self.done
        return (time.monotonic() - self._begun) / done * left if done > 0 else None

    @property
    def text(self) -> str:
        """What is done, such as "30 % (3 of 10)"; "" as long as nothing was reported."""
        return f"{100 * self.done // self._total} % ({self.done:,} of {self._total:,})" if self._total else ""


class SideBySide:
    """Shows the progress of works that run at the same time, or wait for their turn, as that of one.

    Each work may report several stages, such as reading and training: its longest counts.

    Parameters
    ----------
    works : sequence of str
        Names of the works, such as "seed 0".
    progress : callable or None
        What shows the progress of all.
    """

    def __init__(self, works: Sequence[str], progress: Progress | None):
        self._done, self._totals = dict.fromkeys(works, 0), dict.fromkeys(works, 0)
        self._ended: set[str] = set()
        self._progress = progress

    def update(self, work: str, done: int, total: int, text: str) -> None:
        """Record what one of the works reports."""
        if total >= self._totals[work]:
            self._done[work], self._totals[work] = done, total
        # The time left of one work is not that of all, which is computed from their common pace.
        self._show(f"{work}: {text.rsplit(', ', 1)[0] if text.endswith(' left') else text}")

    def end(self, work: str) -> None:
        """Record that one of the works has ended."""
        self._ended.add(work)
        self._show(f"{work} has ended")

    def _show(self, text: str) -> None:
        longest = max(self._totals.values()) or 1
        parts = [
            longest if work in self._ended else done if self._totals[work] == longest else 0
            for work, done in self._done.items()
        ]
        if self._progress:
            self._progress(sum(parts), longest * len(parts), text)


def now_and_then(progress: Progress, seconds: float = 0.5) -> Progress:
    """Return progress that passes on the first report, the last part, and in between one every few seconds."""
    last = -math.inf

    def passed(done: int, total: int, text: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= seconds:
            last = time.monotonic()
            progress(done, total, text)

    return passed


def duration(seconds: float) -> str:
    """Return a duration as text, to the accuracy of an estimate.

    Examples
    --------
    >>> duration(8), duration(150), duration(3 * 3600)
    ('8 s', '2.5 min', '3.0 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def lines(title: str, write: Callable[[str], object], *, first: float, every: float) -> Iterator[Progress]:
    """Yield progress that writes a line after `first` seconds and then every `every` seconds, whatever work reports.

    Parameters
    ----------
    title : str
        What is done, with which each line begins.
    write : callable
        ``write(line)``, called in a thread of its own.
    first, every : float
        Seconds until the first line, and between later ones.
    """
    left, text, ended = TimeLeft(), "", threading.Event()

    def report() -> None:
        wait, begun = first, time.monotonic()
        while not ended.wait(wait):
            parts = [f"{title}: {left.text or f'running for {duration(time.monotonic() - begun)}'}"]
            if left.seconds and "left" not in text:  # some work knows better than its pace; a part may follow the last
                parts.append(f"about {duration(left.seconds)} left")
            write(", ".join([*parts, text] if text else parts))
            wait = every

    def progress(done: int, total: int, what: str) -> None:
        nonlocal text
        left.update(done, total)
        text = what

    thread = threading.Thread(target=report, name="fluxcube-progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield progress that draws a bar on standard error if that is a terminal, and writes lines there if not.

    Every long function of fluxcube has an argument `progress` that takes it; without one it shows nothing.

    Parameters
    ----------
    title : str
        What is done.

    Examples
    --------
    >>> with show_progress("building") as progress:
    ...     progress(1, 2, "DE-Tha")
    """
    from rich.console import Console

    console = Console(stderr=True)
    shown = _drawn(title, console) if console.is_terminal else lines(title, _write, first=FIRST, every=EVERY)
    _titles.append(title)
    try:
        with shown as progress:
            yield progress
    finally:
        _titles.remove(title)


@contextlib.contextmanager
def show_running(title: str) -> Iterator[None]:
    """Write now and then that the work of a block runs, as long as `show_progress` shows nothing."""
    with lines(title, lambda line: None if _titles else _write(line), first=FIRST, every=EVERY):
        yield


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextlib.contextmanager
def _drawn(title: str, console: object) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as drawn:  # type: ignore[arg-type]
        task = drawn.add_task(title, total=None)

        def progress(done: int, total: int, text: str) -> None:
            drawn.update(task, completed=done, total=total or None, description=f"{title}: {text}" if text else title)

        yield progress
