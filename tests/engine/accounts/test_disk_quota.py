"""The disk that a key may take when nothing is set for it."""

from __future__ import annotations

import pytest

from unsandbox.engine import EngineConfig
from unsandbox.engine.accounts.quotas import Quotas, Reservation
from unsandbox.engine.errors import InsufficientStorage
from unsandbox.engine.store.memory import MemoryStore
from unsandbox.sandbox.spec import GIB


def test_a_key_without_settings_has_a_bound_on_its_disks():
    quotas, held = Quotas(EngineConfig(), MemoryStore()), 0
    quotas.holders.append(lambda owner: Reservation(disk=held) if owner == "me" else Reservation())
    for _ in range(32):
        with quotas.making("session", "me", Reservation(disk=2 * GIB)):
            held += 2 * GIB
            quotas.check_room("me", Reservation())
    with pytest.raises(InsufficientStorage, match="delete one"):
        quotas.check_room("me", Reservation(disk=1))
    quotas.check_room("me", Reservation(memory=GIB))
    quotas.check_room("another", Reservation(disk=2 * GIB))
