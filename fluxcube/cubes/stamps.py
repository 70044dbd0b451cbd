"""Detect which sites of a cube changed: settings of the cube, and digests of archives and metadata."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluxcube.cubes.layout import CubeSettings
from fluxcube.cubes.report import read_report
from fluxcube.errors import ConfigError, StoreError, overwrite_option
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import Archive
from fluxcube.stores.reading import store_attrs

_BLOCK = 1 << 20
_SETTINGS = ("resolution", "clock", "order", "fusion_rule", "predictors", "packing", "checksums")


def settings_of(store: str | os.PathLike) -> dict[str, str]:
    """Return the attributes of a cube that record its settings (`CubeSettings.attrs`)."""
    attrs = store_attrs(store)
    if attrs.get("kind") != "cube":
        raise StoreError(f"{store}: expected a cube, found a store of kind {attrs.get('kind')!r}.")
    if "packing" not in attrs:
        raise StoreError(f"{store}: an older version of fluxcube wrote it; build it again with {overwrite_option()}.")
    return {key: str(attrs[key]) for key in _SETTINGS if key in attrs}


@dataclass(frozen=True)
class Kept:
    """What an append reuses of a cube.

    Attributes
    ----------
    documents : mapping of str to mapping
        Documents of the sites that stay as they are.
    log : mapping
        Log of the build that wrote the cube.
    left_out : mapping of str to str
        Sites that cannot be updated, because files that they were built from are absent, and which ones.
    changed : mapping of str to mapping
        Documents of the sites that are read again, because their files or metadata changed.
    """

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    log: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def sites_to_keep(store: str | os.PathLike, settings: CubeSettings, stamps: Mapping[str, Mapping]) -> Kept:
    """Return the sites that an append leaves as they are.

    Parameters
    ----------
    store : path
        The cube.
    settings : CubeSettings
        Of the build that appends.
    stamps : mapping of str to mapping
        `stamp` of each site for which archives were found.

    Returns
    -------
    Kept

    Raises
    ------
    ConfigError
        If the cube was built with other settings.
    """
    stored, requested = settings_of(store), settings.attrs
    if other := [key for key in stored if stored[key] != requested.get(key)]:
        differences = "; ".join(f"{key} is {stored[key]!r}, requested {requested.get(key)!r}" for key in other)
        raise ConfigError(
            f"{store}: its {differences}. Append with the same options, or build it again with overwrite."
        )
    documents, log = read_report(store)
    kept, left_out, changed = {}, {}, {}
    for site, doc in documents.items():
        new = stamps.get(site)
        if new is None or (doc["archives"] == new["archives"] and doc["info"] == new["info"]):
            kept[site] = doc
        elif lost := _lost(doc["archives"], new["archives"]):
            kept[site] = doc
            left_out[f"{site}: update"] = (
                f"the cube's {site} was also built from {', '.join(lost)}, expected among the files, found none: the "
                "site stays as it is. Pass those files as well, or build again with overwrite."
            )
        else:
            changed[site] = doc
    return Kept(kept, log, left_out, changed)


def _lost(before: Sequence[Mapping], now: Sequence[Mapping]) -> list[str]:
    """Return the files that a site was built from and that are neither present now nor covered by a newer file."""
    return [old["file"] for old in before if not any(new["file"] == old["file"] or _covers(new, old) for new in now)]


def _covers(new: Mapping, old: Mapping) -> bool:
    if new.get("network") != old.get("network"):
        return False
    ends = new.get("first_year"), new.get("last_year"), old.get("first_year"), old.get("last_year")
    if None in ends:
        return _same_source(new, old)
    first, last, old_first, old_last = (int(year) for year in ends if year is not None)
    return first <= old_first and old_last <= last


def _same_source(new: Mapping, old: Mapping) -> bool:
    """Return whether two files whose names state no years are the same table, such as a zip and its unpacked table."""
    names = [str(file["file"]).rpartition("!")[2].removesuffix(".gz") for file in (new, old)]
    return names[0] == names[1]


def stamp(archives: Sequence[Archive], info: SiteInfo | None) -> dict[str, Any]:
    """Return a description of the archives and metadata of a site that shows a change; without modification times."""
    return {"archives": [_stamp(archive) for archive in archives], "info": digest_info(info)}


def digest_info(info: SiteInfo | None) -> str:
    """Return a digest of the metadata of a site."""
    more = () if info is None else (info.places, info.classes, info.doubts, info.notes)
    return hashlib.sha256((repr(info) + (repr(more) if any(more) else "")).encode()).hexdigest()[:16]


def _stamp(archive: Archive) -> dict[str, object]:
    member = f"!{archive.member}" if archive.member and archive.path.suffix.lower() == ".zip" else ""
    return {
        "file": f"{archive.path.name}{member}",
        "network": archive.network,
        "version": archive.version,
        "first_year": archive.first_year,
        "last_year": archive.last_year,
        "digest": _digest(archive.path),
    }


def _digest(path: Path) -> str:
    """Return a digest of the content of a file or folder; for a zip, of the checksums that it contains."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {_digest_file(file)}".encode())
        return digest.hexdigest()
    return _digest_file(path)


def _digest_file(path: Path) -> str:
    status = path.stat()
    return _digest_content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest_content(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file, computed once per process even if the file contains many sites."""
    digest = hashlib.sha256()
    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    digest.update(f"{entry.filename} {entry.file_size} {entry.CRC}\n".encode())
            return digest.hexdigest()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
            pass  # its reader raises an error that explains the problem
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
