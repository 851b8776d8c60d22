"""The address of an embedded engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Address and key pair of the embedded engine.

    Attributes:
        url: Base URL on the loopback interface.
        public_key: Random public key for this process.
        secret_key: Random secret key for this process.
    """

    url: str
    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"LocalServer({self.url!r})"
