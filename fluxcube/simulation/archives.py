"""Write one site's record in the format of each publisher of tower data: names, folders, columns, clocks and flags.

The formats follow the publishers' documentation, and no reader of this package is used: the result of reading such a
file can therefore be compared with the record from which it was written.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.errors import missing_package, unknown
from fluxcube.simulation.csvtext import csv_bytes, number_text, stamp_text
from fluxcube.simulation.instruments import Record
from fluxcube.simulation.records import MDS, RAW, Place, decimals_of, mds_column

#: Forms of an archive on disk.
FORMS = ("zip", "gzip", "folder")
_GC_PER_UMOL = 12.011e-6 * 86400  # umol CO2 m-2 s-1 to gC m-2 d-1
_TIME = (2024, 5, 1, 0, 0, 0)  # of every entry of a zip, so that repeated writing yields the same bytes
_COARSE = ("WW", "MM", "YY")

_PARTITIONED = ("RECO_NT", "GPP_NT", "RECO_DT", "GPP_DT")


def write_archive(
    folder: str | Path,
    network: str,
    record: Record,
    *,
    place: Place,
    years: tuple[int, int] | None = None,
    product: str | None = None,
    form: str = "zip",
    named_step: str | None = None,
) -> Path:
    """Write a record in the format of one publisher.

    Parameters
    ----------
    folder : path
        Folder in which the archive is written; created if missing.
    network : str
        One of `PUBLISHERS`.
    record : Record
        From `simulate_record`.
    place : Place
    years : (int, int), optional
        First and last year, for the name; default the record's.
    product : str, optional
        Product of a network that has several, such as "SUBSET"; default the one with most columns.
    form : {"zip", "gzip", "folder"}
        As downloaded, or unpacked, with or without gzip.
    named_step : {"HH", "HR"}, optional
        Time step in the file's name, which may be wrong on purpose; default the record's.

    Returns
    -------
    Path
        The zip, or the folder with the files.

    Raises
    ------
    UnknownNameError
        If there is no such publisher or form.
    """
    for kind, name, valid in (("publisher", network, PUBLISHERS), ("form", form, FORMS)):
        if name not in valid:
            raise unknown(kind, name, valid)
    first, last = years or (int(str(record.start[0])[:4]), int(str(record.start[-1])[:4]))
    step = named_step or ("HR" if _step(record) == 60 else "HH")
    stem, files = PUBLISHERS[network](record, place, f"{first}-{last}", step, product)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return _write_files(folder, stem, files, "folder" if network == "JapanFlux2024" and form == "zip" else form)


def write_bif(folder: str | Path, places: Sequence[Place], name: str = "FLX_AA-Flx_BIF_HH_20200501.csv") -> Path:
    """Write the metadata of sites in BADM's interchange format (BIF), as CSV."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_csv([_BIF_HEADER, *(row for place in places for row in _bif_rows(place))]))
    return path


def oneflux_table(record: Record, columns: Sequence[str]) -> bytes:
    """Return columns of a record as the text of a half-hourly or hourly ONEFlux file."""
    stamps = [record.start, record.start + np.timedelta64(_step(record), "m")]
    text = [stamp_text(times) for times in stamps]
    text += [number_text(record.columns[name], decimals_of(name)) for name in columns]
    return csv_bytes(["TIMESTAMP_START", "TIMESTAMP_END", *columns], text)


def _step(record: Record) -> int:
    """Return the time step, minutes."""
    return int((record.start[1] - record.start[0]).astype("timedelta64[m]").astype(int))


# ---- products


#: Bytes of each file by its name.
_Files = dict[str, bytes]

