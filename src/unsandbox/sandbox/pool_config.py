"""The configuration of a pool of warm sandboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unsandbox.sandbox.spec import Limits


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The configuration of a pool of warm sandboxes.

    Attributes:
        size: Number of warm sandboxes under low load.
        most: Maximum number under high load.
        system_paths: Paths outside /usr that the toolchains of all languages need.
        python_env: Variables of Python programs.
        limits: Limits of a warm sandbox; memory, processors and time of its job may differ.
        folders: Folders that are created in advance, because nearly all jobs need them.
        commands: Commands of interpreters that can wait for their program in separate warm sandboxes.
        forks_per_zygote: Number of forks after which a new zygote takes over, because the forks of a zygote
            share hash seed and memory layout.
        quick_end: Whether Python skips the parts of its shutdown that no program can observe. This relies on
            the order of CPython's shutdown.
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
