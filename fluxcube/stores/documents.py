"""Small JSON documents inside a store, each stored separately, so that opening the store reads none of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import zarr
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from fluxcube.errors import StoreError
from fluxcube.stores.pinned import PinnedStore
from fluxcube.stores.reading import names_written, open_group


def write_documents(path: str | os.PathLike, folder: str, documents: Mapping[str, Mapping[str, object]]) -> None:
    """Write documents into a store as the attributes of groups.

    Parameters
    ----------
    path : path
        A store that is being built.
    folder : str
        Name of the group that contains them.
    documents : mapping of str to mapping
        By name, in types that JSON can represent.
    """
    nodes: dict[str, GroupMetadata | ArrayV2Metadata | ArrayV3Metadata] = {folder: GroupMetadata(zarr_format=3)}
    for name, document in documents.items():
        nodes[f"{folder}/{name}"] = GroupMetadata(attributes=dict(document), zarr_format=3)
    store = open_group(Path(path), "r+").store
    for _ in zarr.create_hierarchy(store=store, nodes=nodes, overwrite=False):
        pass  # the iterator creates the nodes


def read_documents(
    path: str | os.PathLike, *folders: str, storage_options: Mapping[str, object] | None = None
) -> tuple[dict[str, dict], ...]:
    """Return the documents that `write_documents` wrote in some folders, by name; all of one state of the store.

    Returns
    -------
    tuple of dict
        One for each folder; empty where there is no such group.

    Raises
    ------
    StoreError
        If there is no store, it is replaced meanwhile, or it lacks a document that it was written with.
    """
    store = open_group(path, "r", storage_options)
    return tuple(_documents(path, store, folder) for folder in folders)


def _documents(path: str | os.PathLike, store: zarr.Group, folder: str) -> dict[str, dict]:
    group = store.get(folder)
    found = dict(sorted(group.groups())) if isinstance(group, zarr.Group) else {}
    parts = [key.split("/") for key in names_written(store) if key.startswith(f"{folder}/")]
    if missing := sorted({name for _, name, *rest in parts if rest} - found.keys()):
        raise StoreError(
            f"{path}: {', '.join(missing)} of {folder} are missing, which were there when the store was written: copy "
            "it again."
        )
    _check_unchanged(path, store, folder)
    return {name: dict(document.attrs) for name, document in found.items()}


def _check_unchanged(path: str | os.PathLike, store: zarr.Group, folder: str) -> None:
    """Compare documents on a disk with the manifest (StoreError): an append copies what they contain to coordinates."""
    if not isinstance(store.store, PinnedStore):
        return
    for key, (_, digest) in (store.store.manifest() or {}).items():
        if key.startswith(f"{folder}/") and "/c/" not in key:
            content = store.store.get_sync(key)
            if content is None or hashlib.blake2b(content.to_bytes(), digest_size=16).hexdigest() != digest:
                raise StoreError(f"{path}: {key} was changed since the store was written: copy the store again.")
