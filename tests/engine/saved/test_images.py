"""Images: published, shared, spawned; each key sees what it may and nothing else."""

from __future__ import annotations

import asyncio
import re

import pytest

from unsandbox.engine.accounts.keys import KeyPair
from unsandbox.engine.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitReached,
    NotImplementedHere,
    UnknownObject,
)
from unsandbox.protocol.images import ImageCloneRequest, ImageRequest, SpawnRequest
from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.snapshots import SnapshotRequest

ME, YOU, THEY = (KeyPair.generate().public_key for _ in range(3))
WEB = ServiceRequest(name="web", ports=[80], bootstrap="serve", vcpu=2, custom_domains=["example.org"])


@pytest.fixture
async def service(world):
    return world.services.add(ME, request=WEB, page=b"hello")


@pytest.fixture
async def image(world, service):
    request = ImageRequest(source_type="service", source_id=service, name="site", description="A site")
    return (await world.images.publish(ME, request)).image_id


async def snapshot_image(world, service: str) -> tuple[str, str]:
    snapshot = await world.snapshots.create(ME, SnapshotRequest(service_id=service))
    request = ImageRequest(source_type="snapshot", source_id=snapshot.snapshot_id)
    return snapshot.snapshot_id, (await world.images.publish(ME, request)).image_id


async def test_it_says_what_it_is(world, service, image):
    found = world.images.get(ME, image)
    assert re.fullmatch(r"unsb-image(-[a-z0-9]{4}){4}", found.image_id)
    assert (found.name, found.description, found.visibility, found.locked) == (
        "site",
        "A site",
        "private",
        False,
    )
    assert (found.source_type, found.source_id, found.owner_api_key) == ("service", service, ME)
    assert (found.access, found.trusted_keys) == ("owner", [])
    (path,) = world.stored()
    assert (found.fingerprint, found.size_bytes) == (path.name, path.stat().st_size)


async def test_an_image_outlives_what_it_is_from(world, service):
    snapshot, image = await snapshot_image(world, service)
    assert len(world.stored()) == 1
    await world.snapshots.delete(ME, snapshot)
    await world.restart()
    made = await world.images.spawn(ME, image, SpawnRequest(name="copy"))
    assert world.services.read(made.service_id) == {"page": b"hello"}
    await world.images.delete(ME, image)
    assert world.stored() == []


async def test_a_spawned_service_is_as_the_first_but_for_what_was_asked(world, image):
    made = await world.images.spawn(ME, image, SpawnRequest())
    assert made.source_image == image
    request = world.services.made[made.service_id][1]
    assert request == WEB.replace(name=request.name, custom_domains=None)
    assert request.name.startswith("web-")
    wanted = SpawnRequest(
        name="b", ports=[443], bootstrap="other", network_mode="semitrusted", vcpu=1, shell="sh"
    )
    made = await world.images.spawn(ME, image, wanted)
    request = world.services.made[made.service_id][1]
    assert request == ServiceRequest(
        name="b", ports=[443], bootstrap="other", network_mode="semitrusted", vcpu=1, shell="sh"
    )
    with pytest.raises(Conflict):
        await world.images.spawn(ME, image, SpawnRequest(name="b"))


async def test_a_session_snapshot_becomes_a_service(world):
    session = world.sessions.add(ME, notes=b"1")
    snapshot = await world.snapshots.create(ME, SnapshotRequest(session_id=session))
    request = ImageRequest(source_type="snapshot", source_id=snapshot.snapshot_id)
    image = await world.images.publish(ME, request)
    made = await world.images.spawn(ME, image.image_id, SpawnRequest(bootstrap="run", ports=[80]))
    assert world.services.read(made.service_id) == {"notes": b"1"}
    with pytest.raises(InvalidRequest):
        await world.images.spawn(ME, image.image_id, SpawnRequest(type="session"))


async def test_memory_is_never_published(open_world):
    world = open_world("gvisor")
    session = world.sessions.add(ME)
    snapshot = await world.snapshots.create(ME, SnapshotRequest(session_id=session, hot=True))
    with pytest.raises(InvalidRequest, match="memory"):
        await world.images.publish(ME, ImageRequest(source_type="snapshot", source_id=snapshot.snapshot_id))


async def test_only_own_things_are_published(world, service):
    snapshot = await world.snapshots.create(ME, SnapshotRequest(service_id=service))
    for kind, name in (("service", service), ("snapshot", snapshot.snapshot_id)):
        with pytest.raises(UnknownObject):
            await world.images.publish(YOU, ImageRequest(source_type=kind, source_id=name))


