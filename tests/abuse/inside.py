"""What attacks that run as a program in a sandbox share. This file goes into the sandbox with them.

An attack is a function that returns what it gained. One that returns nothing, or that the kernel ends with an
error, has failed. The same function, run as root outside any sandbox (but in mount, host name and IPC namespaces
of its own, so that it breaks nothing), must gain something: otherwise it proves nothing. Where it cannot be run
like that `control` is false.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import platform
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VIRTUAL = "gVisor's own kernel: a process without rights outside"
"""Under gVisor such a call may succeed: it changes nothing but what that sandbox's kernel keeps of itself."""
FILTER, CAPS = "system call filter", "no capabilities"
SUBJECTS = ("kernel", "namespaces", "filesystem", "processes", "network", "terminal")


@dataclass(frozen=True)
class Attack:
    """One attempt, and what is said of it in the table."""

    name: str
    subject: str
    tried: str
    by: str
    gvisor: str
    control: bool
    function: Callable[[], Any]


ATTACKS: dict[str, Attack] = {}
SETTINGS: dict[str, Any] = {}
"""What the attacker is told: canaries of the host, `where` it is."""


def attack(tried: str, by: str = FILTER, gvisor: str = "", *, control: bool = True) -> Callable[[Any], Any]:
    """Declare the function below an attack; its name is the attack's.

    Args:
        tried: What is tried, in a few words.
        by: What stops it in a bubblewrap sandbox.
        gvisor: What stops it in a gVisor sandbox, when it is something else.
        control: Whether it succeeds outside a sandbox, as root.
    """

    def declare(function: Callable[[], Any]) -> Callable[[], Any]:
        subject = function.__module__.rpartition(".")[2]
        name = function.__name__.strip("_").replace("_", " ")
        ATTACKS[name] = Attack(name, subject, tried, by, gvisor or by, control, function)
        return function

    return declare


_libc = ctypes.CDLL(None, use_errno=True)


def number_of(name: str) -> int:
    """Return the number of a system call on this machine."""
    return int(SETTINGS["numbers"][name])


def raw(number: int, *arguments: Any) -> int:
    """Make a system call by number."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name: str, *arguments: Any) -> str:
    """Make a system call; return what to show when it was carried out."""
    return f"{name} returned {raw(number_of(name), *arguments)}"


def reaches(name: str, *arguments: Any) -> str | None:
    """Make a system call with arguments that make no sense: to be told so is to have reached it."""
    try:
        return call(name, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT):
            raise
        return f"{name} answered {errno.errorcode.get(error.errno or 0)}"


def content(path: str) -> str | None:
    """Return the beginning of a file, or names in a folder, if there is anything to see."""
    file = Path(path)
    found = sorted(os.listdir(path))[:5] if file.is_dir() else file.open("rb").read(20)
    return f"{path}: {found!r}" if found else None


def in_child(work: Callable[[], Any]) -> Any:
    """Do it in a forked process, which it may change or end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = json.dumps(_attempt(work)).encode()
        except BaseException as error:  # noqa: BLE001 - it is told
            answer = json.dumps([f"{error!r}", ""]).encode()
        os.write(write, answer)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        text = file.read()
    status = os.waitpid(pid, 0)[1]
    if not text:
        raise InterruptedError(errno.EINTR, signal.Signals(status & 0x7F).name)
    gained, saw = json.loads(text)
    if not gained and saw:
        raise InterruptedError(errno.EINTR, saw)
    return gained


def _attempt(function: Callable[[], Any]) -> list[str | None]:
    """Return what was gained, or else what was seen."""
    try:
        gained = function()
    except InterruptedError as error:
        return [None, error.strerror]
    except OSError as error:
        return [None, errno.errorcode.get(error.errno or 0) or str(error)]
    return [str(gained)[:200], ""] if gained else [None, "nothing"]


def load(subjects: Iterable[str] = SUBJECTS) -> None:
    """Have the attacks of these files declared."""
    for subject in subjects:
        importlib.import_module(f"tests.abuse.{subject}")


def main() -> None:
    """Run the attacks named in the settings, each telling its outcome in a line."""
    SETTINGS.update(json.loads(Path(__file__).with_name("settings.json").read_text()))
    SETTINGS.setdefault("machine", platform.machine())
    load()
    outside = SETTINGS["where"] == "outside"
    for one in ATTACKS.values():
        if outside and not one.control:
            continue

        def try_it(function: Callable[[], Any] = one.function) -> Any:
            return in_child(function) if outside else function()

        sys.stdout.write(json.dumps([one.name, *_attempt(try_it)]) + "\n")
        sys.stdout.flush()
