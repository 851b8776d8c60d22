"""Counting the values of a JSON text without parsing it."""

from __future__ import annotations

import json
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from unsandbox.protocol import json_values
from unsandbox.protocol.json_values import has_more_values

VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a",\\{}[]:\n\u00e9', max_size=30),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(alphabet='a"\\', max_size=4), inner, max_size=6)
    ),
    max_leaves=40,
)


def exact(value) -> int:
    """Strings, separators and brackets outside of strings, and one for the text itself, as counted."""
    if isinstance(value, str):
        return 1
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(exact, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(exact, value.values()))
    return 0


@given(VALUES, st.integers(1, 9), st.booleans())
def test_it_counts_what_stands_outside_of_strings(value, region, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    count = exact(value) + 1
    with mock.patch.object(json_values, "REGION_BYTES", region):
        assert not has_more_values(text, count)
        if count > 1:
            assert has_more_values(text, 0)


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_have_an_answer(text, most):
    assert has_more_values(text, most) in {True, False}


def test_commas_in_code_are_no_values_and_those_of_lists_are():
    code = json.dumps({"code": 'print(",")\n' * 100_000}).encode()
    assert not has_more_values(code, 10)
    assert has_more_values(b"[" + b"0," * 100_000 + b"0]", 100_000)
    assert has_more_values(b"{" + b",".join(b'"%d":0' % number for number in range(60_000)) + b"}", 100_000)
