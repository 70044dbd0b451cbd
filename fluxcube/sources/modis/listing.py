"""List the MODIS rasters in a folder, from the names of files and bands."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError, to_type
from fluxcube.sources.modis import earthengine, tiff
from fluxcube.sources.modis.grid import PRODUCTS, Raster
from fluxcube.sources.modis.layers import are_positions, find_bands, read_name
from fluxcube.sources.modis.names import FileName, collection_of, loose_name, parse_name, used_layer
from fluxcube.stores.files import visible_files

log = logging.getLogger(__name__)

RasterSource = str | os.PathLike | Raster | Sequence[str | os.PathLike | Raster]
Ignored = list[tuple[Path, str]]

#: Suffixes of the formats that are read.
SUFFIXES = (".tif", ".tiff", ".hdf", ".csv")


@dataclass(frozen=True)
class Listing:
    """The contents of a folder: rasters sorted by day, product and path, and ignored files with the reason for each."""

    rasters: tuple[Raster, ...]
    ignored: tuple[tuple[Path, str], ...]


@dataclass(frozen=True)
class _Piece:
    """A file with one layer of a product that has several; pieces with the same key are one raster."""

    key: tuple
    layer: str
    path: Path
    product: str
    day: np.datetime64
    masked: bool = False


def survey_rasters(source: RasterSource, *, products: Iterable[str] = ()) -> Listing:
    """List the MODIS rasters in a folder, and the files that are ignored, with reasons.

    A file named as by LP DAAC (``MCD43A4.A2019185.h18v04.061.<anything>.hdf`` or ``.tif``) or AppEEARS is not opened,
    since its name contains product and date. Of other GeoTIFFs and CSVs the headers are read, since product and date
    may be in the names of their bands only (`earthengine`). GeoTIFFs with one layer each are put together by product,
    day, tile and the rest of their names. Of two editions of a tile and day the later one is used.

    Parameters
    ----------
    source : path, Raster, or list of these
        A folder (searched with its subfolders), a file, or a raster that was listed before.
    products : names, optional
        Products to list; by default all.

    Returns
    -------
    Listing

    Raises
    ------
    SourceError
        If a path does not exist, or the day in a name is impossible.
    """
    selected = set(products) or set(PRODUCTS)
    items = [source] if isinstance(source, (str, os.PathLike, Raster)) else list(source)
    rasters = [item for item in items if isinstance(item, Raster)]
    ignored: Ignored = []
    pieces: list[_Piece] = []
    for path in _paths([item for item in items if not isinstance(item, Raster)]):
        name = parse_name(path) or _of_one_layer(path)
        if name is not None and name.layer and name.product in PRODUCTS:
            _sort_piece(path, name, rasters, pieces, ignored)
            continue
        in_file, reason = _rasters_in(path, name)
        rasters += in_file
        if reason:
            ignored.append((path, reason))
    rasters = _without_pieces(rasters, pieces)
    rasters += _assembled(pieces, ignored)
    latest, older = _latest([raster for raster in rasters if raster.product in selected])
    return Listing(tuple(latest), (*ignored, *older))


def list_rasters(source: RasterSource, *, products: Iterable[str] = ()) -> list[Raster]:
    """List the MODIS rasters in a folder, as `survey_rasters`; the number of ignored files is logged.

    Parameters
    ----------
    source, products
        As of `survey_rasters`.

    Returns
    -------
    list of Raster
        Sorted by day, product and path.

    Raises
    ------
    SourceError
        If there is no such file.
    """
    listing = survey_rasters(source, products=products)
    selected = sorted(set(products) or set(PRODUCTS))
    first = f"{listing.ignored[0][0].name}: {listing.ignored[0][1]}" if listing.ignored else ""
    if not listing.rasters:
        example = "MCD43A4" if "MCD43A4" in selected else selected[0]
        raise SourceError(
            f"no MODIS raster in {_shown(source)}: expected {', '.join(selected)} as HDF tiles or GeoTIFFs with names "
            f"like {example}.A2019185.h18v04.061.2019194040325.hdf, or Earth Engine exports like "
            f"{example}_2019_07_04.tif."
            + (f" {len(listing.ignored)} other files were ignored, the first {first}." if first else "")
            + (
                f" Tables of reflectance are read with {to_type(python='surface=', shell='--surface')}."
                if _has_tables(listing.ignored)
                else ""
            )
        )
    if listing.ignored:
        log.warning("%d files in %s are ignored, the first %s", len(listing.ignored), _shown(source), first)
    return list(listing.rasters)


def _has_tables(ignored: Ignored | tuple[tuple[Path, str], ...]) -> bool:
    """Return whether there are tables among files."""
    return any(path.suffix.lower() == ".csv" for path, _ in ignored)


def _rasters_in(path: Path, name: FileName | None) -> tuple[list[Raster], str]:
    """Return the rasters in a file, and the reason if there is none."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return earthengine.name_table(path) if earthengine.is_table(path) else ([], "no table of getRegion")
    if name is not None:
        return _archive_rasters(path, name)
    if suffix == ".hdf":
        return [], "its name is not that of a MODIS tile"
    try:
        return earthengine.name_bands(path, tiff.band_names(path))
    except SourceError as problem:
        if path.stem.upper().startswith(tuple(PRODUCTS)):
            raise  # by its name it should be readable
        return [], str(problem)


