"""Fetch the items of a plan: in parallel, with a ledger, continuing after failures and after a kill."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fluxcube.errors import CredentialsError, FetchError, FluxcubeError, LicenceError, QuotaError, StoreError
from fluxcube.fetch.control import Control, current
from fluxcube.fetch.items import PART, STAGING, Item, Licence, Plan, size_text, within
from fluxcube.fetch.ledger import Ledger, digest
from fluxcube.fetch.licences import write_licence
from fluxcube.stores.swap import unwritable

Progress = Callable[[int, int, str], None]
#: Fetches one item: writes the file to the path. It may return where the file came from, for the ledger.
One = Callable[[Item, Path], object]

#: Maximum number of failed files that a message lists.
_MAX_LISTED = 10


def make_plan(
    source: str,
    folder: str | os.PathLike,
    items: Iterable[Item],
    *,
    licence: Licence | None = None,
    notes: Iterable[str] = (),
    seconds: float | None = None,
    cost: str | None = None,
    verify: bool = False,
    have: Collection[str] | None = None,
) -> Plan:
    """Return the plan of items into a folder, with those that are already there, by its ledger.

    Parameters
    ----------
    source : str
        The service.
    folder : path
        Folder of the files; it need not exist.
    items : iterable of Item
    licence, notes, seconds, cost
        As in `Plan`.
    verify : bool
        Also compute the checksums of the files that are there.
    have : collection of str, optional
        Names of the files that are there, if an earlier plan has found them.
    """
    every, ledger = tuple(items), Ledger(folder)
    if have is None:
        have = {item.name for item in every if ledger.done(item, verify=verify)}
    there = tuple(item for item in every if item.name in have)
    plan = Plan(source, every, there, tuple(notes), seconds, cost, licence)
    free = _free(Path(folder))
    if plan.bytes <= free:
        return plan
    return replace(
        plan, notes=(*plan.notes, f"{size_text(plan.bytes)} are needed, and the disk has {size_text(free)} free")
    )


def _free(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist."""
    existing = next((path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir()), Path.cwd())
    return shutil.disk_usage(existing).free


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file, and rename the file when the block ends without an error.

    For clients that write files themselves. The temporary file has the ending ``.part``; it is kept after an error, so
    that a client that can continue it does.

    Raises
    ------
    FetchError
        If the block wrote nothing.
    """
    part = path.with_name(path.name + PART)
    yield part
    if not part.is_file() or not part.stat().st_size:
        part.unlink(missing_ok=True)
        raise FetchError(f"{path.name}: the service sent an empty file.")
    try:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise unwritable(path, error) from error


def fetch_all(
    plan: Plan,
    folder: str | os.PathLike,
    one: One,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    again: str = "the same command",
) -> list[Path]:
    """Fetch the missing items of a plan into a folder.

    A file appears in the folder when it is complete and in the ledger; until then it is in ``.fetching`` there, so that
    a stopped fetch continues. An item that fails does not stop the others, unless the error concerns all of them (an
    account, a quota, a full disk).

    Parameters
    ----------
    plan : Plan
        From `make_plan` for the same folder.
    folder : path
        It is made if it does not exist.
    one : callable
        ``one(item, path)`` writes the file of an item to `path`; called from threads. It may return a
        `fluxcube.fetch.http.Downloaded` or a mapping with ``url``, ``etag`` and ``sha256`` for the ledger.
    jobs : int
        Number of items fetched at the same time.
    progress : callable, optional
        Receives the number of complete items, of all items, and the item that reported last, with its bytes.
    again : str
        Command that continues the fetch, for the message.

    Returns
    -------
    list of Path
        Files of all items of the plan, also of those that were there.

    Raises
    ------
    FetchError
        If an item failed; the message lists all of them. If all failed for the same reason, it is a CredentialsError,
        LicenceError or QuotaError.
    StoreError
        If the disk does not accept the files.
    """
    folder = Path(folder)
    ledger = Ledger(folder)
    with ledger.locked():
        batch = _Batch(plan, folder, ledger, one, progress)
        batch.check_space()
        batch.run(max(1, jobs))
        write_licence(folder, plan, ledger)
        _remove_empty(folder / STAGING)
        if batch.failed:
            raise _failure(plan, folder, batch.failed, len(batch.done), again)
    return [within(folder, item) for item in plan.items]


class _Batch:
    """The items of one call of `fetch_all`."""

    def __init__(self, plan: Plan, folder: Path, ledger: Ledger, one: One, progress: Progress | None) -> None:
        self.plan, self.folder, self.ledger, self.one, self.progress = plan, folder, ledger, one, progress
        have = {item.name for item in plan.have}
        # Another fetch may have come before the lock: the checksum tells its files from damaged ones.
        self.done = {item.name for item in plan.items if ledger.done(item, verify=item.name not in have)}
        self.failed: dict[str, FetchError | StoreError] = {}
        self.control = Control()

    def check_space(self) -> None:
        """Raise StoreError if the disk cannot contain the files of known size, before any is fetched."""
        missing = [item for item in self.plan.items if item.name not in self.done]
        needed = sum(item.size or 0 for item in missing if item.exact)
        parts = [path for path in (self.folder / STAGING).rglob("*") if path.is_file()]
        free = _free(self.folder) + sum(path.stat().st_size for path in parts)
        if needed > free:
            text = f"{size_text(needed)} needed, {size_text(free)} free"
            raise unwritable(self.folder, OSError(errno.ENOSPC, text))

    def run(self, jobs: int) -> None:
        """Fetch what is missing; every failure is recorded, and one that concerns all items ends the run."""
        waiting = [item for item in self.plan.items if item.name not in self.done]
        self._report("")
        with ThreadPoolExecutor(jobs, thread_name_prefix="fetch") as pool:
            running: dict[Future[None], Item] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < jobs:
                        item = waiting.pop(0)
                        running[pool.submit(self._fetch, item)] = item
                    finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in finished:
                        self._settle(running.pop(future), future, waiting)
            finally:
                self.control.stop.set()

    def _settle(self, item: Item, future: Future[None], waiting: list[Item]) -> None:
        """Record the result of an item; an error that is not one of fetching is raised here."""
        try:
            future.result()
        except (FetchError, StoreError) as error:
            self.failed[item.name] = error
            if isinstance(error, StoreError) or error.stops:
                waiting.clear()
            return
        self.done.add(item.name)
        self._report(item.name)

    def _fetch(self, item: Item) -> None:
        """Fetch one item, in a thread: into the staging folder, then into the ledger, then under its name."""
        current.set(Control(self.control.stop, lambda done, total: self._report(_share(item.name, done, total))))
        path, target = self.folder / STAGING / item.name, within(self.folder, item)
        if self._is_foreign(item, target):
            self.ledger.record(item, target, source=self.plan.source)
            return
        for each in (path, target):
            try:
                each.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(each.parent, error) from error
        if not self._staged(item, path):
            self._fetch_to(item, path)
        _move(path, target)

    def _fetch_to(self, item: Item, path: Path) -> None:
        try:
            result = self.one(item, path)
            _check_whole(item, path)
        except (FetchError, StoreError):
            path.unlink(missing_ok=True)
            raise
        self._remove_earlier(within(self.folder, item))
        origin = result if isinstance(result, dict) else vars(result) if hasattr(result, "sha256") else {}
        texts = {name: str(origin.get(name) or "") for name in ("sha256", "etag", "url")}
        self.ledger.record(item, path, source=self.plan.source, **texts)

    def _remove_earlier(self, target: Path) -> None:
        """Remove the file of an earlier release, which would be taken for the new one if a kill came now."""
        try:
            target.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(target, error) from error

    def _staged(self, item: Item, path: Path) -> bool:
        """Return whether a kill came between the ledger and the renaming."""
        entry = self.ledger.entry(item.name)
        complete = entry is not None and entry["key"] == item.key and path.is_file()
        return bool(complete and entry and path.stat().st_size == entry["size"] and digest(path) == entry["sha256"])

    def _is_foreign(self, item: Item, target: Path) -> bool:
        """Return whether a file that no fetch has written is the item's, by its checksum; refuse to replace another."""
        if not target.exists() or self.ledger.entry(item.name) is not None:
            return False
        if item.checksum and target.is_file() and digest(target, item.checksum[0]) == item.checksum[1].lower():
            return True
        raise FetchError(f"{target} exists, and is not recorded in the ledger: move it away, or choose another folder.")

    def _report(self, text: str) -> None:
        if self.progress:
            self.progress(len(self.done), len(self.plan.items), text)


