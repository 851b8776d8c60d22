"""Generate the sync sources and tests from the async ones.

    python scripts/unasync.py            write the generated files
    python scripts/unasync.py --check    fail if any of them differs, is missing or is left over

Works on tokens, so that code, comments and texts are each mapped by rules of their own. A rule that nothing
needs any more is an error, as is a word of asyncio that survives.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = (("src/unsandbox/_async", "src/unsandbox/_sync"), ("tests/_async", "tests/_sync"))
FILES = (("src/un_async.py", "src/un.py"),)

NAMES = {
    "AiohttpSocket": "RequestsSocket",
    "AiohttpStream": "RequestsStream",
    "AiohttpTransport": "RequestsTransport",
    "AsyncClient": "Client",
    "AsyncFileWatch": "FileWatch",
    "AsyncFiles": "Files",
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "AsyncJobStream": "JobStream",
    "AsyncLiveContext": "LiveContext",
    "AsyncLiveProcess": "LiveProcess",
    "AsyncLiveService": "LiveService",
    "AsyncLiveSession": "LiveSession",
    "AsyncMap": "Map",
    "AsyncPort": "Port",
    "AsyncPorts": "Ports",
    "AsyncTerminal": "Terminal",
    "StopAsyncIteration": "StopIteration",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "_async": "_sync",
    "aclose": "close",
    "aio": "blocking",
    "aids_async": "aids_sync",
    "aiohttp": "requests",
    "aiohttp_live": "requests_live",
    "un_async": "un",
}
"""Names in code."""

DROPPED = ("async", "await")
"""Keywords that go, with the blank after them."""

LINES = (r"# ruff: noqa: ASYNC109.*\n\n?", r"  # noqa: ASYNC109")
"""What goes before anything else."""

TEXTS = (
    (r"\bAsyncClient\b", "Client"),
    (r"\baiohttp\.ClientError\b", "requests.RequestException"),
    (r"\bimport asyncio\n", ""),
    (r"\basyncio\.run\(main\(\)\)", "main()"),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bun_async\b", "un"),
    (r"\bunsandbox\._async\b", "unsandbox._sync"),
    (r", for asyncio\.", "."),
    (r"The async client: the source from which .* generates the sync one\.", "The sync client, generated."),
    (r"while the event loop runs", "while the process runs"),
    (
        r"A client belongs to the event loop that first uses it\. Any number\s+of tasks may",
        "Any number of threads may",
    ),
    (r"Cancelling the calling task cancels the job\.", "Ctrl-C cancels the job."),
    (r"because the calling task(\s+)is cancelled\.", r"by\1Ctrl-C."),
    (r"because the task was cancelled", "by Ctrl-C"),
)
"""Regular expressions for docstrings, other texts and comments, in this order."""

HEADER = "# Generated from {} by scripts/unasync.py; change that one.\n"

_TEXT_TOKENS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def convert(source: str, used: Counter[str]) -> str:
    """Return the sync form of an async source; counts the rules that did something."""
    for pattern in LINES:
        source, times = re.subn(pattern, "", source)
        used[pattern] += times
    lines = source.splitlines(keepends=True)
    parts: list[str] = []
    row, column = 1, 0
    swallow = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        gap = _between(lines, (row, column), token.start)
        parts.append(gap.lstrip(" ") if swallow else gap)
        swallow = token.type == tokenize.NAME and token.string in DROPPED
        parts.append("" if swallow else _mapped(token, used))
        row, column = token.end
    return "".join(parts)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    rest = [lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1]]
    if end[0] <= len(lines):
        rest.append(lines[end[0] - 1][: end[1]])
    return "".join(rest)


def _mapped(token: tokenize.TokenInfo, used: Counter[str]) -> str:
    text = token.string
    if token.type == tokenize.NAME and text in NAMES:
        used[text] += 1
        return NAMES[text]
    if token.type in _TEXT_TOKENS:
        for pattern, replacement in TEXTS:
            text, times = re.subn(pattern, replacement, text)
            used[pattern] += times
    return text


def generate() -> dict[Path, str]:
    """Return every generated file with its text.

    Raises:
        SystemExit: A rule is not used, or something of asyncio is left.
    """
    used: Counter[str] = Counter()
    pairs = [(ROOT / source, ROOT / target) for source, target in FILES]
    for tree, twin in TREES:
        files = sorted((ROOT / tree).rglob("*.py"))
        pairs += [(path, ROOT / twin / path.relative_to(ROOT / tree)) for path in files]
    result = {}
    for source, target in pairs:
        text = convert(source.read_text(encoding="utf-8"), used)
        if left := re.search(r"^.*(?<![/])\b(await|async|asyncio|aiohttp)\b.*$", text, re.MULTILINE):
            raise SystemExit(f"{source.relative_to(ROOT)}: no rule for: {left[0].strip()}")
        name = source.relative_to(ROOT)
        header = HEADER.format(name.as_posix())
        if re.search(r"^( *)with .*:\n\1    with ", text, re.MULTILINE):
            header += "# ruff: noqa: SIM117 - what `async with` kept apart\n"
        result[target] = _formatted(header + text, target)
    rules = [*NAMES, *LINES, *(pattern for pattern, _ in TEXTS)]
    if unused := [rule for rule in rules if not used[rule]]:
        raise SystemExit(f"rules that nothing needs: {unused}")
    return result


def _formatted(text: str, target: Path) -> str:
    """Return the text as ruff leaves it: renamed modules sort differently, shorter lines wrap differently."""
    # Said here, as ruff would otherwise look for files that may not exist yet.
    ours = [
        "--config",
        'lint.isort.known-first-party = ["unsandbox", "un"]',
        "--stdin-filename",
        str(target),
        "-",
    ]
    for step in (["check", "--select", "I", "--fix", "--quiet", "--exit-zero"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *step, *ours]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def main(arguments: list[str]) -> int:
    """Write or check the generated files."""
    wanted = generate()
    present = {path for _, target in TREES for path in (ROOT / target).rglob("*.py")}
    orphans = sorted(present - set(wanted))
    if arguments == ["--check"]:
        wrong = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in wrong:
            print(f"differs from what would be generated: {path.relative_to(ROOT)}")
        for path in orphans:
            print(f"has no source any more: {path.relative_to(ROOT)}")
        return 1 if wrong or orphans else 0
    if arguments:
        print(__doc__)
        return 2
    for path, text in wanted.items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    for path in orphans:
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
