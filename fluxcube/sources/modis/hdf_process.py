"""Use the HDF4 library in a process of its own: a damaged file can crash it, which must not take a build along.

One process serves all files, one request at a time. Messages are JSON behind their length; the bytes of an array follow
the message that describes it. No pickle: what comes back is numbers and text only.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fluxcube.errors import FluxcubeError, MissingPackageError, SourceError

#: Seconds without an answer after which a file counts as damaged: a layer of a whole tile is unpacked within one.
PATIENCE = 120
_FRAME = 4
_ERRORS = {error.__name__: error for error in (SourceError, MissingPackageError)}


class _Worker:
    """The process, and the pipes to and from it; of one parent process only."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        #: Size and time of change of each file that it was asked for.
        self.seen: dict[Path, tuple[int, int] | None] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fluxcube.sources.modis.hdf_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, request: Mapping) -> None:
        self._process.stdin.write(_framed(request))

    def answer(self) -> dict:
        size = int.from_bytes(self._read(bytearray(_FRAME)), "big")
        return json.loads(self._read(bytearray(size)))

    def array(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        out = np.empty(shape, dtype)
        self._read(out.reshape(-1).view(np.uint8))
        return out

    def _read(self, into: bytearray | np.ndarray) -> bytearray | np.ndarray:
        """Fill a buffer; EOFError where the process is no more, or does not answer."""
        view = memoryview(into)
        while view:
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                raise EOFError(f"gave no answer within {PATIENCE} s")
            if not (count := self._process.stdout.readinto(view)):
                raise EOFError(f"ended with status {self._process.wait()}")
            view = view[count:]
        return into

    def stop(self) -> None:
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()


def _framed(message: Mapping) -> bytes:
    """Return a message as the length of its JSON, and that."""
    text = json.dumps(message).encode()
    return len(text).to_bytes(_FRAME, "big") + text


_lock = threading.RLock()
_worker: _Worker | None = None


def call(function: str, path: Path, **options: object) -> Iterator[object]:
    """Yield what a function of `fluxcube.sources.modis.hdf` gives for a file, from the other process.

    Parameters
    ----------
    function : str
        A name of `hdf.SERVED`: it yields arrays, and what JSON can hold.
    path : Path
    options
        More arguments, as JSON can hold them.

    Raises
    ------
    SourceError
        As the function; and if the library crashed or hung on the file.
    """
    with _lock:
        worker, yielded = _worker_for(path), False
        spoiled = worker.seen.keys() - {path}
        try:
            for value in _answers(worker, function, path, options):
                yielded = True
                yield value
        except SourceError:
            # An earlier file may have left the library in disorder: only a process that saw no other is believed.
            if yielded or not spoiled:
                raise
            yield from _answers(_worker_for(path), function, path, options)


def _answers(worker: _Worker, function: str, path: Path, options: Mapping) -> Iterator[object]:
    """Yield the answers to one request; a process that gave an error, or not all, is not asked again."""
    done = False
    try:
        worker.ask({"function": function, "path": str(path), **options})
        while (answer := worker.answer()) != {"done": True}:
            if "error" in answer:
                raise _ERRORS[answer["error"]](answer["text"])
            yield worker.array(**answer["array"]) if "array" in answer else answer["value"]
        done = True
    except (EOFError, BrokenPipeError) as problem:
        raise SourceError(
            f"{path}: the HDF4 library {problem or 'crashed'} on it: the file is damaged, fetch it again."
        ) from problem
    finally:
        if not done:
            worker.stop()


def _worker_for(path: Path) -> _Worker:
    """Return the process, a new one if this one saw another content of the file: the library may still hold that."""
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


def _serve() -> None:
    from fluxcube.sources.modis.hdf import SERVED

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library may print is no answer
    while size := int.from_bytes(requests.read(_FRAME), "big"):
        request = json.loads(requests.read(size))
        function, path = SERVED[request.pop("function")], Path(request.pop("path"))
        try:
            for value in function(path, **request):
                _send(answers, value)
            end: dict = {"done": True}
        except FluxcubeError as error:
            end = {"error": type(error).__name__, "text": str(error)}
        answers.write(_framed(end))
        answers.flush()


def _send(answers: BinaryIO, value: object) -> None:
    if isinstance(value, np.ndarray):
        answers.write(_framed({"array": {"dtype": value.dtype.str, "shape": value.shape}}))
        answers.write(np.ascontiguousarray(value).data)
    else:
        answers.write(_framed({"value": value}))


if __name__ == "__main__":
    _serve()
