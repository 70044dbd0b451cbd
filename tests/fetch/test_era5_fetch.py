"""ERA5 from a local Climate Data Store by the real client: requests, queue, resuming, refusals, and no credentials."""

from __future__ import annotations

import json
import sys
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from packages import optional
from services.secrets import assert_absent
from services.web import Answer, Fault, page, status

import fluxcube as fc
from fluxcube import fetch
from fluxcube.errors import (
    ConfigError,
    CredentialsError,
    FetchError,
    LicenceError,
    MissingPackageError,
    QuotaError,
)
from fluxcube.fetch import era5_cds, era5_fetch, era5_request, http
from fluxcube.fetch.era5_fetch import Order, fetch_order, find_requests
from fluxcube.fetch.era5_request import ERA5, ERA5_LAND, Period, Place
from fluxcube.fetch.ledger import Ledger
from fluxcube.samples.spec import FeatureSpec

optional("cdsapi")
optional("netCDF4")
BOX = (7.1, 46.9, 7.4, 47.1)


@pytest.fixture
def cds(tmp_path, monkeypatch):
    """A local service, and its account in a file of the client."""
    from services.cds import ClimateDataStore

    for name in ("CDSAPI_URL", "CDSAPI_KEY"):
        monkeypatch.delenv(name, raising=False)
    with ClimateDataStore() as service:
        rc = tmp_path / "home" / ".cdsapirc"
        rc.parent.mkdir()
        rc.write_text(f"url: {service.url}/api\nkey: {service.KEY}\n")
        monkeypatch.setenv("CDSAPI_RC", str(rc))
        monkeypatch.setattr(era5_cds, "pause", lambda seconds: None)
        yield service


@pytest.fixture
def two_days(monkeypatch):
    """Requests of two days of July 2019, so that files are small."""
    period = Period(date(2019, 7, 3), date(2019, 7, 4))
    monkeypatch.setattr(Period, "of_years", lambda years, lead, product, today: [period])


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("era5*") if ".fetching" not in str(path))


def test_what_is_fetched_is_a_forcing(cds, two_days, tmp_path):
    """Instantaneous and accumulated parameters apart, static fields once; the folder opens as it is."""
    cds.waits = 2
    folder = tmp_path / "era5"
    paths = fetch.era5(folder, years=2019, bbox=BOX, variables=["TA", "SW_IN", "VPD", "P"])
    assert [path.name.split("_")[-2] for path in paths] == ["static", "instant", "accumulated"]
    forcing = fc.open_forcing(folder)
    assert forcing.sizes["time"] == 47 and set(forcing["variable"].values) >= {"TA", "SW_IN", "VPD", "P"}
    assert np.isfinite(forcing.predictors).all() and np.isfinite(forcing.elevation).all()
    assert forcing.latitude.values.max() >= 47.1 and forcing.longitude.values.min() <= 7.1
    kinds = [sorted(order["variable"]) for order in cds.orders]
    assert sorted(kinds) == [
        ["2m_dewpoint_temperature", "2m_temperature"],
        ["geopotential", "land_sea_mask"],
        ["surface_solar_radiation_downwards", "total_precipitation"],
    ]
    order = cds.orders[0]
    assert order["area"] == [47.5, 6.75, 46.5, 7.75] and order["data_format"] == "netcdf"
    assert order["download_format"] == "unarchived" and order["product_type"] == ["reanalysis"]
    assert len(cds.orders) == 3 == len(cds.asked("/files/"))
    text = (folder / "LICENCE.md").read_text()
    assert "10.24381/cds.adbb2d47" in text and "Hersbach" in text and "Copernicus" in text
    # A second call fetches nothing, and needs no service.
    before = len(cds.requests)
    assert fetch.era5(folder, years=2019, bbox=BOX, variables=["TA", "SW_IN", "VPD", "P"]) == paths
    assert len(cds.requests) == before


