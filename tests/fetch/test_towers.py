"""Tower archives from the Shuttle's hubs, ICOS, AmeriFlux and Zenodo, simulated by local servers."""

from __future__ import annotations

import csv
import json
import traceback

import pytest
from packages import optional
from services.icos import identifier
from services.secrets import assert_absent
from services.shuttle import add_examples, archive, running
from services.web import Answer, Fault, page, status

import fluxcube
from fluxcube.cli import app
from fluxcube.errors import ConfigError, CredentialsError, FetchError, LicenceError, UnknownNameError
from fluxcube.fetch import http
from fluxcube.fetch.towers_archives import check_zip
from fluxcube.fetch.towers_catalogue import Choice, read_snapshot, select

optional("pooch")
USER, EMAIL = "a-person", "somebody@university.example"
SITES = ["AU-How", "DE-Hai", "US-Ha1", "US-xAA", "ZA-Kru"]


@pytest.fixture(scope="module")
def started():
    with running({USER: EMAIL}) as hubs:
        add_examples(hubs)
        yield hubs


@pytest.fixture
def hubs(started):
    for service in started.all:
        service.requests.clear()
        service._faults.clear()
    return started


@pytest.fixture
def account(monkeypatch):
    monkeypatch.setenv("AMF_USER", USER)
    monkeypatch.setenv("AMF_EMAIL", EMAIL)


@pytest.fixture
def fetch(hubs, tmp_path):
    def towers(**options):
        return fluxcube.fetch.towers(tmp_path, services=hubs.services, **options)

    return towers


def sites(result):
    items = result.items if hasattr(result, "items") else [p.name for p in result]
    return sorted(getattr(i, "about", {}).get("site") or str(i).split("_")[1] for i in items)


def downloads(hubs):
    return [r.path for service in hubs.all for r in service.asked(r"\.zip|/objects/|content", "GET")]


def test_the_shuttle_without_an_account(hubs, fetch, tmp_path):
    paths = fetch()
    assert [path.name for path in paths] == [
        "TERN_AU-How_FLUXNET_2002-2018_v1.3_r2.zip",
        "EUF_DE-Hai_FLUXNET_2000-2019_v1.3_r1.zip",
        "AMF_US-Ha1_FLUXNET_1991-2020_v1.3_r1.zip",
        "AMF_US-xAA_FLUXNET_2017-2024_v1.3_r1.zip",
        "SAEON_ZA-Kru_FLUXNET_2000-2013_v1.3_r1.zip",
    ]
    assert paths[1].read_bytes() == archive("DE-Hai") and len(downloads(hubs)) == 5
    [logged] = hubs.ameriflux.asked("log_shuttle")
    assert set(logged.json()) == {"user_id", "zip_filenames"} and len(logged.json()["zip_filenames"]) == 2
    text = (tmp_path / "LICENCE.md").read_text()
    assert "fluxnet.org/data/data-policy" in text and "Person, A. (2026), US-Ha1" in text
    assert '"DE-Hai", ICOS, https://hdl.handle.net/11676/' in text
    fetch()
    assert len(downloads(hubs)) == 5 and len(hubs.ameriflux.asked("log_shuttle")) == 1


def test_the_plan_downloads_nothing(hubs, fetch, tmp_path):
    plan = fetch(plan=True)
    text = plan.text()
    assert "5 of 5 files" in text and "AmeriFlux: no account is needed" in text and "CC-BY-4.0" in text
    assert not downloads(hubs) and not list(tmp_path.iterdir()) and not hubs.ameriflux.asked("log_shuttle")
    exact = {item.about["site"]: item.exact for item in plan.items}
    assert exact == {"AU-How": False, "DE-Hai": True, "US-Ha1": False, "US-xAA": False, "ZA-Kru": True}
    assert plan.bytes > 0 and plan.seconds is not None and "estimated" in text


