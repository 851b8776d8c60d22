"""The programs of every language, and what they must do."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from unsandbox.sandbox import find_system, load_languages
from unsandbox.sandbox.languages.caches import default_folder, with_caches

HERE = Path(__file__).parent
SYSTEM = find_system(os.environ.get("UNSANDBOX_TOOLCHAINS") or "host")
TABLE = load_languages(system=SYSTEM)
_CHOSEN = os.environ.get("UNSANDBOX_LANGUAGES", "").split()
AVAILABLE = [language.name for language in TABLE.available() if not _CHOSEN or language.name in _CHOSEN]
"""What is tested: all that can run, or those that the environment names."""
TABLE_FILE = Path(named) if (named := os.environ.get("UNSANDBOX_LANGUAGE_TABLE")) else None
"""The document that the language table is put into."""
WITH_CACHES = with_caches(SYSTEM, str(default_folder())) if TABLE_FILE else SYSTEM

STDIN = "first line\n"
GREETING = "a value"
INPUT = "content"
ARGUMENTS = ("one word", "two")
EXPECTED = {
    "unicode": "unicode: žluťoučký ✓ 日本",
    "stdin": "stdin: first line",
    "env": "env: a value",
    "input": "input: content",
    "fib": "fib: 75025",
}
"""The lines of the program `features`, by what each proves."""
FEATURES = (*EXPECTED, "artifact", "exit")
KINDS = ("features", "fails", "broken", "endless", "arguments")


@dataclass
class Row:
    """One line of the language table."""

    version: str = ""
    cold_ms: float = 0.0
    """The smallest program in a sandbox made for it."""
    warm_ms: float = 0.0
    """The same again, in one that waited, with the caches of toolchain and compiled program."""
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Programs:
    """What stands in `<name>.toml`: programs by kind, and what the language cannot do, with the reason."""

    programs: dict[str, str]
    without: dict[str, str]
    broken_line: int

    def can(self, what: str) -> bool:
        """Whether there is something to test."""
        if what == "arguments":
            return what in self.programs
        return what not in self.without and not (what in FEATURES and "features" in self.without)


def programs_of(name: str) -> Programs:
    text: dict[str, Any] = tomllib.loads((HERE / f"{name}.toml").read_text())
    return Programs(text["programs"], text.get("without", {}), text.get("broken_line", 3))


OFTEN = {"python", "javascript", "typescript", "bash", "c", "cpp", "go", "rust", "java", "ruby", "php", "perl"}
"""Languages whose programs `make test` runs; of the others it runs the smallest program only."""


def pairs(*whats: str) -> list[Any]:
    """Return every installed language with each of `whats` that it can do, as parameters of a test."""
    return [
        pytest.param(name, what, marks=[pytest.mark.slow] * (name not in OFTEN))
        for name in AVAILABLE
        for what in whats
        if programs_of(name).can(what)
    ]
