"""The pieces by themselves: filter, control groups, root folder, job script."""

from __future__ import annotations

import hashlib
import itertools
import os
import resource
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from unsandbox.sandbox import Limits, SandboxSpec, SandboxUnavailable, layout, rootfs, uid_ranges
from unsandbox.sandbox.gvisor import agent
from unsandbox.sandbox.host import probe
from unsandbox.sandbox.host.artifacts import Collector
from unsandbox.sandbox.host.job_script import job_script
from unsandbox.sandbox.host.launcher_client import CgroupReport
from unsandbox.sandbox.launcher import cleanup, disk_mount, enter
from unsandbox.sandbox.persistent_spec import HashedBytes
from unsandbox.sandbox.seccomp import compiler as seccomp
from unsandbox.sandbox.seccomp import policy
from unsandbox.sandbox.storage.hashed_file import HashedFile
from unsandbox.sandbox.system import System
from unsandbox.sandbox.validation import validate
from unsandbox.sandbox.zygote import lockdown
from unsandbox.sandbox.zygote import main as zygote

ALLOW, KILL, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x50001, 0x50026, 0x50061
EINVAL, ENOENT, EPROTONOSUPPORT = 0x50016, 0x50002, 0x5005D
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
        match code:
            case 0x20:
                accumulator = words[constant // 4]
            case 0x54:
                accumulator &= constant
            case 0x05:
                position += constant
            case 0x06:
                return constant
            case 0x15 | 0x35 | 0x45:
                truth = {
                    0x15: accumulator == constant,
                    0x35: accumulator >= constant,
                    0x45: accumulator & constant,
                }
                position += yes if truth[code] else no
            case _:
                raise AssertionError(f"the kernel takes no instruction {code:#x} in a filter")


JUDGED = [
    ("clone", (17,), ALLOW), ("clone", (0x3D0F00,), ALLOW), ("clone", (0x10000000 | 17,), EPERM),
    ("clone", (1 << 35 | 0x20000,), EPERM),
    ("socket", (1, 1, 0), ALLOW), ("socket", (2, 1, 0), ALLOW), ("socket", (10, 2, 17), ALLOW), ("socket", (16, 3, 0), ALLOW),
    ("socket", (16, 3, 9), EAFNOSUPPORT), ("socket", (40, 1, 0), EAFNOSUPPORT), ("socket", (17, 3, 0), EAFNOSUPPORT),
    ("socket", (1 << 32 | 40, 1, 0), EAFNOSUPPORT), ("socket", (0, 1, 0), EAFNOSUPPORT), ("socket", (38, 5, 0), EAFNOSUPPORT),
    ("socket", (2, 1, 132), EPROTONOSUPPORT), ("socket", (10, 1, 262), EPROTONOSUPPORT), ("socket", (2, 3, 255), EPROTONOSUPPORT),
    ("socketpair", (1, 1, 0), ALLOW), ("socketpair", (30, 1, 0), EAFNOSUPPORT), ("socketpair", (2, 1, 0), EAFNOSUPPORT),
    ("setsockopt", (3, 6, 1), ALLOW), ("setsockopt", (3, 1, 31), ALLOW), ("setsockopt", (3, 6, 31), ENOENT),
    ("ioctl", (0, 0x5401), ALLOW), ("ioctl", (0, 0x5412), EPERM), ("ioctl", (0, 0x541C), EPERM), ("ioctl", (0, 0x541D), EPERM),
    ("ioctl", (0, 0x5423), EPERM), ("ioctl", (0, 1 << 40 | 0x5412), EPERM), ("ioctl", (0, 0x5413), ALLOW),
    ("personality", (0xFFFFFFFF,), ALLOW), ("personality", (0x40000,), ALLOW), ("personality", (0x0400000,), EPERM),
    ("prctl", (1, 9), ALLOW), ("prctl", (34,), ALLOW), ("prctl", (35,), EINVAL), ("prctl", (36,), ALLOW), ("prctl", (62,), EINVAL),
    ("prctl", (67,), EINVAL), ("prctl", (79,), EINVAL), ("prctl", (0x53564D41,), ALLOW), ("prctl", (0,), EINVAL),
    ("ptrace", (16, 1), ALLOW), ("ptrace", (0x420C, 1), EPERM), ("ptrace", (0x420D, 1), EPERM), ("ptrace", (0x4206, 1), ALLOW),
    ("seccomp", (0,), ALLOW), ("seccomp", (1, 0), ALLOW), ("seccomp", (1, 9), ALLOW), ("seccomp", (1, 2), EINVAL),
    ("seccomp", (1, 4), EINVAL), ("seccomp", (4,), EINVAL), ("seccomp", (2,), ALLOW),
    ("mknod", (0, 0o100644), ALLOW), ("mknod", (0, 0o010644), ALLOW), ("mknod", (0, 0o020644), EPERM), ("mknod", (0, 0o060600), EPERM),
    ("mknodat", (0, 0, 0o140644), ALLOW), ("mknodat", (0, 0, 0o020000), EPERM), ("mknodat", (0, 0, 0o060000), EPERM),
]  # fmt: skip


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURES)
def test_the_filter_judges_arguments(machine):
    program, numbers = seccomp.program(machine), seccomp.numbers(machine)
    arch = seccomp.AUDIT_ARCHITECTURES[machine]
    cases = [(name, arguments, verdict) for name, arguments, verdict in JUDGED if name in numbers]
    assert {name for name, _, _ in cases} == policy.JUDGED & numbers.keys()
    got = [(name, arguments, judge(program, numbers[name], arguments, arch)) for name, arguments, _ in cases]
    assert got == cases


