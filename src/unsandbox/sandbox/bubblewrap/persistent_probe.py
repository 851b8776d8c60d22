"""Finds out what sandboxes that stay have on this machine, by making one and looking around in it."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Sequence

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.persistent_spec import PersistentLimits, PersistentSandbox, PersistentSpec
from unsandbox.sandbox.spec import MIB, Check
from unsandbox.sandbox.system import System

LASTING = "lasting: sandboxes"
"""Name of the check on which all others here depend."""
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


async def examine_persistent(open_persistent: Callable[[PersistentSpec], Awaitable[PersistentSandbox]]) -> str:
    """Make a live sandbox, look around in it, freeze it; return what is wrong, empty when nothing is."""
    try:
        sandbox = await open_persistent(PersistentSpec(limits=_LIMITS))
        try:
            outcome = await sandbox.run(["sh", "-c", f"{probe.LOOK_AROUND}exit 0"], timeout_s=_TIMEOUT_S)
            await sandbox.freeze()
            await sandbox.unfreeze()
        finally:
            await sandbox.close()
    except (SandboxError, OSError) as error:
        return str(error)
    if outcome.exit_code != 0:
        return f"the probe did not finish: exit code {outcome.exit_code}"
    broken = [check for check in probe.judge(outcome.stdout.data.decode("utf-8", "replace")) if not check.ok]
    return "; ".join(f"{check.name}: {check.detail}" for check in broken)


def persistent_checks(problem: str, freezer: str, no_images: str, system: System) -> Sequence[Check]:
    """Say what live sandboxes have here.

    Args:
        problem: What `examine_persistent` returned.
        freezer: How they are frozen; see `CgroupReport`.
        no_images: Why work folders are no images here; empty when they are.
        system: The system that sandboxes see.
    """
    if problem:
        return [Check(LASTING, False, "refused", problem)]
    by, remark = _FREEZERS[freezer]
    missing = [] if system.has_program("tar") else ["sandboxes see no tar"]
    if importlib.util.find_spec("zstandard") is None:
        missing.append("the library zstandard is not installed (pip install 'unsandbox[local]')")
    return [
        Check(LASTING, True, "namespaces entered for each program"),
        Check("lasting: freeze", True, by, remark),
        Check("lasting: disk quota", False, "size looked at from time to time", no_images)
        if no_images
        else Check("lasting: disk quota", True, "file system in an image"),
        Check("lasting: archives", not missing, "tar and zstd", "; ".join(missing)),
    ]
