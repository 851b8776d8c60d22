"""https with a certificate of our own: trusted when the environment says so, refused otherwise."""

from __future__ import annotations

import asyncio
import datetime as dt
import http.server
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.client.fake import JOB, PUBLIC, SECRET

from unsandbox import AsyncClient, Client, Hooks, InvalidRequestError, UnsandboxError

CALLS = """
import asyncio, gc, sys, un, un_async
un.API_BASE = un_async.API_BASE = sys.argv[1]
async def main():
    for _ in range(2):
        jobs = await asyncio.gather(*(un_async.get_job("j1", *sys.argv[3:]) for _ in range(5)))
        assert all(job["stdout"] == "hi\\n" for job in jobs)
if sys.argv[2] == "async":
    asyncio.run(main())
    asyncio.run(main())
else:
    assert un.get_job("j1", *sys.argv[3:])["stdout"] == "hi\\n"
gc.collect()
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET with a finished job."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps(JOB).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


class QuietServer(http.server.ThreadingHTTPServer):
    """Does not print when a client refuses the certificate."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def https(certificate: tuple[Path, Path]) -> Iterator[str]:
    """The URL of an https server."""
    server = QuietServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    # The handshake in the thread of the connection: one that fails must not end the accepting one.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(url: str, side: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", CALLS, url, side, PUBLIC, SECRET]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.parametrize("side", ["async", "sync"])
@pytest.mark.parametrize(
    "variable", ["UNSANDBOX_CA_FILE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
def test_a_ca_of_the_environment_is_trusted(
    https: str, certificate: tuple[Path, Path], side: str, variable: str
) -> None:
    done = run(https, side, {variable: str(certificate[0])})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("side", ["async", "sync"])
def test_any_other_certificate_is_refused(https: str, side: str) -> None:
    done = run(https, side, {})
    assert done.returncode == 1
    assert "unsandbox.ConnectionFailedError" in done.stderr
    assert "certificate" in done.stderr.lower()
    assert SECRET not in done.stderr


def failure(url: str, side: str, *, times: int = 1, **options: Any) -> UnsandboxError:
    """Return the error of one call, and see how often it was made."""
    events: list[Any] = []
    hooks = Hooks(request=events.append)

    async def ask() -> None:
        async with AsyncClient(PUBLIC, SECRET, base_url=url, hooks=hooks, **options) as client:
            await client.get_job("j1")

    def ask_in_thread() -> None:
        with Client(PUBLIC, SECRET, base_url=url, hooks=hooks, **options) as client:
            client.get_job("j1")

    with pytest.raises(UnsandboxError) as failed:
        asyncio.run(ask()) if side == "async" else ask_in_thread()
    assert len(events) == times
    return failed.value


@pytest.fixture
def no_cas(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNSANDBOX_CA_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_cas")
@pytest.mark.parametrize("side", ["async", "sync"])
def test_a_ca_file_is_trusted_and_others_are_explained(
    https: str, certificate: tuple[Path, Path], tmp_path: Path, side: str
) -> None:
    async def ask() -> str | None:
        async with AsyncClient(PUBLIC, SECRET, base_url=https, ca_file=certificate[0]) as client:
            return (await client.get_job("j1")).stdout

    if side == "async":
        assert asyncio.run(ask()) == "hi\n"
    else:
        with Client(PUBLIC, SECRET, base_url=https, ca_file=certificate[0]) as client:
            assert client.get_job("j1").stdout == "hi\n"
    refused = failure(https, side)
    assert "certificate was refused" in str(refused)
    assert "UNSANDBOX_CA_FILE" in str(refused)
    assert "does not exist" in str(failure(https, side, ca_file=tmp_path / "none.pem"))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    assert "trusted CAs" in str(failure(https, side, ca_file=nonsense))


@pytest.mark.usefixtures("no_cas")
@pytest.mark.parametrize("side", ["async", "sync"])
def test_http_for_https_and_the_other_way_round_are_explained(https: str, side: str) -> None:
    plain = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=plain.serve_forever, daemon=True)
    thread.start()
    try:
        assert "begin with http://" in str(failure(f"https://127.0.0.1:{plain.server_port}", side))
    finally:
        plain.shutdown()
        plain.server_close()
        thread.join()
    hung_up = failure(https.replace("https:", "http:"), side, times=3)
    assert "begin with https://" in str(hung_up)


def test_an_api_base_that_cannot_be_used_is_shown_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSANDBOX_API_BASE", "ftp://example.org")
    with pytest.raises(InvalidRequestError, match=r"'ftp://example\.org' of UNSANDBOX_API_BASE: it must start"):
        Client()
    with pytest.raises(InvalidRequestError, match=r"'example\.org:80': it must start"):
        Client(base_url="example.org:80")
    with pytest.raises(InvalidRequestError) as failed:
        Client(base_url="https://me:hidden@example.org")
    assert "hidden" not in str(failed.value)
    monkeypatch.setenv("UNSANDBOX_API_BASE", "LOCAL")
    assert repr(Client()) == "<Client local>"