# What another key may do, by what it has been given.
@pytest.mark.parametrize(
    ("visibility", "trusted", "access", "lists"),
    [
        ("private", False, None, set()),
        ("private", True, "trusted", {"shared"}),
        ("unlisted", False, "public", set()),
        ("unlisted", True, "trusted", {"shared"}),
        ("public", False, "public", {"public"}),
        ("public", True, "trusted", {"shared", "public"}),
    ],
)
async def test_who_may_see_and_use_it(world, image, visibility, trusted, access, lists):
    images = world.images
    await images.set_visibility(ME, image, visibility)
    if trusted:
        await images.grant(ME, image, YOU)
    await world.restart()
    images = world.images
    assert {which for which in ("owned", "shared", "public") if images.list_of(YOU, which)} == lists
    assert bool(images.list_of(YOU)) == bool(lists)
    if access is None:
        for call in (images.spawn(YOU, image, SpawnRequest()), images.clone(YOU, image, ImageCloneRequest())):
            with pytest.raises(UnknownObject):
                await call
        with pytest.raises(UnknownObject):
            images.get(YOU, image)
        return
    seen = images.get(YOU, image)
    assert (seen.access, seen.trusted_keys) == (access, None)
    made = await images.spawn(YOU, image, SpawnRequest())
    assert world.services.made[made.service_id][0] == YOU
    clone = await images.clone(YOU, image, ImageCloneRequest(name="mine"))
    assert (clone.owner_api_key, clone.visibility, clone.trusted_keys) == (YOU, "private", [])
    await images.delete(ME, image)
    assert await images.spawn(YOU, clone.image_id, SpawnRequest())


@pytest.mark.parametrize("visible", [False, True])
async def test_only_its_owner_changes_it(world, image, visible):
    images = world.images
    if visible:
        await images.set_visibility(ME, image, "public")
    refusal = Forbidden if visible else UnknownObject
    for call in (
        images.set_locked(YOU, image, True),
        images.set_visibility(YOU, image, "public"),
        images.grant(YOU, image, YOU),
        images.revoke(YOU, image, ME),
        images.transfer(YOU, image, YOU),
        images.delete(YOU, image),
    ):
        with pytest.raises(refusal):
            await call
    with pytest.raises(refusal):
        images.trusted(YOU, image)


async def test_lists_are_newest_first_and_leave_trusted_keys_out(world, service, image):
    await world.images.grant(ME, image, YOU)
    _, newer = await snapshot_image(world, service)
    listed = world.images.list_of(ME)
    assert [item.image_id for item in listed] == [newer, image]
    assert [item.trusted_keys for item in listed] == [None, None]
    with pytest.raises(InvalidRequest, match="filter"):
        world.images.list_of(ME, "mine")


async def test_grants_at_the_same_time_all_count(world, image):
    keys = [KeyPair.generate().public_key for _ in range(10)]
    await asyncio.gather(*(world.images.grant(ME, image, key) for key in [*keys, *keys]))
    assert sorted(world.images.trusted(ME, image).trusted_keys) == sorted(keys)
    await asyncio.gather(*(world.images.revoke(ME, image, key) for key in keys[1:]))
    trusted = await world.images.revoke(ME, image, YOU)
    assert (trusted.trusted_keys, trusted.count) == ([keys[0]], 1)
    with pytest.raises(InvalidRequest, match="public key"):
        await world.images.grant(ME, image, "unsb-sk-aaaaa-aaaaa-aaaaa-aaaaa")


async def test_a_transferred_image_is_the_receivers(world, image):
    await world.images.grant(ME, image, YOU)
    await world.images.grant(ME, image, THEY)
    given = await world.images.transfer(ME, image, YOU)
    assert (given.owner_api_key, given.access) == (YOU, None)
    with pytest.raises(UnknownObject):
        world.images.get(ME, image)
    await world.restart()
    assert world.images.get(YOU, image).trusted_keys == [THEY]


async def test_nobody_is_given_more_than_they_may_keep(open_world):
    world = open_world(images_per_key=1)
    service = world.services.add(ME, request=WEB)
    _, first = await snapshot_image(world, service)
    await world.images.transfer(ME, first, YOU)
    _, second = await snapshot_image(world, service)
    with pytest.raises(LimitReached):
        await world.images.transfer(ME, second, YOU)
    with pytest.raises(LimitReached):
        await world.images.clone(ME, second, ImageCloneRequest())
    assert world.images.get(ME, second).access == "owner"


async def test_a_locked_one_stays(world, image):
    await world.images.set_locked(ME, image, True)
    await world.restart()
    with pytest.raises(Conflict, match="unlock"):
        await world.images.delete(ME, image)
    await world.images.set_locked(ME, image, False)
    await world.images.delete(ME, image)
    assert world.stored() == []


async def test_a_golden_image_is_named_by_id_or_by_the_name_of_an_own_one(world, image):
    for name in (image, "site"):
        async with world.images.open(ME, name) as state:
            assert state.origin == image
            assert state.work_archive.exists()
    await world.images.set_visibility(ME, image, "public")
    async with world.images.open(YOU, image) as state:
        assert state.origin == image
    # Else anybody could publish something under a name that others trust.
    with pytest.raises(UnknownObject):
        async with world.images.open(YOU, "site"):
            pass


def test_pictures_are_refused_with_what_else_may_be_meant(world):
    with pytest.raises(NotImplementedHere, match="POST /images"):
        world.images.refuse_pictures()
