"""Files encrypted as they are written: what comes back, and what is noticed."""

from __future__ import annotations

import io
import os

import pytest

from unsandbox.engine.saved.sealed_file import SealedReader, SealedWriter, new_key

CHUNK = 1 << 20
SEALED = CHUNK + 16


def seal(data: bytes, key: bytes, step: int = 300_000) -> bytes:
    file = io.BytesIO()
    writer = SealedWriter(file, key)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    writer.close()
    return file.getvalue()


def unseal(sealed: bytes, key: bytes, step: int = 70_000) -> bytes:
    reader = SealedReader(io.BytesIO(sealed), key)
    return b"".join(iter(lambda: reader.read(step), b""))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_what_was_written_comes_back(size):
    data, key = os.urandom(size), new_key()
    sealed = seal(data, key)
    assert unseal(sealed, key) == data
    assert size < 16 or data[:16] not in sealed


@pytest.mark.parametrize(
    "damage",
    [
        lambda sealed: sealed[:-1],
        lambda sealed: b"",
        lambda sealed: sealed[:SEALED],
        lambda sealed: sealed[: 2 * SEALED],
        lambda sealed: sealed[SEALED:],
        lambda sealed: sealed[SEALED : 2 * SEALED] + sealed[:SEALED] + sealed[2 * SEALED :],
        lambda sealed: sealed + b"more",
        lambda sealed: sealed + sealed[-SEALED:],
        lambda sealed: sealed[:1000] + bytes([sealed[1000] ^ 1]) + sealed[1001:],
    ],
)
def test_every_change_is_noticed(damage):
    key = new_key()
    sealed = seal(os.urandom(2 * CHUNK + 7), key)
    with pytest.raises(ValueError, match="changed"):
        unseal(damage(sealed), key)


def test_another_key_opens_nothing():
    with pytest.raises(ValueError, match="key"):
        unseal(seal(b"secret", new_key()), new_key())
