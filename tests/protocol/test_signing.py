"""Signing: an independent HMAC agrees, the historical variants pass, nothing else does."""

import hashlib
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.protocol.strategies import surrogate_texts, texts

from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.signing import CLOCK_TOLERANCE_S, build_target, clock_skew, sign, signed_headers, verify

SECRET = "unsb-sk-aaaaa-bbbbb-ccccc-ddddd"
TIME = "1700000000"

targets = texts.map(lambda text: "/" + text)
received_targets = st.binary(max_size=40).map(lambda raw: "/" + raw.decode("utf-8", "surrogateescape"))
methods = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])


def hmac_by_hand(key: bytes, message: bytes) -> str:
    """RFC 2104, section 2, written out."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


@given(secret=texts, method=methods, target=targets, body=st.binary())
@example(secret="", method="GET", target="/", body=b"")
@example(secret="k" * 65, method="POST", target="/ä?ö=😀", body=b"{}")
def test_signature_is_hmac_sha256_of_the_four_parts(secret, method, target, body):
    expected = hmac_by_hand(secret.encode(), f"{TIME}:{method}:{target}:".encode() + body)
    assert sign(secret, TIME, method, target, body) == expected


@pytest.mark.parametrize(
    ("method", "target", "body", "signature"),
    [
        # printf '%s' "1700000000:METHOD:TARGET:BODY" | openssl dgst -sha256 -hmac unsb-sk-aaaaa-bbbbb-ccccc-ddddd
        ("GET", "/jobs", b"", "541580d036838594a38213dafd7294910e61e2b6663140587e8912d41356b646"),
        (
            "POST",
            "/execute",
            b'{"language":"python","code":"print(1)"}',
            "0a687a7b636796fcd3aca6a545bdc131a1c283c3b9ae711953439a9d450d1c7a",
        ),
    ],
)
def test_signature_is_that_of_openssl(method, target, body, signature):
    assert sign(SECRET, TIME, method, target, body) == signature


@given(method=methods, target=targets, body=st.binary())
def test_own_signature_is_right(method, target, body):
    assert verify(SECRET, TIME, method, target, body, sign(SECRET, TIME, method, target, body))


@given(method=methods, target=targets, body=st.binary(), other=st.binary())
def test_another_body_is_wrong(method, target, body, other):
    assume(body != other)
    signature = sign(SECRET, TIME, method, target, other)
    # The one exception in the protocol: `{}` may have been signed as nothing.
    assert verify(SECRET, TIME, method, target, body, signature) == (body == b"{}" and other == b"")


@given(method=methods, target=targets, other=targets)
def test_another_target_is_wrong(method, target, other):
    assume(target != other)
    signature = sign(SECRET, TIME, method, other)
    assert not verify(SECRET, TIME, method, target, b"", signature)


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("POST", "/sessions", "audit=1"),
        ("DELETE", "/sessions/s1", "audit=1"),
        ("GET", "/logs", "source=api&lines=5"),
        ("GET", "/logs/api/stream", "grep=x"),
        ("GET", "/images", "filter=owned"),
        ("GET", "/services/s1/env", "format=export"),
    ],
)
def test_a_query_may_be_unsigned_where_historical_clients_leave_it_out_and_nowhere_else(method, path, query):
    signature = sign(SECRET, TIME, method, path)
    assert verify(SECRET, TIME, method, f"{path}?{query}", b"", signature)
    for other_method, target in (
        (method, f"{path}?{query}&more=1"),
        (method, f"{path}/x?{query}" if "logs" not in path else f"/jobs?{query}"),
        ("PUT", f"{path}?{query}"),
    ):
        bare = sign(SECRET, TIME, other_method, target.partition("?")[0])
        assert not verify(SECRET, TIME, other_method, target, b"", bare)


@given(secret=texts, time=st.integers(0, 2**40).map(str))
def test_another_key_or_time_is_wrong(secret, time):
    signature = sign(SECRET, TIME, "GET", "/jobs")
    assert verify(secret, TIME, "GET", "/jobs", b"", signature) == (secret == SECRET)
    assert verify(SECRET, time, "GET", "/jobs", b"", signature) == (time == TIME)


@pytest.mark.parametrize("signed_target", ["/sessions?audit=1", "/sessions"])
@pytest.mark.parametrize("signed_body", [b"{}", b""])
def test_historical_variants_are_accepted_alone_and_together(signed_target, signed_body):
    """Wire document, 2.1: a query that was not signed, and `{}` that was signed as nothing."""
    signature = sign(SECRET, TIME, "POST", signed_target, signed_body)
    assert verify(SECRET, TIME, "POST", "/sessions?audit=1", b"{}", signature)


@pytest.mark.parametrize("body", [b"[]", b"null", b"{ }", b" {}", b"{}\n"])
def test_only_exactly_an_empty_object_may_be_signed_as_nothing(body):
    assert not verify(SECRET, TIME, "POST", "/x", body, sign(SECRET, TIME, "POST", "/x", b""))


def test_a_query_that_was_not_sent_is_wrong():
    assert not verify(SECRET, TIME, "GET", "/jobs", b"", sign(SECRET, TIME, "GET", "/jobs?limit=5"))


@given(target=received_targets, body=st.binary(), signature=st.text(), time=st.text())
def test_verify_answers_for_whatever_comes_over_the_wire(target, body, signature, time):
    """A server decodes header and request line with surrogateescape; neither may crash the check."""
    if clock_skew(time, 0.0) is not None:
        assert verify(SECRET, time, "GET", target, body, signature) is False
    assert verify(SECRET, TIME, "GET", target, body, signature) is False


@given(raw=st.binary(max_size=40))
def test_raw_bytes_of_a_request_line_are_signed_as_they_are(raw):
    expected = hmac_by_hand(SECRET.encode(), b"1700000000:GET:/" + raw + b":")
    assert verify(SECRET, TIME, "GET", "/" + raw.decode("utf-8", "surrogateescape"), b"", expected)


def test_headers_hold_the_public_key_and_never_the_secret_one():
    headers = signed_headers("unsb-pk-1", SECRET, 1700000000, "GET", "/jobs")
    assert headers == {
        "Authorization": "Bearer unsb-pk-1",
        "X-Timestamp": TIME,
        "X-Signature": sign(SECRET, TIME, "GET", "/jobs"),
    }
    assert SECRET not in str(headers)


@given(st.integers(0, 10**14), st.integers(-(10**6), 10**6))
def test_clock_skew_is_the_difference(time, skew):
    assert clock_skew(str(time), time - skew) == skew


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "+1", "-1", "1.5", "1e3", "0x1", "١٢٣", "1" * 16, "1\n", "nan"]
)
def test_clock_skew_of_what_is_no_time(text):
    assert clock_skew(text, 0.0) is None


@given(st.text())
def test_clock_skew_takes_any_text(text):
    skew = clock_skew(text, 0.0)
    assert skew is None or skew >= 0


def test_clock_tolerance_is_five_minutes():
    assert CLOCK_TOLERANCE_S == 300


@given(value=texts.filter(lambda text: text not in {"", ".", ".."}))
@example(value="a/b")
@example(value="../../etc/passwd")
@example(value="a?b#c%2F é😀\0\r\n")
def test_a_path_parameter_stays_one_segment_and_comes_back(value):
    target = build_target("/jobs/{id}/wait", {"id": value})
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target
    start, segment, end = target[1:].split("/")
    assert (start, end) == ("jobs", "wait")
    assert unquote(segment, errors="strict") == value


@given(query=st.dictionaries(texts, texts | st.integers() | st.booleans() | st.none(), max_size=4))
def test_a_query_comes_back(query):
    target = build_target("/jobs", {}, query)
    kept = {name: value for name, value in query.items() if value is not None}
    path, mark, encoded = target.partition("?")
    assert (path, bool(mark)) == ("/jobs", bool(kept))
    assert target.isascii()
    assert not set(encoded) & set(" #/?+")
    shown = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in kept.items()
    }
    assert dict(parse_qsl(encoded, keep_blank_values=True, strict_parsing=bool(encoded))) == shown


@pytest.mark.parametrize("params", [{}, {"id": ""}, {"id": "."}, {"id": ".."}])
def test_a_path_parameter_that_would_change_the_path_is_refused(params):
    with pytest.raises(InvalidRequestError, match="'id'"):
        build_target("/jobs/{id}", params)


@given(surrogate_texts)
def test_a_lone_surrogate_is_refused_with_our_error(text):
    with pytest.raises(InvalidRequestError):
        build_target("/jobs/{id}", {"id": text})
    with pytest.raises(InvalidRequestError):
        build_target("/jobs", {}, {"x": text})
    with pytest.raises(InvalidRequestError):
        build_target("/jobs", {}, {text: "x"})
