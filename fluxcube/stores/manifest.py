"""The manifest of a complete store: the size and digest of each file, and an identifier of the whole content.

A chunk that contains only the fill value has no file, so that a file that a copy lost looks like missing values. The
manifest, which is written when a store is finished, distinguishes the two. The digest of a file of chunks with
checksums is that of its index and of these checksums, so that no values are read to compute it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import zarr
from zarr.core.group import GroupMetadata

from fluxcube.errors import StoreError
from fluxcube.parsing import parse_json, read_bytes

#: Name of the group whose folder contains the manifest, and the attribute of a store that identifies its content.
MANIFEST, STORE_ID = "manifest", "store_id"
#: Name of the group that contains the ledger (`fluxcube.stores.ledger`).
LEDGER = "ledger"
_FILE, _ROOT = "files.json", "zarr.json"
#: The file of the manifest in a store.
MANIFEST_FILE = f"{MANIFEST}/{_FILE}"
#: Attributes of a store that do not belong to its content.
_NOT_CONTENT = ("complete", STORE_ID)
_ABSENT, _CHECKSUM = 2**64 - 1, 4
_BLOCK = 1 << 22

Progress = Callable[[int, int, str], None]
#: Size in bytes and digest of files, by key.
Entries = dict[str, tuple[int, str]]


def write_manifest(path: Path, attrs: Mapping[str, object], known: Mapping[str, tuple[int, str]] | None = None) -> str:
    """Write the manifest of a store, and return the identifier of its content.

    Parameters
    ----------
    path : Path
        The store, whose arrays are complete.
    attrs : mapping
        Its attributes.
    known : mapping of str to (int, str), optional
        Size and digest of files that belong to the store and lie elsewhere.
    """
    entries = {key: list(entry) for key, entry in {**file_entries(path), **(known or {})}.items()}
    folder = path / MANIFEST
    folder.mkdir(exist_ok=True)
    (folder / _ROOT).write_text(json.dumps(_group()), "utf-8")
    (folder / _FILE).write_text(json.dumps(entries, indent=0, sort_keys=True), "utf-8")
    return identifier(entries, attrs)


def _group() -> dict[str, Any]:
    """Return the metadata of the group whose folder contains the manifest."""
    return GroupMetadata(attributes={"long_name": "size and digest of each file"}, zarr_format=3).to_dict()


def identifier(entries: Mapping[str, object], attrs: Mapping[str, object]) -> str:
    """Return the identifier of the content of a store: 32 hexadecimal digits from its arrays and attributes.

    Reports of a build, which are groups within a group, do not change it.
    """
    arrays = {key: entry for key, entry in entries.items() if key.count("/") == 1 or "/c/" in key}
    content = {k: v for k, v in attrs.items() if k not in _NOT_CONTENT and not k.endswith("_version")}
    text = json.dumps([arrays, content], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_manifest(path: Path) -> Entries | None:
    """Return the size and digest of each file of a store; None if it has no manifest, as those of earlier versions.

    Raises
    ------
    StoreError
        If the manifest is damaged.
    """
    file = path / MANIFEST_FILE
    try:
        data = read_bytes(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({error}): copy the store again.") from error
    return parse_manifest(data, path)


def parse_manifest(data: bytes, where: object) -> Entries:
    """Return the size and digest of each file from the bytes of a manifest.

    Parameters
    ----------
    data : bytes
        Content of the file.
    where : path or URL
        The store, for messages.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    try:
        return {str(key): (int(size), str(digest)) for key, (size, digest) in parse_json(data, dict).items()}
    except (ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"{where}/{MANIFEST_FILE} is damaged ({error}): copy the store again.") from error


def arrays_in(files: Iterable[str]) -> frozenset[str]:
    """Return the names of the arrays of a store from the names of its files; groups of documents are none.

    Examples
    --------
    >>> sorted(arrays_in(["TA/zarr.json", "TA/c/0", "sites/zarr.json", "sites/US-Aaa/zarr.json"]))
    ['TA']
    """
    parts = [key.split("/") for key in files if key.endswith(f"/{_ROOT}")]
    return frozenset(name for name, *rest in parts if len(rest) == 1) - {p[0] for p in parts if len(p) > 2}


