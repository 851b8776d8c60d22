"""Transfers files into and out of a gVisor sandbox: lines of the job script, and the server's side of them.

The server cannot read such a sandbox through `/proc`, because its files exist only in the sandbox's kernel.
Therefore the script unpacks an archive at the start. At the end, when every program of the tenant is dead, it
lists the artifacts and sends those that the server names. The data is not trusted, and its size is bounded;
names and sizes are only used as labels.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import stat
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unsandbox.protocol.names import MAX_DEPTH
from unsandbox.sandbox.host.artifacts import MAX_ENTRIES_SEEN, Selection
from unsandbox.sandbox.launcher.fd_numbers import ARCHIVE_FD, EXTRA_FD
from unsandbox.sandbox.layout import ARTIFACT_FOLDER, TMP, WORK
from unsandbox.sandbox.spec import MIB, Artifact, SandboxSpec
from unsandbox.sandbox.storage.archive import write_archive

UNPACK = ["tar", "--extract", "--file=-", "--directory=/", "--no-same-owner", "--preserve-permissions"]
"""The command that unpacks an archive of `write_archive` from standard input."""
PACK = [
    "tar", "--create", "--file=-", "--format=gnu", "--absolute-names", "--no-recursion", "--hard-dereference",
    "--ignore-failed-read", "--null", "--files-from=-",
]  # fmt: skip
"""The command that packs the files named on standard input, each name ended by a NUL byte."""
MAX_LISTING = 64 * MIB
_KEPT_LISTING = 16 * MIB
_MAX_LISTED = 2 * MAX_ENTRIES_SEEN
"""Maximum number of entries in a listing, including folders."""
_WRITTEN_BY_SHELL = 1 << 16
_READ_TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_TYPES = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "s": stat.S_IFSOCK,
}  # fmt: skip


def place_lines(spec: SandboxSpec) -> list[str]:
    """Return the lines that put the files of a job in place, and close the archive."""
    close = f"exec {ARCHIVE_FD}<&-"
    if written_by_shell(spec):
        texts = ((file.path, bytes(file.data).decode("utf-8", "surrogateescape")) for file in spec.files)
        return [
            close,
            *(f"printf %s {shlex.quote(text)} > {shlex.quote(path)} || exit 1" for path, text in texts),
        ]
    return [f"{shlex.join(UNPACK)} <&{ARCHIVE_FD} || exit 1", close]


def written_by_shell(spec: SandboxSpec) -> bool:
    """Return whether the script's shell can write all files of a job, which saves a process inside."""
    return (
        not places(spec)
        and sum(len(file.data) for file in spec.files) <= _WRITTEN_BY_SHELL
        and all(
            file.mode == 0o644 and file.path.rpartition("/")[0] in (WORK, TMP) and b"\0" not in bytes(file.data)
            for file in spec.files
        )
    )


def places(spec: SandboxSpec) -> list[str]:
    """Return the folders of an archive that are not parents of its files."""
    return [*spec.folders, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])]


def archive_of(spec: SandboxSpec) -> bytes:
    """Return the tar archive with the files of a job; empty if the shell writes them."""
    if written_by_shell(spec):
        return b""
    archive = io.BytesIO()
    write_archive(spec.files, places(spec), archive)
    return archive.getvalue()


def list_words(*places: str) -> list[str]:
    """Return the command that lists files and, recursively, the content of folders, for `select`."""
    readable = ["(", "-readable", "-printf", "r", "-o", "-printf", "-", ")"]
    return ["find", "-P", *places, "-maxdepth", str(MAX_DEPTH), *readable, "-printf", r"%y %s %m %p\0"]


