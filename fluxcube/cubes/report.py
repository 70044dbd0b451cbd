"""The report of a cube: which source each value came from, why others were removed, and whom to cite.

Each site has its own document in the store. `open_report` reads these documents; opening the cube does not.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fluxcube.citations import own_citation, persistent_id
from fluxcube.cubes.layout import placed
from fluxcube.cubes.tower_data import Tower
from fluxcube.errors import SourceError, StoreError, unknown
from fluxcube.sources.towers.archives import Location, open_stream
from fluxcube.sources.towers.codes import sentence
from fluxcube.sources.towers.discovery import Discovery
from fluxcube.sources.towers.networks import networks
from fluxcube.stores.documents import read_documents, write_documents
from fluxcube.stores.reading import store_attrs

#: Groups of the store that contain the documents of its sites, and the log of its build.
SITES, BUILD = "report", "build"

#: The network whose snapshot has a citation for each product.
_SHUTTLE = "FLUXNET Shuttle 2026"
_FLAGS = ("flag0", "flag1", "flag2", "flag3")


def citations_of(badm: Iterable[Location]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the citation and DOI of each product that a Shuttle snapshot lists, by site and network."""
    citations = {}
    for location in badm:
        if "snapshot" in location.name:
            with open_stream(location) as stream:
                rows = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline=""))
                for row in rows:
                    if row.get("site_id") and row.get("product_citation"):
                        citation = " ".join(row["product_citation"].split())
                        identifier = persistent_id((row.get("product_id") or "").strip(), citation)
                        citations[row["site_id"], _SHUTTLE] = citation, identifier
    return citations


def document(
    tower: Tower,
    archives: Sequence[Mapping],
    info: str,
    cited: Mapping[tuple[str, str], tuple[str, str]],
    resolution: str = "hourly",
    *,
    licence: str = "",
) -> dict[str, Any]:
    """Return everything that a store keeps about a site in addition to its values.

    Parameters
    ----------
    tower : Tower
        The site.
    archives : sequence of mapping
        Archives that it was read from, each with a digest.
    info : str
        Digest of its metadata.
    cited : mapping of (site, network) to (citation, DOI)
        Citations of single products; others have the citation of their network.
    resolution : str
        "hourly" or "daily".
    licence : str
        Licence of data that do not come from a network.

    Returns
    -------
    dict
        In values that JSON can contain.
    """
    site, names = tower.info.site, tower.networks
    rows = [networks().get(name) for name in names]
    own = [(row.citation, row.doi) if row else (name, "") for name, row in zip(names, rows, strict=True)]
    cites = [own_citation(site, name, *cited.get((site, name), other)) for name, other in zip(names, own, strict=True)]
    place = placed(tower, resolution) | {
        "citations": [" ".join(citation.split()) for citation, _ in cites],
        "dois": [doi for _, doi in cites],
        "licences": [row.licence if row else " ".join(licence.split()) for row in rows],
    }
    return {
        "place": place,
        "archives": [dict(archive) for archive in archives],
        "info": info,
        "fusion": tower.fusion,
        "quality": tower.quality,
        "sun_lag": tower.sun_lag,
        "out_of_bounds": tower.out_of_bounds,
        "flags_assumed": tower.flags_assumed,
        "missing_codes": tower.missing_codes,
        "warnings": list(tower.warnings),
        "lost": list(tower.lost),
        "unread": tower.unread,
    }


def build_document(
    left_out: Mapping[str, str], discovery: Discovery | None, roots: Sequence[str], before: Mapping
) -> dict[str, object]:
    """Return the log of a build: what is not in the store, and why; file names without the folders of the machine."""
    ignored = dict(discovery.ignored) if discovery else {}
    used = {a.path.name for a in discovery.archives} if discovery else set()
    earlier = {k: v for k, v in before.get("ignored", {}).items() if k.rpartition("/")[2] not in used}
    return {
        "left_out": dict(sorted(_bare(left_out, roots).items())),
        "ignored": dict(sorted((earlier | _bare(ignored, roots)).items())),
    }


def _bare(texts: Mapping[str, str], roots: Sequence[str]) -> dict[str, str]:
    """Return texts, and their names, without the folders that the user passed."""
    for root in sorted((f"{str(root).rstrip('/')}/" for root in roots), key=len, reverse=True):
        texts = {name.replace(root, ""): why.replace(root, "") for name, why in texts.items()}
    return dict(texts)


def write_report(building: os.PathLike, documents: Mapping[str, Mapping], build: Mapping) -> None:
    """Write the documents of all sites, and the log of the build, to a store that is being built."""
    write_documents(building, SITES, documents)
    write_documents(building, BUILD, {"log": build})


def read_report(store: str | os.PathLike, storage_options: Mapping[str, object] | None = None) -> tuple[dict, dict]:
    """Return the documents of a store's sites, by site, and the log of its build."""
    sites, build = read_documents(store, SITES, BUILD, storage_options=storage_options)
    return sites, build.get("log", {})


