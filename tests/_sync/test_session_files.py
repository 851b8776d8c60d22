# Generated from tests/_async/test_session_files.py by scripts/unasync.py; change that one.
"""Files of a session, on both backends: what they mean inside, errors as Python has them, whole folders."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from unsandbox import BadRequestError, ConflictError, LiveSession, UnsandboxError

MIB = 1 << 20


def test_content_and_state(workspace: LiveSession) -> None:
    files = workspace.files
    written = files.write("a/b/c d.txt", "héllo")
    assert (written.path, written.size, written.mode, written.is_file) == ("/work/a/b/c d.txt", 6, 0o644, True)
    assert files.read_text("/work/a/b/c d.txt") == "héllo"
    assert files.read("a/b/c d.txt", offset=1, length=2) == "é".encode()
    assert [files.exists(path) for path in ("a", "a/b/c d.txt", "a/b/x", "a/b/c d.txt/x")] == [
        True,
        True,
        False,
        False,
    ]
    assert (workspace.exec(["cat", "a/b/c d.txt"])).stdout == "héllo"
    files.chmod("a/b/c d.txt", 0o750)
    files.write("a/b/c d.txt", b"new")
    assert (files.stat("a/b/c d.txt")).mode == 0o750
    files.write("a/b/c d.txt", "+more", append=True)
    assert files.read("a/b/c d.txt") == b"new+more"
    assert files.read("/proc/self/comm") != b""


def test_large_files(workspace: LiveSession) -> None:
    data = os.urandom(7 * MIB + 1)
    workspace.files.write("big", io.BytesIO(data))
    assert workspace.files.read("big") == data
    assert (workspace.exec("sha256sum < big | wc -c; ls -A")).stdout.split() == ["68", "big"]


def test_errors_are_pythons_own(workspace: LiveSession) -> None:
    files = workspace.files
    files.write("dir/file", "x")
    with pytest.raises(FileNotFoundError, match="/work/nope"):
        files.read("nope")
    with pytest.raises(IsADirectoryError):
        files.read("dir")
    with pytest.raises(IsADirectoryError):
        files.write("dir", "x")
    with pytest.raises(NotADirectoryError):
        files.list("dir/file")
    for path in ("dir/file/x", "dir/file/x/y"):
        with pytest.raises(NotADirectoryError):
            files.write(path, "x")
        with pytest.raises(NotADirectoryError):
            files.make_dir(path)
        with pytest.raises(NotADirectoryError):
            files.copy("dir/file", path)
    with pytest.raises(PermissionError):
        files.write("/etc/x", "x")
    with pytest.raises(FileExistsError):
        files.write("dir/file", "x", exclusive=True)
    with pytest.raises(FileExistsError):
        files.make_dir("dir", exist_ok=False)
    with pytest.raises(ConflictError, match="not empty"):
        files.remove("dir")
    with pytest.raises(FileNotFoundError):
        files.remove("nope")
    with pytest.raises(UnsandboxError):
        files.read("nope")
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(BadRequestError, match="not a regular file") as caught:
            files.read(device)
        assert isinstance(caught.value, OSError)
    with pytest.raises(BadRequestError, match="NUL"):
        files.read("a\0b")
    with pytest.raises(BadRequestError, match="empty"):
        files.read("")


def test_a_fifo_or_a_replaced_file_holds_nothing_up(workspace: LiveSession) -> None:
    workspace.exec("mkfifo pipe; ln -s pipe link; ln -s loop loop")
    for name in ("pipe", "link"):
        with pytest.raises(BadRequestError, match="not a regular file"):
            workspace.files.read(name)
        with pytest.raises(BadRequestError, match="not a regular file"):
            workspace.files.write(name, "x")
    with pytest.raises(UnsandboxError):
        workspace.files.read("loop")
    workspace.files.write("big", bytes(4 * MIB))
    parts = workspace.files.stream("big")
    parts.__next__()
    workspace.files.write("big", bytes(5 * MIB))
    with pytest.raises(ConflictError, match="changed"):
        parts.__next__()


def test_folders(workspace: LiveSession) -> None:
    files = workspace.files
    for name in ("top/b.py", "top/a/c.py", "top/a/d.txt", "top/B"):
        files.write(name, name)
    assert [entry.name for entry in files.list("top")] == ["B", "a", "b.py"]
    assert [entry.name for entry in files.list("top", depth=2)] == ["B", "a", "a/c.py", "a/d.txt", "b.py"]
    assert [entry.name for entry in files.glob("**/*.py", "top")] == ["a/c.py", "b.py"]
    files.copy("top", "copy")
    files.move("copy/a", "moved")
    assert [entry.name for entry in files.list("copy")] == ["B", "b.py"]
    assert files.read("moved/c.py") == b"top/a/c.py"
    files.remove("top", recursive=True)
    files.remove("top", missing_ok=True)
    assert not files.exists("top")
    workspace.exec("mkdir many; cd many; seq 2500 | xargs touch; ln -s / root")
    names = [entry.name for entry in files.list("many", depth=9)]
    assert len(names) == len(set(names)) == 2501
    assert (files.stat("many/root", follow=False)).type == "symlink"
    assert files.realpath("many/root/../etc") == "/etc"


def test_links_are_resolved_inside(workspace: LiveSession) -> None:
    workspace.exec("ln -s /etc/passwd inner; ln -s /proc/1/root/etc/shadow shadow; ln -s target later")
    assert b"sandbox" in workspace.files.read("inner")
    with pytest.raises(UnsandboxError):
        workspace.files.read("shadow")
    workspace.files.write("later", "through")
    assert (workspace.files.stat("target")).size == 7


def test_folders_are_copied_both_ways(workspace: LiveSession, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "run.sh").write_text("echo it runs")
    (source / "deep" / "run.sh").chmod(0o755)
    (source / "link").symlink_to("deep/run.sh")
    workspace.files.upload(source, "there")
    assert (workspace.exec(["sh", "link"], cwd="there")).stdout == "it runs\n"
    workspace.exec("ln -s /etc/passwd there/outside; echo more > there/more; mkfifo there/pipe")
    workspace.exec("rm there/outside")
    workspace.files.download("there", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["deep", "link", "more", "run.sh"]
    workspace.files.download("there/more", tmp_path)
    assert (tmp_path / "more").read_text() == "more\n"
    workspace.files.upload(tmp_path / "more", "one")
    assert [entry.name for entry in workspace.files.list()] == ["one", "there"]


def test_nothing_is_written_outside_a_downloaded_folder(workspace: LiveSession, tmp_path: Path) -> None:
    workspace.exec("mkdir evil; ln -s / evil/up; ln -s /etc/passwd evil/secret")
    with pytest.raises(UnsandboxError, match="bad archive"):
        workspace.files.download("evil", tmp_path / "evil")
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
