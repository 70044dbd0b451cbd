"""Read CarbonSense v1 as published: a tar, or unpacked folders {site}/{window}/{meta.json, predictors.csv, ...}."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers import arraypickle, published
from fluxcube.sources.towers.badm import SAME_PLACE, SiteInfo, clock_of
from fluxcube.sources.towers.completion import completed_from_table
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.stamped import to_utc
from fluxcube.sources.towers.tarball import Member, list_tar, read_member
from fluxcube.timestamps import Offset

_log = logging.getLogger(__name__)

#: Maximum size in bytes of each file of a window: 25 years of hours in 23 columns of 20 characters are 100 MB.
_LIMITS = {
    "meta.json": 1 << 20,
    "predictors.csv": 1 << 30,
    "targets.csv": 1 << 30,
    "modis.pkl": arraypickle.MAX_BYTES,
}
_STEP = 60
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DAYS = "%Y-%m-%d %H:%M:%S"

#: Flag of every published value: the original flag was 0 or 1, and the publication does not contain which.
_PUBLISHED = 1
#: Flag of GPP and RECO in hours whose NEE was dropped for a flag above 1: the original flag is unknown.
_OF_DROPPED_NEE = 3
_PARTITIONED = ("GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT")

#: Information that was lost when the dataset was published, for reports.
LOST = (
    "Flags were dropped: values with flag 0 or 1 were published, so every value has flag 1 (a good fill), and none "
    "counts as measured.",
    "GPP and RECO were published whatever their flag: where the hour's NEE is missing they have flag 3.",
    "Half-hours were averaged in pairs of rows, not of time stamps; the flag of the first half-hour was used for both.",
    "Wind direction was averaged as a number, not as a direction: means across north are wrong.",
    "Precipitation was doubled at sites whose source files are hourly; the dataset does not contain which these are.",
    "Predictors outside their limits were removed; soil temperature, soil water and water table are absent.",
    "In MODIS images reflectances above 1 were set to 1, images with more than half of their reflectances missing were "
    "left out, and pixels of unknown land or water were set to land.",
    "Values of several networks were merged by the lower flag; the network of a value was not published.",
)


def list_sites(path: str | os.PathLike) -> list[str]:
    """Return the sites of a CarbonSense v1 archive, sorted.

    Parameters
    ----------
    path : path
        The tar (``carbonsense.tar``, compressed or not), the folder it was unpacked to, or that of one site.

    Raises
    ------
    SourceError
        If it contains no window of a site, or the tar is broken or unsafe.
    """
    return sorted(_index(Path(path)))


def read_hours(
    archive: Archive,
    *,
    utc_offset: Offset | None = None,
    variables: Iterable[str] | None = None,
) -> xr.Dataset:
    """Read all windows of one site as one record, in physical units.

    Parameters
    ----------
    archive : Archive
        Its path is the tar or a folder, its site one of `list_sites`.
    utc_offset : float or sequence of (start, float), optional
        Hours east of UTC of the time stamps' local standard time, as in `read_oneflux`. The publication has none:
        default that of the table of known sites, else from the longitude, with a warning.
    variables : iterable of str, optional
        Names of the variable table; default all that the archive has.

    Returns
    -------
    xarray.Dataset
        As `read_oneflux` returns it, hourly. Every flag is 1 (measured or a good fill; the publication does not contain
        which), except 3 for GPP and RECO in hours without NEE. Attribute ``lost`` (JSON) lists the information that was
        lost in the publication, ``scaled_by`` is the version of the limits that was undone ("" if values were
        physical).

    Raises
    ------
    SourceError
        If a file is cut or broken, or its content is not as published.

    References
    ----------
    CarbonSense, arXiv:2406.04940; Zenodo record 11403428.
    """
    windows = _windows(archive)
    names = published.names_to_read(
        None if variables is None else [variables] if isinstance(variables, str) else list(variables)
    )
    parts = [_read_window(window, names) for window in windows]
    start, columns, repeated = _joined(parts)
    offset = clock_of(completed_from_table(read_place(archive))) if utc_offset is None else utc_offset
    time, kept = to_utc(start, _STEP, offset)
    arrays = {name: (values[kept], flags[kept]) for name, (values, flags) in _flagged(columns, names).items()}
    return published.record(time, arrays, _attrs(archive, parts, arrays, int((~kept).sum()), repeated))


def read_place(archive: Archive) -> SiteInfo:
    """Return the coordinates and class of a site from its ``meta.json``.

    Raises
    ------
    SourceError
        If the file is not a JSON object, or contains an impossible number.
    """
    infos = [_place(_meta(window), archive.site, f"{window.where('meta.json')}") for window in _windows(archive)]
    first = infos[0]
    for info in infos[1:]:
        if first.latitude is None or info.latitude is None:
            continue
        if abs(first.latitude - info.latitude) > SAME_PLACE:
            _log.warning(
                "%s: its windows differ on latitude, %s and %s; the first is used",
                archive.site,
                first.latitude,
                info.latitude,
            )
    return first


def read_chips(archive: Archive) -> tuple[np.ndarray, np.ndarray]:
    """Return the MODIS chips of one site.

    Returns
    -------
    days : (D,) datetime64[D]
        Local dates, ascending.
    chips : (D, 9, 8, 8) float32
        Bands as `fluxcube.variables.BANDS`: reflectances, snow and water from 0 to 1, NaN where missing.

    Raises
    ------
    SourceError
        If a pickle contains anything but arrays by time (it is read without being executed), an image has another
        shape or impossible values, or two images of a day differ.
    """
    windows = [window for window in _windows(archive) if "modis.pkl" in window.files]
    images = (pair for window in windows for pair in _images(window).items())
    return published.stacked_chips(images, f"{archive.path}, {archive.site}")


@dataclass(frozen=True)
class _Window:
    """One window of a site: its files by name, each a path, or an entry of the tar at `archive`."""

    archive: Path
    name: str
    files: Mapping[str, Path | Member]

    def where(self, name: str) -> str:
        file = self.files[name]
        return f"{self.archive}!{file.name}" if isinstance(file, Member) else str(file)

    def read(self, name: str) -> bytes:
        file = self.files.get(name)
        if file is None:
            raise SourceError(
                f"{self.archive}, window {self.name}: no {name}, which every window has; get the archive again"
            )
        if isinstance(file, Member):
            return read_member(self.archive, file, _LIMITS[name])
        return _read_file(file, _LIMITS[name])


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(min(size, limit) + 1)  # no more, since as much memory is allocated as is requested
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check its path and permissions") from error
    if len(data) > limit:
        raise SourceError(f"{path}: more than the {limit} bytes that such a file may have; get it from its publisher")
    return data


def _windows(archive: Archive) -> list[_Window]:
    """Return the windows of a site, ordered by name, which begins with their first day."""
    index = _index(Path(archive.path))
    if archive.site not in index:
        raise SourceError(
            f"{archive.path}: no window of site {archive.site}; it has {', '.join(sorted(index)[:5])}, ...; choose one "
            "of list_sites"
        )
    return [index[archive.site][name] for name in sorted(index[archive.site])]


def _index(path: Path) -> dict[str, dict[str, _Window]]:
    """Return every window by site and name."""
    places = _in_folder(path) if path.is_dir() else _in_tar(path)
    files: dict[tuple[str, str], dict[str, Path | Member]] = {}
    for parts, place in places:
        if parts[-1] in _LIMITS and len(parts) >= 3:
            files.setdefault((parts[-3], parts[-2]), {})[parts[-1]] = place
    index: dict[str, dict[str, _Window]] = {}
    for (site, window), of_window in files.items():
        if "predictors.csv" in of_window:
            index.setdefault(site, {})[window] = _Window(path, window, of_window)
    if not index:
        raise SourceError(
            f"{path}: no {{site}}/{{window}}/predictors.csv, as CarbonSense v1 has; use the path of the folder above"
        )
    return index


def _in_folder(path: Path) -> Iterator[tuple[tuple[str, ...], Path]]:
    for folder, folders, names in os.walk(path.absolute()):
        folders.sort()
        yield from ((Path(folder, name).parts, Path(folder, name)) for name in names)


def _in_tar(path: Path) -> Iterator[tuple[tuple[str, ...], Member]]:
    yield from ((PurePosixPath(member.name).parts, member) for member in list_tar(path))


def _meta(window: _Window) -> dict[str, object]:
    where = f"{window.archive}, window {window.name}"
    raw = window.read("meta.json")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        _log.warning("%s: meta.json is not in UTF-8; read as Latin-1", where)
        text = raw.decode("latin-1")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{window.where('meta.json')}: expected JSON ({error}); get the file as published") from error
    if not isinstance(meta, dict):
        raise SourceError(f"{window.where('meta.json')}: expected a JSON object, found a {type(meta).__name__}")
    return meta


def _place(meta: Mapping[str, object], site: str, where: str) -> SiteInfo:
    named = meta.get("SITE_ID", site)
    if named != site:
        raise SourceError(
            f"{where}: expected SITE_ID {site}, as its folder, found {str(named)[:40]!r}; get the archive as published"
        )
    longitude = meta.get("LOCATION_LON", meta.get("LOCATION_LONG"))
    return published.site_info(
        site, meta.get("LOCATION_LAT"), longitude, meta.get("LOCATION_ELEV"), meta.get("IGBP"), where
    )


@dataclass(frozen=True)
class _Part:
    """Content of one window: local start (time,) datetime64[m], physical values, and the column of each variable."""

    start: np.ndarray
    values: Mapping[str, np.ndarray]
    columns: Mapping[str, str]
    scaled_by: str
    source: str


def _read_window(window: _Window, names: Sequence[str]) -> _Part:
    with_nee = tuple(dict.fromkeys((*names, "NEE")))
    start, predictors, columns = _read_csv(window, "predictors.csv", with_nee)
    other, targets, more = _read_csv(window, "targets.csv", with_nee)
    if not np.array_equal(start, other):
        raise SourceError(
            f"{window.where('targets.csv')}: its time stamps are not those of predictors.csv ({len(other)} and "
            f"{len(start)} rows); get the archive as published"
        )
    where = window.where("predictors.csv")
    clocks: dict[str, np.ndarray] = {name: predictors.pop(name) for name in ("DOY", "TOD") if name in predictors}
    scaled_by = ""
    if published.is_scaled(start, clocks, where):
        scaled_by = published.which_bounds(predictors, "v1")
        predictors = published.unscaled_columns(predictors, published.BOUNDS[scaled_by], where)
    source = str(_meta(window).get("SOURCES", ""))
    return _Part(start, predictors | targets, columns | more, scaled_by, source)


def _read_csv(
    window: _Window, name: str, names: Iterable[str]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    """Return local start, values by name of the variable table, and the column of each variable."""
    data, where = window.read(name), window.where(name)
    header = _header(data, where)
    aliases = {name: [alias for alias in table.variable(name).aliases if alias in header] for name in names}
    name_of = {columns[0]: name for name, columns in aliases.items() if columns}
    clocks = [column for column in ("DOY", "TOD") if column in header]
    frame = _parse(data, header, [*clocks, *name_of], where)
    start = _stamps(frame.pop("timestamp"), where)
    values = {name_of.get(column, column): frame[column].to_numpy() for column in frame}
    for column in name_of:
        _check_finite(values[name_of[column]], f"{where}, column {column}")
    return start, values, {name: column for column, name in name_of.items()}


def _header(data: bytes, where: str) -> list[str]:
    line = data[: data.find(b"\n") + 1 or len(data)][:10_000]
    header = line.decode("utf-8-sig", "replace").strip().split(",")
    if header[0] != "timestamp" or len(set(header)) != len(header):
        raise SourceError(
            f"{where}, line 1: expected the columns of CarbonSense v1, 'timestamp' first and each once, found "
            f"{', '.join(header[:4])[:100]}; get the archive as published"
        )
    return header


def _parse(data: bytes, header: Sequence[str], columns: Sequence[str], where: str) -> pd.DataFrame:
    if not data.endswith(b"\n") or b"\0" in data or data.count(b",") != (len(header) - 1) * data.count(b"\n"):
        raise SourceError(f"{where}: cut, or a row has not {len(header)} fields; get the archive again")
    try:
        return pd.read_csv(
            io.BytesIO(data),
            usecols=["timestamp", *columns],
            dtype={"timestamp": str} | dict.fromkeys(columns, float),
            keep_default_na=False,
            na_values=["", "NaN", "nan"],
            engine="c",
            encoding="utf-8-sig",
        )
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        fault = _fault(data, header, columns) or f": expected comma-separated numbers ({error})"
        raise SourceError(f"{where}{fault}; get the archive again") from error


def _fault(data: bytes, header: Sequence[str], columns: Sequence[str]) -> str:
    """Return line and column of the first text that is not a number; "" if there is none."""
    for line, row in enumerate(data.decode("utf-8", "replace").split("\n")[1:], start=2):
        for column, text in zip(header, row.rstrip("\r").split(","), strict=False):
            if column in columns and text not in ("", "NaN", "nan") and not _NUMBER.fullmatch(text):
                return f", line {line}, column {column}: expected a number, found {text[:40]!r}"
    return ""


def _check_finite(values: np.ndarray, where: str) -> None:
    if np.isinf(values).any():
        line = int(np.isinf(values).argmax()) + 2
        raise SourceError(f"{where}, line {line}: infinite, where a number was expected; get the archive as published")


def _stamps(text: pd.Series, where: str) -> np.ndarray:
    """Return local start (time,) datetime64[m], after checking that it ascends in whole hours."""
    times = pd.to_datetime(text, format=_DAYS, errors="coerce")
    if len(times) == 0:
        raise SourceError(f"{where}: a header and no rows; get the archive again")
    start = times.to_numpy().astype("datetime64[m]")
    moves = np.concatenate([[_STEP], np.diff(start).astype("timedelta64[m]").astype(np.int64)])
    bad = np.isnat(start) | (moves <= 0) | (moves % _STEP != 0)
    if bad.any():
        row = int(bad.argmax())
        raise SourceError(
            f"{where}, line {row + 2}, column timestamp: found {str(text.iloc[row])[:40]!r}, expected a time as "
            "YYYY-MM-DD HH:MM:SS, whole hours after the row before; get the archive as published"
        )
    return start


def _joined(parts: Sequence[_Part]) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """Return all windows as one record, ordered by time, and the number of hours that are in two windows.

    Such an hour is read from the window that begins first.
    """
    parts = sorted(parts, key=lambda part: part.start[0])
    start = np.concatenate([part.start for part in parts])
    names = dict.fromkeys(name for part in parts for name in part.values)
    columns = {
        name: np.concatenate([part.values.get(name, np.full(len(part.start), np.nan)) for part in parts])
        for name in names
    }
    latest = np.maximum.accumulate(start.astype(np.int64))
    fresh = np.concatenate([[True], start.astype(np.int64)[1:] >= latest[:-1] + _STEP])
    return start[fresh], {name: values[fresh] for name, values in columns.items()}, int((~fresh).sum())


def _flagged(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return values and assumed flags, in the order of the table."""
    nee = columns.get("NEE")
    flagged = {}
    for name in names:
        if name in columns:
            values = columns[name]
            flags = np.full(len(values), _PUBLISHED)
            if name in _PARTITIONED:
                flags[np.isnan(nee) if nee is not None else slice(None)] = _OF_DROPPED_NEE
            flagged[name] = values, flags
    return flagged


