"""The decision to send again, as a table and as properties; `Retry-After`; the polling schedule."""

import email.utils
from itertools import islice, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unsandbox.protocol.polling import POLL_DELAYS_MS, poll_delays
from unsandbox.protocol.retry import Attempt, RetryPolicy, parse_retry_after, retry_delay

POLICY = RetryPolicy(max_retries=3, base_s=1.0, cap_s=8.0, retry_after_cap_s=60.0)

NO_ANSWER = None
SAFE, UNSAFE = ("GET", "HEAD", "PUT", "DELETE"), ("POST", "PATCH")


def again(method, status, *, key=False):
    return (
        retry_delay(Attempt(method, 1, status=status, has_idempotency_key=key), POLICY, jitter=0.5) is not None
    )


@pytest.mark.parametrize("status", [NO_ANSWER, 429, 502, 503, 504])
def test_failures_that_may_pass_are_repeated(status):
    for method in SAFE:
        assert again(method, status)
    for method in UNSAFE:
        assert again(method, status, key=True)
        # Without a key only where the server said that it did not act.
        assert again(method, status) == (status in {429, 503})


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 403, 404, 409, 413, 428, 500, 501, 505, 599])
def test_other_answers_are_not_repeated(status):
    assert not any(again(method, status, key=True) for method in SAFE + UNSAFE)


@pytest.mark.parametrize(
    ("number", "jitter", "delay"),
    [
        (1, 0.0, 0.5),
        (1, 0.5, 0.75),
        (2, 0.0, 1.0),
        (3, 0.0, 2.0),
        (3, 0.5, 3.0),
        (4, 0.0, None),
        (5, 0.0, None),
    ],
)
def test_delays_double_until_the_retries_are_used_up(number, jitter, delay):
    assert retry_delay(Attempt("GET", number, status=503), POLICY, jitter) == delay


@pytest.mark.parametrize(
    ("retry_after", "remaining", "delay"),
    [(2.0, None, 2.0), (0.0, None, 0.0), (60.0, None, 60.0), (60.1, None, None), (2.0, 2.1, 2.0), (2.0, 2.0, None),
     (None, 0.6, 0.5), (None, 0.5, None), (None, 0.0, None)],
)  # fmt: skip
def test_what_the_server_asks_and_the_deadline(retry_after, remaining, delay):
    attempt = Attempt("GET", 1, status=429, retry_after_s=retry_after, remaining_s=remaining)
    assert retry_delay(attempt, POLICY, jitter=0.0) == delay


def test_no_retries_means_none():
    assert retry_delay(Attempt("GET", 1), RetryPolicy(max_retries=0), jitter=0.0) is None


seconds = st.floats(0, 1e6)


@given(
    method=st.sampled_from(SAFE + UNSAFE),
    number=st.integers(1, 5000),
    status=st.none() | st.integers(100, 599),
    key=st.booleans(),
    retry_after=st.none() | seconds,
    remaining=st.none() | seconds,
    policy=st.builds(
        RetryPolicy,
        max_retries=st.integers(0, 5000),
        base_s=st.floats(0.001, 10),
        cap_s=st.floats(0.001, 100),
        retry_after_cap_s=seconds,
    ),
    jitter=st.floats(0, 1, exclude_max=True),
)
@example("GET", 5000, 503, True, None, None, RetryPolicy(max_retries=5000), 0.5)
def test_every_delay_is_within_its_bounds(method, number, status, key, retry_after, remaining, policy, jitter):
    delay = retry_delay(Attempt(method, number, status, key, retry_after, remaining), policy, jitter)
    if delay is None:
        return
    assert number <= policy.max_retries
    assert status in {None, 429, 502, 503, 504}
    assert method in SAFE or key or status in {429, 503}
    assert remaining is None or delay < remaining
    if retry_after is None:
        assert 0 < delay <= policy.cap_s
        assert delay <= policy.base_s * 2.0 ** min(number - 1, 100)
    else:
        assert delay == retry_after <= policy.retry_after_cap_s


@given(st.floats(0, 1, exclude_max=True))
def test_delays_never_shrink_for_the_same_jitter(jitter):
    policy = RetryPolicy(max_retries=20)
    delays = [retry_delay(Attempt("GET", number), policy, jitter) for number in range(1, 21)]
    assert all(earlier <= later for earlier, later in pairwise(delays))


@pytest.mark.parametrize(
    ("text", "delay"),
    [("0", 0.0), ("1.5", 1.5), (" 7 ", 7.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
     ("Sun, 06 Nov 1994 08:48:00 GMT", 0.0), ("", None), ("-1", None), ("nan", None), ("inf", None), ("1e999", None),
     ("soon", None), ("\u0663", None), ("1;2", None), ("Sun, 99 Nov 1994 08:49:37 GMT", None)],
)  # fmt: skip
def test_retry_after(text, delay):
    assert parse_retry_after({"Retry-After": text}, now=784111740.0) == delay


def test_no_retry_after():
    assert parse_retry_after({}, now=0.0) is None


@given(st.text() | st.text("0123456789:,-+ JanFebGMTSun", max_size=40), st.floats(0, 4e9))
@example("Mon, 01 Jan 0001 00:00:00 -0000", 0.0)
@example("Mon, 01 Jan 0001 00:00:00", 0.0)
@example("Mon, 01 Jan 99999 00:00:00 GMT", 0.0)
@example("1" * 5000, 0.0)
def test_retry_after_of_any_text(text, now):
    delay = parse_retry_after({"Retry-After": text}, now)
    assert delay is None or 0 <= delay < float("inf")


@given(st.integers(0, 4_000_000_000), st.integers(-1000, 1000))
def test_retry_after_as_a_date(now, ahead):
    date = email.utils.formatdate(max(0, now + ahead), usegmt=True)
    assert parse_retry_after({"Retry-After": date}, float(now)) == max(0, max(0, now + ahead) - now)


def test_polls_as_every_client_does():
    """Wire document, 6.2: 300 ms first, then up to 2 s for ever."""
    delays = list(islice(poll_delays(), 20))
    assert [round(delay * 1000) for delay in delays] == [*POLL_DELAYS_MS, *[2000] * 13]
    assert POLL_DELAYS_MS == (300, 450, 700, 900, 650, 1600, 2000)
    assert round(sum(delays[:6]) * 1000) == 4600


def test_what_was_never_sent_may_be_sent_again_whatever_it_is():
    assert retry_delay(Attempt("POST", 1, sent=False), RetryPolicy(), 0.5) is not None
    assert retry_delay(Attempt("POST", 1, sent=True), RetryPolicy(), 0.5) is None
