"""Host names: one form or none, so that nobody can mean the API to us and a service to somebody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.server.hosts import host_name, label_of

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
ports = st.none() | st.integers(0, 65535)


@given(st.lists(labels, min_size=1, max_size=4), ports, st.booleans(), st.randoms())
def test_case_port_and_final_dot_do_not_matter(parts, port, dot, random):
    name = ".".join(parts)
    mixed = "".join(random.choice((letter.upper(), letter)) for letter in name)
    header = mixed + "." * dot + ("" if port is None else f":{port}")
    assert host_name(header) == name
    assert label_of(host_name(f"{header.partition(':')[0].rstrip('.')}.localhost"), ("localhost",)) == name


@given(st.text(max_size=30))
def test_any_text_is_a_plain_name_or_none(header):
    name = host_name(header)
    if name is not None:
        assert name == name.lower()
        assert not set(name) & set(" \t\r\n/@#?\\,%:") or name.startswith("[")
        assert host_name(name) == name


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":80",
        ".",
        "a..b",
        ".a",
        "a b",
        "a@b",
        "a,b",
        "a/b",
        "http://a",
        "a:b",
        "a:99999",
        "a\n",
        "é",
        "[::1",
        "a%2e",
    ],
)
def test_what_names_no_host(header):
    assert host_name(header) is None


def test_labels():
    assert label_of("shop.on.example.com", ("on.example.com", "localhost")) == "shop"
    assert label_of("a.b.localhost", ("localhost",)) == "a.b"
    assert label_of("notlocalhost", ("localhost",)) is None
    assert label_of("on.example.com", ("on.example.com",)) is None
