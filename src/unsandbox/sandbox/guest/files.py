"""Works on files inside a sandbox, for the server: one request after the other on standard input.

It runs as the sandbox's user. The kernel resolves every path inside the sandbox, so links, mounts and races
lead to places in the sandbox only. The server trusts nothing in the answers but their framing.

A message has a header (`HEADER`: bytes of JSON, bytes of data), a JSON object, and the data. Python 3.7 or
newer, standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import signal
import stat
import struct
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = tuple[dict[str, Any], bytes]

HEADER = struct.Struct(">II")
MAX_ENTRIES = 10_000
"""Entries in one answer."""
MAX_DEEP = 4
"""Times that `**` may be in a pattern."""
MAX_DATA = 4 << 20
"""Bytes of data in one message."""
MARK = "UNSANDBOX_PROCESS"
"""Variable that names the process to which a child belongs."""
_TEMPORARY = ".unsandbox-"
_EXTRACT: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}


class RefusedError(OSError):
    """A request that makes no sense for the file at its path."""


def describe(path: str, found: os.stat_result, name: str = "") -> dict[str, Any]:
    """Return the description of one file."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    entry = {
        "path": path,
        "name": name or os.path.basename(path.rstrip("/")) or "/",
        "type": kinds.get(stat.S_IFMT(found.st_mode), "other"),
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "modified_at": found.st_mtime_ns / 1e9,
        "version": f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}",
    }
    if stat.S_ISLNK(found.st_mode):
        with contextlib.suppress(OSError):
            entry["target"] = os.readlink(path)
    return entry


