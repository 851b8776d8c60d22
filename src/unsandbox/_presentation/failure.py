"""Why a program did not end well, in one line."""

from __future__ import annotations

import signal

__all__ = ["failure_line"]

_FATAL = 128
_SHOWN = 200


def failure_line(subject: str, exit_code: int | None, error: str | None, stderr: str | None) -> str:
    r"""Return one line with the reason and the last line of standard error.

    Args:
        subject: The program.
        exit_code: Its exit code.
        error: The server's reason, where it did not end by itself.
        stderr: Its standard error.

    Example:
        >>> failure_line("the python program", 1, None, "Traceback ...\nValueError: no\n")
        'the python program ended with exit code 1: ValueError: no'
        >>> failure_line("the c program", 139, None, "")
        'the c program ended with exit code 139 (SIGSEGV)'
    """
    line = subject
    if exit_code is not None:
        line += f" ended with exit code {exit_code}{_signal(exit_code)}"
    if error:
        line += f" ({error})" if exit_code is not None else f" failed: {error}"
    elif exit_code is None:
        line += " did not end well"
    last = next((text.strip() for text in reversed((stderr or "").splitlines()) if text.strip()), "")
    shown = last if len(last) <= _SHOWN else f"{last[:_SHOWN]}\N{HORIZONTAL ELLIPSIS}"
    return f"{line}: {shown}" if shown else line


def _signal(exit_code: int) -> str:
    try:
        return f" ({signal.Signals(exit_code - _FATAL).name})" if exit_code > _FATAL else ""
    except ValueError:
        return ""
