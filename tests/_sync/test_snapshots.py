# Generated from tests/_async/test_snapshots.py by scripts/unasync.py; change that one.
"""Snapshots and images as clients and functions see them, against the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import un
from unsandbox import APIError, BadRequestError, Client, ConflictError, NotFoundError
from unsandbox.local import LocalServer

OTHER = "unsb-pk-aaaa-bbbb-cccc-dddd"


@pytest.fixture
def session(real: Client) -> Iterator[str]:
    """A session with one file."""
    made = real.create_session(shell="bash")
    assert made.session_id is not None
    real.session_command(made.session_id, "echo first > notes")
    yield made.session_id
    real.delete_session(made.session_id)


def notes(client: Client, session: str) -> str | None:
    return (client.session_command(session, "cat notes")).stdout


def test_a_client_saves_restores_and_clones(real: Client, session: str) -> None:
    snapshot = real.session_snapshot(session, name="before")
    name = snapshot.snapshot_id
    assert name is not None
    assert (snapshot.source_type, snapshot.source_id, snapshot.hot) == ("session", session, False)
    real.session_command(session, "echo spoilt > notes")
    restored = real.restore_snapshot(name)
    assert (restored.restored_id, restored.status) == (session, "restored")
    assert notes(real, session) == "first\n"
    clone = (real.clone_snapshot(name, "session", shell="sh")).session_id
    assert clone is not None
    assert notes(real, clone) == "first\n"
    real.delete_session(clone)
    assert (real.lock_snapshot(name)).locked
    with pytest.raises(ConflictError, match="locked"):
        real.delete_snapshot(name)
    assert not (real.unlock_snapshot(name)).locked
    assert name in {item.snapshot_id for item in (real.list_snapshots()).snapshots}
    real.delete_snapshot(name)
    with pytest.raises(NotFoundError):
        real.get_snapshot(name)
    with pytest.raises(BadRequestError, match="gvisor"):
        real.session_snapshot(session, hot=True)


def test_a_client_publishes_shares_and_gives_away(real: Client, session: str) -> None:
    snapshot = (real.create_snapshot("session", session)).snapshot_id
    assert snapshot is not None
    image = real.publish_image("snapshot", snapshot, name="base", description="What all start from")
    name = image.image_id
    assert name is not None
    assert (image.visibility, image.access, image.trusted_keys) == ("private", "owner", [])
    assert (real.grant_image_access(name, OTHER)).trusted_keys == [OTHER]
    assert (real.list_image_trusted(name)).trusted_keys == [OTHER]
    assert (real.revoke_image_access(name, OTHER)).trusted_keys == []
    assert (real.set_image_visibility(name, "public")).visibility == "public"
    for which in (None, "owned", "public"):
        assert name in {item.image_id for item in (real.list_images(which)).images}
    assert (real.list_images("shared")).images == []
    service = real.spawn_image(name, name="spawned", network_mode="zerotrust", bootstrap="exec sleep 1000")
    assert service.service_id is not None
    assert (service.name, service.source_image) == ("spawned", name)
    real.delete_service(service.service_id)
    clone = (real.clone_image(name, name="copy")).image_id
    assert clone is not None
    assert (real.transfer_image(clone, OTHER)).owner_api_key == OTHER
    with pytest.raises(NotFoundError):
        real.get_image(clone)
    assert (real.lock_image(name)).locked
    with pytest.raises(ConflictError):
        real.delete_image(name)
    real.unlock_image(name)
    real.delete_image(name)
    real.delete_snapshot(snapshot)
    with pytest.raises(APIError, match="hosted service") as refusal:
        real.generate_picture("a house")
    assert refusal.value.status == 501


def test_functions_do_the_same_with_plain_values(
    real: Client, engine: LocalServer, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSANDBOX_API_BASE", engine.url)
    keys: dict[str, Any] = {"public_key": engine.public_key, "secret_key": engine.secret_key}
    snapshot = un.session_snapshot(session, name="before", **keys)
    assert snapshot in [item["snapshot_id"] for item in un.list_snapshots(**keys)]
    real.session_command(session, "echo spoilt > notes")
    restored = un.restore_snapshot(snapshot, **keys)
    assert (restored["restored_id"], restored["type"]) == (session, "session")
    assert notes(real, session) == "first\n"
    clone = un.clone_snapshot(snapshot, "session", **keys)
    assert notes(real, clone["session_id"]) == "first\n"
    real.delete_session(clone["session_id"])
    image = un.publish_image("snapshot", snapshot, name="base", **keys)
    found = un.get_image(image["image_id"], **keys)
    assert found["fingerprint"] == image["fingerprint"]
    assert (un.grant_image_access(image["image_id"], OTHER, **keys))["trusted_keys"] == [OTHER]
    un.delete_snapshot(snapshot, **keys)
    un.delete_image(image["image_id"], **keys)
