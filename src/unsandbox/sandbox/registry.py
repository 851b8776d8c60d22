"""The isolation backends of this project, by the names with which requests and servers choose them.

A new backend takes a folder beside `bubblewrap` and `gvisor`, with a class that implements `Backend` (a
subclass of `HostBackend` is the easiest way), and one line here. `un serve --isolation NAME` then knows it.
Requests may name it once `unsandbox.protocol.models.IsolationName`, a part of the wire format, does.
"""

from __future__ import annotations

from typing import Protocol

from unsandbox.sandbox.backend import Backend, BackendOptions, Capabilities
from unsandbox.sandbox.bubblewrap.backend import BubblewrapBackend
from unsandbox.sandbox.gvisor.backend import GvisorBackend


class BackendClass(Protocol):
    """A class of backends."""

    @property
    def capabilities(self) -> Capabilities:
        """What the sandboxes of its backends can do."""

    def from_options(self, options: BackendOptions) -> Backend:
        """Return a backend that is not open yet."""


BACKENDS: dict[str, BackendClass] = {
    "bubblewrap": BubblewrapBackend,
    "gvisor": GvisorBackend,
}
"""The first one is the default; `hardened` means the first one whose sandboxes have a kernel of their own."""
