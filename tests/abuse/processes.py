"""Other processes, signals, the server's secrets, limits that a program might raise."""

from __future__ import annotations

import errno
import glob
import os
import resource
import signal
import socket
from pathlib import Path

from tests.abuse.inside import CAPS, SETTINGS, VIRTUAL, attack, call, content, in_child

PIDS = "pid namespace"
FIRST = "a first process takes no signals from inside"
HARD = "hard limits"


@attack("seeing processes of the host", PIDS)
def processes_of_the_host():
    numbers = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return numbers if len(numbers) > 4 else None


@attack("a signal to the server", PIDS)
def signal_to_the_server():
    os.kill(SETTINGS["server"], 0)
    return "reached"


@attack("a signal to the server's parent", PIDS, control=False)
def signal_to_the_servers_parent():
    os.kill(SETTINGS["parent"], 0)
    return "reached"


@attack("a descriptor of the server's process", PIDS)
def pidfd_of_the_server():
    return f"descriptor {os.pidfd_open(SETTINGS['server'])}"


@attack("tracing the server", PIDS)
def ptrace_of_the_server():
    return call("ptrace", 0x4206, SETTINGS["server"], 0, 0)


@attack("the server's environment", "pid namespace; started without one")
def environment_of_the_server():
    secret = SETTINGS["secret"].encode()
    return _search("environ", secret)


@attack("what a command line tells of the server", "options pass through a descriptor")
def command_lines():
    return _search("cmdline", b"bwrap", b"--ro-bind", b"runsc", b"unsandbox.sandbox")


def _search(file: str, *secrets: bytes) -> str | None:
    for path in glob.glob(f"/proc/[0-9]*/{file}"):
        try:
            said = Path(path).read_bytes()
        except OSError:
            continue
        if any(secret in said for secret in secrets):
            return path
    return None


@attack(
    "the memory of whoever started the sandbox",
    "pid namespace; not dumpable",
    "sandbox of its own",
    control=False,
)
def memory_of_the_first_process():
    """A cold job's first process is the job's own script; nothing in it is the server's."""
    secret = SETTINGS["secret"].encode()
    with open("/proc/1/maps") as maps, open("/proc/1/mem", "rb", 0) as memory:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if "[heap]" in line or "[stack]" in line:
                memory.seek(int(start, 16))
                if secret in memory.read(int(end, 16) - int(start, 16)):
                    return line
    return None


@attack("ending the first process", FIRST, "kills the tenant's own script", control=False)
def kill_the_first_process():
    if SETTINGS["where"] == "bubblewrap":
        os.kill(1, signal.SIGTERM)
        os.kill(1, signal.SIGKILL)
        # What it gained would be that no verdict follows.


@attack("descriptors that the starter left open", "all are closed but three", control=False)
def inherited_descriptors():
    left = []
    for fd in range(3, 1024):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith(("socket:", "/memfd", "anon_inode:[pidfd", "/sys", "/tmp")):
            left.append((fd, target))
    return left


@attack(
    "a line to the server that was left open in the sandbox", "closed before the program starts", control=False
)
def control_socket_of_the_server():
    for fd in range(3, 64):
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.send(b"end 0\n")
                return fd
        except OSError:
            continue
    return None


@attack("a limit on processes raised", HARD, control=False)
def raise_the_limit_of_processes():
    return _raise(resource.RLIMIT_NPROC)


@attack("a limit on open files raised", HARD, control=False)
def raise_the_limit_of_files():
    return _raise(resource.RLIMIT_NOFILE)


@attack("core dumps allowed again, for a handler of the host to be run", HARD)
def raise_the_limit_of_core_dumps():
    return _raise(resource.RLIMIT_CORE)


def _raise(kind: int) -> str | None:
    def work() -> str:
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY:
            return "was without a limit"
        try:
            resource.setrlimit(kind, (hard + 1, hard + 1))
        except ValueError:
            raise PermissionError(errno.EPERM, "") from None
        return f"now {hard + 1}"

    return in_child(work)


@attack("spared before the server when memory runs out", CAPS, VIRTUAL, control=False)
def spared_when_memory_runs_out():
    def work() -> str | None:
        Path("/proc/self/oom_score_adj").write_text(str(SETTINGS["oom_score_adj"] - 1))
        return "spared"

    return in_child(work)


@attack("the server's place when memory runs out", "the sandbox goes first", VIRTUAL)
def goes_first_when_memory_runs_out():
    return (
        content("/proc/self/oom_score_adj")
        if Path("/proc/self/oom_score_adj").read_text() != "1000\n"
        else None
    )


@attack("signals of the starter that are still ignored or blocked", "all set to their defaults", control=False)
def inherited_signals():
    left = set(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    ours = {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own
    left |= {n for n in signal.valid_signals() if n not in ours and signal.getsignal(n) is signal.SIG_IGN}
    return sorted(map(int, left))


@attack("a name of the machine that tells of the host", "host name namespace")
def host_name():
    name = os.uname().nodename
    return name if name != "sandbox" else None


@attack("shared memory and queues of others", "IPC namespace", control=False)
def queues_of_others():
    found = [
        line
        for file in ("shm", "msg", "sem")
        for line in Path(f"/proc/sysvipc/{file}").read_text().splitlines()[1:]
    ]
    return found[:1]


@attack("shared memory of a process of the host", "IPC namespace", control=False)
def shared_memory_of_the_host():
    return call("shmget", SETTINGS["shm_key"], 0, 0)
