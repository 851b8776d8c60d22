"""Snapshots and images as clients and functions see them, against the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import un_async
from unsandbox import APIError, AsyncClient, BadRequestError, ConflictError, NotFoundError
from unsandbox.local import LocalServer

OTHER = "unsb-pk-aaaa-bbbb-cccc-dddd"


@pytest.fixture
async def session(real: AsyncClient) -> AsyncIterator[str]:
    """A session with one file."""
    made = await real.create_session(shell="bash")
    assert made.session_id is not None
    await real.session_command(made.session_id, "echo first > notes")
    yield made.session_id
    await real.delete_session(made.session_id)


async def notes(client: AsyncClient, session: str) -> str | None:
    return (await client.session_command(session, "cat notes")).stdout


async def test_a_client_saves_restores_and_clones(real: AsyncClient, session: str) -> None:
    snapshot = await real.session_snapshot(session, name="before")
    name = snapshot.snapshot_id
    assert name is not None
    assert (snapshot.source_type, snapshot.source_id, snapshot.hot) == ("session", session, False)
    await real.session_command(session, "echo spoilt > notes")
    restored = await real.restore_snapshot(name)
    assert (restored.restored_id, restored.status) == (session, "restored")
    assert await notes(real, session) == "first\n"
    clone = (await real.clone_snapshot(name, "session", shell="sh")).session_id
    assert clone is not None
    assert await notes(real, clone) == "first\n"
    await real.delete_session(clone)
    assert (await real.lock_snapshot(name)).locked
    with pytest.raises(ConflictError, match="locked"):
        await real.delete_snapshot(name)
    assert not (await real.unlock_snapshot(name)).locked
    assert name in {item.snapshot_id for item in (await real.list_snapshots()).snapshots}
    await real.delete_snapshot(name)
    with pytest.raises(NotFoundError):
        await real.get_snapshot(name)
    with pytest.raises(BadRequestError, match="gvisor"):
        await real.session_snapshot(session, hot=True)


async def test_a_client_publishes_shares_and_gives_away(real: AsyncClient, session: str) -> None:
    snapshot = (await real.create_snapshot("session", session)).snapshot_id
    assert snapshot is not None
    image = await real.publish_image("snapshot", snapshot, name="base", description="What all start from")
    name = image.image_id
    assert name is not None
    assert (image.visibility, image.access, image.trusted_keys) == ("private", "owner", [])
    assert (await real.grant_image_access(name, OTHER)).trusted_keys == [OTHER]
    assert (await real.list_image_trusted(name)).trusted_keys == [OTHER]
    assert (await real.revoke_image_access(name, OTHER)).trusted_keys == []
    assert (await real.set_image_visibility(name, "public")).visibility == "public"
    for which in (None, "owned", "public"):
        assert name in {item.image_id for item in (await real.list_images(which)).images}
    assert (await real.list_images("shared")).images == []
    service = await real.spawn_image(
        name, name="spawned", network_mode="zerotrust", bootstrap="exec sleep 1000"
    )
    assert service.service_id is not None
    assert (service.name, service.source_image) == ("spawned", name)
    await real.delete_service(service.service_id)
    clone = (await real.clone_image(name, name="copy")).image_id
    assert clone is not None
    assert (await real.transfer_image(clone, OTHER)).owner_api_key == OTHER
    with pytest.raises(NotFoundError):
        await real.get_image(clone)
    assert (await real.lock_image(name)).locked
    with pytest.raises(ConflictError):
        await real.delete_image(name)
    await real.unlock_image(name)
    await real.delete_image(name)
    await real.delete_snapshot(snapshot)
    with pytest.raises(APIError, match="hosted service") as refusal:
        await real.generate_picture("a house")
    assert refusal.value.status == 501


async def test_functions_do_the_same_with_plain_values(
    real: AsyncClient, engine: LocalServer, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSANDBOX_API_BASE", engine.url)
    keys: dict[str, Any] = {"public_key": engine.public_key, "secret_key": engine.secret_key}
    snapshot = await un_async.session_snapshot(session, name="before", **keys)
    assert snapshot in [item["snapshot_id"] for item in await un_async.list_snapshots(**keys)]
    await real.session_command(session, "echo spoilt > notes")
    restored = await un_async.restore_snapshot(snapshot, **keys)
    assert (restored["restored_id"], restored["type"]) == (session, "session")
    assert await notes(real, session) == "first\n"
    clone = await un_async.clone_snapshot(snapshot, "session", **keys)
    assert await notes(real, clone["session_id"]) == "first\n"
    await real.delete_session(clone["session_id"])
    image = await un_async.publish_image("snapshot", snapshot, name="base", **keys)
    found = await un_async.get_image(image["image_id"], **keys)
    assert found["fingerprint"] == image["fingerprint"]
    assert (await un_async.grant_image_access(image["image_id"], OTHER, **keys))["trusted_keys"] == [OTHER]
    await un_async.delete_snapshot(snapshot, **keys)
    await un_async.delete_image(image["image_id"], **keys)