def test_more_variables_fetch_only_what_is_missing(cds, two_days, tmp_path):
    folder = tmp_path / "era5"
    first = fetch.era5(folder, years=2019, bbox=BOX, variables=["TA", "SW_IN"])
    number = len(cds.orders)
    second = fetch.era5(folder, years=2019, bbox=BOX, variables=["TA", "VPD", "WS", "SW_IN"])
    assert [order["variable"] for order in cds.orders[number:]] == [
        ["2m_dewpoint_temperature", "10m_u_component_of_wind", "10m_v_component_of_wind"]
    ]
    assert set(first) < set(second)
    assert {"VPD", "WS", "TA", "SW_IN"} <= set(fc.open_forcing(folder)["variable"].values)
    fetch.era5(folder, years=2019, bbox=BOX, variables=["VPD", "WS"])
    assert len(cds.orders) == number + 1
    # Another area has other files.
    fetch.era5(folder, years=2019, bbox=(9, 46, 9.2, 46.2), variables=["TA"])
    assert set(first) < {folder / name for name in files_of(folder)}


@pytest.mark.parametrize("data_format", ["netcdf", "grib"])
def test_era5_land_and_grib(cds, two_days, tmp_path, data_format):
    if data_format == "grib":
        optional("eccodes")
    paths = fetch.era5_land(
        tmp_path / "land", years=2019, bbox=(7, 47, 7.1, 47.1), variables="SW_IN", data_format=data_format
    )
    assert [path.suffix for path in paths] == [".nc" if data_format == "netcdf" else ".grib"]
    assert "product_type" not in cds.orders[0]
    forcing = fc.open_forcing(tmp_path / "land")
    light = forcing.predictors.sel(variable="SW_IN").isel(latitude=0, longitude=0).values
    assert light.max() > 300 and light.min() == pytest.approx(0, abs=0.5)


@pytest.fixture
def cube():
    """Where and when the sites of a cube are; nothing else of it is read."""
    spans = [("2019-06-01", "2019-12-31"), ("2018-01-01", "2018-12-31"), ("2019-01-01", "2020-06-30")]
    return xr.Dataset(
        coords={
            "site": ["CH-Aaa", "DE-Bbb", "NZ-Ccc"],
            "latitude": ("site", [47.11, 51.2, -37.4]),
            "longitude": ("site", [7.31, 10.1, 175.5]),
            "time_start": ("site", np.array([first for first, _ in spans], "datetime64[ns]")),
            "time_stop": ("site", np.array([last for _, last in spans], "datetime64[ns]")),
        }
    )


def test_sites_of_a_cube_take_series_of_points(cds, cube, two_days, tmp_path):
    """One request for all years of a site, and the static fields of its cell; the folder of a site is a forcing."""
    order = Order(product=ERA5, at_sites=cube, years=(2019,), variables=("TA", "SW_IN"))
    fetch_order(tmp_path / "sites", order)
    assert sorted({name.partition("/")[0] for name in files_of(tmp_path / "sites")}) == ["CH-Aaa", "NZ-Ccc"]
    series = [order for order in cds.orders if "location" in order]
    assert len(series) == 2 == len(cds.orders) - 2 and series[0]["date"] == ["2019-07-03/2019-07-04"]
    for site, latitude in (("CH-Aaa", 47.0), ("NZ-Ccc", -37.5)):
        forcing = fc.open_forcing(tmp_path / "sites" / site)
        assert forcing.latitude.values.tolist() == [latitude] and forcing.sizes["time"] == 47
        assert np.isfinite(forcing.predictors).all() and np.isfinite(forcing.elevation).all()


