"""Runs in buckets: a model is trained in a folder of this machine, and its files are copied as they are saved.

The objects have the names of the files, so that a run in a bucket can be copied to a disk and back. Files are copied in
an order in which the bucket contains a valid run at each moment: those that describe a finished model, after all that
they name. An object that this process neither found when it locked the run nor wrote itself is never replaced.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import CheckpointError, StoreError
from fluxcube.models.checkpoint import ENSEMBLE, RUN
from fluxcube.stores.bucket_lock import BucketLock, bucket_lock
from fluxcube.stores.download import checked_name, download, named_as
from fluxcube.stores.objects import Bucket
from fluxcube.training.run import is_run_file, run_lock

log = logging.getLogger(__name__)

#: Seconds between two looks at the files of a run.
PAUSE = 1.0
_MEMBER = re.compile(r"seed-\d+")
#: What identifies the content of a file: time of change, size and number.
Signature = tuple[int, int, int]


@contextmanager
def run_folder(place: Path | Bucket, *, overwrite: bool) -> Iterator[Path]:
    """Lock a run against other processes that would train into it, and yield the folder to train in.

    Parameters
    ----------
    place : Path or Bucket
        Folder of the run. For a bucket, the folder is a temporary one that contains what the bucket has; its files are
        copied to the bucket while the block runs, and when it ends in any way but a kill.
    overwrite : bool
        Whether the caller replaces what is there, so that it need not be copied.

    Raises
    ------
    CheckpointError
        If the place contains something else than a run.
    StoreError
        If another process is training into it, or the bucket cannot be reached. If that is so at the end, the folder
        is kept, and the message names it.
    """
    if isinstance(place, Path):
        with run_lock(place):
            yield place
        return
    with bucket_lock(place) as lock:
        temporary = Path(tempfile.mkdtemp(prefix="fluxcube-run-")).resolve()
        mirror = Mirror(place, temporary / place.name, lock)
        try:
            with named_as(place, mirror.folder):
                mirror.fetch(contents=not overwrite)
                with run_lock(mirror.folder), mirror.running():
                    yield mirror.folder
        finally:
            if mirror.complete:
                shutil.rmtree(temporary, ignore_errors=True)


class Mirror:
    """A folder whose files are copied to a bucket.

    Parameters
    ----------
    bucket : Bucket
        The run.
    folder : Path
        Folder of this machine.
    lock : BucketLock
        Lock of the run.

    Attributes
    ----------
    complete : bool
        Whether the bucket contains what the folder does.
    """

    def __init__(self, bucket: Bucket, folder: Path, lock: BucketLock) -> None:
        self.bucket, self.folder, self.lock = bucket, folder, lock
        self.complete = True
        self._copied: dict[str, Signature | None] = {}
        self._alone = threading.Lock()
        self._ended = threading.Event()

    def fetch(self, *, contents: bool) -> None:
        """Copy what the bucket has to the folder; without `contents`, empty files of the same names.

        Raises
        ------
        CheckpointError
            If it contains other objects than those of a run.
        """
        names = sorted(self.bucket.entries())
        if foreign := [name for name in names if not _is_of_run(name)]:
            raise CheckpointError(
                f"{self.bucket} contains other objects ({', '.join(foreign[:3])}): use a name of its own."
            )
        self.folder.mkdir(parents=True)
        if contents:
            download(self.bucket, names, self.folder)
        for name in names:
            file = self.folder / checked_name(self.bucket, name)
            if not contents:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            self._copied[name] = _signature(file)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Copy files in a thread while the block runs, and once more when it ends."""
        thread = threading.Thread(target=self._watch, name="fluxcube-mirror", daemon=True)
        thread.start()
        trained = False
        try:
            yield
            trained = True
        finally:
            self._ended.set()
            thread.join()
            self._finish(trained)

    def _finish(self, trained: bool) -> None:
        """Copy the last files; after an error of the training, which is the one to report, a failure is logged."""
        try:
            self.copy()
        except StoreError as error:
            if trained:
                raise StoreError(
                    f"{error} The run is complete in {_apart(self.folder)}: copy it from there."
                ) from error
            log.error("%s; the last saved state is in %s", error, self.folder)

    def _watch(self) -> None:
        reported = ""
        while not self._ended.wait(PAUSE):
            try:
                self.copy()
            except StoreError as error:
                if str(error) != reported:
                    log.warning("%s; trying again", error)
                reported = str(error)

    def copy(self) -> None:
        """Copy what changed since the last call, and remove what was removed.

        Raises
        ------
        StoreError
            If another process took over the run, wrote an object of it, or the bucket cannot be reached.
        """
        with self._alone:
            marks = {name: (_signature(file), _read(file)) for name, file in self._files() if _is_mark(name)}
            # Listed afterwards, so that all files are there that a description names.
            files = {name: file for name, file in self._files() if not _is_mark(name)}
            now = {name: _signature(file) for name, file in files.items()}
            now |= {name: at for name, (at, _) in marks.items()}
            gone = [name for name in self._copied if name not in now]
            changed = [name for name, found in now.items() if found is not None and self._copied.get(name) != found]
            if not gone and not changed:
                return
            self.complete = False
            self.lock.check()
            self._remove(
                [name for name in self._copied if _is_mark(name) and (name in gone or _replaced(name, changed))]
            )
            for name in changed:
                if name in files and (content := _read(files[name])) is not None:
                    self._write(name, content, now[name])
            for name in sorted(marks.keys() & set(changed), key=lambda name: -name.count("/")):  # the ensemble's last
                at, content = marks[name]
                if content is not None:
                    self._write(name, content, at)
            self._remove([name for name in gone if name in self._copied])
            self.complete = True

    def _files(self) -> Iterator[tuple[str, Path]]:
        for file in self.folder.rglob("*"):
            name = file.relative_to(self.folder).as_posix()
            if _is_of_run(name) and file.is_file():
                yield name, file

    def _remove(self, names: list[str]) -> None:
        if names:
            self.bucket.remove(*names)
        for name in names:
            del self._copied[name]

    def _write(self, name: str, content: bytes, signature: Signature | None) -> None:
        if name in self._copied:
            self.bucket.write(name, content)
        elif not self.bucket.create(name, content) and self.bucket.read(name) != content:
            raise StoreError(
                f"{self.bucket}: {name} appeared while this run was trained, and is not replaced: another process "
                "writes there; train into another name."
            )
        self._copied[name] = signature


def _is_mark(name: str) -> bool:
    """Return whether a file describes a finished model."""
    return name.rpartition("/")[2] in (RUN, ENSEMBLE)


def _replaced(mark: str, changed: list[str]) -> bool:
    """Return whether the weights that a file describes are replaced together with it."""
    start = mark.removesuffix(RUN)
    return mark in changed and mark != start and any(name.startswith(f"{start}model.") for name in changed)


def _is_of_run(name: str) -> bool:
    """Return whether an object belongs to a run or an ensemble of runs."""
    first, *rest = name.split("/")
    if rest and _MEMBER.fullmatch(first):
        return "/" not in rest[0] and _is_of_run("/".join(rest)) and not _MEMBER.fullmatch(rest[0])
    if rest:
        return first == "tensorboard" and len(rest) == 1
    return is_run_file(first) or first == ENSEMBLE


def _signature(file: Path) -> Signature | None:
    try:
        found = file.stat()
    except FileNotFoundError:  # removed meanwhile
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _apart(folder: Path) -> str:
    """Return a folder as text that `named_as` leaves as it is."""
    return f"{folder.parent}/./{folder.name}"
