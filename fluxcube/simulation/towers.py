"""Write the towers' records in the formats of FLUXNET2015 and AmeriFlux FLUXNET, and the sites' metadata."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.simulation.csvtext import csv_bytes, number_text, stamp_text
from fluxcube.simulation.instruments import Record, observe
from fluxcube.simulation.places import FLUXNET, Tower
from fluxcube.simulation.planet import Planet

#: Number of decimals of each column of the files, in ONEFlux's order.
COLUMNS = {
    "TA_F": 3,
    "TA_F_QC": 0,
    "SW_IN_POT": 3,
    "SW_IN_F": 3,
    "SW_IN_F_QC": 0,
    "LW_IN_F": 3,
    "LW_IN_F_QC": 0,
    "VPD_F": 3,
    "VPD_F_QC": 0,
    "PA_F": 3,
    "PA_F_QC": 0,
    "P_F": 3,
    "P_F_QC": 0,
    "WS_F": 3,
    "WS_F_QC": 0,
    "WD": 2,
    "USTAR": 3,
    "RH": 3,
    "NETRAD": 3,
    "PPFD_IN": 3,
    "CO2_F_MDS": 3,
    "CO2_F_MDS_QC": 0,
    "TS_F_MDS_1": 3,
    "TS_F_MDS_1_QC": 0,
    "SWC_F_MDS_1": 3,
    "SWC_F_MDS_1_QC": 0,
    "G_F_MDS": 3,
    "G_F_MDS_QC": 0,
    "LE_F_MDS": 3,
    "LE_F_MDS_QC": 0,
    "H_F_MDS": 3,
    "H_F_MDS_QC": 0,
    "NIGHT": 0,
    "NEE_VUT_REF": 4,
    "NEE_VUT_REF_QC": 0,
    "NEE_VUT_REF_RANDUNC": 4,
    "RECO_NT_VUT_REF": 4,
    "GPP_NT_VUT_REF": 4,
    "RECO_DT_VUT_REF": 4,
    "GPP_DT_VUT_REF": 4,
}
_BIF = "FLX_AA-Flx_BIF_HH_20200501.csv"


def write_records(planet: Planet, towers: Sequence[Tower], folder: str | Path) -> list[Path]:
    """Write the zips of towers with the same time axis, one for each tower and network.

    Parameters
    ----------
    planet : Planet
    towers : sequence of Tower
        One of `fluxcube.simulation.instruments.batches`.
    folder : path
        Created if missing.

    Returns
    -------
    list of Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write_zip(folder, tower, network, years, record(network, years))
        for tower, record in zip(towers, observe(planet, towers), strict=True)
        for network, *years in tower.networks
    ]


def _write_zip(folder: Path, tower: Tower, network: str, years: list[int], record: Record) -> Path:
    stem, version = ("FLX_{}_FLUXNET2015", "1-4") if network == FLUXNET else ("AMF_{}_FLUXNET", "3-5")
    stem = stem.format(tower.site) + "_FULLSET"
    span = f"{years[0]}-{years[1]}_{version}"
    path = folder / f"{stem}_{span}.zip"
    path.write_bytes(_zip_bytes({f"{stem}_{_step_name(tower)}_{span}.csv": _table(tower, record)}))
    return path


def shuttle_archive(tower: Tower, record: Record, years: Sequence[int]) -> tuple[str, bytes]:
    """Return the name and content of an archive as the hubs of the FLUXNET Shuttle publish it.

    It contains the table of the record, and the metadata of the site.

    Parameters
    ----------
    tower : Tower
    record : Record
    years : (int, int)
        First and last year.
    """
    stem, span = f"FLX_{tower.site}_FLUXNET", f"{years[0]}-{years[1]}_v1.3_r1"
    files = {
        f"{stem}_FLUXMET_{_step_name(tower)}_{span}.csv": _table(tower, record),
        f"{stem}_BIF_{span}.csv": _badm([tower]).encode(),
    }
    return f"{stem}_{span}.zip", _zip_bytes(files)


def _step_name(tower: Tower) -> str:
    return "HR" if tower.step_minutes == 60 else "HH"


def _table(tower: Tower, record: Record) -> bytes:
    """Return the half-hourly or hourly table of a record as CSV."""
    text = [stamp_text(record.start), stamp_text(record.start + np.timedelta64(tower.step_minutes, "m"))]
    text += [number_text(record.columns[name], decimals) for name, decimals in COLUMNS.items()]
    return csv_bytes(["TIMESTAMP_START", "TIMESTAMP_END", *COLUMNS], text)


def _zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files by their names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            # A fixed date, so that repeated writing yields the same bytes.
            entry = zipfile.ZipInfo(name, date_time=(2020, 5, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=1)
    return out.getvalue()


def write_badm(planet: Planet, folder: str | Path) -> Path:
    """Write the sites' metadata in BADM's interchange format (BIF); return the file."""
    path = Path(folder) / _BIF
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_badm(planet.towers), "utf-8")
    return path


def _badm(towers: Sequence[Tower]) -> str:
    """Return the metadata of sites in BADM's interchange format."""
    out, group = io.StringIO(newline=""), 0
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["SITE_ID", "GROUP_ID", "VARIABLE_GROUP", "VARIABLE", "DATAVALUE"])
    for tower in towers:
        for name, values in _badm_groups(tower).items():
            group += 1
            writer.writerows([tower.site, group, name, key, value] for key, value in values.items())
    return out.getvalue()


def _badm_groups(tower: Tower) -> dict[str, dict[str, str]]:
    return {
        "GRP_CLIM_AVG": {"CLIMATE_KOEPPEN": tower.koppen},
        "GRP_HEADER": {"SITE_NAME": f"simulated {tower.igbp} {zlib.crc32(tower.site.encode()) % 1000}"},
        "GRP_IGBP": {"IGBP": tower.igbp},
        "GRP_LOCATION": {
            "LOCATION_LAT": f"{tower.latitude:.4f}",
            "LOCATION_LONG": f"{tower.longitude:.4f}",
            "LOCATION_ELEV": f"{tower.elevation:.0f}",
        },
        "GRP_UTC_OFFSET": {"UTC_OFFSET": f"{tower.utc_offset:g}"},
    }
