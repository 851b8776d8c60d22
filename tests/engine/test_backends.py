"""Which backend a request gets: what it asked for, or a refusal that says what to do; never less."""

from __future__ import annotations

import pytest

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.backends import Backends
from unsandbox.engine.errors import InvalidRequest
from unsandbox.protocol.models import ExecuteRequest
from unsandbox.sandbox import BubblewrapBackend, GvisorBackend, SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc

KERNEL = ExecuteRequest(language="bash", code="read -r line < /proc/version; echo $line")


def without_runsc(monkeypatch):
    monkeypatch.setattr(runsc, "candidates", list)


@pytest.mark.parametrize("asked", ["gvisor", "hardened"])
def test_without_gvisor_it_is_refused_with_what_to_type(monkeypatch, asked):
    without_runsc(monkeypatch)
    with pytest.raises(SandboxUnavailable, match="un doctor --install-gvisor"):
        Backends(BubblewrapBackend()).for_job(asked)


@pytest.mark.parametrize("policy", ["gvisor", "hardened"])
def test_a_server_that_demands_gvisor_gives_nothing_less(policy):
    backends = Backends(GvisorBackend(), policy)
    for asked in ("auto", "gvisor", "hardened"):
        assert backends.for_job(asked).name == "gvisor"
    with pytest.raises(SandboxUnavailable, match="requires isolation"):
        backends.for_job("bubblewrap")


def test_by_default_a_request_gets_bubblewrap():
    backends = Backends(BubblewrapBackend())
    assert [backends.for_job(asked).name for asked in ("auto", "bubblewrap")] == ["bubblewrap"] * 2


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="choose from auto, bubblewrap"):
        Backends(BubblewrapBackend(), "gviser")


def test_the_environment_sets_the_policy(monkeypatch):
    assert EngineConfig().isolation == "auto"
    monkeypatch.setenv("UNSANDBOX_ISOLATION", "hardened")
    assert EngineConfig().isolation == "hardened"


async def test_an_engine_that_demands_gvisor_does_not_start_without(monkeypatch):
    without_runsc(monkeypatch)
    with pytest.raises(SandboxUnavailable, match="not installed"):
        await Engine(EngineConfig(isolation="hardened")).start()


async def test_a_job_that_asks_for_gvisor_where_there_is_none(monkeypatch):
    without_runsc(monkeypatch)
    engine = Engine()
    await engine.start()
    try:
        with pytest.raises(InvalidRequest, match="gVisor's runsc is not installed"):
            await engine.jobs.submit("me", ExecuteRequest(language="bash", code="true", isolation="hardened"))
    finally:
        await engine.stop()


async def kernel_of(engine: Engine, isolation: str) -> str | None:
    record = await engine.jobs.submit(
        "me", ExecuteRequest(language="bash", code=KERNEL.code, isolation=isolation)
    )
    await record.ended.wait()
    return record.as_job().stdout


@pytest.mark.gvisor
async def test_each_request_gets_the_kernel_that_it_asked_for():
    with open("/proc/version") as file:
        host = file.read()
    engine = Engine()
    await engine.start()
    try:
        assert await kernel_of(engine, "auto") == host
        for asked in ("gvisor", "hardened"):
            assert (await kernel_of(engine, asked)).startswith("Linux version 4.4.0")
    finally:
        await engine.stop()


@pytest.mark.gvisor
async def test_an_engine_that_demands_gvisor_runs_everything_on_it():
    engine = Engine(EngineConfig(isolation="hardened"))
    report = await engine.start()
    try:
        assert report.backend == "gvisor"
        assert (await kernel_of(engine, "auto")).startswith("Linux version 4.4.0")
        with pytest.raises(InvalidRequest, match="requires isolation"):
            await kernel_of(engine, "bubblewrap")
    finally:
        await engine.stop()
