"""The commands that compile and run a program, and the values that stand in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unsandbox.sandbox.spec import MIB, Limits

ARGUMENTS, COMPILER_ARGUMENTS = "{args}", "{compiler_args}"
_WORD = re.compile(r"\{(\w+)\}")
_HEAP_SHARE = 0.75
"""Share of the memory limit; the rest is for stacks, code and the runtime itself."""
_JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-XX:MaxRAM={memory}",
    "-XX:MaxRAMPercentage=75",
    "-XX:ActiveProcessorCount={cpus}",
)
GROUPS = {"{jvm}": _JVM, "{javac_jvm}": tuple(f"-J{option}" for option in _JVM)}
"""Words of a command that stand for several words: the options of every Java virtual machine."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The commands that run one program; words in braces stand for values, as in `languages.toml`.

    Attributes:
        source: File name of the program in /work.
        compile: The first step, if there is one.
        run: The program.
        code: The program's text, where it must differ from what was sent.
    """

    source: str
    compile: Sequence[str] | None
    run: Sequence[str]
    code: str | None = None


def limit_values(limits: Limits) -> dict[str, str]:
    """Return the values that tell programs their limits.

    Example:
        >>> limit_values(Limits(memory_bytes=1024 * MIB, vcpu=2.0))
        {'memory': '1073741824', 'heap_mib': '768', 'cpus': '2'}
    """
    return {
        "memory": str(limits.memory_bytes),
        "heap_mib": str(max(1, int(limits.memory_bytes * _HEAP_SHARE) // MIB)),
        "cpus": str(max(1, round(limits.vcpu))),
    }


def fill(command: Sequence[str], values: Mapping[str, str], options: Mapping[str, str]) -> list[str]:
    """Insert values into a command.

    Args:
        command: The command. Words that are a name of `GROUPS` become several.
        values: What is put in place of a name in braces, anywhere in a word.
        options: Replacements of words that consist of a name in braces; words without a replacement are
            removed.

    Example:
        >>> fill(["java", "{archive}", "-Xmx{heap_mib}m", "{args}"], {"heap_mib": "9"}, {})
        ['java', '-Xmx9m', '{args}']
    """
    filled = []
    for given in command:
        for word in GROUPS.get(given, (given,)):
            if (option := _WORD.fullmatch(word)) and option[1] not in values:
                if word in (ARGUMENTS, COMPILER_ARGUMENTS):
                    filled.append(word)
                    continue
                if option[1] not in options:
                    continue
                word = options[option[1]]
            filled.append(fill_text(word, values))
    return filled


def fill_text(text: str, values: Mapping[str, str]) -> str:
    """Insert values for their names in braces, and groups as words separated by spaces."""
    for name, words in GROUPS.items():
        if name in text:
            text = text.replace(name, " ".join(words))
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def renamed(command: Sequence[str], programs: Mapping[str, str]) -> list[str]:
    """Replace programs of a command by others."""
    return [programs.get(word, word) for word in command]


def with_words(command: Sequence[str], place: str, words: Sequence[str]) -> list[str]:
    """Insert words at `place` in a command, or at its end."""
    at = command.index(place) if place in command else len(command)
    return [*command[:at], *words, *command[at + 1 :]]
