"""The work folder of a live sandbox: its disk and quota, archives of it, and connections into the sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import os
import signal
import socket
import tarfile
from pathlib import Path

import pytest
import pytest_asyncio
import zstandard
from tests.sandbox.support import eventually, sandbox_processes

from unsandbox.sandbox import InvalidSpecError, SandboxError, SandboxFile, SandboxUnavailable
from unsandbox.sandbox.bubblewrap import persistent
from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.storage import work_disk as disk_module

MIB = 1 << 20
SMALL = PersistentLimits(memory_bytes=256 * MIB, processes=64, work_bytes=32 * MIB)


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(backend):
    sandbox: PersistentSandbox = await backend.open_persistent(PersistentSpec(limits=SMALL))
    yield sandbox
    await sandbox.close()


async def output(sandbox: PersistentSandbox, script: str) -> str:
    outcome = await sandbox.run(["sh", "-c", script])
    assert outcome.exit_code == 0, outcome.stderr.data
    return outcome.stdout.data.decode()


# Disk


@pytest.mark.root
async def test_the_quota_ends_in_enospc_and_what_is_deleted_comes_back(fresh):
    assert fresh.disk_used() < MIB
    said = await fresh.run(["sh", "-c", "head -c 100000000 /dev/zero > big; stat -c %s big; rm big"])
    assert b"No space left" in said.stderr.data
    assert 31 * MIB <= int(said.stdout.data) <= 36 * MIB
    await output(fresh, "head -c 20000000 /dev/urandom > half; sync")
    assert 19 * MIB <= fresh.disk_used() <= 21 * MIB
    # Small files too: more than the quota's blocks cannot be had by many inodes.
    many = await fresh.run(
        ["sh", "-c", "mkdir m; cd m; for i in $(seq 20000); do : > $i || exit 1; done 2>/dev/null"]
    )
    assert many.exit_code != 0


@pytest.mark.root
async def test_the_disk_takes_neither_devices_nor_set_user_id(fresh):
    said = await output(fresh, "grep ' /work ' /proc/mounts; stat -c '%U %a' /work; ls -A /work")
    assert "ext4" in said
    assert "nosuid" in said
    assert "nodev" in said
    assert "sandbox 755\n" in said
    assert "lost+found" not in said


async def test_a_named_disk_is_kept_and_used_again(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "LOCK_TIMEOUT_S", 0.2)
    disk = tmp_path / "disk"
    first = await backend.open_persistent(PersistentSpec(limits=SMALL, work_disk=disk))
    await output(first, "mkdir -p a/b; echo kept > a/b/note; chmod 700 a; ln -s /etc/passwd link")
    with pytest.raises(SandboxError, match="in use"):
        await asyncio.wait_for(backend.open_persistent(PersistentSpec(limits=SMALL, work_disk=disk)), 20)
    await first.close()
    # Others take this number, and with it the user; the disk's owner is another one then.
    between = await backend.open_persistent(PersistentSpec())
    second = await backend.open_persistent(PersistentSpec(limits=SMALL, work_disk=disk))
    assert await output(second, "cat a/b/note; stat -c %U a a/b/note; readlink link") == (
        "kept\nsandbox\nsandbox\n/etc/passwd\n"
    )
    await output(second, "echo more >> a/b/note; rm -r a")
    await second.close()
    await between.close()


@pytest.mark.root
async def test_a_disk_grows_with_its_quota(backend, tmp_path):
    disk = tmp_path / "disk"
    sandbox = await backend.open_persistent(PersistentSpec(limits=SMALL, work_disk=disk))
    await output(sandbox, "echo x > x")
    await sandbox.close()
    larger = PersistentLimits(work_bytes=80 * MIB)
    sandbox = await backend.open_persistent(PersistentSpec(limits=larger, work_disk=disk))
    assert await output(sandbox, "cat x; head -c 75000000 /dev/zero > big; stat -c %s big") == "x\n75000000\n"
    await sandbox.close()


@pytest.mark.root
async def test_an_image_is_sparse(backend, tmp_path):
    disk = tmp_path / "disk"
    sandbox = await backend.open_persistent(PersistentSpec(work_disk=disk))
    await sandbox.close()
    status = disk.stat()
    assert status.st_size > 2000 * MIB
    assert status.st_blocks * 512 < 16 * MIB
    assert status.st_mode & 0o777 == 0o600


async def test_a_disk_that_is_none_is_told(backend, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(b"not a file system" * 1000)
    with pytest.raises((SandboxError, SandboxUnavailable)):
        await backend.open_persistent(PersistentSpec(limits=SMALL, work_disk=disk))
    assert disk.read_bytes().startswith(b"not a file")
    with pytest.raises(OSError):
        await backend.open_persistent(PersistentSpec(work_disk=tmp_path / "no" / "such"))


# Archives


async def test_archive_and_replace(backend, fresh, tmp_path):
    archive = tmp_path / "work.tar.zst"
    script = """
