"""What crosses the wire: signatures, retries, errors, broken networks."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path

import pytest
from tests._async.conftest import AT_ONCE
from tests.client.aids_async import LIBRARY_ERROR, gather
from tests.client.fake import CUT, JOB, OURS, PUBLIC, SECRET, FakeServer, Hang, Raw, Request, reply

from unsandbox import (
    APIError,
    AsyncClient,
    AuthenticationError,
    ClientStateError,
    ConnectionFailedError,
    CredentialsError,
    InvalidRequestError,
    InvalidResponseError,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    UnavailableError,
)

TRUNCATED = Raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"status":')
CHUNKED_CUT = Raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"sta\r\n')


@pytest.mark.parametrize("job_id", ["plain", "ü/ö ?#&=%41+", "日本", "a'b(c)!*~"])
async def test_the_bytes_signed_are_the_bytes_sent(client: AsyncClient, fake: FakeServer, job_id: str) -> None:
    fake.routes(GET_jobs=reply(), DELETE_jobs=reply(), POST_execute=reply(), POST_keys=reply(200, {}))
    await client.get_job(job_id)
    await client.cancel(job_id)
    await client.list_jobs(limit=3)
    await client.execute("python", "print('é \\ \u2028 \U0001f600')", env={"Ä": "ß"}, stdin=None)
    await client.validate_keys()
    assert len(fake.requests) == 5
    for request in fake.requests:
        assert request.signature_is_right()
        assert request.headers["authorization"] == f"Bearer {PUBLIC}"
        assert abs(int(request.headers["x-timestamp"]) - time.time()) < 60
    assert fake.requests[2].target == "/jobs?limit=3"
    assert fake.requests[3].json()["code"] == "print('é \\ \u2028 \U0001f600')"
    assert fake.requests[4].body == b""
    assert fake.requests[4].headers["content-length"] == "0"


async def test_a_path_before_the_api_is_kept_and_signed(fake: FakeServer) -> None:
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url + "/some/where/") as client:
        await client.get_job("j1")
    assert fake.requests[0].target == "/some/where/jobs/j1"
    assert fake.requests[0].signature_is_right()


async def test_one_connection_serves_all_requests_one_after_another(
    client: AsyncClient, fake: FakeServer
) -> None:
    for _ in range(10):
        await client.execute("python", "print(1)")
    assert fake.connections == 1


async def test_unsigned_calls_need_no_keys_and_send_none(fake: FakeServer) -> None:
    fake.routes(GET_languages=reply(200, {"languages": ["python"]}), GET_health=reply(200, {"status": "ok"}))
    async with AsyncClient(base_url=fake.url) as client:
        assert (await client.languages()).languages == ["python"]
        assert (await client.health()).status == "ok"
        with pytest.raises(CredentialsError):
            await client.list_jobs()
    assert not any(
        name in request.headers for request in fake.requests for name in ("authorization", "x-signature")
    )


async def test_half_a_pair_of_keys_is_refused(fake: FakeServer) -> None:
    async with AsyncClient(PUBLIC, base_url=fake.url) as client:
        with pytest.raises(CredentialsError, match="secret_key"):
            await client.list_jobs()
    assert fake.requests == []


@pytest.mark.parametrize(
    "trouble", [reply(502), reply(503), reply(504), reply(429), CUT, TRUNCATED, CHUNKED_CUT]
)
async def test_what_may_pass_is_tried_again_under_the_same_key(
    client: AsyncClient, fake: FakeServer, trouble: Raw
) -> None:
    fake.script(reply(200, {}, OURS), trouble, trouble, reply())
    await client.health()
    assert (await client.execute("python", "print(1)")).stdout == "hi\n"
    attempts = fake.requests[1:]
    assert len(attempts) == 3
    assert len({request.headers["idempotency-key"] for request in attempts}) == 1
    assert all(request.signature_is_right() for request in attempts)


@pytest.mark.parametrize("trouble", [reply(502), reply(504), CUT, TRUNCATED])
@pytest.mark.parametrize("known", [False, True])
async def test_where_keys_are_not_honoured_nothing_is_run_twice(
    client: AsyncClient, fake: FakeServer, trouble: Raw, known: bool
) -> None:
    fake.routes(GET_health=reply(200, {}), POST_execute=trouble)
    if known:
        await client.health()
    with pytest.raises((ConnectionFailedError, APIError)):
        await client.execute("python", "print(1)")
    assert fake.seen().count("POST /execute") == 1


async def test_what_was_never_sent_is_known_to_be_so(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(CUT)
    with pytest.raises(ConnectionFailedError) as cut:
        await client.execute("python", "print(1)")
    assert cut.value.sent
    fake.close()
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=AT_ONCE) as other:
        with pytest.raises(ConnectionFailedError) as refused:
            await other.execute("python", "print(1)")
    assert not refused.value.sent


async def test_a_large_body_is_sent_without_a_warning(client: AsyncClient, fake: FakeServer) -> None:
    await client.execute("python", "#" * 3_000_000)
    assert fake.requests[0].signature_is_right()


async def test_each_execution_has_a_key_of_its_own(client: AsyncClient, fake: FakeServer) -> None:
    for _ in range(3):
        await client.execute("python", "print(1)")
        await client.submit("python", "print(1)")
    assert len({request.headers["idempotency-key"] for request in fake.requests}) == 6


async def test_every_attempt_is_signed_anew(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1_700_000_000.0, 1_700_000_100.0])

    def respond(_: Request) -> Raw:
        monkeypatch.setattr(time, "time", lambda: 1_700_000_100.0)
        return reply(503) if len(fake.requests) == 1 else reply()

    fake.respond = respond
    monkeypatch.setattr(time, "time", lambda: next(times))
    await client.execute("python", "print(1)")
    assert [request.headers["x-timestamp"] for request in fake.requests] == ["1700000000", "1700000100"]


async def test_retry_after_is_honoured(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(429, {"error": "rate"}, {"Retry-After": "0.2"}), reply())
    began = time.monotonic()
    await client.execute("python", "print(1)")
    assert time.monotonic() - began >= 0.2


async def test_a_long_retry_after_is_told_and_not_slept_through(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(429, {"error": "rate", "message": "slow down"}, {"Retry-After": "3600"}))
    with pytest.raises(RateLimitError, match="slow down") as caught:
        await client.execute("python", "print(1)")
    assert caught.value.retry_after == 3600
    assert caught.value.retryable
    assert len(fake.requests) == 1


async def test_when_retries_are_used_up_the_last_error_is_raised(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(503, {"error": "busy"}, {"X-Request-Id": "r-1"}))
    with pytest.raises(UnavailableError) as caught:
        await client.list_jobs()
    assert len(fake.requests) == 1 + AT_ONCE.max_retries
    assert isinstance(caught.value, LIBRARY_ERROR)
    assert caught.value.request_id == "r-1"


async def test_retries_can_be_turned_off(fake: FakeServer) -> None:
    fake.script(reply(503))
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, retry=RetryPolicy(max_retries=0)) as client:
        with pytest.raises(UnavailableError):
            await client.execute("python", "print(1)")
    assert len(fake.requests) == 1


async def test_other_errors_are_raised_at_once_in_the_servers_words(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.script(reply(400, {"error": "unknown_language", "message": "did you mean python?"}))
    with pytest.raises(APIError, match=r"did you mean python\?") as caught:
        await client.execute("pyton", "print(1)")
    assert (caught.value.status, caught.value.code) == (400, "unknown_language")
    assert len(fake.requests) == 1
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert isinstance(twin, LIBRARY_ERROR)
        assert isinstance(twin, APIError)
        assert (twin.status, str(twin)) == (400, str(caught.value))


async def test_a_clock_that_is_wrong_is_named(client: AsyncClient, fake: FakeServer) -> None:
    date = {"Date": "Wed, 01 Jan 2020 00:00:00 GMT"}
    fake.script(reply(401, {"error": "unauthorized", "message": "stale timestamp"}, date))
    with pytest.raises(AuthenticationError, match="clock is"):
        await client.list_jobs()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed_with_credentials(
    client: AsyncClient, fake: FakeServer, status: int
) -> None:
    fake.script(reply(status, b"", {"Location": f"{fake.url}/elsewhere?token=1"}))
    with pytest.raises(APIError, match="redirects to http://127") as caught:
        await client.list_jobs()
    assert "token" not in str(caught.value)
    assert fake.seen() == ["GET /jobs"]


async def test_no_cookie_is_kept(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(200, JOB, {"Set-Cookie": "a=b; Path=/"}))
    await client.get_job("j1")
    await client.get_job("j1")
    assert all("cookie" not in request.headers for request in fake.requests)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"null", b"7", b'"x"', b'{"stdout": 1', b'{"status":5}']
)
async def test_garbage_is_an_invalid_response(client: AsyncClient, fake: FakeServer, body: bytes) -> None:
    fake.script(reply(200, body))
    with pytest.raises(InvalidResponseError):
        await client.execute("python", "print(1)")
    with pytest.raises(ValueError, match="server"):
        await client.get_job("j1")


async def test_output_that_is_not_utf8_survives(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(200, b'{"job_id":"j","status":"completed","stdout":"\xe9\\u0000"}'))
    assert (await client.execute("python", "print(1)")).stdout == "\udce9\0"


async def test_a_refused_connection_names_the_place(client: AsyncClient, fake: FakeServer) -> None:
    fake.close()
    with pytest.raises(ConnectionFailedError, match=r"GET http://127\.0\.0\.1:\d+/jobs: ") as caught:
        await client.list_jobs(limit=7)
    assert isinstance(caught.value, LIBRARY_ERROR)
    assert "limit=7" not in str(caught.value)


async def test_a_connection_that_went_stale_is_replaced(client: AsyncClient, fake: FakeServer) -> None:
    fake.script(reply(headers=OURS, close=True))
    for _ in range(5):
        assert (await client.execute("python", "print(1)")).stdout == "hi\n"
    assert fake.connections == 5


async def test_a_silent_server_is_given_up_after_the_http_timeout(fake: FakeServer) -> None:
    fake.script(Hang())
    policy = RetryPolicy(max_retries=0)
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url, timeout=0.2, retry=policy) as client:
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"0\.2 s") as caught:
            await client.list_jobs()
        assert 0.15 < time.monotonic() - began < 5
    assert isinstance(caught.value, LIBRARY_ERROR)
    assert isinstance(caught.value, TimeoutError)


async def test_waiting_for_a_connection_is_not_http_time(fake: FakeServer) -> None:
    def slowly(_: Request) -> Raw:
        time.sleep(0.1)
        return reply()

    fake.respond = slowly
    options = {"base_url": fake.url, "retry": RetryPolicy(max_retries=0)}
    async with AsyncClient(PUBLIC, SECRET, timeout=0.6, max_connections=2, **options) as client:
        # Ten rounds of 0.1 s each: far more than the HTTP timeout for those that wait longest.
        jobs = await gather(*(lambda: client.execute("python", "print(1)") for _ in range(20)))
    assert len(jobs) == 20
    assert fake.connections <= 2


async def test_a_closed_client_says_so(fake: FakeServer) -> None:
    client = AsyncClient(PUBLIC, SECRET, base_url=fake.url)
    async with client:
        await client.list_jobs()
    await client.close()
    with pytest.raises(ClientStateError, match="closed"):
        await client.list_jobs()
    with pytest.raises(RuntimeError):
        await client.__aenter__()


async def test_proxy_of_the_environment_is_used(
    client: AsyncClient, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", fake.url)
    async with AsyncClient(PUBLIC, SECRET, base_url="http://api.example:81") as proxied:
        await proxied.get_job("ü/1")
    assert fake.requests[0].target == "http://api.example:81/jobs/%C3%BC%2F1"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with AsyncClient(PUBLIC, SECRET, base_url=fake.url) as direct:
        await direct.get_job("j1")
    assert fake.requests[1].target == "/jobs/j1"


async def test_a_proxy_that_cannot_be_used_is_not_gone_around(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:pass@127.0.0.1:1")
    async with AsyncClient(PUBLIC, SECRET, base_url="http://api.example") as client:
        with pytest.raises(InvalidRequestError, match="socks5") as caught:
            await client.get_job("j1")
    assert "pass" not in str(caught.value)


async def test_a_missing_ca_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    async with AsyncClient(PUBLIC, SECRET, base_url="https://127.0.0.1:9") as client:
        with pytest.raises(InvalidRequestError, match="SSL_CERT_FILE"):
            await client.get_job("j1")


@pytest.mark.parametrize(
    "base",
    ["ftp://x", "example.org", "http://", "http://u:p4ss@h", "http://h?x=1", "http://h:port", "http://ü"],
)
async def test_a_base_url_that_cannot_be_used_is_refused_and_not_shown(base: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        AsyncClient(PUBLIC, SECRET, base_url=base)
    assert "p4ss" not in str(caught.value)


async def test_neither_keys_nor_code_are_in_errors_or_texts(client: AsyncClient, fake: FakeServer) -> None:
    code = "print('my private code')"
    texts = [repr(client), str(client)]
    for answer in (reply(400, {"error": "bad"}), reply(200, b"nonsense"), CUT):
        fake.script(answer)
        try:
            await client.execute("python", code, env={"A": "private value"}, stdin=None)
        except (APIError, InvalidResponseError, ConnectionFailedError) as error:
            chain: BaseException | None = error
            while chain is not None:
                texts += [str(chain), repr(chain)]
                chain = chain.__cause__ or chain.__context__
    assert len(texts) > 6
    for text in texts:
        assert not any(secret in text for secret in (SECRET, PUBLIC, "my private", "private value"))


async def test_neither_keys_nor_code_are_logged(
    client: AsyncClient, fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    fake.script(reply(503, headers=OURS), CUT, reply())
    await client.execute("python", "print('my private code')", env={"A": "private value"})
    for secret in (SECRET, PUBLIC, "my private", "private value"):
        assert secret not in caplog.text


async def test_features_are_learnt_from_answers(client: AsyncClient, fake: FakeServer) -> None:
    fake.routes(GET_health=reply(200, {}, OURS), POST_execute=reply())
    await client.execute("cat", "x", stdin="data")
    await client.execute("cat", "x", stdin=b"\xff")
    assert fake.seen() == ["GET /health", "POST /execute", "POST /execute"]
    assert fake.requests[1].json()["stdin"] == "data"
    assert fake.requests[2].json()["stdin_base64"] == "/w=="


async def test_standard_input_is_refused_where_the_server_has_none(
    client: AsyncClient, fake: FakeServer
) -> None:
    fake.routes(GET_health=reply(200, {}))
    with pytest.raises(InvalidRequestError, match="input file"):
        await client.execute("cat", "x", stdin="data")
