"""Every parser that sees a tenant's or a visitor's bytes does work that grows with its input and no faster."""

from __future__ import annotations

import re

import pytest
from tests.fuzz.growth import TooMuchWorkError, check_growth, check_time, hostile_inputs
from tests.fuzz.targets import TARGETS

from unsandbox.protocol.languages import detect_shebang
from unsandbox.sandbox.languages.java import java_steps
from unsandbox.sandbox.languages.starters import STARTERS
from unsandbox.sandbox.languages.steps import Steps

JAVA = [
    (b'class A { String s = """', b"\\"),
    (b'"""', b'\\"""'),
    (b"", b"static "),
    (b"static", b" "),
    (b"static ", b"a "),
    (b"", b"/*/"),
    (b"/*", b"*"),
    (b"", b'""'),
    (b"", b"'"),
    (b"", b"package a."),
    (b"", b"{}"),
    (b"", b"public static void main "),
]


@pytest.mark.parametrize(("begin", "unit"), JAVA)
def test_java_programs_are_read_once(begin, unit):
    start("java", begin, unit)


@pytest.mark.parametrize(
    ("name", "begin", "unit"),
    [
        ("haskell", b"", b"module "),
        ("haskell", b"{-", b"-"),
        ("haskell", b"", b"module A.\n"),
        ("go", b"", b" package"),
        ("go", b"package", b" "),
        ("ada", b"", b"procedure "),
        ("ada", b"procedure", b"\n"),
        ("ada", b"", b"\nprocedure a"),
        ("erlang", b"", b"-module("),
        ("erlang", b"", b"\n-module(a)"),
        ("kotlin", b"", b"fun main"),
        ("kotlin", b"", b"object A { fun main( "),
        ("kotlin", b"@file:JvmName", b" "),
        ("kotlin", b"", b"\n@file:"),
        ("scala", b"", b"\npackage a"),
        ("scala", b"package a", b"\nobject A { def main( "),
        ("typescript", b"", b"\nexport"),
        ("typescript", b"export", b" "),
        ("shell", b"#!", b"/"),
    ],
)
def test_programs_are_read_once(name, begin, unit):
    start(name, begin, unit)


def test_a_java_program_with_many_public_classes_is_read_once():
    steps = Steps("Main.java", None, ["java", "{src}"])

    def read(data: bytes) -> None:
        # Different names: of equal ones only the first counts.
        classes = "".join(f"public class A{number} {{}}\n" for number in range(len(data) // 20))
        java_steps(steps, classes + "class B { public static void main(String[] a) {} }")

    check_growth(read, b"", b"x", largest=1 << 21)


def start(name: str, begin: bytes, unit: bytes) -> None:
    steps = Steps("main", ["compile", "{src}"], ["run", "{src}"])
    check_growth(lambda data: STARTERS[name](steps, data.decode()), begin, unit)


@pytest.mark.parametrize(
    ("begin", "unit"),
    [
        (b"#!/usr/bin/env ", b"A=1 "),
        (b"#!/usr/bin/env ", b"-i "),
        (b"#!/1", b"1"),
        (b"#!/", b"a/"),
        (b"#!", b" "),
    ],
)
def test_interpreter_lines_are_read_once(begin, unit):
    check_growth(lambda data: detect_shebang(data.decode()), begin, unit, b"x")


@pytest.mark.slow
@pytest.mark.timeout(600)  # Processor time is what is bounded here, and by `check_growth`.
@pytest.mark.parametrize("largest", [1 << 14, 1 << 16])
@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_and_encoder_is_linear(name, largest):
    target = TARGETS[name]
    for begin, unit in hostile_inputs(target.seeds):
        check_growth(target.run, begin, unit, largest=largest)


def test_what_is_not_linear_is_found():
    with pytest.raises(TooMuchWorkError, match="times the work"):
        check_growth(lambda data: [data.count(b"a") for _ in range(0, len(data), 64)], b"", b"ab")
    with pytest.raises(TooMuchWorkError, match="more than"):
        check_growth(lambda data: re.match(rb"(?:a|a)*b", data), b"", b"a", longest_s=0.2)
    with pytest.raises(TooMuchWorkError, match="32 KiB"):
        check_time(lambda data: re.match(rb"(?:a|a)*b", data), b"aa")
