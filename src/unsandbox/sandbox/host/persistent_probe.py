"""Checks the persistent sandboxes of this machine, by running a probe in one."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Sequence

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.resources import HostResources
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.remedies import namespace_remedy, this_machine
from unsandbox.sandbox.spec import MIB, Check

PERSISTENT = "persistent: sandboxes"
"""Name of the check on which the other checks depend."""
QUOTA = "persistent: disk quota"
_LIMITS = PersistentLimits(memory_bytes=256 * MIB, processes=32, tmpfs_bytes=MIB, work_bytes=16 * MIB)
_TIMEOUT_S = 10.0
_FREEZERS = {
    "v2": ("cgroup v2 freezer", ""),
    "v1": (
        "cgroup v1 freezer",
        "what is frozen when server and launcher are both killed stays for the next",
    ),
    "stop": ("stop signals", "no cgroup freezer can be written: programs notice that they were stopped"),
}


async def examine_persistent(
    open_persistent: Callable[[PersistentSpec], Awaitable[PersistentSandbox]],
    script: str,
    judge: Callable[[str], Sequence[Check]],
) -> str:
    """Create a persistent sandbox, run the probe in it and freeze it; return the problem, or an empty text.

    Args:
        open_persistent: Creates the sandbox.
        script: The probe.
        judge: Turns the probe's output into one check for each property of the isolation.
    """
    try:
        sandbox = await open_persistent(PersistentSpec(limits=_LIMITS))
        try:
            outcome = await sandbox.run(["sh", "-c", f"{script}\nexit 0"], timeout_s=_TIMEOUT_S)
            await sandbox.freeze()
            await sandbox.unfreeze()
        finally:
            await sandbox.close()
    except (SandboxError, OSError) as error:
        return str(error)
    if outcome.exit_code != 0:
        return f"the probe did not finish: exit code {outcome.exit_code}"
    broken = [check for check in judge(outcome.stdout.data.decode("utf-8", "replace")) if not check.ok]
    return "; ".join(f"{check.name}: {check.detail}" for check in broken)


def persistent_checks(problem: str, host: HostResources, by: str, quota: Check) -> Sequence[Check]:
    """Return the checks of persistent sandboxes.

    Args:
        problem: The result of `examine_persistent`.
        host: The resources of the backend.
        by: The means of isolation.
        quota: The check of the disk quota.
    """
    if problem:
        remedy = namespace_remedy(problem, this_machine())
        return [Check(PERSISTENT, False, "refused", problem, "" if remedy is None else remedy.command)]
    freezer, remark = _FREEZERS[host.cgroup.freezer]
    missing = [] if host.system.has_program("tar") else ["sandboxes see no tar"]
    if importlib.util.find_spec("zstandard") is None:
        missing.append("the library zstandard is not installed (pip install 'unsandbox[local]')")
    return [
        Check(PERSISTENT, True, by),
        Check("persistent: freeze", True, freezer, remark),
        quota,
        Check("persistent: archives", not missing, "tar and zstd", "; ".join(missing)),
    ]
