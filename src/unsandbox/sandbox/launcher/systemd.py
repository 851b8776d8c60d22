"""Asks systemd for a delegated group: a transient scope that contains the launcher.

Only the launcher moves there, so the groups of the server and of its caller stay as they are. The request goes
through `busctl`, a program of systemd, to the system's manager as root and to the user's manager otherwise.
The scope ends with its last process, and systemd removes it with all groups in it.

Source: https://systemd.io/CGROUP_DELEGATION/ and org.freedesktop.systemd1(5).

The launcher, a bare interpreter, loads this module: standard library only.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from unsandbox.sandbox.launcher.cgroups import read
from unsandbox.sandbox.launcher.delegation import NotDelegated, systemd_runs

_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin")
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_NO_LIMIT = str((1 << 64) - 1)
_TIMEOUT_S = 5.0
_LONGEST_ERROR = 4096


def enter_scope(name: str, own: str) -> None:
    """Move this process into a new, delegated scope.

    Args:
        name: Name of the scope, without suffix.
        own: Text of `/proc/self/cgroup`, for the slice of this process.

    Raises:
        NotDelegated: Systemd does not run, or refuses; nothing has changed.
    """
    uid = os.geteuid()
    if not systemd_runs():
        raise NotDelegated("no-systemd")
    if uid and not _answers(f"/run/user/{uid}/bus"):
        raise NotDelegated("no-user-manager")
    program = next((path for place in _PLACES if os.path.exists(path := f"{place}/busctl")), None)  # noqa: PTH110
    if program is None:
        raise NotDelegated("systemd", "busctl is not installed")
    properties = [
        ("PIDs", "au", "1", str(os.getpid())),
        ("Delegate", "b", "true"),
        ("Description", "s", "Sandboxes of unsandbox"),
        ("CollectMode", "s", "inactive-or-failed"),
        ("TasksMax", "t", _NO_LIMIT),
    ]
    if not uid and (slice_name := slice_of(own)):
        # The limits of its slice go on to hold.
        properties.append(("Slice", "s", slice_name))
    words = [word for entry in properties for word in entry]
    call = [
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        f"{name}.scope",
        "fail",
        str(len(properties)),
        *words,
        "0",
    ]
    manager = "--user" if uid else "--system"
    _run([program, manager, f"--timeout={_TIMEOUT_S:g}", "call", *_MANAGER, *call], uid)
    give_up = time.monotonic() + _TIMEOUT_S
    while f"/{name}.scope" not in read("/proc/self/cgroup"):
        if time.monotonic() > give_up:
            raise NotDelegated("systemd", "it did not create the scope in time")
        time.sleep(0.002)


def _answers(path: str) -> bool:
    """Return whether a program listens on a socket. A user's manager that has ended may leave its socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
    return True


def slice_of(own: str) -> str:
    """Return the innermost slice in the v2 path of a `/proc/self/cgroup` text; empty if there is none."""
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "")
    return next((part for part in reversed(path.split("/")) if part.endswith(".slice")), "")


def _run(command: Sequence[str], uid: int) -> None:
    said = os.memfd_create("busctl", os.MFD_CLOEXEC)
    discard = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        child = os.posix_spawn(
            command[0],
            list(command),
            {"XDG_RUNTIME_DIR": f"/run/user/{uid}", "LC_ALL": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, discard, 0),
                (os.POSIX_SPAWN_DUP2, discard, 1),
                (os.POSIX_SPAWN_DUP2, said, 2),
            ],
        )
        _, status = os.waitpid(child, 0)
        if status:
            raise NotDelegated("systemd", os.pread(said, _LONGEST_ERROR, 0).decode("utf-8", "replace").strip())
    except OSError as error:
        raise NotDelegated("systemd", str(error)) from error
    finally:
        os.close(said)
        os.close(discard)
