"""Guesses the language of a text from its content; used only on request.

A file's name and its `#!` line show its language; this module guesses from the text, and may be wrong.
"""

from __future__ import annotations

import re

_LINES, _WIDTH = 200, 160
"""The number of lines, and of characters of each, that are examined, which bounds the time of the patterns."""

# Each language has marks that few others have; one counts once, with its weight. The highest sum wins when it
# reaches 2 and no other language has as much.
_MARKS: dict[str, tuple[tuple[str, int], ...]] = {
    "php": ((r"^<\?php\b", 5),),
    "java": (
        (r"^\s*public\s+(?:final\s+|abstract\s+)?(?:class|interface|enum|record)\s+\w+", 2),
        (r"\bpublic\s+static\s+void\s+main\s*\(\s*String", 3),
        (r"^\s*import\s+java[x]?\.[\w.]+(?:\.\*)?;", 3),
    ),
    "csharp": (
        (r"^\s*using\s+System(?:\.\w+)*;", 3),
        (r"\bConsole\.Write(?:Line)?\(", 2),
        (r"^\s*namespace\s+[\w.]+\s*[;{]?\s*$", 1),
    ),
    "cpp": (
        (r"^\s*#\s*include\s*<(?:iostream|string|vector|map|memory|algorithm|fstream|sstream)>", 4),
        (r"\bstd::\w+", 2),
        (r"^\s*using\s+namespace\s+\w+;", 3),
        (r"^\s*template\s*<", 2),
    ),
    "objc": ((r"^\s*@(?:interface|implementation|protocol)\b", 6), (r"^\s*#\s*import\s*[<\"]", 3)),
    "c": (
        (r"^\s*#\s*include\s*<\w+(?:/\w+)?\.h>", 3),
        (r"^\s*(?:static\s+)?int\s+main\s*\(\s*(?:void|int\b[^)\n]*)?\s*\)", 1),
    ),
    "go": ((r"^package\s+\w+\s*$", 3), (r"^func\s+(?:\([^)\n]*\)\s*)?\w+\(", 2), (r"\bfmt\.Print", 1)),
    "rust": (
        (r"^\s*(?:pub\s+)?fn\s+\w+\s*(?:<[^>\n]*>)?\([^)\n]*\)\s*(?:->\s*[^{\n]+)?\{", 2),
        (r"\b(?:println|format|vec|panic)!\s*[(\[]", 3),
        (r"^\s*use\s+(?:std|core|crate)::", 3),
        (r"\blet\s+mut\s+\w+", 3),
    ),
    "kotlin": ((r"^\s*fun\s+main\s*\(", 3), (r"^\s*fun\s+\w+\s*\([^)\n]*\)", 1), (r"^\s*val\s+\w+\s*[:=]", 1)),
    "scala": (
        (r"^\s*object\s+\w+(?:\s+extends\s+\w+)?\s*[:{]", 3),
        (r"\bdef\s+\w+\s*\([^)\n]*\)\s*:\s*\w+\s*=", 2),
    ),
    "haskell": (
        (r"^main\s*::\s*IO\s*\(\)", 4),
        (r"^\w+\s*::\s*[\w\[\]() ]+(?:->|=>)", 2),
        (r"^import\s+(?:qualified\s+)?[A-Z]\w*(?:\.[A-Z]\w*)*\s*(?:\(|as\b|$)", 1),
        (r"^module\s+[A-Z][\w.]*.*\bwhere\b", 3),
    ),
    "ocaml": (
        (r"^\s*let\s+rec\s+\w+", 2),
        (r"^let\s+\(\)\s*=", 3),
        (r"\bPrintf\.printf\b|\bprint_endline\b", 2),
    ),
    "elixir": ((r"^\s*defmodule\s+[A-Z]\w*", 4), (r"\bIO\.(?:puts|inspect)\b", 2)),
    "erlang": ((r"^-module\(\w+\)\.", 4), (r"\bio:format\(", 3)),
    "clojure": ((r"^\(ns\s+[\w.-]+", 4), (r"^\s*\(defn-?\s+\S+", 3), (r"\(println\b", 1)),
    "scheme": ((r"^\s*\(define\s+\(?\S+", 2), (r"\((?:display|newline)\b", 1)),
    "commonlisp": ((r"^\s*\(def(?:un|var|parameter|macro)\s+\S+", 3), (r"\(format\s+t\s", 2)),
    "perl": (
        (r"^\s*use\s+strict\s*;", 4),
        (r"^\s*(?:my|our)\s+[$@%]\w+", 2),
        (r"^\s*sub\s+\w+\s*\{", 1),
        (r"=~\s*[ms]?/", 1),
    ),
    "ruby": (
        (r"^\s*require(?:_relative)?\s+['\"]", 2),
        (r"^\s*puts\s+[\"']", 2),
        (r"^\s*def\s+[\w?!.]+(?:\([^)\n]*\))?\s*(?:=[^=].*)?$", 1),
        (r"\bdo\s*\|\w+(?:,\s*\w+)*\|", 3),
    ),
    "lua": (
        (r"^\s*local\s+(?:function\s+)?\w+", 2),
        (r"\bfunction\s+[\w.:]*\([^)\n]*\)", 1),
        (r"\bend\s*$", 1),
    ),
    "python": (
        (r"^\s*(?:def|class)\s+\w+.*:\s*(?:#.*)?$", 2),
        (r"^\s*(?:from\s+[\w.]+\s+import\s|import\s+\w+(?:\s*,\s*\w+)*\s*$)", 2),
        (r"^\s*if\s+__name__\s*==\s*['\"]__main__['\"]\s*:", 4),
        (r"^\s*(?:for|while|if|elif|else|try|with)\b.*:\s*$", 1),
        (r"^\s*print\(", 1),
    ),
    "typescript": (
        (r"^\s*(?:export\s+)?(?:interface|type)\s+\w+(?:<[^>\n]*>)?\s*(?:=|\{|extends)", 2),
        (r"\b(?:const|let|var)\s+\w+\s*:\s*\w+", 3),
        (r"\([^)\n]*\w\s*:\s*(?:string|number|boolean|any|void)\b", 4),
        (r"\bconsole\.log\(", 1),
    ),
    "javascript": (
        (r"\bconsole\.(?:log|error)\(", 2),
        (r"^\s*(?:const|let|var)\s+[\w{\[][^:=]*=", 1),
        (r"=>\s*[{(\w]", 1),
        (r"\brequire\(['\"]", 2),
        (r"^\s*(?:async\s+)?function\s*\*?\s*\w*\s*\(", 1),
    ),
    "bash": (
        (r"^\s*(?:fi|done|esac)\s*$", 2),
        (r"^\s*(?:if|while)\s+\[\[?\s", 2),
        (r"\$\{?\w+\}?", 1),
        (r"^\s*echo\s", 1),
        (r"^\s*export\s+\w+=", 2),
    ),
    "r": ((r"^\s*\w[\w.]*\s*<-\s", 2), (r"\blibrary\(\w+\)", 3), (r"<-\s*function\(", 2)),
    "julia": ((r"^\s*using\s+[A-Z]\w+", 2), (r"^\w+\([\w, ]*\)\s*=\s", 2), (r"\bprintln\(", 1)),
    "fortran": (
        (r"(?i)^\s*program\s+\w+\s*$", 3),
        (r"(?i)^\s*implicit\s+none", 4),
        (r"(?i)^\s*print\s*\*\s*,", 3),
    ),
    "cobol": ((r"(?i)^\s*identification\s+division\.", 5), (r"(?i)^\s*procedure\s+division\.", 4)),
    "pascal": ((r"(?i)^\s*program\s+\w+\s*;", 4), (r"(?i)\bwriteln\s*\(", 2), (r"(?i)^\s*end\.\s*$", 3)),
    "prolog": ((r"^:-\s*\w+", 3), (r"^\w+\([^)\n]*\)\s*:-", 3)),
    "forth": ((r"^:\s+\S+\s.*;\s*$", 3), (r"\.\"\s[^\"]*\"", 2)),
    "tcl": ((r"^\s*proc\s+\S+\s+\{", 4), (r"^\s*puts\s+(?:\"|\$|\{)", 1), (r"^\s*set\s+\w+\s", 2)),
    "awk": ((r"^\s*(?:BEGIN|END)\s*\{", 4),),
    "sqlite": ((r"(?i)^\s*(?:select\b.*;|create\s+table\b|insert\s+into\b)", 3),),
    "swift": ((r"^\s*import\s+Foundation\s*$", 4), (r"^\s*func\s+\w+\([^)\n]*\)\s*(?:->\s*\w+\s*)?\{", 2)),
    "zig": ((r"@import\(\"std\"\)", 5),),
    "nim": ((r"^\s*proc\s+\w+\*?\([^)\n]*\)", 3), (r"^\s*echo\s+\"", 1)),
    "d": ((r"^\s*import\s+std\.\w+", 4),),
    "powershell": ((r"\b(?:Write|Get|Set|New)-[A-Z]\w+", 4), (r"^\s*param\s*\(", 2)),
    "racket": ((r"^#lang\s+\w+", 5),),
}
_COMPILED: dict[str, list[tuple[re.Pattern[str], int]]] = {
    language: [(re.compile(pattern, re.MULTILINE), weight) for pattern, weight in marks]
    for language, marks in _MARKS.items()
}
_ENOUGH = 2


def guess_language(source: str) -> str | None:
    r"""Return the language that a text looks like, or None when nothing speaks for one clearly.

    Example:
        >>> guess_language("def f(x):\n    return x\n"), guess_language("hello")
        ('python', None)
    """
    lines = source[: _LINES * _WIDTH].splitlines()[:_LINES]
    text = "\n".join(line[:_WIDTH] for line in lines if line.strip())
    scores = {
        language: sum(weight for pattern, weight in marks if pattern.search(text))
        for language, marks in _COMPILED.items()
    }
    best = max(scores.values())
    winners = [language for language, score in scores.items() if score == best]
    return winners[0] if best >= _ENOUGH and len(winners) == 1 else None
