"""Two site-years as PLUMBER2 published them, an independent reading of the same release, agree step by step.

Ukkola et al. (2022), doi:10.5194/essd-14-449-2022. The towers' own file of DK-Fou is not at hand, nor US-Wi7's
full one: their values, in ONEFlux's names, units and text, are what is read here.
"""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fluxcube.humidity import saturation_vapour_pressure
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.readers import read_archive

SITES = {"US-Wi7": -6.0, "DK-Fou": 1.0}

#: Name: their variable, what turns it into ONEFlux's units, ONEFlux's column, and whether that has flags.
SAME = {
    "TA": ("Tair", lambda v: v - 273.15, "TA_F", True),
    "SW_IN": ("SWdown", None, "SW_IN_F", True),
    "LW_IN": ("LWdown", None, "LW_IN_F", True),
    "VPD": ("VPD", None, "VPD_F", True),
    "PA": ("Psurf", lambda v: v / 1000, "PA_F", True),
    "P": ("Precip", lambda v: v * 1800, "P_F", True),
    "WS": ("Wind", None, "WS_F", True),
    "RH": ("RH", None, "RH", False),
    "CO2": ("CO2air", None, "CO2_F_MDS", True),
    "USTAR": ("Ustar", None, "USTAR", False),
    "NETRAD": ("Rnet", None, "NETRAD", False),
    "LE": ("Qle", None, "LE_F_MDS", True),
    "H": ("Qh", None, "H_F_MDS", True),
    "NEE": ("NEE", None, "NEE_VUT_REF", True),
    "RECO_NT": ("Resp", None, "RECO_NT_VUT_REF", False),
    "GPP_NT": ("GPP", None, "GPP_NT_VUT_REF", False),
    "GPP_DT": ("GPP_DT", None, "GPP_DT_VUT_REF", False),
}
#: ERA's and later fills have flags of PLUMBER2's own; ONEFlux's for ERA is 2.
FLAGS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 101: 3}


def plumber(shared_data, site):
    paths = [shared_data / "formats" / f"{site}_2005-2005_FLUXNET2015_{kind}.nc" for kind in ("Met", "Flux")]
    return xr.merge([xr.open_dataset(path).squeeze(drop=True) for path in paths], compat="override")


def as_fullset(data):
    """Return the year as ONEFlux's FULLSET would write it, and the numbers that its text stands for."""
    start = data.time.values.astype("datetime64[m]")
    stamps = [np.datetime_as_string(start + k * np.timedelta64(30, "m")) for k in (0, 1)]
    table = {
        f"TIMESTAMP_{n}": np.char.replace(np.char.replace(np.char.replace(s, "-", ""), "T", ""), ":", "")
        for n, s in zip(("START", "END"), stamps, strict=True)
    }
    for theirs, convert, column, flagged in SAME.values():
        values = data[theirs].values.astype(float)
        values = convert(values) if convert else values
        table[column] = [f"{value:.6g}" if np.isfinite(value) else "-9999" for value in values]
        if flagged:
            table[f"{column}_QC"] = [
                FLAGS[int(flag)] if np.isfinite(flag) else -9999 for flag in data[f"{theirs}_qc"].values
            ]
    table["NEE_VUT_REF_RANDUNC"] = [f"{value:.6g}" if np.isfinite(value) else "-9999" for value in data.NEE_uc.values]
    return pd.DataFrame(table)


@pytest.fixture(scope="module", params=SITES)
def year(request, shared_data, tmp_path_factory):
    """A site's year: PLUMBER2's data, its table as text, and what `read_archive` makes of its zip."""
    site = request.param
    data = plumber(shared_data, site)
    table = as_fullset(data)
    folder = tmp_path_factory.mktemp(site)
    stem = f"FLX_{site}_FLUXNET2015_FULLSET"
    with zipfile.ZipFile(folder / f"{stem}_2005-2005_1-4.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}_HH_2005-2005_1-4.csv", table.to_csv(index=False))
    (archive,) = discover(folder).archives
    return data, table, read_archive(archive, utc_offset=SITES[site])


