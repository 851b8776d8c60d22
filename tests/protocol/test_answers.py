"""Answers: a success is an object, an error status is the right class, and nothing a server sends crashes us."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.protocol.strategies import json_objects, json_values

from unsandbox.errors import APIError, InvalidResponseError, UnsandboxError
from unsandbox.protocol.answers import api_error, read_object

STATUSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "APIError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "PayloadTooLargeError",
    418: "APIError",
    426: "APIError",
    428: "SudoRequiredError",
    429: "RateLimitError",
    499: "APIError",
    500: "ServerError",
    501: "ServerError",
    502: "UnavailableError",
    503: "UnavailableError",
    504: "UnavailableError",
    599: "ServerError",
    302: "APIError",
    101: "APIError",
}


@pytest.mark.parametrize(("status", "name"), STATUSES.items())
def test_status_to_class(status, name):
    headers = {"X-Request-Id": "r-1", "Retry-After": "3"}
    body = b'{"error":"short_code","message":"for people","extra":1}'
    with pytest.raises(APIError) as caught:
        read_object(status, headers, body, 0.0)
    error = caught.value
    assert type(error).__name__ == name
    assert (error.status, error.code, error.server_message) == (status, "short_code", "for people")
    assert (error.request_id, error.retry_after) == ("r-1", 3.0)
    assert error.body == json.loads(body)
    assert error.retryable == (status in {429, 502, 503, 504})
    assert str(error).startswith(str(status))
    assert "for people" in str(error)
    assert "short_code" in str(error)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "502 Bad Gateway"),
        (b'{"error":"busy"}', "502 Bad Gateway: busy"),
        (b'{"message":"later"}', "502 Bad Gateway: later"),
        (b'{"error":"same","message":"same"}', "502 Bad Gateway: same"),
        (b'{"error":{"no":"text"},"message":7}', "502 Bad Gateway"),
        (b"<h1>nginx</h1>\n", "502 Bad Gateway: <h1>nginx</h1>"),
        (b'"just text"', "502 Bad Gateway: just text"),
        (b"[1]", "502 Bad Gateway"),
        (b"\xff\xfe", "502 Bad Gateway: \ufffd\ufffd"),
        (b'{"message":"caf\xe9"}', "502 Bad Gateway: caf?"),
    ],
)
def test_the_servers_words_are_shown(body, text):
    assert str(api_error(502, {}, body, 0.0)) == text


def test_a_long_page_is_cut_in_the_message_and_kept_in_the_body():
    error = api_error(500, {}, b"x" * 10_000, 0.0)
    assert len(str(error)) < 400
    assert error.body == "x" * 10_000


@given(json_objects)
def test_a_success_is_its_object(value):
    assert read_object(200, {}, json.dumps(value).encode(), 0.0) == value


@given(st.lists(json_values, max_size=4))
def test_a_bare_list_is_taken(value):
    answer = read_object(200, {}, json.dumps(value).encode(), 0.0)
    assert answer == {"languages": value, "jobs": value, "count": len(value)}


@pytest.mark.parametrize(
    "body", [b"", b"null", b"1", b'"x"', b"true", b"<html>", b'{"a":', b"\xff", b"[" * 100_000]
)
def test_a_success_that_is_no_object_is_an_invalid_answer(body):
    with pytest.raises(InvalidResponseError) as caught:
        read_object(200, {}, body, 0.0)
    assert isinstance(caught.value, ValueError)


headers = st.dictionaries(
    st.sampled_from(["Retry-After", "X-Request-Id", "Content-Type"]), st.text(), max_size=3
)


@given(st.integers(0, 1200), headers, st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@example(500, {}, b"[" * 100_000)
@example(200, {}, b'{"a":"\xe9"}')
def test_any_answer_is_an_object_or_one_of_our_errors(status, headers, body):
    try:
        assert isinstance(read_object(status, headers, body, 0.0), dict)
    except UnsandboxError as error:
        assert str(error).encode(), "the message can be printed"
