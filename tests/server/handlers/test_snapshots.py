"""Snapshots over the wire: real sessions, real files, restarts, a hostile archive, a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sqlite3
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zstandard
from tests.server.conftest import Wire, open_wire

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.keys import KeyPair
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.sql import SqlStore
from unsandbox.server import ServerConfig

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAIR = KeyPair.generate()
BOX = SecretBox.of_this_process()


@contextlib.asynccontextmanager
async def lasting(folder: Path, **config: Any) -> AsyncIterator[Wire]:
    """Serve a data folder; what was made in it is there the next time."""
    store = SqlStore(open_database(folder))
    engine = Engine(EngineConfig(stop_grace_s=0.0, **config), store=store, folder=folder, box=BOX)
    await engine.start()
    try:
        async with open_wire(engine, ServerConfig(port=0), PAIR) as (wire,):
            yield wire
    finally:
        await engine.stop()
        await store.close()


async def new_session(wire: Wire, **options: Any) -> str:
    answer = await wire.call("POST", "/sessions", {"ttl": 600, **options})
    assert answer.status == 200, answer.json
    return answer.json["session_id"]


async def run(wire: Wire, session: str, command: str) -> str:
    answer = await wire.call("POST", f"/sessions/{session}/shell", {"command": command})
    assert answer.status == 200, answer.json
    assert answer.json["exit_code"] == 0, answer.json
    return answer.json["stdout"]


async def new_snapshot(wire: Wire, session: str, **options: Any) -> dict[str, Any]:
    answer = await wire.call("POST", "/snapshots", {"session_id": session, **options})
    assert answer.status == 200, answer.json
    return answer.json


async def restore(wire: Wire, snapshot: str) -> dict[str, Any]:
    answer = await wire.call("POST", f"/snapshots/{snapshot}/restore")
    assert answer.status == 200, answer.json
    return answer.json


@pytest_asyncio.fixture(loop_scope="session")
async def session(wire):
    session = await new_session(wire)
    yield session
    await wire.call("DELETE", f"/sessions/{session}")


async def test_each_request_shape_makes_one(wire, session):
    answers = [
        await wire.call("POST", "/snapshots", {"session_id": session, "name": "a", "ephemeral": True}),
        await wire.call("POST", "/snapshots", {"source_type": "session", "source_id": session, "name": "b"}),
        await wire.call("POST", f"/sessions/{session}/snapshot", {"name": "c", "hot": False}),
        await wire.call("POST", f"/sessions/{session}/snapshot"),
    ]
    for answer, name in zip(answers, ["a", "b", "c", None], strict=True):
        made = answer.json
        assert answer.status == 200, made
        assert made["id"] == made["snapshot_id"]
        assert made["type"] == made["source_type"] == "session"
        assert (made["source_id"], made["status"]) == (session, "completed")
        # Without a name in each item, a historical client shows its neighbour's.
        assert made["name"] == (name or made["id"])
        assert made["size"] == made["size_bytes"] > 0
        assert made["container_name"].startswith("unsb-vm-")
        assert made["created_at"].isdigit()
        assert "error" not in made
    listed = (await wire.call("GET", "/snapshots")).json
    assert listed["count"] == len(listed["snapshots"]) >= 4
    newest = [item["id"] for item in listed["snapshots"][:4]]
    assert newest == [answer.json["id"] for answer in reversed(answers)]
    got = (await wire.call("GET", f"/snapshots/{newest[0]}")).json
    assert got == {name: value for name, value in answers[3].json.items() if name != "message"}


async def test_restored_again_and_again(wire, session):
    await run(
        wire,
        session,
        "mkdir -p deep/er && echo one > deep/er/file && chmod 750 deep/er/file && ln -s er deep/link",
    )
    snapshot = await new_snapshot(wire, session)
    for _ in range(3):
        await run(wire, session, "rm -r deep; echo two > other")
        restored = await restore(wire, snapshot["id"])
        assert restored["id"] == restored["restored_id"] == session
        assert (restored["type"], restored["status"]) == ("session", "restored")
        assert await run(wire, session, "cat deep/link/file; stat -c %a deep/er/file; ls") == "one\n750\ndeep\n"


async def test_a_deleted_session_comes_back_under_its_id(wire):
    session = await new_session(wire, shell="sh", vcpu=2)
    await run(wire, session, "echo kept > file")
    snapshot = await new_snapshot(wire, session)
    assert (await wire.call("DELETE", f"/sessions/{session}")).status == 200
    assert (await wire.call("GET", f"/sessions/{session}")).status == 404
    assert (await restore(wire, snapshot["id"]))["restored_id"] == session
    assert await run(wire, session, "cat file") == "kept\n"
    described = (await wire.call("GET", f"/sessions/{session}")).json
    assert (described["shell"], described["vcpu"]) == ("sh", 2)


async def test_clones_live_lives_of_their_own(wire, session):
    await run(wire, session, "echo 1 > n")
    snapshot = (await new_snapshot(wire, session))["id"]
    clone = await wire.call("POST", f"/snapshots/{snapshot}/clone", {"clone_type": "session", "name": "twin"})
    assert clone.status == 200, clone.json
    assert (clone.json["id"], clone.json["type"]) == (clone.json["session_id"], "session")
    twin = clone.json["session_id"]
    await run(wire, twin, "echo 2 > n")
    second = (await new_snapshot(wire, twin))["id"]
    child = (await wire.call("POST", f"/snapshots/{second}/clone", {"type": "session"})).json["session_id"]
    assert [await run(wire, name, "cat n") for name in (session, twin, child)] == ["1\n", "2\n", "2\n"]


async def test_a_snapshot_while_writing_is_of_one_moment(wire, session):
    # Two files that are written one after the other: at any moment the first is ahead by one at most.
    writer = "n=0; while :; do n=$((n+1)); echo $n > a.new; mv a.new a; echo $n > b.new; mv b.new b; done"
    await run(wire, session, f"sh -c '{writer}' >/dev/null 2>&1 </dev/null & sleep 0.2; test -s b")
    for _ in range(3):
        snapshot = (await new_snapshot(wire, session))["id"]
        clone = (await wire.call("POST", f"/snapshots/{snapshot}/clone", {})).json["session_id"]
        ahead, behind = (await run(wire, clone, "cat a b")).split()
        assert int(ahead) - int(behind) in (0, 1)
        await wire.call("DELETE", f"/sessions/{clone}")
    before = int(await run(wire, session, "cat b"))
    assert int(await run(wire, session, "sleep 0.2; cat b")) > before


async def test_what_was_frozen_stays_so(wire, session):
    await run(wire, session, "echo cold > file")
    await wire.call("POST", f"/sessions/{session}/freeze")
    snapshot = (await new_snapshot(wire, session))["id"]
    assert (await wire.call("GET", f"/sessions/{session}")).json["status"] == "frozen"
    clone = (await wire.call("POST", f"/snapshots/{snapshot}/clone")).json["session_id"]
    assert await run(wire, clone, "cat file") == "cold\n"
    await restore(wire, snapshot)
    assert (await wire.call("GET", f"/sessions/{session}")).json["status"] == "running"
    assert await run(wire, session, "cat file") == "cold\n"


async def test_a_hot_one_is_refused_on_bubblewrap_with_the_way_out(wire):
    session = await new_session(wire, isolation="bubblewrap")
    before = (await wire.call("GET", "/snapshots")).json["count"]
    answer = await wire.call("POST", f"/sessions/{session}/snapshot", {"hot": True})
    assert (answer.status, answer.json["error"]) == (400, "hot_unavailable")
    assert "isolation 'gvisor'" in answer.json["message"]
    assert (await wire.call("GET", "/snapshots")).json["count"] == before


async def test_locked_ones_stay(wire, session):
    snapshot = (await new_snapshot(wire, session))["id"]
    assert (await wire.call("POST", f"/snapshots/{snapshot}/lock", {})).json["locked"] is True
    answer = await wire.call("DELETE", f"/snapshots/{snapshot}")
    assert (answer.status, answer.json["error"]) == (409, "snapshot_locked")
    assert (await wire.call("POST", f"/snapshots/{snapshot}/unlock")).json["locked"] is False
    answer = await wire.call("DELETE", f"/snapshots/{snapshot}")
    assert (answer.status, answer.json["status"]) == (200, "deleted")
    assert (await wire.call("GET", f"/snapshots/{snapshot}")).status == 404


async def test_another_key_gets_404(wire, stranger, session):
    snapshot = (await new_snapshot(wire, session))["id"]
    assert (await stranger.call("GET", "/snapshots")).json == {"snapshots": [], "count": 0}
    for method, target, body in (
        ("GET", f"/snapshots/{snapshot}", None),
        ("DELETE", f"/snapshots/{snapshot}", None),
        ("POST", f"/snapshots/{snapshot}/restore", None),
        ("POST", f"/snapshots/{snapshot}/lock", None),
        ("POST", f"/snapshots/{snapshot}/unlock", None),
        ("POST", f"/snapshots/{snapshot}/clone", {}),
        ("POST", "/snapshots", {"session_id": session}),
        ("POST", f"/sessions/{session}/snapshot", {}),
    ):
        assert (await stranger.call(method, target, body)).status == 404, (method, target)


@pytest.mark.parametrize("body", [{}, {"session_id": "a", "service_id": "b"}, {"source_type": "session"}])
async def test_unclear_sources_are_refused(wire, body):
    answer = await wire.call("POST", "/snapshots", body)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


async def test_a_repeated_request_makes_one(wire, session):
    headers = {"Idempotency-Key": f"snap-{session}"}
    made = [
        (await wire.call("POST", "/snapshots", {"session_id": session}, headers=headers)).json["id"]
        for _ in range(2)
    ]
    assert made[0] == made[1]


async def test_it_is_there_after_a_restart_and_cloned_then(tmp_path):
    async with lasting(tmp_path) as wire:
        session = await new_session(wire)
        await run(wire, session, "echo first > file")
        snapshot = await new_snapshot(wire, session)
        await run(wire, session, "echo second > file")
    async with lasting(tmp_path) as wire:
        assert await run(wire, session, "cat file") == "second\n"
        await restore(wire, snapshot["id"])
        assert await run(wire, session, "cat file") == "first\n"
    async with lasting(tmp_path) as wire:
        clone = (await wire.call("POST", f"/snapshots/{snapshot['id']}/clone")).json["session_id"]
        assert await run(wire, clone, "cat file") == "first\n"


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    """Return a member of an archive."""
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """Return a link in an archive."""
    return member(name, type=kind, linkname=target)


# Every way out that tar has.
HOSTILE = [
    [member("../got-out-of-unsandbox")],
    [member("deep/../../got-out-of-unsandbox")],
    [member("/tmp/got-out-of-unsandbox")],
    [link("out", "/tmp"), member("out/got-out-of-unsandbox")],
    [link("out", "/tmp"), member("out", type=tarfile.DIRTYPE), member("out/got-out-of-unsandbox")],
    [link("up", "../../../../../../../tmp"), member("up/got-out-of-unsandbox")],
    [link("one", "."), link("one/two", ".."), member("one/two/got-out-of-unsandbox")],
    [link("shadow", "/etc/shadow", tarfile.LNKTYPE)],
    [link("shadow", "../../../../../../etc/shadow", tarfile.LNKTYPE)],
    [link("hole", "/tmp/got-out-of-unsandbox"), member("hole")],
    [member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0)],
    [member("kmsg", type=tarfile.CHRTYPE, devmajor=1, devminor=11)],
    [member("root-shell", mode=0o6755, uid=0, gid=0)],
    [member("got-out-of-unsandbox", type=b"M")],
]


def hostile_archive(members: list[tarfile.TarInfo]) -> bytes:
    """Return a compressed archive of a good file and of these."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for info in [member("good"), *members]:
            data = b"got-out-of-unsandbox\n" if info.isreg() and not info.name.endswith("/") else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return zstandard.compress(plain.getvalue())