mkdir -p a/deep closed; echo one > a/deep/file; chmod 640 a/deep/file; chmod 000 a/deep/file
printf '#!/bin/sh\\necho ran' > run; chmod 755 run; ln run hard; ln -s /usr/bin/env soft; ln -s ../../etc up
echo hidden > closed/x; chmod 500 closed; mkfifo pipe; touch -d 2001-02-03 old; truncate -s 1G sparse
cp run setuid; chmod 4755 setuid; mkdir 'odd name'; echo x > "odd name/$(printf 'new\\nline')"
"""
    await output(fresh, script)
    hashed = await fresh.archive_work(archive)
    assert hashed.size == archive.stat().st_size < 10_000
    assert hashed.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]
    assert not fresh.frozen
    other = await backend.open_persistent(PersistentSpec(limits=SMALL))
    await output(other, "mkdir -p stale/x; chmod 555 stale; echo old > old; echo y > a")
    await other.replace_work(archive)
    look = """
stat -c '%n %a %F %U %Y' a a/deep/file closed run soft setuid pipe
chmod 600 a/deep/file; cat a/deep/file closed/x; ./hard; stat -c %h run; readlink soft up
stat -c '%s %b' sparse; date -r old +%F; ls -A; cat 'odd name'/*
"""
    said = await output(other, look)
    lines = said.splitlines()
    assert lines[1].startswith("a/deep/file 0 regular file sandbox ")
    assert lines[2].startswith("closed 500 directory sandbox")
    assert lines[5].startswith("setuid 755")
    assert lines[6].startswith("pipe 644 fifo")
    assert lines[7:15] == [
        "one",
        "hidden",
        "ran",
        "2",
        "/usr/bin/env",
        "../../etc",
        "1073741824 0",
        "2001-02-03",
    ]
    assert "stale" not in said
    assert lines[-1] == "x"
    await other.close()
    started = await backend.open_persistent(
        PersistentSpec(limits=SMALL, work_archive=archive, files=[SandboxFile("/work/new", b"n")])
    )
    assert await output(started, "cat new; ./hard") == "nran\n"
    await started.close()


async def test_an_archive_is_taken_at_one_moment(fresh, tmp_path):
    """Two files that a program always changes together are alike in the archive."""
    writer = await fresh.spawn(["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > one; echo $i > two; done"])
    await eventually_async(fresh, "[ -s two ]")
    for number in range(3):
        await fresh.archive_work(tmp_path / str(number))
        with unfolded(tmp_path / str(number)) as tar:
            one, two = (int(tar.extractfile(f"./{name}").read() or -1) for name in ("one", "two"))
        assert one - two in (0, 1) or -1 in (one, two)
    before = await output(fresh, "cat two")
    await eventually_async(fresh, f"[ \"$(cat two)\" != '{before.strip()}' ]")
    writer.kill()
    writer.close()


async def eventually_async(sandbox: PersistentSandbox, condition: str) -> None:
    for _ in range(200):
        if (await sandbox.run(["sh", "-c", condition])).exit_code == 0:
            return
    raise AssertionError(condition)


def unfolded(path: Path) -> tarfile.TarFile:
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    return tarfile.open(fileobj=io.BytesIO(data))


async def test_a_frozen_sandbox_is_archived_and_stays_frozen(fresh, tmp_path):
    await output(fresh, "echo x > x")
    await fresh.freeze()
    await fresh.archive_work(tmp_path / "a")
    assert fresh.frozen
    await fresh.replace_work(tmp_path / "a")
    with pytest.raises(SandboxError, match="frozen"):
        await fresh.spawn(["true"])
    await fresh.unfreeze()
    assert await output(fresh, "cat x") == "x\n"


async def test_an_archive_that_cannot_be_written_leaves_nothing(fresh, tmp_path):
    with pytest.raises(FileNotFoundError):
        await fresh.archive_work(tmp_path / "no" / "folder")
    await output(fresh, "head -c 20000000 /dev/urandom > x")
    task = asyncio.create_task(fresh.archive_work(tmp_path / "cancelled"))
    while not list(tmp_path.iterdir()):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == []
    assert await output(fresh, "echo goes on") == "goes on\n"


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = len(data)
    return info, data


def tar_file(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


LINK = member("way", type=tarfile.SYMTYPE, linkname="/tmp")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([member("../out", data=b"x")], "outside the folder"),
        ([member("/tmp/out", data=b"x")], "outside the folder"),
        ([member("a/../../out", data=b"x")], "outside the folder"),
        ([LINK, member("way/out", data=b"x")], "through a link"),
        ([LINK, member("hard", type=tarfile.LNKTYPE, linkname="way/out")], "through a link"),
        ([member("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "outside the folder"),
        ([member("hard", type=tarfile.LNKTYPE, linkname="../etc/passwd")], "outside the folder"),
        ([member("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "unsupported entry type"),
        ([member("dev", type=tarfile.BLKTYPE, devmajor=7, devminor=0)], "unsupported entry type"),
    ],
)
async def test_archives_that_lead_out_are_refused_before_anything_changes(fresh, tmp_path, members, words):
    await output(fresh, "echo kept > kept")
    with pytest.raises(InvalidArchiveError, match=words):
        await fresh.replace_work(tar_file(tmp_path / "bad.tar", *members))
    assert await output(fresh, "cat kept; ls /tmp") == "kept\n"


async def test_archives_that_are_none_are_refused(fresh, tmp_path):
    good = tar_file(tmp_path / "good", member("x", data=b"x" * 10_000)).read_bytes()
    packed = zstandard.ZstdCompressor().compress(good)
    huge = tar_file(tmp_path / "huge", member("x", data=bytes(330 * MIB))).read_bytes()
    bomb = zstandard.ZstdCompressor().compress(huge)
    del huge
    broken = bytearray(good)
    broken[100] ^= 1
    for data in (b"", b"text" * 500, good[:5000], packed[:-3], bytes(broken), bomb, packed[:8] + b"\0" * 100):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(InvalidArchiveError):
            await fresh.replace_work(tmp_path / "bad")
    with pytest.raises(FileNotFoundError):
        await fresh.replace_work(tmp_path / "none")
    await fresh.replace_work(tmp_path / "good")
    assert await output(fresh, "stat -c '%s %U' x") == "10000 sandbox\n"


@pytest.mark.root
async def test_an_archive_beyond_the_quota_is_told_as_such(backend, fresh, tmp_path):
    large = await backend.open_persistent(PersistentSpec())
    await output(large, "head -c 50000000 /dev/urandom > x")
    await large.archive_work(tmp_path / "large")
    await large.close()
    with pytest.raises(OSError, match="quota") as raised:
        await fresh.replace_work(tmp_path / "large")
    assert raised.value.errno == errno.EDQUOT
    assert await output(fresh, "echo usable") == "usable\n"


async def test_tar_itself_would_not_lead_out_either(fresh, tmp_path, monkeypatch):
    """The second line of defence: what the check lets through meets tar inside, as the sandbox's user."""
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    tmp_path.chmod(0o777)
    canary.chmod(0o666)
    evil = tar_file(
        tmp_path / "evil.tar",
        member("way", type=tarfile.SYMTYPE, linkname=str(tmp_path)),
        member("way/canary", data=b"written"),
        member("../../../../../.." + str(canary), data=b"written"),
        member(str(canary), data=b"written"),
    )
    with pytest.raises(InvalidArchiveError):
        await fresh.replace_work(evil)
    monkeypatch.setattr(persistent, "examine", lambda *_: None)
    with contextlib.suppress(SandboxError):
        await fresh.replace_work(evil)
    assert canary.read_text() == "untouched"


# Connections


SERVER = """
import socket, sys
family = socket.AF_INET6 if sys.argv[2] == "6" else socket.AF_INET
s = socket.create_server(("::1" if sys.argv[2] == "6" else "127.0.0.1", int(sys.argv[1])), family=family)
print("up", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b"got " + c.recv(100))
    c.close()
"""


@pytest.mark.parametrize("version", ["4", "6"])
async def test_connect_reaches_the_loopback_inside(fresh, version):
    server = await fresh.spawn(["/usr/bin/python3", "-c", SERVER, "8000", version])
    await eventually(lambda: readable(server.stdout_fd), 10)
    for _ in range(3):
        with socket.socket(fileno=await fresh.connect(8000)) as sock:
            assert not os.get_blocking(sock.fileno())
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 100) == b"got hello"
    server.kill()
    server.close()


def readable(fd: int) -> bool:
    try:
        return bool(os.read(fd, 100))
    except BlockingIOError:
        return False


async def test_many_connect_at_once_through_a_few_helpers_that_leave_with_the_sandbox(backend):
    sandbox = await backend.open_persistent(PersistentSpec())
    server = await sandbox.spawn(["/usr/bin/python3", "-c", SERVER, "8000", "4"])
    await eventually(lambda: readable(server.stdout_fd), 10)
    before = set(sandbox_processes())

    async def ask(number: int) -> bytes:
        if number % 3 == 2:
            with pytest.raises(ConnectionError):
                await sandbox.connect(9000 + number)
            return b""
        with socket.socket(fileno=await sandbox.connect(8000)) as sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"%d" % number)
            return await loop.sock_recv(sock, 100)

    answers = await asyncio.gather(*(ask(number) for number in range(60)))
    assert answers == [b"" if number % 3 == 2 else b"got %d" % number for number in range(60)]
    helpers = set(sandbox_processes()) - before
    assert 1 <= len(helpers) <= 4
    # One that was killed is replaced.
    for helper in helpers:
        os.kill(helper, 9)
    assert await ask(0) == b"got 0"
    # A connection that is no longer wanted leaves nothing behind that a later one could be given. The helper stands
    # still meanwhile, so that it cannot have answered before.
    (helper,) = set(sandbox_processes()) - before - helpers
    os.kill(helper, signal.SIGSTOP)
    waiting = asyncio.create_task(sandbox.connect(8000))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.kill(helper, signal.SIGCONT)
    assert await ask(1) == b"got 1"
    server.close()
    await sandbox.close()
    with pytest.raises(SandboxError):
        await sandbox.connect(8000)
    await eventually(lambda: not any(Path(f"/proc/{helper}/exe").exists() for helper in helpers))
    await eventually(lambda: not set(sandbox_processes()) - before)


async def test_connect_to_nothing_is_a_connection_error(fresh):
    # A port of the host is none of the sandbox.
    with socket.create_server(("127.0.0.1", 0)) as host, pytest.raises(ConnectionError):
        await fresh.connect(host.getsockname()[1])
    for port in (0, -1, 65536):
        with pytest.raises(InvalidSpecError):
            await fresh.connect(port)


async def test_memory_and_processes_cannot_be_checkpointed_here(fresh, tmp_path):
    with pytest.raises(SandboxUnavailable, match="gvisor"):
        await fresh.checkpoint(tmp_path / "x")
