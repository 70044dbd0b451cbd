"""Small raw archives in the published format, written by hand for each test."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np

#: Sites of the small raw folder: latitude, longitude, UTC offset, class.
PLACES = {
    "US-Aaa": (40.0, -90.0, -6, "DBF"),
    "IN-Bbb": (20.0, 80.0, 5.5, "CRO"),
    "NP-Ccc": (28.0, 84.0, 5.75, "GRA"),
    "FJ-Ddd": (-18.0, 178.0, 12, "DBF"),
}


def stamps(start: str, step: int, n: int) -> list[tuple[str, str]]:
    """Start and end of each period, as files have them."""
    edges = np.datetime64(start, "m") + np.arange(n + 1) * np.timedelta64(step, "m")
    text = [str(edge).replace("-", "").replace("T", "").replace(":", "") for edge in edges]
    return list(itertools.pairwise(text))


def columns(n: int, seed: int = 0, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Plausible columns with some gaps and flags; NEE = RECO - GPP."""
    rng = np.random.default_rng(seed)
    gpp, reco = rng.gamma(2, 3, n).round(3), rng.gamma(2, 2, n).round(3)
    ta = rng.normal(10, 5, n).round(3)
    ta[rng.random(n) < 0.1] = -9999
    return {
        "TA_F": ta,
        "TA_F_QC": np.where(ta == -9999, -9999, rng.integers(0, 3, n)),
        "P_F": rng.gamma(0.3, 2, n).round(3),
        "LE_F_MDS": rng.normal(100, 40, n).round(3),
        "LE_F_MDS_QC": rng.integers(0, 4, n),
        "NEE_VUT_REF": (reco - gpp).round(3),
        "NEE_VUT_REF_QC": rng.integers(0, 4, n),
        "RECO_NT_VUT_REF": reco,
        "GPP_NT_VUT_REF": gpp,
    } | more


def write_archive(
    folder: Path,
    site: str,
    data: dict[str, np.ndarray],
    *,
    start: str = "2010-01-01T00:00",
    step: int = 30,
    name: str = "FLX_{site}_FLUXNET2015_FULLSET_{res}_2010-2010_1-4",
) -> Path:
    """Write a zip with one table; the same data for the same name."""
    name = name.format(site=site, res="HH" if step == 30 else "HR")
    n = len(next(iter(data.values())))
    rows = zip(stamps(start, step, n), zip(*data.values(), strict=True), strict=True)
    lines = [",".join(["TIMESTAMP_START", "TIMESTAMP_END", *data])]
    lines += [
        ",".join([*times, *(f"{v:g}" if float(v).is_integer() else f"{v:.4f}" for v in row)]) for times, row in rows
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('_HH', '').replace('_HR', '')}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.csv", "\n".join(lines) + "\n")
    return path


def write_places(folder: Path, places: dict[str, tuple]) -> None:
    rows = [f"{site},{','.join(map(str, row))}" for site, row in places.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sites.csv").write_text("\n".join(["site_id,latitude,longitude,utc_offset,igbp", *rows]) + "\n")


def write_raw(folder: Path, days: int = 20) -> Path:
    """Four sites: half-hourly, at +5.5 and +5.75 h, and natively hourly."""
    write_places(folder, PLACES)
    for i, site in enumerate(PLACES):
        step = 60 if site == "FJ-Ddd" else 30
        write_archive(folder, site, columns(days * 1440 // step, i), step=step, start=f"2010-0{i + 1}-01T00:00")
    return folder
