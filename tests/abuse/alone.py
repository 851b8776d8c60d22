"""Attacks that need a sandbox each: on what the machine has, on results, by leaving something behind."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.abuse.stage import LIMITS

from unsandbox.sandbox import EndReason

if TYPE_CHECKING:
    from tests.abuse.stage import Stage, Work

MIB = 1 << 20
GROUP = "control group"
Result = tuple[str | None, str]


@dataclass(frozen=True)
class Alone:
    """See `inside.Attack`. The function returns what was gained, or None and what was seen."""

    name: str
    subject: str
    tried: str
    by: str
    gvisor: str
    backends: tuple[str, ...]
    function: Work


ATTACKS: list[Alone] = []


def attack(
    subject: str, tried: str, by: str, gvisor: str = "", *, backends: tuple[str, ...] = ("bubblewrap", "gvisor")
) -> Callable[[Work], Work]:
    """Declare the function below an attack; its name is the attack's."""

    def declare(function: Work) -> Work:
        name = function.__name__.replace("_", " ")
        ATTACKS.append(Alone(name, subject, tried, by, gvisor or by, backends, function))
        return function

    return declare


# What the machine has


@attack("resources", "processes without end", "limit of processes, pids group")
async def fork_bomb(stage: Stage) -> Result:
    code = "import os,time\nn=0\ntry:\n  while os.fork(): n+=1\n  time.sleep(60)\nexcept OSError as e: print(n)"
    outcome = await stage.python(code)
    if outcome.reason is EndReason.MEMORY:
        return None, "the limit of memory came first"
    made = int(outcome.stdout.data or -1)
    return (None if 40 <= made <= 64 else f"{made} processes"), f"EAGAIN after {made}"


@attack("resources", "a fork bomb that doubles, until the time is up", "limit of processes, wall time")
async def doubling_fork_bomb(stage: Stage) -> Result:
    limits = replace(LIMITS, wall_s=1)
    outcome = await stage.run("bash", "-c", "b() { b | b & }; b; sleep 100", limits=limits)
    ended = outcome.reason in (EndReason.TIMEOUT, EndReason.EXITED)
    return (None if ended else str(outcome.reason)), str(outcome.reason)


@attack("resources", "threads without end", "limit of processes")
async def threads_without_end(stage: Stage) -> Result:
    code = """
import threading, time
n = 0
try:
    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1
except RuntimeError: print(n, flush=True)
import os; os._exit(0)
"""
    outcome = await stage.python(code)
    made = int(outcome.stdout.data or -1)
    return (None if 0 < made <= 64 else f"{made} threads"), f"refused after {made}"


@attack("resources", "more memory than allowed", "limit of memory")
async def memory_bomb(stage: Stage) -> Result:
    code = "x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1\nprint('got it')"
    outcome = await stage.python(code)
    return ("a gibibyte" if b"got it" in outcome.stdout.data else None), str(outcome.reason)


@attack("resources", "memory by many processes, each within the limit", "control group, or watchdog")
async def memory_bomb_of_many(stage: Stage) -> Result:
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        x = bytearray(30 << 20)
        for i in range(0, len(x), 4096): x[i] = 1
        time.sleep(5); os._exit(0)