def cube_attrs(documents: Mapping[str, Mapping], settings: Mapping[str, str]) -> dict[str, object]:
    """Return the attributes of a cube: its kind, settings and sources."""
    names = sorted({name for doc in documents.values() for name in doc["place"]["networks"]})
    rows = {name: networks()[name] for name in names if name in networks()}
    sources = {n: {"citation": r.citation, "doi": r.doi, "licence": r.licence} for n, r in rows.items()}
    return {
        "kind": "cube",
        "Conventions": "CF-1.11",
        "title": f"CarbonSense: {settings['resolution']} tower fluxes, weather and satellite data",
        **settings,
        "sources": json.dumps(sources),
        "licences": "; ".join(sorted({name for doc in documents.values() for name in doc["place"]["licences"]} - {""})),
        "report": "fluxcube.open_report(store)",
    }


def open_report(
    store: str | os.PathLike, what: str = "fusion", *, storage_options: Mapping[str, object] | None = None
) -> pd.DataFrame:
    """Return a table of what a cube was built from, and of what was left out.

    Parameters
    ----------
    store : path or URL
        A cube that `build_carbonsense` wrote.
    what : {"fusion", "quality", "notes", "archives", "left_out"}
        ``fusion``: site, variable, source, the number of ``hours`` (days, in a daily cube) that it supplied, the
        numbers of these with each flag (``flag0`` to ``flag3``), the ``first`` and the ``last``. ``quality``: site,
        stack, variable and what each rule removed (`fluxcube.cubes.tower_data.Tower.quality`). ``notes``: site, kind,
        text: warnings, what a publication had lost, files that could not be read. ``archives``: site, file, network,
        version, years and digest of each archive that was read. ``left_out``: name and reason of every site and file
        that is not in the cube.
    storage_options : mapping, optional
        Options of fsspec to reach a URL.

    Returns
    -------
    pandas.DataFrame
        Tidy: one table row for each fact.

    Raises
    ------
    StoreError
        If there is no such store, or it has no report.
    UnknownNameError
        If there is no such table.

    Examples
    --------
    >>> import fluxcube as fc
    >>> fc.open_report("carbonsense.zarr")  # doctest: +SKIP
    >>> fc.open_report("carbonsense.zarr", "left_out")  # doctest: +SKIP
    """
    tables = {"fusion": _fusion, "quality": _quality, "notes": _notes, "archives": _archives}
    if what not in (*tables, "left_out"):
        raise unknown("table of a report", what, (*tables, "left_out"))
    if store_attrs(store, storage_options=storage_options).get("kind") != "cube":
        raise StoreError(f"{store}: expected a cube that build_carbonsense wrote, found another kind of store.")
    documents, log = read_report(store, storage_options)
    if what == "left_out":
        rows = [
            {"what": kind, "name": name, "why": why}
            for kind in ("left_out", "ignored")
            for name, why in log.get(kind, {}).items()
        ]
        return pd.DataFrame(rows, columns=["what", "name", "why"])
    rows = [{"site": site, **row} for site, doc in documents.items() for row in tables[what](doc)]
    columns = {
        "fusion": ["site", "variable", "source", "hours", *_FLAGS, "first", "last"],
        "notes": ["site", "kind", "text"],
    }.get(what)
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(**{k: pd.to_datetime(table[k]) for k in ("first", "last")}) if what == "fusion" else table


def _fusion(doc: Mapping) -> Iterable[dict]:
    for name, sources in doc["fusion"].items():
        for source, part in sources.items():
            flags = dict(zip(_FLAGS, part.get("flags", ()), strict=False))
            yield {
                "variable": name,
                "source": source,
                "hours": part.get("hours", part.get("days")),
                **flags,
                "first": part["first"],
                "last": part["last"],
            }


def _quality(doc: Mapping) -> Iterable[dict]:
    for stack, variables in doc["quality"].items():
        for name, shares in variables.items():
            remain = {f"remain{q}": share for q, share in enumerate(shares.get("remain", ()))}
            yield {"stack": stack, "variable": name, **{k: v for k, v in shares.items() if k != "remain"}, **remain}


def _notes(doc: Mapping) -> Iterable[dict]:
    for kind, texts in (("warning", doc["warnings"]), ("lost", doc.get("lost", ()))):
        yield from ({"kind": kind, "text": text} for text in texts)
    for kind, what in (("out_of_bounds", "values became missing"), ("flags_assumed", "values took an assumed flag")):
        for name, count in doc[kind].items():
            yield {"kind": kind, "text": f"{name}: {count} {what}"}
    for name, codes in doc.get("missing_codes", {}).items():
        yield {"kind": "missing_code", "text": sentence(name, codes)}
    for name, why in doc["unread"].items():
        yield {"kind": "unread", "text": f"{name}: {why}"}


def _archives(doc: Mapping) -> Iterable[dict]:
    yield from doc["archives"]


def read_snapshots(badm: Sequence[Location]) -> tuple[dict[tuple[str, str], tuple[str, str]], str]:
    """Return `citations_of`, and "" or the reason why a snapshot could not be read."""
    try:
        return citations_of(badm), ""
    except SourceError as error:
        return {}, str(error)
