"""What services are made of and what needs no sandbox: their log, their script from a URL, their names."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from unsandbox.engine import Conflict, Forbidden, InvalidRequest, TooLarge
from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.services.bootstrap import fetch_script, read_bootstrap
from unsandbox.engine.services.deployment import read_deployment, remove_deployments, write_deployment
from unsandbox.engine.services.hostnames import ServiceNames
from unsandbox.engine.services.log import LONGEST_LINE, ServiceLog
from unsandbox.engine.services.record import ServiceRecord
from unsandbox.engine.services.vault import VaultSealer
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.engine.store.objects import Collection
from unsandbox.protocol.bounds import SCRIPT_BYTES
from unsandbox.protocol.services import Redeploy, ServiceRequest


async def lines_of(log: ServiceLog, position: int = 0) -> list[tuple[int, bytes]]:
    """Return all lines of a log that is closed."""
    return [line async for lines in log.follow(position, 1.0) for line in lines]


@pytest.fixture
def open_log(tmp_path) -> Iterator[Callable[..., ServiceLog]]:
    opened: list[ServiceLog] = []

    def make(**bounds: int) -> ServiceLog:
        opened.append(ServiceLog(tmp_path, **bounds))
        return opened[-1]

    yield make
    for log in opened:
        log.close()


async def test_a_log_is_what_was_written(open_log):
    log = open_log()
    await log.append(b"one\ntwo\n")
    await log.append(b"thr")
    assert log.tail(None) == (b"one\ntwo\nthr", 11)
    assert log.tail(1) == (b"thr", 11)
    assert log.tail(2) == (b"two\nthr", 11)
    assert log.tail(99)[0] == b"one\ntwo\nthr"
    assert log.tail(0)[0] == b""
    log.close()
    assert await lines_of(log) == [(4, b"one"), (8, b"two"), (11, b"thr")]
    assert await lines_of(log, 4) == [(8, b"two"), (11, b"thr")]


async def test_a_log_goes_on_after_a_restart_and_holds_any_bytes(open_log):
    log = open_log()
    await log.append(b"\xff\xfe\n")
    log.close()
    log = open_log()
    await log.append(b"\x00more\r\n")
    assert log.tail(None) == (b"\xff\xfe\n\x00more\r\n", 10)


async def test_a_log_is_bounded_and_positions_stay_true(open_log, tmp_path):
    log = open_log(segment_bytes=1000, segments=3)
    written = b""
    chance = random.Random(1)
    while len(written) < 20_000:
        piece = b"%d " % len(written) + b"x" * chance.randrange(300) + b"\n"
        written += piece
        await log.append(piece)
    assert log.end == len(written)
    kept, end = log.tail(None)
    assert (kept, end) == (written[-len(kept) :], len(written))
    assert 1000 < len(kept) <= 3000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000
    # It begins with a whole line, and so does a follower that comes from before.
    assert written[: -len(kept)].endswith(b"\n")
    log.close()
    for position, line in await lines_of(log, 5):
        assert written[:position].endswith(b"\n")
        assert written[position - len(line) - 1 : position - 1] == line


async def test_a_line_without_end_is_kept_in_bounds_and_told_in_pieces(open_log):
    log = open_log(segment_bytes=100_000, segments=2)
    for _ in range(10):
        await log.append(b"y" * 50_000)
    assert len(log.tail(None)[0]) <= 200_000
    log.close()
    told = [line for _, line in await lines_of(log, log.end - 150_000)]
    assert b"".join(told) == b"y" * 150_000
    assert max(map(len, told)) == LONGEST_LINE


async def test_followers_hear_at_once_and_leave_when_the_log_closes(open_log):
    log = open_log()
    heard: list[bytes] = []

    async def listen() -> None:
        async for lines in log.follow(0, 60.0):
            heard.extend(line for _, line in lines)

    listeners = [asyncio.create_task(listen()) for _ in range(3)]
    async with asyncio.timeout(5):
        for number in range(5):
            await log.append(b"%d\n" % number)
            while len(heard) < 3 * (number + 1):
                await asyncio.sleep(0)
        log.close()
        await asyncio.gather(*listeners)
    assert sorted(heard) == sorted(b"%d" % number for number in range(5) for _ in range(3))


async def test_a_follower_is_told_that_there_is_nothing(open_log):
    async for lines in open_log().follow(0, 0.01):
        assert lines == []
        break


@contextlib.asynccontextmanager
async def web_server(**answers: web.Response | bytes | int) -> AsyncIterator[str]:
    """Serve fixed answers on loopback: bytes, or a redirect to another of them, or a status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        given = answers[request.match_info["name"]]
        if isinstance(given, bytes):
            return web.Response(body=given)
        if isinstance(given, int):
            return web.Response(status=given)
        return web.Response(status=given.status, headers=given.headers)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def to(where: str) -> web.Response:
    return web.Response(status=302, headers={"Location": where})