def test_years_of_sites_are_their_own(cube):
    requests, notes = find_requests(Order(product=ERA5, at_sites=cube, variables=("TA", "TS_1")), date(2026, 11, 30))
    dates = {r.name.partition("/")[0]: r.body["date"] for r in requests if "date" in r.body}
    assert dates == {
        "CH-Aaa": ["2018-12-31/2020-01-01"],
        "DE-Bbb": ["2017-12-31/2019-01-01"],
        "NZ-Ccc": ["2018-12-31/2021-01-01"],
    }
    # Soil temperature is not in the series of ERA5: it is requested for the cell, month by month.
    soil = [r for r in requests if r.parameters == ("stl1",)]
    assert len(soil) == 4 * 12 + 6 and soil[0].body["area"] == [47.0, 7.25, 47.0, 7.25]
    assert "soil_temperature_level_1" in notes[0] and "month by month" in notes[0]
    land, notes = find_requests(Order(product=ERA5_LAND, at_sites=cube, variables=("TS_1",)), date(2026, 11, 30))
    assert len(land) == 3 and "land-sea mask" in notes[0]
    with pytest.raises(ConfigError, match="no site of 3 has data in the requested years"):
        find_requests(Order(product=ERA5, at_sites=cube, years=(2010,)), date(2026, 11, 30))


