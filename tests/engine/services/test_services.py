"""Services in the engine: what happens when programs end, when the engine ends, and what stays on disk."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from unsandbox.engine import Conflict, Engine, EngineConfig, LimitReached, UnknownObject
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.engine.store.objects import ObjectRow
from unsandbox.engine.store.sql import SqlStore
from unsandbox.protocol.services import DomainsRequest, Redeploy, Service, ServiceRequest, ServiceUpdate

pytestmark = pytest.mark.asyncio(loop_scope="session")

ME = "unsb-pk-me"
BOX = SecretBox.of_this_process()
CONFIG = EngineConfig(
    stop_grace_s=2.0,
    restart_delay_s=0.02,
    service_grace_s=2.0,
    services_per_key=3,
    memory_per_vcpu_bytes=128 << 20,
    work_bytes=64 << 20,
)


async def eventually(condition: Callable[[], object], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def open_engine(folder: Path) -> tuple[Engine, SqlStore]:
    store = SqlStore(open_database(folder))
    engine = Engine(CONFIG, store=store, folder=folder, box=BOX)
    await engine.start()
    return engine, store


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine() -> AsyncIterator[Engine]:
    """An engine that keeps nothing."""
    engine = Engine(CONFIG)
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_stays(engine: Engine) -> AsyncIterator[None]:
    """A test that fails must not take the next ones with it."""
    yield
    for service in engine.services.list_of(ME):
        await engine.services.set_lock(ME, service.name, locked=False)
        await engine.services.delete(ME, service.name)


async def make(engine: Engine, name: str, script: str | None, **options) -> Service:
    request = ServiceRequest(name=name, bootstrap_content=script, network_mode="zerotrust", **options)
    return await engine.services.create(ME, request)


def shown(engine: Engine, name: str) -> Service:
    return engine.services.get(ME, name)


def log(engine: Engine, name: str) -> str:
    return engine.services.log(ME, name).tail(None)[0].decode()


@pytest.mark.parametrize(
    ("policy", "code", "state"),
    [
        ("never", 0, "stopped"),
        ("never", 1, "failed"),
        ("on-failure", 0, "stopped"),
        ("on-failure", 7, "running"),
        ("always", 0, "running"),
        ("always", 1, "running"),
    ],
)
async def test_what_follows_the_end_of_a_program(engine, policy, code, state):
    await make(engine, "ends", f"echo run; exit {code}", restart=policy)
    if state == "running":
        await eventually(lambda: log(engine, "ends").count("run\n") >= 3)
        assert shown(engine, "ends").restarts >= 2
    else:
        await eventually(lambda: shown(engine, "ends").state == state)
        assert log(engine, "ends") == "run\n"
    assert f"exit code {code}" in shown(engine, "ends").message


async def test_the_wait_between_starts_doubles(engine):
    await make(engine, "backs-off", "date +%s%N; exit 1")
    await eventually(lambda: log(engine, "backs-off").count("\n") >= 6)
    times = [int(line) / 1e9 for line in log(engine, "backs-off").split()[:6]]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(gap >= 0.02 * 2**number for number, gap in enumerate(gaps))


async def test_a_killed_program_is_said_to_be(engine):
    await make(engine, "killed", "kill -9 $$", restart="never")
    await eventually(lambda: shown(engine, "killed").state == "failed")
    assert "signal 9" in shown(engine, "killed").message


async def test_each_start_is_clean_but_the_work_folder_stays(engine):
    script = (
        "echo x >> /work/kept; echo x >> /tmp/lost; wc -l /work/kept /tmp/lost | head -2; sleep 1000 & exit 1"
    )
    await make(engine, "clean", script)
    await eventually(lambda: "3 /work/kept" in log(engine, "clean"))
    assert "2 /tmp/lost" not in log(engine, "clean")


async def test_a_script_may_leave_its_server_in_the_background(engine):
    server = "import socket; s = socket.create_server(('127.0.0.1', 8000)); print('up', flush=True)\nwhile True: s.accept()"
    for name, how in [("holds", ""), ("lets-go", ">/dev/null 2>&1 </dev/null")]:
        script = f'echo run; setsid /usr/bin/python3 -c "{server}" {how} &\nsleep 0.5; exit 0'
        await make(engine, name, script, ports=[8000])
        target = engine.services.router.named(name)
        assert target is not None
        os.close(await engine.services.router.connect(target))
        await asyncio.sleep(1.2)  # Longer than the engine looks for what was left.
        assert shown(engine, name).restarts == 0
        assert log(engine, name).count("run\n") == 1
        await engine.services.delete(ME, name)


async def test_ports_below_1024_are_like_others(engine):
    server = "import socket; s = socket.create_server(('127.0.0.1', 80))\nwhile True: s.accept()"
    await make(engine, "low", f"#!/usr/bin/python3\n{server}", ports=[80])
    target = engine.services.router.named("low")
    assert target is not None
    os.close(await engine.services.router.connect(target))
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip() != "0"


async def test_resize_changes_what_its_programs_may_use(engine):
    await make(engine, "grows", None)
    record = engine.services.find(ME, "grows")
    command = "exec /usr/bin/python3 -c 'print(len(bytearray(200 << 20)))'"
    too_little = await engine.services.lifecycle.command(record, command, 20.0, {})
    assert too_little.exit_code != 0
    assert (await engine.services.update(ME, "grows", ServiceUpdate(vcpu=3))).memory_mb == 384
    assert (await engine.services.lifecycle.command(record, command, 20.0, {})).stdout.data == b"209715200\n"
    # It is not only the sandbox that lives now.
    await engine.services.freeze(ME, "grows")
    await engine.services.unfreeze(ME, "grows")
    assert (await engine.services.lifecycle.command(record, command, 20.0, {})).exit_code == 0


async def test_names_limits_and_locks(engine):
    first = await make(engine, "first", None)
    with pytest.raises(Conflict, match="taken"):
        await engine.services.create("unsb-pk-other", ServiceRequest(name="first", network_mode="zerotrust"))
    made = await asyncio.gather(*(make(engine, f"more-{n}", None) for n in range(4)), return_exceptions=True)
    assert sum(isinstance(one, Service) for one in made) == 2
    assert sum(isinstance(one, LimitReached) for one in made) == 2
    await engine.services.set_lock(ME, "first", locked=True)
    with pytest.raises(Conflict, match="unlock"):
        await engine.services.delete(ME, first.service_id)
    await engine.services.set_lock(ME, "first", locked=False)
    await engine.services.delete(ME, first.service_id)


class FullStore(MemoryStore):
    """A store whose disk fills up now and then."""

    full = False

    async def put_object(self, row: ObjectRow) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().put_object(row)


async def test_what_a_full_disk_refuses_is_not_done():
    store = FullStore()
    engine = Engine(CONFIG, store=store)
    await engine.start()
    try:
        await make(engine, "full", "echo one $A; exec sleep 1000", custom_domains=["full.test"])
        await eventually(lambda: "one" in log(engine, "full"))
        before = shown(engine, "full")
        record = engine.services.find(ME, "full")
        change = ServiceUpdate(name="other", vcpu=2, custom_domains=["new.test"], ports=[1])
        store.full = True
        for refused in [
            engine.services.update(ME, "full", change),
            engine.services.change_domains(ME, "full", DomainsRequest(add=["new.test"])),
            engine.services.set_lock(ME, "full", locked=True),
            engine.services.vaults.set(ME, "full", {"A": "1"}),
            engine.services.freeze(ME, "full"),
            engine.services.redeploy(ME, "full", Redeploy(bootstrap_content="echo two")),
        ]:
            with pytest.raises(OSError, match="No space"):
                await refused
            after = shown(engine, "full")
            assert (after.name, after.vcpu, after.custom_domains, after.ports, after.locked, after.state) == (
                before.name, before.vcpu, before.custom_domains, before.ports, False, "running",
            )  # fmt: skip
            assert engine.services.vaults.open(ME, "full") == {}
        # The program that was ended for nothing is started again, as it was.
        await eventually(lambda: log(engine, "full") == "one\none\n")
        assert (await engine.services.lifecycle.command(record, "echo hi", 20.0, {})).stdout.data == b"hi\n"
        store.full = False
        await engine.services.freeze(ME, "full")
        store.full = True
        with pytest.raises(OSError, match="No space"):
            await engine.services.unfreeze(ME, "full")
        store.full = False
        assert shown(engine, "full").state == "frozen"
        await engine.services.unfreeze(ME, "full")
        assert (await engine.services.lifecycle.command(record, "echo hi", 20.0, {})).stdout.data == b"hi\n"
    finally:
        await engine.stop()


async def test_a_sandbox_that_ended_cannot_be_frozen_and_its_program_comes_again(engine):
    await make(engine, "gone", "echo run; exec sleep 1000")
    await eventually(lambda: log(engine, "gone") == "run\n")
    record = engine.services.find(ME, "gone")
    async with engine.services.registry.locked(record) as supervisor:
        # As when all of it is killed just now, and its keeper does not know yet.
        await supervisor.sandbox.close()
        assert (await supervisor.any_sandbox(frozen=False)) is not None
        await supervisor.sandbox.close()
        await supervisor.freeze()
        await supervisor.unfreeze()
    await eventually(lambda: log(engine, "gone") == "run\nrun\n")


async def test_changes_at_once_are_all_kept(engine):
    await make(engine, "many", None, custom_domains=["a.test"])
    await asyncio.gather(
        *(engine.services.change_domains(ME, "many", DomainsRequest(add=[f"{one}.test"])) for one in "bcd"),
        *(engine.services.update(ME, "many", ServiceUpdate(ports=[port])) for port in (1, 2)),
    )
    assert shown(engine, "many").custom_domains == ["a.test", "b.test", "c.test", "d.test"]
    record = engine.services.find(ME, "many")
    async with engine.services.registry.locked(record):
        deletion = asyncio.ensure_future(engine.services.delete(ME, "many"))
        await asyncio.sleep(0)
        record.locked = True
    with pytest.raises(Conflict, match="unlock"):
        await deletion


async def test_calls_at_once_end_in_one_clear_state(engine):
    await make(engine, "busy", "sleep 1000")
    calls = [
        *(engine.services.freeze(ME, "busy") for _ in range(3)),
        *(engine.services.unfreeze(ME, "busy") for _ in range(3)),
        *(engine.services.redeploy(ME, "busy", Redeploy()) for _ in range(2)),
        engine.services.vaults.set(ME, "busy", {"A": "1"}),
        engine.services.delete(ME, "busy"),
        engine.services.unfreeze(ME, "busy"),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(not isinstance(result, Exception) or isinstance(result, UnknownObject) for result in results)
    assert engine.services.list_of(ME) == []
    assert engine.context.backends.for_persistent("auto").running == 0


async def test_a_full_stop_and_a_new_start(tmp_path):
    engine, store = await open_engine(tmp_path)
    script = "trap 'echo ended >> /work/runs; exit' TERM; echo begun $A >> /work/runs; cat /work/runs; sleep 1000 & wait"
    await make(engine, "runs", script, ports=[80], custom_domains=["runs.test"])
    await engine.services.vaults.set(ME, "runs", {"A": "very-private"})
    await make(engine, "ice", "echo begun $A; while :; do sleep 0.1; done")
    await eventually(lambda: log(engine, "ice") == "begun\n")
    await engine.services.freeze(ME, "ice")
    await make(engine, "done", "exit 0", restart="never")
    await eventually(lambda: "begun very-private" in log(engine, "runs"))
    await eventually(lambda: shown(engine, "done").state == "stopped")
    before = {service.name: service for service in engine.services.list_of(ME)}
    await engine.stop()
    await store.close()

    (tmp_path / "services" / "service_left-behind" / "disk").mkdir(parents=True)
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("unsandbox.sqlite3*"))
    assert b"very-private" not in stored

    engine, store = await open_engine(tmp_path)
    try:
        assert not (tmp_path / "services" / "service_left-behind").exists()
        after = {service.name: service for service in engine.services.list_of(ME)}
        for name, service in before.items():
            same = ("service_id", "state", "ports", "custom_domains", "container_name", "vcpu", "created_at")
            for field in same:
                assert getattr(after[name], field) == getattr(service, field), (name, field)
        await eventually(lambda: log(engine, "runs").endswith("ended\nbegun very-private\n"))
        assert engine.services.router.with_domain("runs.test") is not None
        # Not started until it is asked for.
        assert log(engine, "ice") == "begun\n"
        await engine.services.unfreeze(ME, "ice")
        await eventually(lambda: log(engine, "ice") == "begun\nbegun\n")
        for name in before:
            await engine.services.delete(ME, name)
        assert list((tmp_path / "services").iterdir()) == []
    finally:
        await engine.stop()
        await store.close()


async def test_a_program_that_writes_without_end_neither_fills_the_disk_nor_stops_the_others(engine):
    await make(engine, "floods", "yes")
    kept = engine.services.log(ME, "floods")
    await eventually(lambda: kept.end > 16 << 20)

    async def follow() -> None:
        async for _ in kept.follow(0, 60.0):
            pass

    follower = asyncio.create_task(follow())
    began, begun_at = asyncio.get_running_loop().time(), kept.end
    # How long one step holds the loop, in CPU time of its thread: the machine may have much else to do.
    longest, last = 0.0, time.thread_time()
    while asyncio.get_running_loop().time() < began + 2.0:
        now = time.thread_time()
        longest, last = max(longest, now - last), now
        await asyncio.sleep(0.001)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    assert kept.end - begun_at < 20 << 20
    assert longest < 0.5
    assert len(kept.tail(None)[0]) <= 16 << 20


async def test_an_idle_engine_with_services_does_nothing(engine):
    await make(engine, "idle", "sleep 1000")
    await make(engine, "cold", "while :; do :; done")
    await engine.services.freeze(ME, "cold")

    async def cpu_of_a_second() -> float:
        before = os.times()
        await asyncio.sleep(1.0)
        after = os.times()
        return (after.user + after.system) - (before.user + before.system)

    # What other tests began may still be ending.
    used = [await cpu_of_a_second()]
    while min(used) > 0.05 and len(used) < 6:
        used.append(await cpu_of_a_second())
    assert min(used) <= 0.05
