"""The isolation backends of this project, by the names that requests and servers use.

To add a backend, create a folder beside `bubblewrap` and `gvisor` with a class that implements `Backend` (most
easily a subclass of `HostBackend`), and add one line here. `un serve --isolation NAME` accepts the name at
once; requests accept it when `unsandbox.protocol.models.IsolationName` contains it.
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
        """The abilities of the backend's sandboxes."""

    def from_options(self, options: BackendOptions) -> Backend:
        """Return a backend that is not open yet."""


BACKENDS: dict[str, BackendClass] = {
    "bubblewrap": BubblewrapBackend,
    "gvisor": GvisorBackend,
}
"""The first one is the default; `hardened` means the first one whose sandboxes have a separate kernel."""