def test_the_list_as_a_table_is_a_snapshot(hubs, fetch, tmp_path):
    path = tmp_path.parent / f"{tmp_path.name}-list.csv"
    plan = fetch(igbp="DBF", plan=True, table=path)
    rows = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
    assert [row["site_id"] for row in rows] == ["DE-Hai", "US-Ha1"] and all(row["product_citation"] for row in rows)
    assert [item.key for item in fetch(snapshot=path, plan=True).items] == [item.key for item in plan.items]
    with pytest.raises(ConfigError, match="choose another file"):
        fetch(plan=True, table=path)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"sites": "DE-Hai"}, ["DE-Hai"]),
        ({"igbp": ["dbf", "WSA"]}, ["AU-How", "DE-Hai", "US-Ha1"]),
        ({"years": "2019-2022"}, ["DE-Hai", "US-Ha1", "US-xAA"]),
        ({"years": 1995}, ["US-Ha1"]),
        ({"network": "neon"}, ["US-xAA"]),
        ({"network": ["TERN", "ICOS"]}, ["AU-How", "DE-Hai", "ZA-Kru"]),
        ({"network": "OzFlux"}, ["AU-How"]),
        ({"bbox": (-110, 30, -60, 50)}, ["US-Ha1", "US-xAA"]),
        ({"bbox": (130, -30, -100, 50)}, ["AU-How", "US-xAA"]),
    ],
)
def test_selections(fetch, choice, expected):
    assert sites(fetch(plan=True, **choice)) == expected


def test_selections_that_are_wrong(hubs, fetch):
    with pytest.raises(UnknownNameError, match=r"site of the FLUXNET Shuttle 'DE-Ha1': did you mean 'DE-Hai'"):
        fetch(sites=["DE-Ha1"])
    with pytest.raises(UnknownNameError, match="IGBP class"):
        fetch(igbp="URB")
    with pytest.raises(UnknownNameError, match="network"):
        fetch(network="FLUXCOM")
    with pytest.raises(ConfigError, match="widen one"):
        fetch(sites="DE-Hai", years=1980)
    for wrong in ({"years": "soon"}, {"years": []}, {"bbox": (1, 2, 3)}, {"bbox": (0, 60, 1, 50)}):
        with pytest.raises(ConfigError, match="expected"):
            fetch(**wrong)
    with pytest.raises(UnknownNameError, match="source of towers"):
        fetch(source="fluxnet")


def test_the_snapshot_beside_the_archives_feeds_a_build(fetch, tmp_path):
    fetch(sites=["US-Ha1", "AU-How"])
    fetch(sites=["DE-Hai"])
    path = tmp_path / "fluxnet_shuttle_snapshot_fetched.csv"
    rows = {row["site_id"]: row for row in csv.DictReader(path.open(newline="", encoding="utf-8"))}
    assert sorted(rows) == ["AU-How", "DE-Hai", "US-Ha1"]
    assert rows["US-Ha1"]["product_id"] == "10.17190/AMF/US-Ha1" and rows["DE-Hai"]["igbp"] == "DBF"
    assert rows["AU-How"]["product_citation"] == 'Person, C. (2026): "AU-How", a release. Version 2026_r1'
    assert "person@example.org" not in path.read_text() and "=fluxnetshuttle" not in path.read_text()


def test_a_hub_that_does_not_answer_is_named(hubs, fetch):
    hubs.tern.fail("catalogue", *[status(503)] * 9)
    plan = fetch(plan=True)
    assert sites(plan) == ["DE-Hai", "US-Ha1", "US-xAA", "ZA-Kru"]
    assert "TERN could not be listed" in plan.text()
    hubs.tern.fail("catalogue", *[status(503)] * 9)
    with pytest.raises(UnknownNameError) as failed:
        fetch(sites="AU-How")
    assert "TERN could not be listed" in str(failed.value)
    for service in hubs.all:
        service.fail("", *[status(500)] * 30)
    with pytest.raises(FetchError, match="no hub"):
        fetch()