@pytest.mark.parametrize("machine", seccomp.AUDIT_ARCHITECTURES)
def test_every_number_has_the_verdict_of_the_policy(machine):
    program, numbers = seccomp.program(machine), seccomp.numbers(machine)
    names = {number: name for name, number in numbers.items()}
    assert len(names) == len(numbers) > 300
    for number in (*range(max(names) + 100), 0x3FFFFFFF, *range(0x40000000, 0x40000200), 0xFFFFFFFF):
        name = names.get(number)
        if name in policy.JUDGED:
            continue
        expected = ALLOW if name in policy.ALLOWED else EPERM if name in policy.NO_PERMISSION else ENOSYS
        assert judge(program, number, arch=seccomp.AUDIT_ARCHITECTURES[machine]) == expected, (number, name)
    assert len(seccomp.build(machine)) == 8 * len(program)
    assert all(0 <= yes < 256 and 0 <= no < 256 for _, yes, no, _ in program)


def test_every_known_call_is_in_exactly_one_list():
    lists = (policy.ALLOWED, policy.NO_PERMISSION, policy.NOT_THERE, policy.JUDGED)
    known = set().union(*map(seccomp.numbers, seccomp.AUDIT_ARCHITECTURES))
    assert set().union(*lists) == known
    assert sum(map(len, lists)) == len(known)


def test_a_foreign_architecture_is_killed():
    assert judge(seccomp.program("x86_64"), 0, arch=0x40000003) == KILL
    assert judge(seccomp.program("aarch64"), 0, arch=X86) == KILL


