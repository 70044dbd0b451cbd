"""Servers that speak the protocols of S3, Google Cloud Storage and Azure, for tests that write to buckets."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Account and key that Azurite documents; they open nothing else.
_AZURITE = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)
#: gcsfs reads it when it is imported; the client that it chooses otherwise needs gRPC, which the emulator lacks.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
SECRET = "not-a-secret-0123456789"


@contextmanager
def s3_server() -> Iterator[tuple[str, dict]]:
    """Run moto; yield a bucket's URL and the storage options."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        options = {"key": "writer", "secret": SECRET, "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
        name = f"bucket-{os.urandom(4).hex()}"
        # A file system without options is that of the environment at its first use: perhaps of a server that is gone.
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(**options).mkdir(name)
        yield f"s3://{name}", options
        s3fs.S3FileSystem.clear_instance_cache()
        running.stop()


@contextmanager
def gs_server() -> Iterator[tuple[str, dict]]:
    """Run gcp-storage-emulator, which ignores the condition of a write: it is added here."""
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    pytest.importorskip("gcsfs")
    with pytest.MonkeyPatch.context() as patch:
        _observe_conditions(patch)
        _read_parts_as_sent(patch)
        # One thread for all connections would wait for ever behind one that is kept open.
        patch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
        port = _free_port()
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="carbon")
        server.start()
        try:
            yield "gs://carbon", {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon"}
        finally:
            server.stop()


def _read_parts_as_sent(patch: pytest.MonkeyPatch) -> None:
    """Let the emulator store the bytes that were sent: its parser of mail loses line ends at the end of an object."""
    from gcp_storage_emulator import server as serving

    plain, plain_raw = serving._read_data, serving._read_raw_data

    def read_raw(handler):
        handler.sent = plain_raw(handler)
        return handler.sent

    def read(handler, query):
        data = plain(handler, query)
        if "related" in (handler.headers.get("Content-Type") or "") and isinstance(data, dict):
            second = handler.sent.split(b"--==0==", 2)[2]
            data["content"] = second.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        return data

    patch.setattr(serving, "_read_raw_data", read_raw)
    patch.setattr(serving, "_read_data", read)


def _observe_conditions(patch: pytest.MonkeyPatch) -> None:
    """Let the emulator answer 412 to ``ifGenerationMatch=0`` if there is an object of the name."""
    from gcp_storage_emulator import server as serving
    from gcp_storage_emulator.handlers import objects

    plain, alone = objects.insert, threading.Lock()

    def insert(request, response, storage, *args, **kwargs):
        conditions = request.query.get("ifGenerationMatch")
        with alone:
            if conditions and conditions[0] == "0" and _exists(request, storage):
                response.status = http.HTTPStatus.PRECONDITION_FAILED
                return None
            return plain(request, response, storage, *args, **kwargs)

    patch.setattr(objects, "insert", insert)
    for group in serving.HANDLERS:
        for method, handler in list(group[1].items()):
            if handler is plain:
                patch.setitem(group[1], method, insert)


def _exists(request, storage) -> bool:
    name = (request.query.get("name") or [None])[0]
    if name is None:
        data = request.data
        name = (data.get("meta") or json.loads(data["body"])).get("name") if isinstance(data, dict) else None
    try:
        storage.get_file_obj(request.params["bucket_name"], name)
    except Exception:  # of the emulator: there is no such object
        return False
    return True


@contextmanager
def az_server() -> Iterator[tuple[str, dict]]:
    """Run Azurite (npm), where it is installed."""
    installed = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"  # by .ci/run
    program = shutil.which(os.environ.get("AZURITE_BLOB") or "azurite-blob") or shutil.which(installed)
    adlfs = pytest.importorskip("adlfs")
    if program is None:
        pytest.skip("azurite is not installed: npm install -g azurite, or set AZURITE_BLOB to its program")
    port = _free_port()
    command = [
        program,
        "--inMemoryPersistence",
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--silent",
        "--disableTelemetry",
    ]
    running = subprocess.Popen(
        [*command, "--disableTelemetry", "--skipApiVersionCheck"], stdout=subprocess.DEVNULL, cwd=Path("/")
    )
    account, key = _AZURITE
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{account};"
    )
    try:
        _wait_for(port)
        adlfs.AzureBlobFileSystem(connection_string=connection).mkdir("carbon")
        yield "az://carbon", {"connection_string": connection}
    finally:
        running.terminate()
        running.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the server at port {port} did not start within {patience:.0f} s")


SERVERS = {"s3": s3_server, "gs": gs_server, "az": az_server}


@pytest.fixture(scope="module", params=list(SERVERS))
def bucket_server(request) -> Iterator[tuple[str, dict]]:
    """Yield (URL of a bucket, storage options) of a server of each kind."""
    with SERVERS[request.param]() as found:
        yield found
