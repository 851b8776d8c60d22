"""Guessing by content: the programs of the language tests, hostile texts, and when there is no answer."""

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import REPO

from unsandbox.protocol.guess import _MARKS, guess_language
from unsandbox.protocol.languages import EXTENSIONS

PROGRAMS = REPO / "tests" / "languages"


@pytest.mark.parametrize("language", sorted(_MARKS))
def test_a_program_of_each_language(language):
    programs = tomllib.loads((PROGRAMS / f"{language}.toml").read_text())["programs"]
    assert guess_language(programs["features"]) == language


@pytest.mark.parametrize(
    "text", ["", "hello", "Dear all,\n\nplease find attached the report.\n", "1 2 3", "{}"]
)
def test_what_is_no_program(text):
    assert guess_language(text) is None


@given(st.text())
def test_any_text_gives_a_language_or_none(text):
    assert guess_language(text) in {None, *EXTENSIONS.values()}


@pytest.mark.parametrize(
    "piece",
    ["(", "def ", "proc a(", " ", "\n", "a::b ", "class A ", "interface a<", "public static ", " x", "let a"],
)
@pytest.mark.parametrize("width", [1_000_000, 199, 20])
def test_no_text_takes_long(piece, width):
    line = piece * (width // len(piece))
    text = (line + "\n") * max(1, 1_000_000 // width)
    began = time.process_time()
    guess_language(text)
    assert time.process_time() - began < 2
