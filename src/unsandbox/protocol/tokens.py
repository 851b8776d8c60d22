"""A key pair as one text, for protocols whose clients send one secret: a bearer token, an E2B API key.

The text contains the secret key, which a signed request never does. Send it over TLS, or on one machine only.
"""

from __future__ import annotations

import binascii

_SEPARATOR = "."
_E2B_PREFIX = "e2b_"
_LONGEST = 2000


def bearer_token(public_key: str, secret_key: str) -> str:
    """Return a key pair as a bearer token (RFC 6750).

    Args:
        public_key: The public key.
        secret_key: The secret key.

    Example:
        >>> bearer_token("unsb-pk-1", "unsb-sk-2")
        'unsb-pk-1.unsb-sk-2'
    """
    return f"{public_key}{_SEPARATOR}{secret_key}"


def e2b_api_key(public_key: str, secret_key: str) -> str:
    """Return a key pair in the form that every version of E2B's clients accepts: `e2b_` and hex digits.

    Args:
        public_key: The public key.
        secret_key: The secret key.

    Example:
        >>> e2b_api_key("a", "b")
        'e2b_612e62'
    """
    return _E2B_PREFIX + bearer_token(public_key, secret_key).encode().hex()


def split_token(token: str) -> tuple[str, str] | None:
    """Return the key pair in a bearer token or an E2B API key; None if the text holds none.

    Args:
        token: The text.

    Example:
        >>> split_token("unsb-pk-1.unsb-sk-2"), split_token("e2b_612e62"), split_token("other")
        (('unsb-pk-1', 'unsb-sk-2'), ('a', 'b'), None)
    """
    token = token.strip()
    if len(token) > _LONGEST or not token.isascii():
        return None
    if token.startswith(_E2B_PREFIX):
        try:
            token = binascii.unhexlify(token.removeprefix(_E2B_PREFIX)).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            return None
    public_key, separator, secret_key = token.partition(_SEPARATOR)
    return (public_key, secret_key) if separator and public_key and secret_key else None
