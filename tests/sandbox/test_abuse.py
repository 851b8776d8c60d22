"""What a hostile program tries, tried for real from inside; afterwards the backend must be well."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sandbox.support import eventually, groups_of, sandbox_processes

from unsandbox.sandbox import BubblewrapBackend, EndReason, Limits, init, load_languages, pool_for

MIB = 1 << 20
CONFIG = pool_for(load_languages(), 2, 4, Limits())


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["cold", "warm"])
async def backend(request):
    """Every attempt twice: in a sandbox made for the job, and in one that was waiting."""
    if request.param == "cold":
        async with BubblewrapBackend() as opened:
            yield opened
        return
    async with BubblewrapBackend(pool=CONFIG) as opened:
        await eventually(lambda: opened._pool._proven)
        yield opened
        assert not opened._pool._closed


CALL = """
import ctypes, os, sys, json, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    return (result, ctypes.get_errno() if result < 0 else 0)
"""


async def test_host_files_cannot_be_seen(python, tmp_path, still_well):
    canary = Path("/tmp") / f"canary-{secrets.token_hex(4)}"
    canary.write_text("secret")
    checkout = Path(__file__).resolve()
    places = ["/root/.bashrc", "/root/.ssh", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/home",
              "/var/lib/dpkg", "/var/log", "/sys/kernel", "/boot/grub", "/mnt", "/srv", "/media", "/lost+found",
              str(canary), str(checkout), str(tmp_path), "/proc/kcore", "/dev/mem", "/dev/vda", "/dev/kmsg",
              "/run/dbus", "/var/run/docker.sock", "/etc/machine-id"]  # fmt: skip
    code = f"""
import os
for path in {places!r}:
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path).read(1)
    except OSError:
        continue
    if found: print(path, found)
print(os.listdir('/home'), os.listdir('/root'), os.listdir('/run'), os.listdir('/var'), os.listdir('/tmp'))
"""
    try:
        outcome = await python(code)
    finally:
        canary.unlink()
    lines = outcome.stdout.data.decode().splitlines()
    assert lines == ["[] [] [] " + lines[-1].split("[] [] [] ")[1]], outcome.stderr.data
    assert "lib" in lines[0]
    await still_well()


async def test_nothing_of_the_system_can_be_written(python):
    code = """
import os
for path in ('/x', '/etc/x', '/usr/x', '/usr/bin/x', '/dev/x', '/proc/x', '/home/x', '/root/x', '/run/x', '/var/x', '/opt/x'):
    try: open(path, 'w'); print('created', path)
    except OSError: pass
for path in ('/etc/passwd', '/usr/bin/env', '/etc/ld.so.cache'):
    try: os.chmod(path, 0o777); print('chmod', path)
    except OSError: pass
    try: open(path, 'r+b'); print('opened', path)
    except OSError: pass
for path in ('/work/x', '/tmp/x', '/dev/shm/x', '/var/tmp/x'):
    open(path, 'w').write('1')
print('done')
"""
    assert (await python(code)).stdout.data == b"done\n"


async def test_host_processes_cannot_be_seen_or_touched(python):
    code = f"""
import os, signal
print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))
for pid in ({os.getpid()}, {os.getppid()}):
    try: os.kill(pid, 0); print('reached', pid)
    except OSError: pass
os.kill(1, signal.SIGKILL); os.kill(1, signal.SIGTERM)
print(os.getppid(), os.getpid())
"""
    # Signals to the first process from inside have no effect.
    assert (await python(code)).stdout.data == b"[1, 2]\n1 2\n"


async def test_the_servers_environment_and_command_line_stay_secret(python, monkeypatch):
    monkeypatch.setenv("CANARY", "secret-of-the-server")
    code = """
import os, glob
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + ['/proc/1/mountinfo']:
    try: print(path, open(path, 'rb').read())
    except PermissionError: print(path, 'is closed')
"""
    outcome = await python(code)
    said = outcome.stdout.data
    assert b"/proc/1/environ" in said
    for secret in (b"secret-of-the-server", b"--ro-bind", str(Path(__file__).parent).encode(), b"bwrap"):
        assert secret not in said


async def test_network_has_only_its_own_loopback(python):
    with (
        socket.create_server(("127.0.0.1", 0)) as canary,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        code = f"""
