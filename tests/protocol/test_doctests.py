"""The examples in the docstrings of the protocol and the errors are true."""

import doctest
import importlib
import pkgutil

import pytest

from unsandbox import errors, protocol

MODULES = [
    errors.__name__,
    *(f"{protocol.__name__}.{module.name}" for module in pkgutil.iter_modules(protocol.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
