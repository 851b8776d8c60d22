"""`filesystem.Filesystem` of envd: files of a session."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from unsandbox.engine.errors import RequestError
from unsandbox.server.e2b.connect import empty, unary_message
from unsandbox.server.e2b.errors import E2bError, json_answer
from unsandbox.server.e2b.paths import inside, outside
from unsandbox.server.e2b.sandboxes import E2bSandbox, E2bSandboxes

USER = "user"
_TYPES = {
    "file": "FILE_TYPE_FILE",
    "directory": "FILE_TYPE_DIRECTORY",
    "symlink": "FILE_TYPE_SYMLINK",
}
_PAGE = 10_000
_MOST_ENTRIES = 50_000
_MOST_DEPTH = 100


class PathRequest(msgspec.Struct):
    """The message of all calls."""

    path: str = ""
    depth: int = 1
    source: str = ""
    destination: str = ""


class Filesystem:
    """The calls.

    Args:
        sandboxes: The sandboxes.
    """

    def __init__(self, sandboxes: E2bSandboxes) -> None:
        self._workspaces = sandboxes.engine.workspaces

    async def stat(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Describe a file."""
        wanted = await unary_message(request, PathRequest)
        return json_answer({"entry": await self._entry(sandbox, inside(wanted.path))})

    async def make_dir(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Create a directory and those above it."""
        path = inside((await unary_message(request, PathRequest)).path)
        try:
            await self._call(sandbox, "make_dir", path=path, exist_ok=False)
        except RequestError as error:
            if error.code == "file_exists":
                found = await self._call(sandbox, "stat", path=path)
                if found.get("type") != "directory":
                    raise E2bError(
                        "invalid_argument", f"path already exists but it is not a directory: {path}"
                    ) from error
                raise E2bError("already_exists", f"directory already exists: {outside(path)}") from error
            raise
        return json_answer({"entry": await self._entry(sandbox, path)})

    async def move(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Rename a file or directory."""
        wanted = await unary_message(request, PathRequest)
        target = inside(wanted.destination)
        await self._call(sandbox, "move", path=inside(wanted.source), target=target)
        return json_answer({"entry": await self._entry(sandbox, target)})

    async def list_dir(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """List a directory."""
        wanted = await unary_message(request, PathRequest)
        path = inside(wanted.path)
        depth = min(max(1, wanted.depth), _MOST_DEPTH)
        found = await self._call(sandbox, "list", path=path, depth=depth, limit=_PAGE)
        entries = found["entries"]
        while found.get("more") and found["entries"]:
            if len(entries) >= _MOST_ENTRIES:
                raise E2bError("resource_exhausted", f"there are more than {_MOST_ENTRIES} files; list less")
            found = await self._call(
                sandbox, "list", path=path, depth=depth, limit=_PAGE, after=entries[-1]["name"]
            )
            entries += found["entries"]
            await asyncio.sleep(0)
        return json_answer({"entries": [entry_of(entry) for entry in entries if entry.get("type") in _TYPES]})

    async def remove(self, request: web.Request, sandbox: E2bSandbox) -> web.Response:
        """Remove a file or directory; a missing one is no error."""
        path = inside((await unary_message(request, PathRequest)).path)
        await self._call(sandbox, "remove", path=path, recursive=True, missing_ok=True)
        return empty()

    async def watch(self, _request: web.Request, _sandbox: E2bSandbox) -> web.Response:
        """Refuse: there is no watcher yet."""
        raise E2bError("unimplemented", "watching directories is not supported by this server")

    async def _entry(self, sandbox: E2bSandbox, path: str) -> dict[str, Any]:
        return entry_of(await self._call(sandbox, "stat", path=path, follow=False))

    async def _call(self, sandbox: E2bSandbox, operation: str, **members: Any) -> dict[str, Any]:
        return await self._workspaces.file(sandbox.owner, sandbox.session_id, operation, members)


METHODS = {
    "Stat": "stat",
    "MakeDir": "make_dir",
    "Move": "move",
    "ListDir": "list_dir",
    "Remove": "remove",
    "WatchDir": "watch",
    "CreateWatcher": "watch",
    "GetWatcherEvents": "watch",
    "RemoveWatcher": "watch",
}
"""Name of each method on the wire, and its function."""


def entry_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a file as envd sends it.

    Args:
        found: The description by the program in the session.
    """
    kind, mode = str(found.get("type")), int(found.get("mode", 0))
    flag = {"directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}.get(kind, stat.S_IFREG)
    path = str(found.get("path"))
    entry = {
        "name": path.rstrip("/").rpartition("/")[2] or "/",
        "type": _TYPES.get(kind, "FILE_TYPE_UNSPECIFIED"),
        "path": outside(path),
        "size": str(found.get("size", 0)),
        "mode": mode,
        "permissions": stat.filemode(flag | mode),
        "owner": USER,
        "group": USER,
        "modifiedTime": datetime.fromtimestamp(float(found.get("modified_at", 0)), UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z"),
    }
    if target := found.get("target"):
        entry["symlinkTarget"] = outside(str(target))
    return entry