def _attrs(
    archive: Archive, parts: Sequence[_Part], arrays: Mapping[str, tuple], repeats: int, repeated: int
) -> dict[str, object]:
    lost = [*LOST]
    if repeated:
        lost.append(f"{repeated} hours are in two windows; those of the earlier window are used.")
    columns = {name: column for part in reversed(parts) for name, column in part.columns.items()}
    return {
        "step_minutes": _STEP,
        "source_file": Path(archive.path).name,
        "site": archive.site,
        "network": archive.network,
        "columns": {name: columns[name] for name in arrays},
        "flags_assumed": {name: int(np.isfinite(values).sum()) for name, (values, _) in arrays.items()},
        "clock_repeats": repeats,
        "lost": lost,
        "scaled_by": ", ".join(dict.fromkeys(part.scaled_by for part in parts if part.scaled_by)),
        "published_from": ", ".join(dict.fromkeys(part.source for part in parts if part.source)),
    }


def _images(window: _Window) -> dict[np.datetime64, np.ndarray]:
    where = window.where("modis.pkl")
    images = arraypickle.read_array_pickle(window.read("modis.pkl"), where)
    if not isinstance(images, dict):
        raise SourceError(
            f"{where}: expected a dict of images by time, found a {type(images).__name__}; get it as published"
        )
    for key in images:
        if not isinstance(key, np.datetime64) or np.isnat(key):
            raise SourceError(f"{where}: expected times as keys, found {str(key)[:40]!r}; get it as published")
    return images
