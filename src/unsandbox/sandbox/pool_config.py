"""How many warm sandboxes a backend keeps, and for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unsandbox.sandbox.spec import Limits


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How many warm sandboxes a backend keeps.

    Attributes:
        size: Number of warm sandboxes when there is little to do.
        most: Upper bound when there is much to do.
        system_paths: Paths outside /usr that the toolchains of all languages need.
        python_env: Variables of Python programs.
        limits: Bounds of a warm sandbox; memory, processors and time of its job may differ.
        folders: Folders that are made in advance, as nearly all jobs want them.
        commands: Commands of interpreters that may wait for their program in sandboxes of their own.
        forks_per_zygote: A new zygote takes over after this number of forks, because the forks of one share
            hash seed and memory layout.
        quick_end: Whether the interpreter of a Python program skips what no program can observe when it ends.
            It relies on the order in which CPython takes itself down.
    """

    size: int = 4
    most: int = 32
    system_paths: tuple[str, ...] = ()
    python_env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    folders: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    forks_per_zygote: int = 500
    quick_end: bool = True
