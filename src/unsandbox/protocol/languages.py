"""Which language a file is in, by its extension or its `#!` line. The names are those of the wire."""

from __future__ import annotations

import posixpath
import re

EXTENSIONS: dict[str, str] = {
    "awk": "awk",
    "bash": "bash",
    "c": "c",
    "cc": "cpp",
    "clj": "clojure",
    "cob": "cobol",
    "cpp": "cpp",
    "cr": "crystal",
    "cs": "csharp",
    "cxx": "cpp",
    "d": "d",
    "dart": "dart",
    "erl": "erlang",
    "ex": "elixir",
    "exs": "elixir",
    "f90": "fortran",
    "f95": "fortran",
    "4th": "forth",
    "forth": "forth",
    "fs": "fsharp",
    "fth": "forth",
    "go": "go",
    "groovy": "groovy",
    "hs": "haskell",
    "java": "java",
    "jl": "julia",
    "js": "javascript",
    "kt": "kotlin",
    "lisp": "commonlisp",
    "lsp": "commonlisp",
    "lua": "lua",
    "m": "objc",
    "ml": "ocaml",
    "nim": "nim",
    "p": "prolog",
    "p6": "raku",
    "php": "php",
    "pl": "perl",
    "pl6": "raku",
    "pro": "prolog",
    "ps1": "powershell",
    "py": "python",
    "r": "r",
    "raku": "raku",
    "rb": "ruby",
    "rs": "rust",
    "scala": "scala",
    "scm": "scheme",
    "sh": "bash",
    "ss": "scheme",
    "swift": "swift",
    "tcl": "tcl",
    "ts": "typescript",
    "v": "v",
    "zig": "zig",
}
"""File extension (lower case, no dot) to language: the union of what all clients know."""

INTERPRETERS: dict[str, str] = {
    "ash": "bash",
    "awk": "awk",
    "bash": "bash",
    "clisp": "commonlisp",
    "crystal": "crystal",
    "dash": "bash",
    "deno": "deno",
    "elixir": "elixir",
    "escript": "erlang",
    "gawk": "awk",
    "gforth": "forth",
    "groovy": "groovy",
    "guile": "scheme",
    "julia": "julia",
    "lua": "lua",
    "luajit": "lua",
    "mawk": "awk",
    "node": "javascript",
    "nodejs": "javascript",
    "ocaml": "ocaml",
    "perl": "perl",
    "perl6": "raku",
    "php": "php",
    "pwsh": "powershell",
    "pypy": "python",
    "python": "python",
    "racket": "racket",
    "raku": "raku",
    "rscript": "r",
    "ruby": "ruby",
    "runghc": "haskell",
    "runhaskell": "haskell",
    "sbcl": "commonlisp",
    "scala": "scala",
    "scheme": "scheme",
    "sh": "bash",
    "swift": "swift",
    "swipl": "prolog",
    "tclsh": "tcl",
    "ts-node": "typescript",
    "tsx": "typescript",
    "wish": "tcl",
    "zsh": "bash",
}
"""Last path component of a `#!` line (lower case, version stripped) to language."""

_VERSION = re.compile(r"-?[0-9]+(\.[0-9]+)*\Z")


def detect_language(filename: str) -> str | None:
    """Return the language of a file by its extension, or None when the extension is unknown.

    Case does not matter, nor do dots in folder names. The file is not read and need not exist.

    Example:
        >>> detect_language("/my.dir/Main.CPP"), detect_language("script.tar.rb"), detect_language("Makefile")
        ('cpp', 'ruby', None)
    """
    name = posixpath.basename(filename.replace("\\", "/"))
    stem, dot, extension = name.rpartition(".")
    return EXTENSIONS.get(extension.lower()) if dot and stem else None


def detect_shebang(source: str) -> str | None:
    r"""Return the language that the `#!` line of a program names, or None.

    The interpreter is the last path component on line 1, after `env` and its options; a trailing version is
    stripped.

    Example:
        >>> detect_shebang("#!/usr/bin/env -S FOO=1 python3.12 -u\n"), detect_shebang("print(1)")
        ('python', None)
    """
    first_line = source.removeprefix("\ufeff").partition("\n")[0]
    if not first_line.startswith("#!"):
        return None
    words = first_line[2:].split()
    if words and posixpath.basename(words[0]) == "env":
        words = _after_env(words[1:])
    if not words:
        return None
    name = posixpath.basename(words[0]).lower()
    return INTERPRETERS.get(name) or INTERPRETERS.get(_VERSION.sub("", name))


def _after_env(words: list[str]) -> list[str]:
    """Return what env(1) would run: its options, their arguments and assignments skipped."""
    while words and (words[0].startswith("-") or "=" in words[0]):
        takes_argument = words[0] in {"-u", "--unset", "-C", "--chdir"}
        words = words[2:] if takes_argument else words[1:]
    return words
