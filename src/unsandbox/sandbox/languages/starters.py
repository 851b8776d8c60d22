"""Chooses how to start programs whose main class, module, package or unit is named in the source.

A starter reads the text of a program and changes the steps from `languages.toml`. The text comes from a
tenant, so every pattern matches in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from unsandbox.protocol.shebang import shebang_program
from unsandbox.sandbox.languages.java import java_steps
from unsandbox.sandbox.languages.source_text import without_noise
from unsandbox.sandbox.languages.steps import COMPILER_ARGUMENTS, Steps

Starter = Callable[[Steps, str], Steps]

_HASKELL_MODULE = re.compile(r"^module[ \t\r\n]++([A-Z][\w.']*+)", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^[ \t]*+package[ \t]++(\w++)", re.MULTILINE)
_ERLANG_MODULE = re.compile(r"^-module\([^()\n]++\)[ \t]*+\.", re.MULTILINE)
_ADA_UNIT = re.compile(r"^[ \t]*+(procedure|function|package|generic|separate)\b", re.MULTILINE | re.IGNORECASE)
_ADA_MAIN = re.compile(r"^procedure[ \t\r\n]++(\w++)(?![ \t\r\n]*+\()", re.MULTILINE | re.IGNORECASE)
_ADA_UNITS = """
src=$1 bin=$2; shift 2
mkdir -p /tmp/.ada && cd /tmp/.ada && gnatchop -q -w "$src" && exec gnatmake -q -o "$bin" "$0" "$@"
"""
_ADA_NOISE = re.compile(r"--[^\n]*+")
_KOTLIN_TOKEN = re.compile(
    r"(?P<open>\{)|(?P<close>\})"
    r"|^[ \t]*+package[ \t]++(?P<package>[\w.]++)"
    r"|\b(?:class|interface|object)[ \t]++(?P<type>\w++)"
    r"|\bfun[ \t]++(?P<main>main)[ \t]*+\(",
    re.MULTILINE,
)
_KOTLIN_FILE = re.compile(r'^[ \t]*+@file:[ \t]*+JvmName[ \t]*+\([ \t]*+"(\w++)"', re.MULTILINE)
_SCALA_TOKEN = re.compile(
    r"(?P<open>\{)|(?P<close>\})"
    r"|^[ \t]*+package[ \t]++(?!object\b)(?P<package>[\w.]++)(?P<braced>\s*+\{)?"
    r"|\bobject[ \t]++(?P<type>\w++)"
    r"|\b(?:extends|with)[ \t]++(?P<app>App)\b"
    r"|\bdef[ \t]++(?P<main>main)[ \t]*+\(",
    re.MULTILINE,
)
_SCALA_CLASSES = "/work/classes"
_TYPESCRIPT_EXPORT = re.compile(r"^[ \t]*+export[ \t]*+=", re.MULTILINE)
_POSIX_SHELLS = frozenset({"sh", "dash", "ash"})


def _haskell(steps: Steps, code: str) -> Steps:
    """Handle a main module with another name than `Main`."""
    module = _HASKELL_MODULE.search(without_noise(code, haskell=True))
    if module is None or module[1] == "Main" or steps.compile is None:
        return steps
    return replace(steps, compile=[*steps.compile, "-main-is", module[1]])


def _go(steps: Steps, code: str) -> Steps:
    """Handle a package that is not `main`, which would be built into a library."""
    package = _GO_PACKAGE.search(without_noise(code))
    if package is None or package[1] == "main":
        return steps
    say = 'echo "main.go: package $0 is not a main package; a program begins with: package main" >&2; exit 1'
    return replace(steps, compile=["sh", "-c", say, package[1]])


def _ada(steps: Steps, code: str) -> Steps:
    """Name the file after the unit, as the compiler requires."""
    text = _ADA_NOISE.sub("", code)
    unit, mains = _ADA_UNIT.search(text), _ADA_MAIN.findall(text)
    if unit is None or not mains or steps.compile is None:
        return steps
    if unit[1].lower() == "procedure":
        return replace(steps, source=f"{mains[0].lower()}.adb")
    return replace(
        steps, compile=["sh", "-c", _ADA_UNITS, mains[-1].lower(), "{src}", "{bin}", *steps.compile[6:]]
    )


def _erlang(steps: Steps, code: str) -> Steps:
    """Protect the first line, which `escript` always takes for a `#!` line."""
    if code.startswith("#!"):
        return steps
    # The attribute gives the number of the line before the next one. `module` must be the first form.
    module = _ERLANG_MODULE.search(code)
    at, line = (module.end(), code.count("\n", 0, module.end()) + 1) if module else (0, 0)
    place = f' -file("{steps.source}", {line}).'
    text = f"{code[:at]}{place}{code[at:]}" if module else f"{place}\n{code}"
    return replace(steps, code=f"#!/usr/bin/env escript\n{text}")


def _kotlin(steps: Steps, code: str) -> Steps:
    """Find the class with `main`, which is named after the file unless the program says otherwise."""
    text = without_noise(code)
    package, owner, depth, main = "", "", 0, None
    for token in _KOTLIN_TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["package"]:
            package = package or f"{token['package']}."
        elif token["type"] and depth == 0:
            owner = token["type"]
        elif token["main"] and (main is None or depth == 0):
            main = "MainKt" if depth == 0 else owner
    if main is None and steps.compile is not None:
        compiler = [word for word in steps.compile if word not in ("-d", "{bin}", "{src}", COMPILER_ARGUMENTS)]
        return replace(steps, source="main.kts", compile=None, run=[*compiler, "-script", "{src}"])
    if main == "MainKt" and (named := _KOTLIN_FILE.search(code)):
        main = named[1]
    return replace(steps, run=[*steps.run[:-1], f"{package}{main}"])


def _scala(steps: Steps, code: str) -> Steps:
    """Compile a program that is in a package, which a script cannot be, and start its main object."""
    packages: list[tuple[str, int]] = []
    depth, owner, main = 0, "", ""
    for token in _SCALA_TOKEN.finditer(without_noise(code)):
        if token["package"]:
            depth += 1 if token["braced"] else 0
            packages.append((token["package"], depth))
        elif token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
            while packages and packages[-1][1] > depth:
                packages.pop()
        elif token["type"] and depth == (packages[-1][1] if packages else 0):
            owner = ".".join([*(name for name, _ in packages), token["type"]])
        elif owner and not main:
            main = owner
    if "." not in main:
        return steps
    run = ["scala", "-nc", "-cp", _SCALA_CLASSES, main]
    compiler = ["scalac", COMPILER_ARGUMENTS, "-d", _SCALA_CLASSES, "{src}"]
    make = ["sh", "-c", f'mkdir {_SCALA_CLASSES} && exec "$@"', "sh"]
    return replace(steps, compile=[*make, *compiler], run=run)


def _shell(steps: Steps, code: str) -> Steps:
    """Use `sh` if the program asks for it, because `echo` and `[` behave differently there."""
    return replace(steps, run=["sh", *steps.run[1:]]) if shebang_program(code) in _POSIX_SHELLS else steps


def _typescript(steps: Steps, code: str) -> Steps:
    """Handle a program without imports and exports, which would be wrapped with a different `module`."""
    return steps if _TYPESCRIPT_EXPORT.search(code) else replace(steps, code=f"{code}\nexport {{}};\n")


STARTERS: dict[str, Starter] = {
    "java": java_steps,
    "haskell": _haskell,
    "go": _go,
    "ada": _ada,
    "erlang": _erlang,
    "kotlin": _kotlin,
    "scala": _scala,
    "shell": _shell,
    "typescript": _typescript,
}
"""The starters by their names in `languages.toml`."""
