"""Call the HDF4 library in a process of its own: a damaged file can crash it, which must not end the build of a cube.

One process, `fluxcube.sources.modis.hdf_read`, reads all files, one request at a time.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import MissingPackageError, SourceError
from fluxcube.processes import child_command, child_environment
from fluxcube.sources.modis.hdf_read import FRAME, framed

#: Seconds without an answer after which a file counts as damaged: a layer of a whole tile is decompressed within one.
PATIENCE = 120
_ERRORS = {error.__name__: error for error in (SourceError, MissingPackageError)}


class _Worker:
    """The reading process, and the pipes to and from it; it belongs to one parent process only."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        #: Size and time of change of each file that it has read.
        self.seen: dict[Path, tuple[int, int] | None] = {}
        self._process = subprocess.Popen(
            child_command("fluxcube.sources.modis.hdf_read"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=child_environment(),
        )
        requests, answers = self._process.stdin, self._process.stdout
        assert isinstance(requests, FileIO) and isinstance(answers, FileIO)  # what Popen returns without a buffer
        self._requests, self._answers = requests, answers

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def send(self, request: Mapping[str, object]) -> None:
        self._requests.write(framed(request))

    def receive(self) -> dict[str, Any]:
        """Return the next message; EOFError as of `_fill`."""
        length = bytearray(FRAME)
        self._fill(memoryview(length))
        text = bytearray(int.from_bytes(length, "big"))
        self._fill(memoryview(text))
        return json.loads(text)

    def receive_array(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        """Return the array that follows a message."""
        out = np.empty(shape, dtype)
        self._fill(out.reshape(-1).view(np.uint8).data)
        return out

    def _fill(self, buffer: memoryview) -> None:
        """Fill a buffer with bytes of the answer; EOFError where the process has ended, or does not answer."""
        while buffer:
            if not select.select([self._answers], [], [], PATIENCE)[0]:
                raise EOFError(f"gave no answer within {PATIENCE} s")
            if not (count := self._answers.readinto(buffer)):
                raise EOFError(f"ended with status {self._process.wait()}")
            buffer = buffer[count:]

    def stop(self) -> None:
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()


_lock = threading.RLock()
_worker: _Worker | None = None


def call(function: str, path: Path, **options: object) -> Iterator[Any]:
    """Yield the values that a reader yields for a file, from the other process.

    Parameters
    ----------
    function : str
        A key of `fluxcube.sources.modis.hdf_read.READERS`: it yields arrays, and values that JSON can represent.
    path : Path
    options
        Further arguments of the reader, which JSON can represent.

    Raises
    ------
    SourceError
        As the reader; and if the library crashed or did not answer.
    """
    with _lock:
        worker, yielded = _worker_for(path), False
        read_others = worker.seen.keys() - {path}
        try:
            for value in _answers(worker, function, path, options):
                yielded = True
                yield value
        except SourceError:
            # An earlier file may have damaged the library's state: only the error of a new process is final.
            if yielded or not read_others:
                raise
            yield from _answers(_worker_for(path), function, path, options)


def _answers(worker: _Worker, function: str, path: Path, options: Mapping[str, object]) -> Iterator[Any]:
    """Yield the answers to one request; a process with an error, or with answers left, receives no other request."""
    done = False
    try:
        worker.send({"function": function, "path": str(path), **options})
        while (answer := worker.receive()) != {"done": True}:
            if "error" in answer:
                raise _ERRORS[answer["error"]](answer["text"])
            yield worker.receive_array(**answer["array"]) if "array" in answer else answer["value"]
        done = True
    except (EOFError, BrokenPipeError) as problem:
        raise SourceError(
            f"{path}: the HDF4 library {problem or 'crashed'} on it: the file is damaged, download it again."
        ) from problem
    finally:
        if not done:
            worker.stop()


def _worker_for(path: Path) -> _Worker:
    """Return the process; a new one if this one read other contents of the file, which the library may still have."""
    state = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
    worker = _running()
    if worker.seen.get(path, state) != state:
        worker.stop()
        worker = _running()
    worker.seen[path] = state
    return worker


def _running() -> _Worker:
    global _worker
    if _worker is None or not _worker.usable:
        _worker = _Worker()
        atexit.register(_worker.stop)
    return _worker
