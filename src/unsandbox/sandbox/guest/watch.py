"""Reports changes of the files in a directory of a sandbox, for the server, until standard input ends.

It compares what it finds with what it found before. inotify tells where to look; where the kernel has none,
everything is looked at from time to time. A change that is undone at once may not be seen, and none is missed
because there were too many.

It runs as the sandbox's user. Messages are those of `files.py`; the first one names the directory, and each
answer holds events. Python 3.7 or newer, standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import stat
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    State = tuple[int, int, int, int]
    """Type, inode, time of the last change, size."""

HEADER = struct.Struct(">II")
MAX_FILES = 50_000
"""Files that can be watched."""
MAX_EVENTS = 32
"""Events in one message."""
_TEMPORARY = ".unsandbox-"
_SETTLE_S = 0.02
"""Changes come in groups: how long after the first of them to look."""
_POLL_S = 0.5
_LOOK_SHARE = 4
"""Looking takes at most one part of so many of a processor's time."""
_WATCHED = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x01000000
"""Changes of content, names and the directory itself, for directories only (inotify(7))."""
_OVERFLOW, _NON_BLOCKING, _CLOSE_ON_EXEC = 0x4000, 0o4000, 0o2000000
_EVENT = struct.Struct("iIII")


class Inotify:
    """Tells which directories changed.

    Raises:
        OSError: There is no inotify here.
    """

    def __init__(self) -> None:
        try:
            import ctypes

            self._libc = ctypes.CDLL(None, use_errno=True)
            self._errno = ctypes.get_errno
            self.fd = self._libc.inotify_init1(_NON_BLOCKING | _CLOSE_ON_EXEC)
        except (ImportError, AttributeError) as error:
            raise OSError(errno.ENOSYS, "no inotify") from error
        if self.fd < 0:
            raise OSError(self._errno(), "no inotify")
        self._folders: dict[int, str] = {}

    def add(self, folder: str) -> None:
        """Watch one directory.

        Raises:
            OSError: The user watches as many as the system allows.
        """
        number = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), _WATCHED)
        if number >= 0:
            self._folders[number] = folder
        elif self._errno() in (errno.ENOSPC, errno.ENOMEM, errno.ENOSYS):
            raise OSError(self._errno(), "too many directories for inotify")

    def moved(self, old: str, new: str) -> None:
        """Note that a directory has another path now."""
        for number, folder in self._folders.items():
            if below(folder, old):
                self._folders[number] = new_place(folder, old, new)

    def changed(self) -> set[str] | None:
        """Return the directories that changed; None: perhaps all."""
        folders: set[str] = set()
        complete = True
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self.fd, 1 << 16)
                at = 0
                while at < len(data):
                    number, mask, _, size = _EVENT.unpack_from(data, at)
                    at += _EVENT.size + size
                    complete = complete and not mask & _OVERFLOW
                    if number in self._folders:
                        folders.add(self._folders[number])
        return folders if complete else None


def is_dir(state: State) -> bool:
    """Return whether a state is that of a directory."""
    return stat.S_ISDIR(state[0])


def same(before: State, now: State) -> bool:
    """Return whether two states are those of one file, or of a file and the one that replaced it."""
    return before[0] == now[0] and (before[1] == now[1] or not is_dir(now))


def below(path: str, folder: str) -> bool:
    """Return whether a path is a directory, or below it."""
    return path == folder or path.startswith(folder + "/")


def new_place(path: str, old: str, new: str) -> str:
    """Return the path of a file below a directory that was moved."""
    return new + path[len(old) :]


