"""What is kept of sessions and services: made, put back, cloned, locked, deleted, and there after a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys

import pytest

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.errors import Conflict, Damaged, InvalidRequest, LimitReached, TooLarge, UnknownObject
from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.sessions import SessionRequest
from unsandbox.protocol.snapshots import CloneRequest, SnapshotRequest


async def test_the_saved_state_comes_back_any_number_of_times(world):
    session = world.sessions.add("me", notes=b"first")
    snapshot = await world.snapshot(session, name="before")
    assert (snapshot.name, snapshot.source_type, snapshot.source_id) == ("before", "session", session)
    assert (snapshot.status, snapshot.hot, snapshot.isolation) == ("completed", False, "bubblewrap")
    assert snapshot.size_bytes == world.stored()[0].stat().st_size
    for _ in range(3):
        world.sessions.write(session, notes=b"spoilt", more=b"x")
        restored = await world.snapshots.restore("me", snapshot.snapshot_id)
        assert (restored.id, restored.type, restored.status) == (session, "session", "restored")
        assert world.sessions.read(session) == {"notes": b"first"}


async def test_it_is_there_after_a_restart(world):
    session = world.sessions.add("me", notes=b"first")
    snapshot = await world.snapshot(session, hot=False, ephemeral=True)
    await world.restart()
    assert world.snapshots.get("me", snapshot.snapshot_id) == snapshot.replace(message=None)
    world.sessions.write(session, notes=b"spoilt")
    await world.snapshots.restore("me", snapshot.snapshot_id)
    assert world.sessions.read(session) == {"notes": b"first"}


async def test_a_deleted_source_is_made_again_under_its_id(world):
    request = ServiceRequest(name="web", ports=[80], bootstrap="run", unfreeze_on_demand=True, vcpu=2)
    service = world.services.add("me", request=request, page=b"hello")
    world.services.env_names = ("TOKEN",)
    snapshot = await world.snapshots.create("me", SnapshotRequest(service_id=service))
    world.services.drop(service)
    restored = await world.snapshots.restore("me", snapshot.snapshot_id)
    assert restored.restored_id == service
    assert "TOKEN" in restored.message
    assert world.services.read(service) == {"page": b"hello"}
    assert world.services.made[service][:2] == ("me", request)


async def test_clones_and_clones_of_clones_are_of_their_own(world):
    session = world.sessions.add("me", request=SessionRequest(shell="zsh", ttl=50, vcpu=2), notes=b"1")
    first = await world.snapshots.clone("me", (await world.snapshot(session)).snapshot_id, CloneRequest())
    world.sessions.write(first.session_id, notes=b"2")
    snapshot = await world.snapshot(first.session_id)
    second = await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(name="twin", shell="fish"))
    assert len({session, first.session_id, second.session_id}) == 3
    assert (second.id, second.type, second.name) == (second.session_id, "session", "twin")
    read = world.sessions.read
    assert [read(name)["notes"] for name in (session, first.id, second.id)] == [b"1", b"2", b"2"]
    assert world.sessions.made[first.id][1] == SessionRequest(shell="zsh", ttl=50, vcpu=2)
    assert world.sessions.made[second.id][1] == SessionRequest(shell="fish", ttl=50, vcpu=2, name="twin")


async def test_a_session_becomes_a_service_and_back(world):
    session = world.sessions.add("me", notes=b"1")
    snapshot = await world.snapshot(session, name="My notes!")
    made = await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(type="service", ports=[80, 81]))
    assert made.service_id == made.id
    assert world.services.read(made.id) == {"notes": b"1"}
    request = world.services.made[made.id][1]
    assert request.name.startswith("my-notes-")
    assert (request.ports, request.network_mode) == ([80, 81], "zerotrust")
    snapshot = await world.snapshots.create("me", SnapshotRequest(source_type="service", source_id=made.id))
    back = await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(type="session", shell="sh"))
    assert world.sessions.read(back.session_id) == {"notes": b"1"}
    assert world.sessions.made[back.id][1].shell == "sh"


async def test_clones_and_restores_count_among_the_others(world):
    session = world.sessions.add("me")
    name = (await world.snapshot(session)).snapshot_id
    limits = {"session": 1, "service": 0}
    for kind in ("session", "service"):
        with pytest.raises(LimitReached):
            await world.snapshots.clone("me", name, CloneRequest(type=kind), limits)
    world.sessions.drop(session)
    world.sessions.add("me")
    with pytest.raises(LimitReached):
        await world.snapshots.restore("me", name, limits)


async def test_a_cloned_service_gets_a_name_of_its_own_and_no_domains(world):
    service = world.services.add("me", request=ServiceRequest(name="web", custom_domains=["example.org"]))
    snapshot = await world.snapshots.create("me", SnapshotRequest(service_id=service))
    clones = [await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest()) for _ in range(2)]
    requests = [world.services.made[clone.id][1] for clone in clones]
    assert len({request.name for request in requests}) == 2
    assert [request.custom_domains for request in requests] == [None, None]
    with pytest.raises(Conflict):
        await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(name="web"))


@pytest.mark.parametrize(
    "named",
    [{}, {"session_id": "a", "service_id": "b"}, {"source_type": "session"}, {"source_id": "a"}],
)
async def test_exactly_one_source_must_be_named(world, named):
    with pytest.raises(InvalidRequest, match="pass one source"):
        await world.snapshots.create("me", SnapshotRequest(**named))


async def test_another_key_sees_nothing(world):
    session = world.sessions.add("me")
    name = (await world.snapshot(session)).snapshot_id
    snapshots = world.snapshots
    assert snapshots.list_of("you") == []
    for call in (
        snapshots.create("you", SnapshotRequest(session_id=session)),
        snapshots.restore("you", name),
        snapshots.clone("you", name, CloneRequest()),
        snapshots.set_locked("you", name, True),
        snapshots.delete("you", name),
    ):
        with pytest.raises(UnknownObject):
            await call
    with pytest.raises(UnknownObject):
        snapshots.get("you", name)


async def test_a_locked_one_stays(world):
    name = (await world.snapshot(world.sessions.add("me"))).snapshot_id
    assert (await world.snapshots.set_locked("me", name, True)).locked is True
    await world.restart()
    with pytest.raises(Conflict, match="unlock"):
        await world.snapshots.delete("me", name)
    await world.snapshots.set_locked("me", name, False)
    await world.snapshots.delete("me", name)
    assert world.snapshots.list_of("me") == []
    assert world.stored() == []


async def test_equal_states_share_their_bytes_until_the_last_goes(world):
    session = world.sessions.add("me", notes=b"1")
    first, second = await asyncio.gather(world.snapshot(session), world.snapshot(session))
    assert len(world.stored()) == 1
    await world.snapshots.delete("me", first.snapshot_id)
    await world.restart()
    await world.snapshots.restore("me", second.snapshot_id)
    await world.snapshots.delete("me", second.snapshot_id)
    assert world.stored() == []


async def test_changed_or_missing_bytes_are_refused_and_the_source_stays_as_it_is(world):
    session = world.sessions.add("me", notes=b"1")
    name = (await world.snapshot(session)).snapshot_id
    (path,) = world.stored()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    world.sessions.write(session, notes=b"2")
    for _ in range(2):
        with pytest.raises(Damaged):
            await world.snapshots.restore("me", name)
        with pytest.raises(Damaged):
            await world.snapshots.clone("me", name, CloneRequest())
        path.unlink(missing_ok=True)
    assert world.sessions.read(session) == {"notes": b"2"}
    assert len(world.sessions.made) == 1


async def test_a_hot_one_is_refused_where_the_backend_cannot_and_never_faked(world):
    session = world.sessions.add("me")
    with pytest.raises(InvalidRequest, match="isolation 'gvisor'") as refusal:
        await world.snapshot(session, hot=True)
    assert refusal.value.code == "hot_unavailable"
    assert world.snapshots.list_of("me") == []
    assert world.stored() == []


async def test_a_hot_one_brings_memory_back_even_of_a_deleted_session(open_world):
    world = open_world("gvisor")
    session = world.sessions.add("me")
    world.sessions.made[session][2].memory = "count=7"
    snapshot = await world.snapshot(session, hot=True)
    assert (snapshot.hot, snapshot.isolation) == (True, "gvisor")
    world.sessions.drop(session)
    await world.restart()
    await world.snapshots.restore("me", snapshot.snapshot_id)
    assert world.sessions.made[session][2].memory == "count=7"
    assert world.sessions.made[session][1].isolation == "gvisor"
    with pytest.raises(InvalidRequest, match="only be cloned to a session"):
        await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(type="service"))


async def test_memory_is_never_stored_as_it_was(open_world):
    world = open_world("gvisor")
    session = world.sessions.add("me")
    world.sessions.made[session][2].memory = "hunter2" * 1000
    snapshot = await world.snapshot(session, hot=True)
    (path,) = world.stored()
    # Encrypted, and not only compressed.
    assert not path.read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    # Nor can it be read by a server that has another key.
    world.context = dataclasses.replace(world.context, box=SecretBox.of_this_process())
    await world.restart()
    with pytest.raises(Damaged, match="encrypted by another server"):
        await world.snapshots.restore("me", snapshot.snapshot_id)


async def test_what_came_from_stronger_isolation_is_cloned_to_no_weaker(open_world):
    world = open_world("gvisor")
    snapshot = await world.snapshot(world.sessions.add("me"))
    clone = await world.snapshots.clone("me", snapshot.snapshot_id, CloneRequest(type="service"))
    assert world.services.made[clone.id][1].isolation == "gvisor"


async def test_a_state_may_not_be_larger_than_the_limit(open_world):
    world = open_world(snapshot_bytes=1000)
    session = world.sessions.add("me", noise=os.urandom(2000))
    with pytest.raises(TooLarge, match="more than"):
        await world.snapshot(session)
    assert world.stored() == []


async def test_a_key_may_not_keep_more_than_its_limit(open_world):
    world = open_world(snapshots_per_key=2)
    session = world.sessions.add("me")
    results = await asyncio.gather(*(world.snapshot(session) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, LimitReached) for result in results) == 3
    assert len(world.snapshots.list_of("me")) == 2


async def test_a_key_may_not_keep_more_bytes_than_its_limit(open_world):
    world = open_world(saved_bytes_per_key=3000)
    session = world.sessions.add("me")
    for _ in range(2):
        world.sessions.write(session, noise=os.urandom(1000))
        await world.snapshot(session)
    world.sessions.write(session, noise=os.urandom(1000))
    with pytest.raises(LimitReached, match="delete one"):
        await world.snapshot(session)
    assert len(world.stored()) == 2


async def test_ephemeral_ones_make_room(open_world):
    world = open_world(snapshots_per_key=2)
    session = world.sessions.add("me")
    old = await world.snapshot(session, ephemeral=True)
    kept = await world.snapshot(session)
    new = await world.snapshot(session)
    left = {snapshot.snapshot_id for snapshot in world.snapshots.list_of("me")}
    assert left == {kept.snapshot_id, new.snapshot_id}
    assert old.snapshot_id not in left


async def test_ephemeral_ones_stay_when_nothing_comes_of_the_new_one(open_world):
    world = open_world(snapshots_per_key=1, snapshot_bytes=5000, saved_bytes_per_key=2000)
    session = world.sessions.add("me")
    old = await world.snapshot(session, ephemeral=True)
    with pytest.raises(InvalidRequest, match="isolation 'gvisor'"):
        await world.snapshot(session, hot=True)
    world.sessions.write(session, noise=os.urandom(6000))
    with pytest.raises(TooLarge):
        await world.snapshot(session)
    world.sessions.write(session, noise=os.urandom(3000))
    with pytest.raises(LimitReached):
        await world.snapshot(session)
    assert [item.snapshot_id for item in world.snapshots.list_of("me")] == [old.snapshot_id]
    assert len(world.stored()) == 1


async def test_ephemeral_ones_make_room_for_bytes(open_world):
    world = open_world(saved_bytes_per_key=3500)
    session = world.sessions.add("me")
    made = []
    for _ in range(5):
        world.sessions.write(session, noise=os.urandom(1000))
        made.append((await world.snapshot(session, ephemeral=True)).snapshot_id)
    assert [item.snapshot_id for item in world.snapshots.list_of("me")] == made[:1:-1]


async def test_restores_of_one_source_go_one_after_the_other(world):
    session = world.sessions.add("me", notes=b"1")
    snapshot = await world.snapshot(session)
    put_back, at_once, most = world.sessions.put_back, 0, 0

    async def counted(object_id, state):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        await put_back(object_id, state)
        at_once -= 1

    world.sessions.put_back = counted

    async def restores():
        for _ in range(5):
            await world.snapshots.restore("me", snapshot.snapshot_id)

    await asyncio.gather(*(restores() for _ in range(3)))
    assert most == 1


async def test_who_leaves_while_it_is_stored_gets_a_whole_one_or_none(world):
    session = world.sessions.add("me", notes=b"1")
    for turns in range(40):
        task = asyncio.create_task(world.snapshot(session))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    listed = world.snapshots.list_of("me")
    await world.restart()
    assert world.snapshots.list_of("me") == listed
    for snapshot in listed:
        await world.snapshots.restore("me", snapshot.snapshot_id)


async def test_what_a_store_cannot_keep_leaves_no_bytes(world, monkeypatch):
    async def fail(row: object) -> None:
        raise OSError(28, "No space left on device")

    session = world.sessions.add("me", notes=b"1")
    monkeypatch.setattr(world.store, "put_object", fail)
    with pytest.raises(OSError, match="No space"):
        await world.snapshot(session)
    assert world.snapshots.list_of("me") == []
    assert world.stored() == []


STORM = """
import asyncio, os, sys
from pathlib import Path
from tests.engine.saving import World
from unsandbox.protocol.images import ImageRequest

