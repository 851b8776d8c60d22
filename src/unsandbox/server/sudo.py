"""One-time codes for calls that delete or unlock (wire document, 4.2): TOTP, RFC 6238."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pyotp

from unsandbox.engine import LimitReached
from unsandbox.protocol.endpoints.jobs import CHALLENGE_HEADER, OTP_HEADER

_CHALLENGE_S = 300.0
_TRIES = 5
_STEP_S = 30
_WRONG_WINDOW_S = 900
_MOST_WRONG = 10
"""Wrong codes of one key in a window, over all its challenges: three of a million codes are right at a time."""
_MOST_OPEN = 50
"""Maximum number of open challenges of one key; the oldest are dropped first."""


class SudoNeeded(Exception):  # noqa: N818 - answered with 428, it is a question rather than an error
    """A code is needed, or the one given is not right.

    Attributes:
        challenge_id: To be sent back beside the code.
        message: For people.
    """

    def __init__(self, challenge_id: str, message: str) -> None:
        super().__init__(message)
        self.challenge_id = challenge_id
        self.message = message


@dataclass(slots=True)
class _Challenge:
    owner: str
    call: str
    expires: float
    tries_left: int = _TRIES


class Sudo:
    """Hands out challenges and checks codes. A challenge is good for one call, a code for one use."""

    def __init__(self) -> None:
        self._challenges: dict[str, _Challenge] = {}
        self._used: dict[tuple[str, str], float] = {}
        self._wrong: dict[str, int] = {}
        self._wrong_until = 0.0

    def check(self, owner: str, otp_secret: str, call: str, headers: Mapping[str, str]) -> None:
        """Let a protected call pass.

        Args:
            owner: The key that signed.
            otp_secret: Secret of its codes, base32.
            call: Method and path; a challenge is bound to them.
            headers: Headers of the request.

        Raises:
            LimitReached: There were too many wrong codes lately.
            SudoNeeded: The code is missing, wrong, used, or belongs to another call.
        """
        now = time.time()
        self._forget_old(now)
        wrong = self._wrong.get(owner, 0)
        if wrong >= _MOST_WRONG:
            raise LimitReached(
                "too many wrong one-time codes for this key; retry in 15 minutes",
                code="too_many_codes",
                retry_after=_WRONG_WINDOW_S,
            )
        code = headers.get(OTP_HEADER, "").strip()
        name = headers.get(CHALLENGE_HEADER, "").strip()
        challenge = self._challenges.get(name)
        if not code or challenge is None or (challenge.owner, challenge.call) != (owner, call):
            raise self._new(owner, call, now, "a one-time code is required; repeat the call with the code")
        right = code.isascii() and pyotp.TOTP(otp_secret).verify(code, valid_window=1)
        if right and (owner, code) not in self._used:
            del self._challenges[name]
            self._used[owner, code] = now + 4 * _STEP_S
            return
        self._wrong[owner] = wrong + 1
        challenge.tries_left -= 1
        if challenge.tries_left <= 0:
            del self._challenges[name]
            raise self._new(owner, call, now, "too many wrong codes; use the new challenge")
        raise SudoNeeded(name, "the one-time code is wrong or was used before")

    def _new(self, owner: str, call: str, now: float, message: str) -> SudoNeeded:
        mine = [known for known, item in self._challenges.items() if item.owner == owner]
        for oldest in mine[: max(0, len(mine) - _MOST_OPEN + 1)]:
            del self._challenges[oldest]
        name = "chal_" + secrets.token_hex(12)
        self._challenges[name] = _Challenge(owner, call, now + _CHALLENGE_S)
        return SudoNeeded(name, message)

    def _forget_old(self, now: float) -> None:
        if now >= self._wrong_until:
            # One window for all keys: the count is a brake on guessing and need not be exact.
            self._wrong, self._wrong_until = {}, now + _WRONG_WINDOW_S
        self._challenges = {name: item for name, item in self._challenges.items() if item.expires > now}
        self._used = {pair: expires for pair, expires in self._used.items() if expires > now}
