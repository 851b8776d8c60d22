"""Turns a forked child of the launcher into the program that creates a sandbox. Standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from unsandbox.sandbox.launcher import disk_mount, enter, syscalls
from unsandbox.sandbox.launcher.cgroups import Group
from unsandbox.sandbox.launcher.fd_numbers import INFO_FD
from unsandbox.sandbox.launcher.messages import OpenPersistent, Start, StartZygote


def become_sandbox(
    request: Start, fds: Sequence[int], own: Mapping[int, int], group: Group | None, launcher: int
) -> NoReturn:
    """Enter the job's group, change user, set limits and descriptors, and execute the program.

    Called in the forked child. The order matters: the group needs root, the numbers of descriptors must be
    free, and nothing of the launcher may stay open.

    Args:
        request: The request for the sandbox.
        fds: Its descriptors.
        own: Descriptors that the launcher adds, by their number in the program; failures are written to
            `INFO_FD`.
        group: Its control group; None if there is none, or if the process was created in it.
        launcher: Pid of the process that forked this one.
    """
    report = own[INFO_FD]
    try:
        if group:
            group.enter()
        enter.run_on(request.cpus)
        # When the machine runs out of memory, the kernel kills sandboxes before anything else.
        Path("/proc/self/oom_score_adj").write_text("1000")
        # First copy them above all target numbers, so that no copy overwrites one that is still needed.
        targets = [*request.fds, *own]
        floor = max(targets) + 1
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor) for fd in (*fds, *own.values())]
        report = sources[targets.index(INFO_FD)]
        for source, target in zip(sources, targets, strict=True):
            # A program without a child report shows that it runs by its execution, which closes the pipe.
            os.dup2(source, target, inheritable=target != INFO_FD or not request.single_process)
        for number in set(range(floor)) - set(targets):
            os.closerange(number, number + 1)
        os.closerange(floor, report)
        os.closerange(report + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.chdir("/")
        os.umask(0o022)
        signal.set_wakeup_fd(-1)
        for number in enter.CHANGED_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (enter.CORE_LIMIT, enter.CORE_LIMIT))
        if isinstance(request, StartZygote):
            _lower_priority(request.nice)
        uid = request.uid
        if isinstance(request, OpenPersistent) and request.disk is not None:
            disk_mount.mount_work_disk(request.disk, os.geteuid() if uid is None else uid)
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        if request.single_process:
            _own_user_namespace()
        # After the change of user, which resets this setting. Bubblewrap sets it again a moment later.
        syscalls.die_with_parent(launcher)
        os.execve(request.program, request.argv, {})  # noqa: S606 - a fixed program
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        os.write(report, json.dumps({"error": f"cannot start the sandbox program: {error}"}).encode())
    finally:
        os._exit(127)


def _lower_priority(by: int) -> None:
    """Lower the priority of this process, if it can be raised again."""
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        # A container may lack CAP_SYS_NICE, also for its root.
        os.setpriority(os.PRIO_PROCESS, 0, normal - 1)
    except OSError:
        return
    os.setpriority(os.PRIO_PROCESS, 0, normal + by)


def _own_user_namespace() -> None:
    """Become root of a new user namespace that maps only the current user."""
    uid, gid = os.geteuid(), os.getegid()
    # A change of user has made /proc/self root's.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise OSError(error.errno, f"Creating new namespace failed: {error.strerror}") from error
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text)
