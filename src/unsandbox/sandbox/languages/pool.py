"""The pool of warm sandboxes that serves every language of a table."""

from __future__ import annotations

from unsandbox.sandbox.languages.table import LanguageTable
from unsandbox.sandbox.layout import PREPARED_FOLDERS
from unsandbox.sandbox.pool_config import PoolConfig
from unsandbox.sandbox.spec import Limits

_WAITING = ("javascript", "bash")
"""Languages whose interpreters can wait for their program."""


def pool_for(table: LanguageTable, size: int, most: int, limits: Limits) -> PoolConfig:
    """Return the configuration of a pool that serves every language of a table.

    Args:
        table: The languages.
        size: Number of warm sandboxes under low load.
        most: Maximum number under high load.
        limits: The limits of most jobs.
    """
    paths = {pattern: None for language in table.available() for pattern in language.system_paths}
    return PoolConfig(
        size=size,
        most=max(size, most),
        system_paths=tuple(paths),
        python_env=table["python"].build_spec("", limits=limits).env,
        limits=limits,
        folders=PREPARED_FOLDERS,
        commands=tuple(tuple(table[name].build_spec("", limits=limits).run) for name in _WAITING),
    )