def test_one_damaged_archive_does_not_stop_the_others(hubs, fetch, tmp_path):
    good = archive("US-Ha1")
    at = good.index(b"TIMESTAMP")
    bad = Fault(Answer(good[:at] + b"X" + good[at + 1 :]))
    hubs.ameriflux.fail("US-Ha1.*zip", bad, method="GET")
    other = archive("DE-Hai").replace(b"read me", b"read us")
    hubs.icos.fail(f"/objects/{identifier(archive('DE-Hai'))}", Fault(Answer(other)), method="GET")
    hubs.tern.fail(r"AU-How.*zip", page("The server is down"), method="GET")
    with pytest.raises(FetchError) as failed:
        fetch()
    text = str(failed.value)
    assert "3 of 5 files" in text and "fluxcube fetch towers" in text
    assert "FLX_US-Ha1_FLUXNET_FLUXMET_HH_2010-2011_v1.3_r1.csv is damaged" in text
    assert f"its checksum is not the one in its PID {identifier(archive('DE-Hai'))}" in text
    assert "found a web page" in text
    assert sorted(path.name[:10] for path in tmp_path.glob("*.zip")) == ["AMF_US-xAA", "SAEON_ZA-K"]
    fetch()
    assert len(list(tmp_path.glob("*.zip"))) == 5


def test_a_damaged_archive_is_fetched_again_with_verify(hubs, fetch):
    paths = fetch(sites=["DE-Hai", "US-Ha1"])
    for path in paths:
        path.write_bytes(path.read_bytes()[::-1])
    assert fetch(sites=["DE-Hai", "US-Ha1"]) == paths and len(downloads(hubs)) == 2
    assert len(fetch(sites=["DE-Hai", "US-Ha1"], plan=True, verify=True).missing) == 2
    fetch(sites=["DE-Hai", "US-Ha1"], verify=True)
    assert [path.read_bytes() for path in paths] == [archive("DE-Hai"), archive("US-Ha1")]


def test_an_interrupted_archive_continues(hubs, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "_CHUNK", 64)
    hubs.tern.fail(r"AU-How.*zip", Fault(truncate=150), *[Fault(drop=True)] * 5, method="GET")
    with pytest.raises(FetchError, match="AU-How"):
        fetch(sites="AU-How")
    hubs.tern._faults.clear()
    fetch(sites="AU-How")
    assert hubs.tern.asked(r"AU-How.*zip", "GET")[-1].headers["range"].startswith("bytes=")


def test_the_real_snapshot(shared_data, hubs, fetch):
    path = shared_data / "meta" / "fluxnet_shuttle_snapshot_20260624.nocontacts.csv"
    archives, notes = read_snapshot(path.read_text("utf-8"), path.name)
    assert len(archives) == 767 and not notes
    assert sum(a.years for a in archives) == 6164
    by_site = {a.site: a for a in archives}
    assert by_site["AR-Bal"].citation.startswith("Maria Isabel Gassmann, Natalia Edith Tonti (2026), AmeriFlux")
    assert all(a.citation and a.latitude is not None and a.igbp for a in archives)
    count = {hub: sum(a.hub == hub for a in archives) for hub in ("AmeriFlux", "ICOS", "TERN")}
    assert count == {"AmeriFlux": 375, "ICOS": 340, "TERN": 52}
    for choice, n in (({"network": "neon"}, 44), ({"igbp": "DBF"}, 78), ({"bbox": (-180, -90, 180, 0)}, None)):
        chosen, _ = select(archives, Choice.create(**{**dict.fromkeys(NONE), **choice}), "the snapshot")
        assert len(chosen) == (n or sum(a.latitude <= 0 for a in archives))


NONE = ("sites", "igbp", "years", "network", "bbox")


