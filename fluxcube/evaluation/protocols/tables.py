"""Readers of the tables that benchmarks publish, and of tables of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, SourceError, missing_package
from fluxcube.parsing import TABLE_FAULTS
from fluxcube.resolution import DAILY

#: Attribute of a Dataset whose time stamps are local.
LOCAL_CLOCK = "local_time_stamps"
#: Coordinate (site, time) that is True where the table has a row.
IN_TABLE = "in_table"
#: Fluxes of FLUXtrapolation's tables.
_FLUXES = ("GPP", "NEE", "ET")
#: Columns of CarbonFluxBench's table, and fluxcube's names.
_DAILY_FLUXES = {
    "GPP_NT_VUT_USTAR50": "GPP_NT",
    "RECO_NT_VUT_USTAR50": "RECO_NT",
    "NEE_VUT_USTAR50": "NEE",
}
_DAILY_QUALITY = "NEE_VUT_USTAR50_QC"
#: Unit of CarbonFluxBench's fluxes.
_DAILY_UNITS = "gC m-2 d-1"
_FILL = -9999
#: First day of CarbonFluxBench's data (that of MODIS).
_FIRST_DAY = np.datetime64("2000-02-24")
#: Names that columns of sites and of times may have.
_SITE_COLUMNS = ("site_id", "site", "SITE_ID")
_TIME_COLUMNS = ("time", "date", "timestamp", "TIMESTAMP")
_ENDINGS = (".csv", ".parquet", ".csv.gz")


def read_benchmark(
    path: str | Path, *, sites: Iterable[str] | None = None, units: Mapping[str, str] | None = None
) -> xr.Dataset:
    """Read the observations of a benchmark's own tables.

    Parameters
    ----------
    path : path
        FLUXtrapolation: the folder ``sites`` (or its parent) with one hourly CSV or parquet file per site, columns
        time, qc_mask, GPP, NEE and ET; or one such table with a column site_id. CarbonFluxBench: the table
        ``target_fluxes_v2.parquet``, or a CSV with its columns.
    sites : iterable of str, optional
        Sites to read; by default all.
    units : mapping of str to str, optional
        Units of FLUXtrapolation's fluxes, which its tables do not contain; predictions are then converted to them.
        Without units, predictions must be in those of the table.

    Returns
    -------
    xr.Dataset
        A variable (site, time) per flux, and its flag (``NAME_QC``: 0 where qc_mask is 1, else 2) or quality
        (``NAME_QUALITY``: 0 to 1); the coordinate `in_table` (site, time), and latitude, longitude and igbp
        where the table has them. Time stamps are those of the table, which are local.

    Raises
    ------
    SourceError
        If there is no table, a table lacks columns, or a site has a time twice.
    MissingPackageError
        If a parquet file is read without pyarrow.
    ConfigError
        If no requested site is there.
    """
    path, wanted = Path(path), None if sites is None else set(sites)
    folder = path / "sites" if (path / "sites").is_dir() else path
    if folder.is_dir() and not (folder / "target_fluxes_v2.parquet").exists():
        return _hourly(_site_tables(folder, wanted), wanted, folder, units)
    file = folder / "target_fluxes_v2.parquet" if folder.is_dir() else folder
    frame = _read_table(file)
    if {"TIMESTAMP", *_DAILY_FLUXES} <= set(frame):
        return _daily(frame, wanted, file)
    if "qc_mask" in frame:
        return _hourly(frame, wanted, file, units)
    raise SourceError(
        f"{file}: expected the columns of FLUXtrapolation (site_id, time, qc_mask, GPP, NEE, ET) or of CarbonFluxBench "
        f"(site, TIMESTAMP, {', '.join(_DAILY_FLUXES)}), found {', '.join(map(str, frame))}."
    )


def is_benchmark_table(path: str | Path) -> bool:
    """Return whether a path is a table, or a folder of tables, rather than a store.

    Examples
    --------
    >>> is_benchmark_table("target_fluxes_v2.parquet"), is_benchmark_table("cube.zarr")
    (True, False)
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "sites" if (path / "sites").is_dir() else path
        return any(entry.name.endswith(_ENDINGS) for entry in folder.iterdir() if entry.is_file())
    return str(path).endswith(_ENDINGS)