def plant(folder: Path, snapshot: str, data: bytes) -> None:
    """Do what somebody can who may write the store: put bytes there that fit their hash, and a row with it."""
    sha256 = hashlib.sha256(data).hexdigest()
    blob = folder / "blobs" / "blobs" / sha256[:2] / sha256
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(data)
    with contextlib.closing(sqlite3.connect(folder / "unsandbox.sqlite3")) as database, database:
        (row,) = database.execute("SELECT document FROM objects WHERE object_id = ?", [snapshot]).fetchall()
        document = json.dumps(json.loads(row[0]) | {"sha256": sha256, "size": len(data)}).encode()
        database.execute("UPDATE objects SET document = ? WHERE object_id = ?", [document, snapshot])


async def test_nothing_gets_out_of_a_hostile_archive(tmp_path):
    async with lasting(tmp_path) as wire:
        session = await new_session(wire)
        snapshots = [(await new_snapshot(wire, session))["id"] for _ in HOSTILE]
        await run(wire, session, "echo mine > mine")
    for snapshot, members in zip(snapshots, HOSTILE, strict=True):
        plant(tmp_path, snapshot, hostile_archive(members))
    refused = 0
    async with lasting(tmp_path) as wire:
        for snapshot in snapshots:
            answer = await wire.call("POST", f"/snapshots/{snapshot}/restore")
            if answer.status == 200:
                # What was harmless inside is there; nothing of it is outside, special, or root's.
                assert await run(wire, session, "cat good") == "got-out-of-unsandbox\n"
                looked = "find / -xdev -path /work -prune -o -name 'got-out-of-unsandbox*' -print 2>/dev/null;"
                looked += (
                    "find . -perm /6000 -o -type b -o -type c -o -user 0; grep -r root: . 2>/dev/null; true"
                )
                assert await run(wire, session, looked) == ""
                await run(wire, session, "find . -mindepth 1 -delete; echo mine > mine")
            else:
                assert (answer.status, answer.json["error"]) == (409, "damaged"), answer.json
                assert await run(wire, session, "cat mine; ls -A") == "mine\nmine\n"
                refused += 1
            for place in (Path("/tmp"), tmp_path, tmp_path.parent, Path("/"), Path("/run"), Path.cwd()):
                assert not list(place.glob("got-out-of-unsandbox*"))
    assert refused >= 8


