"""Finds out which memory programs use, by a rehearsal, so that sandboxes prepare it before their job arrives.

After a fork, the kernel copies a page before it is written, and maps a page of a file when it is first read.
This takes a third of the time of a hello in a forked interpreter. The zygote therefore forks once for a small
program, checks which pages it has touched before it is reaped, and every sandbox prepares these pages while
it is idle.

This file is loaded into the zygote before `main`, whose namespace it shares; the same rules apply.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

_POPULATE_READ, _POPULATE_WRITE = 22, 23
_LONGEST_S = 10
_GAP = 2
"""The largest gap of pages between two ranges that costs less than another system call."""
_PRESENT, _OF_FILE, _EXCLUSIVE = 0x80, 0x20, 0x01
"""In the highest byte of an entry of `pagemap`."""
_BITS = _PRESENT | _OF_FILE | _EXCLUSIVE
_PROGRAM = b"""import sys
def next_of(number):
    return number + 1
class Some:
    numbers = [next_of(number) for number in range(3)]
print('hello', Some.numbers, {'a': 1}, f'{1.5:.2f}')
"""


def rehearse(
    path: str, control_fd: int, become_program: Callable[[], object]
) -> tuple[list[tuple[int, int, int]], Callable[[int], None] | None]:
    """Run a program in a fork, and return the memory that it used.

    Args:
        path: Path of the file that the interpreter will run.
        control_fd: Number of the socket on which a program waits for its job.
        become_program: Waits for the job; the process in which it returns becomes the program.

    Returns:
        Address, length and advice for each piece of memory; empty if they could not be determined. In the
        fork, what its interpreter is to call at its end.
    """
    import _socket
    import os

    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        os.dup2(there.fileno(), control_fd, inheritable=False)
        here.close()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (1, 2):
            os.dup2(null, fd)
        os.close(null)
        become_program()
        write, read = os.write, os.read

        def stay(code: int) -> None:
            del code
            write(there.fileno(), b"ended\n")
            read(there.fileno(), 1)

        return [], stay
    there.close()
    pieces: list[tuple[int, int, int]] = []
    try:
        # If the program fails or hangs, nothing is prepared, and programs only pay for the first use of memory.
        if _play(
            here,
            {
                "files": [(path, 0o644, _PROGRAM)],
                "folders": [],
                "env": {},
                "args": [],
                "run": None,
                "early": False,
            },
        ):
            pieces = list(_touched(child))
    except OSError:
        pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        here.close()
    if os.access(path, os.F_OK):
        os.unlink(path)  # noqa: PTH108 - pathlib would have to be loaded
    return pieces, None


def _play(here: Any, job: Mapping[str, Any]) -> bool:
    """Send the job and wait for its end; return False if it does not end."""
    import marshal
    import select

    here.sendmsg([b" ", marshal.dumps({**job, "attached": False}, 2)])
    for expected in (b"ready\n", b"ended\n"):
        if not select.select([here], [], [], _LONGEST_S)[0] or here.recv(16) != expected:
            return False
    return True


def _touched(pid: int) -> Iterable[tuple[int, int, int]]:
    """Yield address, length and advice of the memory of this process that its fork `pid` has used."""
    import os
    import resource

    page = resource.getpagesize()
    ours = [(first, end) for first, end, _, _ in _mapped("self", page)]
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for begin, limit, rights, inode in _mapped(str(pid), page):
            # Memory that the program added, such as a larger heap, does not exist in other forks.
            for first, end in ((max(begin, low), min(limit, high)) for low, high in ours):
                if first >= end or rights[0] != "r" or rights[3] != "p":
                    continue
                flags = os.pread(pagemap, (end - first) * 8, first * 8)[7::8]
                if rights[1] == "w":
                    wanted = [at for at, flag in enumerate(flags) if flag & _BITS == _PRESENT | _EXCLUSIVE]
                    advice = _POPULATE_WRITE
                elif inode != "0":
                    wanted = [at for at, flag in enumerate(flags) if flag & _PRESENT]
                    advice = _POPULATE_READ
                else:
                    continue
                for start, length in _runs(wanted):
                    yield (first + start) * page, length * page, advice
    finally:
        os.close(pagemap)


def _mapped(process: str, page: int) -> list[tuple[int, int, str, str]]:
    """Return first page, page after the last, permissions and inode of each mapping of a process."""
    found = []
    with open(f"/proc/{process}/maps") as maps:  # noqa: PTH123
        for line in maps:
            place, rights, _, _, inode, *_ = line.split()
            first, end = (int(number, 16) // page for number in place.split("-"))
            found.append((first, end, rights, inode))
    return found


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return start and length of each run of numbers, across small gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number - runs[-1][1] <= _GAP:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [(start, last - start + 1) for start, last in runs]
