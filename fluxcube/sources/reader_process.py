"""Call a library in a process of its own: a damaged file can crash it, which must not end the work of the caller.

A reading program is a module with functions that yield values, and `serve(READERS)` at its end. One process of it reads
all files, one request at a time. A message is JSON behind its length, and the bytes of an array follow the message that
describes it. There is no pickle: requests and answers are numbers and text only.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fluxcube.errors import FluxcubeError, MissingPackageError, SourceError
from fluxcube.interrupts import SIGNALS
from fluxcube.processes import child_command, child_environment

log = logging.getLogger(__name__)

#: Number of bytes of a message's length.
FRAME = 4
#: Seconds without an answer after which a file counts as damaged: a layer of a whole tile is decompressed within one.
PATIENCE = 120.0
#: Seconds without an answer after which a message says so.
_SILENT = 10.0
_ERRORS = {error.__name__: error for error in (SourceError, MissingPackageError)}

Readers = Mapping[str, Callable[..., Iterator]]


class Worker:
    """A reading process, and the pipes to and from it; it belongs to one parent process only.

    Parameters
    ----------
    module : str
        Dotted name of the reading program.
    patience : float
        Seconds to wait for an answer.
    """

    def __init__(self, module: str, patience: float) -> None:
        self.owner = os.getpid()
        self.patience = patience
        #: Size and time of change of each file that it has read.
        self.seen: dict[Path, tuple[int, int] | None] = {}
        self.process = subprocess.Popen(
            child_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is for the parent, which ends this process
        )
        requests, answers = self.process.stdin, self.process.stdout
        assert isinstance(requests, FileIO) and isinstance(answers, FileIO)  # what Popen returns without a buffer
        self._requests, self._answers = requests, answers

    @property
    def usable(self) -> bool:
        """Whether it runs, and was started by this process."""
        return self.owner == os.getpid() and self.process.poll() is None

    def send(self, request: Mapping[str, object]) -> None:
        """Send a request."""
        left = memoryview(framed(request))
        while left:  # a pipe may take a part of a long request
            left = left[self._requests.write(left) or 0 :]

    def receive(self) -> dict[str, Any]:
        """Return the next message; EOFError where the process has ended, or does not answer."""
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
        while buffer:
            if not self._answered(min(_SILENT, self.patience)):
                log.warning("a library has not answered for %.0f s; waiting for %.0f s", _SILENT, self.patience)
                if not self._answered(self.patience - _SILENT):
                    raise EOFError(f"gave no answer within {self.patience} s")
            if not (count := self._answers.readinto(buffer)):
                raise EOFError(f"ended with status {self.process.wait()}")
            buffer = buffer[count:]

    def _answered(self, seconds: float) -> bool:
        return bool(select.select([self._answers], [], [], max(0.0, seconds))[0])

    def stop(self) -> None:
        """End the process, unless it belongs to another one."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


class ReaderProcess:
    """A reading program that is started at the first request, and again after a crash.

    Parameters
    ----------
    module : str
        Dotted name of the reading program.
    library : str
        Name of the library in error messages.
    patience : float
        Seconds without an answer after which a file counts as damaged.
    """

    def __init__(self, module: str, library: str, patience: float = PATIENCE) -> None:
        self.module, self.library, self.patience = module, library, patience
        self.worker: Worker | None = None
        self._lock = threading.RLock()

    def call(self, function: str, path: Path, **options: object) -> Iterator[Any]:
        """Yield the values that a reader yields for a file, from the other process.

        Parameters
        ----------
        function : str
            A key of the program's `READERS`: a function that yields arrays, and values that JSON can represent.
        path : Path
        options
            Further arguments of the reader, which JSON can represent.

        Raises
        ------
        SourceError
            As the reader; and if the library crashed or did not answer.
        """
        with self._lock:
            worker, yielded = self._worker_for(path), False
            read_others = worker.seen.keys() - {path}
            try:
                for value in self.answers(worker, function, path, options):
                    yielded = True
                    yield value
            except SourceError:
                # An earlier file may have damaged the library's state: only the error of a new process is final.
                if yielded or not read_others:
                    raise
                yield from self.answers(self._worker_for(path), function, path, options)

    def answers(self, worker: Worker, function: str, path: Path, options: Mapping[str, object]) -> Iterator[Any]:
        """Yield the answers to one request; a process with an error, or with answers left, receives no other one."""
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
                f"{path}: the {self.library} library {problem or 'crashed'} on it: the file is damaged, download it "
                "again."
            ) from problem
        finally:
            if not done:
                worker.stop()

    def _worker_for(self, path: Path) -> Worker:
        """Return the process; a new one if this one read other contents of the file, which the library may keep."""
        state = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None
        worker = self._running()
        if worker.seen.get(path, state) != state:
            worker.stop()
            worker = self._running()
        worker.seen[path] = state
        return worker

    def _running(self) -> Worker:
        if self.worker is None or not self.worker.usable:
            self.worker = Worker(self.module, self.patience)
            atexit.register(self.worker.stop)
        self.worker.patience = self.patience
        return self.worker


def framed(message: Mapping[str, object]) -> bytes:
    """Return a message as the length of its JSON, followed by the JSON."""
    text = json.dumps(message).encode()
    return len(text).to_bytes(FRAME, "big") + text


def serve(readers: Readers) -> None:
    """Answer requests from standard input on standard output, until the input ends.

    Parameters
    ----------
    readers : mapping of str to function
        Functions that a request can name; each receives a Path and the options of the request.
    """
    for number in SIGNALS:  # a scheduler sends them to all processes of a job; this one ends with its parent
        signal.signal(number, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that the library may print must not get among the answers
    while size := int.from_bytes(requests.read(FRAME), "big"):
        request = json.loads(requests.read(size))
        reader, path = readers[request.pop("function")], Path(request.pop("path"))
        try:
            for value in reader(path, **request):
                _send(answers, value)
            end: dict[str, object] = {"done": True}
        except FluxcubeError as error:
            end = {"error": type(error).__name__, "text": str(error)}
        answers.write(framed(end))
        answers.flush()


def _send(answers: BinaryIO, value: object) -> None:
    if isinstance(value, np.ndarray):
        answers.write(framed({"array": {"dtype": value.dtype.str, "shape": value.shape}}))
        answers.write(np.ascontiguousarray(value).data)
    else:
        answers.write(framed({"value": value}))