def read_predicted_table(path: str | Path, *, target: str | None = None) -> xr.Dataset:
    """Read predictions from a table: one column per flux, or FLUXtrapolation's file with a column y_pred.

    Parameters
    ----------
    path : path
        CSV or parquet with a column of sites (site or site_id), one of times (time, date or TIMESTAMP), and fluxes.
    target : str, optional
        Flux of the column y_pred.

    Returns
    -------
    xr.Dataset
        A variable (site, time) per flux.

    Raises
    ------
    SourceError
        If the table lacks such columns, or a site has a time twice.
    """
    frame = _read_table(Path(path))
    if "y_pred" in frame:
        if target is None:
            raise ConfigError(f"{path}: expected target=, the flux of its column y_pred, found none; pass it.")
        frame = frame.rename(columns={"y_pred": target})
        frame = frame[[c for c in frame if c in (target, *_SITE_COLUMNS, *_TIME_COLUMNS)]]
    site, time = _column(frame, _SITE_COLUMNS, path), _column(frame, _TIME_COLUMNS, path)
    fluxes = [c for c in frame if c not in (site, time) and pd.api.types.is_numeric_dtype(frame[c])]
    if not fluxes:
        raise SourceError(f"{path}: expected a column of numbers for each flux, found {', '.join(map(str, frame))}.")
    arrays, coords, _ = _gridded(frame, site, _times(frame[time], path), fluxes, path)
    return xr.Dataset({name: (("site", "time"), values) for name, values in arrays.items()}, coords)


def _site_tables(folder: Path, wanted: set[str] | None) -> pd.DataFrame:
    """Return the tables of the sites of a folder as one."""
    files = {file.name.partition(".")[0]: file for file in sorted(folder.iterdir()) if file.name.endswith(_ENDINGS)}
    if not files:
        raise SourceError(f"{folder}: expected one CSV or parquet file per site, found none.")
    chosen = {site: file for site, file in files.items() if wanted is None or site in wanted}
    if not chosen:
        raise ConfigError(f"{folder} contains none of the requested sites; it has {', '.join(list(files)[:5])}, ...")
    return pd.concat(
        [_read_table(file, _needed).assign(site_id=site) for site, file in chosen.items()], ignore_index=True
    )


def _needed(column: str) -> bool:
    """Return whether a column of FLUXtrapolation's tables is read; most are covariates."""
    return column in ("time", "qc_mask", "tower_lat", "tower_lon", *_FLUXES) or column.startswith("PFT_")


