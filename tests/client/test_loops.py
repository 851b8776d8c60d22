"""Event loops, threads, forks: whatever runs the client, it works, ends clean and warns of nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from tests.client.fake import PUBLIC, SECRET, FakeServer, reply

import un_async
from unsandbox import AsyncClient, ClientStateError

HEAD = f"""
import asyncio, gc, os, sys, threading, multiprocessing
import un, un_async
un.API_BASE = un_async.API_BASE = URL = sys.argv[1]
KEYS = ({PUBLIC!r}, {SECRET!r})
async def once(times=3):
    results = await asyncio.gather(*(un_async.execute_code("python", "x", *KEYS) for _ in range(times)))
    assert [result["stdout"] for result in results] == ["hi\\n"] * times
"""


def run(fake: FakeServer, code: str) -> None:
    """Run a script in which every warning is an error and nothing may be left open."""
    script = HEAD + code + "\ngc.collect()\nprint('well')\n"
    command = [sys.executable, "-W", "error", "-c", script, fake.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "well", "")


SCRIPTS = {
    "asyncio.run several times": "for _ in range(3): asyncio.run(once())",
    "a runner and a loop by hand": """
with asyncio.Runner() as runner:
    runner.run(once())
    runner.run(once())
loop = asyncio.new_event_loop()
loop.run_until_complete(once())
loop.run_until_complete(once())
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
    "two loops in turn in one thread": """
loops = [asyncio.new_event_loop() for _ in range(2)]
for _ in range(3):
    for loop in loops:
        loop.run_until_complete(once())
for loop in loops:
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
""",
    "threads with loops of their own": """
errors = []
def work():
    try:
        for _ in range(3): asyncio.run(once())
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert errors == [], errors
""",
    "fork before, between and inside": """
def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
child(lambda: asyncio.run(once()))
asyncio.run(once())
child(lambda: asyncio.run(once()))
un.execute_code("python", "x", *KEYS)
child(lambda: un.execute_code("python", "x", *KEYS))
un.execute_code("python", "x", *KEYS)
async def inside():
    await once()
    child(lambda: asyncio.run(once()))
    await once()
asyncio.run(inside())
""",
    "a process pool": """
def job(_):
    return un.execute_code("python", "x", *KEYS)["stdout"]
un.execute_code("python", "x", *KEYS)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(job, range(6)) == ["hi\\n"] * 6
    pool.close()
    pool.join()
""",
    "an exception and a cancellation end the loop": """
async def fail():
    await once()
    raise KeyError
try: asyncio.run(fail())
except KeyError: pass
async def cancelled():
    async with asyncio.timeout(0.05):
        await once()
        await asyncio.sleep(60)
try: asyncio.run(cancelled())
except TimeoutError: pass
""",
    "a client with and without its context": """
from unsandbox import AsyncClient, Client
async def main():
    async with AsyncClient(*KEYS, base_url=URL) as client:
        await client.execute("python", "x")
    client = AsyncClient(*KEYS, base_url=URL)
    await client.execute("python", "x")
    await client.close()
asyncio.run(main())
with Client(*KEYS, base_url=URL) as client:
    client.execute("python", "x")
""",
    "many threads on one sync client": """
errors = []
def work():
    try:
        for _ in range(10): un.execute_code("python", "x", *KEYS)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert errors == [], errors
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_works_and_leaves_nothing_behind(fake: FakeServer, name: str) -> None:
    run(fake, SCRIPTS[name])


def test_uvloop(fake: FakeServer) -> None:
    run(fake, "import uvloop\nfor _ in range(2): uvloop.run(once(10))")


def test_a_thousand_calls_at_once(fake: FakeServer) -> None:
    run(fake, "asyncio.run(once(1000))")
    assert len(fake.requests) == 1000
    assert fake.connections <= 100


async def test_a_client_belongs_to_one_loop(fake: FakeServer) -> None:
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url) as client:
        await client.list_jobs()
        with pytest.raises(ClientStateError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.list_jobs())
        await client.list_jobs()


async def test_the_loop_goes_on_while_the_engine_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un_async, "API_BASE", "local")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.002)
            beats += 1

    heart = asyncio.create_task(beat())
    assert (await un_async.execute_code("bash", "sleep 0.1; echo hi"))["stdout"] == "hi\n"
    heart.cancel()
    assert beats > 0


def test_the_embedded_engine_after_a_fork_and_in_several_loops() -> None:
    script = """
import asyncio, os, sys, un, un_async
un.API_BASE = un_async.API_BASE = "local"
async def main():
    results = await asyncio.gather(*(un_async.execute_code("bash", f"echo {n}") for n in range(5)))
    assert [result["stdout"] for result in results] == [f"{n}\\n" for n in range(5)], results
asyncio.run(main())
asyncio.run(main())
assert un.execute_code("bash", "echo hi")["stdout"] == "hi\\n"
pid = os.fork()
if pid == 0:
    code = 1
    try:
        assert un.execute_code("bash", "echo hi")["stdout"] == "hi\\n"
        asyncio.run(main())
        from unsandbox import local
        local.stop()
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert un.execute_code("bash", "echo hi")["stdout"] == "hi\\n"
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_what_is_shared_is_closed_with_its_loop(fake: FakeServer) -> None:
    fake.script(reply(200, {"jobs": []}))

    async def twice() -> int:
        un_async.API_BASE = fake.url
        await un_async.list_jobs(PUBLIC, SECRET)
        await un_async.list_jobs(PUBLIC, SECRET)
        return fake.connections

    before = un_async.API_BASE
    try:
        assert await asyncio.to_thread(asyncio.run, twice()) == 1
        assert await asyncio.to_thread(asyncio.run, twice()) == 2
    finally:
        un_async.API_BASE = before