import socket
print([name for _, name in socket.if_nameindex()])
for address in (('127.0.0.1', {canary.getsockname()[1]}), ('::1', {six.getsockname()[1]}), ('10.0.0.1', 80),
                ('169.254.169.254', 80), ('8.8.8.8', 53), ('172.17.0.1', 80)):
    try: socket.create_connection(address, 1); print('reached', address)
    except OSError: pass
s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); print('own loopback')
"""
        outcome = await python(code)
    assert outcome.stdout.data == b"['lo']\nown loopback\n", outcome.stderr.data


async def test_unix_sockets_of_the_host_cannot_be_reached(python, tmp_path):
    name = f"\0canary-{secrets.token_hex(4)}"
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        abstract.bind(name)
        named.bind(path)
        abstract.listen()
        named.listen()
        code = f"""
import socket
for address in ({name!r}, {path!r}, '/run/dbus/system_bus_socket', '/var/run/docker.sock'):
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(address); print('reached', address)
    except OSError: pass
a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))
"""
        outcome = await python(code)
    assert outcome.stdout.data == b"b'x'\n"


async def test_socket_families_that_are_not_namespaced(python):
    code = """
import socket
for family, kind, protocol in ((40, 1, 0), (17, 3, 0), (38, 5, 0), (31, 3, 0), (29, 3, 1), (16, 3, 9), (16, 3, 15), (44, 3, 0)):
    try: socket.socket(family, kind, protocol); print('made', family, protocol)
    except OSError: pass
socket.socket(16, 3, 0); socket.getaddrinfo('localhost', 80); print('done')
"""
    # vsock, packet, alg, bluetooth, can, netlink audit and kobject, xdp
    assert (await python(code)).stdout.data == b"done\n"


REFUSED = {
    "mount": (165, b"tmpfs", b"/tmp", b"tmpfs", 0, 0),
    "umount2": (166, b"/tmp", 0),
    "chroot": (161, b"/tmp"),
    "pivot_root": (155, b"/tmp", b"/tmp"),
    "unshare user": (272, 0x10000000),
    "unshare mount": (272, 0x20000),
    "unshare files": (272, 0x400),
    "setns": (308, 0, 0),
    "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone net": (56, 0x40000000 | 17, 0, 0, 0, 0),
    "clone pid, high bits set": (56, (1 << 40) | 0x20000000 | 17, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "bpf": (321, 0, 0, 0),
    "keyctl": (250, 0, -3, 1),
    "add_key": (248, b"user", b"x", b"y", 1, -3),
    "request_key": (249, b"user", b"x", 0, -3),
    "io_uring_setup": (425, 1, 0),
    "userfaultfd": (323, 1),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "open_tree": (428, -100, b"/", 1),
    "fsopen": (430, b"tmpfs", 0),
    "mount_setattr": (442, -100, b"/", 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "name_to_handle_at": (303, -100, b"/", 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "init_module": (175, 0, 0, b""),
    "kexec_load": (246, 0, 0, 0, 0),
    "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0),
    "swapon": (167, b"/tmp/x", 0),
    "sethostname": (170, b"x", 1),
    "settimeofday": (164, 0, 0),
    "clock_settime": (227, 0, 0),
    "syslog": (103, 2, 0, 0),
    "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "iopl": (172, 3),
    "fanotify_init": (300, 0, 0),
    "modify_ldt": (154, 0, 0, 0),
    "kcmp": (312, 1, 2, 0, 0, 0),
    "personality": (135, 0x0400000),
    "x32 getpid": (0x40000000 + 39,),
    "unknown, 470": (470, 0, 0),
    "unknown, 1000": (1000, 0, 0),
    "setuid 0": (105, 0),
    "mknod": (133, b"/tmp/disk", 0o60666, 0xFE00),
    "TIOCSTI": (16, 0, 0x5412, b"x"),
    "TIOCSTI, high bits set": (16, 0, (1 << 32) | 0x5412, b"x"),
    "TIOCLINUX": (16, 0, 0x541C, b"x"),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers above are those of x86_64")
async def test_system_calls_that_are_refused(python):
    code = (
        CALL
        + f"""
