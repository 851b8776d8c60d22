"""The first process of a persistent sandbox without machine code: `persistent.x86_64.S` in Python.

Run by the sandbox system's `python3` (3.7 or newer), from the descriptor `INIT_FD`; imports nothing of
unsandbox. It keeps the same promises: no handler lets a signal from inside reach it, and it is not dumpable, so
that nothing inside can trace it. It takes some 6 MB of the sandbox's memory.
"""

import ctypes
import os
import select
import signal

READY_FD = 3
LIFE_FD = 11
_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15
_MOST_FDS = 1 << 16


def main() -> None:
    """Say that the sandbox stands, and wait for the end of the launcher."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    libc.prctl(_PR_SET_NAME, b"init", 0, 0, 0)
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    # Orphans come here, and the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(READY_FD, b"init")
    os.closerange(0, LIFE_FD)
    os.closerange(LIFE_FD + 1, _MOST_FDS)
    life = select.poll()
    life.register(LIFE_FD, 0)
    while not life.poll():
        pass


if __name__ == "__main__":
    main()
