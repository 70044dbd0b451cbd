"""Plans, the ledger, and fetching many files: what is missing is fetched, by one writer at a time."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace

import pytest
from services.secrets import assert_absent
from services.web import Fault, status

import fluxcube
from fluxcube.errors import CredentialsError, FetchError, StoreError
from fluxcube.fetch import http, run, sending
from fluxcube.fetch.control import check_stop
from fluxcube.fetch.items import Item, Licence, Plan, fault_of_name, request_key
from fluxcube.fetch.ledger import Ledger

LICENCE = Licence("CC-BY-4.0", "https://example.org/by", "Cite every site.", "The Team (2026): Data", "10.1/abc")


def items(web, n=3, **more):
    for i in range(n):
        web.files[f"/{i}.bin"] = bytes([65 + i]) * (100 + i)
    return [
        Item(f"sub/{i}.bin", f"{web.url}/{i}.bin", about={"citation": f"Site {i} (2026)"}, **more) for i in range(n)
    ]


def getter(item, path):
    return http.download(item.key, path, tries=1)


def fetch(web, folder, wanted=None, **options):
    wanted = items(web) if wanted is None else wanted
    return run.fetch_all(run.make_plan("test", folder, wanted, licence=LICENCE), folder, getter, **options)


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_second_call_fetches_only_what_is_missing(web, tmp_path, jobs):
    states = []
    paths = fetch(web, tmp_path, jobs=jobs, progress=lambda *state: states.append(state))
    assert [path.read_bytes()[:1] for path in paths] == [b"A", b"B", b"C"]
    assert states[0] == (0, 3, "") and states[-1][:2] == (3, 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".fetching") == [
        "LICENCE.md",
        "fetch.jsonl",
        "sub",
    ]
    paths[1].unlink()
    paths[2].write_bytes(b"short")
    fetch(web, tmp_path)
    assert [r.path for r in web.requests[3:]] == ["/1.bin", "/2.bin"]
    fetch(web, tmp_path)
    assert len(web.requests) == 5


def test_the_plan_says_what_is_missing(web, tmp_path):
    fetch(web, tmp_path, items(web, 1))
    plan = run.make_plan("test", tmp_path, items(web, 3, size=100), licence=LICENCE, notes=["no FI-Hyy"], seconds=90)
    assert [item.name for item in plan.missing] == ["sub/1.bin", "sub/2.bin"] and plan.bytes == 200
    text = plan.text()
    for part in ("2 of 3 files", "about 200 B", "90 seconds", "CC-BY-4.0", "note: no FI-Hyy", "already there: 1"):
        assert part in text
    assert len(web.requests) == 1


def test_changed_bytes_are_found_with_verify(web, tmp_path):
    paths = fetch(web, tmp_path)
    paths[0].write_bytes(b"x" * 100)
    wanted = items(web)
    assert len(run.make_plan("test", tmp_path, wanted).have) == 3
    plan = run.make_plan("test", tmp_path, wanted, verify=True)
    assert len(plan.have) == 2
    run.fetch_all(plan, tmp_path, getter)
    assert paths[0].read_bytes() == b"A" * 100 and len(web.requests) == 4
    run.fetch_all(plan, tmp_path, getter)  # another fetch came first
    assert len(web.requests) == 4


def test_another_request_or_release_of_the_same_name_is_fetched(web, tmp_path):
    fetch(web, tmp_path, items(web, 1))
    ledger, item = Ledger(tmp_path), items(web, 1)[0]
    assert ledger.done(item)
    assert not ledger.done(Item(item.name, item.key + "?v=2"))
    assert not ledger.done(Item(item.name, item.key, size=7, exact=True))
    assert ledger.done(Item(item.name, item.key, size=7))
    first = Item(item.name, item.key, checksum=("md5", "a" * 32))
    ledger.record(first, tmp_path / item.name)
    assert not ledger.done(Item(item.name, item.key, checksum=("md5", "b" * 32)))


def test_one_failure_does_not_stop_the_others(web, tmp_path):
    web.fail("/1.bin", status(404))
    with pytest.raises(FetchError, match=r"1 of 3 files.*2 are complete(.|\n)*sub/1.bin: .*no such file"):
        fetch(web, tmp_path, again="`fluxcube fetch test`")
    assert (tmp_path / "sub/0.bin").exists() and not (tmp_path / "sub/1.bin").exists()
    assert "2 of 3 files complete" in (tmp_path / "LICENCE.md").read_text()
    fetch(web, tmp_path)
    assert len(web.requests) == 4


def test_no_account_stops_at_once(web, tmp_path):
    web.fail("/0.bin", status(401))
    with pytest.raises(CredentialsError, match="2 were not tried"):
        fetch(web, tmp_path)
    assert len(web.requests) == 1


def test_a_wrong_file_of_a_client_is_not_taken(web, tmp_path):
    good = hashlib.md5(b"good").hexdigest()
    item = Item("a", "k", size=4, exact=True, checksum=("md5", good))
    plan = run.make_plan("test", tmp_path, [item])
    for body in (b"", b"goo", b"baad"):
        with pytest.raises(FetchError, match=r"empty|expected 4 bytes|checksum"):
            run.fetch_all(plan, tmp_path, lambda item, path, body=body: path.write_bytes(body))
        assert not (tmp_path / "a").exists()
    with pytest.raises(FetchError, match="empty"):
        run.fetch_all(plan, tmp_path, lambda item, path: None)
    run.fetch_all(plan, tmp_path, lambda item, path: path.write_bytes(b"good"))
    assert (tmp_path / "a").read_bytes() == b"good"


def test_a_file_of_the_user_is_not_replaced(web, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/0.bin").write_bytes(b"mine")
    with pytest.raises(FetchError, match="not recorded in the ledger"):
        fetch(web, tmp_path, items(web, 1))
    assert (tmp_path / "sub/0.bin").read_bytes() == b"mine"
    same = items(web, 1, checksum=("md5", hashlib.md5(b"mine").hexdigest()))
    fetch(web, tmp_path, same)  # downloaded by hand
    assert not web.requests and Ledger(tmp_path).done(same[0])


def test_two_fetches_into_one_folder(web, tmp_path):
    with Ledger(tmp_path).locked(), pytest.raises(FetchError, match="another fetch is writing there"):
        fetch(web, tmp_path)
    fetch(web, tmp_path)


def test_a_kill_between_the_ledger_and_the_name(web, tmp_path, monkeypatch):
    def kill(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.os, "replace", lambda path, target: kill(path, target) if target.name == "0.bin" else None)
        with pytest.raises((KeyboardInterrupt, FetchError)):
            run.fetch_all(
                run.make_plan("test", tmp_path, items(web, 1)),
                tmp_path,
                lambda item, path: path.write_bytes(b"A" * 100),
            )
    assert not (tmp_path / "sub/0.bin").exists() and not Ledger(tmp_path).done(items(web, 1)[0])
    fetch(web, tmp_path, items(web, 1))
    assert not web.requests and (tmp_path / "sub/0.bin").read_bytes() == b"A" * 100


def test_an_interrupt_stops_the_threads(web, tmp_path):
    started = threading.Event()

    def endless(item, path):
        started.set()
        while True:
            check_stop()
            threading.Event().wait(0.01)

    def interrupt(done, total, text):
        if text:
            raise KeyboardInterrupt

    def one(item, path):
        if item.name.endswith("0.bin"):
            started.wait(5)
            path.write_bytes(b"A")
            return
        endless(item, path)

    with pytest.raises(KeyboardInterrupt):
        run.fetch_all(run.make_plan("t", tmp_path, items(web)), tmp_path, one, jobs=2, progress=interrupt)
    assert Ledger(tmp_path).entry("sub/0.bin")
    with Ledger(tmp_path).locked():  # no thread is left that holds it
        pass


def test_a_programming_error_is_not_hidden(web, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run.fetch_all(run.make_plan("t", tmp_path, items(web)), tmp_path, lambda item, path: 1 / 0)


def test_a_torn_ledger_is_read_up_to_the_tear(web, tmp_path):
    fetch(web, tmp_path)
    path = tmp_path / "fetch.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "sub/2.bin").unlink()  # a file gets its name after its line
    assert [Ledger(tmp_path).done(item) for item in items(web)].count(True) == 2
    fetch(web, tmp_path)
    assert all(Ledger(tmp_path).done(item) for item in items(web)) and len(web.requests) == 4
    path.write_bytes(b'\x00\xff\n[1]\n{"kind":"file"}\n')
    assert Ledger(tmp_path).entry("sub/0.bin") is None


def test_request_ids_survive(tmp_path):
    item = Item("a.nc", request_key({"year": 2018}))
    with Ledger(tmp_path).locked():
        Ledger(tmp_path).submitted(item, "id-1")
    ledger = Ledger(tmp_path)
    assert ledger.request_id(item) == "id-1" and ledger.request_id(Item("b", "other")) is None
    Ledger(tmp_path).forget(item)
    assert ledger.request_id(item) is None


def test_the_licence_is_beside_the_data(web, tmp_path):
    fetch(web, tmp_path, items(web, 1))
    fetch(web, tmp_path, items(web, 2)[1:])
    other = [Item("o", "k")]
    run.fetch_all(
        Plan("another", tuple(other), licence=Licence("MIT")), tmp_path, lambda item, path: path.write_bytes(b"1")
    )
    text = (tmp_path / "LICENCE.md").read_text()
    for part in ("## another", "## test", "https://doi.org/10.1/abc", "- Site 0 (2026)", "- Site 1 (2026)", "MIT"):
        assert text.count(part) == 1, part


def test_no_secret_in_the_ledger(web, tmp_path, caplog):
    secret = "abcdef123"
    web.files["/0.bin"] = b"A" * 10
    item = Item("0.bin", f"{web.url}/0.bin?token={secret}")
    plan = run.make_plan("test", tmp_path, [item], licence=LICENCE)

    def one(item, path):
        url = f"{web.url}/0.bin?token={secret}"
        return vars(http.download(url, path)) | {"url": url}

    run.fetch_all(plan, tmp_path, one)
    assert Ledger(tmp_path).done(item) and json.loads((tmp_path / "fetch.jsonl").read_text())["url"].endswith("=***")
    assert_absent(secret, caplog, tmp_path, plan, item, Ledger(tmp_path))


def test_whole_files_of_clients(tmp_path):
    with pytest.raises(ZeroDivisionError), run.whole(tmp_path / "a") as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with run.whole(tmp_path / "a") as part:
        assert part.read_bytes() == b"half"
        part.write_bytes(b"all")
    assert (tmp_path / "a").read_bytes() == b"all" and not part.exists()
    with pytest.raises(FetchError, match="empty"), run.whole(tmp_path / "b"):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *("../a", "a/../b", "/etc/passwd", "a\\b", "C:x", "", ".", "a//b", "fetch.jsonl", "sub/LICENCE.md", "a.part"),
        *("con.zip", "a\x1b[31m", ".hidden", "x" * 300, "~/a", "a ", "a.", "a?b", None, "a.part.json", "a\x00"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    assert fault_of_name(name)
    with pytest.raises(FetchError, match="nothing was written"):
        Item(name, "k")


def test_names_of_data_are_accepted(shared_data):
    names = [path.relative_to(shared_data).as_posix() for path in shared_data.rglob("*") if path.is_file()]
    assert len(names) > 200 and not [name for name in names if fault_of_name(name)]


def test_two_items_of_one_name(web):
    with pytest.raises(FetchError, match="same name"):
        Plan("t", (Item("A.zip", "1"), Item("a.ZIP", "2")))


def test_an_unwritable_folder(web, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        fetch(web, tmp_path / "file" / "sub")


def test_a_disk_that_is_too_small_is_known_before(web, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 250})()
    monkeypatch.setattr(run.shutil, "disk_usage", lambda folder: usage)
    wanted = [replace(item, size=100 + i, exact=True) for i, item in enumerate(items(web))]
    plan = run.make_plan("test", tmp_path / "new" / "folder", wanted)
    assert "303 B are needed, and the disk has 250 B free" in plan.text()
    with pytest.raises(StoreError, match="303 B needed, 250 B free"):
        fetch(web, tmp_path, wanted)
    assert not web.requests
    usage.free = 400
    fetch(web, tmp_path, wanted)


def test_a_full_disk_stops_all(web, tmp_path, monkeypatch):
    monkeypatch.setattr(http.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1})())
    with pytest.raises(StoreError, match="2 were not tried"):
        fetch(web, tmp_path)


def test_slow_servers_do_not_hang(web, tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "TIMEOUT", (1.0, 0.05))
    web.fail("/0.bin", Fault(slow=0.3))
    with pytest.raises(FetchError, match="sent nothing"):
        fetch(web, tmp_path, items(web, 1))


def test_the_functions_are_public():
    assert set(fluxcube.fetch.__all__) == {"towers", "era5", "era5_land", "modis"}
    with pytest.raises(AttributeError, match="towers"):
        _ = fluxcube.fetch.tower