for name, arguments in {REFUSED!r}.items():
    pid = os.getpid()
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = call(*wide)
    if os.getpid() != pid: os._exit(0)
    print(json.dumps([name, *result]), flush=True)
"""
    )
    outcome = await python(code)
    results = {
        name: (result, number) for name, result, number in map(json.loads, outcome.stdout.data.splitlines())
    }
    assert set(results) == set(REFUSED), outcome
    assert {name: r for name, r in results.items() if r[0] >= 0} == {}
    eperm, enosys = errno.EPERM, errno.ENOSYS
    nosys = {"clone3", "x32 getpid", "unknown, 470", "unknown, 1000"}
    assert {name: r[1] for name, r in results.items() if r[1] not in (eperm, enosys)} in ({}, {"setuid 0": 22})
    assert {name for name, r in results.items() if r[1] == enosys} == nosys


@pytest.mark.parametrize("tool", [["unshare", "-U", "true"], ["unshare", "-m", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"],
                                  ["nsenter", "-t", "1", "-m", "true"], ["su", "-c", "true"], ["dmesg"]])  # fmt: skip
async def test_tools_that_would_leave(run, tool):
    assert (await run(*tool)).exit_code != 0


async def test_what_stays_possible(python, run):
    code = """
import os, pty, threading, multiprocessing, subprocess, tempfile, mmap, ctypes
os.mkfifo('/tmp/f'); m, s = pty.openpty(); print(os.ttyname(s))
t = threading.Thread(target=lambda: None); t.start(); t.join()
print(subprocess.check_output(['echo', 'x']))
with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1]))
"""
    outcome = await python(code)
    assert outcome.stdout.data == b"/dev/pts/0\nb'x\\n'\n[1]\n", outcome.stderr.data


async def test_core_pattern_and_other_settings_of_the_kernel(python):
    code = """
import glob
for path in ['/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches', '/proc/sys/kernel/hostname',
             '/proc/sys/user/max_user_namespaces', '/proc/self/uid_map', '/proc/1/uid_map', '/proc/sys/net/ipv4/ip_forward',
             '/proc/1/oom_score_adj']:
    try: f = open(path, 'r+b', 0)
    except OSError: continue
    try: f.write(b'-1000' if 'oom' in path else b'1'); print('written', path)
    except OSError: pass
import os
if os.path.exists('/sys/fs'): print('sysfs')
"""
    assert (await python(code)).stdout.data == b""


async def test_keys_of_the_server_are_not_listed(run):
    assert b"_ses" not in (await run("cat", "/proc/keys")).stdout.data


async def test_a_sandbox_goes_first_when_the_machine_runs_out_of_memory(run):
    assert (await run("cat", "/proc/self/oom_score_adj")).stdout.data == b"1000\n"


async def test_a_crash_leaves_no_core_and_runs_no_handler(run):
    outcome = await run(
        "sh", "-c", "ulimit -c unlimited; bash -c 'kill -ABRT $$'; ls -A /work; grep core /proc/self/limits"
    )
    assert outcome.stdout.data.split() == b"Max core file size 1 1 bytes".split()


# Resources


async def test_fork_bomb(python, still_well):
    code = """
import os, sys, time
made = 0
while True:
    try: pid = os.fork()
    except OSError as error: number = error.errno; break
    if pid == 0: time.sleep(1000)
    made += 1
