"""What a command in a live sandbox wrote, as the wire tells it."""

from __future__ import annotations

from unsandbox.engine.jobs.records import EXIT_TIMEOUT, text_of
from unsandbox.protocol.sessions import CommandResult
from unsandbox.sandbox.persistent_spec import CommandOutcome


def command_result(outcome: CommandOutcome) -> CommandResult:
    """Translate the outcome of a command."""
    stdout, stdout_exact, stdout_dropped = text_of(outcome.stdout)
    stderr, stderr_exact, stderr_dropped = text_of(outcome.stderr)
    exit_code = EXIT_TIMEOUT if outcome.timed_out else outcome.exit_code
    return CommandResult(
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        success=exit_code == 0,
        error="the command's time was up" if outcome.timed_out else None,
        stdout_base64=stdout_exact,
        stderr_base64=stderr_exact,
        stdout_truncated=True if stdout_dropped else None,
        stderr_truncated=True if stderr_dropped else None,
    )
