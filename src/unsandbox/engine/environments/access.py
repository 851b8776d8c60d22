"""Which environment a key may use."""

from __future__ import annotations

from pathlib import Path

from unsandbox.engine.context import Context
from unsandbox.engine.errors import Forbidden, InvalidRequest


def environment_root(context: Context, owner: str, name: str | None) -> Path | None:
    """Return the folder of an environment; None if none is asked for.

    Args:
        context: What the parts of the engine share.
        owner: The key.
        name: Name of the environment.

    Raises:
        Forbidden: The key may not use it.
        InvalidRequest: There is none with this name on this machine.
    """
    if name is None:
        return None
    if not context.quotas.may_use_environment(owner, name):
        raise Forbidden(f"this key may not use the environment {name!r}", code="environment_forbidden")
    root = context.environments.root(name)
    if root is None:
        raise InvalidRequest(
            f"this server has no environment {name!r}; on the server, type `un env build {name}`",
            code="unknown_environment",
        )
    return root
