"""The plugin in test runs of its own, as its users have it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SUITE = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"

def test_execute(unsandbox_execute):
    job = unsandbox_execute("python", "import socket, sys; print(6 * 7, sys.stdin.read())", stdin="x")
    assert job.stdout == "42 x\\n"

def test_network_is_never_there(unsandbox_execute):
    job = unsandbox_execute("python", "import socket; socket.create_connection(('1.1.1.1', 53), 2)")
    assert not job.ok

def test_session(unsandbox_session):
    unsandbox_session.files.write("a", "b")
    assert unsandbox_session.exec(["cat", "a"]).stdout == "b"

@pytest.mark.anyio
async def test_async_client(unsandbox_async_client):
    async with unsandbox_async_client as client:
        assert (await client.execute("bash", "echo hi")).stdout == "hi\\n"

@pytest.mark.unsandbox_language("nonesuch")
def test_language():
    raise AssertionError
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(SUITE)
    return pytester


def run(suite: pytest.Pytester, *words: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "no:schemathesis", "-p", "no:asyncio", "-rs", *words)


def test_fixtures_and_markers(suite: pytest.Pytester):
    result = run(suite, "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(["*cannot run nonesuch here*"])


@pytest.mark.slow
def test_results_are_recorded_and_replayed(suite: pytest.Pytester):
    run(suite, "--unsandbox-record", "results", "-k", "execute or network").assert_outcomes(passed=2)
    assert len(list((suite.path / "results").iterdir())) == 2
    replayed = run(suite, "--unsandbox-replay", "results", "-k", "not language")
    replayed.assert_outcomes(passed=2, skipped=2)
    # A program that changed has no result, and the message says what to do.
    suite.makepyfile(SUITE.replace("6 * 7", "7 * 7"))
    failed = run(suite, "--unsandbox-replay", "results", "-k", "execute")
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*no recorded result for this python program*--unsandbox-record results*"])


def test_a_foreign_run_pays_nothing(pytester: pytest.Pytester):
    pytester.makepyfile(
        "import sys\ndef test_nothing():\n    assert 'unsandbox._sync.client' not in sys.modules\n"
    )
    run(pytester).assert_outcomes(passed=1)


def test_options_that_contradict_each_other(suite: pytest.Pytester):
    result = run(suite, "--unsandbox-record", "a", "--unsandbox-replay", "b")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*either --unsandbox-record or --unsandbox-replay*"])