_FULLSET = (
    *(c for n in ("TA", "SW_IN", "LW_IN", "VPD") for c in (f"{n}_F", f"{n}_F_QC")),
    "SW_IN_POT",
    *(c for n in ("PA", "P", "WS") for c in (n, f"{n}_F", f"{n}_F_QC")),
    *RAW,
    *(c for n in MDS for c in (mds_column(n), f"{mds_column(n)}_QC")),
    "LE_RANDUNC",
    "NIGHT",
    "NEE_CUT_REF",
    "NEE_VUT_REF",
    "NEE_CUT_REF_QC",
    "NEE_VUT_REF_QC",
    "NEE_VUT_REF_RANDUNC",
    "NEE_VUT_REF_JOINTUNC",
    "NEE_VUT_USTAR50",
    "NEE_VUT_USTAR50_QC",
    "NEE_VUT_MEAN",
    "NEE_VUT_MEAN_QC",
    *(f"{name}_VUT_REF" for name in _PARTITIONED),
)
_SUBSET = tuple(
    name
    for name in _FULLSET
    if name not in ("PA", "P", "WS", "NEE_VUT_REF_JOINTUNC")
    and not name.startswith(("NEE_CUT", "NEE_VUT_USTAR50", "NEE_VUT_MEAN"))
)


