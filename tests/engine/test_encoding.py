"""Answers that are costly to encode: the same JSON as ever, made in steps and within a bound."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.engine import background, encoding
from unsandbox.engine.encoding import encode_answer, whole
from unsandbox.engine.jobs.results import ENCODED_BYTES, text_of
from unsandbox.engine.late_text import LateText
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol import codec
from unsandbox.protocol.models import EndedJobs, Job
from unsandbox.sandbox import Captured
from unsandbox.server.watchdog import LoopWatchdog

MIB = 1 << 20
TEXTS = st.text(alphabet='a"\\\n\x01é\U0001f600', max_size=30)


@given(
    st.lists(st.builds(Job, job_id=TEXTS, stdout=TEXTS, stderr=TEXTS, error=TEXTS), max_size=3),
    st.integers(1, 5),
)
def test_large_answers_are_the_same_json(jobs, step):
    answer = EndedJobs(jobs=jobs, count=len(jobs), unknown=["x"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "LARGE_BYTES", 5)
        patch.setattr(encoding, "_STEP", step)
        patch.setattr(background, "LARGE_BYTES", 5)
        assert whole(asyncio.run(encode_answer(answer))) == codec.encode(answer)


@pytest.mark.parametrize("unit", [b"\x01", b"\xff", b"\x01\xff", b'"\n', "é".encode(), b"a"])
def test_a_stream_takes_no_more_than_its_bound_in_json(unit):
    data = unit * (10 * MIB // len(unit))
    text, exact, dropped = text_of(Captured(data, len(data)))
    text, exact = as_text(text), exact and as_text(exact)
    encoded = len(json.dumps([text, exact], ensure_ascii=False).encode())
    assert encoded <= ENCODED_BYTES + 10 * MIB // 8
    kept = codec.encode_text(text)
    assert len(kept) <= ENCODED_BYTES
    assert dropped == (0 if encoded < ENCODED_BYTES - MIB else len(data) - len(exact_bytes(text, exact)))


def as_text(text: str) -> str:
    return "".join(text.pieces()) if isinstance(text, LateText) else text


@pytest.mark.parametrize("unit", [b"\xff", b"a\xe2\x82\xac\xf0\x9f\x98\x80\xff", b"\xe2\x82"])
@pytest.mark.parametrize("tail", [b"", b"\xe2\x82", "€".encode()])
def test_large_output_that_is_no_text_is_encoded_as_a_small_one_is(unit, tail):
    data = b"ab" + unit * (2 * MIB // len(unit)) + tail
    text, exact, dropped = text_of(Captured(data, len(data)))
    assert isinstance(text, LateText)
    assert isinstance(exact, LateText)
    job = Job(job_id="x", stdout=text, stdout_base64=exact)
    told = json.loads(whole(asyncio.run(encode_answer(job))))
    assert (told["stdout"], base64.b64decode(told["stdout_base64"]), dropped) == (
        data.decode("utf-8", "replace"),
        data,
        0,
    )
    # As a plain string it would be empty: whoever encodes it in another way is refused.
    with pytest.raises(InvalidRequestError):
        codec.encode(job)


def exact_bytes(text: str, exact: str | None) -> bytes:
    return text.encode() if exact is None else base64.b64decode(exact)


@given(st.binary(max_size=300), st.integers(1, 600))
def test_a_cut_stream_is_a_beginning_of_it(data, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unsandbox.engine.jobs.results._STEP", 7)
        text, exact, dropped = text_of(Captured(data, len(data)), most)
    kept = exact_bytes(text, exact)
    assert data.startswith(kept)
    assert len(kept) + dropped == len(data)


async def test_encoding_holds_no_loop():
    job = Job(job_id="j", stdout="\x01" * (6 * MIB), stderr="\x01" * (6 * MIB))
    with LoopWatchdog(on_stall=lambda _: None) as watchdog:
        encoded = await encode_answer(job)
    assert len(encoded) > 70 * MIB
    assert [stall for stall in watchdog.stalls if stall.cpu_s > 0.2] == []
