"""The script and the input files of a service on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from unsandbox.engine.persistent.limits import sandbox_files
from unsandbox.engine.store.objects import new_id
from unsandbox.protocol.contents import Content, chunks_of
from unsandbox.sandbox.launcher.cleanup import remove_tree
from unsandbox.sandbox.spec import SandboxFile

SCRIPT_PATH = "/tmp/bootstrap.sh"  # noqa: S108 - a path inside the sandbox


def write_deployment(folder: Path, script: bytes | None, files: Mapping[str, bytes | Content]) -> str:
    """Store a script and its input files; return the name under which `read_deployment` finds them.

    It is there whole or not at all. Blocks.
    """
    name = new_id("deploy")
    temporary = folder / f".{name}"
    (temporary / "input").mkdir(mode=0o700, parents=True)
    try:
        if script is not None:
            _write(temporary / "bootstrap.sh", script)
        for file, data in files.items():
            (temporary / "input" / file).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(temporary / "input" / file, data)
        temporary.rename(folder / name)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return name


def read_deployment(folder: Path, name: str) -> tuple[bytes | None, dict[str, bytes | Content]]:
    """Return a stored script and its input files. Blocks."""
    place = folder / name / "input"
    files: dict[str, bytes | Content] = {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
    return read_script(folder, name), files


def read_script(folder: Path, name: str) -> bytes | None:
    """Return a stored script; None if there is none. Blocks."""
    script = folder / name / "bootstrap.sh"
    return script.read_bytes() if script.exists() else None


def remove_deployments(folder: Path, but: str) -> None:
    """Remove all stored scripts of a service except one. Blocks."""
    for path in folder.iterdir():
        if path.name != but and path.name.lstrip(".").startswith("deploy_"):
            remove_tree(path)


def deployment_files(script: bytes | None, files: Mapping[str, bytes | Content]) -> list[SandboxFile]:
    """Return a script and its input files as a sandbox takes them."""
    found = sandbox_files(files)
    if script is not None:
        found.append(SandboxFile(SCRIPT_PATH, script, mode=0o755))
    return found


def script_argv(script: bytes, shell: str) -> list[str]:
    r"""Return the command that runs a script: the script itself if its first line names an interpreter.

    Example:
        >>> script_argv(b"#!/usr/bin/python3\n", "sh"), script_argv(b"echo\n", "sh")
        (['/tmp/bootstrap.sh'], ['sh', '/tmp/bootstrap.sh'])
    """
    return [SCRIPT_PATH] if script.startswith(b"#!") else [shell, SCRIPT_PATH]


def _write(path: Path, data: bytes | Content) -> None:
    with path.open("xb") as file:
        for chunk in chunks_of(data):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