def test_every_step_has_plumbers_number_at_its_local_time(year):
    data, _, found = year
    assert found.sizes["time"] == 17520 and found.step_minutes == 30
    local = found.time.values + np.timedelta64(int(SITES[found.site] * 60), "m")
    np.testing.assert_array_equal(local, data.time.values.astype("datetime64[ns]"))
    for name, (theirs, convert, _, _) in SAME.items():
        values = data[theirs].values.astype(float)
        values = convert(values) if convert else values
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_every_flag_is_the_files_or_what_its_column_says(year):
    data, table, found = year
    for name, (_, _, column, flagged) in SAME.items():
        if flagged:
            np.testing.assert_array_equal(found[f"{name}_QC"], table[f"{column}_QC"], err_msg=name)
    for name in ("GPP_NT", "GPP_DT", "RECO_NT"):
        np.testing.assert_array_equal(found[f"{name}_QC"], found.NEE_QC)
    for name in ("RH", "USTAR", "NETRAD"):
        np.testing.assert_array_equal(found[f"{name}_QC"], np.where(np.isnan(found[name]), -1, 0))
    np.testing.assert_allclose(found.NEE_RANDUNC, data.NEE_uc.values, rtol=1e-5)
    assert "LE_RANDUNC" not in found


def test_units_agree_with_each_other_and_with_the_sun(year):
    """VPD in hPa is what TA in degC and RH in % give; light follows the sun at the site's own clock."""
    data, _, found = year
    well = (found.VPD_QC == 0) & (found.TA_QC == 0) & (found.VPD > 1) & (data.RH_qc.values == 0)
    well = well.values
    expected = saturation_vapour_pressure(found.TA.values[well]) * (1 - found.RH.values[well] / 100)
    ratio = found.VPD.values[well] / expected
    assert well.sum() > 300 and 0.97 < np.median(ratio) < 1.03
    place = float(data.latitude), float(data.longitude)
    fits = {}
    for shift in (-60, 0, 60):
        time = found.time.values + np.timedelta64(shift, "m")
        fits[shift] = np.corrcoef(found.SW_IN, potential_radiation(time, *place, hours=0.5))[0, 1]
    assert max(fits, key=fits.get) == 0


def test_the_towers_own_file_has_the_same_numbers_at_the_same_local_times(shared_data):
    """US-Wi7's SUBSET was made from the release by other people and code than PLUMBER2's netCDF."""
    (path,) = (shared_data / "towers").glob("FLX_US-Wi7_*.zip")
    found = read_oneflux(path, utc_offset=0.0)
    data = plumber(shared_data, "US-Wi7")
    np.testing.assert_array_equal(found.time, data.time.astype("datetime64[ns]"))
    packing = 0.0025  # the towers' values were packed to 16 bits
    for name, theirs in (("NEE", data.NEE), ("GPP_NT", data.GPP), ("GPP_DT", data.GPP_DT)):
        np.testing.assert_allclose(found[name], theirs, atol=packing)
    # The SUBSET at hand has RECO as NEE + GPP; PLUMBER2 has ONEFlux's own, which need not be that at every step.
    difference = np.abs(found.RECO_NT - data.Resp.values)
    assert float(np.median(difference)) < 2 * packing
    np.testing.assert_array_equal(found.NEE_QC, data.NEE_qc)
    # Their meteorology is TA_F_MDS, ours TA_F: the same where measured or well filled, ERA's elsewhere.
    for name, theirs, flags in (
        ("TA", data.Tair - 273.15, data.Tair_qc),
        ("SW_IN", data.SWdown, data.SWdown_qc),
        ("VPD", data.VPD, data.VPD_qc),
    ):
        for flag in (0, 1):
            same = (flags == flag).to_numpy()
            assert same.sum() > 100
            assert (found[f"{name}_QC"].to_numpy()[same] == flag).all()
            np.testing.assert_allclose(found[name].to_numpy()[same], theirs.to_numpy()[same], atol=0.02)
