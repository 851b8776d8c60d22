# Generated from tests/_async/test_one_time_codes.py by scripts/unasync.py; change that one.
# ruff: noqa: SIM117 - what `async with` kept apart
"""Protected calls against a real server whose key has one-time codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyotp
import pytest
from tests._sync.conftest import new_key
from tests.client.aids_sync import LIBRARY_ERROR, answering
from tests.support import Serve

import un
from unsandbox import Client, NotFoundError, SudoRequiredError


@pytest.fixture
def key(served: Serve) -> dict[str, str]:
    """A new key that needs codes."""
    secret = pyotp.random_base32()
    public, private = new_key(served, secret)
    return {"public_key": public, "secret_key": private, "otp_secret": secret}


@pytest.fixture
def client(served: Serve, key: dict[str, str]) -> Iterator[Client]:
    """A client with that key."""
    with Client(key["public_key"], key["secret_key"], base_url=served.url) as made:
        yield made


def code(key: dict[str, str]) -> str:
    return pyotp.TOTP(key["otp_secret"]).now()


def wrong(key: dict[str, str]) -> str:
    return f"{(int(code(key)) + 1) % 1_000_000:06d}"


# The code is asked for before the session is looked up: whoever gets a 404 gave the right one.


def test_a_code_as_text(client: Client, key: dict[str, str]) -> None:
    with pytest.raises(NotFoundError):
        client.delete_session("none", otp=code(key))


def test_a_code_that_is_asked_for(client: Client, key: dict[str, str]) -> None:
    asked: list[str] = []

    def answer(challenge_id: str) -> str:
        asked.append(challenge_id)
        return f" {code(key)}\n"

    with pytest.raises(NotFoundError):
        client.delete_session("none", otp=answer)
    assert len(asked) == 1
    assert asked[0].startswith("chal_")


def test_somebody_who_types_may_get_it_wrong(client: Client, key: dict[str, str]) -> None:
    with pytest.raises(NotFoundError):
        client.delete_session("none", otp=answering(wrong(key), wrong(key), code(key)))


def test_but_not_for_ever(client: Client, key: dict[str, str]) -> None:
    answer = answering(*[wrong(key)] * 9)
    with pytest.raises(SudoRequiredError) as refused:
        client.delete_session("none", otp=answer)
    assert refused.value.challenge_id
    assert answer.left == 6


def test_without_a_code_the_error_holds_the_challenge(client: Client, key: dict[str, str]) -> None:
    with pytest.raises(SudoRequiredError) as refused:
        client.transfer_image("none", "unsb-pk-x")
    assert refused.value.status == 428
    assert refused.value.challenge_id.startswith("chal_")
    for given in ("", None, wrong(key)):
        with pytest.raises(SudoRequiredError):
            client.delete_service("none", otp=answering(given, None))


def test_the_client_may_know_how_to_ask(served: Serve, key: dict[str, str]) -> None:
    pair = (key["public_key"], key["secret_key"])
    with Client(*pair, base_url=served.url, otp=answering(code(key))) as client:
        with pytest.raises(NotFoundError):
            client.delete_session("none")


def test_functions_take_codes_too(served: Serve, key: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un, "API_BASE", served.url)
    pair: Any = (key["public_key"], key["secret_key"])
    with pytest.raises(LIBRARY_ERROR, match="404"):
        un.delete_session("none", *pair, otp=answering(code(key)))
    with pytest.raises(LIBRARY_ERROR, match="428"):
        un.delete_session("none", *pair)