def _move(path: Path, target: Path) -> None:
    """Give a complete file its name, also where a link in the folder leads to another disk."""
    try:
        try:
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with whole(target) as part:
                shutil.copyfile(path, part)
            path.unlink()
    except OSError as error:
        if isinstance(error, FluxcubeError):
            raise
        raise unwritable(target, error) from error


def _share(name: str, done: int, total: int | None) -> str:
    return f"{name} {size_text(done)}{f' of {size_text(total)}' if total else ''}"


def _check_whole(item: Item, path: Path) -> None:
    """Check a file that a client wrote: not empty, of the exact size and checksum that the item states."""
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        raise FetchError(f"{item.name}: the service sent an empty file.")
    if item.exact and item.size is not None and size != item.size:
        raise FetchError(f"{item.name}: expected {item.size} bytes, found {size}.")
    if item.checksum and digest(path, item.checksum[0]) != item.checksum[1].lower():
        raise FetchError(
            f"{item.name}: the {item.checksum[0]} checksum differs from the published one; it was removed."
        )


def _remove_empty(staging: Path) -> None:
    """Remove the staging folder and its folders, except where another fetch left an incomplete file to continue."""
    folders = sorted((path for path in staging.rglob("*") if path.is_dir()), reverse=True)
    for path in [*folders, staging]:
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()


def _failure(plan: Plan, folder: Path, failed: dict[str, FetchError | StoreError], done: int, again: str) -> Exception:
    """Return one error for all failed items, of their class if they have a common one."""
    listed = [f"  {name}: {error}" for name, error in list(failed.items())[:_MAX_LISTED]]
    if len(failed) > _MAX_LISTED:
        listed.append(f"  ... and {len(failed) - _MAX_LISTED} more")
    left = len(plan.items) - done - len(failed)
    text = (
        f"{plan.source}: {len(failed)} of {len(plan.items)} files could not be fetched into {folder}"
        f"{f', {left} were not tried' if left else ''}; {done} are complete. After the cause is removed, {again} "
        "fetches what is missing:"
    )
    kinds = {type(error) for error in failed.values()}
    same = kinds.pop() if len(kinds) == 1 else FetchError
    kind = same if same in (CredentialsError, LicenceError, QuotaError, StoreError) else FetchError
    return kind("\n".join([text, *listed]))
