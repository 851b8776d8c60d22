"""Chooses how a Java program is started: by the source launcher if possible, otherwise compiled.

The launcher runs the first class of the file, whatever its name, in one virtual machine instead of two. A
file whose `main` is in a later class, as often in textbooks, is compiled; for that the file must have the
name of its public class, and there can be only one. A program that looks up its own classes by name is
compiled too, because the launcher keeps them outside the class path.
"""

from __future__ import annotations

import re
from dataclasses import replace

from unsandbox.sandbox.languages.source_text import without_noise
from unsandbox.sandbox.languages.steps import COMPILER_ARGUMENTS, Steps

_CLASSES = "/work/classes"
# These patterns read tenants' programs in linear time: repetitions are possessive (`*+`) or atomic
# (`(?>...)`), and runs of words are bounded. Python before 3.11.5 misreads groups with possessive repetition
# (gh-106052); atomic groups are right.
_TOKEN = re.compile(
    r"(?P<open>\{)|(?P<close>\})"
    r"|(?P<type>(?P<modifiers>(?>(?:\b(?:public|final|abstract|sealed|strictfp|static)\s++){0,6}))"
    r"\b(?:class|interface|enum|record)\s++(?P<name>\w++))"
    r"|(?P<package>\bpackage\s++(?P<path>[\w.]++)\s*+;)"
    r"|(?P<main>\bstatic\s++(?>(?:(?!void\b)\w++\s++){0,6})void\s++main\s*+\()"
)

_NEEDS_CLASS_PATH = re.compile(
    r"ContextClassLoader|SystemClassLoader|ServiceLoader|java\.class\.path|getResource|AccessibleObject"
)


def java_steps(steps: Steps, code: str) -> Steps:
    """Return the steps that run a Java program.

    Args:
        steps: The steps with the source launcher.
        code: The program.

    Example:
        >>> launcher = Steps("Main.java", None, ["java", "{launcher_archive}", "{src}"])
        >>> java_steps(launcher, "class A {} public class B { public static void main(String[] a) {} }").source
        'B.java'
    """
    depth, package = 0, ""
    types: list[str] = []
    public: dict[str, int] = {}
    owner = None
    text = without_noise(code)
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["package"] and not types:
            package = token["path"] + "."
        elif token["type"] and depth == 0:
            types.append(token["name"])
            if (at := token["modifiers"].find("public")) >= 0:
                public[token["name"]] = token.start("modifiers") + at
        elif token["main"] and types and owner is None:
            owner = types[-1]
    if owner is None or (owner == types[0] and not _NEEDS_CLASS_PATH.search(text)):
        return steps
    return _compiled(steps, code, package, owner, public)


def _without_public(code: str, places: list[int]) -> str:
    """Replace some `public` of a program by spaces, so that columns in the compiler's messages stay correct."""
    pieces, start = [], 0
    for at in places:
        pieces += [code[start:at], " " * len("public")]
        start = at + len("public")
    return "".join([*pieces, code[start:]])


def _compiled(steps: Steps, code: str, package: str, owner: str, public: dict[str, int]) -> Steps:
    named = owner if owner in public or not public else next(iter(public))
    text = None
    if len(public) > 1:
        text = _without_public(code, sorted(at for name, at in public.items() if name != named))
    compiler = ["javac", "{javac_jvm}", "{compiler_archive}", COMPILER_ARGUMENTS, "-d", _CLASSES, "{src}"]
    run = [word for word in steps.run if word not in ("{launcher_archive}", "{src}", COMPILER_ARGUMENTS)]
    return replace(
        steps,
        source=f"{named}.java",
        compile=compiler,
        run=[*run, "-cp", _CLASSES, package + owner],
        code=text,
    )
