"""A Zarr store of files that is read only while it is the store that was opened.

Building and appending replace a store in one step, and its arrays are read lazily, by position. Without this check, a
Dataset that was opened before the replacement would read values of other sites after it, and missing values from a
store that was removed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from fluxcube.errors import StoreError
from fluxcube.stores.manifest import Entries, read_manifest
from fluxcube.stores.states import kept_states

#: Numbers that differ between a store and the one that replaced it.
Identity = tuple[int, ...]


class PinnedStore(LocalStore):
    """Files of one store, as long as its path leads to the same store, or that state of it is kept.

    A process that receives the pickled store compares the time and size of the witness only, because another machine
    may give other numbers to the same files.

    Parameters
    ----------
    root : path
        Folder of the store.
    witness : str
        File of the store that is written once, with it.

    Raises
    ------
    StoreError
        When a file is read after the store was replaced, moved or removed, or a file of its manifest is missing.
    """

    def __init__(self, root: Path | str, *, witness: str = "zarr.json", read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.witness = witness
        self._written: frozenset[str] | None = None
        self.numbers, self.version = self._identity(self.root)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "numbers": None, "_written": None}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        with contextlib.suppress(OSError):
            self.numbers, version = self._identity(self.root)
            self.numbers = self.numbers if version == self.version else None

    def _identity(self, root: Path) -> tuple[Identity | None, Identity]:
        """Return the numbers of the folder and of the witness, and the time of change and the size of the witness."""
        folder, file = os.stat(root), os.stat(root / self.witness)
        return (folder.st_dev, folder.st_ino, file.st_ino), (file.st_mtime_ns, file.st_size)

    def manifest(self) -> Entries | None:
        """Return the size and digest of each file as the manifest lists them; None if the store has none."""
        while True:
            root = self.root
            found = read_manifest(root)
            if self._is_valid(root):
                return found

    def written(self) -> frozenset[str]:
        """Return the names of the files that the manifest lists; none if it has no manifest."""
        if self._written is None:
            self._written = frozenset(self.manifest() or ())
        return self._written

    def _is_valid(self, root: Path) -> bool:
        """Return whether what was just read from a folder belongs to the store that was opened.

        If not, the next read is one of the kept state that does (StoreError if it is not kept).
        """
        if self.root != root:  # another thread followed the store meanwhile
            return False
        try:
            if self._identity(root) == (self.numbers, self.version):
                return True
        except OSError:
            pass
        self._follow()
        return False

    def _follow(self) -> None:
        """Read on in the kept state that is the store that was opened."""
        for kept in reversed(kept_states(Path(self.root)).values()):
            with contextlib.suppress(OSError):
                numbers, version = self._identity(kept)
                if version == self.version:
                    self.numbers, self.root = numbers, kept
                    return
        raise StoreError(
            f"{self.root}: the store was replaced, moved or removed since it was opened, and its arrays are read by "
            "position; open it again."
        )

    def _check_absent(self, key: str) -> None:
        """Raise a StoreError if a file that is not there was there when the store was finished."""
        if key in self.written():
            raise StoreError(
                f"{self.root}: the file {key} is missing, which was there when the store was written: copy it again."
            )

    def _check_file(self, key: str) -> None:
        """Raise a StoreError if a file is empty, a folder or a pipe: it would be missing values, or never end."""
        try:
            found = os.stat(self.root / key)
        except OSError:  # reading it reports why, or it is absent
            return
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            what = "an empty one" if stat.S_ISREG(found.st_mode) else "a folder, a pipe or a device"
            raise StoreError(f"{self.root}: expected a file at {key}, found {what}: copy the store again.")

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, PinnedStore) and self.version == other.version

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a file, or of a part of it; None if the store has no such file."""
        self._check_file(key)
        while True:
            root = self.root
            found = await super().get(key, prototype, byte_range)
            if self._is_valid(root):
                break
        if found is None:
            self._check_absent(key)
        return found

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder of the store."""
        while True:
            root = self.root
            found = [name async for name in super().list_dir(prefix)]
            if self._is_valid(root):
                break
        for name in found:
            yield name

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what `get` does, in the calling thread."""
        self._check_file(key)
        while True:
            root = self.root
            found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
            if self._is_valid(root):
                break
        if found is None:
            self._check_absent(key)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the bytes of parts of files; None for each file that the store does not have."""
        requests = list(key_ranges)
        while True:
            root = self.root
            found = await super().get_partial_values(prototype, requests)
            if self._is_valid(root):
                break
        for (key, _), value in zip(requests, found, strict=True):
            if value is None:
                self._check_absent(key)
        return found