def test_a_snapshot_of_the_user(hubs, fetch, tmp_path):
    rows = "data_hub,site_id,location_lat,first_year,last_year,download_link,fluxnet_product_name,product_citation\n"
    good = "AMF_US-Ha1_FLUXNET_1991-2020_v1.3_r1.zip"
    link = f"{hubs.ameriflux.url}/.ameriflux_downloads/FLUXNET/{good}?=me"
    rows += f'AmeriFlux,US-Ha1,,1991,2020,{link},{good},"A, B\nand C"\n'
    rows += f"AmeriFlux,US-Xxx,1,1991,2020,{link},{good},x\n"
    rows += f"AmeriFlux,US-Xx1,1,1991,2020,{link},../../AMF_US-Xx1_FLUXNET_1991-2020_v1.3_r1.zip,x\n"
    rows += f"AmeriFlux,US-Ha1,1,1991,2020,file:///etc/passwd,{good},x\n"
    rows += f"AmeriFlux,US-Ha1,1,then,2020,{link},{good},x\n"
    path = tmp_path.parent / f"{tmp_path.name}.csv"
    path.write_text(rows)
    plan = fetch(snapshot=path, plan=True)
    assert sites(plan) == ["US-Ha1"] and len([n for n in plan.notes if "left out" in n]) == 4
    assert plan.items[0].about["citation"] == "A, B and C"
    [archived] = fetch(snapshot=str(path))
    assert archived.read_bytes() == archive("US-Ha1") and hubs.ameriflux.asked("zip")[-1].query == {"": ["me"]}
    for text, match in (("a,b\n1,2\n", "without the column"), ("", "without the column")):
        path.write_text(text)
        with pytest.raises(FetchError, match=match):
            fetch(snapshot=path)
    with pytest.raises(FetchError, match="No such file"):
        fetch(snapshot=tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="leave it out"):
        fetch(snapshot=path, source="icos")


def test_any_link_to_the_same_file_is_the_same_file(hubs, fetch, tmp_path):
    fetch(sites=["DE-Hai", "US-Ha1"])
    text = (tmp_path / "fluxnet_shuttle_snapshot_fetched.csv").read_text()
    text = text.replace("/objects/", "/licence_accept?ids=%5B%22").replace(",EUF_DE", "%22%5D,EUF_DE")
    assert "%22%5D,EUF_DE" in text
    text = text.replace("r1.zip,AMF", "r1.zip?=other,AMF")
    older = text.splitlines()[-1].replace("v1.3_r1", "v1.2_r9")
    path = tmp_path.parent / f"{tmp_path.name}-links.csv"
    path.write_text(f"{text}{older}\n{text.splitlines()[-1]}\n")
    assert len(fetch(snapshot=path)) == 2 and len(downloads(hubs)) == 2
    for name in tmp_path.glob("EUF*"):
        name.unlink()
    fetch(snapshot=path)
    assert hubs.icos.asked("/objects/", "GET")[-1].headers["cookie"].startswith("CpLicenseAcceptedFor=")


def test_an_error_as_json_is_shown(hubs, fetch):
    hubs.tern.fail(r"AU-How.*zip", Fault(Answer({"message": "maintenance until Friday"})), method="GET")
    with pytest.raises(FetchError, match=r"found application/json: .*maintenance until Friday"):
        fetch(sites="AU-How")


def test_icos_directly(hubs, fetch, tmp_path):
    facts = {"igbp": "ENF", "latitude": 61.8, "longitude": 24.3}
    level2 = archive("FI-Hyy")
    hubs.icos.add("FI-Hyy", "ICOSETC_FI-Hyy_ARCHIVE_L2.zip", level2, "etcArchiveProduct", years=(2018, 2023), **facts)
    hubs.icos.add("FI-Hyy", "FLX_FI-Hyy_FLUXNET2015_FULLSET_1996-2020_beta-3.zip", archive("FI-Hyy", "old"), **facts)
    hubs.icos.add("FI-Hyy", "something else.zip", archive("FI-Hyy", "else"), **facts)
    try:
        plan = fetch(source="icos", plan=True)
        assert [item.name for item in plan.items][1] == "ICOSETC_FI-Hyy_ARCHIVE_L2.zip" and len(plan.items) == 3
        assert all(item.exact for item in plan.items) and not downloads(hubs)
        [path] = fetch(source="icos", sites="FI-Hyy")
        assert path.read_bytes() == level2
        assert f"https://hdl.handle.net/11676/{identifier(level2)}" in (tmp_path / "LICENCE.md").read_text()
    finally:
        del hubs.icos.bindings[-3:]


