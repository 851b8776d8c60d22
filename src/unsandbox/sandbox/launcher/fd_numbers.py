"""The numbers that descriptors have in the programs of a sandbox: one table for the launcher and the server.

Two programs cannot import it, and a test compares their copies: the zygote (`zygote.lockdown.CONTROL_FD`) and
the job script, whose shell only closes descriptors of one digit. Two names with one number never meet in one
program. Standard library only: the launcher loads this.
"""

from __future__ import annotations

CONTROL_FD = 3
"""A job's socket to the server: its script reports there, and the programs that it runs do not inherit it."""
ZYGOTE_FD = 3
"""A zygote's socket to the launcher."""
READY_FD = 3
"""A persistent sandbox's first process says here that the sandbox stands."""
CHECKPOINT_FD = 3
"""In `runsc`, the image that it restores or writes."""
ARGS_FD = 4
"""Bubblewrap reads its options here. In a job script, which begins later, the program's stderr."""
SECCOMP_FD = 5
"""Bubblewrap reads the system call filter here."""
EXTRA_FD = 5
"""In gVisor sandboxes, over which artifacts are handed to the server."""
INFO_FD = 6
"""Bubblewrap reports its child here; the launcher makes this pipe itself."""
SCRIPT_FD = 7
"""The job script is read here."""
ZYGOTE_FILE_FD = 7
"""The first of the files that a zygote is started with."""
INIT_FD = 8
"""The program that is a persistent sandbox's first process."""
ARCHIVE_FD = 8
"""In gVisor sandboxes, the tenant's files."""
BLOCK_FD = 9
"""Bubblewrap waits for a byte here before it executes the job, where a network is set up first."""
FIRST_FILE_FD = 10
"""The first of a job's files."""
LIFE_FD = 11
"""In a persistent sandbox's first process, a pipe whose other end the launcher alone holds: it ends with it."""
IMAGE_FD = 10
"""The image of a persistent sandbox's work disk, in the launcher's child that mounts it."""
