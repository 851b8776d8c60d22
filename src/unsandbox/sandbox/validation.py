"""Checks of specifications, shared by all backends."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from unsandbox.sandbox.errors import InvalidSpecError
from unsandbox.sandbox.layout import SHM, TMP, WORK
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.spec import SandboxFile, SandboxSpec

SYSTEM_PLACES = ("/etc/", "/var/lib/")
_WRITABLE = (f"{WORK}/", f"{TMP}/", f"{SHM}/")
MAX_FILES = 1000
"""Each file needs a descriptor until the job has started."""
_MAX_PATH = 4095
_MAX_TERMINAL = 0xFFFF


def validate(spec: SandboxSpec) -> None:
    """Check the specification of a job for values that the kernel or the sandbox program would misread.

    Raises:
        InvalidSpecError: An empty command, a NUL byte, a variable without a name, a path outside the writable
            folders, or a limit that is not positive.
    """
    for field, command in (("run", spec.run), ("compile", spec.compile)):
        if command is not None:
            check_command(field, command)
    check_env(spec.env)
    check_files(spec.files, spec.folders)
    for place in _WRITABLE[:2]:
        if sum(len(file.data) for file in spec.files if file.path.startswith(place)) > spec.limits.tmpfs_bytes:
            raise InvalidSpecError(f"files: they do not fit into {place} ({spec.limits.tmpfs_bytes} bytes)")
    if len(spec.files) > MAX_FILES:
        raise InvalidSpecError(f"files: more than {MAX_FILES}")
    for path in spec.artifact_paths:
        _no_nul("artifact_paths", path)
    check_system_paths(spec.system_paths)
    check_limits(spec.limits, ("wall_s", "vcpu", "memory_bytes", "processes", "open_files", "tmpfs_bytes"))
    given = [name for name in ("compile_s", "cpu_s") if getattr(spec.limits, name) is not None]
    check_limits(spec.limits, given)


def validate_persistent(spec: PersistentSpec) -> None:
    """Check the specification of a persistent sandbox.

    Raises:
        InvalidSpecError: As `validate`.
    """
    check_env(spec.env)
    check_files(spec.files)
    check_system_paths(spec.system_paths)
    names = ("vcpu", "memory_bytes", "processes", "open_files", "tmpfs_bytes", "work_bytes")
    check_limits(spec.limits, names)


def check_program(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, terminal: tuple[int, int] | None
) -> None:
    """Check the arguments of a program in a persistent sandbox.

    Raises:
        InvalidSpecError: An argument is invalid; the message names it.
    """
    check_command("argv", argv)
    check_env(env)
    if not cwd.startswith("/") or "\0" in cwd:
        raise InvalidSpecError(f"cwd: {cwd!r} is not an absolute path")
    if terminal is not None and not all(0 < number <= _MAX_TERMINAL for number in terminal):
        raise InvalidSpecError(f"terminal: the size {terminal!r} is not 1..{_MAX_TERMINAL} columns and rows")


def check_port(port: int) -> None:
    """Check the number of a TCP port.

    Raises:
        InvalidSpecError: It is out of range.
    """
    if not 0 < port < 1 << 16:
        raise InvalidSpecError(f"port: {port} is not between 1 and 65535")


def check_new_limits(vcpu: float | None, memory_bytes: int | None) -> None:
    """Check new limits of a persistent sandbox; None leaves a limit unchanged.

    Raises:
        InvalidSpecError: A limit is not positive.
    """
    for name, value in (("vcpu", vcpu), ("memory_bytes", memory_bytes)):
        if value is not None and not value > 0:
            raise InvalidSpecError(f"limits: {name} must be more than 0")


def check_command(field: str, command: Sequence[str]) -> None:
    """Refuse a command that is empty or contains a NUL byte."""
    if not command or not command[0]:
        raise InvalidSpecError(f"{field}: the command is empty")
    for word in command:
        _no_nul(field, word)


def check_env(env: Mapping[str, str]) -> None:
    """Refuse variables with an invalid name, and NUL bytes."""
    for name, value in env.items():
        if not name or "=" in name:
            raise InvalidSpecError(f"env: {name!r} is not a variable name")
        _no_nul(f"env {name!r}", name + value)


def check_files(files: Sequence[SandboxFile], folders: Sequence[str] = ()) -> None:
    """Refuse paths outside the writable folders, and paths that conflict."""
    for file in files:
        _check_path("files", file.path)
        if not 0 <= file.mode <= 0o7777:
            raise InvalidSpecError(f"files: {file.mode:o} is not a mode for {file.path!r}")
    for folder in folders:
        _check_path("folders", folder)
    _no_clashes([file.path for file in files], folders)


def check_system_paths(paths: Sequence[str]) -> None:
    """Refuse patterns that are not plain paths below /etc or /var/lib."""
    for name in paths:
        if not name.startswith(SYSTEM_PLACES) or ".." in PurePosixPath(name).parts or "\0" in name:
            raise InvalidSpecError(f"system_paths: {name!r} is not below {' or '.join(SYSTEM_PLACES)}")


def check_limits(limits: object, names: Sequence[str]) -> None:
    """Refuse limits that are not positive."""
    for name in names:
        if not getattr(limits, name) > 0:
            raise InvalidSpecError(f"limits: {name} must be more than 0")


def _no_nul(field: str, text: str) -> None:
    if "\0" in text:
        raise InvalidSpecError(f"{field}: contains a NUL byte")


@functools.lru_cache(256)
def _check_path(field: str, path: str) -> None:
    _no_nul(field, path)
    if not path.startswith(_WRITABLE) or os.path.normpath(path) != path or len(os.fsencode(path)) > _MAX_PATH:
        raise InvalidSpecError(f"{field}: {path!r} is not a plain path below {', '.join(_WRITABLE)}")


def _no_clashes(paths: Sequence[str], wanted_folders: Sequence[str]) -> None:
    """Refuse the same path twice, and a file where another path needs a folder."""
    seen: set[str] = set()
    folders = {folder for path in wanted_folders for folder in (path, *_parents(path))}
    for path in paths:
        if path in seen:
            raise InvalidSpecError(f"files: {path!r} is listed twice")
        seen.add(path)
        folders.update(_parents(path))
    if clash := seen & folders:
        raise InvalidSpecError(f"files: {min(clash)!r} is a file and a folder")


def _parents(path: str) -> Iterator[str]:
    while (path := path.rpartition("/")[0]) != "":
        yield path
