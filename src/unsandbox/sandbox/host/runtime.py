"""The runtime folder of an open backend, and what else goes when the backend is closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from unsandbox.sandbox import rootfs
from unsandbox.sandbox.host.blocking import run_to_end
from unsandbox.sandbox.launcher.cleanup import remove_runtime
from unsandbox.sandbox.system import System


class Runtime:
    """Makes the runtime folder with the root folder of all sandboxes, and removes it.

    Args:
        parent: Where to make it; see `rootfs.make_runtime`.
        system: Where the sandboxes' `/usr` comes from.
        install: Puts the backend's programs into the runtime folder and the root folder; may block.
    """

    def __init__(self, parent: Path | None, system: System, install: Callable[[Path, Path], None]) -> None:
        self._parent = parent
        self._system = system
        self._install = install
        self._folder: Path | None = None
        self.discard_fd = -1
        """Where output goes that is not kept."""

    async def open(self) -> tuple[Path, str, Path]:
        """Make the folder; return it, its token, and the root folder.

        Raises:
            SandboxUnavailable: There is no place for it, or a program is missing.
        """
        opened = await run_to_end(self._make)
        self.discard_fd = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return opened

    def _make(self) -> tuple[Path, str, Path]:
        # Noted at once: `close` removes it also when the backend was cancelled meanwhile, or lacks a program.
        self._folder, token = rootfs.make_runtime(self._parent)
        root = rootfs.build_root(self._folder, self._system)
        self._install(self._folder, root)
        return self._folder, token, root

    def close(self) -> None:
        """Remove it. Repeating does no harm."""
        if self.discard_fd >= 0:
            os.close(self.discard_fd)
            self.discard_fd = -1
        if self._folder is not None:
            # The launcher has done it, unless it was killed.
            remove_runtime(self._folder)
            self._folder = None
