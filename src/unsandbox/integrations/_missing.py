"""The error of an adapter whose framework is not installed."""

from __future__ import annotations


def missing(error: ImportError, extra: str) -> ImportError:
    """Return an error that says how to install a framework.

    Args:
        error: The failed import.
        extra: The extra of this distribution that installs it.
    """
    return ImportError(
        f"{error}; this module needs its framework: pip install 'unsandbox[{extra}]'",
        name=error.name,
        path=error.path,
    )