def anywhere(_address: str) -> bool:
    return True


async def test_a_script_is_fetched_through_redirects():
    async with web_server(script=b"echo hi\n", old=to("/older"), older=to("script"), gone=404, none=b"") as url:
        assert await fetch_script(f"{url}/script", anywhere) == b"echo hi\n"
        assert await fetch_script(f"{url.replace('127.0.0.1', 'localhost')}/old", anywhere) == b"echo hi\n"
        with pytest.raises(InvalidRequest, match="404"):
            await fetch_script(f"{url}/gone", anywhere)
        with pytest.raises(InvalidRequest, match="empty"):
            await fetch_script(f"{url}/none", anywhere)
        given = await read_bootstrap("me", ServiceRequest(name="a", bootstrap=f" {url}/script "), anywhere)
        assert given is not None
        assert (given.script, given.url) == (b"echo hi\n", f"{url}/script")


async def test_a_script_has_bounds():
    async with web_server(large=b"x" * (SCRIPT_BYTES + 1), round=to("/round"), ftp=to("ftp://x/"), file=to("file:///etc/passwd")) as url:  # fmt: skip
        with pytest.raises(TooLarge):
            await fetch_script(f"{url}/large", anywhere)
        with pytest.raises(InvalidRequest, match="redirects"):
            await fetch_script(f"{url}/round", anywhere)
        for path in ("ftp", "file"):
            with pytest.raises(InvalidRequest, match="http and https"):
                await fetch_script(f"{url}/{path}", anywhere)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"]
)
async def test_this_machine_and_its_neighbours_are_out_of_reach(host):
    async with web_server(script=b"echo secret\n") as url:
        port = url.rpartition(":")[2]
        with pytest.raises(InvalidRequest, match="public internet") as refusal:
            await fetch_script(f"http://{host}:{port}/script")
        assert refusal.value.code == "bootstrap_unavailable"


@pytest.mark.root
def test_public_addresses_of_this_machine_are_out_of_reach_too():
    """In a network of its own, that of a machine with a public address and public neighbours."""
    ask = (
        "import sys; from unsandbox.engine.services.bootstrap import is_elsewhere; "
        "print(*map(is_elsewhere, sys.argv[1:]))"
    )
    network = "ip link set lo up && ip addr add 203.0.113.9/24 dev lo"
    command = f'{network} && exec "$@"'
    asked = ["203.0.113.9", "203.0.113.10", "127.0.0.1", "1.1.1.1"]
    told = subprocess.run(
        ["unshare", "-n", "sh", "-c", command, "sh", sys.executable, "-c", ask, *asked],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.split() == ["False", "False", "False", "True"]


async def test_a_redirect_leads_nowhere_else_either():
    asked = []

    def only_the_first(address: str) -> bool:
        asked.append(address)
        return len(asked) == 1

    async with web_server(script=b"echo secret\n") as url, web_server(old=to(f"{url}/script")) as first:
        with pytest.raises(InvalidRequest, match="public internet"):
            await fetch_script(f"{first}/old", only_the_first)
        assert asked == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    "url", ["http://u:p@example.com/", "http:///x", "ftp://example.com/x", "http://nowhere.invalid/x"]
)
async def test_what_cannot_be_fetched_is_refused(url):
    with pytest.raises(InvalidRequest, match="bootstrap URL"):
        await read_bootstrap("me", Redeploy(bootstrap_url=url), anywhere)


async def test_where_a_script_comes_from():
    command = await read_bootstrap("me", ServiceRequest(name="a", bootstrap="echo http://x"), anywhere)
    content = await read_bootstrap("me", Redeploy(bootstrap_content="#!/bin/sh\n\u00e9"), anywhere)
    assert command is not None
    assert content is not None
    assert (command.script, command.url) == (b"echo http://x\n", None)
    assert content.script == "#!/bin/sh\né".encode()
    assert await read_bootstrap("me", Redeploy(), anywhere) is None
    with pytest.raises(InvalidRequest, match="one of"):
        await read_bootstrap("me", Redeploy(bootstrap="a", bootstrap_content="b"), anywhere)
    with pytest.raises(InvalidRequest, match="surrogate"):
        await read_bootstrap("me", Redeploy(bootstrap="\ud800"), anywhere)
    with pytest.raises(TooLarge):
        await read_bootstrap("me", Redeploy(bootstrap_content="x" * (SCRIPT_BYTES + 1)), anywhere)


