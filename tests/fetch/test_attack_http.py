"""Servers that answer in unusual forms: a named error or the right file, and no credential anywhere."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import traceback

import pytest
from services.secrets import assert_absent
from services.web import Answer, Fault, Service, raw, redirect, status

from fluxcube.errors import CredentialsError, FetchError, StoreError
from fluxcube.fetch import http, sending
from fluxcube.fetch.api import request_json, request_text, size_of

DATA = b"PK\x03\x04" + bytes(range(256)) * 40
SECRET = "s3cr3t-t0ken"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(http, "_CHUNK", 1024)


@pytest.fixture
def file(web, tmp_path):
    web.files["/a.zip"] = DATA
    return tmp_path / "a.zip"


def fetch(web, file, **options):
    return http.download(f"{web.url}/a.zip", file, **options)


TARGETS = ["http://[::1/x", "http://127.0.0.1:99999/x", f"http://{'a' * 70}.org/x", "", "file:///etc/passwd", "//"]


@pytest.mark.parametrize("target", TARGETS)
def test_redirects_that_lead_nowhere(web, file, target):
    web.fail("", redirect(target), times=99)
    for action in (
        lambda: fetch(web, file),
        lambda: request_text(f"{web.url}/a.zip"),
        lambda: request_json(f"{web.url}/a.zip", body={}),
    ):
        with pytest.raises(FetchError, match=r"127\.0\.0\.1|not valid"):
            action()
    assert size_of(f"{web.url}/a.zip") is None and not file.exists()


def test_a_redirect_with_other_characters_is_followed(web, file):
    web.files["/%C3%BC.zip"] = DATA
    web.fail("a.zip", Fault(Answer(status=302, headers={"Location": "/ü.zip".encode().decode("latin-1")})))
    assert fetch(web, file).size == len(DATA)


@pytest.mark.parametrize("length", ["-5", "\xb2", "", "7, 9", "9" * 5000])
def test_lengths_that_are_no_numbers(web, file, length):
    web.fail("a.zip", raw(DATA[:5000], Content_Length=length), times=9)
    with pytest.raises(FetchError):
        fetch(web, file)
    assert not file.exists()


def test_without_any_length_a_cut_connection_could_not_be_noticed(web, file):
    import hashlib

    web.fail("a.zip", *[raw(DATA)] * 3)
    with pytest.raises(FetchError, match="does not state the length"):
        fetch(web, file)
    fetch(web, file, checksum=("md5", hashlib.md5(DATA).hexdigest()))
    fetch(web, file.with_name("b.zip"), without_length=True)
    web.fail("list", raw(b"a,b\n1,"), times=9)
    with pytest.raises(FetchError, match="length of the list"):
        request_text(f"{web.url}/list")
    web.fail("a.zip", raw(b"2800\r\n" + DATA[:4096], Transfer_Encoding="chunked"))
    with pytest.raises(FetchError, match="before the file was complete"):
        fetch(web, file.with_name("c.zip"), tries=1)


def test_a_compressed_transfer_does_not_continue_in_the_middle(web, file):
    packed = gzip.compress(DATA)
    headers = {"Content_Encoding": "gzip", "Content_Length": len(packed), "ETag": '"x"'}
    web.fail("a.zip", raw(packed[:-50], **headers), raw(packed, **headers))
    assert fetch(web, file).size == len(DATA) and file.read_bytes() == DATA
    assert "range" not in web.requests[-1].headers
    web.fail("a.zip", raw(DATA, **headers | {"Content_Length": len(DATA)}))
    with pytest.raises(FetchError, match="does not answer as HTTP requires"):
        fetch(web, file.with_name("b.zip"))


@pytest.mark.parametrize(
    "change",
    [{"etag": 5}, {"size": "all"}, {"size": -1}, {"url": None}, {"size": 7}, {"etag": '"other"'}, {"size": 10**9}],
)
def test_an_edited_state_is_not_believed(web, file, change):
    web.fail("a.zip", Fault(truncate=5000))
    with pytest.raises(FetchError):
        fetch(web, file, tries=1)
    state = file.with_name("a.zip.part.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    fetch(web, file)
    assert file.read_bytes() == DATA
    state.write_text("[" * 10)
    fetch(web, file)


def test_folders_where_files_must_be(web, file):
    (file.parent / "a.zip.part").mkdir()
    with pytest.raises(StoreError, match=r"a\.zip\.part"):
        fetch(web, file)


def test_a_file_of_another_format_is_refused(web, file):
    web.files["/a.zip"] = b"Dear user, come back tomorrow. " * 40
    with pytest.raises(FetchError, match=r"expected a HDF4 or HDF5 file, found .*Dear user"):
        fetch(web, file, formats=("HDF4", "HDF5"))
    assert not file.exists()


ECHO = base64.b64encode(f"me:{SECRET}".encode()).decode()


@pytest.mark.parametrize("body", [SECRET, ECHO, f"Basic {ECHO}", f'{{"token": "{SECRET}"', f"Bearer X{SECRET}"])
def test_what_a_server_repeats_is_hidden(web, file, body, caplog):
    caplog.set_level(logging.DEBUG)
    web.fail("", *[status(418, f"refused: {body}")] * 9)
    errors = []
    with sending.new_session() as session:
        session.headers["Authorization"] = f"Basic {ECHO}"
        with pytest.raises(FetchError) as failed:
            fetch(web, file, session=session)
    errors.append(failed.value)
    with pytest.raises(FetchError) as failed:
        request_json(f"{web.url}/x", headers={"Authorization": f"Basic {ECHO}"})
    errors.append(failed.value)
    texts = ["".join(traceback.format_exception(error)) for error in errors]
    for secret in (SECRET, ECHO):
        assert_absent(secret, caplog, file.parent, *errors, *texts)


def test_encryption_that_fails_is_no_matter_of_certificates(web, file, monkeypatch, tmp_path):
    url = web.url.replace("http:", "https:") + "/a.zip"
    with pytest.raises(FetchError, match="encrypted connection failed"):
        http.download(url, file, tries=2)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(FetchError, match="check REQUESTS_CA_BUNDLE"):
        http.download(url, file, tries=2)


def test_servers_of_this_computer_need_no_proxy(web, file, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://me:{SECRET}@127.0.0.1:1")
    assert fetch(web, file).size == len(DATA)
    with sending.new_session() as session:
        for host in ("http://[::1]:80/", "https://localhost/", "https://127.0.0.1:1/"):
            assert type(session.get_adapter(host)) is sending._Direct
    with pytest.raises(FetchError, match="proxy of the environment") as failed:
        http.download("http://192.0.2.1/a", file, tries=1)
    assert SECRET not in str(failed.value)


def test_a_part_of_another_file_is_not_appended(web, file):
    """The server ignores If-Range, and its file has another size now."""
    web.fail("a.zip", Fault(truncate=5000))
    with pytest.raises(FetchError):
        fetch(web, file, tries=1)
    body = b"x" * 900
    headers = {"Content_Length": 900, "Content_Range": f"bytes 4096-4995/{4096 + 900}"}
    part = raw(body, **headers)
    part.raw = part.raw.replace(b"200 OK", b"206 Partial Content")
    web.fail("a.zip", part)
    fetch(web, file)
    assert file.read_bytes() == DATA and "range" not in web.requests[-1].headers


def test_an_answer_without_a_body_is_no_file(web, file):
    for code in (202, 204, 304):
        web.fail("a.zip", status(code))
        with pytest.raises(FetchError, match=f"status {code}"):
            fetch(web, file)


def test_a_login_page_on_the_way_of_an_order(web):
    web.fail("order", redirect("/oauth/authorize?x=1"))
    with pytest.raises(CredentialsError, match="asked for a login"):
        request_json(f"{web.url}/order", body={"a": 1})
    with Service() as other:
        web.fail("order", redirect(f"{other.url}/order"))
        with pytest.raises(FetchError, match="orders are not sent there"):
            request_json(f"{web.url}/order", body={"a": 1})
        assert not other.requests
