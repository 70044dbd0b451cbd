"""Downloads: resumed, checked, and refused in the user's words, without a credential anywhere."""

from __future__ import annotations

import hashlib
import logging
import traceback

import pytest
from services.secrets import assert_absent
from services.web import Answer, Fault, Service, page, redirect, status

from fluxcube.errors import CredentialsError, FetchError, LicenceError, QuotaError, StoreError
from fluxcube.fetch import http
from fluxcube.fetch.addresses import public, public_text
from fluxcube.fetch.answers import retry_after

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


def left(file):
    return sorted(path.name for path in file.parent.iterdir())


def test_a_download_is_whole_and_leaves_nothing_else(web, file):
    reported = []
    got = fetch(web, file, progress=lambda *state: reported.append(state))
    assert file.read_bytes() == DATA and got.size == len(DATA) and left(file) == ["a.zip"]
    assert got.sha256 == hashlib.sha256(DATA).hexdigest() and got.etag
    assert reported[-1] == (len(DATA), len(DATA), "a.zip")


def test_a_cut_connection_continues_with_a_range(web, file, quick):
    web.fail("a.zip", Fault(truncate=5000), Fault(drop=True), status(503, Retry_After="7"))
    assert fetch(web, file).sha256 == hashlib.sha256(DATA).hexdigest()
    ranges = [request.headers.get("range") for request in web.requests]
    assert ranges == [None, "bytes=4096-", "bytes=4096-", "bytes=4096-"]
    assert quick[-1] >= 7 and len(quick) == 3


def test_a_killed_download_continues_in_another_process(web, file):
    web.fail("a.zip", Fault(truncate=5000), times=9)
    with pytest.raises(FetchError, match=r"ended before the file was complete.*same command"):
        fetch(web, file, tries=1)
    assert left(file) == ["a.zip.part", "a.zip.part.json"]
    web._faults.clear()
    fetch(web, file)
    assert web.requests[-1].headers["range"] == "bytes=4096-" and file.read_bytes() == DATA


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_changed_between_two_tries_starts_again(web, file, etags):
    web.etags = etags
    web.fail("a.zip", Fault(truncate=5000))
    with pytest.raises(FetchError):
        fetch(web, file, tries=1)
    web.files["/a.zip"] = new = DATA[::-1].replace(b"\x00", b"\x01")
    fetch(web, file)
    assert file.read_bytes() == new


def test_without_a_validator_a_checksum_lets_it_continue(web, file):
    web.etags = False
    web.fail("a.zip", Fault(truncate=5000))
    fetch(web, file, checksum=("md5", hashlib.md5(DATA).hexdigest().upper()))
    assert web.requests[-1].headers["range"] == "bytes=4096-" and file.read_bytes() == DATA


def test_a_damaged_file_is_never_kept(web, file):
    with pytest.raises(FetchError, match="damaged or has changed: expected md5"):
        fetch(web, file, checksum=("md5", "0" * 32), tries=2)
    assert left(file) == []


def test_a_web_page_does_not_replace_what_is_there(web, file):
    web.fail("a.zip", Fault(truncate=5000), page("maintenance"))
    with pytest.raises(FetchError, match="found a web page"):
        fetch(web, file, size=len(DATA))
    assert left(file) == ["a.zip.part", "a.zip.part.json"]
    fetch(web, file, size=len(DATA))
    assert web.requests[-1].headers["range"] == "bytes=4096-" and file.read_bytes() == DATA


def test_a_server_that_lies_about_its_length(web, file):
    web.fail("a.zip", Fault(length=len(DATA) + 500), Fault(length=len(DATA) + 500))
    with pytest.raises(FetchError, match="ended before"):
        fetch(web, file, tries=2)
    with pytest.raises(FetchError, match=f"expected 99 bytes, the server has a file of {len(DATA)}"):
        fetch(web, file, size=99)
    web.fail("a.zip", Fault(Answer(b"")))
    with pytest.raises(FetchError, match="empty file"):
        fetch(web, file)
    assert not file.exists()


def test_a_server_that_lies_about_the_type(web, file):
    web.fail("a.zip", Fault(type="text/html"))
    fetch(web, file, expect=("application/zip",))  # the first bytes decide
    assert file.read_bytes() == DATA
    web.fail("a.zip", Fault(Answer("<html>busy</html>", type="application/zip")))
    with pytest.raises(FetchError, match="found a web page \\('busy'\\)"):
        fetch(web, file)
    web.fail("a.zip", Fault(Answer({"message": "come back"})))
    with pytest.raises(FetchError, match=r"expected application/zip, found application/json: '.*come back"):
        fetch(web, file, expect=("application/zip",))
    assert file.read_bytes() == DATA


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (page("Please <input type=password> log in"), CredentialsError, "asked for a login"),
        (page("You must accept the data licence"), LicenceError, "accept the licence"),
        (redirect("https://urs.earthdata.nasa.gov/oauth/authorize?x=1"), CredentialsError, "urs.earthdata.nasa.gov"),
        (redirect("/users/login?next=a"), CredentialsError, "asked for a login"),
        (redirect("ftp://127.0.0.1/a"), FetchError, "not encrypted"),
        (status(401, {"detail": "expired"}), CredentialsError, "expired"),
        (status(403, "required licences not accepted: accept the licence"), LicenceError, "must be accepted"),
        (status(403, "no"), FetchError, "access is refused"),
        (status(404), FetchError, "no such file"),
        (status(429, Retry_After="86400"), QuotaError, "asks to wait 24 hours"),
    ],
)
def test_refusals_are_named(web, file, fault, kind, text):
    web.fail("a.zip", fault)
    with pytest.raises(kind, match=text):
        fetch(web, file)
    assert not file.exists() and len(web.asked("a.zip")) == 1