async def worker(world, number):
    session = f"session_{number}"
    world.sessions.adopt("me", session)
    while True:
        world.sessions.write(session, noise=os.urandom(300_000), same=bytes(1000))
        snapshot = await world.snapshot(session, name=session)
        print(snapshot.snapshot_id, snapshot.sha256, flush=True)
        request = ImageRequest(source_type="snapshot", source_id=snapshot.snapshot_id)
        image = await world.images.publish("me", request)
        mine = [item for item in world.snapshots.list_of("me") if item.name == session]
        for old in mine[2:]:
            await world.snapshots.delete("me", old.snapshot_id)
        for old in world.images.list_of("me")[8:]:
            if old.image_id != image.image_id:
                try:
                    await world.images.delete("me", old.image_id)
                except Exception as error:
                    assert "no image" in str(error)

async def main():
    world = World(Path(sys.argv[1]), "bubblewrap")
    await world.restart()
    await asyncio.gather(*(worker(world, number) for number in range(4)))

asyncio.run(main())
"""


async def test_a_server_that_is_killed_leaves_whole_snapshots_and_no_bytes_without_one(open_world, tmp_path):
    survived = 0
    for lines in (1, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", STORM, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            assert process.stdout.readline()
        process.kill()
        process.communicate()
        world = open_world()
        await world.restart()
        snapshots, images = world.snapshots.list_of("me"), world.images.list_of("me")
        for number in range(4):
            world.sessions.adopt("me", f"session_{number}")
        for snapshot in snapshots:
            await world.snapshots.restore("me", snapshot.snapshot_id)
        for image in images:
            async with world.images.open("me", image.image_id):
                pass
        named = {item.sha256 for item in snapshots} | {item.fingerprint for item in images}
        assert {path.name for path in world.stored()} == named
        survived += len(snapshots)
    assert survived
