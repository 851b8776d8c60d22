"""Hot snapshots over the wire: memory and running processes, on the backend that can save them."""

from __future__ import annotations

import asyncio

import pytest
from tests.server.conftest import Wire
from tests.server.handlers.test_snapshots import lasting, new_session, new_snapshot, restore, run

pytestmark = pytest.mark.gvisor

# Counts in memory; what it counted is only shown in a file.
COUNTER = """
import os, time
n = 0
while True:
    n += 1
    with open("count.new", "w") as file:
        file.write(str(n))
    os.replace("count.new", "count")
    time.sleep(0.02)
"""


async def count(wire: Wire, session: str, beyond: int = -1) -> int:
    """Return the count, once it is above a number."""
    async with asyncio.timeout(30):
        while (now := int(await run(wire, session, "cat /work/count"))) <= beyond:
            await asyncio.sleep(0.05)
    return now


@pytest.mark.slow
async def test_a_program_goes_on_from_the_saved_number(tmp_path):
    async with lasting(tmp_path) as wire:
        session = await new_session(wire, isolation="gvisor")
        await run(wire, session, f"cat > counter.py << 'END'\n{COUNTER}\nEND\necho kept > /tmp/beside")
        await run(
            wire,
            session,
            "(python3 counter.py > /dev/null 2>&1 < /dev/null &) ; until test -s count; do :; done",
        )
        await run(wire, session, "shell_state=saved; cd /usr")
        before = int(await run(wire, session, "cat /work/count"))
        snapshot = await new_snapshot(wire, session, hot=True)
        assert (snapshot["hot"], snapshot["isolation"]) == (True, "gvisor")
        # The source itself goes on.
        after = await count(wire, session, before)
        await count(wire, session, after + 50)
        await run(wire, session, "shell_state=later; cd /")
        # In place: back at the saved number, and on from there; also what lay in memory.
        await restore(wire, snapshot["id"])
        now = await count(wire, session)
        assert before <= now < after + 50
        await count(wire, session, now)
        assert await run(wire, session, "cat /tmp/beside") == "kept\n"
        assert await run(wire, session, "echo $shell_state $PWD") == "saved /usr\n"
        assert (await wire.call("DELETE", f"/sessions/{session}")).status == 200
    async with lasting(tmp_path) as wire:
        # Of a deleted session, by another server process.
        assert (await restore(wire, snapshot["id"]))["restored_id"] == session
        now = await count(wire, session)
        assert before <= now < after + 50
        await count(wire, session, now)
        assert await run(wire, session, "echo $shell_state $PWD") == "saved /usr\n"
        clone = (await wire.call("POST", f"/snapshots/{snapshot['id']}/clone")).json["session_id"]
        assert before <= await count(wire, clone) < after + 50
        # Memory never becomes something that others may use, nor another kind of thing.
        body = {"source_type": "snapshot", "source_id": snapshot["id"]}
        answer = await wire.call("POST", "/images", body)
        assert (answer.status, answer.json["error"]) == (400, "hot_not_publishable")
        answer = await wire.call("POST", f"/snapshots/{snapshot['id']}/clone", {"type": "service"})
        assert answer.status == 400


# Says what it counted in memory, and ends when it is asked to.
TALKER = """
n=0
until [ -e end ]; do n=$((n+1)); echo "said $n"; sleep 0.05; done
exit 7
"""


@pytest.mark.slow
async def test_a_service_goes_on_with_its_log_and_its_end_is_noticed(tmp_path):
    async with lasting(tmp_path) as wire:

        async def said() -> list[int]:
            log = (await wire.call("GET", f"/services/{service}/logs?all=true")).json["log"]
            return [int(line.partition(" ")[2]) for line in log.splitlines()]

        async def until(condition) -> None:
            async with asyncio.timeout(60):
                while not await condition():
                    await asyncio.sleep(0.05)

        async def has_said(number: int) -> bool:
            return number in await said()

        async def has_ended() -> bool:
            return (await wire.call("GET", f"/services/{service}")).json["state"] == "failed"

        body = {
            "name": "talker",
            "bootstrap_content": TALKER,
            "network_mode": "zerotrust",
            "isolation": "gvisor",
        }
        service = (await wire.call("POST", "/services", body | {"restart": "never"})).json["service_id"]
        await until(lambda: has_said(3))
        snapshot = (await wire.call("POST", f"/services/{service}/snapshot", {"hot": True})).json["id"]
        # Said after the state was saved; and when that is put back a second time, which the log tells too.
        number = max(await said()) + 1
        await until(lambda: has_said(number))
        await restore(wire, snapshot)
        await until(lambda: repeats(said, number))
        ending = await wire.call("POST", f"/services/{service}/execute", {"command": "touch end"})
        assert ending.status in (200, 202)
        await until(has_ended)


async def repeats(said, number: int) -> bool:
    return (await said()).count(number) == 2


async def test_a_cold_one_is_cloned_to_the_same_isolation(tmp_path):
    async with lasting(tmp_path) as wire:
        session = await new_session(wire, isolation="gvisor")
        await run(wire, session, "echo kept > file")
        snapshot = await new_snapshot(wire, session)
        clone = (await wire.call("POST", f"/snapshots/{snapshot['id']}/clone")).json["session_id"]
        assert (await wire.call("GET", f"/sessions/{clone}")).json["isolation"] == "gvisor"
        assert await run(wire, clone, "cat file") == "kept\n"