# The kernel's header of every newer machine, as the header of aarch64 reads it.
GENERIC = """
#define __BITS_PER_LONG 64
#define __ARCH_WANT_RENAMEAT
#define __ARCH_WANT_NEW_STAT
#define __ARCH_WANT_SET_GET_RLIMIT
#define __ARCH_WANT_SYS_CLONE3
#define __ARCH_WANT_MEMFD_SECRET
#include <asm/bitsperlong.h>
#undef __BITS_PER_LONG
#define __BITS_PER_LONG 64
#include <asm-generic/unistd.h>
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler to ask for the numbers")
@pytest.mark.parametrize(
    ("machine", "header"), [("x86_64", "#include <asm/unistd_64.h>\n"), ("aarch64", GENERIC)]
)
def test_numbers_agree_with_the_systems_headers(machine, header):
    numbers = seccomp.numbers(machine)
    if machine == "x86_64" and os.uname().machine != machine:
        pytest.skip("this machine has no header of x86_64")
    source = header + "".join(f"#ifdef __NR_{name}\n@ {name} __NR_{name}\n#endif\n" for name in numbers)
    text = subprocess.run(
        ["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    known = {line.split()[1]: int(line.split()[2]) for line in text.splitlines() if line.startswith("@ ")}
    assert len(known) > 300
    assert {name: numbers[name] for name in known} == known


def test_an_unknown_machine_is_refused():
    with pytest.raises(SandboxUnavailable, match="sparc"):
        seccomp.build("sparc")


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
    found = uid_ranges.sandbox_users(uid_map, gid_map, pid)
    assert (found and (found[0], len(found))) == (first and (first, uid_ranges.USERS_PER_SERVER))


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
    root = rootfs.build_root(runtime, System(tmp_path))
    assert (root / "etc/ssl/certs/ca-certificates.crt").read_text() == "public"
    assert not any((root / "etc" / name).exists() for name in ("services", "shadow"))
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"secret" not in path.read_bytes()
            assert path.stat().st_mode & 0o222 == 0
    rootfs.add_mount_point(root, "/etc/java-17/security", System(tmp_path))
    assert (root / "etc/java-17/security").exists()


def test_names_of_instances():
    assert cleanup.owner_of(cleanup.instance_name(12, "ab")) == 12
    for name in ("unsandbox-", "unsandbox-x-y", "unsandbox-1", "unsandbox-1-2-3", "other-1-a", ""):
        assert cleanup.owner_of(name) is None


def test_the_janitor_removes_only_its_own(tmp_path):
    keep, mine = tmp_path / "precious", tmp_path / cleanup.instance_name(1, "a")
    keep.mkdir()
    (mine / "sub").mkdir(parents=True)
    cleanup.remove_runtime(keep)
    cleanup.remove_runtime(mine)
    assert keep.exists()
    assert not mine.exists()


def test_groups_that_stay_busy_are_returned(tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "file").write_text("busy")
    (tmp_path / "h" / "job-1").mkdir(parents=True)
    assert cleanup.remove_groups([tmp_path / "g", tmp_path / "h"], patience_s=0.02) == [tmp_path / "g"]


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
    script = job_script(spec, data_bytes=None)
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
        (GOOD + "reads vmallocinfo\n", {"user outside"}),
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


def hashed_file(path: Path, pieces: Iterable[bytes]) -> HashedBytes:
    with HashedFile(path) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
        return file.finish()


def test_a_hashed_file_holds_what_was_written_whatever_the_pieces(tmp_path):
    pieces = [os.urandom(size) for size in (0, 3, 300_000, 1 << 20, 7, 200_000, 200_000, *[1 << 20] * 12, 1)]
    hashed = hashed_file(tmp_path / "new", pieces)
    written = (tmp_path / "new").read_bytes()
    assert written == b"".join(pieces)
    assert hashed == HashedBytes(hashlib.sha256(written).hexdigest(), len(written))
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "new")


def test_a_hashed_file_tells_of_a_disk_that_fails(tmp_path):
    """While it is written, or at the end at the latest; who fills it is not left waiting."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limit[1]))
    endless = itertools.repeat(bytes(1 << 20))
    try:
        with pytest.raises(OSError, match="too large"):
            hashed_file(tmp_path / "endless", endless)
        with pytest.raises(OSError, match="too large"):
            hashed_file(tmp_path / "less", [bytes(2 << 20), b"x"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


# Constants that processes share without importing each other


def test_every_process_knows_the_same_inside():
    assert {module.INSIDE_UID for module in (enter, disk_mount)} == {layout.SANDBOX_UID}
    assert {module.SANDBOX_UID for module in (lockdown, agent)} == {layout.SANDBOX_UID}
    assert agent.WORK == layout.WORK
    assert f"{layout.WORK}/main.py" == zygote.MAIN