def _fluxnet2015(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    return _fullset("FLX", f"{place.site}_FLUXNET2015", record, years, step, product, "1-4")


def _warm_winter(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    return _fullset("FLX", f"{place.site}_FLUXNET2015", record, years, step, product, "beta-3")


def _ameriflux(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    stem, files = _fullset("AMF", f"{place.site}_FLUXNET", record, years, step, product, "3-5")
    return stem, files | {f"AMF_{place.site}_BIF_20230823.xlsx": _xlsx("AMF-BIF", [_BIF_HEADER, *_bif_rows(place)])}


def _fullset(
    hub: str, middle: str, record: Record, years: str, step: str, product: str | None, version: str
) -> tuple[str, _Files]:
    product = product or "FULLSET"
    columns = {"FULLSET": _FULLSET, "SUBSET": _SUBSET}[product]
    stem, end = f"{hub}_{middle}_{product}", f"{years}_{version}"
    files = {
        f"{stem}_{step}_{end}.csv": oneflux_table(record, columns),
        f"{stem}_DD_{end}.csv": _daily(record, columns),
    }
    files |= {f"{stem}_{coarse}_{end}.csv": _coarse(record) for coarse in _COARSE}
    if product == "FULLSET":
        files[f"{hub}_{middle}_ERAI_{step}_1989-2014_{version}.csv"] = _reanalysis(record)
        for aux in ("AUXMETEO", "AUXNEE"):
            files[f"{hub}_{middle}_{aux}_{end}.csv"] = _csv([["VARIABLE", "PARAMETER", "TIMESTAMP", "VALUE"]])
    return f"{stem}_{end}", files


def _icos(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    stem = f"ICOSETC_{place.site}"
    rows = [["VARIABLE", "DATAVALUE"], *(row[3:] for row in _bif_rows(place))]
    return f"{stem}_ARCHIVE_L2", {
        f"{stem}_FLUXNET_{step}_L2.csv": oneflux_table(record, _FULLSET),
        f"{stem}_FLUXNET_DD_L2.csv": _daily(record, _FULLSET),
        f"{stem}_SITEINFO_L2.csv": _csv(rows),
        f"{stem}_VARINFO_FLUXNET_{step}_L2.csv": _csv([["VARIABLE", "UNIT"], ["TA_F", "deg C"]]),
    }


def _shuttle(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    stem, end = f"{product or 'AMF'}_{place.site}_FLUXNET", f"{years}_v1.3_r1"
    files = {
        f"{stem}_FLUXMET_{step}_{end}.csv": oneflux_table(record, _FULLSET),
        f"{stem}_FLUXMET_DD_{end}.csv": _daily(record, _FULLSET),
        f"{stem}_ERA5_{step}_1981-2025_v1.3_r1.csv": _reanalysis(record),
        f"{stem}_BIF_{end}.csv": _csv([_BIF_HEADER, *_bif_rows(place)]),
        "README.txt": b"Time stamps are local standard time. Files named HH may hold hours.\n",
        "DATA_POLICY_LICENSE_AND_INSTRUCTIONS.txt": b"CC-BY-4.0\n",
    }
    for res in (*_COARSE, "DD", step):
        files[f"{stem}_BIFVARINFO_{res}_{end}.csv"] = _csv(
            [_BIF_HEADER, [place.site, "1", "GRP_VAR_INFO", "VAR_INFO_UNIT", "deg C"]]
        )
    for res in _COARSE:
        files[f"{stem}_FLUXMET_{res}_{end}.csv"] = _coarse(record)
    for res in (*_COARSE, "DD"):
        files[f"{stem}_ERA5_{res}_1981-2025_v1.3_r1.csv"] = _coarse(record, "TA_ERA")
    return f"{stem}_{end}", files


def _methane(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    """Return a FLUXNET-CH4 archive: plain names are measured values, ``_F`` gap-filled; QC grades the gap's length."""
    c, table = record.columns, {}
    for name in ("TA", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS"):
        table[name] = np.where(c[f"{name}_F_QC"] > 0, np.nan, c[f"{name}_F"])
    table |= {name: c[name] for name in RAW}
    table |= {f"{name}_F": c[f"{name}_F"] for name in ("TA", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS")}
    table |= {name: c[mds_column(name)] for name in ("TS_1", "TS_2", "SWC_1", "SWC_2")}
    for name in ("NEE", "LE", "H"):
        values, flags = (
            (c["NEE_VUT_REF"], c["NEE_VUT_REF_QC"]) if name == "NEE" else (c[f"{name}_F_MDS"], c[f"{name}_F_MDS_QC"])
        )
        table |= {name: np.where(flags == 0, values, np.nan), f"{name}_F": values}
        table |= {f"{name}_F_ANNOPTLM": values, f"{name}_F_ANNOPTLM_QC": np.where(np.isnan(values), np.nan, 1.0)}
    table |= {"FCH4": c["FCH4"], "FCH4_F": c["FCH4_F"], "FCH4_F_RANDUNC": np.round(0.1 * c["FCH4_F"], 4)}
    table |= {"FCH4_F_ANNOPTLM": c["FCH4_F"], "FCH4_F_ANNOPTLM_UNC": np.round(0.2 * c["FCH4_F"], 4)}
    table["FCH4_F_ANNOPTLM_QC"] = np.where(c["FCH4_FILL"] == 3, 3.0, 1.0)
    table |= {name: c[f"{name}_VUT_REF"] for name in _PARTITIONED}
    stem, end = f"FLX_{place.site}_FLUXNET-CH4", f"{years}_1-1"
    whole = Record(start=record.start, columns=table)
    return f"{stem}_{end}", {
        f"{stem}_{step}_{end}.csv": oneflux_table(whole, list(table)),
        f"{stem}_DD_{end}.csv": _coarse(record, "FCH4_F"),
    }


_JAPAN = {
    "TS_F_MDS_1": "TS_F_MDS",
    "TS_F_MDS_2": "TS_F_MDS_2",
    "SWC_F_MDS_1": "SWC_F_MDS",
    "SWC_F_MDS_2": "SWC_F_MDS_2",
}


def _japanflux(record: Record, place: Place, years: str, step: str, product: str | None) -> tuple[str, _Files]:
    """Return a JapanFlux2024 archive: folder DATA/<product>, and site metadata in a folder with a misspelt name."""
    names = {name: _japanese(name) for name in _SUBSET if not name.endswith("RANDUNC")}
    table = {japanese: record.columns[name] for name, japanese in names.items()}
    table["NEE_vUT_USTAR50"] = record.columns["NEE_VUT_USTAR50"]
    whole = Record(start=record.start, columns=table)
    stem, product = f"FLX_{place.site}_JapanFLUX2024", product or "ALLVARS"
    path = f"DATA/{product}/{stem}_{product}"
    rows = [["Variable", "dataValue1", "dataValue2"], *([row[3], row[4], ""] for row in _bif_rows(place))]
    return f"{stem}_{years}_1-3", {
        f"{path}_{step}_{years}_1-3.csv": oneflux_table(whole, list(table)),
        f"{path}_DD_{years}_1-3.csv": _coarse(record),
        f"DATA/ERA5/{stem}_ERA5_{step}_1990-2024_1-3.csv": _reanalysis(record),
        f"DATA/BDAM/{place.site}_BADM_Site_General.xlsx": _xlsx("General", rows),
    }


def _japanese(name: str) -> str:
    """Return JapanFlux2024's name of a ONEFlux column."""
    for oneflux, japanese in _JAPAN.items():
        if name in (oneflux, f"{oneflux}_QC"):
            return name.replace(oneflux, japanese)
    return name.replace("_VUT_REF", "_vUT")


#: Publishers of tower data, each with the function that returns (name of the archive, its files) for a record.
PUBLISHERS: Mapping[str, Callable[[Record, Place, str, str, str | None], tuple[str, _Files]]] = {
    "FLUXNET2015": _fluxnet2015,
    "AmeriFlux FLUXNET": _ameriflux,
    "ICOS Warm Winter 2020": _warm_winter,
    "ICOS 2023 L2": _icos,
    "FLUXNET-CH4": _methane,
    "JapanFlux2024": _japanflux,
    "FLUXNET Shuttle 2026": _shuttle,
}


# ---- other tables of the archives


def _daily(record: Record, columns: Sequence[str]) -> bytes:
    """Return the daily table: fluxes in gC m-2 d-1, rain in mm d-1, QC the share of measured and well-filled steps."""
    days = record.start.astype("datetime64[D]")
    dates = np.unique(days)
    table = {}
    for name in columns:
        values = record.columns[name]
        if name.endswith("_QC"):
            values = (values <= 1).astype(float)
        elif name.startswith(("NEE", "GPP", "RECO")):
            values = values * _GC_PER_UMOL
        with np.errstate(invalid="ignore"):
            means = np.array([np.nan if np.isnan(v := values[days == day]).all() else np.nanmean(v) for day in dates])
        table[name] = means * (1440 // _step(record)) if name in ("P", "P_F") else means
    text = [stamp_text(dates)[:, :8], *(number_text(table[name], 3) for name in columns)]
    return csv_bytes(["TIMESTAMP", *columns], text)


def _coarse(record: Record, column: str = "TA_F") -> bytes:
    """Return a table with one value: stands for files that no reader uses."""
    day = stamp_text(record.start[:1].astype("datetime64[D]"))[:, :8]
    return csv_bytes(["TIMESTAMP", column], [day, number_text(np.array([11.0]), 3)])


def _reanalysis(record: Record) -> bytes:
    """Return the table of reanalysis that publishers add, which readers must not mistake for measurements."""
    table = {name: record.columns[f"{name[:-4]}_F"] + 0.5 for name in ("TA_ERA", "SW_IN_ERA", "P_ERA")}
    return oneflux_table(Record(start=record.start, columns=table), list(table))


_BIF_HEADER = ["SITE_ID", "GROUP_ID", "VARIABLE_GROUP", "VARIABLE", "DATAVALUE"]


def _bif_rows(place: Place) -> list[list[str]]:
    groups = {
        "GRP_CLIM_AVG": {"CLIMATE_KOEPPEN": place.koppen, "MAT": "8.9"},
        "GRP_HEADER": {"SITE_NAME": 'Simulated "wood", one'},
        "GRP_IGBP": {"IGBP": place.igbp},
        "GRP_LOCATION": {
            "LOCATION_LAT": f"{place.latitude:.4f}",
            "LOCATION_LONG": f"{place.longitude:.4f}",
            "LOCATION_ELEV": f"{place.elevation:.0f}",
        },
        "GRP_UTC_OFFSET": {"UTC_OFFSET": f"{place.utc_offset:g}"},
    }
    return [
        [place.site, str(group), name, key, value]
        for group, (name, values) in enumerate(groups.items(), 12765)
        for key, value in values.items()
    ]


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _xlsx(sheet: str, rows: Sequence[Sequence[str]]) -> bytes:
    try:
        import openpyxl
    except ImportError as error:
        raise missing_package("openpyxl", "sources", "writing site metadata as a spreadsheet") from error
    book = openpyxl.Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(list(row))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _write_files(folder: Path, stem: str, files: _Files, form: str) -> Path:
    if form == "zip":
        path = folder / f"{stem}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
        return path
    for name, data in files.items():
        packed = form == "gzip" and name.endswith(".csv")
        path = folder / stem / (f"{name}.gz" if packed else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder / stem