def _archive_rasters(path: Path, name: FileName) -> tuple[list[Raster], str]:
    """Return the rasters in a file named as by LP DAAC, and the reason if there is none."""
    if name.product not in PRODUCTS:
        return [], f"{name.product} is not used"
    raster = Raster(path=path, product=name.product, day=name.day, tile=name.tile if name.hdf else None)
    if name.product != "MOD09GA":
        return [raster], ""
    if name.hdf:
        return [raster, Raster(path=path, product="MOD09GA_STATE", day=name.day, tile=name.tile)], ""
    return _daily_tiff(raster)


def _daily_tiff(raster: Raster) -> tuple[list[Raster], str]:
    """Return MOD09GA's reflectance, flags or both, by the bands' names, or by their number in the product's order."""
    names = tiff.band_names(raster.path)
    layers = (*PRODUCTS["MOD09GA"].layers, *PRODUCTS["MOD09GA_STATE"].layers)
    found = {product: find_bands(product, names) for product in ("MOD09GA", "MOD09GA_STATE")}
    if len(names) == len(layers) and are_positions("MOD09GA", names):
        found = {"MOD09GA": tuple(range(1, 8)), "MOD09GA_STATE": (8,)}
    rasters = [
        Raster(path=raster.path, product=product, day=raster.day, bands=bands)
        for product, bands in found.items()
        if bands is not None
    ]
    reason = f"MOD09GA needs {', '.join(layers[:7])}, or {layers[7]}; found {list(names)[:8]}"
    return rasters, "" if rasters else reason


def _sort_piece(path: Path, name: FileName, rasters: list[Raster], pieces: list[_Piece], ignored: Ignored) -> None:
    """Add a file named after its only layer to the rasters, to the pieces of rasters, or to the ignored files."""
    used = used_layer(name)
    if used is None:
        ignored.append((path, f"its layer {name.layer} is not used"))
    elif len(PRODUCTS[used[0]].layers) == 1:
        rasters.append(Raster(path=path, product=used[0], day=name.day))
    else:
        # An export of integers has no fill value: pixels at which all layers are 0 are masked.
        masked = parse_name(path) is None and used[0] in ("MCD43A4", "MOD09GA")
        pieces.append(_Piece(_piece_key(used[0], name), used[1], path, used[0], name.day, masked))


def _of_one_layer(path: Path) -> FileName | None:
    """Return the parsed name of a GeoTIFF with one band, if it contains product, date and layer; else None."""
    name = loose_name(path) if path.suffix.lower() in (".tif", ".tiff") else None
    return name if name is not None and len(tiff.band_names(path)) == 1 else None


def _piece_key(product: str, name: FileName) -> tuple:
    return product, str(name.day), name.tile, name.collection, name.production, name.rest


def _without_pieces(rasters: Sequence[Raster], pieces: list[_Piece]) -> list[Raster]:
    """Return the rasters without those that are single layers by the names of their bands, which become pieces.

    Converters number the layers of a tile in the names of files, and name them in the description of the band. Headers
    are read only where there are as many files of one product, day and tile as the product has layers.
    """
    groups: dict[tuple, list[Raster]] = defaultdict(list)
    for raster in rasters:
        name = parse_name(raster.path) if raster.path.suffix.lower() in (".tif", ".tiff") else None
        if name is not None and not raster.parts and len(PRODUCTS[raster.product].layers) > 1:
            groups[(*_piece_key(raster.product, name)[:5], raster.path.parent)].append(raster)
    single: set[Path] = set()
    for key, group in groups.items():
        if len(group) < len(PRODUCTS[group[0].product].layers) or len(tiff.band_names(group[0].path)) > 1:
            continue
        for raster in group:
            names = tiff.band_names(raster.path)
            layers = (read_name(names[0], raster.product).layers if len(names) == 1 else None) or ()
            if len(layers) == 1:
                (layer,) = layers
                pieces.append(_Piece(key, layer, raster.path, raster.product, raster.day))
                single.add(raster.path)
    return [raster for raster in rasters if raster.path not in single]