codes = [os.wait()[1] for _ in range(20)]
print('all' if not any(codes) else 'killed')
"""
    outcome = await stage.python(code)
    return ("600 MiB of 150" if b"all" in outcome.stdout.data else None), str(outcome.reason)


@attack("resources", "a full disk: /tmp, /work, /dev/shm, /dev", "size of tmpfs")
async def full_disk(stage: Stage) -> Result:
    script = """for f in /tmp /work /dev/shm /dev /var/tmp; do
  head -c 40000000 /dev/zero > $f/big 2>/dev/null; stat -c %s $f/big 2>/dev/null; rm -f $f/big; done; true"""
    outcome = await stage.run("sh", "-c", script)
    sizes = [int(size) for size in outcome.stdout.data.split()]
    largest = max(sizes, default=0)
    return (None if 0 < largest <= 8 * MIB else f"{sizes}"), f"ENOSPC at {largest} bytes"


@attack("resources", "files in memory, beyond the limit of memory", GROUP, backends=("bubblewrap",))
async def files_instead_of_memory(stage: Stage) -> Result:
    if "memory" not in stage.backend.host.cgroup.controllers:
        return None, "bounded by the size of tmpfs alone here"
    limits = replace(LIMITS, tmpfs_bytes=1024 * MIB)
    script = "head -c 200000000 /dev/zero > /tmp/big; stat -c %s /tmp/big"
    outcome = await stage.run("sh", "-c", script, limits=limits)
    return (None if b"200000000" not in outcome.stdout.data else "200 MB of 150"), str(outcome.reason)


@attack("resources", "empty files without end", "limits of memory and time, size of tmpfs")
async def inodes_without_end(stage: Stage) -> Result:
    code = "n = 0\nwhile True: open(f'/tmp/{n}', 'w').close(); n += 1"
    limits = replace(LIMITS, wall_s=2)
    outcome = await stage.python(code, limits=limits)
    return None, f"{outcome.reason}, {outcome.exit_code}"


@attack("resources", "open files without end", "limit of open files")
async def descriptors_without_end(stage: Stage) -> Result:
    code = "import os\nn = 0\ntry:\n  while True: os.open('/dev/null', 0); n += 1\nexcept OSError: print(n)"
    outcome = await stage.python(code)
    made = int(outcome.stdout.data or -1)
    return (None if 0 < made < LIMITS.open_files else f"{made} files"), f"EMFILE after {made}"


@attack("resources", "output without end", "flood limit")
async def output_flood(stage: Stage) -> Result:
    limits = replace(LIMITS, output_bytes=MIB, flood_bytes=20 * MIB)
    outcome = await stage.run("yes", limits=limits)
    stopped = outcome.reason is EndReason.OUTPUT_FLOOD and len(outcome.stdout.data) == MIB
    return (None if stopped else str(outcome.reason)), "the first MiB kept, then killed"


@attack("resources", "errors without end", "flood limit")
async def error_flood(stage: Stage) -> Result:
    limits = replace(LIMITS, output_bytes=MIB, flood_bytes=20 * MIB)
    outcome = await stage.run("sh", "-c", "yes >&2", limits=limits)
    stopped = outcome.reason is EndReason.OUTPUT_FLOOD and len(outcome.stderr.data) == MIB
    return (None if stopped else str(outcome.reason)), "the first MiB kept, then killed"


@attack("resources", "a loop without end, all signals ignored", "wall time; SIGKILL to the first process")
async def endless_loop(stage: Stage) -> Result:
    script = "trap '' TERM HUP INT QUIT; while :; do :; done"
    outcome = await stage.run("bash", "-c", script, limits=replace(LIMITS, wall_s=1))
    return (None if outcome.reason is EndReason.TIMEOUT else str(outcome.reason)), str(outcome.reason)


@attack("resources", "processor time by a chain of short processes", "wall time; group's processor quota")
async def chain_of_processes(stage: Stage) -> Result:
    outcome = await stage.run("bash", "-c", "while :; do /bin/true; done", limits=replace(LIMITS, wall_s=1))
    return (None if outcome.reason is EndReason.TIMEOUT else str(outcome.reason)), str(outcome.reason)


# Outliving the job


@attack(
    "signals", "a daemon that outlives the job and holds its output open", "the first process's end kills all"
)
async def daemon_left_behind(stage: Stage) -> Result:
    script = "trap '' HUP TERM; (setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' &); echo done"
    begin = time.monotonic()
    outcome = await stage.run("sh", "-c", script, limits=replace(LIMITS, wall_s=60))
    quick = outcome.stdout.data == b"done\n" and time.monotonic() - begin < 50
    return (None if quick else "the job was held"), str(outcome.reason)


@attack("signals", "stopping itself, so that it is never over", "wall time")
async def stops_itself(stage: Stage) -> Result:
    outcome = await stage.run("bash", "-c", "kill -STOP $$", limits=replace(LIMITS, wall_s=1))
    return (None if outcome.reason is EndReason.TIMEOUT else str(outcome.reason)), str(outcome.reason)


@attack("signals", "kill -9 -1: whatever can be reached", "pid namespace")
async def kills_everything(stage: Stage) -> Result:
    outcome = await stage.run("bash", "-c", "sleep 100 & kill -9 -1; echo alive")
    return (None if outcome.reason is EndReason.EXITED else str(outcome.reason)), f"exit {outcome.exit_code}"


@attack(
    "signals",
    "a crash whose core is dumped by a handler of the host",
    "a limit of one byte",
    "gVisor dumps nothing",
)
async def crash(stage: Stage) -> Result:
    script = "ulimit -c unlimited; bash -c 'kill -SEGV $$'; ls -A /work"
    outcome = await stage.run("sh", "-c", script)
    return (None if b"core" not in outcome.stdout.data else "a core"), "no core"


@attack(
    "signals",
    "forged reports on the line to the server, by a debugger in the first process",
    "reports are judged",
    backends=("bubblewrap",),
)
async def forged_reports(stage: Stage) -> Result:
    if stage.variant.kind == "warm" or shutil.which("gdb", path="/usr/bin") is None:
        return None, "the first process cannot be traced" if stage.variant.kind == "warm" else "no gdb here"
    text = r"end 0\nend 0\nstart 1\ncompile 9\n" + 60 * r"spam\n"
    forge = f'call (long)write(3, "{text}", {len(text.encode().decode("unicode_escape"))})'
    script = f"gdb -q -batch -p 1 -ex '{forge}' -ex 'shell sleep 100' 2>&1"
    begin = time.monotonic()
    outcome = await stage.run("bash", "-c", script, collect_artifacts=True, limits=replace(LIMITS, wall_s=60))
    held = time.monotonic() - begin > 50
    return ("time" if held else None), f"an exit code of its own choice: {outcome.exit_code}"


# Results


LINKS = """
cd /tmp/artifacts; echo good > good.txt
ln -s /etc/shadow shadow; ln -s {canary} canary; ln -s good.txt local; ln -s /proc/1/root/etc/passwd magic
ln {canary} hard 2>/dev/null; ln -s / folder; mkdir real; ln -s {canary} real/inner
"""


async def _artifacts(stage: Stage, script: str, **fields: object) -> tuple[set[str], bytes, Sequence[str]]:
    limits = replace(LIMITS, artifact_bytes=100_000, artifact_files=20)
    outcome = await stage.run("sh", "-c", script, collect_artifacts=True, limits=limits, **fields)
    data = b"".join(bytes(artifact.data) for artifact in outcome.artifacts)
    return {artifact.filename for artifact in outcome.artifacts}, data, outcome.artifacts_skipped


@attack(
    "artifacts",
    "links to files of the host: plain, magic, hard, in folders",
    "openat2 without links; read inside",
    "only bytes come out",
)
async def artifacts_that_are_links(stage: Stage) -> Result:
    names, data, _ = await _artifacts(stage, LINKS.format(canary=stage.settings["canary"]))
    leaked = stage.settings["secret"].encode() in data or names != {"good.txt"}
    return (f"{names}" if leaked else None), "symbolic link: left out"


@attack(
    "artifacts", "the folder of artifacts is a link to /etc", "openat2 without links", "only bytes come out"
)
async def artifact_folder_is_a_link(stage: Stage) -> Result:
    script = "rmdir /tmp/artifacts; ln -s /etc /tmp/artifacts; ln -s /etc/shadow /work/main"
    names, _, skipped = await _artifacts(stage, script, artifact_paths=["/work/main"])
    return (f"{names}" if names else None), f"{skipped}"[:60]


@attack("artifacts", "a FIFO that holds whoever opens it", "regular files only, opened without waiting")
async def artifact_is_a_fifo(stage: Stage) -> Result:
    script = "cd /tmp/artifacts; mkfifo fifo; python3 -c 'import socket; socket.socket(1).bind(\"sock\")'"
    names, _, skipped = await _artifacts(stage, script)
    return (f"{names}" if names else None), f"{skipped}"[:60]


@attack("artifacts", "a sparse file of ten gigabytes", "limit of artifacts")
async def sparse_artifact(stage: Stage) -> Result:
    names, _, skipped = await _artifacts(stage, "truncate -s 10G /tmp/artifacts/sparse")
    return (f"{names}" if names else None), f"{skipped}"[:60]


@attack("artifacts", "artifacts without number", "limit of artifacts")
async def artifacts_without_number(stage: Stage) -> Result:
    names, _, _ = await _artifacts(stage, "cd /tmp/artifacts; seq 500 | xargs touch")
    return (None if len(names) == 20 else f"{len(names)}"), f"{len(names)} taken"


@attack("artifacts", "names that lead out, or hold newlines and escapes", "only base names, as valid text")
async def names_of_artifacts(stage: Stage) -> Result:
    script = r"""cd /tmp/artifacts; printf x > "$(printf 'a\nb')"; printf x > "$(printf '\033[2J')"; printf x > "$(printf '\377')"
