"""Errors of the isolation layer."""

from __future__ import annotations


class SandboxError(Exception):
    """The backend failed to run a job through no fault of the job."""


class SandboxUnavailable(SandboxError):  # noqa: N818 - the name says what it is
    """This machine cannot provide the requested isolation. The message says why and what to do."""


class InvalidSpecError(ValueError):
    """The specification is invalid. The message names the field."""


class InvalidArchiveError(SandboxError):
    """An archive is damaged, or contains an entry that a work folder must not have."""