def open_regular(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a regular file. A FIFO or device is refused before anything waits for it."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise RefusedError(errno.ENXIO, "not a regular file", path)


def make_parents(folder: str) -> None:
    """Make a folder for a file, and those above it."""
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error


def do_stat(path: str, follow: bool = True, **_: Any) -> Answer:
    """Describe one file."""
    return describe(path, os.stat(path) if follow else os.lstat(path)), b""


def do_read(path: str, offset: int = 0, length: int = MAX_DATA, version: str = "", **_: Any) -> Answer:
    """Read a part of a file; `version` is that of the parts read before."""
    fd = open_regular(path, os.O_RDONLY)
    try:
        found = describe(path, os.fstat(fd))
        if version and version != found["version"]:
            raise RefusedError(errno.ESTALE, "the file changed while it was read", path)
        parts, left = [], min(length, MAX_DATA)
        while left:
            part = os.pread(fd, left, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            left -= len(part)
        # A file of /proc says that it is empty, and is not.
        found["eof"] = left > 0 or (length > 0 and offset >= found["size"] > 0)
        return found, b"".join(parts)
    finally:
        os.close(fd)


def do_write(path: str, data: bytes = b"", upload: str = "", offset: int = 0, **options: Any) -> Answer:
    """Write a file: whole, or in parts of which the last one puts it in place. It is never half there."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    mode, exclusive, final = options.get("mode"), options.get("exclusive", False), options.get("final", True)
    if options.get("parents", True) and not upload:
        make_parents(folder)
    if options.get("append"):
        fd = open_regular(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644 if mode is None else mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        return describe(path, os.stat(target)), b""
    if not upload:
        check_target(path, target, exclusive)
        try:
            fd, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        except OSError as error:
            error.filename = path
            raise
        upload = os.path.basename(temporary)
    else:
        temporary = upload_path(path, upload)
        fd = open_regular(temporary, os.O_WRONLY)
    try:
        try:
            write_at(fd, data, offset, path)
        finally:
            os.close(fd)
        if final:
            put_in_place(temporary, path, target, mode, exclusive)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if final:
        return describe(path, os.stat(target)), b""
    return dict(describe(path, os.stat(temporary)), upload=upload), b""


def upload_path(path: str, upload: str) -> str:
    """Return where the parts of a file are that is not complete."""
    if not upload.startswith(_TEMPORARY) or "/" in upload:
        raise RefusedError(errno.EINVAL, "not an upload", path)
    return os.path.join(os.path.dirname(os.path.realpath(path)), upload)


def check_target(path: str, target: str, exclusive: bool) -> None:
    """Refuse a target that a file cannot replace."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(target)
        if exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(errno.ENXIO, "not a regular file", path)
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if path.endswith("/"):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def write_at(fd: int, data: bytes, offset: int, path: str) -> None:
    """Write at a position that has been reached."""
    size = os.fstat(fd).st_size
    if offset > size:
        raise RefusedError(errno.EINVAL, f"the part at {size} is missing", path)
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def put_in_place(temporary: str, path: str, target: str, mode: int | None, exclusive: bool) -> None:
    """Rename a complete file to its target, and set its mode."""
    if mode is None:
        mode = 0o644
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(target).st_mode)
    os.chmod(temporary, mode)
    if exclusive:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.unlink(temporary)
    else:
        os.replace(temporary, target)


def do_abort(path: str, upload: str, **_: Any) -> Answer:
    """Drop the parts of a file that were written."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(upload_path(path, upload))
    return {}, b""


def walk(folder: str, depth: int, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the entries of a folder in the order of their relative paths; links are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        if not prefix:
            raise
        return  # One folder of many that cannot be read, or that is gone.
    for entry in entries:
        if entry.name.startswith(_TEMPORARY):
            continue
        relative = prefix + entry.name
        yield relative, entry
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, depth - 1, relative + "/")


def do_list(path: str, depth: int = 1, after: str = "", limit: int = MAX_ENTRIES, **_: Any) -> Answer:
    """List a folder; `after` is the relative path of the last entry of the page before."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    limit = min(limit, MAX_ENTRIES)
    found: list[dict[str, Any]] = []
    reached = after.split("/") if after else []
    for relative, entry in walk(path, depth):
        if reached and relative.split("/") <= reached:
            continue
        if len(found) == limit:
            return {"entries": found, "more": True}, b""
        with contextlib.suppress(OSError):
            found.append(describe(entry.path, entry.stat(follow_symlinks=False), relative))
    return {"entries": found, "more": False}, b""


def do_glob(path: str, pattern: str, limit: int = MAX_ENTRIES, **_: Any) -> Answer:
    """Find files by a pattern below a folder; `**` stands for any number of folders."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    limit = min(limit, MAX_ENTRIES)
    parts = pattern.split("/")
    # Two in a row are as good as one, and each multiplies the time.
    parts = [part for number, part in enumerate(parts) if part != "**" or parts[number - 1 : number] != ["**"]]
    if parts.count("**") > MAX_DEEP:
        raise RefusedError(errno.EINVAL, f"a pattern may have ** at most {MAX_DEEP} times", pattern)
    pattern = "/".join(parts)
    found: list[dict[str, Any]] = []
    more = False
    for name in glob.iglob(os.path.join(glob.escape(path), pattern), recursive=True):
        if os.path.basename(name).startswith(_TEMPORARY):
            continue
        if len(found) == limit:
            more = True
            break
        with contextlib.suppress(OSError):
            relative = os.path.relpath(name, path)
            found.append(describe(name, os.lstat(name), relative))
    found.sort(key=lambda entry: entry["name"])
    return {"entries": found, "more": more}, b""


def do_make_dir(
    path: str, parents: bool = True, exist_ok: bool = True, mode: int | None = None, **_: Any
) -> Answer:
    """Create a folder."""
    if parents:
        os.makedirs(path, exist_ok=exist_ok)
    else:
        try:
            os.mkdir(path)
        except FileExistsError:
            if not (exist_ok and os.path.isdir(path)):
                raise
    if mode is not None:
        os.chmod(path, mode)
    return describe(path, os.stat(path)), b""


def inside(path: str, target: str, overwrite: bool) -> str:
    """Return the target of a file, which goes into an existing folder, as with `mv` and `cp`."""
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(path.rstrip("/")))
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    return target


def do_move(path: str, target: str, overwrite: bool = True, parents: bool = True, **_: Any) -> Answer:
    """Move or rename."""
    os.lstat(path)
    place = inside(path, target, overwrite)
    if parents:
        make_parents(os.path.dirname(os.path.abspath(place)))
    try:
        os.rename(path, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(path, place)
    return describe(place, os.lstat(place)), b""


def do_copy(path: str, target: str, overwrite: bool = True, parents: bool = True, **_: Any) -> Answer:
    """Copy a file, or a folder with all that is in it; links are copied as links."""
    found = os.stat(path)
    place = inside(path, target, overwrite)
    if parents:
        make_parents(os.path.dirname(os.path.abspath(place)))
    if stat.S_ISDIR(found.st_mode):
        if (os.path.realpath(place) + "/").startswith(os.path.realpath(path) + "/"):
            raise RefusedError(errno.EINVAL, "a folder cannot be copied into itself", place)
        shutil.copytree(path, place, symlinks=True)
    else:
        os.close(open_regular(path, os.O_RDONLY))
        shutil.copy2(path, place)
    return describe(place, os.lstat(place)), b""


def do_remove(path: str, recursive: bool = False, missing_ok: bool = False, **_: Any) -> Answer:
    """Remove a file, a link, or a folder."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if missing_ok:
            return {}, b""
        raise
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(path)
    elif recursive:
        shutil.rmtree(path)
    else:
        os.rmdir(path)
    return {}, b""


def do_realpath(path: str, strict: bool = False, **_: Any) -> Answer:
    """Resolve every link in a path."""
    if strict:
        os.stat(path)
    return {"path": os.path.realpath(path)}, b""


def do_chmod(path: str, mode: int, **_: Any) -> Answer:
    """Change the mode bits."""
    os.chmod(path, mode)
    return describe(path, os.stat(path)), b""


def do_pack(path: str, **_: Any) -> Answer:
    """Write a folder as a tar archive beside it; the caller reads and removes that."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    fd, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=".tar", dir="/work")
    try:
        with (
            os.fdopen(fd, "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for relative, entry in walk(path, 1 << 30):
                if (
                    entry.is_file(follow_symlinks=False)
                    or entry.is_dir(follow_symlinks=False)
                    or entry.is_symlink()
                ):
                    with contextlib.suppress(FileNotFoundError, PermissionError):
                        tar.add(entry.path, relative, recursive=False)
    except BaseException:
        os.unlink(name)
        raise
    return describe(name, os.stat(name)), b""


def do_unpack(path: str, archive: str, **_: Any) -> Answer:
    """Unpack a tar archive into a folder, then remove the archive. Names that leave the folder are refused."""
    os.makedirs(path, exist_ok=True)
    root = os.path.realpath(path)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                place = os.path.realpath(os.path.join(root, os.path.dirname(member.name)))
                name = os.path.normpath(member.name)
                if name.startswith(("/", "..")) or not (place + "/").startswith(root + "/"):
                    raise RefusedError(errno.EINVAL, "the archive has a name outside its folder", member.name)
                if not (member.isreg() or member.isdir() or member.issym()):
                    continue
                member.uid = member.gid = -1
                member.mode &= 0o777  # As the filter does, which older versions lack.
                tar.extract(member, root, set_attrs=not member.issym(), **_EXTRACT)
    except tarfile.TarError as error:
        raise RefusedError(errno.EINVAL, f"not a tar archive: {error}", path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(archive)
    return describe(path, os.stat(path)), b""


def do_kill(mark: str, **_: Any) -> Answer:
    """Kill every process whose environment has the mark, also those that left its session."""
    wanted = f"{MARK}={mark}".encode()
    count = 0
    for _round in range(5):
        found = list(marked(wanted))
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        count += len(found)
        if not found:
            break
    return {"count": count}, b""


def marked(wanted: bytes) -> Iterator[int]:
    """Yield the processes whose environment has an entry."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
                if wanted in environment.split(b"\0") and state not in (b"Z", b"X"):
                    yield int(name)


OPERATIONS: dict[str, Callable[..., Answer]] = {
    name[3:]: function for name, function in list(globals().items()) if name.startswith("do_")
}


def read_exactly(size: int) -> bytes:
    """Return some bytes of standard input."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        sys.exit(0)
    return data


def serve_one() -> None:
    """Read one request and answer it."""
    json_size, data_size = HEADER.unpack(read_exactly(HEADER.size))
    request = json.loads(read_exactly(json_size).decode("utf-8", "surrogatepass"))
    data = read_exactly(data_size)
    if data:
        request["data"] = data
    try:
        answer, payload = OPERATIONS[request.pop("operation")](**request)
    except OSError as error:
        path = error.filename if isinstance(error.filename, str) else ""
        answer, payload = {"errno": error.errno or 0, "error": error.strerror or str(error), "at": path}, b""
    except (ValueError, OverflowError, RecursionError, MemoryError, shutil.Error) as error:
        answer, payload = {"errno": errno.EINVAL, "error": str(error)[:500], "at": ""}, b""
    encoded = json.dumps(answer).encode()
    sys.stdout.buffer.write(HEADER.pack(len(encoded), len(payload)))
    sys.stdout.buffer.write(encoded)
    sys.stdout.buffer.write(payload)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve until standard input ends."""
    os.umask(0o022)
    while True:
        serve_one()


if __name__ == "__main__":
    main()
