"""States of a store: earlier ones that are kept, on a disk and in a bucket, and how a reader chooses one.

On a disk, ``NAME`` is the current state, and ``NAME.states/STORE_ID`` is an earlier one that was kept. Both may share
files by hard links, so that what stays the same takes no further space.

In a bucket, which has no rename, each state lies in ``NAME.states/STORE_ID-NUMBER`` and never changes. Which one is
current is decided by ``NAME.states/records/000001.json`` and so on: a record is created only if there is none of its
number, so that of two writers one is first. ``NAME/zarr.json`` names the current state for readers that cannot list.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fluxcube.errors import StoreError
from fluxcube.stores.manifest import STORE_ID, check_present, content_id
from fluxcube.stores.objects import Bucket
from fluxcube.stores.swap import link_file, place_store

#: Ending of the folder of states, and attribute of ``NAME/zarr.json`` in a bucket that names the current one.
STATES, STATE = ".states", "state"
#: Name of the folder of records, and length of their numbers.
RECORDS, _DIGITS = "records", 6
_FOLDER = re.compile(r"[0-9a-f]{32}(-[0-9a-f]{12})?")
#: Length of an identifier.
ID_LENGTH = 32

Place = TypeVar("Place")


def choose_state(version: str, states: Mapping[str, Place], where: object) -> Place:
    """Return the state whose `store_id` is `version` or begins with it.

    Parameters
    ----------
    version : str
        The identifier, or its first characters.
    states : mapping of str to place
        States by name, which begins with the identifier; of equal ones the last counts.
    where : path or URL
        The store, for messages.

    Raises
    ------
    StoreError
        If none or several states begin so; the message lists those that are kept.
    """
    found = {name[:ID_LENGTH]: place for name, place in states.items() if version and name.startswith(version)}
    if len(found) == 1:
        return next(iter(found.values()))
    kept = ", ".join(dict.fromkeys(name[:ID_LENGTH] for name in states)) or "none"
    what = "expected the beginning of one state, found several" if found else "there is no such state"
    raise StoreError(f"{where}: version={version!r}: {what}; states that can be opened: {kept}.")


def states_folder(path: Path) -> Path:
    """Return the folder of the earlier states of a store on a disk."""
    return path.with_name(f"{path.name}{STATES}")


def kept_states(path: Path) -> dict[str, Path]:
    """Return the earlier states of a store on a disk that are kept, by their `store_id`, the oldest first."""
    try:
        entries = [entry for entry in states_folder(path).iterdir() if is_state_name(entry.name)]
        dated = [(entry.stat().st_mtime_ns, entry) for entry in entries if (entry / "zarr.json").is_file()]
    except OSError:
        return {}
    return {entry.name: entry for _, entry in sorted(dated)}


def is_state_name(name: object) -> bool:
    """Return whether a text can be the name of a state's folder."""
    return isinstance(name, str) and _FOLDER.fullmatch(name) is not None


def is_inside(key: str) -> bool:
    r"""Return whether the name of an object leads to a place inside a folder.

    Examples
    --------
    >>> is_inside("fluxes/c/0"), is_inside("../x"), is_inside("/etc/x"), is_inside("a\\..\\x")
    (True, False, False, False)
    """
    return not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in key.split("/"))


def disk_state(path: Path, version: str | None) -> Path:
    """Return the folder of the current state of a store on a disk, or of an earlier one (StoreError if not kept)."""
    if version is None:
        return path
    state = choose_state(version, {**kept_states(path), **_current(path)}, path)
    # One of an earlier version has no identifier, and its folder is named by its content.
    if state != path and (store_id := _recorded_id(state) or content_id(state)) != state.name[:ID_LENGTH]:
        raise StoreError(f"{state}: expected the state that its name identifies, found {store_id}: rename it back.")
    return state


def _current(path: Path) -> dict[str, Path]:
    """Return the current state by its identifier; nothing if it has none that can be the name of a folder.

    A store of an earlier version has none, and one that was changed on purpose may name another folder.
    """
    store_id = _recorded_id(path)
    return {store_id: path} if is_state_name(store_id) else {}


def _recorded_id(path: Path) -> str:
    """Return the identifier in the attributes of a store; "" if it has none, or they cannot be read."""
    try:
        return str(json.loads((path / "zarr.json").read_bytes())["attributes"][STORE_ID])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def keep_state(path: Path) -> Path:
    """Keep the current state of a store, whose lock this process holds, beside what will replace it.

    Its files are linked, or copied where the disk has no hard links. A process that is killed meanwhile leaves the
    store as it is.

    Returns
    -------
    Path
        The folder of the kept state.

    Raises
    ------
    StoreError
        If something else is where the state or the folder of states belongs.
    """
    folder = states_folder(path)
    kept = folder / (next(iter(_current(path)), "") or content_id(path))
    if kept.exists():
        if _recorded_id(kept) != _recorded_id(path):
            raise StoreError(f"{kept}: expected the state of {path}, found something else: move it away.")
        check_present(kept)
        return kept
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StoreError(f"{folder}: expected the folder of earlier states, found something else: move it away.")
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".keeping-*"):
        shutil.rmtree(left, ignore_errors=True)
    copy = folder / f".keeping-{os.urandom(6).hex()}"
    try:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            link_file(file, copy / file.relative_to(path))
            shutil.copystat(file, copy / file.relative_to(path))  # a copy shows that it is the same by its time
        place_store(copy, kept)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return kept


@dataclass(frozen=True)
class Record:
    """The record of a state in a bucket.

    Attributes
    ----------
    number : int
        Counts the states from 1.
    folder : str
        Name of the folder of the state.
    kept : tuple of str
        Folders of earlier states that are kept, the oldest first.
    """

    number: int
    folder: str
    kept: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the object."""
        return f"{RECORDS}/{self.number:0{_DIGITS}d}.json"

    def encode(self) -> bytes:
        """Return the content of the object."""
        return json.dumps({STATE: self.folder, STORE_ID: self.folder[:ID_LENGTH], "kept": self.kept}).encode()


def states_of(bucket: Bucket) -> Bucket:
    """Return the address of the states of a store in a bucket."""
    return bucket.beside(f"{bucket.name}{STATES}")


def newest_record(bucket: Bucket) -> Record | None:
    """Return the record of the current state of a store in a bucket; None if there is none.

    Raises
    ------
    StoreError
        If the record is damaged.
    """
    states = states_of(bucket)
    names = [Path(key).stem for key in states.entries(RECORDS) if key.endswith(".json")]
    numbers = [int(name) for name in names if name.isdigit() and len(name) >= _DIGITS]
    return read_record(bucket, max(numbers)) if numbers else None


def read_record(bucket: Bucket, number: int) -> Record | None:
    """Return the record of a number; None if there is none (StoreError if it is damaged)."""
    states, key = states_of(bucket), Record(number, "").key
    data = states.read(key)
    if data is None:
        return None
    try:
        content = json.loads(data)
        record = Record(number, content[STATE], tuple(content["kept"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        record = None
    if record is None or not all(map(is_state_name, (record.folder, *record.kept))):
        raise StoreError(f"{states}/{key} is damaged: copy it again, or remove it to use the state before.")
    return record


def bucket_states(bucket: Bucket) -> dict[str, Bucket]:
    """Return the states of a store in a bucket that exist, by the names of their folders, the current one last."""
    record, states = newest_record(bucket), states_of(bucket)
    folders = () if record is None else (*record.kept, record.folder)
    return {name: states / name for name in folders if (states / name).read("zarr.json") is not None}
