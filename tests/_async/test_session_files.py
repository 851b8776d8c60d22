"""Files of a session, on both backends: what they mean inside, errors as Python has them, whole folders."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from unsandbox import AsyncLiveSession, BadRequestError, ConflictError, UnsandboxError

MIB = 1 << 20


async def test_content_and_state(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    written = await files.write("a/b/c d.txt", "héllo")
    assert (written.path, written.size, written.mode, written.is_file) == ("/work/a/b/c d.txt", 6, 0o644, True)
    assert await files.read_text("/work/a/b/c d.txt") == "héllo"
    assert await files.read("a/b/c d.txt", offset=1, length=2) == "é".encode()
    assert [await files.exists(path) for path in ("a", "a/b/c d.txt", "a/b/x", "a/b/c d.txt/x")] == [
        True,
        True,
        False,
        False,
    ]
    assert (await workspace.exec(["cat", "a/b/c d.txt"])).stdout == "héllo"
    await files.chmod("a/b/c d.txt", 0o750)
    await files.write("a/b/c d.txt", b"new")
    assert (await files.stat("a/b/c d.txt")).mode == 0o750
    await files.write("a/b/c d.txt", "+more", append=True)
    assert await files.read("a/b/c d.txt") == b"new+more"
    assert await files.read("/proc/self/comm") != b""


async def test_large_files(workspace: AsyncLiveSession) -> None:
    data = os.urandom(7 * MIB + 1)
    await workspace.files.write("big", io.BytesIO(data))
    assert await workspace.files.read("big") == data
    assert (await workspace.exec("sha256sum < big | wc -c; ls -A")).stdout.split() == ["68", "big"]


async def test_errors_are_pythons_own(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    await files.write("dir/file", "x")
    with pytest.raises(FileNotFoundError, match="/work/nope"):
        await files.read("nope")
    with pytest.raises(IsADirectoryError):
        await files.read("dir")
    with pytest.raises(IsADirectoryError):
        await files.write("dir", "x")
    with pytest.raises(NotADirectoryError):
        await files.list("dir/file")
    for path in ("dir/file/x", "dir/file/x/y"):
        with pytest.raises(NotADirectoryError):
            await files.write(path, "x")
        with pytest.raises(NotADirectoryError):
            await files.make_dir(path)
        with pytest.raises(NotADirectoryError):
            await files.copy("dir/file", path)
    with pytest.raises(PermissionError):
        await files.write("/etc/x", "x")
    with pytest.raises(FileExistsError):
        await files.write("dir/file", "x", exclusive=True)
    with pytest.raises(FileExistsError):
        await files.make_dir("dir", exist_ok=False)
    with pytest.raises(ConflictError, match="not empty"):
        await files.remove("dir")
    with pytest.raises(FileNotFoundError):
        await files.remove("nope")
    with pytest.raises(UnsandboxError):
        await files.read("nope")
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(BadRequestError, match="not a regular file") as caught:
            await files.read(device)
        assert isinstance(caught.value, OSError)
    with pytest.raises(BadRequestError, match="NUL"):
        await files.read("a\0b")
    with pytest.raises(BadRequestError, match="empty"):
        await files.read("")


async def test_a_fifo_or_a_replaced_file_holds_nothing_up(workspace: AsyncLiveSession) -> None:
    await workspace.exec("mkfifo pipe; ln -s pipe link; ln -s loop loop")
    for name in ("pipe", "link"):
        with pytest.raises(BadRequestError, match="not a regular file"):
            await workspace.files.read(name)
        with pytest.raises(BadRequestError, match="not a regular file"):
            await workspace.files.write(name, "x")
    with pytest.raises(UnsandboxError):
        await workspace.files.read("loop")
    await workspace.files.write("big", bytes(4 * MIB))
    parts = workspace.files.stream("big")
    await parts.__anext__()
    await workspace.files.write("big", bytes(5 * MIB))
    with pytest.raises(ConflictError, match="changed"):
        await parts.__anext__()


async def test_folders(workspace: AsyncLiveSession) -> None:
    files = workspace.files
    for name in ("top/b.py", "top/a/c.py", "top/a/d.txt", "top/B"):
        await files.write(name, name)
    assert [entry.name for entry in await files.list("top")] == ["B", "a", "b.py"]
    assert [entry.name for entry in await files.list("top", depth=2)] == ["B", "a", "a/c.py", "a/d.txt", "b.py"]
    assert [entry.name for entry in await files.glob("**/*.py", "top")] == ["a/c.py", "b.py"]
    await files.copy("top", "copy")
    await files.move("copy/a", "moved")
    assert [entry.name for entry in await files.list("copy")] == ["B", "b.py"]
    assert await files.read("moved/c.py") == b"top/a/c.py"
    await files.remove("top", recursive=True)
    await files.remove("top", missing_ok=True)
    assert not await files.exists("top")
    await workspace.exec("mkdir many; cd many; seq 2500 | xargs touch; ln -s / root")
    names = [entry.name for entry in await files.list("many", depth=9)]
    assert len(names) == len(set(names)) == 2501
    assert (await files.stat("many/root", follow=False)).type == "symlink"
    assert await files.realpath("many/root/../etc") == "/etc"


async def test_links_are_resolved_inside(workspace: AsyncLiveSession) -> None:
    await workspace.exec("ln -s /etc/passwd inner; ln -s /proc/1/root/etc/shadow shadow; ln -s target later")
    assert b"sandbox" in await workspace.files.read("inner")
    with pytest.raises(UnsandboxError):
        await workspace.files.read("shadow")
    await workspace.files.write("later", "through")
    assert (await workspace.files.stat("target")).size == 7


async def test_folders_are_copied_both_ways(workspace: AsyncLiveSession, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "run.sh").write_text("echo it runs")
    (source / "deep" / "run.sh").chmod(0o755)
    (source / "link").symlink_to("deep/run.sh")
    await workspace.files.upload(source, "there")
    assert (await workspace.exec(["sh", "link"], cwd="there")).stdout == "it runs\n"
    await workspace.exec("ln -s /etc/passwd there/outside; echo more > there/more; mkfifo there/pipe")
    await workspace.exec("rm there/outside")
    await workspace.files.download("there", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["deep", "link", "more", "run.sh"]
    await workspace.files.download("there/more", tmp_path)
    assert (tmp_path / "more").read_text() == "more\n"
    await workspace.files.upload(tmp_path / "more", "one")
    assert [entry.name for entry in await workspace.files.list()] == ["one", "there"]


async def test_nothing_is_written_outside_a_downloaded_folder(
    workspace: AsyncLiveSession, tmp_path: Path
) -> None:
    await workspace.exec("mkdir evil; ln -s / evil/up; ln -s /etc/passwd evil/secret")
    with pytest.raises(UnsandboxError, match="bad archive"):
        await workspace.files.download("evil", tmp_path / "evil")
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
