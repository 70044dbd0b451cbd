"""Small JSON documents inside a store, each stored separately, so that opening the store reads none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import zarr
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

from fluxcube.stores.reading import open_group


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
    path: str | os.PathLike, folder: str, *, storage_options: Mapping[str, object] | None = None
) -> dict[str, dict]:
    """Return the documents that `write_documents` wrote, by name; empty where there is no such group."""
    group = open_group(path, "r", storage_options).get(folder)
    if not isinstance(group, zarr.Group):
        return {}
    return {name: dict(document.attrs) for name, document in sorted(group.groups())}
