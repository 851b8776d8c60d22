"""A server that clients reach under another address: the URLs it tells, and what a browser sees there."""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.error
import urllib.request

import pytest
from tests.support import Serve

PUBLIC = "https://api.example.com:8443"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A server that was told its public names."""
    data = tmp_path_factory.mktemp("public") / "data"
    with Serve(data, "--public-url", PUBLIC + "/", "--service-domain", "on.example.com") as server:
        yield server


def test_services_and_terminals_have_the_public_scheme_and_port(proxied):
    keys = proxied.keys()
    status, session = proxied.call(keys, "POST", "/sessions", {"shell": "bash"})
    assert status in (200, 201)
    assert (
        session["websocket_url"].partition("?")[0]
        == f"wss://api.example.com:8443/sessions/{session['session_id']}/shell"
    )
    made = {"name": "shop", "ports": [8000], "bootstrap": "sleep 60"}
    _, service = proxied.call(keys, "POST", "/services", made)
    assert service["url"] == "https://shop.on.example.com:8443"
    _, refused = proxied.call(
        keys, "POST", "/services", made | {"name": "own", "custom_domains": ["api.example.com"]}
    )
    assert "error" in refused


@pytest.mark.parametrize("host", [None, "api.example.com"])
def test_a_browser_is_told_what_this_is(proxied, host):
    headers = {"Accept": "text/html,application/xhtml+xml"} | ({"Host": host} if host else {})
    with urllib.request.urlopen(urllib.request.Request(proxied.url, headers=headers), timeout=60) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"].startswith("text/html")
    assert "UNSANDBOX_API_BASE" in page
    assert not re.search(r"<script|<img|https?://|style=", page)
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in policy
    for path in re.findall(r'href="([^"]+)"', page):
        with urllib.request.urlopen(proxied.url + path, timeout=60) as answer:
            assert answer.status == 200


def test_programs_get_404_and_foreign_names_nothing(proxied):
    for headers, status in (({}, 404), ({"Accept": "text/html", "Host": "evil.example"}, 421)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(proxied.url, headers=headers), timeout=60)
        with caught.value as error:
            assert error.code == status


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "https://",
        "ftp://x",
        "https://x/path",
        "https://u@x",
        "https://x:99999",
        "https://x?a",
    ],
)
def test_a_public_url_is_scheme_host_and_port(un_embedded, tmp_path, url):
    done = un_embedded("serve", "--port", "0", "--data", str(tmp_path), "--public-url", url, check=False)
    assert (done.returncode, "--public-url" in done.stderr.decode()) == (2, True)