print(made, number)
"""
    begin = time.monotonic()
    outcome = await python(code, limits=Limits(processes=50, wall_s=10))
    made, number = map(int, outcome.stdout.data.split())
    assert 40 <= made <= 50
    assert number == 11
    assert time.monotonic() - begin < 3
    await still_well()


async def test_fork_bomb_that_doubles_until_the_time_is_up(run, still_well):
    outcome = await run("bash", "-c", "b() { b | b & }; b; sleep 100", limits=Limits(processes=64, wall_s=0.7))
    assert outcome.reason in (EndReason.TIMEOUT, EndReason.EXITED)
    await still_well()


async def test_memory_bomb(python, still_well):
    outcome = await python(
        "x = bytearray(1 << 30)\nprint('got it')", limits=Limits(memory_bytes=100 * MIB, wall_s=20)
    )
    assert outcome.stdout.data == b""
    assert (outcome.reason, outcome.exit_code) == (EndReason.MEMORY, 137)
    assert outcome.peak_memory_bytes <= 101 * MIB
    await still_well()


async def test_memory_bomb_of_many_processes(python, still_well):
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        x = bytearray(30 << 20)
        for i in range(0, len(x), 4096): x[i] = 1
        time.sleep(1); os._exit(0)
codes = [os.wait()[1] for _ in range(20)]
print(sum(code == 9 for code in codes))
raise SystemExit(1)
"""
    outcome = await python(code, limits=Limits(memory_bytes=150 * MIB, wall_s=1.5))
    assert outcome.reason in (EndReason.MEMORY, EndReason.TIMEOUT)
    assert outcome.peak_memory_bytes <= 151 * MIB
    await still_well()


@pytest.mark.parametrize("folder", ["/tmp", "/work", "/dev/shm", "/dev", "/var/tmp"])
async def test_full_disk(run, still_well, folder):
    limits = Limits(tmpfs_bytes=8 * MIB, wall_s=20, memory_bytes=256 * MIB)
    outcome = await run(
        "sh", "-c", f"head -c 100000000 /dev/zero > {folder}/big; stat -c %s {folder}/big", limits=limits
    )
    assert outcome.reason is EndReason.EXITED
    assert int(outcome.stdout.data or 0) <= 8 * MIB
    await still_well()


async def test_a_full_disk_is_charged_to_memory(run, still_well):
    limits = Limits(tmpfs_bytes=1024 * MIB, memory_bytes=64 * MIB, wall_s=20)
    outcome = await run("sh", "-c", "exec head -c 200000000 /dev/zero > /tmp/big", limits=limits)
    assert outcome.reason is EndReason.MEMORY
    await still_well()


