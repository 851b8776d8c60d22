"""The list of languages, cached for an hour in `~/.unsandbox`, in a file that all clients of this API share.

`languages.json` is the hosted service's list, which other SDKs write too; other servers have separate files
beside it, so that none masks another. What cannot be understood is not there, and a cache that cannot be
written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from unsandbox._shared.server import HOSTED, LOCAL

MAX_AGE_S = 3600
_MAX_BYTES = 1 << 20


def load(base_url: str) -> list[str] | None:
    """Return the cached list of a server; None if it is missing, outdated or invalid."""
    try:
        path = _path(base_url)
        if path is None:
            return None
        with path.open("rb") as file:
            age = time.time() - os.fstat(file.fileno()).st_mtime
            if not 0 <= age < MAX_AGE_S:
                return None
            value = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    names = value.get("languages") if isinstance(value, dict) else value
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    return None


def store(base_url: str, names: list[str]) -> None:
    """Keep the list of a server; readers see the old file or the new one, never half of it."""
    with contextlib.suppress(OSError, ValueError):
        path = _path(base_url)
        if path is None or not names:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"languages": names, "count": len(names), "timestamp": int(time.time()), "api_base": base_url}
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                # Compact: a client of this API finds the list by the text `"languages":[`.
                json.dump(content, file, separators=(",", ":"), ensure_ascii=False)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise


def _path(base_url: str) -> Path | None:
    base_url = base_url.rstrip("/")
    if base_url == LOCAL:
        return None  # asking is as quick, and tools come and go on this machine
    name = "languages.json"
    if base_url != HOSTED:
        name = f"languages-{hashlib.sha256(base_url.encode(errors='replace')).hexdigest()[:12]}.json"
    try:
        return Path.home() / ".unsandbox" / name
    except RuntimeError:
        return None