def test_too_many_requests_and_no_server(web, file, quick):
    web.fail("a.zip", *[status(429)] * 9)
    with pytest.raises(QuotaError, match="too many requests"):
        fetch(web, file)
    assert len(web.requests) == 5 and quick == sorted(quick)
    with pytest.raises(FetchError, match="could not be reached"):
        http.download("http://127.0.0.1:1/a", file, tries=2)


def test_credentials_go_to_their_own_host_only(web, tmp_path):
    with Service() as other:
        other.files["/b"] = DATA
        web.fail("/start", redirect(f"{other.url}/b"))
        http.download(f"{web.url}/start", tmp_path / "b", headers={"PRIVATE-TOKEN": SECRET, "Cookie": "a=b"})
    assert web.requests[0].headers["private-token"] == SECRET
    assert not {"private-token", "cookie", "authorization"} & set(other.requests[0].headers)


def test_a_netrc_of_the_user_is_not_sent(web, file, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password abcdef\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(web, file)
    assert "authorization" not in web.requests[0].headers


ECHOES = [
    None,
    status(500, f"bad {SECRET}"),
    status(401, {"token": SECRET}),
    Fault(drop=True),
    page(f"log in {SECRET}"),
]


@pytest.mark.parametrize("fault", [*ECHOES, page(SECRET), Fault(Answer({"bad": f"Bearer {SECRET}"}))])
def test_no_credential_is_left_anywhere(web, file, fault, caplog):
    caplog.set_level(logging.DEBUG)
    url = web.url.replace("//", f"//me:{SECRET}@") + f"/a.zip?token={SECRET}&X-Amz-Signature={SECRET}&sig={SECRET}"
    things = []
    if fault:
        web.fail("a.zip", *[fault] * 5)
        with pytest.raises(FetchError) as failed:
            http.download(url, file, headers={"Authorization": f"Bearer {SECRET}"}, expect=("application/zip",))
        things = [failed.value, "".join(traceback.format_exception(failed.value))]
    else:
        things.append(http.download(url, file, headers={"Authorization": f"Bearer {SECRET}"}))
    web._faults.clear()
    web.fail("a.zip", Fault(truncate=3000))
    with pytest.raises(FetchError):
        http.download(url, file.with_name("c.zip"), tries=1)
    assert (file.parent / "c.zip.part").exists()
    assert any("GET" in record.getMessage() for record in caplog.records)
    assert_absent(SECRET, caplog, file.parent, *things)


def test_a_full_disk_is_found_before_anything_is_written(web, file, monkeypatch):
    monkeypatch.setattr(http.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(StoreError, match=r"10.2 kB needed, 100 B free"):
        fetch(web, file)
    assert left(file) == []


def test_a_disk_that_fills_up_keeps_what_it_has(web, file, monkeypatch):
    def write(transfer, stream, block):
        stream.write(block)
        if stream.tell() > 3000:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(http._Transfer, "_write", write)
        with pytest.raises(StoreError, match="No space left"):
            fetch(web, file)
    fetch(web, file)
    assert file.read_bytes() == DATA and web.requests[-1].headers["range"] == "bytes=3072-"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/x?a=1&TOKEN=abc", "https://h/x?a=1&TOKEN=***"),
        ("https://u:p@h:8/x", "https://h:8/x"),
        ("s3://k:s@b/x", "s3://b/x"),
        ("https://h/x?se=1&sp=r&sig=abc%3D", "https://h/x?se=***&sp=***&sig=***"),
        ("https://h/x?=user&year=2018", "https://h/x?=***&year=2018"),
        ("https://h/x#access_token=abc", "https://h/x#***"),
        ("relative/path?token=a", "relative/path?token=a"),
    ],
)
def test_public_addresses(url, expected):
    assert public(url) == expected and public(expected) == expected
    assert expected in public_text(f"see {url} now") or "://" not in url


def test_retry_after():
    def seconds(text, **more):
        return retry_after({"Retry-After": text, **more})

    assert seconds("12") == 12 and seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and retry_after({}) is None
    for text in ("soon", "nan", "-5", "²", "1e999", "Wed, 21 Oct 99999 07:28:00 GMT"):
        assert seconds(text) is None, text
    # Zones, and the clock of the server: that of this computer does not matter.
    date = "Wed, 21 Oct 2015 07:00:00 GMT"
    for text in ("Wed, 21 Oct 2015 07:01:00", "Wed, 21 Oct 2015 09:01:00 +0200", "Wed, 21 Oct 2015 07:01:00 -0000"):
        assert seconds(text, Date=date) == 60


def test_a_certificate_that_is_not_accepted_is_named_at_once(tmp_path, monkeypatch, quick):
    """A certificate of the past, as a computer sees a valid one if its clock is off."""
    service = Service()
    service.files["/a"] = DATA
    with service:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(expired_certificate(service, tmp_path)))
        with pytest.raises(FetchError, match=r"certificate .* not accepted \(is the clock of this computer right\?\)"):
            http.download(service.url.replace("http:", "https:") + "/a", tmp_path / "a")
    assert not quick and not service.requests


def expired_certificate(service, folder):
    """Let a service speak TLS with a certificate that has expired; return the certificate's file."""
    import datetime
    import ipaddress
    import ssl

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    day = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), day)
    builder = builder.not_valid_after(day + datetime.timedelta(days=1))
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(place, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    service._server.socket = context.wrap_socket(service._server.socket, server_side=True)
    return folder / "cert.pem"
