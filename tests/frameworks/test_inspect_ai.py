"""Inspect AI: its check of sandbox environments."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support import FRAMEWORKS

pytest.importorskip("inspect_ai", reason=FRAMEWORKS)

from inspect_ai.util._sandbox.self_check import *  # noqa: F403

from unsandbox.integrations.inspect_ai import UnsandboxEnvironment
from unsandbox.integrations.workspace import AsyncWorkspace, WorkspaceOptions

pytestmark = pytest.mark.anyio

ANOTHER_USER = "a session has one user; Inspect's answer to that is SandboxUserUnsupportedError"


@pytest.fixture
async def sandbox_env(
    request: pytest.FixtureRequest, options: WorkspaceOptions
) -> AsyncIterator[UnsandboxEnvironment]:
    """The fixture that the check asks for."""
    if request.node.originalname == "test_exec_as_user":
        from inspect_ai.util import SandboxUserUnsupportedError

        request.node.add_marker(
            pytest.mark.xfail(raises=SandboxUserUnsupportedError, reason=ANOTHER_USER, strict=True)
        )
    workspace = AsyncWorkspace(**options)
    yield UnsandboxEnvironment(workspace)
    await workspace.delete()
