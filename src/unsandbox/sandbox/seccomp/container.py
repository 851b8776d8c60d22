"""The seccomp profile for a container that a server runs in, and the AppArmor profile for Ubuntu."""

from __future__ import annotations

import json
from collections.abc import Sequence

from unsandbox.sandbox.seccomp import policy

_ENGINE = policy.names("""
chroot clone3 mount pidfd_getfd pivot_root process_vm_readv process_vm_writev setdomainname sethostname
setns umount2 unshare
""")
"""Calls with which the server makes sandboxes, and which it then forbids to the programs in them.

Gvisor's kernel reads the memory of its programs.
"""
_ARCHITECTURES = ("SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64")
_EPERM = 1


def container_profile() -> str:
    """Return the profile, in the format that Docker, podman and Kubernetes read.

    It allows what sandboxes may do, and the creation of sandboxes; see `policy`. Everything else is refused, as
    in an ordinary container: kernel modules, clocks, keyrings, bpf, perf, io_uring.
    """
    names = sorted(policy.ALLOWED | policy.JUDGED | _ENGINE)
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": _EPERM,
            "architectures": _ARCHITECTURES,
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        },
        indent=1,
    )


def apparmor_profile(programs: Sequence[str]) -> str:
    """Return a profile that lets programs create user namespaces where AppArmor restricts that.

    It restricts nothing else. Programs that they start inherit it.

    Args:
        programs: Absolute paths.
    """
    places = ",".join(f'"{path}"' if " " in path else path for path in programs)
    attachment = f"{{{places}}}" if len(programs) > 1 else places
    return (
        "# Made by `un doctor --apparmor-profile`.\n"
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n\n"
        f"profile unsandbox {attachment} flags=(unconfined) {{\n"
        "  userns,\n\n"
        "  include if exists <local/unsandbox>\n"
        "}\n"
    )
