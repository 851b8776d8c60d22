"""Turns a `SandboxSpec` into the argument list and the job script of one sandbox."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from unsandbox.sandbox import proc_masks
from unsandbox.sandbox.bubblewrap.outbound import Outbound
from unsandbox.sandbox.host.artifacts import FOLDER as ARTIFACT_FOLDER
from unsandbox.sandbox.launcher.fd_numbers import CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.rootfs import HOSTNAME, SANDBOX_UID
from unsandbox.sandbox.spec import SandboxFile, SandboxSpec
from unsandbox.sandbox.system import System

WORK = "/work"
TMP = "/tmp"  # noqa: S108 - inside the sandbox, like the next
SHM = "/dev/shm"  # noqa: S108
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
DEFAULT_ENV = {
    "PATH": PATH,
    "HOME": WORK,
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TMPDIR": TMP,
    "TERM": "dumb",
}

_CLOSED = f"{CONTROL_FD}>&- 4>&- {EXTRA_FD}>&-"

MARK_START, MARK_COMPILE_FAILED, MARK_END = b"start", b"compile", b"end"

SYSTEM_PLACES = ("/etc/", "/var/lib/")
_WRITABLE = (f"{WORK}/", f"{TMP}/", f"{SHM}/")
MAX_FILES = 1000
"""Each takes a descriptor until the job has started."""
_MAX_PATH = 4095
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOADER_PREFIXES = ("LD_", "GLIBC_", "GCONV_", "MALLOC_", "BASH_")
_SHELL_NAMES = frozenset(
    {"ENV", "IFS", "LOCPATH", "OLDPWD", "OPTIND", "PPID", "PS1", "PS2", "PS4", "PWD", "SHLVL", "_"}
)


class InvalidSpecError(ValueError):
    """The specification cannot be carried out as it is written; the message names the field."""


def validate(spec: SandboxSpec) -> None:
    """Check what the kernel or the sandbox program would misread.

    Raises:
        InvalidSpecError: An empty command, a NUL byte, a variable without a name, a path outside the writable
            folders, a limit that is not positive.
    """
    for field, command in (("run", spec.run), ("compile", spec.compile)):
        if command is not None:
            check_command(field, command)
    check_env(spec.env)
    check_files(spec.files, spec.folders)
    for place in _WRITABLE[:2]:
        if sum(len(file.data) for file in spec.files if file.path.startswith(place)) > spec.limits.tmpfs_bytes:
            raise InvalidSpecError(f"files: more than fits into {place} ({spec.limits.tmpfs_bytes} bytes)")
    if len(spec.files) > MAX_FILES:
        raise InvalidSpecError(f"files: more than {MAX_FILES}")
    for path in spec.artifact_paths:
        _no_nul("artifact_paths", path)
    check_system_paths(spec.system_paths)
    check_limits(spec.limits, ("wall_s", "vcpu", "memory_bytes", "processes", "open_files", "tmpfs_bytes"))


def check_command(field: str, command: Sequence[str]) -> None:
    """Refuse a command that is empty or holds a NUL byte."""
    if not command or not command[0]:
        raise InvalidSpecError(f"{field}: the command is empty")
    for word in command:
        _no_nul(field, word)


def check_env(env: Mapping[str, str]) -> None:
    """Refuse variables without a usable name, and NUL bytes."""
    for name, value in env.items():
        if not name or "=" in name:
            raise InvalidSpecError(f"env: {name!r} is not a name for a variable")
        _no_nul(f"env {name!r}", name + value)


def check_files(files: Sequence[SandboxFile], folders: Sequence[str] = ()) -> None:
    """Refuse paths outside the writable folders, and such as exclude each other."""
    for file in files:
        _check_path("files", file.path)
        if not 0 <= file.mode <= 0o7777:
            raise InvalidSpecError(f"files: {file.mode:o} is not a mode for {file.path!r}")
    for folder in folders:
        _check_path("folders", folder)
    _no_clashes([file.path for file in files], folders)


def check_system_paths(paths: Sequence[str]) -> None:
    """Refuse what is not a plain path below /etc or /var/lib."""
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
            raise InvalidSpecError(f"files: {path!r} is there twice")
        seen.add(path)
        folders.update(_parents(path))
    if clash := seen & folders:
        raise InvalidSpecError(f"files: {min(clash)!r} is a file and a folder")


def _parents(path: str) -> Iterator[str]:
    while (path := path.rpartition("/")[0]) != "":
        yield path


_ALWAYS = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--unshare-net",
    "--die-with-parent",
    "--new-session",
    # The job script is the first process: when it ends the kernel kills the rest, and the monitor reaps it.
    "--as-pid-1",
    "--clearenv",
    # Otherwise the root of a container would keep what its own user namespace gives it.
    "--cap-drop",
    "ALL",
)


def sandbox_arguments(
    spec: SandboxSpec,
    *,
    root: Path,
    system: System,
    system_paths: Iterable[str],
    seccomp_fd: int,
    info_fd: int,
    file_fds: Sequence[int],
    network: Outbound | None = None,
) -> bytes:
    """Return bubblewrap's options, NUL-separated for `--args`; nothing of it appears on a command line.

    Args:
        spec: A validated specification.
        root: The read-only root folder.
        system: Where `/usr` and the like come from.
        system_paths: Absolute paths to mount from there; each has a mount point in `root`.
        seccomp_fd: Number of the descriptor with the filter, in the sandbox program.
        info_fd: Number of the descriptor that it reports on.
        file_fds: One number for each of `spec.files`.
        network: How it gets out, when it does.
    """
    size = spec.limits.tmpfs_bytes
    words = base_words(root, system, system_paths, size, network)
    words += ["--perms", "0755", "--size", str(size), "--tmpfs", WORK, "--chdir", WORK]
    words += _file_arguments(spec, file_fds)
    for name, value in (DEFAULT_ENV | dict(spec.env)).items():
        if not _must_wait(name):
            words += ["--setenv", name, value]
    words += ["--seccomp", str(seccomp_fd), "--info-fd", str(info_fd)]
    return null_separated(words)


def shm_bytes(tmpfs_bytes: int) -> int:
    """Return the size of /dev/shm."""
    return max(1 << 16, tmpfs_bytes // 4)


def base_words(
    root: Path, system: System, system_paths: Iterable[str], tmpfs_bytes: int, network: Outbound | None
) -> list[str]:
    """Return the options that jobs and live sandboxes share: namespaces, and all mounts but the work folder."""
    words = [*_ALWAYS]
    words += ["--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", HOSTNAME]
    words += ["--ro-bind", str(root), "/", "--ro-bind", str(system.usr), "/usr"]
    for path in system_paths:
        words += ["--ro-bind", str(system.path(path)), path]
    if network is not None:
        words += network.words()
    words += ["--proc", "/proc", *proc_masks.words(), "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(shm_bytes(tmpfs_bytes)), "--tmpfs", SHM]
    # /dev is a tmpfs without a bound of its own.
    words += ["--remount-ro", "/dev"]
    return [*words, "--perms", "1777", "--size", str(tmpfs_bytes), "--tmpfs", TMP]


def null_separated(words: Iterable[str]) -> bytes:
    """Return options in the form in which bubblewrap reads them from a descriptor."""
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _file_arguments(spec: SandboxSpec, file_fds: Sequence[int]) -> list[str]:
    words: list[str] = []
    made = {"/", WORK, TMP, "/dev", SHM}

    def make(folder: PurePosixPath) -> None:
        for step in (*reversed(folder.parents), folder):
            if str(step) not in made:
                made.add(str(step))
                words.extend(["--dir", str(step)])

    for folder in (*spec.folders, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])):
        make(PurePosixPath(folder))
    for file, fd in zip(spec.files, file_fds, strict=True):
        make(PurePosixPath(file.path).parent)
        words += ["--perms", f"{file.mode:04o}", "--file", str(fd), file.path]
    return words


def _must_wait(name: str) -> bool:
    """Whether a variable must be set for the programs alone, after the job script.

    The script's own shell and loader would obey some, and drop or overwrite others.
    """
    return name.startswith(_LOADER_PREFIXES) or name in _SHELL_NAMES or not _PLAIN_NAME.fullmatch(name)


def job_script(
    spec: SandboxSpec,
    *,
    data_bytes: int | None,
    prepare: Sequence[str] = (),
    artifacts: Sequence[str] = (f"read -r _ <&{CONTROL_FD}",),
    all_variables: bool = False,
) -> str:
    """Return the shell script that is the sandbox's first process.

    It limits itself, says that it starts, runs the steps, kills whatever they left running, and reports the
    exit status. When artifacts are wanted it then waits: they exist only while the sandbox does.

    Args:
        spec: A validated specification.
        data_bytes: Bound of each process's data in bytes where nothing else limits memory, else None.
        prepare: Lines that put files in place, before the clock starts.
        artifacts: Lines that hand over what the program left, or wait until somebody has taken it.
        all_variables: Set every variable in the script; otherwise only those that would disturb its shell.
    """
    limits = spec.limits
    lines = [
        f"exec {SCRIPT_FD}<&-",
        f"ulimit -n {limits.open_files}",
        # Processes of this user in this sandbox: dash says -p, bash -u.
        f"ulimit -p {limits.processes} 2>/dev/null || ulimit -u {limits.processes}",
    ]
    if data_bytes is not None:
        lines.append(f"ulimit -d {max(1, data_bytes // 1024)}")
    late = [shlex.quote(f"{name}={value}") for name, value in spec.env.items() if _must_wait(name)]
    prefix = f"env -- {' '.join(late)} " if late else ""
    if all_variables:
        lines += [
            f"export {name}={shlex.quote(value)}" for name, value in spec.env.items() if not _must_wait(name)
        ]
    lines += prepare
    # The shell's own remarks ("Segmentation fault") are not the program's output. It makes them in the place to
    # which a simple command is redirected; hence the subshells, which cost no further process.
    lines += ["exec 4>&2 2>/dev/null", _report(MARK_START)]
    if spec.compile is not None:
        lines += [
            f"(exec {prefix}{shlex.join(spec.compile)}) </dev/null >&4 2>&4 {_CLOSED}",
            f"code=$?; [ $code = 0 ] || {{ {_report(MARK_COMPILE_FAILED)}; exit $code; }}",
        ]
    lines += [
        f"(exec {prefix}{shlex.join(spec.run)}) 2>&4 {_CLOSED}",
        "code=$?",
        "kill -9 -1",
        _report(MARK_END),
    ]
    if spec.collect_artifacts or spec.artifact_paths:
        lines += artifacts
    lines.append("exit $code")
    return "\n".join(lines)


def _report(mark: bytes) -> str:
    return f'echo "{mark.decode()} $code" >&{CONTROL_FD}'
