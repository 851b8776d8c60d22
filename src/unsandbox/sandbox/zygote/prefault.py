"""What a zygote learns from one small program: which memory programs use, so that it is ready before they come.

A page that is written after a fork is copied first, and one of a file is mapped when it is first read: together
a third of the time that the hello of a forked interpreter takes. So the zygote forks once for a program of its
own, looks at what that has touched when it has ended but is not yet gone, and in every sandbox those pages are
made ready while nobody waits.

Loaded into the zygote before `main`, whose namespace it shares; the same rules hold.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

_POPULATE_READ, _POPULATE_WRITE = 22, 23
_LONGEST_S = 10
_GAP = 2
"""Pages between two that are wanted which cost less than another system call."""
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
    """Run a program in a fork and return which memory it has used.

    Args:
        path: Of the file that the interpreter will run.
        control_fd: Where a program waits for its job.
        become_program: Waits for the job; what returns then becomes the program.

    Returns:
        Address, length and advice for each piece of memory; nothing when it could not be found out. In the
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
        # A program that fails or hangs teaches nothing, and nothing is lost but the time of the first touch.
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
    """Send the job and wait for its end; False when that does not come."""
    import marshal
    import select

    here.sendmsg([marshal.dumps({**job, "attached": False}, 2)])
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
            # What the program has added, by a larger heap for example, is not there in others.
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
    """Return first page, page behind the last, rights and inode of all that a process has mapped."""
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
