"""The proxy configurations of docs/deployment.md: real proxies take them, and pass on everything that the API needs."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest
from tests.support import ABSENT, REPO, Serve, eventually, self_signed

from unsandbox import AsyncClient

DOCUMENT = REPO / "docs" / "deployment.md"


def shown(heading: str) -> str:
    """Return the configuration below a heading."""
    return re.search(rf"^### {heading}\n\n```text\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)[
        1
    ]


def changed(text: str, changes: dict[str, str]) -> str:
    """Return a configuration for this machine: other ports, names and certificates."""
    for old, new in changes.items():
        assert re.search(old, text), old
        text = re.sub(old, new.replace("\\", r"\\"), text)
    return text


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def nginx(folder, port, upstream, certificate, key):
    site = changed(
        shown("nginx"),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "127.0.0.1:8787": upstream,
            r"ssl_certificate  .*;": f"ssl_certificate {certificate};",
            r"ssl_certificate_key .*;": f"ssl_certificate_key {key};",
        },
    )
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )
    command = ["nginx", "-e", f"{folder}/error.log", "-c", config]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    return command


def caddy(folder, port, upstream, certificate, key):
    site = changed(
        shown("Caddy"),
        {
            r"api\.example\.com, \*\.on\.example\.com": f"https://127.0.0.1:{port}, https://*.on.example.com:{port}",
            "127.0.0.1:8787": upstream,
            r"tls \{[^}]*\}": f"tls {certificate} {key}",
        },
    )
    config = folder / "Caddyfile"
    config.write_text("{\n    admin off\n    auto_https disable_redirects\n}\n" + site)
    command = ["caddy", "run", "--config", config, "--adapter", "caddyfile"]
    subprocess.run(["caddy", "validate", *command[2:]], check=True, capture_output=True)
    return command


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxied(request, tmp_path, monkeypatch):
    """A server behind a proxy with TLS: the URL, the certificate and the keys."""
    if shutil.which(request.param.__name__) is None:
        pytest.skip(f"{ABSENT}: {request.param.__name__}")
    monkeypatch.setenv("HOME", str(tmp_path))
    certificate, key = self_signed(tmp_path)
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    with Serve(tmp_path / "data", "--public-url", url, "--service-domain", "on.example.com") as server:
        command = request.param(tmp_path, port, server.url.removeprefix("http://"), certificate, key)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
            try:
                eventually(lambda: listens(port), 60)
                yield url, certificate, server.keys()
            finally:
                proxy.terminate()


def visit(url: str, certificate: str, host: str) -> str:
    """Return what a visitor of a service gets, when it answers."""
    context = ssl.create_default_context(cafile=certificate)
    with contextlib.suppress(urllib.error.HTTPError):
        request = urllib.request.Request(url, headers={"Host": host})
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.read().decode()
    return ""


async def test_a_proxy_passes_on_what_the_api_needs(proxied):
    url, certificate, keys = proxied
    async with AsyncClient(*keys, base_url=url, ca_file=certificate) as client:
        # A signed request with a large body.
        job = await client.execute("bash", "wc -c", stdin=b"x" * (8 << 20))
        assert job.stdout.strip() == str(8 << 20)
        # Events come while the program runs.
        async with client.stream("bash", "echo begun; sleep 60") as events:
            async for event in events:
                if getattr(event, "data", None) == b"begun\n":
                    await client.cancel(events.job_id)
        assert (await client.get_job(events.job_id)).status == "cancelled"
        # A terminal over a WebSocket.
        session = await client.create_session()
        assert session.websocket_url.startswith("wss://" + url.removeprefix("https://"))
        seen = b""
        async with client.terminal(session.session_id) as terminal:
            await terminal.write(b"echo in-$((40 + 2)); exit\n")
            async for data in terminal:
                seen += data
        assert b"in-42" in seen
        service = await client.create_service("shop", ports=[8000], bootstrap="cd /tmp; python3 -m http.server")
        assert service.url == "https://shop.on.example.com:" + url.rpartition(":")[2]
        eventually(lambda: "Directory listing" in visit(url, certificate, "shop.on.example.com"), 60)