def hand_over_lines(spec: SandboxSpec) -> list[str]:
    """Return the lines that list the artifacts, and then send those that the server names."""
    places = [*spec.artifact_paths, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])]
    return [
        f"{shlex.join(list_words(*places))} >&{EXTRA_FD}",
        rf"printf '\0' >&{EXTRA_FD}",
        f"xargs -0 -r cat -- <&{EXTRA_FD} >&{EXTRA_FD}",
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a sandbox's listing, which is not trusted."""

    path: str
    mode: int
    size: int
    readable: bool


def fetch(channel: socket.socket, spec: SandboxSpec) -> tuple[list[Artifact], list[str]]:
    """Receive the artifacts that `hand_over_lines` send; runs in a worker thread.

    Returns:
        The artifacts, and the names that were skipped with the reasons.
    """
    selection = Selection(spec.limits)
    give_up = time.monotonic() + _READ_TIMEOUT_S
    try:
        folder = ARTIFACT_FOLDER if spec.collect_artifacts else None
        wanted = select(_read_listing(channel, give_up), folder, spec.artifact_paths, selection)
        channel.sendall(b"".join(os.fsencode(entry.path) + b"\0" for entry in wanted))
        channel.shutdown(socket.SHUT_WR)
        for entry in wanted:
            data = selection.take(entry.size, lambda most: _read_some(channel, most, give_up))
            selection.add(entry.path, data, entry.mode)
    except (OSError, EOFError) as error:
        selection.skip("all", str(error) or "not handed over")
    return selection.artifacts, selection.skipped


def select(listing: bytes, folder: str | None, paths: Sequence[str], selection: Selection) -> list[Entry]:
    """Return the files of a listing to request: single paths first, then those below a folder."""
    listed = _parse(listing)
    return [entry for entry in _in_order(listed, folder, paths, selection) if _admit(entry, selection)]


def take_archive(packed: bytes, wanted: Sequence[Entry], selection: Selection) -> None:
    """Read the archive of `PACK`; accept the selected files that match the listing."""
    missing = {entry.path: entry for entry in wanted}
    # A tenant with running programs can change the content at will.
    with (
        contextlib.suppress(tarfile.TarError, OSError, ValueError, EOFError),
        tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive,
    ):
        for member in archive:
            entry = missing.get(member.name)
            if entry is not None and member.isreg() and member.size <= entry.size:
                content = archive.extractfile(member)
                selection.add(
                    entry.path, selection.take(member.size, content.read) if content else b"", member.mode
                )
                del missing[member.name]
    for path in missing:
        selection.skip(path, "changed while it was read")


def _read_some(channel: socket.socket, most: int, give_up: float) -> bytes:
    channel.settimeout(max(0.001, give_up - time.monotonic()))
    data = channel.recv(min(most, _CHUNK))
    if not data:
        raise EOFError("the sandbox ended first")
    return data


def _read_listing(channel: socket.socket, give_up: float) -> bytes:
    listing, last, total = bytearray(), b"", 0
    while not (last == b"\0\0" or (last == b"\0" and total == 1)):
        data = _read_some(channel, _CHUNK, give_up)
        listing += data[: max(0, _KEPT_LISTING - len(listing))]
        last = (last + data)[-2:]
        total += len(data)
        if total > MAX_LISTING:
            raise EOFError("too many entries")
    return bytes(listing)


def _parse(listing: bytes) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    start = 0
    while len(entries) < _MAX_LISTED and (end := listing.find(b"\0", start)) >= 0:
        words = listing[start:end].split(b" ", 3)
        start = end + 1
        if len(words) == 4 and len(words[0]) == 2 and words[1].isdigit() and words[2].isdigit():
            kind = _TYPES.get(words[0][1:].decode("latin-1"), 0)
            path = os.fsdecode(words[3])
            with contextlib.suppress(ValueError):
                permissions = int(words[2], 8) & 0o777
                entries[path] = Entry(path, kind | permissions, int(words[1]), words[0][:1] == b"r")
    return entries


def _in_order(
    listed: dict[str, Entry], folder: str | None, paths: Sequence[str], selection: Selection
) -> Iterator[Entry]:
    for path in paths:
        if path in listed:
            yield listed[path]
    if folder is None or folder not in listed:
        return
    if not stat.S_ISDIR(listed[folder].mode):
        selection.skip(folder, "not a directory")
        return
    inside = [
        entry
        for path, entry in listed.items()
        if path.startswith(f"{folder}/") and ".." not in path.split("/") and not stat.S_ISDIR(entry.mode)
    ]
    yield from inside[:MAX_ENTRIES_SEEN]
    if len(inside) > MAX_ENTRIES_SEEN:
        selection.skip(folder, f"only the first {MAX_ENTRIES_SEEN} entries were looked at")


def _admit(entry: Entry, selection: Selection) -> bool:
    if stat.S_ISREG(entry.mode) and not entry.readable:
        selection.skip(entry.path, "permission denied")
        return False
    if stat.S_ISLNK(entry.mode):
        selection.skip(entry.path, "symbolic link")
        return False
    return selection.admit(entry.path, entry.mode, entry.size)
