"""The manifest of a complete store: the size and digest of each file, and an identifier of the whole content.

A chunk that contains only the fill value has no file, so that a file that a copy lost looks like missing values. The
manifest, which is written when a store is finished, distinguishes the two. The digest of a file of chunks with
checksums is that of its index and of these checksums, so that no values are read to compute it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import zarr
from zarr.core.group import GroupMetadata

from fluxcube.errors import StoreError
from fluxcube.parsing import read_json

#: Name of the group whose folder contains the manifest, and the attribute of a store that identifies its content.
MANIFEST, STORE_ID = "manifest", "store_id"
#: Name of the group that contains the ledger (`fluxcube.stores.ledger`).
LEDGER = "ledger"
_FILE, _ROOT = "files.json", "zarr.json"
#: Attributes of a store that do not belong to its content.
_NOT_CONTENT = ("complete", STORE_ID)
_ABSENT, _CHECKSUM = 2**64 - 1, 4
_BLOCK = 1 << 22

Progress = Callable[[int, int, str], None]
#: Size and digest of each file, by its path within a store.
Entries = dict[str, tuple[int, str]]


def write_manifest(path: Path, attrs: Mapping[str, object]) -> str:
    """Write the manifest of a store, and return the identifier of its content.

    Parameters
    ----------
    path : Path
        The store, whose arrays are complete.
    attrs : mapping
        Its attributes.
    """
    entries = {key: list(entry) for key, entry in _entries(path).items()}
    folder = path / MANIFEST
    folder.mkdir(exist_ok=True)
    group = GroupMetadata(attributes={"long_name": "size and digest of each file"}, zarr_format=3)
    (folder / _ROOT).write_text(json.dumps(group.to_dict()), "utf-8")
    (folder / _FILE).write_text(json.dumps(entries, indent=0, sort_keys=True), "utf-8")
    return identifier(entries, attrs)


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
    file = path / MANIFEST / _FILE
    try:
        return {key: (int(size), str(digest)) for key, (size, digest) in read_json(file, dict).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"{file} is damaged ({error}): copy the store again.") from error


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
        raise StoreError(f"{path} has no manifest: it is not complete, or an earlier version wrote it; write it again.")
    try:
        found, attrs = _entries(path), dict(zarr.open_group(path, mode="r", zarr_format=3).attrs)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise StoreError(f"{path}: the metadata cannot be read ({error!s:.200}): copy the store again.") from error
    faults = [f"{key}: it is missing" for key in sorted(expected.keys() - found.keys())]
    faults += [f"{key}: it was not there when the store was written" for key in sorted(found.keys() - expected.keys())]
    names = sorted(expected.keys() & found.keys())
    for done, key in enumerate(names, 1):
        if found[key] != expected[key]:
            faults.append(f"{key}: {found[key][0]} bytes, other than the {expected[key][0]} that were written")
        elif fault := _damage(path, key):
            faults.append(f"{key}: {fault}")
        if progress is not None:
            progress(done, len(names), key)
    store_id = identifier({key: list(entry) for key, entry in found.items()}, attrs)
    if not faults and store_id != attrs.get(STORE_ID):
        faults.append(f"{_ROOT}: attributes other than those that were written")
    return Verification(store_id, len(names), tuple(faults))


def _entries(path: Path) -> Entries:
    """Return the size and digest of each file of a store but its root, its ledger and its manifest."""
    files = sorted(_files(path))
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as pool:
        found = pool.map(functools.partial(_entry, path), files)
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


def _entry(path: Path, key: str) -> tuple[int, str]:
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
    return _chunks_with_checksum(path / name / _ROOT) if rest else None


@functools.lru_cache(maxsize=256)
def _chunks_with_checksum(meta: Path) -> int | None:
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
        for number, (offset, count) in enumerate(found[1]):
            stream.seek(offset)
            content = stream.read(count)
            if google_crc32c.value(content[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") != content[-_CHECKSUM:]:
                return f"chunk {number} is damaged: it has another checksum than was written"
    return ""
