"""Images over the wire: every path variant, every field that clients read, and who may do what."""

from __future__ import annotations

import re
from typing import Any

import pytest
import pytest_asyncio
from tests.server.conftest import Wire

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ok(wire: Wire, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await wire.call(method, target, body)
    assert answer.status == 200, answer.json
    assert "error" not in answer.json
    return answer.json


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def snapshot(wires):
    """A snapshot of a session with one file."""
    wire = wires[0]
    session = (await ok(wire, "POST", "/sessions", {}))["session_id"]
    await ok(wire, "POST", f"/sessions/{session}/shell", {"command": "echo hello > index.html"})
    snapshot = (await ok(wire, "POST", f"/sessions/{session}/snapshot"))["id"]
    await ok(wire, "DELETE", f"/sessions/{session}")
    return snapshot


@pytest_asyncio.fixture(loop_scope="session")
async def image(wire, snapshot):
    made = await ok(wire, "POST", "/images", {"source_type": "snapshot", "source_id": snapshot, "name": "site"})
    yield made["image_id"]
    await wire.call("DELETE", f"/images/{made['image_id']}")


async def images_in(wire: Wire, target: str) -> set[str]:
    listed = await ok(wire, "GET", target)
    assert listed["count"] == len(listed["images"])
    return {item["id"] for item in listed["images"]}


@pytest.mark.parametrize("path", ["/images", "/images/publish"])
async def test_published_with_all_that_clients_read(wire, snapshot, path):
    body = {"source_type": "snapshot", "source_id": snapshot, "name": "n", "description": "d"}
    made = await ok(wire, "POST", path, body)
    assert re.fullmatch("unsb-image(-[a-z0-9]{4}){4}", made["id"])
    assert made["id"] == made["image_id"]
    assert (made["name"], made["description"], made["visibility"], made["access"]) == (
        "n",
        "d",
        "private",
        "owner",
    )
    assert (made["source_type"], made["source_id"]) == ("snapshot", snapshot)
    assert re.fullmatch("[0-9a-f]{64}", made["fingerprint"])
    assert made["size_bytes"] > 0
    assert (made["owner_api_key"], made["trusted_keys"]) == (wire.public_key, [])
    got = await ok(wire, "GET", f"/images/{made['id']}")
    assert got == {name: value for name, value in made.items() if name != "message"}
    await ok(wire, "DELETE", f"/images/{made['id']}")
    assert (await wire.call("GET", f"/images/{made['id']}")).status == 404


async def test_lists_hold_no_bracket_before_their_end(wire, stranger, snapshot, image):
    body = {"source_type": "snapshot", "source_id": snapshot}
    for name in ("[1]", "a]", "}", "{", "two\nlines", "x" * 201):
        for target in ("/images", f"/images/{image}/clone"):
            answer = await wire.call("POST", target, {**body, "name": name})
            assert (answer.status, answer.json["error"]) == (400, "invalid_request"), (target, name)
    nameless = await ok(wire, "POST", "/images", {**body, "description": "it has [brackets]"})
    assert nameless["name"] == nameless["id"]
    await ok(wire, "POST", f"/images/{image}/grant", {"trusted_api_key": stranger.public_key})
    raw = (await wire.call("GET", "/images")).raw
    start = raw.index(b'"images":[') + len(b'"images":[')
    assert raw.index(b"]", start) == raw.rindex(b"]")
    assert b'"description":' not in raw
    assert raw.count(b'"name":"') == raw.count(b'"image_id":"')
    assert (await ok(wire, "DELETE", f"/images/{nameless['id']}"))["description"] == "it has [brackets]"


async def test_each_list_shows_what_it_says(wire, stranger, image):
    for target in ("/images", "/images/owned", "/images?filter=owned"):
        assert image in await images_in(wire, target)
    for target in ("/images", "/images/owned", "/images/shared", "/images/public"):
        assert image not in await images_in(stranger, target)
    await ok(wire, "POST", f"/images/{image}/grant", {"trusted_api_key": stranger.public_key})
    for target in ("/images", "/images/shared", "/images?filter=shared"):
        assert image in await images_in(stranger, target)
    assert image not in await images_in(stranger, "/images/public")
    assert (await ok(wire, "POST", f"/images/{image}/visibility", {"visibility": "public"}))[
        "visibility"
    ] == "public"
    for target in ("/images/public", "/images?filter=public"):
        assert image in await images_in(stranger, target)
        assert image in await images_in(wire, target)
    answer = await wire.call("GET", "/images?filter=best")
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


GRANTS = [
    ("/grant", "trusted_api_key"),
    ("/grant", "trusted_key"),
    ("/grant-access", "trusted_api_key"),
    ("/access/grant", "trusted_api_key"),
    ("/access", "api_key"),
    ("/access", "trusted_api_key"),
]
REVOKES = [
    ("POST", "/revoke", "trusted_api_key"),
    ("POST", "/revoke", "trusted_key"),
    ("POST", "/revoke-access", "trusted_api_key"),
    ("POST", "/access/revoke", "trusted_api_key"),
    ("DELETE", "/access", "trusted_api_key"),
    ("DELETE", "/access/{key}", None),
]


@pytest.mark.parametrize("variant", range(6))
async def test_access_is_given_and_taken_in_every_variant(wire, stranger, image, variant):
    path, member = GRANTS[variant]
    key = stranger.public_key
    granted = await ok(wire, "POST", f"/images/{image}{path}", {member: key})
    assert granted["trusted_keys"] == granted["trusted"] == [key]
    assert (await ok(stranger, "GET", f"/images/{image}"))["access"] == "trusted"
    for target in ("trusted", "access"):
        listed = await ok(wire, "GET", f"/images/{image}/{target}")
        assert (listed["trusted_keys"], listed["trusted"], listed["count"]) == ([key], [key], 1)
    method, path, member = REVOKES[variant]
    body = {member: key} if member else None
    revoked = await ok(wire, method, f"/images/{image}{path.format(key=key)}", body)
    assert revoked["trusted_keys"] == revoked["trusted"] == []
    assert (await stranger.call("GET", f"/images/{image}")).status == 404


async def test_what_is_no_key_is_refused(wire, image):
    for body in ({}, {"trusted_api_key": "me"}, {"trusted_api_key": wire.secret_key}):
        answer = await wire.call("POST", f"/images/{image}/grant", body)
        assert (answer.status, answer.json["error"]) == (400, "invalid_key")
    answer = await wire.call("POST", f"/images/{image}/transfer", {})
    assert answer.status == 400
    answer = await wire.call("POST", f"/images/{image}/visibility", {"visibility": "secret"})
    assert answer.status == 400


async def test_another_key_gets_404_and_who_may_only_use_it_403(wire, stranger, image):
    calls = [
        ("DELETE", f"/images/{image}", None),
        ("POST", f"/images/{image}/lock", None),
        ("POST", f"/images/{image}/unlock", None),
        ("POST", f"/images/{image}/visibility", {"visibility": "public"}),
        ("POST", f"/images/{image}/grant", {"trusted_api_key": stranger.public_key}),
        ("POST", f"/images/{image}/revoke", {"trusted_api_key": stranger.public_key}),
        ("POST", f"/images/{image}/transfer", {"to_api_key": stranger.public_key}),
        ("GET", f"/images/{image}/trusted", None),
    ]
    for method, target, body in [
        *calls,
        ("POST", f"/images/{image}/spawn", {}),
        ("POST", f"/images/{image}/clone", {}),
    ]:
        assert (await stranger.call(method, target, body)).status == 404, target
    await ok(wire, "POST", f"/images/{image}/visibility", {"visibility": "unlisted"})
    assert image not in await images_in(stranger, "/images")
    seen = await ok(stranger, "GET", f"/images/{image}")
    assert seen["access"] == "public"
    assert "trusted_keys" not in seen
    for method, target, body in calls:
        answer = await stranger.call(method, target, body)
        assert (answer.status, answer.json["error"]) == (403, "not_owner"), target


async def test_a_clone_is_private_and_outlives_the_original(wire, stranger, image):
    await ok(wire, "POST", f"/images/{image}/visibility", {"visibility": "public"})
    clone = await ok(stranger, "POST", f"/images/{image}/clone", {"name": "mine"})
    assert (clone["visibility"], clone["trusted_keys"], clone["owner_api_key"]) == (
        "private",
        [],
        stranger.public_key,
    )
    await ok(wire, "DELETE", f"/images/{image}")
    original = clone["fingerprint"]
    assert (await ok(stranger, "GET", f"/images/{clone['id']}"))["fingerprint"] == original
    await ok(stranger, "DELETE", f"/images/{clone['id']}")


async def test_locked_ones_stay_and_transferred_ones_go(wire, stranger, image):
    assert (await ok(wire, "POST", f"/images/{image}/lock"))["locked"] is True
    answer = await wire.call("DELETE", f"/images/{image}")
    assert (answer.status, answer.json["error"]) == (409, "image_locked")
    assert (await ok(wire, "POST", f"/images/{image}/unlock", {}))["locked"] is False
    given = await ok(wire, "POST", f"/images/{image}/transfer", {"to_api_key": stranger.public_key})
    assert given["owner_api_key"] == stranger.public_key
    assert (await wire.call("GET", f"/images/{image}")).status == 404
    await ok(stranger, "DELETE", f"/images/{image}")


async def test_unknown_ones_are_404(wire):
    for method, target, body in (
        ("GET", "/images/unsb-image-aaaa-aaaa-aaaa-aaaa", None),
        ("POST", "/images", {"source_type": "snapshot", "source_id": "nope"}),
        ("POST", "/images", {"source_type": "service", "source_id": "nope"}),
    ):
        assert (await wire.call(method, target, body)).status == 404, target


async def test_pictures_are_not_drawn_here(wire):
    answer = await wire.call(
        "POST", "/image", {"prompt": "a house", "size": "256x256", "quality": "low", "n": 1}
    )
    assert (answer.status, answer.json["error"]) == (501, "not_implemented")
    assert "hosted service" in answer.json["message"]
