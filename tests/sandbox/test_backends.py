"""What all isolation backends have in common: slots, capabilities, and the one line that adds another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.backends import Backends, policies
from unsandbox.protocol.models import ExecuteRequest
from unsandbox.sandbox import BubblewrapBackend, GvisorBackend, SandboxError, SandboxSpec, SandboxUnavailable
from unsandbox.sandbox.backend import Capabilities
from unsandbox.sandbox.host.persistent_probe import PERSISTENT
from unsandbox.sandbox.host.slots import SlotTable
from unsandbox.sandbox.persistent_spec import PersistentSpec
from unsandbox.sandbox.registry import BACKENDS
from unsandbox.sandbox.seccomp import compiler
from unsandbox.sandbox.uid_ranges import USERS_PER_SERVER

# Slots


def test_a_slot_is_given_back_unless_it_is_kept():
    table = SlotTable(range(5000, 5000 + USERS_PER_SERVER))
    with table.take() as first:
        assert (first.number, first.uid) == (0, 5000)
    with pytest.raises(KeyError), table.take():
        raise KeyError
    assert table.taken == 0
    with table.take() as kept, table.take() as other:
        kept.keep()
        assert (kept.uid, other.uid) == (5000, 5001)
    assert table.taken == 1
    with table.take() as other:
        assert other.uid == 5001
    kept.release()
    kept.release()
    assert table.taken == 0
    with table.take() as first:
        assert first.uid == 5000


def test_no_slot_is_given_to_two():
    table = SlotTable(None)
    slots = [table.take() for _ in range(USERS_PER_SERVER)]
    assert len({slot.number for slot in slots}) == USERS_PER_SERVER
    assert slots[0].uid is None
    with pytest.raises(SandboxError, match="running already"):
        table.take()
    slots[7].release()
    assert table.take().number == 7


# gVisor and bubblewrap beside each other


@pytest.mark.gvisor
async def test_gvisor_needs_no_system_call_filter_of_bubblewraps(monkeypatch):
    def no_table():
        raise SandboxUnavailable("no system call table for this machine")

    monkeypatch.setattr(compiler, "build", no_table)
    async with GvisorBackend() as backend:
        outcome = await (await backend.start(SandboxSpec(run=["echo", "hello"]))).wait()
        assert outcome.stdout.data == b"hello\n"
    with pytest.raises(SandboxUnavailable, match="no system call table"):
        await BubblewrapBackend().open()


@pytest.mark.gvisor
async def test_gvisor_tells_what_persistent_sandboxes_have():
    async with GvisorBackend() as backend:
        before = backend.host.slots.taken
        checks = await backend.prove_persistent()
        assert [check.name for check in checks if not check.ok] == []
        assert checks[0].name == PERSISTENT
        assert backend.host.slots.taken == before
        assert await backend.prove_persistent() is checks


@pytest.mark.gvisor
async def test_gvisor_makes_no_persistent_sandbox_that_breaks_a_promise(monkeypatch):
    from unsandbox.sandbox.gvisor import probe

    judge = probe.judge_persistent

    def leaky(said):
        return [
            check if "files" not in check.name else replace(check, ok=False, detail="a leak")
            for check in judge(said)
        ]

    async with GvisorBackend() as backend:
        with monkeypatch.context() as patch:
            patch.setattr(probe, "judge_persistent", leaky)
            with pytest.raises(SandboxUnavailable, match="a leak"):
                await backend.open_persistent(PersistentSpec())
        await (await backend.open_persistent(PersistentSpec())).close()


# A third backend


class Third(BubblewrapBackend):
    """As trivial as can be: another name, and less of everything."""

    name = "third"
    capabilities = Capabilities()


@pytest.fixture
def third(monkeypatch):
    monkeypatch.setitem(BACKENDS, "third", Third)


@pytest.mark.usefixtures("third")
async def test_a_further_backend_takes_one_line():
    assert policies() == ("auto", "bubblewrap", "gvisor", "third", "hardened")
    engine = Engine(EngineConfig(isolation="third"))
    report = await engine.start()
    try:
        assert report.backend == "third"
        record = await engine.jobs.submit("me", ExecuteRequest(language="bash", code="echo third"))
        await record.ended.wait()
        assert record.as_job().stdout == "third\n"
    finally:
        await engine.stop()


@pytest.mark.usefixtures("third")
async def test_a_further_backend_is_opened_on_demand_and_does_what_it_can():
    backends = Backends(BubblewrapBackend())
    chosen = backends.for_job("third")
    assert chosen.name == "third"
    try:
        outcome = await (await chosen.start(SandboxSpec(run=["echo", "third"]))).wait()
        assert outcome.stdout.data == b"third\n"
    finally:
        await backends.close()
    with pytest.raises(SandboxUnavailable, match="no persistent sandboxes"):
        backends.for_persistent("third")


@pytest.mark.usefixtures("third")
def test_a_further_backend_without_a_kernel_of_its_own_is_no_hardened_one():
    hardened = Backends(GvisorBackend(), "hardened")
    assert hardened.for_job("hardened").name == "gvisor"
    for weaker in ("bubblewrap", "third"):
        with pytest.raises(SandboxUnavailable, match="requires isolation"):
            hardened.for_job(weaker)
