"""A backend with warm sandboxes, in every setting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.warm_jobs import CONFIG, pooled

from unsandbox.sandbox import BubblewrapBackend
from unsandbox.sandbox.native.first_process import NO_PROGRAMS

# Whether there is machine code, and whether interpreters end quickly: programs see no difference.
SETTINGS = {
    "as always": (None, True),
    "without machine code": (NO_PROGRAMS, True),
    "without quick ends": (None, False),
    "without either": (NO_PROGRAMS, False),
}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="session",
    params=[
        pytest.param(setting, marks=[] if name == "as always" else pytest.mark.slow, id=name)
        for name, setting in SETTINGS.items()
    ],
)
async def warm(request) -> AsyncIterator[BubblewrapBackend]:
    native, quick_end = request.param
    async with pooled(replace(CONFIG, quick_end=quick_end), native) as opened:
        yield opened
