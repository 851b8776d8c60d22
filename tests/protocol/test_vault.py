"""Vaults in every form that a client ever sent: the same variables come out, and no value ever shows in an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsandbox.protocol.services import vault_from_body, vault_to_text

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=40)
vaults = st.dictionaries(names, values, max_size=6)


@given(vaults)
def test_every_form_holds_the_same(vault):
    text = vault_to_text(vault)
    bodies = [text, json.dumps({"env": text}), json.dumps({"content": text}), json.dumps({"env": vault})]
    for body in bodies:
        assert vault_from_body(body.encode()) == vault


@given(vaults)
def test_a_flat_object_is_a_vault_unless_it_could_be_a_text(vault):
    if set(vault) in ({"env"}, {"content"}):
        ((name, value),) = vault.items()
        if "=" in value or not value:
            return
        assert vault_from_body(json.dumps(vault).encode()) == {name: value}
    else:
        assert vault_from_body(json.dumps(vault).encode()) == vault


@given(vaults)
def test_comments_blank_lines_and_line_ends_of_windows_mean_nothing(vault):
    lines = ["# a comment = nothing", "", *vault_to_text(vault).splitlines(keepends=False), "   "]
    lines = [line for piece in lines for line in piece.split("\n")]
    plain = vault_to_text(vault).split("\n")
    text = "\r\n".join(["# c=1", "", *plain, "  # d"])
    assert vault_from_body(text.encode()) == vault


@given(st.binary(max_size=200))
def test_any_bytes_are_a_vault_or_a_clear_refusal(body):
    try:
        pairs = vault_from_body(body)
    except ValueError as error:
        assert str(error)
    else:
        assert vault_from_body(vault_to_text(pairs).encode()) == pairs


@given(
    names.filter(lambda name: name != "x"), st.text(st.characters(categories=["Lu"]), min_size=12, max_size=12)
)
def test_no_value_shows_in_an_error(name, secret):
    for body in (
        f"{name}={secret}\n1={secret}",
        f"{name}={secret}\n{secret}{secret}",
        json.dumps({name: secret + "\n", "x": secret}),
        json.dumps({"0": secret, name: secret}),
        json.dumps([secret]),
        json.dumps({name: [secret]}),
        f'{{"{name}":"{secret}"',
    ):
        with pytest.raises(ValueError) as refusal:
            vault_from_body(body.encode())
        assert secret not in str(refusal.value)
        assert refusal.value.__cause__ is None


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}", b"[]", b"null", b"# only a comment\n", b'{"env":""}'])
def test_no_variables(body):
    assert vault_from_body(body) == {}


@pytest.mark.parametrize(
    ("body", "vault"),
    [
        (b"A='b c'\n", {"A": "'b c'"}),
        (b"A=\n", {"A": ""}),
        (b" A =b", {"A": "b"}),
        (b'{"A":1,"B":true,"C":2.5}', {"A": "1", "B": "true", "C": "2.5"}),
        (b'{"env":"production"}', {"env": "production"}),
        ("A=a\u2028b\x0b\x85".encode(), {"A": "a\u2028b\x0b\x85"}),
    ],
)
def test_values_are_kept_as_they_are(body, vault):
    assert vault_from_body(body) == vault


@pytest.mark.parametrize(
    "body",
    [b"A", b"=1", b"A B=1", b"\xff=1", b'{"A":null}', b'{"A":"\\ud800"}', b'{"A":"a\\nb"}', b"A=\0", b"[1]"],
)
def test_what_no_environment_can_hold_is_refused(body):
    with pytest.raises(ValueError):
        vault_from_body(body)
