"""Paths: E2B's home is `/home/user`, a link to `/work` in our sandboxes, and answers name the former."""

from __future__ import annotations

import posixpath

from unsandbox.sandbox.layout import USER_HOME, WORK


def inside(path: str) -> str:
    """Return the absolute path of a file that a client names; relative ones start in the home.

    Args:
        path: The path.

    Example:
        >>> inside("a.txt"), inside("~/b"), inside("/home/user/c"), inside("/tmp/d")
        ('/work/a.txt', '/work/b', '/work/c', '/tmp/d')
    """
    if path == "~" or path.startswith("~/"):
        path = path[2:]
    parts = [part for part in posixpath.join(WORK, path).split("/") if part not in ("", ".")]
    return _moved("/" + "/".join(parts), USER_HOME, WORK)


def outside(path: str) -> str:
    """Return the name by which a client knows a file.

    Args:
        path: The absolute path in the sandbox.

    Example:
        >>> outside("/work/a.txt"), outside("/tmp/d"), outside("/work")
        ('/home/user/a.txt', '/tmp/d', '/home/user')
    """
    return _moved(path, WORK, USER_HOME)


def _moved(path: str, source: str, target: str) -> str:
    return target + path[len(source) :] if path == source or path.startswith(f"{source}/") else path