@pytest.mark.parametrize("stream", ["1", "2"])
async def test_output_flood(run, still_well, stream):
    begin = time.monotonic()
    limits = Limits(output_bytes=MIB, flood_bytes=50 * MIB, wall_s=20)
    outcome = await run("sh", "-c", f"yes >&{stream}", limits=limits)
    captured = outcome.stdout if stream == "1" else outcome.stderr
    assert (outcome.reason, outcome.exit_code) == (EndReason.OUTPUT_FLOOD, None)
    assert captured.data == b"y\n" * (MIB // 2)
    # What it writes until the signal arrives comes on top.
    assert 50 * MIB < captured.total_bytes < 200 * MIB
    assert time.monotonic() - begin < 5
    await still_well()


async def test_a_flood_does_not_hold_the_event_loop(backend, run):
    import asyncio

    flood = asyncio.create_task(run("yes", limits=Limits(flood_bytes=1 << 40, wall_s=1)))
    longest = last = 0.0
    last = time.monotonic()
    while not flood.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert (await flood).reason is EndReason.TIMEOUT
    assert longest < 0.5


async def test_many_files_and_descriptors(python, still_well):
    code = """
import os
fds = []
try:
    while True: fds.append(os.open('/dev/null', 0))
except OSError as error: print(len(fds) < 200, error.errno)
for fd in fds: os.close(fd)
try:
    for i in range(10**6): open(f'/tmp/{i}', 'w').close()
except OSError as error: print(error.errno)
"""
    await python(code, limits=Limits(open_files=200, memory_bytes=64 * MIB, wall_s=4))
    await still_well()


# Artifacts


async def test_artifacts_that_point_elsewhere(run, tmp_path, still_well):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    script = f"""
cd /tmp/artifacts
echo good > good.txt; chmod 700 good.txt; ln good.txt second-name
ln -s /etc/shadow shadow; ln -s {canary} canary; ln -s good.txt local; ln -s /proc/1/root/etc/passwd magic
mkfifo fifo; mkdir folder; echo in > folder/inside
python3 -c 'import socket; socket.socket(1).bind("sock")'
truncate -s 10G sparse
printf x > "$(printf 'bad\\377name')"
"""
    outcome = await run(
        "sh", "-c", script, collect_artifacts=True, limits=Limits(artifact_bytes=1000, wall_s=10)
    )
    found = {artifact.filename: (artifact.data, artifact.mode) for artifact in outcome.artifacts}
    assert found == {
        "good.txt": (b"good\n", 0o700),
        "second-name": (b"good\n", 0o700),
        "bad\ufffdname": (b"x", 0o644),
    }
    reasons = dict(line.rsplit(": ", 1) for line in outcome.artifacts_skipped)
    assert reasons.pop("sparse").startswith("too large")
    assert reasons == {
        "shadow": "symbolic link", "canary": "symbolic link", "local": "symbolic link", "magic": "symbolic link",
        "fifo": "FIFO", "folder": "directory", "sock": "socket or FIFO",
    }  # fmt: skip
    await still_well()


@pytest.mark.parametrize("target", ["/etc", "/proc/1/root/etc", "/proc/self/cwd", "/nowhere"])
async def test_the_artifact_folder_itself_is_a_link(run, target):
    script = f"rmdir /tmp/artifacts; ln -s {target} /tmp/artifacts; ln -s /etc/shadow /work/main"
    outcome = await run("sh", "-c", script, collect_artifacts=True, artifact_paths=["/work/main"])
    assert outcome.artifacts == ()
    assert outcome.artifacts_skipped == ("main: symbolic link", "artifacts: not a directory")


async def test_too_many_artifacts(run):
    script = "cd /tmp/artifacts; seq 30 | xargs touch"
    outcome = await run("sh", "-c", script, collect_artifacts=True, limits=Limits(artifact_files=10, wall_s=10))
    assert (len(outcome.artifacts), len(outcome.artifacts_skipped)) == (10, 20)


async def test_artifacts_of_a_program_that_daemonised_are_complete(run):
    script = (
        "(setsid sh -c 'while :; do echo more >> /tmp/artifacts/a; done' &) ; echo b > /tmp/artifacts/b; exit 5"
    )
    outcome = await run("sh", "-c", script, collect_artifacts=True)
    assert outcome.exit_code == 5
    assert {artifact.filename for artifact in outcome.artifacts} >= {"b"}


@pytest.mark.skipif(not Path("/usr/bin/gdb").exists(), reason="needs gdb to take over the first process")
@pytest.mark.parametrize("artifacts", [False, True])
async def test_a_program_that_forges_the_scripts_reports_gains_no_time(run, backend, still_well, artifacts):
    if backend._pool is not None and init.build_waiter():
        outcome = await run("bash", "-c", "gdb -q -batch -p 1 2>&1")
        assert b"ptrace: Operation not permitted" in outcome.stdout.data
        return
    text = r"end 0\nend 0\nstart 1\ncompile 9\n" + 60 * r"spam\n"
    forge = f'call (long)write(3, "{text}", {len(text.encode().decode("unicode_escape"))})'
    script = f"gdb -q -batch -p 1 -ex '{forge}' -ex 'shell echo forged' -ex 'shell sleep 100' 2>&1"
    begin = time.monotonic()
    outcome = await run("bash", "-c", script, collect_artifacts=artifacts, limits=Limits(wall_s=15))
    # The worst that it reaches is a wrong exit code of its own.
    assert (outcome.reason, outcome.exit_code) == (EndReason.EXITED, 0), outcome
    assert time.monotonic() - begin < 10
    await still_well()


# Signals and leftovers


async def test_a_program_that_kills_everything_it_can(run, still_well):
    outcome = await run("bash", "-c", "sleep 100 & kill -9 -1; echo alive")
    assert outcome.exit_code == 0
    outcome = await run("bash", "-c", "kill -9 $$")
    assert (outcome.reason, outcome.exit_code) == (EndReason.EXITED, 137)
    outcome = await run("bash", "-c", "kill -STOP $$", limits=Limits(wall_s=0.3))
    assert outcome.reason is EndReason.TIMEOUT
    await still_well()


async def test_nothing_is_left_after_all_this(backend, still_well):
    await still_well()
    # One level below the backend's own groups; other servers may be at work on this machine.
    mine = groups_of(backend._runtime.name)
    waiting = 0 if backend._pool is None else CONFIG.most
    await eventually(lambda: all(len([*folder.glob("job-*")]) <= waiting for folder in mine))
    assert sandbox_processes() == []
