"""Token buckets, and the rates of keys that are made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.engine import LimitReached
from unsandbox.engine.accounts.keys import KeySettings
from unsandbox.engine.token_bucket import TokenBucket
from unsandbox.server import rate
from unsandbox.server.rate import Rates

SETTINGS = KeySettings(rate_per_minute=60, burst=2)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 5)), max_size=50))
def test_no_more_is_taken_than_capacity_and_rate_allow(steps):
    bucket, now, taken = TokenBucket(10, 2, now=0.0), 0.0, 0
    for pause_s, tokens in steps:
        now += pause_s
        if bucket.wait_s(tokens, now) == 0:
            bucket.take(tokens, now)
            taken += tokens
        assert taken <= 10 + 2 * now + 1e-6


def test_a_debt_is_waited_for():
    bucket = TokenBucket(10, 2, now=0.0)
    bucket.take(30, now=0.0)
    assert bucket.wait_s(0, now=0.0) == 10.0
    assert bucket.wait_s(0, now=10.0) == 0.0
    assert not bucket.is_full(now=10.0)
    assert bucket.is_full(now=15.0)


def test_a_crowd_of_keys_does_not_refill_the_bucket_of_another(monkeypatch):
    monkeypatch.setattr(rate, "_SWEEP_ABOVE", 100)
    rates = Rates()
    for _ in range(2):
        rates.take("me", SETTINGS, 0.0)
    for number in range(1000):
        rates.take(f"other {number}", SETTINGS, number * 0.0005)
    with pytest.raises(LimitReached):
        rates.take("me", SETTINGS, 0.5)


def test_full_buckets_are_dropped(monkeypatch):
    monkeypatch.setattr(rate, "_SWEEP_ABOVE", 100)
    rates = Rates()
    for number in range(1000):
        rates.take(str(number), SETTINGS, number * 10.0)
    assert len(rates) <= 101