def test_a_licence_of_icos_that_is_not_accepted(hubs, fetch):
    key = identifier(archive("DE-Hai"))
    hubs.icos.fail("/objects/", status(302, Location=f"/licence?ids=%5B%22{key}%22%5D"), times=2)
    with pytest.raises(LicenceError, match=r"/licence: ICOS asks to accept its licence; open this address"):
        fetch(source="icos", sites="DE-Hai")


def test_ameriflux_with_an_account(hubs, fetch, tmp_path, account, caplog):
    plan = fetch(source="ameriflux", plan=True)
    assert not hubs.ameriflux.asked("data_download") and "one order of 2 archives" in plan.text()
    assert sites(plan) == ["US-Ha1", "US-xAA"]
    [path] = fetch(source="ameriflux", sites="US-Ha1")
    assert path.read_bytes() == archive("US-Ha1") and path.name == "AMF_US-Ha1_FLUXNET_1991-2020_v1.3_r1.zip"
    [ordered] = hubs.ameriflux.asked("data_download")
    assert ordered.json()["site_ids"] == ["US-Ha1"] and ordered.json()["user_email"] == EMAIL
    paths = fetch(source="ameriflux")
    assert hubs.ameriflux.asked("data_download")[-1].json()["site_ids"] == ["US-xAA"] and len(paths) == 2
    assert fetch(source="ameriflux", sites="US-Ha1") == [path]
    assert len(hubs.ameriflux.asked("data_download")) == 2 and len(downloads(hubs)) == 2
    assert "Person, A. (2026), US-xAA" in (tmp_path / "LICENCE.md").read_text()
    for secret in (USER, EMAIL):
        assert_absent(secret, caplog, tmp_path, plan)


def test_ameriflux_without_an_account(hubs, fetch, monkeypatch):
    with pytest.raises(CredentialsError, match=r"register at https://ameriflux.*set AMF_USER and AMF_EMAIL"):
        fetch(source="ameriflux")
    monkeypatch.setenv("AMF_USER", USER)
    with pytest.raises(CredentialsError, match="set AMF_EMAIL in"):
        fetch(source="ameriflux")
    assert not hubs.ameriflux.asked("data_download") and fetch(source="ameriflux", plan=True).items


