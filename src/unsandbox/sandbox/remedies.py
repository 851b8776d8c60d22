"""The reason why a protection is missing on this machine, and the command that brings it.

One source for `un doctor`, for refusals and for the probe's details: each function looks at the machine and
returns one remedy, not a list of guesses.
"""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECCOMP_PROFILE = "un doctor --seccomp-profile > unsandbox.json"
"""Command that writes the profile for container engines."""
_APPARMOR = "/etc/apparmor.d/unsandbox"
APPARMOR_PROFILE = f"un doctor --apparmor-profile | sudo tee {_APPARMOR} && sudo apparmor_parser -r {_APPARMOR}"
"""Command that loads the profile for AppArmor."""
LINGER = "loginctl enable-linger"
"""Command that starts a user's systemd at boot; the user's name follows."""
_RECIPES = {
    "docker": "docker run --security-opt seccomp=unsandbox.json --security-opt systempaths=unconfined "
    "--security-opt apparmor=unconfined --user 1000 IMAGE",
    "podman": "podman run --security-opt seccomp=unsandbox.json --security-opt unmask=ALL --user 1000 IMAGE",
    "kubernetes": "securityContext of the container: runAsUser: 1000, procMount: Unmasked, seccompProfile: "
    "{type: Localhost, localhostProfile: unsandbox.json}; of the pod: hostUsers: false",
}
_WRITABLE_GROUPS = {
    "docker": "docker run --security-opt writable-cgroups=true IMAGE  # Docker 28 or later",
    "podman": "podman run --systemd=always IMAGE",
}
_OWN_GROUP = (
    "G=/sys/fs/cgroup; echo '+memory +pids +cpu' > $G/cgroup.subtree_control; mkdir -p $G/unsandbox; "
    "echo $$ > $G/unsandbox/cgroup.procs; exec un serve"
)
_DELEGATE_ALL = (
    "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=yes\\n' | "
    "sudo tee /etc/systemd/system/user@.service.d/unsandbox.conf && sudo systemctl daemon-reload && "
    "sudo systemctl restart user@{uid}.service"
)
_MEMORY_CONTROLLER = "add cgroup_enable=memory to the kernel's command line, and reboot"

_REFUSALS = (
    "Creating new namespace failed",
    "No permissions to",
    "setting up uid map",
    "Can't mount",
    "Can't set hostname",
    "Failed to make / slave",
    "Permission denied: '/proc/",
)
"""Messages of bubblewrap and the launcher about namespaces and mounts that are refused."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is wrong, and what to do about it.

    Attributes:
        reason: The reason, as a part of a sentence.
        command: The command or the step that helps on this machine; empty if nothing does.
    """

    reason: str
    command: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.command}" if self.command else self.reason


@dataclass(frozen=True, slots=True)
class Machine:
    """What remedies depend on.

    Attributes:
        uid: The server's user.
        user: Name of that user.
        container: `docker`, `podman`, `kubernetes`, another name, or empty outside of containers.
        settings: Settings of the kernel by name, as far as they exist: `kernel.unprivileged_userns_clone`.
        filtered: Whether a seccomp filter applies to this process.
    """

    uid: int
    user: str
    container: str
    settings: Mapping[str, str]
    filtered: bool


_SETTINGS = (
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
    "kernel.apparmor_restrict_unprivileged_userns",
)


def this_machine() -> Machine:
    """Return the facts about this machine and process."""
    values = {name: _text(f"/proc/sys/{name.replace('.', '/')}") for name in _SETTINGS}
    uid = os.geteuid()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(uid)
    return Machine(
        uid,
        user,
        find_container(),
        {name: value for name, value in values.items() if value},
        "\nSeccomp:\t2" in _text("/proc/self/status"),
    )


def find_container(root: Path = Path("/"), env: Mapping[str, str] = os.environ) -> str:
    """Return the kind of container that this process runs in; empty outside of containers.

    Args:
        root: The root folder.
        env: The environment.
    """
    if "KUBERNETES_SERVICE_HOST" in env:
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    # Written by systemd, and set by many container managers (systemd.io/CONTAINER_INTERFACE).
    return _text(root / "run/systemd/container") or env.get("container", "")


def cgroup_remedy(version: int, refusal: str, where: str, machine: Machine) -> Remedy:
    """Return why sandboxes have no control groups, or lack the CPU controller, and what to do about it.

    Args:
        version: Version of the control groups; 0 if there are none.
        refusal: The reason for version 0, as in the launcher's `delegation.Refusal`.
        where: The group or the error message that belongs to the reason.
        machine: The machine.
    """
    if version:
        return Remedy("the group has no CPU controller", _DELEGATE_ALL.format(uid=machine.uid))
    match refusal:
        case "no-memory":
            return Remedy("the kernel's memory controller is switched off", _MEMORY_CONTROLLER)
        case "no-controllers":
            return Remedy(f"{where} has no memory controller", _DELEGATE_ALL.format(uid=machine.uid))
        case "no-user-manager":
            return Remedy(
                f"no systemd runs for the user {machine.user}",
                f"sudo {LINGER} {shlex.quote(machine.user)}",
            )
        case "systemd":
            user = "--user " if machine.uid else ""
            return Remedy(
                f"systemd gave no control group ({where})",
                f"systemd-run {user}--scope -p Delegate=yes un serve",
            )
        case "read-only" | "not-mounted" | "denied" if machine.container:
            return _container_remedy(machine)
        case "not-mounted":
            return Remedy("no control groups are mounted", "mount -t cgroup2 none /sys/fs/cgroup")
        case "shared" if machine.container:
            return Remedy(
                f"{where} holds processes outside of the container", "start it without --cgroups=disabled"
            )
        case _ if machine.uid:
            return Remedy("an ordinary user has no control groups here", "run the server as root")
        case "shared":
            return Remedy(f"{where} holds other processes as well", f"sh -c {shlex.quote(_OWN_GROUP)}")
        case _:
            return Remedy(f"the control groups cannot be used ({refusal} {where})".replace(" )", ")"))


def _container_remedy(machine: Machine) -> Remedy:
    if machine.uid:
        return Remedy("an ordinary user of a container has no control groups")
    return Remedy("the container cannot write its control groups", _WRITABLE_GROUPS.get(machine.container, ""))


def namespace_remedy(said: str, machine: Machine) -> Remedy | None:
    """Return why a sandbox program could not create a sandbox; None if its message is about something else.

    Args:
        said: The error message of bubblewrap or of the launcher.
        machine: The machine.
    """
    if not any(words in said for words in _REFUSALS):
        return None
    if machine.container:
        recipe = _RECIPES.get(machine.container, "allow namespaces and mounts, and show all of /proc")
        file = f"{SECCOMP_PROFILE}; " if "unsandbox.json" in recipe else ""
        reason = f"the container ({machine.container}) forbids namespaces or hides parts of /proc"
        return Remedy(reason, f"{file}{recipe}")
    if machine.settings.get("kernel.unprivileged_userns_clone") == "0" and machine.uid:
        return Remedy("users may not create namespaces", "sudo sysctl -w kernel.unprivileged_userns_clone=1")
    if machine.settings.get("user.max_user_namespaces") == "0":
        return Remedy("user namespaces are switched off", "sudo sysctl -w user.max_user_namespaces=15000")
    if machine.settings.get("kernel.apparmor_restrict_unprivileged_userns") == "1" and machine.uid:
        return Remedy("AppArmor restricts user namespaces", APPARMOR_PROFILE)
    if machine.filtered:
        return Remedy("a seccomp filter around this process forbids namespaces", "start it without that filter")
    return Remedy("the kernel refuses user namespaces to this process")


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
