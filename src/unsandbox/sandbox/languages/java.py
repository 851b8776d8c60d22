"""Which way a Java program is started: by the source launcher where it can, compiled otherwise.

The launcher runs the first class of the file, whatever its name, in one virtual machine instead of two. A
file whose `main` is in a later class is common in textbooks; it is compiled, and for that the file must have
the name of its public class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")
# Words that `languages.toml` explains: archives of the classes that launcher and compiler load.
_LAUNCHER_ARCHIVE, _COMPILER_ARCHIVE = "{launcher_archive}", "{compiler_archive}"
_CLASSES = "/work/classes"
# These read what a tenant wrote, in linear time: repetitions never give back what they took (`*+`), a string or
# comment without an end goes on to the end of its line or of the file, and runs of words are bounded.
_NOISE = re.compile(
    r"//[^\n]*+|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)"
    r'|"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)'
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"(?P<open>\{)|(?P<close>\})"
    r"|(?P<type>(?P<modifiers>(?:\b(?:public|final|abstract|sealed|strictfp|static)\s++){0,6}+)"
    r"\b(?:class|interface|enum|record)\s++(?P<name>\w++))"
    r"|(?P<package>\bpackage\s++(?P<path>[\w.]++)\s*+;)"
    r"|(?P<main>\bstatic\s++(?:(?!void\b)\w++\s++){0,6}+void\s++main\s*+\()"
)

Steps = tuple[str, Sequence[str] | None, Sequence[str]]


def java_steps(code: str) -> Steps:
    """Return the source file name, the compile step (or None) and the run step for a Java program.

    Example:
        >>> java_steps("class A {} public class B { public static void main(String[] a) {} }")[0]
        'B.java'
    """
    depth, package = 0, ""
    types: list[str] = []
    public = owner = None
    for token in _TOKEN.finditer(_NOISE.sub(" ", code)):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["package"] and not types:
            package = token["path"] + "."
        elif token["type"] and depth == 0:
            types.append(token["name"])
            if "public" in token["modifiers"]:
                public = token["name"]
        elif token["main"] and types and owner is None:
            owner = types[-1]
    if owner is None or owner == types[0]:
        return "Main.java", None, [*_JAVA, _LAUNCHER_ARCHIVE, "{src}"]
    flags = ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", _COMPILER_ARCHIVE]
    compiler = ["javac", *flags, "-d", _CLASSES, "{src}"]
    return f"{public or owner}.java", compiler, [*_JAVA, "-cp", _CLASSES, package + owner]
