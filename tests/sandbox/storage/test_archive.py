"""How archives are compressed and unfolded: the same bytes, whatever they are, on one thread or several."""

from __future__ import annotations

import hashlib
import os
import resource
import threading

import pytest

from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.storage import archive
from unsandbox.sandbox.storage.archive_check import opened

LOW, HIGH = bytes(MIB), os.urandom(MIB)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"x"],
        [HIGH],
        [LOW],
        [HIGH, b"x"],
        [LOW, LOW, LOW],
        # Out of what is worth several threads into what is not, and back; to the end of a frame and beyond it.
        [LOW, HIGH, HIGH, HIGH, HIGH, LOW, LOW, LOW, LOW],
        [LOW, HIGH, HIGH, HIGH, HIGH, LOW, LOW, LOW, LOW, LOW, LOW[:4711]],
    ],
)
def test_what_was_compressed_comes_back(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(archive, "_FRAME_BYTES", 2 * MIB)
    source, end = os.pipe()

    def feed() -> None:
        with open(end, "wb") as pipe:
            pipe.writelines(pieces)

    thread = threading.Thread(target=feed)
    thread.start()
    hashed = archive.compress(source, tmp_path / "archive")
    thread.join()
    packed = (tmp_path / "archive").read_bytes()
    assert hashed.sha256 == hashlib.sha256(packed).hexdigest()
    assert hashed.size == len(packed)
    with opened(tmp_path / "archive") as stream:
        assert stream.read(20 * MIB) == b"".join(pieces)
    target, out = os.pipe()
    got = bytearray()

    def drain() -> None:
        with open(target, "rb") as pipe:
            got.extend(pipe.read())

    thread = threading.Thread(target=drain)
    thread.start()
    archive.decompress(tmp_path / "archive", out)
    thread.join()
    assert got == b"".join(pieces)


def test_one_archive_at_a_time_has_several_threads_and_gives_them_back(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_FRAME_BYTES", 2 * MIB)
    turn = archive.several_threads

    def compress(name: str) -> None:
        source = os.memfd_create("source")
        os.write(source, LOW * 4)
        os.lseek(source, 0, os.SEEK_SET)
        archive.compress(source, tmp_path / name)

    compress("together")
    assert turn.acquire(blocking=False)
    # Somebody else has them: it does without.
    compress("alone")
    turn.release()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            compress("failed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert turn.acquire(blocking=False)
    turn.release()
