"""The isolation backends of one engine, found by the name that a request asks for."""

from __future__ import annotations

from unsandbox.sandbox.live_spec import LiveBackend
from unsandbox.sandbox.spec import Backend, SandboxUnavailable

HARDENED = "gvisor"
"""What `hardened` means: this backend or a refusal."""


class Backends:
    """Chooses the backend of a job, session or service; never one that is weaker than what was asked for.

    Args:
        default: Takes what asks for nothing in particular; opened and closed by the engine.
        policy: What this server demands at least: `auto`, `bubblewrap`, `gvisor` or `hardened`.
    """

    def __init__(self, default: Backend, policy: str = "auto") -> None:
        self._default = default
        self._policy = policy

    def for_job(self, isolation: str) -> Backend:
        """Return the backend for a job.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        wanted = self._wanted(isolation)
        if wanted != self._default.name:
            raise SandboxUnavailable(f"isolation {wanted!r} is not available on this server")
        return self._default

    def live(self, isolation: str) -> LiveBackend:
        """Return the backend for what stays: a session or service.

        Raises:
            SandboxUnavailable: There is none on this machine that is at least what was asked for.
        """
        backend = self.for_job(isolation)
        if not hasattr(backend, "open_live"):
            raise SandboxUnavailable(f"the backend {backend.name!r} cannot make sandboxes that stay")
        return backend  # type: ignore[return-value]

    def _wanted(self, isolation: str) -> str:
        asked = self._policy if isolation == "auto" else isolation
        if self._policy in {"gvisor", "hardened"} and asked == "bubblewrap":
            raise SandboxUnavailable("this server runs nothing with less isolation than gVisor")
        return {"auto": self._default.name, "hardened": HARDENED}.get(asked, asked)
