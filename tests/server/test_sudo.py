"""One-time codes: a challenge is good for one call of one key, a code for one use."""

from __future__ import annotations

import pyotp
import pytest

from unsandbox.engine import LimitReached
from unsandbox.protocol.endpoints.jobs import CHALLENGE_HEADER, OTP_HEADER
from unsandbox.server.sudo import Sudo, SudoNeeded

SECRET = pyotp.random_base32()
CALL = "DELETE /sessions/1"


def challenge(sudo: Sudo, owner: str = "me", call: str = CALL) -> str:
    with pytest.raises(SudoNeeded) as needed:
        sudo.check(owner, SECRET, call, {})
    return needed.value.challenge_id


def answer(name: str, code: str | None = None) -> dict[str, str]:
    return {CHALLENGE_HEADER: name, OTP_HEADER: pyotp.TOTP(SECRET).now() if code is None else code}


def test_the_right_code_passes_once():
    sudo = Sudo()
    headers = answer(challenge(sudo))
    sudo.check("me", SECRET, CALL, headers)
    with pytest.raises(SudoNeeded):
        sudo.check("me", SECRET, CALL, headers)
    with pytest.raises(SudoNeeded, match="used before"):
        sudo.check("me", SECRET, CALL, answer(challenge(sudo), headers[OTP_HEADER]))


@pytest.mark.parametrize(("owner", "call"), [("you", CALL), ("me", "DELETE /sessions/2")])
def test_a_challenge_is_bound_to_its_key_and_call(owner, call):
    sudo = Sudo()
    headers = answer(challenge(sudo))
    with pytest.raises(SudoNeeded):
        sudo.check(owner, SECRET, call, headers)
    sudo.check("me", SECRET, CALL, headers)


@pytest.mark.parametrize("code", ["000000x", "é", "\uff11\uff12\uff13\uff14\uff15\uff16", ""])
def test_what_is_no_code_is_refused(code):
    sudo = Sudo()
    with pytest.raises(SudoNeeded):
        sudo.check("me", SECRET, CALL, answer(challenge(sudo), code))


def test_guessing_ends_after_five_tries():
    sudo = Sudo()
    name = challenge(sudo)
    wrong = f"{(int(pyotp.TOTP(SECRET).now()) + 1) % 1_000_000:06d}"
    names = []
    for _ in range(5):
        with pytest.raises(SudoNeeded) as needed:
            sudo.check("me", SECRET, CALL, answer(name, wrong))
        names.append(needed.value.challenge_id)
    assert names[:4] == [name] * 4
    assert names[4] != name
    with pytest.raises(SudoNeeded):
        sudo.check("me", SECRET, CALL, answer(name))


def test_wrong_codes_are_counted_over_all_challenges_of_a_key():
    sudo = Sudo()
    for _ in range(10):
        name = challenge(sudo)
        with pytest.raises(SudoNeeded):
            sudo.check("me", SECRET, CALL, answer(name, "000000"))
    with pytest.raises(LimitReached):
        sudo.check("me", SECRET, CALL, answer(name))
    other = challenge(sudo, owner="you")
    sudo.check("you", SECRET, CALL, answer(other))


def test_open_challenges_of_a_key_are_few():
    sudo = Sudo()
    names = [challenge(sudo) for _ in range(60)]
    with pytest.raises(SudoNeeded):
        sudo.check("me", SECRET, CALL, answer(names[0]))
    sudo.check("me", SECRET, CALL, answer(names[-1]))
