"""Protected calls against a real server whose key has one-time codes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyotp
import pytest
from tests import support
from tests.client.aids_async import LIBRARY_ERROR, answering

import un_async
from unsandbox import AsyncClient, NotFoundError, SudoRequiredError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Serve]:
    """A real server with a data folder, in which keys can be made."""
    with support.Serve(tmp_path_factory.mktemp("data")) as served:
        yield served


@pytest.fixture
def key(server: support.Serve) -> dict[str, str]:
    """A new key that needs codes."""
    made: dict[str, str] = json.loads(
        support.un("keys", "create", "--data", str(server.data), "--otp", "--json").stdout
    )
    return made


@pytest.fixture
async def client(server: support.Serve, key: dict[str, str]) -> AsyncIterator[AsyncClient]:
    """A client with that key."""
    async with AsyncClient(key["public_key"], key["secret_key"], base_url=server.url) as made:
        yield made


def code(key: dict[str, str]) -> str:
    return pyotp.TOTP(key["otp_secret"]).now()


def wrong(key: dict[str, str]) -> str:
    return f"{(int(code(key)) + 1) % 1_000_000:06d}"


# The code is asked for before the session is looked up: whoever gets a 404 gave the right one.


async def test_a_code_as_text(client: AsyncClient, key: dict[str, str]) -> None:
    with pytest.raises(NotFoundError):
        await client.delete_session("none", otp=code(key))


async def test_a_code_that_is_asked_for(client: AsyncClient, key: dict[str, str]) -> None:
    asked: list[str] = []

    def answer(challenge_id: str) -> str:
        asked.append(challenge_id)
        return f" {code(key)}\n"

    with pytest.raises(NotFoundError):
        await client.delete_session("none", otp=answer)
    assert len(asked) == 1
    assert asked[0].startswith("chal_")


async def test_somebody_who_types_may_get_it_wrong(client: AsyncClient, key: dict[str, str]) -> None:
    with pytest.raises(NotFoundError):
        await client.delete_session("none", otp=answering(wrong(key), wrong(key), code(key)))


async def test_but_not_for_ever(client: AsyncClient, key: dict[str, str]) -> None:
    answer = answering(*[wrong(key)] * 9)
    with pytest.raises(SudoRequiredError) as refused:
        await client.delete_session("none", otp=answer)
    assert refused.value.challenge_id
    assert answer.left == 6


async def test_without_a_code_the_error_holds_the_challenge(client: AsyncClient, key: dict[str, str]) -> None:
    with pytest.raises(SudoRequiredError) as refused:
        await client.transfer_image("none", "unsb-pk-x")
    assert refused.value.status == 428
    assert refused.value.challenge_id.startswith("chal_")
    for given in ("", None, wrong(key)):
        with pytest.raises(SudoRequiredError):
            await client.delete_service("none", otp=answering(given, None))


async def test_the_client_may_know_how_to_ask(server: support.Serve, key: dict[str, str]) -> None:
    pair = (key["public_key"], key["secret_key"])
    async with AsyncClient(*pair, base_url=server.url, otp=answering(code(key))) as client:
        with pytest.raises(NotFoundError):
            await client.delete_session("none")


async def test_functions_take_codes_too(
    server: support.Serve, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(un_async, "API_BASE", server.url)
    pair: Any = (key["public_key"], key["secret_key"])
    with pytest.raises(LIBRARY_ERROR, match="404"):
        await un_async.delete_session("none", *pair, otp=answering(code(key)))
    with pytest.raises(LIBRARY_ERROR, match="428"):
        await un_async.delete_session("none", *pair)