@pytest.mark.root
async def test_a_full_disk_is_507_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    try:
        async with lasting(disk, work_bytes=32 << 20) as wire:
            session = await new_session(wire)
            await run(wire, session, "head -c 12M /dev/urandom > noise; sha256sum noise > sum")
            good = await new_snapshot(wire, session)
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"\0" * 65536)
            answer = await wire.call("POST", "/snapshots", {"session_id": session})
            assert (answer.status, answer.json["error"]) == (507, "insufficient_storage")
            listed = (await wire.call("GET", "/snapshots")).json
            assert [item["id"] for item in listed["snapshots"]] == [good["id"]]
            filler.unlink()
            assert await run(wire, session, "sha256sum -c sum") == "noise: OK\n"
            await run(wire, session, "rm noise")
            await restore(wire, good["id"])
            assert await run(wire, session, "sha256sum -c sum") == "noise: OK\n"
            assert (await wire.call("DELETE", f"/snapshots/{good['id']}")).status == 200
            await new_snapshot(wire, session)
    finally:
        subprocess.run(["umount", disk], check=True)


async def test_too_large_and_too_many_are_refused(tmp_path):
    async with lasting(tmp_path, snapshot_bytes=100_000, snapshots_per_key=2) as wire:
        session = await new_session(wire)
        for _ in range(2):
            await new_snapshot(wire, session)
        answer = await wire.call("POST", "/snapshots", {"session_id": session})
        assert (answer.status, answer.json["error"]) == (429, "snapshot_limit_reached")
        listed = (await wire.call("GET", "/snapshots")).json["snapshots"]
        await wire.call("DELETE", f"/snapshots/{listed[0]['id']}")
        await run(wire, session, "head -c 200000 /dev/urandom > noise")
        answer = await wire.call("POST", "/snapshots", {"session_id": session})
        assert (answer.status, answer.json["error"]) == (413, "snapshot_too_large")