def _assembled(pieces: Iterable[_Piece], ignored: Ignored) -> list[Raster]:
    """Return the rasters that pieces form; incomplete ones are added to the ignored files."""
    groups: dict[tuple, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    about: dict[tuple, _Piece] = {}
    for piece in pieces:
        groups[piece.key][piece.layer].append(piece.path)
        about.setdefault(piece.key, piece)
    rasters = []
    for key, found in groups.items():
        product, day = about[key].product, about[key].day
        layers = PRODUCTS[product].layers
        missing = [layer for layer in layers if layer not in found]
        mask = (1,) * len(layers) if about[key].masked else ()
        for chosen in [] if missing else _by_folder(found, layers):
            rasters.append(Raster(path=chosen[0], product=product, day=day, parts=chosen, mask=mask))
        if missing:
            reason = f"its raster of {product}, {day}, lacks the layers {', '.join(missing)}"
            ignored += [(path, reason) for layer in sorted(found) for path in found[layer]]
    return rasters


def _by_folder(found: Mapping[str, Sequence[Path]], layers: Sequence[str]) -> list[tuple[Path, ...]]:
    """Return the files of each raster in the order of layers: one of each layer, or as many as there are folders."""
    if all(len(found[layer]) == 1 for layer in layers):
        return [tuple(found[layer][0] for layer in layers)]
    folders = sorted({path.parent for layer in layers for path in found[layer]})
    chosen = [[path for layer in layers for path in found[layer] if path.parent == folder] for folder in folders]
    for files in chosen:
        if len(files) != len(layers):
            raise SourceError(
                f"{files[0]}: {len(files)} files of one product, day and tile in one folder contain {len(layers)} "
                "layers: keep one file of each layer."
            )
    return [tuple(files) for files in chosen]


def _latest(rasters: Sequence[Raster]) -> tuple[list[Raster], Ignored]:
    """Select, of the files of one product, day, tile and region, the last edition; and list the others.

    The result is sorted by day and product; of different cuts, which can overlap, those of later editions come first.
    """
    names = {raster.path: parse_name(raster.path) for raster in rasters}
    best: dict[tuple, Raster] = {}
    for raster in rasters:
        key = _place_key(raster, names[raster.path])
        best[key] = max(best.get(key, raster), raster, key=lambda r: _edition(names[r.path]))
    latest: list[Raster] = []
    older: dict[Path, str] = {}
    for raster in rasters:
        winner = best[_place_key(raster, names[raster.path])]
        if winner is raster:
            latest.append(raster)
        else:
            same = _edition(names[raster.path]) == _edition(names[winner.path])
            reason = f"{winner.path.name} is {'the same' if same else 'a later'} edition of the same tile and day"
            older |= dict.fromkeys(raster.files, reason)
    latest.sort(key=lambda r: str(r.path))
    latest.sort(key=lambda r: _edition(names[r.path] or r.path), reverse=True)
    latest.sort(key=lambda r: (r.day, r.product))
    return latest, list(older.items())


def _place_key(raster: Raster, name: FileName | None) -> tuple:
    """Return what the editions of one raster have in common.

    An HDF4 file is a whole tile. GeoTIFFs in other folders, or with another rest of their names, can be other regions.
    """
    if name is None:
        return raster.path, raster.product, str(raster.day)
    region = None if name.hdf else (name.rest, raster.path.parent)
    return raster.product, str(raster.day), name.tile, region


def _edition(name: FileName | Path | None) -> tuple[str, str, bool]:
    """Return the order of an edition; of a path that no archive named so, its collection alone."""
    if isinstance(name, Path):
        return collection_of(name), "", False
    return ("", "", False) if name is None else name.edition


def _paths(items: Iterable[str | os.PathLike]) -> list[Path]:
    """Return the files of known formats in folders and lists, sorted."""
    files: set[Path] = set()
    for item in map(Path, items):
        if not item.exists():
            raise SourceError(f"{item} does not exist: pass a folder of MODIS HDF tiles or GeoTIFFs.")
        if not (item.is_dir() or item.is_file()):
            raise SourceError(f"{item} is no regular file but a pipe or a device: pass a MODIS raster or a folder.")
        files |= {p for p in visible_files(item) if p.suffix.lower() in SUFFIXES} if item.is_dir() else {item}
    if other := [path for path in files if path.suffix.lower() not in SUFFIXES]:
        raise SourceError(f"{other[0]}: expected a MODIS raster: {', '.join(SUFFIXES)}.")
    return sorted(files)


def _shown(source: RasterSource) -> str:
    """Return a source as text for messages: a folder or file, or the first of several and their number."""
    items = [source] if isinstance(source, (str, os.PathLike, Raster)) else list(source)
    paths = [str(item.path if isinstance(item, Raster) else item) for item in items]
    return paths[0] if len(paths) == 1 else f"{len(paths)} paths (the first is {paths[0] if paths else 'none'})"