def test_a_stopped_call_finds_its_request_again(cds, two_days, tmp_path):
    """By the id in the ledger, whatever the order of the request's entries; no request is sent twice."""
    cds.waits = 10**9
    order = {"years": 2019, "bbox": BOX, "variables": ["TA"], "timeout_hours": 0.01}
    with pytest.raises(FetchError, match=r"job-000. is accepted after 36 seconds.*finds it again(.|\n)*timeout_hours="):
        fetch.era5(tmp_path / "era5", **order)
    assert len(cds.orders) == 2 and not files_of(tmp_path / "era5")
    for entry in cds.jobs.values():
        entry["left"] = 0
    paths = fetch.era5(tmp_path / "era5", **order)
    assert len(cds.orders) == 2 and len(paths) == 2
    lines = [json.loads(line) for line in (tmp_path / "era5" / "fetch.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("request") == 2


def test_a_request_that_the_service_forgot_is_sent_again(cds, two_days, tmp_path):
    cds.waits = 10**9
    order = {"years": 2019, "bbox": BOX, "variables": ["TA"], "timeout_hours": 0.01, "jobs": 1}
    with pytest.raises(FetchError):
        fetch.era5(tmp_path / "era5", **order)
    cds.jobs.clear()
    cds.fail("/jobs/", status(403, {"title": "operation not allowed"}))  # of another account
    cds.waits = 0
    assert len(fetch.era5(tmp_path / "era5", **order)) == 2 and len(cds.orders) == 4


def test_a_file_that_the_service_removed_is_ordered_again(cds, two_days, tmp_path):
    cds.fail(r"/files/", status(404))
    assert len(fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA", jobs=1)) == 2
    assert len(cds.orders) == 3


def test_a_cut_download_continues_with_a_range(cds, two_days, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_CHUNK", 1024)
    cds.fail(r"/files/", Fault(truncate=3000), Fault(drop=True))
    fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA", jobs=1)
    assert [request.headers.get("range") for request in cds.asked("/files/")][1] == "bytes=2048-"
    assert len(cds.orders) == 2
    assert Ledger(tmp_path / "era5").entry(files_of(tmp_path / "era5")[0])["url"].startswith(cds.url)


@pytest.mark.parametrize(
    ("prepare", "kind", "text"),
    [
        (lambda cds: setattr(cds, "licences", set()), LicenceError, r"datasets/reanalysis-era5-single-levels\?tab=dow"),
        (lambda cds: setattr(cds, "most", 3), QuotaError, r"request of this size or number \(403: cost limits exceed"),
        (lambda cds: setattr(cds, "ends", "failed"), FetchError, r"job-000. failed at the service.*MARS returned no"),
        (lambda cds: setattr(cds, "ends", "dismissed"), FetchError, "dismissed at the service"),
        (lambda cds: cds.fail("/execution", *[status(503)] * 40), FetchError, "the CDS refused the request"),
        (lambda cds: cds.fail("/execution", *[status(429)] * 40), QuotaError, "accepts no more requests"),
        (lambda cds: cds.fail("/processes/", *[Fault(drop=True)] * 40), FetchError, "could not be reached"),
        (lambda cds: cds.fail("/processes/", *[page("Log in: password")] * 9), CredentialsError, "login page"),
        (lambda cds: cds.fail("/processes/", *[page("maintenance")] * 9), FetchError, "found a web page.*maintenance"),
        (lambda cds: cds.fail("/processes/", *[status(404, "<p>none")] * 9), FetchError, "not the address of the CDS"),
        (lambda cds: cds.fail("/files/", *[page("maintenance")] * 9), FetchError, "maintenance"),
        (lambda cds: cds.fail("/files/", *[Fault(Answer(b"nonsense" * 900))] * 9), FetchError, "expected a NetCDF or"),
        (lambda cds: cds.fail("/results", *[Fault(Answer({"asset": {}}))] * 9), FetchError, "unknown form"),
    ],
)
def test_refusals_are_in_the_users_words(cds, two_days, tmp_path, prepare, kind, text):
    prepare(cds)
    with pytest.raises(kind, match=text) as info:
        fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA")
    assert type(info.value) is kind and not [name for name in files_of(tmp_path / "era5") if "static" not in name]


def test_a_file_that_is_no_data_is_not_kept(cds, two_days, tmp_path, monkeypatch):
    import services.cds

    monkeypatch.setattr(services.cds, "content", lambda dataset, body: b'{"message": "quota"}')
    with pytest.raises(FetchError, match=r"expected a NetCDF or GRIB or zip file.*quota"):
        fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA")
    assert not files_of(tmp_path / "era5")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "no account of the Climate Data Store was found: expected url and key in"),
        ("url: URL\n", "no account"),
        ("url: URL\nkey: 1234:abcdef-123456\n", "form UID:KEY"),
        ("url: cds.climate.copernicus.eu/api\nkey: abcdef-123456\n", "must begin with https://"),
        ("url: URL\nkey: 'abcdef-123456'\n", "quotation marks"),
        ("url: URL\nkey: abcdef-123456\u2009\n", "other characters|no account|does not accept"),
        (b"url: URL\nkey: \xff\xfeabcdef-123456\n", "cannot be read as text"),
        ("url: URL\nkey: wrong-key-123456\n", "does not accept the key"),
    ],
)
def test_accounts_that_cannot_work(cds, two_days, tmp_path, text, match, caplog):
    rc = tmp_path / "home" / ".cdsapirc"
    rc.unlink()
    if text:
        content = text if isinstance(text, bytes) else text.replace("URL", f"{cds.url}/api").encode()
        rc.write_bytes(content)
    with pytest.raises(CredentialsError, match=match) as info:
        fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA")
    assert "how-to-api" in str(info.value) and not files_of(tmp_path / "era5")
    for secret in ("abcdef-123456", "wrong-key-123456"):
        assert_absent(secret, caplog, tmp_path / "era5", info.value)


def sent_by(program, monkeypatch, folder):
    """The file, data set and request of each call of the client by a printed program."""
    calls = []

    class Client:
        def retrieve(self, dataset, request, target):
            calls.append((target.removesuffix(".part"), dataset, request))
            (folder / target).write_bytes(b"x")

    monkeypatch.setitem(sys.modules, "cdsapi", SimpleNamespace(Client=Client))
    monkeypatch.chdir(folder)
    exec(compile(program, "request.py", "exec"), {})
    return calls


@pytest.mark.parametrize(
    "options",
    [
        {"years": "2018", "bbox": BOX, "variables": ("TA", "SW_IN")},
        {"years": "2015-2017,2019,2020", "region": "world", "variables": ("TA", "WS", "VPD", "PA", "TS_1", "SWC_1")},
        {"years": "2026", "region": "alps"},
        {"years": "2016", "at_sites": {"A/b": (50.0, 13.0), "*": (1.0, 2.0)}, "variables": ("TA", "TS_1")},
        {"years": "2019,2020", "bbox": BOX, "data_format": "grib", "product": ERA5_LAND},
        {"years": "1940", "bbox": (170, -20, -170, -10), "variables": "P"},
    ],
)
def test_a_printed_program_sends_the_same_requests(options, monkeypatch, tmp_path):
    """It is short: whole years are one call, whatever their number."""
    monkeypatch.setattr(era5_fetch, "_today", lambda: date(2026, 11, 30))
    order = Order(**{"product": ERA5, **options})
    program = era5_fetch.request_script(order)
    requests, _ = find_requests(order)
    expected = {one.name: (one.dataset, dict(one.body)) for one in requests}
    sent = sent_by(program, monkeypatch, tmp_path)
    assert {name: (dataset, body) for name, dataset, body in sent} == expected and len(sent) == len(requests)
    assert len(program.splitlines()) < 60


def test_without_the_client_the_extra_is_named(cds, two_days, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cdsapi", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'fluxcube\[fetch-era5\]'"):
        fetch.era5(tmp_path / "era5", years=2019, bbox=BOX, variables="TA")


def test_the_key_is_nowhere(cds, two_days, tmp_path, caplog):
    folder = tmp_path / "era5"
    cds.fail("/execution", status(500, f"key {cds.KEY}"))
    fetch.era5(folder, years=2019, bbox=BOX, variables="TA")
    cds.ends = "failed"
    with pytest.raises(FetchError) as info:
        fetch.era5(folder, years=2019, bbox=(1, 1, 2, 2), variables="TA")
    cds.ends = "successful"
    cds.fail("/retrieve", *[Fault(drop=True)] * 40)
    with pytest.raises(FetchError) as other:
        fetch.era5(folder, years=2019, bbox=(1, 1, 2, 2), variables="TA")
    assert cds.asked("/execution")[0].headers["private-token"] == cds.KEY
    assert "private-token" not in cds.asked("/files/")[0].headers
    plan = fetch.era5(folder, years=2019, bbox=BOX, variables="TA", plan=True)
    from fluxcube.fetch.era5_cds import DataStore

    assert_absent(cds.KEY, caplog, folder, info.value, other.value, plan, DataStore(1.0)._client.url)


def test_the_plan_sends_nothing(cds, tmp_path, monkeypatch):
    """Just what a model needs: its predictors, and the days before the first that its trailing means need."""
    spec = FeatureSpec(predictors=("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT", "CO2"), memory_days=(1, 7, 30))
    monkeypatch.setattr(era5_fetch, "load_model", lambda run: SimpleNamespace(singles=[SimpleNamespace(spec=spec)]))
    plan = fetch.era5(tmp_path / "era5", years=[2018], region="alps", model="ecoperceiver-towers", plan=True)
    assert not cds.requests and not (tmp_path / "era5").exists()
    text = plan.text()
    # t2m, d2m and ssrd of 365 days, the 31 before them, the day after, and two static fields.
    assert f"quota: {3 * 24 * (365 + 31 + 1) + 2} fields in 29 requests, 1488 at most" in text
    for part in ("29 of 29 files", "CC-BY-4.0", "queues requests", "corresponds to CO2: masked"):
        assert part in text
    # 51 x 23 cells of two bytes a value.
    assert plan.bytes == pytest.approx(2 * 51 * 23 * 3 * 24 * 397, rel=0.02)
    assert max(item.size for item in plan.items) > 1e6


def test_requests_stay_below_the_limit_of_the_service():
    every = tuple(f"{name}_{level}" for name in ("TS", "SWC") for level in range(1, 5))
    order = Order(product=ERA5, years=(2017, 2018, 2020), region="world", variables=("TA", "WS", "VPD", "PA", *every))
    requests, _ = find_requests(order, date(2026, 11, 30))
    assert max(request.fields for request in requests) <= era5_request.MAX_FIELDS
    assert all("area" not in request.body for request in requests)
    months = {(r.body["year"][0], r.body["month"][0]) for r in requests if len(r.body["time"]) == 24}
    # December before, and January after each run of years.
    assert months == {
        *((str(y), f"{m:02d}") for y in (2017, 2018, 2020) for m in range(1, 13)),
        ("2016", "12"),
        ("2019", "01"),
        ("2019", "12"),
        ("2021", "01"),
    }
    assert len({request.name for request in requests}) == len(requests)


def test_parts_of_months_do_not_replace_whole_ones():
    def names(*years):
        order = Order(product=ERA5, years=years, bbox=BOX, variables=("TA",))
        return {request.name for request in find_requests(order, date(2026, 11, 30))[0]}

    both, last = names(2017, 2018), names(2018)
    whole = {name for name in both if "_2017-12_" in name}
    part = {name for name in last if "_2017-12-31-31_" in name}
    assert len(whole) == len(part) == 1


def test_years_that_are_not_there():
    for product, year in ((ERA5, 1939), (ERA5_LAND, 1949), (ERA5, 2027)):
        with pytest.raises(ConfigError, match=f"found {year}"):
            find_requests(Order(product=product, years=(year,), bbox=BOX), date(2026, 11, 30))
    requests, _ = find_requests(Order(product=ERA5, years=(2026,), bbox=BOX), date(2026, 11, 30))
    assert max(r.body["day"][-1] for r in requests if r.body["month"] == ["11"]) == "24"
    assert not [r for r in requests if r.body["month"] == ["12"] and r.body["year"] == ["2026"]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5.0, 45.0, 11.0, 48.0), (4.75, 44.75, 11.25, 48.25)),
        ((5.1, 45.1, 10.9, 47.9), (4.75, 44.75, 11.25, 48.25)),
        ((170.0, -20.0, -170.0, -10.0), (169.75, -20.25, 190.25, -9.75)),
        ((350.0, -20.0, 10.0, -10.0), (-10.25, -20.25, 10.25, -9.75)),
        ((-180.0, -90.0, 180.0, 90.0), None),
        ((-180.0, 0.0, 180.0, 90.0), (-180.0, -0.25, 179.75, 90.0)),
        ((0.0, -90.0, 360.0, 90.0), None),
    ],
)
def test_boxes_are_whole_cells_and_one_more(box, expected):
    assert Place.of_box(ERA5, box).box == expected


