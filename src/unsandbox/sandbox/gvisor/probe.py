"""Checks which protections gVisor enforces on this machine, from inside a sandbox and from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.gvisor.resources import GvisorResources
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.running_job import SandboxJob
from unsandbox.sandbox.launcher.cgroups import members
from unsandbox.sandbox.spec import Check, OutputSink, ProbeReport, SandboxSpec

_KERNEL = "gVisor's kernel"
SCRIPT = probe.LOOK_AROUND + 'read -r line < /proc/version; echo "kernel $line"'
"""Looks around in a sandbox; see `judge_inside`."""
_SCRIPT = f"{SCRIPT}; echo finished; exec sleep 60"
_OF_THE_HOST = ("isolation: system calls", "isolation: no new privileges")
"""Facts that gVisor does not show inside; they are read from the process of its kernel."""


class _Starts(Protocol):
    @property
    def name(self) -> str: ...

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> SandboxJob: ...


async def examine(backend: _Starts, resources: GvisorResources) -> ProbeReport:
    """Run the probe in `backend`, and check its findings and the sandbox's process.

    Raises:
        SandboxUnavailable: No sandbox could be run, or its isolation is incomplete.
    """
    cgroup, version = resources.host.cgroup, resources.version
    separate_users = resources.host.slots.users is not None
    said = bytearray()
    finished = asyncio.Event()

    def hear(stream: str, data: bytes) -> None:
        if stream == "stdout":
            said.extend(data)
        if b"\nfinished\n" in said:
            finished.set()

    try:
        job = await backend.start(SandboxSpec(run=["sh", "-c", _SCRIPT], limits=probe.LIMITS), hear)
        ending = asyncio.ensure_future(job.wait())
        hearing = asyncio.ensure_future(finished.wait())
        try:
            await asyncio.wait((ending, hearing), return_when=asyncio.FIRST_COMPLETED)
            outside = judge_outside(job.process[0], separate_users) if finished.is_set() else []
        finally:
            hearing.cancel()
            job.cancel()
        outcome = await ending
    except SandboxUnavailable:
        raise
    except SandboxError as error:
        raise SandboxUnavailable(f"runsc {version}: {error}{probe.hint(str(error))}") from error
    if not finished.is_set():
        detail = outcome.stderr.data.decode("utf-8", "replace").strip()[-500:]
        raise SandboxUnavailable(
            f"runsc {version}: the probe did not finish ({outcome.reason}, code {outcome.exit_code}): {detail}"
        )
    limits = [*probe.limit_checks(cgroup), probe.users_check(separate_users)]
    if "memory" not in cgroup.controllers:
        detail = "no memory cgroup: what a sandbox holds is added up every 50 ms"
        limits = [
            Check(one.name, True, "watchdog", detail) if one.name == "limit: memory" else one for one in limits
        ]
    return probe.report(backend.name, [*judge_inside(said.decode("utf-8", "replace")), *outside, *limits])


def judge_persistent(said: str) -> list[Check]:
    """Do the same as `judge_inside` in a persistent sandbox.

    There the bounding set holds the agent's capabilities. Programs cannot gain them: they run with
    `noNewPrivileges`.
    """
    return judge_inside(said, ("CapEff", "CapPrm"))


def judge_inside(said: str, capability_sets: Sequence[str] = ("CapEff", "CapPrm", "CapBnd")) -> list[Check]:
    """Turn the probe's output into one check for each property of the isolation that is visible inside.

    Args:
        said: The output.
        capability_sets: The capability sets that must be empty.
    """
    # gVisor's /sys is an imitation without data of the host.
    lines = [line for line in said.splitlines() if not line.startswith("visible /sys/")]
    checks = [
        replace(check, enforced_by=_KERNEL)
        for check in probe.judge("\n".join(lines), capability_sets)
        if check.name not in _OF_THE_HOST
    ]
    kernel = next((line for line in lines if line.startswith("kernel ")), "")
    own = "Linux version" in kernel and os.uname().release not in kernel
    return [Check("isolation: own kernel", own, _KERNEL, "" if own else "the host's kernel shows"), *checks]


def judge_outside(pid: int, separate_users: bool) -> list[Check]:
    """Check the process that is the sandbox's kernel.

    Args:
        pid: The `runsc` that runs the sandbox.
        separate_users: Whether it must run as a different user than the server.
    """
    sentries = [member for member in members(pid) if _text(member, "cmdline").startswith("runsc-sandbox")]
    if not sentries:
        return [Check("isolation: confined kernel", False, "nothing", "its process is not to be found")]
    sentry = sentries[0]
    fields = (line.partition(":")[::2] for line in _text(sentry, "status").splitlines())
    status = {name: value.split() for name, value in fields}
    own_user = not separate_users or str(os.geteuid()) not in status.get("Uid", ["0"])
    separate = [
        name
        for name in ("user", "mnt", "net", "ipc")
        if _namespace(sentry, name) != _namespace(os.getpid(), name)
    ]

    def check(name: str, ok: bool, by: str, detail: str) -> Check:
        return Check(f"isolation: {name}", ok, by, "" if ok else detail)

    return [
        check("system calls", status.get("Seccomp") == ["2"], "seccomp filter of gVisor", "no filter"),
        check("no new privileges", status.get("NoNewPrivs") == ["1"], "prctl", "not set"),
        check("kernel's user", own_user, "uid", "gVisor runs as the server's user"),
        check("kernel's namespaces", len(separate) == 4, "namespaces", f"only {separate} are its own"),
    ]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _namespace(pid: int, name: str) -> Sequence[int]:
    try:
        status = Path(f"/proc/{pid}/ns/{name}").stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino
