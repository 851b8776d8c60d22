"""The documents are true: every block runs and prints what stands below it, every link leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support import REPO, Serve

DOCUMENTS = sorted(
    [*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")], key=lambda path: path.relative_to(REPO).as_posix()
)
LANGUAGES_RUN = ("python", "bash")
LANGUAGES_SHOWN = ("text", "console", "json", "yaml")
SERVER_PORT = "8787"


class Block(NamedTuple):
    """A fenced block, and what it is said to print: the `text` block that follows it directly."""

    document: Path
    line: int
    language: str
    code: str
    output: str | None


FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2], match[3])
        for match in FENCE.finditer(text)
    ]


ALL_BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
RUN_BLOCKS = [block for block in ALL_BLOCKS if block.language in LANGUAGES_RUN]


def name_of(value):
    if isinstance(value, Block):
        return f"{value.document.relative_to(REPO)}:{value.line}"
    return str(value.relative_to(REPO))


def block_parameter(block):
    """Make a parameter of a block; `make test` runs those of the README."""
    return pytest.param(block, id=name_of(block), marks=[pytest.mark.slow] * (block.document.parent != REPO))


def test_the_blocks_are_found():
    assert len(RUN_BLOCKS) >= 6
    assert {block.language for block in ALL_BLOCKS} <= {*LANGUAGES_RUN, *LANGUAGES_SHOWN}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder with the commands `un` and `python`, to be put first on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("un", " -m unsandbox.cli"), ("python", "")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        script.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def environment(commands, tmp_path_factory):
    """The environment of a stranger: an empty home, none of our variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNSANDBOX_")}
    return kept | {"HOME": str(tmp_path_factory.mktemp("home")), "PATH": f"{commands}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The variables of somebody with an account of a real `un serve`."""
    with Serve(tmp_path_factory.mktemp("data")) as process:
        public_key, secret_key = process.keys()
        yield {
            "UNSANDBOX_API_BASE": process.url,
            "UNSANDBOX_PUBLIC_KEY": public_key,
            "UNSANDBOX_SECRET_KEY": secret_key,
        }
        assert process.stop() == 0


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@pytest.mark.parametrize("block", [block_parameter(block) for block in RUN_BLOCKS])
def test_a_block_runs_and_prints_what_stands_below_it(block, environment, server, forks, tmp_path):
    # Blocks that start a server of their own get neither ours nor its port.
    own_server = "un serve" in block.code
    variables = environment | ({} if own_server else server)
    code = block.code.replace(SERVER_PORT, free_port()) if own_server else block.code
    if block.language == "python":
        result = forks.run(code, name_of(block), variables, tmp_path)
    else:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            env=variables, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    if block.output is not None:
        assert result.stdout == block.output


def anchors_of(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    prose = FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_and_anchors_resolve(document):
    prose = FENCE.sub("", document.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(document):
    """A path in backticks that looks like one of this repository is one."""
    prose = FENCE.sub("", document.read_text())
    for path in re.findall(r"`((?:src|tests|docs|examples|scripts|benchmarks)/[\w./-]+)`", prose):
        assert (REPO / path).exists(), path


def test_tests_that_are_named_exist():
    named = [
        pair
        for document in DOCUMENTS
        for pair in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text())
    ]
    assert named
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (REPO / path).read_text(), re.MULTILINE), f"{path}::{name}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_that_are_named_exist():
    rules = set(re.findall(r"^([a-z][a-z-]*):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)`", document.read_text()):
            assert target in rules, f"{document.name}: make {target}"


@pytest.mark.slow
@pytest.mark.timeout(300)  # Seconds of a machine that has much else to do.
def test_the_site_builds_without_a_warning(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=REPO, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {path.stem: path.read_text() for path in tmp_path.rglob("*.html")}
    import unsandbox

    listed = "".join(pages[name] for name in ("clients", "results", "errors", "functions", "functions-async"))
    names = [name for name in unsandbox.__all__ if not name.startswith("__")]
    missing = [name for name in names if f">{name}<" not in listed and f'"{name}"' not in listed]
    assert missing == [], "public names without a place in the API reference"