def test_a_deployment_is_there_whole_or_not_at_all(tmp_path):
    first = write_deployment(tmp_path, b"one", {"a": b"1", "b": b""})
    assert read_deployment(tmp_path, first) == (b"one", {"a": b"1", "b": b""})
    with pytest.raises(OSError):
        write_deployment(tmp_path, b"two", {"x" * 300: b""})
    assert [path.name for path in tmp_path.iterdir()] == [first]
    second = write_deployment(tmp_path, None, {})
    (tmp_path / "log").mkdir()
    remove_deployments(tmp_path, second)
    assert sorted(path.name for path in tmp_path.iterdir()) == [second, "log"]
    assert read_deployment(tmp_path, second) == (None, {})


def test_a_vault_is_sealed_and_bounded():
    sealer = VaultSealer(SecretBox.of_this_process())
    sealed = sealer.seal({"NAME": "very-private"})
    assert b"very-private" not in sealed
    assert b"NAME" not in sealed
    assert sealer.open(sealed) == {"NAME": "very-private"}
    assert sealer.open(None) == {}
    sealer.seal({"A": "x" * (64 * 1024 - 3)})
    with pytest.raises(TooLarge) as refusal:
        sealer.seal({"A": "y" * (64 * 1024 - 2)})
    assert "yy" not in str(refusal.value)


async def names_with(*records: ServiceRecord) -> ServiceNames:
    collection: Collection[ServiceRecord] = Collection("service", ServiceRecord, MemoryStore())
    for record in records:
        await collection.put(record)
    names = ServiceNames(collection, ["api.example.com"])
    names.refresh()
    return names


def service(name: str, *domains: str) -> ServiceRecord:
    return ServiceRecord(
        object_id=f"service_{name}", owner="me", created_at=0.0, container="c", network_mode="zerotrust",
        vcpu=1, last_activity=0.0, name=name, domains=list(domains),
    )  # fmt: skip


async def test_a_name_or_domain_belongs_to_one_service():
    shop = service("shop", "shop.test")
    names = await names_with(shop)
    with pytest.raises(Conflict), names.claim("shop", []):
        pass
    with pytest.raises(Conflict), names.claim("other", ["shop.test"]):
        pass
    with names.claim("shop", ["shop.test"], but=shop), names.claim("other", ["other.test"]):
        with pytest.raises(Conflict), names.claim("other", []):
            pass
        with pytest.raises(Conflict), names.claim("third", ["other.test"]):
            pass
    with names.claim("other", ["other.test"]):
        pass
    with pytest.raises(InvalidRequest), names.claim("8080-shop", []):
        pass


async def test_a_name_does_not_stand_before_the_api():
    collection: Collection[ServiceRecord] = Collection("service", ServiceRecord, MemoryStore())
    names = ServiceNames(collection, ["on.example.com", "API.on.example.com", "admin.localhost"])
    for name in ("api", "admin"):
        with pytest.raises(Forbidden, match="own"), names.claim(name, []):
            pass
    with names.claim("shop", []):
        pass
    assert "api.on.example.com" in names.reserved


async def test_domains_have_one_form():
    names = await names_with()
    assert names.clean_domains(["Shop.Test.", "shop.test", "bücher.example"]) == [
        "shop.test",
        "xn--bcher-kva.example",
    ]
    for bad in [
        "",
        "shop",
        "http://shop.test",
        "shop.test:80",
        "1.2.3.4",
        "[::1].a",
        "a..b",
        "-a.test",
        "x" * 300 + ".test",
        "a.0x7f",
    ]:
        with pytest.raises(InvalidRequest):
            names.clean_domains([bad])
    for own in ["localhost.", "x.localhost", "api.example.com", "v2.API.example.com"]:
        with pytest.raises((Forbidden, InvalidRequest)):
            names.clean_domains([own])
    with pytest.raises(InvalidRequest, match="at most"):
        names.clean_domains([f"{number}.test" for number in range(101)])


def test_a_folder_of_another_kind_is_no_log(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hi")
    (tmp_path / "x.log").write_text("hi")
    assert ServiceLog(tmp_path).tail(None) == (b"", 0)
