"""Each parser takes any bytes: a short look in the suite; `make fuzz` looks for longer, guided by coverage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.growth import check_time
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 40


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Any bytes, and the seeds cut, doubled and put together."""
    seed = st.sampled_from(target.seeds)
    cut = st.builds(lambda data, begin, end: data[begin:end], seed, st.integers(0, 60), st.integers(0, 200))
    piece = st.one_of(seed, cut, st.binary(max_size=24), st.text(max_size=12).map(str.encode))
    return st.one_of(st.binary(max_size=200), st.lists(piece, max_size=4).map(b"".join))


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(name):
    target = TARGETS[name]
    for seed in (*target.seeds, b""):
        target.run(seed)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(inputs(target))
    def look(data: bytes) -> None:
        target.run(data)
        check_time(target.run, data)

    look()
