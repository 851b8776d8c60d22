"""For all documents and examples."""

import pytest
from tests.repo.forks import Forks


@pytest.fixture(scope="session")
def forks():
    """What runs Python programs without starting an interpreter for each."""
    with Forks() as process:
        yield process
