"""Each machine gets the one command that helps there."""

from __future__ import annotations

import json

import pytest

from unsandbox.sandbox import remedies
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.launcher_client import CgroupReport
from unsandbox.sandbox.remedies import Machine
from unsandbox.sandbox.seccomp import container, policy


def machine(uid=1000, container="", filtered=False, **settings) -> Machine:
    names = {
        "clone": "kernel.unprivileged_userns_clone",
        "most": "user.max_user_namespaces",
        "apparmor": "kernel.apparmor_restrict_unprivileged_userns",
    }
    return Machine(uid, "ana", container, {names[key]: value for key, value in settings.items()}, filtered)


def refused(why: str, detail: str = "") -> CgroupReport:
    return CgroupReport(0, (), refusal=why, detail=detail)


@pytest.mark.parametrize(
    ("report", "where", "reason", "command"),
    [
        (refused("no-user-manager"), machine(), "no systemd runs for the user ana", "enable-linger ana"),
        (refused("no-memory"), machine(0), "switched off", "cgroup_enable=memory"),
        (refused("no-controllers", "/g"), machine(), "/g has no memory controller", "user@1000.service"),
        (CgroupReport(2, ("memory", "pids")), machine(), "no CPU controller", "Delegate=yes"),
        (
            refused("systemd", "it is busy"),
            machine(),
            "it is busy",
            "systemd-run --user --scope -p Delegate=yes",
        ),
        (refused("systemd", "it is busy"), machine(0), "it is busy", "systemd-run --scope -p Delegate=yes"),
        (refused("read-only"), machine(0, "podman"), "container cannot write", "--systemd=always"),
        (refused("denied"), machine(1000, "podman"), "ordinary user of a container", ""),
        (refused("read-only"), machine(0, "kubernetes"), "container cannot write", ""),
        (refused("shared", "/g"), machine(0, "podman"), "outside of the container", "--cgroups=disabled"),
        (refused("shared", "/g"), machine(0), "/g holds other processes", "cgroup.procs; exec un serve"),
        (refused("shared", "/g"), machine(), "ordinary user", "as root"),
        (refused("not-mounted"), machine(0), "no control groups are mounted", "mount -t cgroup2"),
    ],
)
def test_the_way_to_control_groups(report, where, reason, command):
    remedy = remedies.cgroup_remedy(report.version, report.refusal, report.detail, where)
    assert reason in remedy.reason
    assert command in remedy.command
    assert bool(command) == bool(remedy.command)


NO_NAMESPACE = "bwrap: No permissions to create a new namespace, likely because the kernel does not allow it"


@pytest.mark.parametrize(
    ("said", "where", "command"),
    [
        (NO_NAMESPACE, machine(clone="0", most="0"), "kernel.unprivileged_userns_clone=1"),
        (NO_NAMESPACE, machine(clone="1", most="0"), "user.max_user_namespaces="),
        (NO_NAMESPACE, machine(0, clone="0", most="0"), "user.max_user_namespaces="),
        (NO_NAMESPACE, machine(clone="1", most="9", apparmor="1"), "apparmor_parser -r"),
        (NO_NAMESPACE, machine(clone="1", most="9", filtered=True), "without that filter"),
        (NO_NAMESPACE, machine(0, "docker", most="0"), "systempaths=unconfined"),
        ("bwrap: Can't mount proc on /newroot/proc", machine(0, "podman"), "unmask=ALL"),
        ("bwrap: Can't set hostname", machine(0, "kubernetes"), "procMount: Unmasked"),
    ],
)
def test_the_setting_that_blocks_is_named_and_no_other(said, where, command):
    remedy = remedies.namespace_remedy(said, where)
    assert command in remedy.command
    others = {"kernel.unprivileged_userns_clone", "user.max_user_namespaces", "apparmor_parser"} - {
        name for name in (command.partition("=")[0], command.partition(" ")[0]) if name
    }
    assert not any(other in str(remedy) for other in others)


def test_other_errors_get_no_remedy():
    assert remedies.namespace_remedy("bwrap: execvp x: No such file", machine()) is None
    assert probe.hint("bwrap: execvp x: No such file") == ""


def test_refusals_name_the_remedy(monkeypatch):
    monkeypatch.setattr(probe, "this_machine", lambda: machine(most="0"))
    assert probe.hint(NO_NAMESPACE).endswith("off: sudo sysctl -w user.max_user_namespaces=15000)")
    checks = {check.name: check for check in probe.limit_checks(refused("no-user-manager"))}
    assert checks["limit: memory"].remedy == "sudo loginctl enable-linger ana"


@pytest.mark.parametrize(
    ("files", "env", "kind"),
    [
        ([], {}, ""),
        ([".dockerenv"], {}, "docker"),
        (["run/.containerenv"], {}, "podman"),
        ([".dockerenv"], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ([], {"container": "lxc"}, "lxc"),
    ],
)
def test_containers_are_recognised(tmp_path, files, env, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert remedies.find_container(tmp_path, env) == kind


def test_this_machine():
    found = remedies.this_machine()
    assert found.user
    assert set(found.settings) <= {
        "kernel.unprivileged_userns_clone",
        "user.max_user_namespaces",
        "kernel.apparmor_restrict_unprivileged_userns",
    }


def test_the_profile_of_containers_allows_sandboxes_and_little_else():
    profile = json.loads(container.container_profile())
    allowed = set(profile["syscalls"][0]["names"])
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {"unshare", "mount", "pivot_root", "clone", "seccomp"} <= allowed
    assert allowed >= policy.ALLOWED
    dangerous = [
        "bpf",
        "perf_event_open",
        "init_module",
        "kexec_load",
        "keyctl",
        "add_key",
        "userfaultfd",
        "open_by_handle_at",
    ]
    assert not allowed & {*dangerous, "io_uring_setup", "reboot", "settimeofday", "swapon"}


def test_the_profile_for_apparmor_names_the_programs():
    text = container.apparmor_profile(["/opt/a b/un", "/usr/bin/un"])
    assert 'profile unsandbox {"/opt/a b/un",/usr/bin/un} flags=(unconfined)' in text
    assert "userns," in text
