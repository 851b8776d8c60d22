"""Attacks on what a server shows, on one real `un serve`."""

from __future__ import annotations

import pytest
from tests.abuse import served


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_succeeds():
    rows = served.all_rows()
    assert {row.name: row.gained for row in rows if row.gained} == {}
    assert len(rows) > 380
    assert len({row.name for row in rows}) == len(rows)
