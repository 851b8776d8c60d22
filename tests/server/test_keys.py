"""What a key may do: its tier, its limits, its end."""

from __future__ import annotations

import json
import time

import aiohttp
import pytest
from tests.server.conftest import Wire

from unsandbox.engine.accounts.keys import FixedKeys, KeyPair, KeySettings
from unsandbox.engine.accounts.stored_keys import StoredKeys
from unsandbox.server import Server, ServerConfig
from unsandbox.server.auth import human_duration
from unsandbox.server.rate import Rates

on_the_servers_loop = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def wire_of(engine):
    """Serve the engine for one key with settings; yields a function that makes its wire."""

    class Opened:
        async def __aenter__(self):
            self.session = aiohttp.ClientSession()
            self.servers = []
            return self

        async def __call__(self, **settings) -> Wire:
            pair = KeyPair.generate()
            keys = FixedKeys(pair, settings={pair.public_key: KeySettings(**settings)})
            server = Server(engine, keys, ServerConfig(port=0))
            await server.start()
            self.servers.append(server)
            return Wire(server.url, pair.public_key, pair.secret_key, self.session)

        async def __aexit__(self, *_):
            await self.session.close()
            for server in self.servers:
                await server.stop()

    return Opened()


@on_the_servers_loop
async def test_validation_tells_tier_limits_and_expiry(wire_of):
    async with wire_of as make:
        wire = await make(tier=3, expires_at=time.time() + 3 * 86400 + 60, rate_per_minute=60, concurrency=7)
        answer = (await wire.call("POST", "/keys/validate")).json
        assert (answer["valid"], answer["tier"], answer["status"]) == (True, 3, "active")
        assert (answer["concurrency"], answer["rate_per_minute"], answer["burst"]) == (7, 60, 60)
        assert answer["valid_for_human"] == "3 days"
        assert answer["expires_at"].isdigit()
        assert 3 * 86400 < answer["time_remaining"] <= 3 * 86400 + 60


@on_the_servers_loop
async def test_an_expired_key_is_refused_and_told_so(wire_of):
    async with wire_of as make:
        wire = await make(expires_at=time.time() - 7200)
        refused = await wire.execute("bash", "echo 1")
        assert (refused.status, refused.json["error"]) == (401, "key_expired")
        assert "timestamp" not in refused.json["message"]
        told = await wire.call("POST", "/keys/validate")
        assert (told.status, told.json["valid"], told.json["reason"]) == (401, False, "expired")
        assert told.json["expired_ago"] == "2 hours ago"
        wrong = Wire(wire.url, wire.public_key, wire.secret_key + "x", wire.session)
        assert (await wrong.call("POST", "/keys/validate")).json["reason"] == "invalid_key"


@on_the_servers_loop
async def test_a_rate_is_kept_and_the_answer_says_when_to_come_back(wire_of):
    async with wire_of as make:
        wire, other = await make(rate_per_minute=1, burst=2), await make()
        assert [(await wire.call("GET", "/jobs")).status for _ in range(2)] == [200, 200]
        refused = await wire.call("GET", "/jobs")
        assert (refused.status, refused.json["error"]) == (429, "rate_limit_exceeded")
        assert 55 <= int(refused.headers["Retry-After"]) <= 61
        assert (await other.call("GET", "/jobs")).status == 200


@on_the_servers_loop
async def test_a_key_may_have_fewer_jobs_than_the_engine_allows(wire_of):
    async with wire_of as make:
        wire = await make(concurrency=1)
        code = {"language": "bash", "code": "sleep 30"}
        first = await wire.call("POST", "/execute/async", code)
        refused = await wire.call("POST", "/execute/async", code)
        assert (refused.status, refused.json["concurrency_limit"]) == (429, 1)
        assert (await wire.call("DELETE", f"/jobs/{first.json['job_id']}")).status == 200


def test_tokens_come_back_with_time():
    rates, settings = Rates(), KeySettings(rate_per_minute=60, burst=1)
    rates.take("me", settings, 0.0)
    with pytest.raises(Exception, match=r"retry in 0\.5 s"):
        rates.take("me", settings, 0.5)
    rates.take("me", settings, 1.0)


def test_settings_are_stored_with_the_key(tmp_path):
    ring = StoredKeys(tmp_path)
    pair = ring.create(settings=KeySettings(tier=2, sessions=3))
    ring.close()
    again = StoredKeys(tmp_path)
    assert again.find(pair.public_key).settings == KeySettings(tier=2, sessions=3)
    assert [row.settings.tier for row in again.list()] == [2]
    again.close()


def test_durations_are_told_in_their_largest_unit():
    assert [human_duration(value) for value in (5, 60, 7200, 86400)] == [
        "5 seconds",
        "1 minute",
        "2 hours",
        "1 day",
    ]


def test_un_keys_makes_a_key_with_limits(tmp_path):
    from tests.support import un

    made = json.loads(un("keys", "create", "--data", str(tmp_path), "--json", "--tier", "4", "--expires", "0",
                         "--rate", "9", "--otp").stdout)  # fmt: skip
    assert made["otp_uri"].startswith("otpauth://totp/")
    listed = json.loads(un("keys", "list", "--data", str(tmp_path), "--json").stdout)["keys"][0]
    assert (listed["tier"], listed["rate_per_minute"], listed["valid"]) == (4, 9, False)
    assert made["secret_key"] not in json.dumps(listed)