def test_ameriflux_refuses_an_account(hubs, fetch, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("AMF_USER", "a-stranger")
    monkeypatch.setenv("AMF_EMAIL", "stranger@nowhere.example")
    with pytest.raises(CredentialsError, match=r"unknown user \*\*\*") as failed:
        fetch(source="ameriflux")
    text = "".join(traceback.format_exception(failed.value))
    for secret in ("a-stranger", "stranger@nowhere.example"):
        assert_absent(secret, caplog, tmp_path, failed.value, text)


def test_ameriflux_sends_less_than_was_ordered(hubs, fetch, account):
    hubs.ameriflux.fail("data_download", Fault(Answer({"data_urls": []})))
    with pytest.raises(FetchError, match="sent no archive"):
        fetch(source="ameriflux")
    other = {"site_id": "US-Ha1", "url": f"{hubs.ameriflux.url}/evil/..%2F..%2Fx.zip"}
    hubs.ameriflux.fail("data_download", Fault(Answer({"data_urls": [other, 3, None], "x": 1})))
    with pytest.raises(FetchError, match="sent no archive"):
        fetch(source="ameriflux")
    hubs.ameriflux.fail("data_download", page("We are moving"))
    with pytest.raises(FetchError, match="web page"):
        fetch(source="ameriflux")
    hubs.ameriflux.fail("data_download", Fault(Answer("{not json", type="application/json")))
    with pytest.raises(FetchError, match="expected JSON"):
        fetch(source="ameriflux")


RECORDS = [("v1", "11403428", "carbonsense.tar"), ("v2", "15586300", "carbonsense_v2.sql")]


@pytest.mark.parametrize(("release", "record", "name"), RECORDS)
def test_carbonsense_from_zenodo(hubs, fetch, tmp_path, release, record, name):
    content = b"ustar" * 100
    hubs.zenodo.records[record] = {name: content, "carbonsense_raw.tar.gz": b"raw", "../x.tar": b"x"}
    plan = fetch(source="zenodo", release=release, plan=True)
    assert [item.name for item in plan.items] == [name] and plan.bytes == 500 and not downloads(hubs)
    assert "carbonsense_raw.tar.gz" in plan.text()
    [path] = fetch(source="zenodo", release=release)
    assert path.read_bytes() == content and f"10.5281/zenodo.{record}" in (tmp_path / "LICENCE.md").read_text()
    hubs.zenodo.records[record] = {name: content[::-1]}
    fetch(source="zenodo", release=release)  # a file changed at Zenodo is fetched again
    assert path.read_bytes() == content[::-1]


def test_zenodo_that_fails(hubs, fetch):
    hubs.zenodo.records["11403428"] = {"carbonsense.tar": b"x" * 100}
    hubs.zenodo.fail("content", Fault(Answer(b"y" * 100)), times=9)
    with pytest.raises(FetchError, match="expected md5"):
        fetch(source="zenodo")
    for fault in (page("busy"), Fault(Answer({"files": "none"})), Fault(Answer({"files": [{"key": "../a"}]}))):
        hubs.zenodo.fail("records", fault)
        with pytest.raises(FetchError, match="did not list"):
            fetch(source="zenodo")
    hubs.zenodo.records["11403428"] = {"notes.txt": b"x"}
    with pytest.raises(FetchError, match=r"expected a file of CarbonSense v1, found notes.txt"):
        fetch(source="zenodo")
    with pytest.raises(UnknownNameError, match="v1, v2"):
        fetch(source="zenodo", release="3")
    with pytest.raises(ConfigError, match="when the cube is built"):
        fetch(source="zenodo", sites="DE-Hai")


@pytest.mark.parametrize("source", ["fluxnet2015", "fluxnet-ch4", "japanflux"])
def test_what_needs_a_person_names_the_page(fetch, source):
    with pytest.raises(FetchError, match=r"open https://.*download the (half-hourly )?files FLX_<SITE>.*inspect"):
        fetch(source=source)


def test_zips_that_are_none(tmp_path):
    path = tmp_path / "a.zip"
    for content, match in ((b"PK\x03\x04 no", "cannot be read"), (archive("DE-Tha"), "expected tables of DE-Hai")):
        path.write_bytes(content)
        with pytest.raises(FetchError, match=match):
            check_zip(path, "DE-Hai")


def test_the_command(hubs, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr("fluxcube.fetch.towers_fetch.Services", lambda: hubs.services)
    out = tmp_path / "raw"
    run = CliRunner()
    first = run.invoke(app, ["fetch", "towers", str(out), "--igbp", "DBF,SAV", "--bbox=0,-40,40,60", "--plan"])
    assert first.exit_code == 0 and "2 of 2 files to fetch" in first.output and not out.exists()
    second = run.invoke(app, ["fetch", "towers", str(out), "--igbp", "DBF,SAV", "--bbox=0,-40,40,60", "--jobs", "1"])
    assert second.exit_code == 0 and "2 files; licence and citations" in second.output
    assert json.loads((out / "fetch.jsonl").read_text().splitlines()[0])["source"] == "FLUXNET Shuttle"
