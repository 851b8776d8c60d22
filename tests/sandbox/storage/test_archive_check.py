"""What an archive may hold: all that `PACK` writes, and nothing that leads out or that tar may read otherwise."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from unsandbox.sandbox.errors import InvalidArchiveError
from unsandbox.sandbox.spec import MIB
from unsandbox.sandbox.storage.archive import PACK
from unsandbox.sandbox.storage.archive_check import examine

END = bytes(1024)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "", format_: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(format_ or tarfile.USTAR_FORMAT)


def extension(*records: bytes) -> bytes:
    data = b"".join(records)
    return header("x", b"x", len(data)) + data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    return str(length + (len(str(length)) > len(str(len(rest))))).encode() + rest


def sparse(**changes: bytes) -> bytes:
    said = {"major": b"1", "minor": b"0", "name": b"s", "realsize": b"9"} | changes
    return extension(
        record(b"path", b"in"), *(record(b"GNU.sparse." + key.encode(), said[key]) for key in said)
    )


def looked_through(folder: Path, *parts: bytes, work_bytes: int = MIB) -> None:
    file = folder / "archive"
    file.write_bytes(b"".join(parts))
    examine(file, work_bytes)


@pytest.mark.parametrize("compressed", [False, True])
def test_whatever_tar_packs_is_taken(tmp_path, compressed):
    work = tmp_path / "work"
    deep = work.joinpath(*["d" * 90] * 5)
    deep.mkdir(parents=True)
    (deep / "far").write_bytes(b"x" * 3000)
    (work / "..almost").write_bytes(os.urandom(600_000))
    Path(os.fsdecode(os.fsencode(work) + b"/not-\xff\xfe-utf8\n")).write_bytes(b"")
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 34)
        file.seek(1 << 33)
        file.write(b"middle")
    (work / "soft").symlink_to("/etc/" + "l" * 300)
    os.link(work / "soft", work / "soft-too", follow_symlinks=False)
    os.link(deep / "far", work / "hard")
    os.mkfifo(work / "fifo")
    os.utime(work / "fifo", (0.5, -1.5))
    packed = subprocess.run(
        [word.replace("/work", str(work)) for word in PACK],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        names = tar.getnames()
    assert {"./sparse", "./soft-too", "./hard", "./fifo"} < set(names)
    looked_through(tmp_path, zstandard.compress(packed) if compressed else packed)
    for cut in (511, 512, 5000, len(packed) // 2):
        with pytest.raises(InvalidArchiveError, match="ends early"):
            looked_through(tmp_path, zstandard.compress(packed[:cut]) if compressed else packed[:cut])


FILE = header("file", size=3) + b"abc".ljust(512, b"\0")
TO_ETC = header("way", tarfile.SYMTYPE, link="/etc")


def mapped(map_: bytes) -> bytes:
    """The beginning of a sparse file that has one block of content by its header."""
    return header("s", size=1024) + map_.ljust(512, b"\0")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        # By the extension, whatever the header says.
        ((extension(record(b"path", b"../out")), FILE), "outside the folder"),
        ((extension(record(b"path", b"/out")), FILE), "outside the folder"),
        ((sparse(name=b"a/../../out"), FILE), "outside the folder"),
        (
            (extension(record(b"linkpath", b"../x")), header("h", tarfile.LNKTYPE, link="in")),
            "outside the folder",
        ),
        ((TO_ETC, extension(record(b"path", b"./way//passwd")), FILE), "through a link"),
        ((TO_ETC, extension(record(b"path", b"way/.")), FILE), "link twice"),
        # A hard link to a link is one.
        ((TO_ETC, header("too", tarfile.LNKTYPE, link="way"), header("too/passwd")), "through a link"),
        # What GNU tar could read in another way.
        ((header("folder/", size=512), header("../out")), "type of its entry"),
        ((extension(record(b"path", b"folder/")), FILE), "type of its entry"),
        ((header("s", tarfile.SYMTYPE, 512, "x"), header("../out")), "type of its entry"),
        ((header("d", tarfile.DIRTYPE, 512), header("../out")), "type of its entry"),
        ((header(".", tarfile.REGTYPE),), "type of its entry"),
        (
            (extension(record(b"GNU.sparse.map", b"0,9"), record(b"GNU.sparse.size", b"9")), FILE),
            "sparse format",
        ),
        ((extension(record(b"GNU.sparse.realsize", b"512")), TO_ETC, header("../out")), "sparse format"),
        ((sparse(), TO_ETC, header("../out")), "sparse format"),
        ((sparse(minor=b"1"), FILE), "sparse format"),
        ((sparse(map=b"0,9"), FILE), "sparse format"),
        ((sparse(), header("empty"), header("../out")), "map of a sparse file"),
        ((sparse(), mapped(b"1\n0\n600\n"), header("../out"), END), "map of a sparse file"),
        ((sparse(), mapped(b"1\n0\n-1\n"), bytes(512)), "invalid number"),
        ((sparse(), mapped(b"9" * 300 + b"\n"), bytes(512)), "invalid number"),
        ((sparse(), mapped(b"9" * 512), bytes(512)), "map of a sparse file"),
        ((sparse(), mapped(b"400\n"), bytes(512)), "map of a sparse file"),
        ((sparse(), mapped(b"1\n0\n"), bytes(512)), "map of a sparse file"),
        ((sparse(), mapped(b""), bytes(512)), "map of a sparse file"),
        ((header("n" * 150, format_=tarfile.GNU_FORMAT),), "unsupported entry type"),
        ((header("g", b"g"),), "unsupported entry type"),
        ((header("old", tarfile.AREGTYPE),), "unsupported entry type"),
        ((header("sparse", tarfile.GNUTYPE_SPARSE),), "unsupported entry type"),
        # Damaged.
        ((extension(record(b"path", b"a")), extension(record(b"path", b"b")), FILE), "two extensions"),
        ((extension(record(b"path", b"a")), END), "header is missing"),
        ((extension(record(b"path", b"a\0b")), FILE), "no name"),
        ((extension(record(b"path", b"")), FILE), "no name"),
        ((extension(record(b"size", b"-1")), FILE), "invalid number"),
        ((extension(record(b"size", b"9" * 5000)), FILE), "damaged"),
        ((extension(b"7 a=bcd\n"), FILE), "extension of a header is wrong"),
        ((extension(b"99 a=b\n"), FILE), "extension of a header is wrong"),
        ((extension(b"0 a=b\n"), FILE), "extension of a header is wrong"),
        ((extension(b"a=b\n"), FILE), "invalid number"),
        ((header("x", b"x", 2 * MIB), bytes(2 * MIB)), "header is too large"),
        ((FILE.replace(b"file", b"fail", 1),), "checksum"),
        ((b"\xff" * 512,), "invalid number"),
    ],
)
def test_what_leads_out_or_is_damaged_is_refused(tmp_path, parts, words):
    with pytest.raises(InvalidArchiveError, match=words):
        looked_through(tmp_path, *parts, END)


@pytest.mark.parametrize("parts", [(), (FILE,), (FILE, END[:100]), (FILE[:600],), (FILE[:300],)])
def test_what_was_cut_off_is_refused(tmp_path, parts):
    with pytest.raises(InvalidArchiveError, match="ends early"):
        looked_through(tmp_path, *parts)


def test_sizes_beyond_the_digits_of_a_header_are_read(tmp_path):
    large = header("large", size=1 << 34, format_=tarfile.GNU_FORMAT)
    assert large[124] == 0x80
    with pytest.raises(InvalidArchiveError, match="ends early"):
        looked_through(tmp_path, large, bytes(4096), END)
    with pytest.raises(InvalidArchiveError, match="ends early"):
        looked_through(tmp_path, extension(record(b"size", b"17179869184")), FILE, END)


def test_what_unfolds_beyond_the_quota_is_refused(tmp_path):
    bomb = zstandard.ZstdCompressor().compressobj()
    with (tmp_path / "archive").open("wb") as file:
        file.write(bomb.compress(header("zeros", size=300 * MIB)))
        for _ in range(300):
            file.write(bomb.compress(bytes(MIB)))
        file.write(bomb.compress(END) + bomb.flush())
    examine(tmp_path / "archive", 30 * MIB)
    with pytest.raises(InvalidArchiveError, match="exceeds the quota"):
        examine(tmp_path / "archive", 10 * MIB)