def check_present(path: Path) -> None:
    """Compare the sizes of the files of a store with its manifest, if it has one, before its files are reused.

    Raises
    ------
    StoreError
        If a file is missing or has another size; the message names the first one.
    """
    for key, (size, _) in (read_manifest(path) or {}).items():
        try:
            found = os.stat(path / key).st_size
        except OSError:
            found = None
        if found != size:
            has = "none" if found is None else f"{found} bytes"
            raise StoreError(f"{path}: expected {size} bytes in the file {key}, found {has}: copy the store again.")


def foreign_files(path: Path) -> list[str]:
    """Return the files in a store that fluxcube did not write there: a store that is replaced would take them along.

    A root contains one file; what lies below it is compared with the manifest, where there is a whole one.
    """
    found = {entry.name for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")} - {_ROOT}
    with contextlib.suppress(StoreError):
        if (expected := read_manifest(path)) is not None:
            found |= set(_files(path)) - expected.keys()
    return sorted(found)


def content_id(path: Path) -> str:
    """Return the identifier of the content that the files of a store have now, also of one without a manifest."""
    attrs = dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)
    return identifier({key: list(entry) for key, entry in file_entries(path).items()}, attrs)


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    store_id : str
        Identifier of the content that the files have now.
    files : int
        Number of files that were read.
    faults : tuple of str
        What is wrong, one text for each file; empty if the store is as it was written.
    """

    store_id: str
    files: int
    faults: tuple[str, ...]


def verify(path: str | os.PathLike, *, progress: Progress | None = None) -> Verification:
    """Read every file of a complete store, and compare it with its checksums and with the manifest.

    Parameters
    ----------
    path : path
        The store.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Verification

    Raises
    ------
    StoreError
        If it has no manifest, because an earlier version wrote it or it is not complete.
    """
    path = Path(path)
    expected = read_manifest(path)
    if expected is None:
        raise lacks_manifest(path)
    try:
        found, attrs = file_entries(path), dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise StoreError(f"{path}: the metadata cannot be read ({error!s:.200}): copy the store again.") from error
    faults = [*absences(expected, found), *_fault_of_group(path)]
    names = sorted(expected.keys() & found.keys())
    for done, key in enumerate(names, 1):
        if fault := fault_of(path, key, expected[key], found[key]):
            faults.append(f"{key}: {fault}")
        if progress is not None:
            progress(done, len(names), key)
    return conclusion(found, attrs, len(names), faults)


def _fault_of_group(path: Path) -> list[str]:
    """Return what is wrong with the metadata of the group of the manifest, which the manifest does not list."""
    key = f"{MANIFEST}/{_ROOT}"
    try:
        same = parse_json(read_bytes(path / key), dict) == json.loads(json.dumps(_group()))
    except FileNotFoundError:
        return [f"{key}: it is missing"]
    except (OSError, ValueError):
        same = False
    return [] if same else [f"{key}: it was changed since the store was written"]


def lacks_manifest(where: object) -> StoreError:
    """Return the error for a store without a manifest."""
    return StoreError(f"{where} has no manifest: it is not complete, or an earlier version wrote it; write it again.")


def absences(expected: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return what is wrong with the names of the files of a store, one text for each."""
    expected, found = set(expected), set(found)
    faults = [f"{key}: it is missing" for key in sorted(expected - found)]
    return faults + [f"{key}: it was not there when the store was written" for key in sorted(found - expected)]


def fault_of(path: Path, key: str, expected: tuple[int, str], found: tuple[int, str]) -> str:
    """Return what is wrong with a file of a store: its size and digest differ, or a checksum in it; "" if nothing."""
    if found != expected:
        return f"{found[0]} bytes, other than the {expected[0]} that were written"
    return _damage(path, key)


def conclusion(
    found: Mapping[str, tuple[int, str]], attrs: Mapping[str, object], files: int, faults: Iterable[str]
) -> Verification:
    """Return the result of a verification, which also compares the identifier with the attributes of the store."""
    faults, store_id = list(faults), identifier({key: list(entry) for key, entry in found.items()}, attrs)
    if not faults and store_id != attrs.get(STORE_ID):
        faults.append(f"{_ROOT}: attributes other than those that were written")
    return Verification(store_id, files, tuple(faults))


