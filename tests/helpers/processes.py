"""Processes that a test starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

HELPERS = Path(__file__).parent


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Return this process's environment, in which the helper modules and those of `folders` can be imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HELPERS, *folders)))} | variables


class Fork:
    """A copy of this process that calls a function and ends; unlike a new one, it need not import every module again.

    Parameters
    ----------
    function : callable
        Called in the copy with an open text file, of which each line can be read here, from `output`, at once.
    """

    def __init__(self, function: Callable[[TextIO], object]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _call(function, writing)
        os.close(writing)
        self.output = os.fdopen(reading, encoding="utf-8")

    def kill_at(self, text: str) -> None:
        """Kill the process as the system does, when it has written a line that begins with `text`."""
        for line in self.output:
            if line.startswith(text):
                os.kill(self.pid, signal.SIGSTOP)  # it does nothing more while this process looks at it
                break
        self.kill()

    def kill(self) -> None:
        """Kill the process, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status, negative if a signal ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.output.close()
        return os.waitstatus_to_exitcode(status)


def _call(function: Callable[[TextIO], object], writing: int) -> None:
    """Call a function, and end this process without what pytest would do at its end."""
    import dask

    status = 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # no copy outlives its test for long
    try:
        # Threads are not copied: those of Dask's pool would be waited for in vain.
        with os.fdopen(writing, "w", buffering=1, encoding="utf-8") as output, dask.config.set(scheduler="sync"):
            function(output)
        status = 0
    finally:
        os._exit(status)