def test_options_that_contradict_each_other(tmp_path):
    for options, match in (
        ({"years": 2018}, "one of region, bbox and at_sites"),
        ({"years": 2018, "region": "alps", "bbox": BOX}, "one of region"),
        ({"region": "alps"}, "pass years"),
        ({"years": "then", "region": "alps"}, "years such as 2018"),
        (
            {"years": 2018, "region": "alps", "source": "earth-data-hub-era5-land"},
            "does not have ERA5: pass source=cds or",
        ),
        ({"years": 2018, "bbox": (1, 50, 2)}, "west, south, east, north"),
        ({"years": 2018, "bbox": BOX, "model": "a", "variables": "TA"}, "either model= or variables="),
        ({"years": 2018, "bbox": BOX, "variables": "CO2"}, "CO2 cannot be derived"),
        ({"years": 2018, "bbox": BOX, "data_format": "csv"}, "netcdf"),
        ({"years": 2018, "bbox": (1, 50, 2, 40)}, "west, south, east, north"),
    ):
        with pytest.raises(ConfigError, match=match):
            fetch.era5(tmp_path, plan=True, **options)
    for hours in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="timeout_hours"):
            fetch.era5(tmp_path, years=2018, bbox=BOX, timeout_hours=hours)
    with pytest.raises(fc.errors.UnknownNameError, match="did you mean 'europe'"):
        fetch.era5(tmp_path, plan=True, years=2018, region="europ")