printf x > '..\..\x'"""
    names, _, _ = await _artifacts(stage, script)
    return (
        f"{names}" if any("/" in name for name in names) else None
    ), f"{len(names)} taken, none with a folder"


@attack(
    "artifacts",
    "a file that becomes a link while it is read",
    "all programs are dead by then; openat2",
    "read inside",
)
async def artifact_races(stage: Stage) -> Result:
    canary = stage.settings["canary"]
    script = f"""cd /tmp/artifacts; ln -s {canary} /tmp/link; echo good > /tmp/good
(setsid sh -c 'while :; do cp /tmp/good r; mv r race; cp -P /tmp/link r; mv r race; done' >/dev/null 2>&1 &); sleep 0.1"""
    for _ in range(3):
        _, data, _ = await _artifacts(stage, script)
        if stage.settings["secret"].encode() in data:
            return "the canary", ""
    return None, "a link or a file of its own"


@attack("artifacts", "a file that grows while it is read", "never more than was judged", "read inside")
async def artifact_that_grows(stage: Stage) -> Result:
    script = "cd /tmp/artifacts; (setsid sh -c 'while :; do echo more >> a; done' >/dev/null 2>&1 &); sleep 0.1"
    _, data, _ = await _artifacts(stage, script)
    return (f"{len(data)} bytes" if len(data) > 100_000 else None), "within the limit"
