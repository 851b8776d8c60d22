"""The pieces by themselves: filter, control groups, root folder, job script."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess

import pytest

from unsandbox.sandbox import (
    Limits,
    SandboxSpec,
    SandboxUnavailable,
    janitor,
    limits,
    probe,
    seccomp,
    skeleton,
    users,
)
from unsandbox.sandbox.artifacts import Collector
from unsandbox.sandbox.command import job_script, validate
from unsandbox.sandbox.control import CgroupReport
from unsandbox.sandbox.system import System

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
X86, ARM = 0xC000003E, 0xC00000B7


def judge(program, number, arguments=(), arch=X86):
    """Interpret a filter for one system call, as the kernel does."""
    words = [number, arch, 0, 0]
    for value in (*arguments, *[0] * (6 - len(arguments))):
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    accumulator = position = 0
    while True:
        code, yes, no, constant = program[position]
        position += 1
        if code == 0x20:
            accumulator = words[constant // 4]
        elif code == 0x06:
            return constant
        else:
            truth = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x45: accumulator & constant}[
                code
            ]
            position += yes if truth else no


@pytest.mark.parametrize(
    ("number", "arguments", "verdict"),
    [
        (0, (), ALLOW), (59, (), ALLOW), (101, (), ALLOW), (469, (), ALLOW),
        (470, (), ENOSYS), (0x40000000, (), ENOSYS), (0xFFFFFFFF, (), ENOSYS), (435, (), ENOSYS),
        (56, (17,), ALLOW), (56, (0x3D0F00,), ALLOW), (56, (0x10000000 | 17,), EPERM), (56, (1 << 35 | 0x20000,), EPERM),
        (272, (0,), EPERM), (165, (), EPERM), (308, (), EPERM), (321, (), EPERM), (425, (), EPERM), (250, (), EPERM),
        (41, (1, 1, 0), ALLOW), (41, (2, 1, 0), ALLOW), (41, (10, 2, 17), ALLOW), (41, (16, 3, 0), ALLOW),
        (41, (16, 3, 9), EAFNOSUPPORT), (41, (40, 1, 0), EAFNOSUPPORT), (41, (17, 3, 0), EAFNOSUPPORT),
        (41, (1 << 32 | 40, 1, 0), EAFNOSUPPORT), (41, (0, 1, 0), EAFNOSUPPORT),
        (16, (0, 0x5401), ALLOW), (16, (0, 0x5412), EPERM), (16, (0, 0x541C), EPERM), (16, (0, 1 << 40 | 0x5412), EPERM),
        (135, (0xFFFFFFFF,), ALLOW), (135, (0x40000,), ALLOW), (135, (0x0400000,), EPERM),
    ],
)  # fmt: skip
def test_verdicts_of_the_filter(number, arguments, verdict):
    assert judge(seccomp.program("x86_64"), number, arguments) == verdict


def test_a_foreign_architecture_is_killed():
    assert judge(seccomp.program("x86_64"), 0, arch=0x40000003) == KILL
    assert judge(seccomp.program("aarch64"), 0, arch=X86) == KILL


def test_the_filter_for_aarch64():
    program = seccomp.program("aarch64")
    assert judge(program, 220, (17,), ARM) == ALLOW
    assert judge(program, 220, (0x10000000,), ARM) == EPERM
    assert judge(program, 97, (), ARM) == EPERM
    assert judge(program, 198, (40,), ARM) == EAFNOSUPPORT
    assert judge(program, 29, (0, 0x5412), ARM) == EPERM
    assert judge(program, 500, (), ARM) == ENOSYS
    assert judge(program, 56, (), ARM) == ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_refused_call_is_refused_and_every_jump_lands(machine):
    program = seccomp.program(machine)
    table = seccomp.ARCHITECTURES[machine]
    for name, number in table.denied.items():
        assert judge(program, number, arch=table.audit) == EPERM, name
    for number in range(seccomp.LAST_KNOWN_SYSCALL + 2):
        judge(program, number, arch=table.audit)
    assert len(set(table.denied.values())) == len(table.denied)
    assert len(seccomp.build(machine)) == 8 * len(program)
    assert all(0 <= yes < 256 and 0 <= no < 256 for _, yes, no, _ in program)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler to ask for the numbers")
def test_numbers_agree_with_the_systems_headers():
    machine = os.uname().machine
    table = seccomp.ARCHITECTURES[machine]
    named = table.denied | {"clone": table.clone, "socket": table.socket, "ioctl": table.ioctl, "clone3": table.clone3,
                            "personality": table.personality}  # fmt: skip
    source = "#include <sys/syscall.h>\n" + "".join(
        f"#ifdef __NR_{name}\n{name} __NR_{name}\n#endif\n" for name in named
    )
    text = subprocess.run(
        ["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout
    known = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    assert len(known) > 40
    assert {name: named[name] for name in known if name in named} == {
        name: int(known[name]) for name in known if name in named
    }


def test_an_unknown_machine_is_refused():
    with pytest.raises(SandboxUnavailable, match="sparc"):
        seccomp.build("sparc")


# Control groups, on folders that only look like them


def v2_tree(tmp_path, controllers="cpu memory pids", enabled="memory pids cpu"):
    base = tmp_path / "own"
    base.mkdir()
    (base / "cgroup.controllers").write_text(controllers)
    (base / "cgroup.subtree_control").write_text(enabled)
    (base / "cgroup.procs").write_text("")
    mountinfo = f"30 20 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    return base, mountinfo, "0::/own\n"


def test_bases_of_v2(tmp_path):
    base, mountinfo, own = v2_tree(tmp_path)
    assert limits.find_bases(mountinfo, own) == (2, dict.fromkeys(("memory", "pids", "cpu"), base))


def test_bases_of_v1_with_controllers_mounted_together(tmp_path):
    mountinfo = "".join(
        f"3{i} 20 0:3{i} / {tmp_path}/{name} rw,nosuid - cgroup cgroup rw,{name}\n"
        for i, name in enumerate(("memory", "cpu,cpuacct", "pids", "name=systemd"))
    )
    for name in ("memory/a/b", "cpu,cpuacct", "pids"):
        (tmp_path / name).mkdir(parents=True)
    version, bases = limits.find_bases(mountinfo, "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/gone\n0::/\n")
    assert version == 1
    together = tmp_path / "cpu,cpuacct"
    assert bases == {
        "memory": tmp_path / "memory/a/b",
        "cpu": together,
        "cpuacct": together,
        "pids": tmp_path / "pids",
    }


def test_bases_in_a_container_that_sees_a_part(tmp_path):
    (tmp_path / "sub").mkdir()
    mountinfo = f"30 20 0:26 /docker/1 {tmp_path} rw - cgroup cgroup rw,memory\n"
    assert limits.find_bases(mountinfo, "4:memory:/docker/1/sub\n") == (1, {"memory": tmp_path / "sub"})
    assert limits.find_bases(mountinfo, "4:memory:/elsewhere\n") == (1, {"memory": tmp_path})


def test_hybrid_machines_use_v1_where_v2_has_no_memory(tmp_path):
    _, mountinfo, own = v2_tree(tmp_path, controllers="hugetlb")
    mountinfo += f"31 20 0:27 / {tmp_path}/own rw - cgroup cgroup rw,memory\n"
    assert limits.find_bases(mountinfo, own + "4:memory:/\n")[0] == 1


def test_no_control_groups(tmp_path):
    assert limits.open_hierarchy("x", "", "") is None
    mountinfo = f"30 20 0:26 / {tmp_path}/missing rw - cgroup cgroup rw,memory\n"
    assert limits.open_hierarchy("x", mountinfo, "4:memory:/\n") is None


def test_a_group_of_v2(tmp_path, monkeypatch):
    base, mountinfo, own = v2_tree(tmp_path)
    monkeypatch.setattr(limits, "write", lambda path, text: path.write_text(text))
    hierarchy = limits.open_hierarchy("unsandbox-1-a", mountinfo, own)
    assert (hierarchy.version, hierarchy.controllers()) == (2, ["cpu", "memory", "pids"])
    group = limits.Group(hierarchy, "job-1")
    group.create(limits.Bounds(memory_bytes=1000, processes=7, vcpu=1.5))
    folder = base / "unsandbox-1-a" / "job-1"
    settings = {path.name: path.read_text() for path in folder.iterdir()}
    assert settings == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "pids.max": "10",
        "cpu.max": "150000 100000",
    }
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (folder / "memory.peak").write_text("777\n")
    (folder / "memory.events").write_text("oom 2\noom_kill 1\n")
    assert group.usage() == limits.Usage(1.5, 777, 1)
    assert not group.remove()
    for path in folder.iterdir():
        path.unlink()
    assert group.remove()
    assert group.remove()


def test_a_v2_group_with_foreign_processes_is_not_taken_over(tmp_path, monkeypatch):
    base, mountinfo, own = v2_tree(tmp_path, enabled="")
    (base / "cgroup.procs").write_text("1\n2\n")

    def write(path, text):
        if path == base / "cgroup.subtree_control":
            raise OSError(16, "busy")
        path.write_text(text)

    monkeypatch.setattr(limits, "write", write)
    assert limits.open_hierarchy("unsandbox-1-a", mountinfo, own) is None
    assert not (base / "unsandbox-server").exists()


def test_a_v2_group_of_our_own_makes_room_for_children(tmp_path, monkeypatch):
    base, mountinfo, own = v2_tree(tmp_path, enabled="")
    (base / "cgroup.procs").write_text(f"{os.getpid()}\n")
    moved = []

    def write(path, text):
        if path == base / "cgroup.subtree_control" and not moved:
            raise OSError(16, "busy")
        if path == base / "unsandbox-server" / "cgroup.procs":
            moved.append(int(text))
        path.write_text(text)

    monkeypatch.setattr(limits, "write", write)
    hierarchy = limits.open_hierarchy("unsandbox-1-a", mountinfo, own)
    assert hierarchy.controllers() == ["cpu", "memory", "pids"]
    assert moved == [os.getpid()]


def test_memory_of_a_family():
    child = subprocess.Popen(["sh", "-c", "sleep 100 & echo x; wait"], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        family = limits.members(child.pid)
        assert len(family) == 2
        assert 0 < limits.held_memory(child.pid) < 50 << 20
    finally:
        for pid in family:
            os.kill(pid, 9)
        child.communicate()
    assert limits.held_memory(child.pid) == 0


# Users

FULL = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid_map", "gid_map", "pid", "first"),
    [
        (FULL, FULL, 0, 200_000),
        (FULL, FULL, 41_999, 1_199_000),
        ("0 1000 1\n1 100000 65536\n", "0 1000 1\n1 100000 65536\n", 5, 63_537),
        (FULL, "0 0 65536\n", 5, 63_536),
        ("0 1000 1\n", "0 1000 1\n", 5, None),
        ("0 1000 1\n1 5000 3000\n", FULL, 5, None),
        ("", "", 5, None),
    ],
)
def test_users_of_sandboxes(uid_map, gid_map, pid, first):
    found = users.sandbox_users(uid_map, gid_map, pid)
    assert (found and (found[0], len(found))) == (first and (first, users.USERS_PER_SERVER))


# Root folder


def test_the_root_has_nothing_private(tmp_path):
    etc = tmp_path / "etc"
    (etc / "ssl/certs").mkdir(parents=True)
    (etc / "ssl/certs/ca-certificates.crt").write_text("public")
    (etc / "services").write_text("closed")
    (etc / "services").chmod(0o600)
    (etc / "shadow").write_text("secret")
    (etc / "passwd").write_text("secret")
    runtime = tmp_path / "unsandbox-1-a"
    runtime.mkdir()
    root = skeleton.build_root(runtime, System(tmp_path))
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "public"
    assert not any((root / "etc" / name).exists() for name in ("services", "shadow"))
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"secret" not in path.read_bytes()
            assert path.stat().st_mode & 0o222 == 0
    skeleton.add_mount_point(root, "/etc/java-17/security", System(tmp_path))
    assert (root / "etc/java-17/security").exists()


def test_names_of_instances():
    assert janitor.owner_of(janitor.instance_name(12, "ab")) == 12
    for name in ("unsandbox-", "unsandbox-x-y", "unsandbox-1", "unsandbox-1-2-3", "other-1-a", ""):
        assert janitor.owner_of(name) is None


def test_the_janitor_removes_only_its_own(tmp_path):
    keep, mine = tmp_path / "precious", tmp_path / janitor.instance_name(1, "a")
    keep.mkdir()
    (mine / "sub").mkdir(parents=True)
    janitor.remove_runtime(keep)
    janitor.remove_runtime(mine)
    assert keep.exists()
    assert not mine.exists()


def test_groups_that_stay_busy_are_returned(tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "file").write_text("busy")
    (tmp_path / "h" / "job-1").mkdir(parents=True)
    assert janitor.remove_groups([tmp_path / "g", tmp_path / "h"], patience_s=0.02) == [tmp_path / "g"]


# Artifacts, outside a sandbox


def test_collector_on_a_hostile_folder(tmp_path):
    root = tmp_path / "root"
    folder = root / "tmp/artifacts"
    folder.mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (folder / "link").symlink_to("../../../outside")
    (folder / "ok").write_text("fine")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "s"))
        fd = os.open(root, os.O_PATH)
        try:
            collector = Collector(fd, Limits())
            collector.collect("/tmp/artifacts", ["/../outside", "/missing"])
        finally:
            os.close(fd)
    assert [(a.filename, a.data) for a in collector.artifacts] == [("ok", b"fine")]
    assert sorted(line.split(": ")[0] for line in collector.skipped) == ["fifo", "link", "outside", "s"]


# Job script and probe


def test_the_script_quotes_every_word():
    words = ["a b", "$HOME", "'", '"', "`id`", "\n", "*", ";", "--", "-x", "\udcff"]
    spec = SandboxSpec(run=["printf", "%s\\0", *words])
    validate(spec)
    script = job_script(spec, data_bytes=None).encode("utf-8", "surrogateescape")
    result = subprocess.run(["sh", "-c", script.replace(b"kill -9 -1", b":").replace(b">&3", b">/dev/null")],
                            capture_output=True, check=False)  # fmt: skip
    assert result.stdout.split(b"\0")[:-1] == [word.encode("utf-8", "surrogateescape") for word in words]


GOOD = """status Uid:\t1000\t1000\t1000\t1000
status CapPrm:\t0000000000000000
status CapEff:\t0000000000000000
status CapBnd:\t0000000000000000
status NoNewPrivs:\t1
status Seccomp:\t2
pid 2
interface     lo
process 1
process 2
private ok
"""


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        (GOOD, set()),
        (GOOD.replace("1000\t1000", "0\t1000"), {"user"}),
        (GOOD.replace("CapEff:\t0", "CapEff:\t8"), {"capabilities"}),
        (GOOD.replace("Privs:\t1", "Privs:\t0"), {"no new privileges"}),
        (GOOD.replace("Seccomp:\t2", "Seccomp:\t0"), {"system calls"}),
        (GOOD + "visible /root/.ssh\n", {"files"}),
        (GOOD + "writable /usr\n", {"read-only system"}),
        (GOOD + "interface eth0\n", {"network"}),
        (GOOD + "process 77\nprocess 78\n", {"processes"}),
        ("", {"user", "capabilities", "no new privileges", "system calls", "private folders", "network"}),
    ],
)
def test_the_probe_notices_broken_promises(said, broken):
    assert {check.name.removeprefix("isolation: ") for check in probe.judge(said) if not check.ok} == broken


def test_the_probe_says_what_is_weaker_without_groups():
    by_name = {check.name: check for check in probe.limit_checks(CgroupReport(0, {}))}
    assert by_name["limit: memory"].enforced_by == "RLIMIT_DATA and watchdog"
    assert not by_name["limit: CPU"].ok
    by_name = {
        check.name: check
        for check in probe.limit_checks(CgroupReport(2, dict.fromkeys(["memory", "pids", "cpu"], "/")))
    }
    assert {by_name[f"limit: {name}"].enforced_by for name in ("memory", "processes", "CPU")} == {"cgroup v2"}


def test_the_filter_is_well_formed_for_the_kernel():
    code = seccomp.build()
    assert struct.unpack_from("<HBBI", code) == (0x20, 0, 0, 4)
    assert len(code) // 8 < 4096