class Tree:
    """The files of a directory as they were last seen.

    Args:
        root: The directory.
        recursive: Whether to look into directories below it.
    """

    def __init__(self, root: str, recursive: bool) -> None:
        self._root = root
        self._recursive = recursive
        self._folders: dict[str, dict[str, State]] = {}
        self._count = 0
        self.inotify: Inotify | None = None
        with contextlib.suppress(OSError):
            self.inotify = Inotify()
        self._itself = os.stat(root)
        if not stat.S_ISDIR(self._itself.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
        os.listdir(root)  # One that may not be read is an error, those below it are not.
        self._enter(root)

    def look(self, folders: set[str] | None) -> list[dict[str, Any]]:
        """Return what changed in some directories, or in all, since they were last seen."""
        gone: dict[str, State] = {}
        new: dict[str, State] = {}
        changed: dict[str, State] = {}
        elsewhere = set()
        for folder in sorted(self._folders if folders is None else folders & self._folders.keys()):
            if self._is_there(folder):
                self._compare(folder, gone, new, changed)
            else:
                elsewhere.add(folder)
        events = []
        moves = {}
        places = {state: path for found in (changed, new) for path, state in found.items()}
        for path, state in sorted(gone.items()):
            moved = places.pop(state, None)
            if moved is None:
                self._leave(path)
                events.append(self._event("remove", path, state))
                continue
            new.pop(moved, None)
            changed.pop(moved, None)
            self._move(path, moved)
            moves[path] = moved
            events.append(dict(self._event("rename", moved, state), old_path=path))
        for path, state in sorted(new.items()):
            events.append(self._event("create", path, state))
            if is_dir(state) and self._recursive:
                self._enter(path, events)
        events += [self._event("write", path, state) for path, state in sorted(changed.items())]
        self._check_count()
        again = {
            new_place(folder, old, moves[old]) for old in moves for folder in elsewhere if below(folder, old)
        }
        return events + self.look(again) if again else events

    def _is_there(self, folder: str) -> bool:
        """Return whether a directory is still the one that was seen at its path."""
        if folder == self._root:
            return True
        seen = self._folders.get(os.path.dirname(folder), {}).get(os.path.basename(folder))
        try:
            return seen is not None and os.lstat(folder).st_ino == seen[1]
        except OSError:
            return False

    def _compare(
        self, folder: str, gone: dict[str, State], new: dict[str, State], changed: dict[str, State]
    ) -> None:
        """Sort the changes in one directory."""
        before, now = self._folders[folder], self._scan(folder)
        self._folders[folder] = now
        self._count += len(now) - len(before)
        for name in before.keys() | now.keys():
            path = os.path.join(folder, name)
            if name in before and name in now and same(before[name], now[name]):
                if before[name] != now[name] and not is_dir(now[name]):
                    changed[path] = now[name]
                continue
            if name in before:
                gone[path] = before[name]
            if name in now:
                new[path] = now[name]

    def is_gone(self) -> bool:
        """Return whether the directory is not at its place any more."""
        try:
            return not os.path.samestat(os.stat(self._root), self._itself)
        except OSError:
            return True

    def _event(self, kind: str, path: str, state: State) -> dict[str, Any]:
        name = os.path.relpath(path, self._root)
        return {"type": kind, "path": path, "name": name, "is_dir": is_dir(state)}

    def _scan(self, folder: str) -> dict[str, State]:
        found = {}
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(_TEMPORARY):
                    with contextlib.suppress(OSError):
                        seen = entry.stat(follow_symlinks=False)
                        # The size of a directory says nothing.
                        size = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_size
                        found[entry.name] = (stat.S_IFMT(seen.st_mode), seen.st_ino, seen.st_mtime_ns, size)
        return found

    def _enter(self, folder: str, events: list[dict[str, Any]] | None = None) -> None:
        """See a directory for the first time, and those below it; with `events`, its files are new."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            # Before it is looked at, so that nothing changes unseen.
            self._notify(folder)
            found = self._folders[folder] = self._scan(folder)
            self._count += len(found)
            self._check_count()
            for name, state in sorted(found.items()):
                path = os.path.join(folder, name)
                if events is not None:
                    events.append(self._event("create", path, state))
                if is_dir(state) and self._recursive:
                    waiting.append(path)

    def _notify(self, folder: str) -> None:
        if self.inotify is not None:
            try:
                self.inotify.add(folder)
            except OSError:
                os.close(self.inotify.fd)
                self.inotify = None

    def _check_count(self) -> None:
        if self._count > MAX_FILES:
            raise OSError(errno.E2BIG, f"more than {MAX_FILES} files cannot be watched", self._root)

    def _leave(self, path: str) -> None:
        for folder in [name for name in self._folders if below(name, path)]:
            self._count -= len(self._folders.pop(folder))

    def _move(self, old: str, new: str) -> None:
        for folder in [name for name in self._folders if below(name, old)]:
            self._folders[new_place(folder, old, new)] = self._folders.pop(folder)
        if self.inotify is not None:
            self.inotify.moved(old, new)


def send(message: dict[str, Any]) -> None:
    """Send one message."""
    encoded = json.dumps(message).encode()
    sys.stdout.buffer.write(HEADER.pack(len(encoded), 0) + encoded)
    sys.stdout.buffer.flush()


def wait(tree: Tree) -> set[str] | None:
    """Return which directories to look at, once some changed or enough time has passed; None: all."""
    inotify = tree.inotify
    descriptors = [0] if inotify is None else [0, inotify.fd]
    ready = select.select(descriptors, [], [], _POLL_S if inotify is None else None)[0]
    if 0 in ready:
        sys.exit(0)  # The server has closed it.
    if inotify is None:
        return None
    time.sleep(_SETTLE_S)
    return inotify.changed()


def watch(path: str, recursive: bool) -> None:
    """Report changes until the directory is gone."""
    tree = Tree(path, recursive)
    send({"events": []})
    while True:
        folders = wait(tree)
        began = time.monotonic()
        events = tree.look(folders)
        gone = tree.is_gone()
        if gone:
            events.append({"type": "remove", "path": path, "name": ".", "is_dir": True})
        for start in range(0, len(events), MAX_EVENTS):
            send(
                {
                    "events": events[start : start + MAX_EVENTS],
                    "ended": gone and start + MAX_EVENTS >= len(events),
                }
            )
        if gone:
            return
        time.sleep((time.monotonic() - began) * (_LOOK_SHARE - 1))


def main() -> None:
    """Read the request, and serve it."""
    json_size, _ = HEADER.unpack(sys.stdin.buffer.read(HEADER.size))
    request = json.loads(sys.stdin.buffer.read(json_size).decode("utf-8", "surrogatepass"))
    try:
        watch(request["path"], request["recursive"])
    except OSError as error:
        path = error.filename if isinstance(error.filename, str) else ""
        with contextlib.suppress(OSError):
            send({"errno": error.errno or 0, "error": error.strerror or str(error), "at": path})


if __name__ == "__main__":
    main()
