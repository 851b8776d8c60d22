"""The descriptor numbers in the programs of a sandbox: one table for the launcher and the server.

Two programs cannot import the table, so a test compares their copies: the zygote (`zygote.lockdown.CONTROL_FD`)
and the job script, whose shell can only close descriptors with one digit. Names with the same number belong to
different programs. Standard library only: the launcher loads this.
"""

from __future__ import annotations

CONTROL_FD = 3
"""A job's socket to the server, for the reports of its script; the script's programs do not inherit it."""
ZYGOTE_FD = 3
"""A zygote's socket to the launcher."""
READY_FD = 3
"""The first process of a persistent sandbox reports here that the sandbox is ready."""
CHECKPOINT_FD = 3
"""The checkpoint that `runsc` restores or writes."""
ARGS_FD = 4
"""Bubblewrap's options. Later, in the job script, the program's stderr."""
SECCOMP_FD = 5
"""The system call filter for bubblewrap."""
EXTRA_FD = 5
"""The channel for artifacts in gVisor sandboxes."""
INFO_FD = 6
"""The pipe on which bubblewrap reports its child; the launcher creates it."""
SCRIPT_FD = 7
"""The job script."""
ZYGOTE_FILE_FD = 7
"""The first of a zygote's files."""
INIT_FD = 8
"""The program of a persistent sandbox's first process."""
ARCHIVE_FD = 8
"""The tenant's files in gVisor sandboxes."""
BLOCK_FD = 9
"""The pipe on which bubblewrap waits for a byte before it executes the job, while the network is set up."""
FIRST_FILE_FD = 10
"""The first of a job's files."""
LIFE_FD = 11
"""A pipe whose other end only the launcher holds: the persistent sandbox's first process ends with it."""
IMAGE_FD = 10
"""The image of a persistent sandbox's work disk, in the launcher's child that mounts it."""