WHITEOUT = """import ctypes, os
os.chdir('/work'); open('a', 'w').close()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.renameat2(-100, b'a', -100, b'b', 4) == 0, os.strerror(ctypes.get_errno())
"""
NESTED = """import os
os.chdir('/work')
for _ in range(DEPTH): os.mkdir('d'); os.chdir('d')
"""


@pytest.mark.parametrize(
    ("code", "why", "clean"),
    [
        (WHITEOUT, "unsupported entry type", "rm -f a b"),
        (NESTED.replace("DEPTH", "1001"), "nested more than 1000 deep", "rm -rf d"),
        # tar itself would take long, and end for want of stack.
        (NESTED.replace("DEPTH", "12000"), "nested more than 1000 deep", "rm -rf d"),
    ],
    ids=["device", "nested", "nested very deep"],
)
async def test_what_could_not_be_restored_is_refused_when_it_is_saved(wire, session, code, why, clean):
    before = (await wire.call("GET", "/snapshots")).json["count"]
    made = await wire.call("POST", f"/sessions/{session}/shell", {"command": f'python3 -c "{code}"'})
    if made.json["exit_code"] != 0:
        pytest.skip("this kernel or this file system does not make such a file for a tenant")
    refused = await wire.call("POST", f"/sessions/{session}/snapshot", {})
    assert (refused.status, refused.json["error"]) == (400, "not_restorable"), refused.json
    assert why in refused.json["message"]
    assert (await wire.call("GET", "/snapshots")).json["count"] == before
    await run(wire, session, clean)
    saved = await wire.call("POST", f"/sessions/{session}/snapshot", {})
    assert saved.status == 200, saved.json
    assert (await wire.call("POST", f"/snapshots/{saved.json['id']}/restore")).status == 200
