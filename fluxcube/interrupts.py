"""End work on signals: Ctrl-C, SIGTERM of a scheduler such as SLURM, SIGHUP of a closed terminal, and SIGUSR1.

A command (`Ending`) unwinds as after an error, so that its folders are removed and its processes end. If that takes too
long, because a thread computes or a library does not return, it is ended anyway. Work that must not stop at any
instruction, such as a step of training, postpones the signals (`postponed`), saves its state and delivers them then.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

#: Signals that end a command. SLURM sends SIGTERM, or with --signal another one, such as SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
#: Seconds in which a command may end by itself after Ctrl-C, after a second one, and after another signal: SLURM kills
#: what still runs after 30 (KillWait).
GRACE, HURRY, GRACE_OF_OTHERS = 3.5, 0.5, 24.0
#: Seconds in which temporary folders are removed by a command that did not end by itself.
_REMOVAL = 0.8
_temporary: set[Path] = set()

Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupted(BaseException):
    """A signal ends the command. Like KeyboardInterrupt it is no Exception: nothing may take it for a failure.

    Attributes
    ----------
    number : int
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequested(RuntimeError):
    """Raised by `Postponed.check` in functions that a library calls, which would ignore a KeyboardInterrupt."""


def seconds_left(error: BaseException) -> float:
    """Return for how long work that is running may be waited for after a KeyboardInterrupt or Interrupted.

    Examples
    --------
    >>> seconds_left(KeyboardInterrupt()) < seconds_left(Interrupted(signal.SIGTERM)) < 24
    True
    """
    other = isinstance(error, Interrupted) and error.number != signal.SIGINT
    return 0.75 * (GRACE_OF_OTHERS if other else GRACE)


def removed_at_end(folder: Path) -> Path:
    """Return a temporary folder, which is removed if this process has to be ended before it could do so."""
    _temporary.add(folder)
    return folder


def leave_on_signals() -> None:
    """End the process at once on signals: its command has not begun, or is complete, and nothing could be saved."""
    if threading.current_thread() is not threading.main_thread():
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, lambda number, frame: os._exit(128 + number))


class Postponed:
    """The signal that arrived while signals were postponed.

    Attributes
    ----------
    number : int
        Its number; 0 if none arrived.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Handler] = {}

    def check(self) -> None:
        """Raise StopRequested if a signal arrived."""
        if self.number:
            raise StopRequested("a signal arrived")

    def deliver(self, default: int = 0) -> None:
        """Do what the signal that arrived would have done, or the signal `default` if none did: usually raise."""
        number, self.number = self.number or default, 0
        if not number:
            return
        handler = self._before.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, None)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:  # the second Ctrl-C does not wait
            self.deliver()
        self.number = self.number or number

    def _install(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores some
                self._before[number] = signal.signal(number, self._arrive)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def postponed() -> Iterator[Postponed]:
    """Postpone the signals that end a process until the block delivers them or ends.

    A second Ctrl-C is not postponed; a second SIGTERM has no effect. In a thread nothing is postponed: signals arrive
    in the main one.

    Yields
    ------
    Postponed
    """
    waiting = Postponed()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    waiting._install()
    try:
        yield waiting
    finally:
        waiting._restore()
        waiting.deliver()


class Ending:
    """Context in which signals end the process: as an exception first, by the system if that takes too long.

    A thread waits for the signals as well: Python calls a handler between two instructions of the main thread only,
    which may be in a library for long. It ends the process if that is still running `GRACE` seconds later.

    Parameters
    ----------
    describe : callable
        Returns the line to print for a signal.
    """

    def __init__(self, describe: Callable[[int], str]) -> None:
        self._describe, self._raised, self._printed = describe, False, threading.Lock()
        self._before: dict[int, Handler] = {}
        self._wakeup, self._silenced = -1, logging.NOTSET

    def __enter__(self) -> Ending:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._raise)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="fluxcube-signals", daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._before:
            return
        if self._raised:
            logging.disable(self._silenced)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writing)  # ends the thread

    def end(self, number: int, text: str | None = None) -> NoReturn:
        """End the process, without the interpreter's own end: threads of libraries may still run, and would abort it.

        Parameters
        ----------
        number : int
            Signal that is the cause; the exit status is 128 more.
        text : str, optional
            Line to print instead of that of `describe`.
        """
        self._print(number, text)
        atexit._run_exitfuncs()  # no public function does: temporary files of libraries are removed there
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._leave(number)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._raised:  # further signals do not disturb what the first one causes
            self._raised, self._silenced = True, logging.root.manager.disable
            logging.disable()  # what libraries report while they are closed is of no use
            raise Interrupted(number)

    def _watch(self) -> None:
        first, deadline = 0, None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reading], [], [], left)[0]:
                self._print(first, None)
                self._leave(first)
            arrived = os.read(self._reading, 1)
            if not arrived:
                os.close(self._reading)
                return
            number, now = arrived[0], time.monotonic()
            if number not in self._before:
                continue
            if deadline is None:
                first, deadline = number, now + (GRACE if number == signal.SIGINT else GRACE_OF_OTHERS)
            elif number == signal.SIGINT:
                deadline = min(deadline, now + (HURRY if first == number else GRACE))

    def _print(self, number: int, text: str | None) -> None:
        if not self._printed.acquire(blocking=False):
            return
        shown = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""  # progress bars hide the cursor
        with contextlib.suppress(OSError):
            os.write(2, f"{shown}{text or self._describe(number)}\n".encode(errors="replace"))

    def _leave(self, number: int) -> NoReturn:
        threading.excepthook = lambda details: None  # a thread that still writes fails when its folder is removed
        removal = threading.Thread(target=_remove_temporary, daemon=True)
        removal.start()
        removal.join(_REMOVAL)
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(128 + number)


def _remove_temporary() -> None:
    for folder in list(_temporary):
        for _ in range(3):  # a thread may still write there
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def _children() -> list[int]:
    """Return the processes that this one started and that still run; none where the system does not list them."""
    pids: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += map(int, file.read_text().split())
    return pids
