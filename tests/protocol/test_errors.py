"""Errors: one root, the library bases mixed in, and all of them survive copy and pickle (worker pools)."""

import copy
import pickle

import aiohttp
import pytest
import requests

from unsandbox import errors
from unsandbox.errors import APIError, UnsandboxError, WaitTimeoutError, with_base

CLASSES = [cls for name in errors.__all__ if not issubclass(cls := getattr(errors, name), Warning)]
LIBRARIES = {"aiohttp": aiohttp.ClientError, "requests": requests.RequestException}


def make(cls):
    if issubclass(cls, APIError):
        members = {"status": 429, "code": "c", "server_message": "m", "request_id": "r", "retry_after": 1.5}
        return cls("429 text", **members, body={"a": [1]})
    if issubclass(cls, WaitTimeoutError):
        return cls("text", job_id="j1", partial={"stdout": "half"})
    return cls("text")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_under_the_root_and_says_what_it_is(cls):
    assert issubclass(cls, UnsandboxError)
    assert cls.__doc__


@pytest.mark.parametrize("library", [None, *LIBRARIES])
@pytest.mark.parametrize("cls", CLASSES)
def test_copy_and_pickle_keep_everything(cls, library):
    error = make(with_base(cls, library) if library else cls)
    copies = [copy.copy(error), copy.deepcopy(error)]
    copies += [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for one in copies:
        assert type(one) is type(error)
        assert (str(one), one.args, one.__dict__) == (str(error), error.args, error.__dict__)
        assert one.retryable == error.retryable


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("cls", CLASSES)
def test_with_base(cls, library):
    derived = with_base(cls, library)
    assert issubclass(derived, cls)
    assert issubclass(derived, LIBRARIES[library])
    assert derived is with_base(cls, library)
    assert (derived.__name__, derived.__module__, derived.__doc__) == (
        cls.__name__,
        cls.__module__,
        cls.__doc__,
    )
    with pytest.raises(LIBRARIES[library]):
        raise make(derived)


@pytest.mark.parametrize(
    ("name", "base"),
    [("InvalidRequestError", ValueError), ("InvalidResponseError", ValueError), ("RequestTimeoutError", TimeoutError),
     ("WaitTimeoutError", TimeoutError)],
)  # fmt: skip
def test_built_in_bases(name, base):
    assert issubclass(getattr(errors, name), base)


def test_the_tree_in_the_docstring_names_every_class():
    assert all(name in errors.__doc__ for name in errors.__all__)
