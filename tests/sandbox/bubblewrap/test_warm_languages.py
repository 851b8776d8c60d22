"""Compiled programs that are used again, and warm interpreters of JavaScript and bash."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.warm_jobs import TABLE, c_spec, programs, run_in, without_addresses
from tests.sandbox.support import eventually

from unsandbox.sandbox import BubblewrapBackend
from unsandbox.sandbox.zygote.main import KIND_BASH, KIND_NODE

WARNING = '#include <stdio.h>\nint main(void) { int x = %d; x = x; printf("hello\\n"); return f(); } int f() { return 3; }\n'


async def test_a_program_is_compiled_once_per_key_source_and_compiler(warm):
    cache = warm.pool.source.compiled
    spec = c_spec(WARNING % 1)
    begin = len(cache)
    first = await run_in(warm, spec, expect_warm=True)
    assert len(cache) == begin + 1
    again = await run_in(warm, spec, expect_warm=True)
    # What the compiler said is said again.
    assert without_addresses(again) == without_addresses(first)
    assert b"implicit declaration" in first.stderr.data
    assert first.exit_code == 3
    assert again.cpu_s < first.cpu_s / 2
    assert len(cache) == begin + 1
    for other in (
        c_spec(WARNING % 2),
        c_spec(WARNING % 1, "another key"),
        replace(spec, compile_env={"CPATH": "/tmp"}),
        replace(spec, compile=[*(spec.compile or ()), "-O2"]),
    ):
        assert cache.find(cache.key_of(other)) is None
    assert cache.key_of(replace(spec, cache_scope="")) is None


async def test_artifacts_of_a_program_that_was_compiled_before(warm):
    spec = c_spec(WARNING % 3, return_artifacts=True)
    outcomes = [await run_in(warm, spec, expect_warm=True) for _ in range(2)]
    assert outcomes[0].artifacts == outcomes[1].artifacts
    assert outcomes[0].artifacts[0].data.startswith(b"\x7fELF")
    assert outcomes[0].artifacts[0].mode == outcomes[1].artifacts[0].mode


async def test_a_program_that_changes_itself_is_kept_as_it_was_compiled(warm):
    code = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { puts("x"); return system("rm /work/main; echo bad > /work/main"); }'
    outcomes = [await run_in(warm, c_spec(code), expect_warm=True) for _ in range(3)]
    assert [outcome.stdout.data for outcome in outcomes] == [b"x\n"] * 3


async def test_what_does_not_compile_is_not_kept(warm):
    cache = warm.pool.source.compiled
    begin = len(cache)
    for _ in range(2):
        outcome = await run_in(warm, c_spec("int main(void) { no }"), expect_warm=True)
        assert (outcome.compile_failed, outcome.exit_code) == (True, 1)
    links = replace(c_spec("x"), compile=["ln", "-s", "/etc/passwd", "/work/main"], run=["echo", "ok"])
    folder = replace(c_spec("y"), compile=["mkdir", "/work/main"], run=["echo", "ok"])
    pipes = replace(c_spec("z"), compile=["mkfifo", "/work/main"], run=["echo", "ok"])
    for spec in (links, folder, pipes):
        assert (await run_in(warm, spec, expect_warm=True)).stdout.data == b"ok\n"
    assert len(cache) == begin


def test_the_cache_keeps_its_bounds():
    from unsandbox.sandbox.host.compile_cache import CompileCache, Compiled

    cache = CompileCache(TABLE.system, most_bytes=10_000, most_each=3000, most_per_key=5000)
    keys = [(owner, bytes([number])) for owner in "ab" for number in range(4)]
    for key in keys:
        cache.keep(key, Compiled(bytes(1000), 0o755))
    assert [key for key in keys if cache.find(key)] == [*keys[1:4], *keys[5:8]]
    cache.keep(("c", b""), Compiled(bytes(2600), 0o755))
    assert cache.find(("c", b"")) is None
    cache.keep(("c", b"1"), Compiled(bytes(2400), 0o755))
    assert cache.find(("c", b"1"))
    assert cache.held_bytes <= 10_000
    assert cache.find(keys[1]) is None


# JavaScript in a node that waits
JAVASCRIPT: dict[str, str | bytes] = programs("javascript") | {
    "large": "/*" + "x" * 300_000 + "*/ console.log('large')",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(warm) -> AsyncIterator[BubblewrapBackend]:
    if not TABLE["javascript"].installed():
        pytest.skip("node is not installed")
    await run_in(warm, TABLE["javascript"].build_spec(""), expect_warm=True)
    return warm


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_a_javascript_program_sees_no_difference(backend, node, name):
    spec = TABLE["javascript"].build_spec(JAVASCRIPT[name], input_files={"a.json": b'{"b": 5}'})
    await eventually(lambda: node.pool.queues[KIND_NODE].ready, 10)
    waits = node.pool.queues[KIND_NODE].ready[0]
    hot = await run_in(node, spec, expect_warm=True)
    assert waits.used
    cold = await run_in(backend, spec, expect_warm=False)
    hot_view, cold_view = (re.sub(r"(node:\d+)", "node", repr(without_addresses(one))) for one in (hot, cold))
    assert hot_view == cold_view


async def test_a_javascript_program_with_its_own_variables_or_input_gets_them(node):
    code = "console.log(process.env.X, require('fs').readFileSync(0, 'utf8'))"
    spec = TABLE["javascript"].build_spec(code, env={"X": "1"}, stdin=b"in")
    assert (await run_in(node, spec, expect_warm=True)).stdout.data == b"1 in\n"


# Bash that waits
BASH: dict[str, str | bytes] = programs("bash") | {
    "large": "#" + "x" * 100_000 + "\necho large",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bash(warm) -> AsyncIterator[BubblewrapBackend]:
    await run_in(warm, TABLE["bash"].build_spec(""), expect_warm=True)
    return warm


@pytest.mark.parametrize("name", BASH)
async def test_a_bash_script_sees_no_difference(backend, bash, name):
    spec = TABLE["bash"].build_spec(BASH[name])
    await eventually(lambda: bash.pool.queues[KIND_BASH].ready, 20)
    waits = bash.pool.queues[KIND_BASH].ready[0]
    hot = await run_in(bash, spec, expect_warm=True)
    assert waits.used
    cold = await run_in(backend, spec, expect_warm=False)
    assert without_addresses(hot) == without_addresses(cold)
