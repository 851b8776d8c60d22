"""Every installed language runs the same set of programs: what a caller may rely on, whatever the language."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time

import pytest
from tests.languages.support import (
    ARGUMENTS,
    AVAILABLE,
    EXPECTED,
    FEATURES,
    GREETING,
    INPUT,
    KINDS,
    STDIN,
    SYSTEM,
    TABLE,
    TABLE_FILE,
    WITH_CACHES,
    pairs,
    programs_of,
)

from unsandbox.sandbox import EndReason, Limits, SandboxSpec
from unsandbox.sandbox.languages.caches import ToolchainCaches
from unsandbox.sandbox.spec import GIB

WALL_S = 300.0
"""Five virtual machines that compile side by side, on a machine that has other things to do."""
pytestmark = pytest.mark.timeout(2 * WALL_S)


async def run(backend, name, code, **fields):
    fields.setdefault("limits", Limits(wall_s=WALL_S, vcpu=2.0, memory_bytes=2 * GIB))
    return await (await backend.start(TABLE[name].build_spec(code, **fields))).wait()


@pytest.fixture(scope="session")
def outcomes():
    return {}


@pytest.fixture
async def outcome_of(language_backend, outcomes):
    """Run all programs of a language side by side, once; return the outcome of one kind."""

    async def run_all(name):
        programs = programs_of(name).programs
        place = ToolchainCaches(WITH_CACHES).place(TABLE[name])
        fields = {
            "stdin": STDIN.encode(),
            "env": {"GREETING": GREETING},
            "input_files": {"data.txt": INPUT.encode()},
            "return_artifacts": True,
            "cache": place,
        }
        words = {"arguments": ARGUMENTS}
        ending = [kind for kind in KINDS if kind in programs and kind != "endless"]
        done = dict(
            zip(
                ending,
                await asyncio.gather(
                    *(
                        run(language_backend, name, programs[kind], **fields, args=words.get(kind, ()))
                        for kind in ending
                    )
                ),
                strict=True,
            )
        )
        if "endless" in programs:
            # As long as the smallest program took, beside the others, to compile and run: until then it has begun.
            ran = [done[kind].wall_s for kind in ending if kind != "broken"]
            limits = Limits(wall_s=min(ran, default=0.5) + 0.2)
            endless = run(language_backend, name, programs["endless"], limits=limits, cache=place)
            done["endless"] = await endless
        return done

    async def outcome(name, kind):
        if name not in outcomes:
            outcomes[name] = await run_all(name)
        return outcomes[name][kind]

    return outcome


@pytest.mark.parametrize("name", AVAILABLE)
async def test_hello(language_backend, row, name):
    began = time.monotonic()
    outcome = await run(language_backend, name, TABLE[name].hello, return_artifacts=True)
    row.cold_ms = (time.monotonic() - began) * 1000
    assert (outcome.stdout.data, outcome.stderr.data, outcome.exit_code) == (b"hello\n", b"", 0)
    artifacts = [artifact.filename for artifact in outcome.artifacts]
    assert artifacts == ([TABLE[name].binary] if TABLE[name].artifact else [])


if TABLE_FILE is not None:

    @pytest.mark.parametrize("name", AVAILABLE)
    async def test_hello_again_and_warm(warm_backend, row, name):
        language, caches = TABLE[name], ToolchainCaches(WITH_CACHES)
        await caches.make(language, warm_backend)
        limits = Limits(wall_s=WALL_S, vcpu=2.0)
        spec = language.build_spec(language.hello, limits=limits, cache=caches.place(language))
        for _ in range(3):
            began = time.monotonic()
            outcome = await (await warm_backend.start(dataclasses.replace(spec, cache_scope="table"))).wait()
            row.warm_ms = (time.monotonic() - began) * 1000
            assert (outcome.stdout.data, outcome.stderr.data, outcome.exit_code) == (b"hello\n", b"", 0)


@pytest.mark.parametrize("name", AVAILABLE)
async def test_version(language_backend, row, name):
    language = TABLE[name]
    spec = SandboxSpec(language.version, system_paths=language.system_paths, env=language.build_spec("").env)
    outcome = await (await language_backend.start(spec)).wait()
    assert outcome.exit_code == 0, outcome.stderr.data
    said = (outcome.stdout.data + outcome.stderr.data).decode()
    found = re.search(r"\d+(\.[\w+~-]+)+", said) or re.search(r"\d+", said)
    assert found, said
    row.version = found[0]


@pytest.mark.parametrize(("name", "feature"), pairs(*FEATURES))
async def test_feature(outcome_of, row, name, feature):
    outcome = await outcome_of(name, "features")
    said = outcome.stdout.data.decode() + outcome.stderr.data.decode("utf-8", "replace")
    if feature == "exit":
        assert outcome.exit_code == 7, said
    elif feature == "artifact":
        artifacts = {artifact.filename: artifact.data for artifact in outcome.artifacts}
        assert artifacts.get("out.txt") == b"artifact\n", said
    else:
        assert EXPECTED[feature] in outcome.stdout.data.decode().splitlines(), said


@pytest.mark.parametrize(("name", "kind"), pairs("arguments"))
async def test_a_program_gets_its_arguments(outcome_of, row, name, kind):
    outcome = await outcome_of(name, kind)
    assert outcome.stdout.data.decode() == "|".join(ARGUMENTS) + "\n", outcome.stderr.data


@pytest.mark.parametrize(("name", "kind"), pairs("fails"))
async def test_a_program_that_fails_says_so_on_stderr(outcome_of, row, name, kind):
    outcome = await outcome_of(name, kind)
    assert outcome.stderr.data
    assert outcome.exit_code not in (0, None)
    assert not outcome.compile_failed, outcome.stderr.data


@pytest.mark.parametrize(("name", "kind"), pairs("broken"))
async def test_a_program_that_is_none_is_answered_with_the_line(outcome_of, row, name, kind):
    outcome = await outcome_of(name, kind)
    said = outcome.stderr.data.decode("utf-8", "replace")
    assert outcome.exit_code not in (0, None), said
    assert outcome.compile_failed == (TABLE[name].compile is not None), said
    assert re.search(rf"(?<!\d){programs_of(name).broken_line}(?!\d)", said), said


@pytest.mark.parametrize(("name", "kind"), pairs("endless"))
async def test_a_program_without_end_is_stopped(outcome_of, row, name, kind):
    outcome = await outcome_of(name, kind)
    assert outcome.reason is EndReason.TIMEOUT


def test_every_language_has_its_programs():
    for name in TABLE:
        told = programs_of(name)
        assert set(told.programs) <= set(KINDS), name
        assert set(told.without) <= {*KINDS, *FEATURES}, name
        for kind in KINDS[:-1]:
            assert (kind in told.programs) != (kind in told.without), (name, kind)
        assert ("arguments" in told.programs) == TABLE[name].takes_args, name


def test_what_ci_must_have():
    if SYSTEM.is_host:
        core = {name for name, language in TABLE.items() if language.tier in {"minimal", "core"}}
        assert len(core) >= 20
        assert core <= {language.name for language in TABLE.available()}
    else:
        assert len(TABLE.available()) >= 40