def file_entries(path: Path) -> Entries:
    """Return the size and digest of each file of a store but its root, its ledger and its manifest."""
    files = sorted(_files(path))
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as pool:
        found = pool.map(functools.partial(entry_of, path), files)
        return dict(zip(files, found, strict=True))


def _files(path: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(folder) == path:
            folders[:] = [name for name in folders if name not in (LEDGER, MANIFEST)]
            names = []
        for name in names:
            if not name.startswith(".") and not name.endswith(".partial"):
                yield Path(folder, name).relative_to(path).as_posix()


def entry_of(path: Path, key: str) -> tuple[int, str]:
    """Return the size and digest of a file of a store."""
    file, shard = path / key, _shard_of(path, key)
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=16)
    if shard is not None and (parts := _checksums(file, size, shard)) is not None:
        digest.update(parts)
    else:
        with open(file, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return size, digest.hexdigest()


def _shard_of(path: Path, key: str) -> int | None:
    """Return the number of chunks in a file if it is a shard whose chunks have checksums; else None."""
    name, _, rest = key.partition("/c/")
    if not rest:
        return None
    meta = path / name / _ROOT
    return _chunks_with_checksum(meta, meta.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _chunks_with_checksum(meta: Path, changed: int) -> int | None:
    """Return the number of chunks; `changed` distinguishes the metadata from earlier ones at the same path."""
    about = json.loads(meta.read_bytes())
    codecs = about.get("codecs", [])
    if [codec["name"] for codec in codecs] != ["sharding_indexed"]:
        return None
    inner = codecs[0]["configuration"]
    index = [codec["name"] for codec in inner.get("index_codecs", [])]
    if inner["codecs"][-1]["name"] != "crc32c" or index != ["bytes", "crc32c"]:
        return None
    if inner.get("index_location", "end") != "end":
        return None
    edges = about["chunk_grid"]["configuration"]["chunk_shape"]
    return int(np.prod([edge // chunk for edge, chunk in zip(edges, inner["chunk_shape"], strict=True)]))


def _checksums(file: Path, size: int, chunks: int) -> bytes | None:
    """Return the index of a shard and the checksum of each of its chunks; None if it is no whole shard."""
    with open(file, "rb") as stream:
        if (found := _index(stream, size, chunks)) is None:
            return None
        index, places = found
        out = [index]
        for offset, count in places:
            stream.seek(offset + count - _CHECKSUM)
            out.append(stream.read(_CHECKSUM))
    return b"".join(out)


def _index(stream: BinaryIO, size: int, chunks: int) -> tuple[bytes, list[list[int]]] | None:
    """Return the index of a shard as bytes, and the position and length of each chunk that it contains."""
    length = 16 * chunks + _CHECKSUM
    if size < length:
        return None
    stream.seek(size - length)
    index = stream.read(length)
    places = np.frombuffer(index[:-_CHECKSUM], "<u8").reshape(chunks, 2)
    inside = places[places[:, 0] != _ABSENT].tolist()
    if any(not _CHECKSUM <= count <= size - length or offset + count > size - length for offset, count in inside):
        return None
    return index, inside


def _damage(path: Path, key: str) -> str:
    """Return what is wrong with the chunks of a shard whose size, index and checksums are those that were written."""
    chunks = _shard_of(path, key)
    if chunks is None:
        return ""  # its digest is that of its content
    file = path / key
    with open(file, "rb") as stream:
        if (found := _index(stream, file.stat().st_size, chunks)) is None:
            return "it is no whole shard"
        index = found[0]
        if google_crc32c.value(index[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") != index[-_CHECKSUM:]:
            return "its index is damaged: it has another checksum than was written"
        for number, (offset, count) in enumerate(found[1]):
            stream.seek(offset)
            content = stream.read(count)
            if google_crc32c.value(content[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") != content[-_CHECKSUM:]:
                return f"chunk {number} is damaged: it has another checksum than was written"
    return ""
