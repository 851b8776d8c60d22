"""Which of gVisor's tests are slow."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of jobs that run in warm sandboxes as well: to make one takes half a second of a processor."""
    for item in items:
        if isinstance(item, pytest.Function) and _is_borrowed(item):
            item.add_marker(pytest.mark.slow)


def _is_borrowed(item: pytest.Function) -> bool:
    return item.path.name == "test_pool.py" and item.function.__module__ != item.module.__name__