def test_the_command_line(cds, two_days, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from fluxcube.cli import app

    run = CliRunner().invoke
    options = ["--bbox", "7.1,46.9,7.4,47.1", "--years", "2019", "--variables", "TA"]
    out = ["--out", str(tmp_path / "era5")]
    planned = run(app, ["fetch", "era5", *options, *out, "--plan"])
    assert planned.exit_code == 0 and "2 of 2 files to fetch" in planned.output and not cds.requests
    fetched = run(app, ["fetch", "era5", *options, *out])
    assert fetched.exit_code == 0 and "2 files of ERA5" in fetched.output
    assert "0 of 2 files to fetch" in run(app, ["fetch", "era5", *options, *out, "--plan"]).output
    land = run(app, ["fetch", "era5-land", *options, "--out", str(tmp_path / "land"), "--plan"])
    assert "ERA5-Land" in land.output and "orography" in land.output
    program = run(app, ["request", "era5", *options]).output
    compile(program, "request.py", "exec")
    assert "'reanalysis-era5-single-levels'" in program and "[47.5, 6.75, 46.5, 7.75]" in program
    # The program fetches the same files.
    monkeypatch.chdir(tmp_path / "home")
    exec(compile(program.replace("Client()", "Client(quiet=True, progress=False)"), "request.py", "exec"), {})
    assert files_of(tmp_path / "home") == files_of(tmp_path / "era5")


def test_a_region_is_copied_from_a_cloud_without_an_account(tmp_path, monkeypatch):
    """Just the parameters that are needed; a second call reads nothing, and a stopped one continues."""
    optional("aiohttp")
    from services.arco import ZarrService, write_arco

    from fluxcube.sources.era5 import clouds

    write_arco(tmp_path)
    monkeypatch.setattr(Period, "of_years", lambda *options: [Period(date(2019, 7, 2), date(2019, 7, 2))])
    options = {"years": 2019, "bbox": (3, 38, 17, 57), "variables": ["TA", "SW_IN"], "source": "arco-era5"}
    with ZarrService(tmp_path) as service:
        monkeypatch.setattr(clouds, "STORES", {"arco-era5": f"{service.url}/arco.zarr"})
        plan = fetch.era5(tmp_path / "era5", plan=True, **options)
        assert not service.requests and "GB are read" in plan.text() and "1 of 1 files" in plan.text()
        (store,) = fetch.era5(tmp_path / "era5", **options)
        assert not service.chunks("total_precipitation/") and not service.chunks("2m_dewpoint")
        before = len(service.requests)
        assert fetch.era5(tmp_path / "era5", **options) == [store]
        (tmp_path / "era5" / "fetch.jsonl").unlink()  # a kill before the ledger was written
        assert fetch.era5(tmp_path / "era5", **options) == [store] and len(service.requests) == before
        # A chunk that the store does not send is not taken for hours without values.
        number = len(service.requests)
        service.fail(r"2m_temperature/c/", *[status(404)] * 999)
        with pytest.raises(FetchError, match=r"values of t2m are missing.*removed"):
            fetch.era5(tmp_path / "other", **options)
        service._faults.clear()
        (again,) = fetch.era5(tmp_path / "other", **options)
        assert again.name == store.name and len(service.requests) > number
    forcing = fc.open_forcing(tmp_path / "era5")
    assert forcing.sizes["time"] == 23 and {"TA", "SW_IN"} < set(forcing["variable"].values)
    assert np.isfinite(forcing.predictors).all() and np.isfinite(forcing.elevation).all()
    assert "1 of 1 files complete" in (tmp_path / "era5" / "LICENCE.md").read_text()
    with pytest.raises(ConfigError, match="sites of a cube are fetched from the CDS"):
        fetch.era5(tmp_path, at_sites="cube.zarr", source="arco-era5", plan=True)
