"""Checks which protections this machine enforces, by running a probe in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unsandbox.sandbox.backend import JobStarter
from unsandbox.sandbox.errors import SandboxError, SandboxUnavailable
from unsandbox.sandbox.host.launcher_client import CgroupReport
from unsandbox.sandbox.launcher.network.setup import INTERFACE
from unsandbox.sandbox.remedies import cgroup_remedy, namespace_remedy, this_machine
from unsandbox.sandbox.spec import (
    MIB,
    Check,
    EndReason,
    Limits,
    NetworkMode,
    Outcome,
    ProbeReport,
    SandboxSpec,
)

# Builtins and coreutils only, for a machine with few packages.
LOOK_AROUND = r"""
while IFS= read -r line; do case $line in
  Uid:*|CapEff:*|CapPrm:*|CapBnd:*|NoNewPrivs:*|Seccomp:*) echo "status $line";;
esac; done < /proc/self/status
echo "pid $$"
while IFS= read -r line; do case $line in *:*) echo "interface ${line%%:*}";; esac; done < /proc/net/dev
for path in /root/* /root/.[!.]* /home/* /sys/* /etc/shadow /var/lib/dpkg /run/*; do
  [ -e "$path" ] && [ "$path" != /home/user ] && echo "visible $path"
done
for process in /proc/[0-9]*; do echo "process ${process#/proc/}"; done
(: > /usr/unsandbox-probe) 2>/dev/null && echo "writable /usr"
(: > /etc/unsandbox-probe) 2>/dev/null && echo "writable /etc"
for setting in core_pattern msgmax; do
  (: >> /proc/sys/kernel/$setting) 2>/dev/null && echo "writable $setting"
done
for file in vmallocinfo slabinfo pagetypeinfo; do (: < /proc/$file) 2>/dev/null && echo "reads $file"; done
(: > /work/probe) && (: > /tmp/probe) && echo "private ok"
"""
_LOOK_AT_NETWORK = (
    'while IFS= read -r line; do case $line in *:*) echo "${line%%:*}";; esac; done < /proc/net/dev'
)
COMMAND = ("sh", "-c", f"{LOOK_AROUND}exit 0")
"""The probe, as a command."""
LIMITS = Limits(wall_s=10, memory_bytes=256 * MIB, processes=32, tmpfs_bytes=MIB)


class BrokenIsolation(SandboxUnavailable):
    """The isolation of a sandbox is incomplete. The message has the details."""


async def examine(backend: JobStarter, cgroup: CgroupReport, *, separate_users: bool) -> ProbeReport:
    """Run the probe in a sandbox of `backend` and check its findings.

    Raises:
        SandboxUnavailable: No sandbox could be run, or its isolation is incomplete.
    """
    try:
        job = await backend.start(SandboxSpec(run=COMMAND, limits=LIMITS))
        checks = judge_outcome(await job.wait())
    except SandboxUnavailable:
        raise
    except SandboxError as error:
        raise SandboxUnavailable(f"{error}{hint(str(error))}") from error
    return report(backend.name, [*checks, *limit_checks(cgroup), users_check(separate_users)])


def judge_outcome(outcome: Outcome) -> list[Check]:
    """Turn the outcome of `COMMAND` into one check for each property of the isolation.

    Raises:
        SandboxUnavailable: The probe did not finish.
    """
    if outcome.reason is not EndReason.EXITED or outcome.exit_code != 0:
        detail = outcome.stderr.data.decode("utf-8", "replace").strip()
        raise SandboxUnavailable(
            f"the probe did not finish: {outcome.reason}, exit code {outcome.exit_code}: {detail}"
        )
    return judge(outcome.stdout.data.decode("utf-8", "replace"))


def report(backend: str, checks: Sequence[Check]) -> ProbeReport:
    """Return the report of a backend whose isolation is complete.

    Raises:
        BrokenIsolation: A check of the isolation failed.
    """
    if broken := [check for check in checks if not check.ok and check.name.startswith("isolation")]:
        raise BrokenIsolation(
            "isolation is incomplete: " + "; ".join(f"{check.name}: {check.detail}" for check in broken)
        )
    return ProbeReport(backend, usable=True, checks=checks)


class Networked(JobStarter, Protocol):
    """A backend that can have an outbound network."""

    def network_refusal(self, mode: NetworkMode) -> str | None:
        """See `Backend`."""


async def examine_network(backend: Networked) -> Check:
    """Check the outbound network, by running a sandbox that has it."""
    name = "network: semitrusted"
    mode = NetworkMode.SEMITRUSTED
    if (why := backend.network_refusal(mode)) is not None:
        reason, _, remedy = why.rpartition(": ")
        return Check(name, False, "refused", reason.partition(" on this machine: ")[2] or reason, remedy)
    spec = SandboxSpec(run=["sh", "-c", _LOOK_AT_NETWORK], network=mode, limits=LIMITS)
    try:
        outcome = await (await backend.start(spec)).wait()
    except SandboxError as error:
        return Check(name, False, "refused", str(error))
    seen = outcome.stdout.data.decode("utf-8", "replace").split()
    if seen != ["lo", INTERFACE]:
        return Check(name, False, "refused", f"a sandbox with network has the interfaces {seen}")
    return Check(name, True, "slirp4netns, policy rules and packet filter")


def judge(said: str, capability_sets: Sequence[str] = ("CapEff", "CapPrm", "CapBnd")) -> list[Check]:
    """Turn the probe's output into one check for each property of the isolation.

    Args:
        said: The output.
        capability_sets: The capability sets that must be empty.
    """
    facts: dict[str, list[str]] = {}
    for line in said.splitlines():
        key, _, value = line.partition(" ")
        facts.setdefault(key, []).append(value)
    status = dict(line.replace("\t", " ").partition(":")[::2] for line in facts.get("status", []))
    none = "0" * 16
    caps = {status.get(name, "?").strip() for name in capability_sets}
    uids = set(status.get("Uid", "0").split())
    interfaces = [name.strip() for name in facts.get("interface", [])]
    visible, writable = facts.get("visible", []), facts.get("writable", [])

    def check(name: str, ok: bool, by: str, detail: str) -> Check:
        return Check(f"isolation: {name}", ok, by, "" if ok else detail)

    return [
        check("user", "0" not in uids, "user namespace", f"user ids {sorted(uids)}"),
        # Only the machine's root can read these files of the kernel: a sandbox that reads them is that root.
        check(
            "user outside", "reads" not in facts, "not root", f"root of the machine: reads {facts.get('reads')}"
        ),
        check("capabilities", caps == {none}, "user namespace", f"holds {sorted(caps)}"),
        check("no new privileges", status.get("NoNewPrivs", "").strip() == "1", "prctl", "not set"),
        check("system calls", status.get("Seccomp", "").strip() == "2", "seccomp filter", "no filter"),
        check("files", not visible, "mount namespace", f"visible: {visible}"),
        check("read-only system", not writable, "read-only mounts", f"writable: {writable}"),
        check("private folders", facts.get("private") == ["ok"], "tmpfs", "/work or /tmp cannot be written"),
        check(
            "processes", len(facts.get("process", [])) <= 3, "pid namespace", "foreign processes are visible"
        ),
        check("network", interfaces == ["lo"], "network namespace", f"interfaces {interfaces}"),
    ]


def limit_checks(cgroup: CgroupReport) -> Sequence[Check]:
    """Return the checks of limits on memory, processes and CPU; weaker means are reported, not refused."""
    group = f"cgroup v{cgroup.version}"

    def check(name: str, controller: str, otherwise: str, detail: str) -> Check:
        if controller in cgroup.controllers:
            return Check(f"limit: {name}", True, group)
        remedy = cgroup_remedy(cgroup.version, cgroup.refusal, cgroup.detail, this_machine())
        detail = f"{remedy.reason}; {detail}"
        return Check(f"limit: {name}", bool(otherwise), otherwise or "nothing", detail, remedy.command)

    return [
        check(
            "memory",
            "memory",
            "RLIMIT_DATA and watchdog",
            "each process is bounded, their sum is checked every 50 ms, files in memory are not counted",
        ),
        check("processes", "pids", "RLIMIT_NPROC", "counted per user and namespace"),
        check("CPU", "cpu", "", "programs share the processors without a quota"),
        Check("limit: files", True, "tmpfs size"),
        Check("limit: wall time", True, "server's clock"),
    ]


def users_check(separate: bool) -> Check:
    """Return the check for separate host users of sandboxes."""
    if separate:
        return Check("limit: separate users", True, "uid per sandbox")
    return Check(
        "limit: separate users",
        False,
        "nothing",
        "all sandboxes run as the server's user, kept apart by namespaces",
    )


def hint(said: str) -> str:
    """Return the remedy for an error message of a sandbox program, or an empty text."""
    remedy = namespace_remedy(said, this_machine())
    return "" if remedy is None else f" ({remedy})"
