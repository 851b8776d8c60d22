"""Which of gVisor's tests are slow."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run on bubblewrap as well: a sandbox takes half a second of a processor here."""
    for item in items:
        if isinstance(item, pytest.Function) and _is_borrowed(item):
            item.add_marker(pytest.mark.slow)


def _is_borrowed(item: pytest.Function) -> bool:
    return (
        item.path.name in {"test_pool.py", "test_persistent.py"}
        and item.function.__module__ != item.module.__name__
    )
