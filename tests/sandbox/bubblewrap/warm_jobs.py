"""What tests of warm sandboxes share: a pool that serves, jobs for it, and comparable outcomes."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from tests.sandbox.support import eventually
from tests.support import REPO

from unsandbox.sandbox import (
    BubblewrapBackend,
    Limits,
    Outcome,
    PoolConfig,
    SandboxFile,
    SandboxSpec,
    load_languages,
    pool_for,
)
from unsandbox.sandbox.host.warm.pool import PoolState
from unsandbox.sandbox.host.warm.sandbox import WarmJob
from unsandbox.sandbox.native.first_process import NativePrograms

MIB = 1 << 20
TABLE = load_languages()


def programs(language: str) -> dict[str, Any]:
    """Return the programs of a language by name. Those that are no text stand here."""
    return tomllib.loads((REPO / f"tests/sandbox/bubblewrap/programs/{language}.toml").read_text())


# Most programs here want no folder.
CONFIG = replace(pool_for(TABLE, 2, 8, Limits()), folders=())
FOUR = replace(CONFIG, most=4)


@contextlib.asynccontextmanager
async def pooled(config: PoolConfig, native: NativePrograms | None = None) -> AsyncIterator[BubblewrapBackend]:
    async with BubblewrapBackend(pool=config, native=native) as opened:
        await eventually(lambda: opened.pool.state is PoolState.SERVING)
        yield opened


async def run_in(backend: BubblewrapBackend, spec: SandboxSpec, *, expect_warm: bool) -> Outcome:
    job = await backend.start(spec)
    assert isinstance(job, WarmJob) == expect_warm
    return await job.wait()


def python_spec(code: str | bytes, **fields: object) -> SandboxSpec:
    spec = TABLE["python"].build_spec(
        code, stdin=b"one\ntwo\n", input_files={"in.txt": b"data"}, env={"EXTRA": "ä"}, **fields
    )
    helper = SandboxFile("/work/helper.py", b"x = 5\n")
    return SandboxSpec(
        **{name: getattr(spec, name) for name in spec.__slots__} | {"files": [*spec.files, helper]}
    )


def without_addresses(outcome: Outcome) -> list[object]:
    texts = [stream.data.decode("utf-8", "replace") for stream in (outcome.stdout, outcome.stderr)]
    texts = [
        # The kernel may be about to tell the first process of another's end.
        re.sub(
            r"(?<=sh: )\d+: |(?<=test in )[0-9.]+|(?<=SigQ:).{1,2}\d+(?=/)",
            "",
            re.sub(r"0x[0-9a-f]+|\d{15}", "ADDRESS", text),
        )
        for text in texts
    ]
    return [*texts, outcome.exit_code, outcome.reason]


def c_spec(code: str, scope: str = "me", **fields: object) -> SandboxSpec:
    return replace(TABLE["c"].build_spec(code, **fields), cache_scope=scope)
