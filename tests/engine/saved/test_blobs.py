"""Bytes that last: whole or not there, counted, verified, in a folder or an object store."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore

from unsandbox.engine.errors import Damaged
from unsandbox.engine.saved.blobs import Blobs
from unsandbox.engine.store.disk_full import is_disk_full
from unsandbox.errors import EngineError
from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.storage.hashed_file import HashedFile


@pytest.fixture(params=["folder", "object store"])
def blobs(request, tmp_path):
    if request.param == "folder":
        return Blobs.open(tmp_path)
    return Blobs(MemoryStore(), tmp_path / "scratch")


async def put(blobs: Blobs, data: bytes) -> str:
    async with blobs.scratch() as scratch:
        hashed = write(scratch / "new", data)
        await blobs.put(scratch / "new", hashed)
    return hashed.sha256


def write(path: Path, *pieces: bytes) -> HashedBytes:
    with HashedFile(path) as file:
        for piece in pieces:
            file.write(piece)
        return file.finish()


async def read(blobs: Blobs, sha256: str) -> bytes:
    async with blobs.file(sha256) as path:
        return path.read_bytes()


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "blobs").rglob("*") if path.is_file())


async def test_bytes_are_named_by_their_hash_and_come_back(blobs):
    data = os.urandom(3_000_000)
    sha256 = await put(blobs, data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert await read(blobs, sha256) == data
    assert await read(blobs, sha256) == data


async def test_equal_bytes_stay_until_their_last_holder_lets_go(blobs):
    first, second = await asyncio.gather(put(blobs, b"same"), put(blobs, b"same"))
    assert first == second
    blobs.hold(first)
    for _ in range(2):
        await blobs.release(first)
        assert await read(blobs, first) == b"same"
    await blobs.release(first)
    with pytest.raises(Damaged, match="missing"):
        await read(blobs, first)


async def test_who_reads_is_not_disturbed_by_a_deletion(blobs):
    sha256 = await put(blobs, b"read me")
    async with blobs.file(sha256) as path:
        await blobs.release(sha256)
        assert path.read_bytes() == b"read me"
    with pytest.raises(Damaged):
        await read(blobs, sha256)


async def test_bytes_that_are_stored_and_deleted_at_once_are_there_for_who_holds_them(blobs):
    for _ in range(10):
        sha256 = await put(blobs, b"contended")
        await asyncio.gather(blobs.release(sha256), put(blobs, b"contended"))
        assert await read(blobs, sha256) == b"contended"
        await blobs.release(sha256)


async def test_damaged_bytes_are_refused_and_healed_by_storing_them_again(tmp_path):
    blobs = Blobs.open(tmp_path)
    sha256 = await put(blobs, b"precious")
    path = tmp_path / "blobs" / "blobs" / sha256[:2] / sha256
    path.write_bytes(b"precioux")
    with pytest.raises(Damaged, match="SHA-256"):
        await read(blobs, sha256)
    await put(blobs, b"precious")
    assert await read(blobs, sha256) == b"precious"


async def test_a_start_sweeps_what_nobody_holds_and_what_was_half_written(tmp_path):
    blobs = Blobs.open(tmp_path)
    kept, lost = await put(blobs, b"kept"), await put(blobs, b"lost")
    half = tmp_path / "blobs" / "scratch" / "abc"
    half.mkdir()
    (half / "archive").write_bytes(b"half")
    again = Blobs.open(tmp_path)
    again.hold(kept)
    assert stored(tmp_path) == sorted([kept, lost])
    assert await again.sweep() == 1
    assert stored(tmp_path) == [kept]
    assert await read(again, kept) == b"kept"


async def test_a_store_that_others_may_share_keeps_young_strangers(tmp_path):
    store = MemoryStore()
    ours, theirs = Blobs(store, tmp_path / "ours"), Blobs(store, tmp_path / "theirs")
    sha256 = await put(theirs, b"another server's")
    assert await ours.sweep() == 0
    assert await read(theirs, sha256) == b"another server's"


async def test_files_are_private(tmp_path):
    blobs = Blobs.open(tmp_path)
    sha256 = await put(blobs, b"x")
    async with blobs.file(sha256) as path:
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0


async def test_a_failed_upload_leaves_nothing_held(tmp_path):
    blobs = Blobs(MemoryStore(), tmp_path / "scratch")
    with pytest.raises(FileNotFoundError):
        await blobs.put(tmp_path / "not-there", HashedBytes("00" * 32, 1))
    assert await blobs.sweep() == 0


@pytest.mark.parametrize("remote", [False, True])
async def test_large_bytes_are_never_in_memory_as_a_whole(tmp_path, remote):
    size = 96 * MIB
    store = LocalStore(prefix=tmp_path)  # A MemoryStore would hold them itself.
    blobs = Blobs(store, tmp_path / "scratch", None if remote else tmp_path)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Forget the peak.
    async with blobs.scratch() as scratch:
        hashed = write(scratch / "big", *(bytes(MIB) for _ in range(size // MIB)))
        await blobs.put(scratch / "big", hashed)
    async with blobs.file(hashed.sha256) as path:
        assert path.stat().st_size == size
    assert resident("VmHWM") - before < size * 3 // 4


def resident(what: str) -> int:
    """Bytes of memory of this process: now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(what))


async def test_a_folder_can_be_named_by_url(tmp_path):
    blobs = Blobs.open(tmp_path / "data", (tmp_path / "else where").as_uri())
    sha256 = await put(blobs, b"x")
    assert (tmp_path / "else where" / "blobs" / sha256[:2] / sha256).exists()


def test_what_is_no_store_is_refused_without_its_secrets(tmp_path):
    with pytest.raises(EngineError, match="s3://bucket/prefix") as refusal:
        Blobs.open(tmp_path, "ftp://user:hunter2@host/x")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.root
async def test_a_full_disk_loses_nothing_and_leaves_nothing_half_there(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        blobs = Blobs.open(disk)
        kept = await put(blobs, os.urandom(500_000))
        with pytest.raises(OSError) as refusal:
            await put(blobs, os.urandom(700_000))
        assert is_disk_full(refusal.value)
        assert stored(disk) == [kept]
        await read(blobs, kept)
        await blobs.release(kept)
        await put(blobs, os.urandom(700_000))
    finally:
        subprocess.run(["umount", disk], check=True)


async def test_nothing_else_lies_in_an_object_store(tmp_path):
    store = MemoryStore()
    sha256 = await put(Blobs(store, tmp_path / "scratch"), b"x")
    names = [item["path"] async for batch in obstore.list(store) for item in batch]
    assert names == [f"blobs/{sha256[:2]}/{sha256}"]
