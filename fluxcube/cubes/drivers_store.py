"""Drivers of other sources in the store of a tower cube: cut to each tower's record, written beside its predictors.

The document of a site records in ``place.drivers`` what its drivers were read from, by the name of the source. The
arrays of a store follow from these records, so that appending leaves the files of other sites as they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.compose import CubeSites, compose
from fluxcube.cubes.driver_comparison import ERA5, compare_values, doubts
from fluxcube.cubes.driver_sources import Drivers, DriverSource, JoinedDrivers, TableDrivers, open_drivers
from fluxcube.cubes.drivers import SiteDrivers, check_name, check_sites, read_drivers
from fluxcube.cubes.drivers_layout import has_drivers, spill_key
from fluxcube.cubes.layout import CubeSettings
from fluxcube.cubes.report import read_report
from fluxcube.cubes.stamps import settings_of
from fluxcube.decimals import snap
from fluxcube.errors import SourceError
from fluxcube.sources.towers.reanalysis import find_reanalysis
from fluxcube.stores.bucket_states import working_copy
from fluxcube.stores.building import spill, staging, store_lock, unspill
from fluxcube.stores.reading import open_store

_log = logging.getLogger(__name__)

#: Drivers of a build: True for the reanalysis among the archives, sources, or sources by name.
DriverOption: TypeAlias = (
    bool | DriverSource | Sequence[DriverSource] | Mapping[str, DriverSource | Sequence[DriverSource]]
)

#: Share of the time steps of a record from which on its drivers count as complete.
_COMPLETE = 0.99
#: Maximum number of towers whose weather is compared with their drivers.
_COMPARED_SITES = 5


def open_options(option: DriverOption, roots: Iterable[str | os.PathLike]) -> dict[str, JoinedDrivers]:
    """Open the drivers of a build, by the name of the source.

    Parameters
    ----------
    option : bool, source, sequence of sources, or mapping of str to these
        As `fluxcube.build_carbonsense` describes it.
    roots : iterable of path
        Folders of archives.

    Raises
    ------
    ConfigError
        If a name is not valid.
    SourceError
        If a source cannot be read, or the archives contain no reanalysis.
    """
    if option is False or (isinstance(option, (tuple, list)) and not option):
        return {}
    if option is True:
        archives = find_reanalysis(roots)
        if not archives:
            raise SourceError(
                "drivers: expected files of reanalysis (..._ERAI_HH_..., ..._ERA5_DD_...csv) among the archives, found "
                "none; pass the folder or table that has them."
            )
        found: tuple[Drivers, ...] = (TableDrivers(archives),)
        return {ERA5: JoinedDrivers(found)}
    if isinstance(option, Mapping) and not isinstance(option, (xr.Dataset, pd.DataFrame)):
        return {check_name(str(name)): open_drivers(source) for name, source in option.items()}
    return {ERA5: open_drivers(option)}


def is_changed(opened: Mapping[str, JoinedDrivers], doc: Mapping[str, Any], resolution: str) -> bool:
    """Return whether the sources have drivers of a site that differ from those of its document."""
    known = doc["place"].get("drivers", {})
    digests = {name: drivers.digest(doc["place"], resolution) for name, drivers in opened.items()}
    return any(digest not in ("", known.get(name, {}).get("digest", "")) for name, digest in digests.items())


def cut_drivers(
    opened: Mapping[str, JoinedDrivers],
    settings: CubeSettings,
    sites: CubeSites,
    building: Path,
    *,
    strict: bool = False,
) -> CubeSites:
    """Spill the drivers of the sites that were read, or whose sources changed, to a store that is being built.

    Parameters
    ----------
    opened : mapping of str to JoinedDrivers
        Sources by name.
    settings : CubeSettings
        Of the cube.
    sites : CubeSites
        Sites of the cube; the values of the fresh ones were spilled to `building`.
    building : path
        Store that is being built.
    strict : bool
        Raise an error for the first tower whose drivers cannot be read, instead of a note.

    Returns
    -------
    CubeSites
        With documents that record the drivers, and note where a tower has none or only some.

    Raises
    ------
    ConfigError
        If no tower has drivers.
    SourceError
        If a source cannot be read.
    """
    documents = dict(sites.documents)
    for name, drivers in opened.items():
        faults: list[str] = []
        for site, doc in documents.items():
            new = site in sites.fresh or not _is_noted(name, doc)
            if new or is_changed({name: drivers}, doc, settings.resolution):
                one, fault = read_drivers(
                    drivers, doc["place"], settings.predictors, settings.resolution, strict=strict
                )
                faults += [fault] if fault else []
                documents[site] = _with_drivers(name, drivers, settings, doc, one, fault)
                _spill(building, spill_key(site, name), one, settings)
        have = [site for site, doc in documents.items() if has_drivers(doc["place"], name)]
        check_sites(name, have, list(documents), faults)
        for doubt in doubts(_compared(name, documents, sites, settings, building)):
            _log.warning("drivers %s: %s", name, doubt)
    return CubeSites(
        kept={site: documents[site] for site in sites.kept}, fresh={site: documents[site] for site in sites.fresh}
    )


def _is_noted(name: str, doc: Mapping[str, Any]) -> bool:
    """Return whether the document of a site records the drivers of a source, or that it has none."""
    return name in _of(doc) or any(text.startswith(f"drivers {name}: ") for text in doc["warnings"])


def _of(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    return doc["place"].get("drivers", {})


def _with_drivers(
    name: str,
    drivers: JoinedDrivers,
    settings: CubeSettings,
    doc: Mapping[str, Any],
    one: SiteDrivers | None,
    fault: str,
) -> dict[str, Any]:
    """Return the document of a tower with the record of its drivers, and notes on what is missing."""
    records = {other: record for other, record in _of(doc).items() if other != name}
    notes = [text for text in doc["warnings"] if not text.startswith(f"drivers {name}: ")]
    if one is None and has_drivers(doc["place"], name):
        why = f"cannot be read: {fault}" if fault else "has no value in the time of its record"
        return {**doc, "warnings": [*notes, f"drivers {name}: the new source {why}; they stay as they are"]}
    digest = drivers.digest(doc["place"], settings.resolution)
    if digest:  # also of a tower without a value in its time, so that an append does not read it again
        variables = list(one.variables) if one is not None else []
        records[name] = {"variables": variables, "source": drivers.product, "digest": digest}
    notes += [f"drivers {name}: {text}" for text in _notes(one, fault)]
    return {**doc, "place": {**doc["place"], "drivers": records}, "warnings": notes}


def _notes(one: SiteDrivers | None, fault: str) -> list[str]:
    if one is None:
        return [f"cannot be read: {fault}" if fault else "no value in the time of its record"]
    if one.share >= _COMPLETE:
        return []
    return [f"{one.share:.0%} of its {len(one.values)} time steps have a value"]


def _spill(building: Path, key: str, one: SiteDrivers | None, settings: CubeSettings) -> None:
    """Spill the drivers of one tower; with compact stores, without the rounding errors of decimal fractions."""
    if one is not None:
        values = np.stack([snap(column) for column in one.values.T], 1) if settings.compact else one.values
        spill(building, key, {"values": values})


def _compared(
    name: str, documents: Mapping[str, Mapping], sites: CubeSites, settings: CubeSettings, building: Path
) -> pd.DataFrame:
    """Compare the drivers of some of the towers that were read with their own weather."""
    frames = []
    chosen = [site for site in sites.fresh if has_drivers(documents[site]["place"], name)]
    for site in chosen[:_COMPARED_SITES]:
        tower, other = unspill(building, site), unspill(building, spill_key(site, name))["values"]
        labels = [str(label) for label in tower["predictors_names"]]
        columns = [settings.predictors.index(label) for label in labels]
        frames.append(compare_values(site, labels, tower["predictors"], other[:, columns], settings.resolution))
    return pd.concat(frames) if frames else pd.DataFrame(columns=["variable", "mean_tower", "mean"])


def add_drivers_to_store(
    store: str | os.PathLike,
    source: DriverSource | Sequence[DriverSource],
    *,
    name: str = ERA5,
    keep: bool = False,
    storage_options: Mapping[str, object] | None = None,
) -> None:
    """Add drivers of another source to a cube on a disk or in a bucket; the files of its other arrays stay as they are.

    Parameters
    ----------
    store : path or URL
        A cube that `fluxcube.build_carbonsense` wrote. It is replaced once the new one is complete.
    source : path, xr.Dataset, pandas.DataFrame or sequence of these
        As `fluxcube.add_drivers` describes it.
    name : str
        Name of the source. Drivers of this name are replaced where the source has others.
    keep : bool
        Keep the earlier state of the cube, as in `fluxcube.build_carbonsense`.
    storage_options : mapping, optional
        Options of fsspec to reach the URL of the cube.

    Raises
    ------
    StoreError
        If there is no such cube, or another process is writing it.
    ConfigError, SourceError
        As `fluxcube.add_drivers`.

    Examples
    --------
    >>> add_drivers_to_store("carbonsense.zarr", "era5.zarr")  # doctest: +SKIP
    """
    opened = {check_name(name): open_drivers(source)}
    with working_copy(store, storage_options, append=True, keep=keep) as path, store_lock(path):
        attrs = settings_of(path)
        with open_store(path, kind="cube", dask=False) as cube:
            settings = CubeSettings.of(cube, attrs)
        documents, log = read_report(path)
        with staging(path, overwrite=True, keep=keep) as building:
            sites = cut_drivers(opened, settings, CubeSites(kept=documents), building)
            compose(building, settings, sites, source=path, log=log)
