"""The runtime folder of an open backend."""

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
        parent: Parent of the folder; see `rootfs.make_runtime`.
        system: The source of the sandboxes' `/usr`.
        install: Puts the backend's programs into the runtime folder and the root folder; may block.
    """

    def __init__(self, parent: Path | None, system: System, install: Callable[[Path, Path], None]) -> None:
        self._parent = parent
        self._system = system
        self._install = install
        self._folder: Path | None = None
        self.discard_fd = -1
        """Descriptor for output that is dropped."""

    async def open(self) -> tuple[Path, str, Path]:
        """Make the folder; return it, its token, and the root folder.

        Raises:
            SandboxUnavailable: No suitable parent folder exists, or a program is missing.
        """
        opened = await run_to_end(self._make)
        self.discard_fd = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        return opened

    def _make(self) -> tuple[Path, str, Path]:
        # Stored at once, so that `close` removes the folder even if the next steps fail or are cancelled.
        self._folder, token = rootfs.make_runtime(self._parent)
        root = rootfs.build_root(self._folder, self._system)
        self._install(self._folder, root)
        return self._folder, token, root

    def close(self) -> None:
        """Remove the folder. May be repeated."""
        if self.discard_fd >= 0:
            os.close(self.discard_fd)
            self.discard_fd = -1
        if self._folder is not None:
            # Normally the launcher has removed it already.
            remove_runtime(self._folder)
            self._folder = None
