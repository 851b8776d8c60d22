"""What a key may use in all: CPU time, memory, disk, output, results, isolation."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from click.testing import CliRunner
from tests.server.conftest import Wire
from tests.server.handlers.test_services import eventually

from unsandbox.cli.keys import keys as keys_command
from unsandbox.engine import Engine, EngineConfig
from unsandbox.engine.accounts.cpu_ledger import DAY_S, HOUR_S, CpuLedger
from unsandbox.engine.accounts.keys import KeyPair, KeySettings
from unsandbox.engine.accounts.stored_keys import StoredKeys
from unsandbox.engine.store.database import open_database
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.engine.store.rows import JobRow
from unsandbox.engine.store.sql import SqlStore
from unsandbox.sandbox.spec import MIB
from unsandbox.server import Server, ServerConfig

pytestmark = pytest.mark.asyncio(loop_scope="session")

BURN = "while :; do :; done"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory):
    """A server with a data folder; yields a function that makes a key with settings, and the keys."""
    folder = tmp_path_factory.mktemp("quotas")
    keys = StoredKeys(folder)
    store = SqlStore(open_database(folder))
    engine = Engine(
        EngineConfig(stop_grace_s=0.0, work_bytes=64 * MIB, pool=1), store=store, folder=folder, box=keys.box
    )
    server = Server(engine, keys, ServerConfig(port=0))
    await engine.start()
    await server.start()
    async with aiohttp.ClientSession() as session:

        def key(**settings) -> Wire:
            pair = keys.create(settings=KeySettings(**settings))
            return Wire(server.url, pair.public_key, pair.secret_key, session)

        yield key, keys
    await server.stop_listening()
    await engine.stop()
    await server.stop()
    await store.close()
    keys.close()


async def validated(wire: Wire) -> dict[str, Any]:
    return (await wire.call("POST", "/keys/validate")).json


async def test_cpu_time_ends_what_runs_and_refuses_more_until_the_window_has_moved(house):
    key, _ = house
    wire = key(cpu_s_per_hour=1, cpu_s_per_day=50)
    ended = (await wire.execute("bash", BURN, ttl=60)).json
    assert (ended["status"], ended["exit_code"]) == ("failed", 137)
    assert "CPU time of this key" in ended["error"]
    refused = await wire.execute("bash", "echo 1")
    assert (refused.status, refused.json["error"]) == (429, "cpu_limit_reached")
    assert 3000 < int(refused.headers["Retry-After"]) <= HOUR_S + 61
    for path in ("/sessions", "/services"):
        assert (await wire.call("POST", path, {"name": "x", "bootstrap": ":"})).status == 429
    told = await validated(wire)
    assert told["limits"] == {"cpu_s_per_hour": 1, "cpu_s_per_day": 50}
    assert told["used"]["cpu_s_per_hour"] == told["used"]["cpu_s_per_day"] >= 1
    assert (await key().execute("bash", "echo 1")).json["stdout"] == "1\n"


async def test_a_session_is_counted_too(house):
    key, _ = house
    wire = key(cpu_s_per_hour=1)
    session = (await wire.call("POST", "/sessions", {})).json["session_id"]
    target = f"/sessions/{session}/execute"
    await wire.call("POST", target, {"command": f"timeout 20 bash -c '{BURN}' & sleep 0.1"})

    async def used_up() -> bool:
        return (await wire.call("POST", target, {"command": "true"})).status == 429

    await eventually(used_up, 30)
    assert (await wire.call("DELETE", f"/sessions/{session}")).status == 200


async def test_jobs_wait_for_memory_and_what_lasts_takes_it_away(house):
    key, _ = house
    wire = key(memory_mb=256, sandbox_memory_mb=160)
    first = (await wire.call("POST", "/execute/async", {"language": "bash", "code": "sleep 60"})).json
    await eventually(lambda: status_is(wire, first["job_id"], "running"), 20)
    second = (await wire.call("POST", "/execute/async", {"language": "bash", "code": "echo 2"})).json
    too_much = await wire.call("POST", "/sessions", {})
    assert (too_much.status, too_much.json["error"]) == (429, "memory_limit_reached")
    assert (await validated(wire))["used"]["memory_mb"] == 160
    # Another key's job comes and goes while this one waits.
    assert (await key().execute("bash", "echo 3")).json["stdout"] == "3\n"
    assert (await wire.call("GET", f"/jobs/{second['job_id']}")).json["status"] == "pending"
    await wire.call("DELETE", f"/jobs/{first['job_id']}")
    assert (await wire.call("GET", f"/jobs/{second['job_id']}?wait=30")).json["stdout"] == "2\n"
    session = (await wire.call("POST", "/sessions", {})).json
    assert session["memory_mb"] == 160
    refused = await wire.execute("bash", "echo 4")
    assert (refused.status, refused.json["error"]) == (429, "memory_limit_reached")
    await wire.call("DELETE", f"/sessions/{session['session_id']}")
    assert (await wire.execute("bash", "echo 4")).json["stdout"] == "4\n"


async def status_is(wire: Wire, job_id: str, status: str) -> bool:
    return (await wire.call("GET", f"/jobs/{job_id}")).json["status"] == status


async def test_each_sandbox_has_no_more_memory_than_its_key_allows(house):
    key, _ = house
    wire = key(sandbox_memory_mb=64)
    hungry = (await wire.execute("python", "x = bytearray(200 << 20)\nprint(len(x))", vcpu=2)).json
    assert (hungry["status"], hungry["exit_code"]) == ("failed", 137) or "MemoryError" in hungry["stderr"]
    assert (await key().execute("python", "print(len(bytearray(200 << 20)))")).json["exit_code"] == 0


async def test_disks_and_snapshots_are_stored_within_the_limit(house):
    key, _ = house
    wire = key(disk_mb=65)
    session = (await wire.call("POST", "/sessions", {})).json["session_id"]
    second = await wire.call("POST", "/sessions", {})
    assert (second.status, second.json["error"]) == (507, "disk_limit_reached")
    fill = "head -c 3000000 /dev/urandom > noise"
    await wire.call("POST", f"/sessions/{session}/execute", {"command": fill})
    snapshot = await wire.call("POST", "/snapshots", {"session_id": session})
    assert (snapshot.status, snapshot.json["error"]) == (507, "disk_limit_reached")
    assert (await wire.call("GET", "/snapshots")).json["count"] == 0
    assert (await validated(wire))["used"]["disk_mb"] == 64
    await wire.call("DELETE", f"/sessions/{session}")
    assert (await validated(wire))["used"]["disk_mb"] == 0


async def test_output_is_kept_up_to_the_limit_of_the_key(house):
    key, _ = house
    job = (await key(output_mb=1).execute("bash", "head -c 3000000 /dev/zero | tr '\\0' x")).json
    assert (len(job["stdout"]), job["stdout_truncated"]) == (MIB, True)
    assert job["stdout_dropped_bytes"] == 3_000_000 - MIB


async def test_the_oldest_results_of_a_key_leave_first(house):
    key, _ = house
    wire, other = key(results_mb=1), key()
    kept = (await other.execute("bash", "echo kept")).json["job_id"]
    ids = []
    for _ in range(4):
        job = await wire.execute("bash", "head -c 400000 /dev/zero | tr '\\0' x")
        ids.append(job.json["job_id"])
    found = [(await wire.call("GET", f"/jobs/{name}")).status for name in ids]
    assert (found[0], found[-1]) == (404, 200)
    assert (await other.call("GET", f"/jobs/{kept}")).status == 200


async def test_isolation_is_never_less_than_what_is_set_for_the_key(house):
    key, _ = house
    wire = key(isolation="hardened")
    for path, request in (
        ("/execute", {"language": "bash", "code": "echo 1"}),
        ("/sessions", {}),
        ("/services", {"name": "weak", "bootstrap": ":", "network_mode": "zerotrust"}),
    ):
        refused = await wire.call("POST", path, request | {"isolation": "bubblewrap"})
        assert (refused.status, refused.json["error"]) == (400, "isolation_unavailable")
        assert "this key" in refused.json["message"]


@pytest.mark.gvisor
async def test_a_key_that_asks_for_nothing_gets_what_is_set_for_it(house):
    key, _ = house
    code = "read -r line < /proc/version; echo $line"
    host = (await key().execute("bash", code)).json["stdout"]
    hardened = (await key(isolation="gvisor").execute("bash", code)).json["stdout"]
    assert hardened.startswith("Linux version")
    assert hardened != host


async def test_a_change_of_the_settings_reaches_a_running_server(house, tmp_path):
    key, keys = house
    wire = key()
    keys.change(wire.public_key, output_mb=2)
    assert (await validated(wire))["limits"] == {"output_mb": 2}
    keys.change(wire.public_key, output_mb=None)
    assert (await validated(wire))["limits"] == {}
    run = CliRunner()
    made = run.invoke(keys_command, ["create", "--data", str(tmp_path), "--json", "--memory", "512"])
    name = json.loads(made.stdout)["public_key"]
    words = ["set", name, "--data", str(tmp_path), "--json", "--cpu-day", "9", "--unlimited", "memory_mb"]
    assert json.loads(run.invoke(keys_command, words).stdout) == {
        "public_key": name,
        "tier": 1,
        "cpu_s_per_day": 9,
    }
    assert (
        "Invalid value for --unlimited: 'tier'"
        in run.invoke(keys_command, [*words[:4], "--unlimited", "tier"]).output
    )
    assert run.invoke(keys_command, ["set", "unsb-pk-none", *words[2:]]).exit_code == 1


async def test_cpu_time_comes_back_when_the_window_has_moved_and_outlives_the_process():
    now = 1_000_000.0
    ledger = CpuLedger(MemoryStore(), lambda: now)
    ledger.charge("me", 30.0)
    now += 1800
    ledger.charge("me", 40.0)
    assert (ledger.used("me", HOUR_S), ledger.used("you", HOUR_S)) == (70.0, 0)
    assert 1800 <= ledger.free_in("me", HOUR_S, 50) <= 1860
    assert 3600 <= ledger.free_in("me", HOUR_S, 20) <= 3660
    now += 1900
    assert (ledger.used("me", HOUR_S), ledger.used("me", DAY_S)) == (40.0, 70.0)
    now += DAY_S
    assert ledger.used("me", DAY_S) == 0
    ledger.charge("me", 1.0)
    # A clock that is set back by days must not hold the key up for days.
    now -= 5 * DAY_S
    assert ledger.used("me", DAY_S) == 0


async def test_use_of_cpu_time_and_sizes_of_results_are_stored(tmp_path):
    store = SqlStore(open_database(tmp_path))
    ledger = CpuLedger(store)
    ledger.charge("me", 5.0)
    await ledger.save()
    again = CpuLedger(store)
    await again.load()
    assert again.used("me", HOUR_S) == 5.0
    pair = KeyPair.generate()
    for number in range(4):
        row = JobRow(f"job_{number}", pair.public_key, "completed", "bash", 1.0, number, result=b"x" * 100)
        await store.add_job(row)
    await store.add_job(JobRow("job_runs", pair.public_key, "running", "bash", 1.0))
    assert await store.results_bytes(pair.public_key) == 400
    assert sorted(await store.trim_results(pair.public_key, 250)) == ["job_0", "job_1"]
    assert sorted(await store.trim_results(pair.public_key, 1)) == ["job_2"]
    assert await store.results_bytes(pair.public_key) == 100
    assert await store.results_bytes("unsb-pk-none") == 0
    await store.close()
