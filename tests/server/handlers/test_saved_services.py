"""Services saved, put back, cloned, published and spawned: their files, their program, never their vault."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from tests.server.conftest import Wire
from yarl import URL

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVE = "exec python3 -m http.server 8000 --bind 127.0.0.1"


async def ok(wire: Wire, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await wire.call(method, target, body)
    assert answer.status in {200, 202}, answer.json
    return answer.json


async def run(wire: Wire, name: str, command: str) -> str:
    done = await ok(wire, "POST", f"/services/{name}/execute", {"command": command})
    assert done["exit_code"] == 0, done
    return done["stdout"]


async def page(wire: Wire, name: str) -> str:
    """What a visitor of a service gets; asked again while its program is starting."""
    base = URL(wire.url)
    async with asyncio.timeout(20):
        while True:
            async with wire.session.get(base, headers={"Host": f"{name}.localhost:{base.port}"}) as response:
                if response.status == 200:
                    return (await response.text()).strip()
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="session")
async def service(wire: Wire):
    """A web server with one page and a secret."""
    body = {"name": "origin", "network": "zerotrust", "ports": [8000], "bootstrap": SERVE, "vcpu": 2}
    service = (await ok(wire, "POST", "/services", body))["service_id"]
    await ok(wire, "PUT", f"/services/{service}/env", {"TOKEN": "hunter2", "PLACE": "here"})
    await run(wire, service, "echo first > index.html")
    yield service
    for item in (await ok(wire, "GET", "/services"))["services"]:
        await wire.call("DELETE", f"/services/{item['id']}")
    for kind in ("snapshots", "images"):
        for item in (await ok(wire, "GET", f"/{kind}"))[kind]:
            await wire.call("DELETE", f"/{kind}/{item['id']}")


async def test_restored_in_place_its_program_serves_what_was_saved(wire, service):
    assert await page(wire, "origin") == "first"
    snapshot = (await ok(wire, "POST", f"/services/{service}/snapshot", {"name": "web"}))["id"]
    for _ in range(2):
        await run(wire, service, "echo spoilt > index.html")
        assert await page(wire, "origin") == "spoilt"
        restored = await ok(wire, "POST", f"/snapshots/{snapshot}/restore")
        assert (restored["id"], restored["type"]) == (service, "service")
        assert await page(wire, "origin") == "first"
    assert "hunter2" in (await ok(wire, "POST", f"/services/{service}/env/export"))["env"]


async def test_made_again_after_its_deletion_without_its_vault(wire, service):
    snapshot = (await ok(wire, "POST", "/snapshots", {"service_id": service}))["id"]
    await ok(wire, "DELETE", f"/services/{service}")
    restored = await ok(wire, "POST", f"/snapshots/{snapshot}/restore")
    assert restored["restored_id"] == service
    assert "PLACE, TOKEN" in restored["message"] or "TOKEN, PLACE" in restored["message"]
    assert await page(wire, "origin") == "first"
    shown = await ok(wire, "GET", f"/services/{service}")
    assert (shown["name"], shown["ports"], shown["vcpu"]) == ("origin", [8000], 2)
    assert (await ok(wire, "GET", f"/services/{service}/env"))["has_vault"] is False


async def test_cloned_to_a_service_and_to_a_session(wire, service):
    body = {"source_type": "service", "source_id": service}
    snapshot = (await ok(wire, "POST", "/snapshots", body))["id"]
    clone = await ok(wire, "POST", f"/snapshots/{snapshot}/clone", {"type": "service", "name": "twin"})
    assert (clone["id"], clone["name"], clone["type"]) == (clone["service_id"], "twin", "service")
    assert clone["url"] == f"http://twin.localhost:{URL(wire.url).port}"
    assert await page(wire, "twin") == "first"
    assert (await ok(wire, "GET", "/services/twin/env"))["has_vault"] is False
    await run(wire, "twin", "echo second > index.html")
    assert await page(wire, "origin") == "first"
    answer = await wire.call("POST", f"/snapshots/{snapshot}/clone", {"name": "twin"})
    assert (answer.status, answer.json["error"]) == (409, "name_taken")
    session = (await ok(wire, "POST", f"/snapshots/{snapshot}/clone", {"type": "session"}))["session_id"]
    done = await ok(wire, "POST", f"/sessions/{session}/shell", {"command": "cat index.html; env"})
    assert done["stdout"].startswith("first\n")
    assert "hunter2" not in done["stdout"]
    await ok(wire, "DELETE", f"/sessions/{session}")


async def test_published_and_spawned_by_its_owner_and_by_others(wire, stranger, service):
    body = {"source_type": "service", "source_id": service, "name": "site"}
    image = await ok(wire, "POST", "/images/publish", body)
    await run(wire, service, "echo later > index.html")
    # As the C client sends it: ports in a text.
    spawned = await ok(wire, "POST", f"/images/{image['id']}/spawn", {"name": "copy", "ports": "8000,8001"})
    assert spawned["id"] == spawned["service_id"]
    assert (spawned["ports"], spawned["source_image"]) == ([8000, 8001], image["id"])
    assert spawned["url"] == f"http://copy.localhost:{URL(wire.url).port}"
    assert await page(wire, "copy") == "first"
    assert (await stranger.call("POST", f"/images/{image['id']}/spawn", {})).status == 404
    await ok(wire, "POST", f"/images/{image['id']}/grant", {"trusted_api_key": stranger.public_key})
    theirs = await ok(stranger, "POST", f"/images/{image['id']}/spawn", {"name": "theirs"})
    assert await page(stranger, "theirs") == "first"
    assert (await wire.call("GET", f"/services/{theirs['id']}")).status == 404
    await ok(stranger, "DELETE", f"/services/{theirs['id']}")


async def test_spawned_with_another_program(wire, service):
    image = await ok(wire, "POST", "/images", {"source_type": "service", "source_id": service})
    other = "echo other > index.html; exec python3 -m http.server 8000 --bind 127.0.0.1"
    await ok(wire, "POST", f"/images/{image['id']}/spawn", {"name": "other", "bootstrap": other})
    async with asyncio.timeout(20):
        while await page(wire, "other") != "other":
            await asyncio.sleep(0.05)


async def test_a_golden_image_is_what_a_new_service_starts_from(wire, service):
    body = {"source_type": "service", "source_id": service, "name": "base"}
    image = await ok(wire, "POST", "/images", body)
    for name, golden in (("by-name", "base"), ("by-id", image["id"])):
        body = {
            "name": name,
            "network": "zerotrust",
            "ports": [8000],
            "bootstrap": SERVE,
            "golden_image": golden,
        }
        await ok(wire, "POST", "/services", body)
        assert await page(wire, name) == "first"


async def test_a_frozen_one_is_saved_and_stays_frozen(wire, service):
    await ok(wire, "POST", f"/services/{service}/freeze")
    image = await ok(wire, "POST", "/images", {"source_type": "service", "source_id": service})
    assert (await ok(wire, "GET", f"/services/{service}"))["state"] == "frozen"
    await ok(wire, "POST", f"/images/{image['id']}/spawn", {"name": "warm"})
    assert await page(wire, "warm") == "first"
