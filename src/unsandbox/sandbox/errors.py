"""Errors of the isolation layer."""

from __future__ import annotations


class SandboxError(Exception):
    """The backend failed to run a job through no fault of the job."""


class ProgramStartError(SandboxError):
    """A program could not be started in a persistent sandbox.

    Attributes:
        errno: The error number of the kernel; 0 if there is none.
        path: The program or folder that the kernel refused; empty if it named none.
    """

    def __init__(self, message: str, errno: int = 0, path: str = "") -> None:
        super().__init__(message)
        self.errno = errno
        self.path = path


class SandboxUnavailable(SandboxError):  # noqa: N818 - the name says what it is
    """This machine cannot provide the requested isolation. The message says why and what to do."""


class InvalidSpecError(ValueError):
    """The specification is invalid. The message names the field."""


class InvalidArchiveError(SandboxError):
    """An archive is damaged, or contains an entry that a work folder must not have."""