def _read_table(path: Path, needed: Callable[[str], bool] | None = None) -> pd.DataFrame:
    """Return a CSV or parquet file; of a CSV file only the `needed` columns."""
    if not path.is_file():
        raise SourceError(f"{path}: expected a CSV or parquet file, found none.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        # A site, class or country may be called NA: only an empty field is missing.
        return pd.read_csv(
            path, keep_default_na=False, na_values=["", "nan", "NaN", "-9999", "-9999.0"], usecols=needed
        )
    except ImportError:
        raise missing_package("pyarrow", "tables", f"reading {path.name}") from None
    except TABLE_FAULTS as error:
        raise SourceError(f"{path} is no readable table: {error}") from error


def _hourly(frame: pd.DataFrame, wanted: set[str] | None, where: Path, units: Mapping[str, str] | None) -> xr.Dataset:
    """Return the observations of FLUXtrapolation's tables."""
    site = _column(frame, _SITE_COLUMNS, where)
    if missing := sorted({"time", "qc_mask"} - set(frame)):
        raise SourceError(f"{where}: expected the columns time and qc_mask, found no {' and '.join(missing)}.")
    fluxes = [name for name in _FLUXES if name in frame]
    if not fluxes:
        raise SourceError(f"{where}: expected a column GPP, NEE or ET, found {', '.join(map(str, frame))}.")
    frame = _chosen(frame, site, wanted, where)
    arrays, coords, at = _gridded(frame, site, _times(frame["time"], where), [*fluxes, "qc_mask"], where)
    mask = arrays.pop("qc_mask")
    flags = np.where(np.isfinite(mask), np.where(mask > 0, 0, 2), -1).astype("int8")
    out = xr.Dataset(
        {
            name: (("site", "time"), arrays[name], {"units": units[name]} if units and name in units else {})
            for name in fluxes
        }
        | {
            f"{name}_QC": (("site", "time"), np.where(np.isfinite(arrays[name]), flags, np.int8(-1))) for name in fluxes
        },
        coords,
        {"title": "observations of FLUXtrapolation", LOCAL_CLOCK: 1},
    )
    first = frame.loc[at]
    for name, column in (("latitude", "tower_lat"), ("longitude", "tower_lon")):
        if column in frame:
            out[name] = ("site", first[column].to_numpy(float))
    classes = [c for c in map(str, frame) if c.startswith("PFT_")]
    if classes:
        chosen = first[classes].to_numpy(float)
        names = np.array([c.removeprefix("PFT_") for c in classes], object)
        out["igbp"] = ("site", np.where(chosen.max(1) > 0, names[chosen.argmax(1)], ""))
    return out.set_coords([name for name in ("latitude", "longitude", "igbp") if name in out])


def _daily(frame: pd.DataFrame, wanted: set[str] | None, where: Path) -> xr.Dataset:
    """Return the observations of CarbonFluxBench's table, from the first day of MODIS on."""
    site = _column(frame, _SITE_COLUMNS, where)
    frame = _chosen(frame, site, wanted, where)
    time = pd.to_datetime(frame["TIMESTAMP"].astype(str).str.replace("-", "").str[:8], format="%Y%m%d", errors="coerce")
    if time.isna().any():
        found = frame.loc[time.isna(), "TIMESTAMP"].iloc[0]
        raise SourceError(f"{where}: expected dates such as 20100131 in TIMESTAMP, found {found!r}.")
    frame = frame.assign(time=time)[(time >= _FIRST_DAY).to_numpy()]
    if frame.empty:
        raise SourceError(f"{where}: no row is of {_FIRST_DAY} or later.")
    columns = [*_DAILY_FLUXES, *([_DAILY_QUALITY] if _DAILY_QUALITY in frame else [])]
    arrays, coords, at = _gridded(frame, site, frame["time"], columns, where)
    arrays = {name: np.where(values == _FILL, np.nan, values) for name, values in arrays.items()}
    quality = arrays.pop(_DAILY_QUALITY, None)
    out = xr.Dataset(
        {name: (("site", "time"), arrays[column], {"units": _DAILY_UNITS}) for column, name in _DAILY_FLUXES.items()},
        coords,
        {"title": "observations of CarbonFluxBench", LOCAL_CLOCK: 1, **DAILY.attrs},
    )
    if quality is not None:
        for name in _DAILY_FLUXES.values():
            out[f"{name}_QUALITY"] = (("site", "time"), quality)
    first = frame.loc[at]
    for name, column in (("latitude", "lat"), ("longitude", "lon")):
        if column in frame:
            out[name] = ("site", first[column].to_numpy(float))
    if "IGBP" in frame:
        out["igbp"] = ("site", first["IGBP"].fillna("").astype(str).to_numpy(object))
    return out.set_coords([name for name in ("latitude", "longitude", "igbp") if name in out])


def _column(frame: pd.DataFrame, names: Sequence[str], where: str | Path) -> str:
    for name in names:
        if name in frame:
            return name
    raise SourceError(f"{where}: expected a column {' or '.join(names)}, found {', '.join(map(str, frame))}.")


def _chosen(frame: pd.DataFrame, site: str, wanted: set[str] | None, where: Path) -> pd.DataFrame:
    if wanted is None:
        return frame
    out = frame[frame[site].isin(wanted)]
    if out.empty:
        raise ConfigError(f"{where} contains none of the {len(wanted)} requested sites.")
    return out


def _times(column: pd.Series, where: str | Path) -> pd.Series:
    """Return times; a time with a zone is refused, since the tables have local ones."""
    text = column.astype(str)
    compact = text.str.fullmatch(r"\d{8}").all()
    try:
        out = pd.to_datetime(text, format="%Y%m%d") if compact else pd.to_datetime(column)
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"{where}: expected times such as 2019-01-31 12:00, found {text.iloc[0]!r}: {error}"
        ) from error
    if getattr(out.dt, "tz", None) is not None:
        raise SourceError(f"{where}: expected times without a zone, found {text.iloc[0]!r}; convert them.")
    return out


def _gridded(
    frame: pd.DataFrame, site: str, time: pd.Series, columns: Sequence[str], where: str | Path
) -> tuple[dict[str, np.ndarray], dict[str, object], list[object]]:
    """Return arrays (site, time) of columns, their coordinates, and the index of the first row of each site."""
    sites, row = np.unique(frame[site].astype(str).to_numpy(object).astype(str), return_inverse=True)
    stamps, step = np.unique(time.to_numpy("datetime64[ns]"), return_inverse=True)
    if not len(sites) or np.isnat(stamps).any():
        raise SchemaError(f"{where}: expected a site and a time in every row, found missing ones.")
    listed = np.zeros((len(sites), len(stamps)), bool)
    key = row.astype(np.int64) * len(stamps) + step
    kinds, count = np.unique(key, return_counts=True)
    if (count > 1).any():
        twice = int(kinds[count > 1][0])
        raise SourceError(f"{where}: {sites[twice // len(stamps)]} has the time {stamps[twice % len(stamps)]} twice.")
    listed[row, step] = True
    arrays = {}
    for name in columns:
        values = np.full(listed.shape, np.nan)
        values[row, step] = frame[name].to_numpy(float)
        arrays[name] = values
    first = np.unique(row, return_index=True)[1]
    coords = {"site": sites.astype(object), "time": stamps, IN_TABLE: (("site", "time"), listed)}
    return arrays, coords, frame.index[first].tolist()
