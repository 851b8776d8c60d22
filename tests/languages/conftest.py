"""One backend for all languages, on the host's toolchains or on those that UNSANDBOX_TOOLCHAINS names."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.languages.support import SYSTEM, TABLE, TABLE_FILE, WITH_CACHES, Row

from unsandbox.sandbox import BubblewrapBackend, Limits, pool_for

rows: dict[str, Row] = {}
BEGIN, END = "<!-- languages: begin -->", "<!-- languages: end -->"
"""The marks between which the document holds the table."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            # The backend belongs to the session's loop. First in the list, before the mark of asyncio_mode=auto.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
    # One language after the other: the programs of each run once in a worker, and workers get tests in a row.
    ours = [index for index, item in enumerate(items) if here in item.path.parents]
    by_language = sorted((items[index] for index in ours), key=_language_of)
    for index, item in zip(ours, by_language, strict=True):
        items[index] = item


def _language_of(item: pytest.Item) -> str:
    return str(item.callspec.params["name"]) if hasattr(item, "callspec") else ""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def language_backend() -> AsyncIterator[BubblewrapBackend]:
    async with BubblewrapBackend(system=WITH_CACHES) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def warm_backend() -> AsyncIterator[BubblewrapBackend]:
    """As jobs of a server have it, for the figures of the language table."""
    pool = pool_for(TABLE, 2, 4, Limits())
    async with BubblewrapBackend(system=WITH_CACHES, pool=pool) as opened:
        yield opened


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The line of the language table that this test fills."""
    return rows.setdefault(request.node.callspec.params["name"], Row())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if "row" in getattr(item, "fixturenames", ()) and (report.when == "call" or report.failed):
        assert isinstance(item, pytest.Function)
        entry = rows.setdefault(item.callspec.params["name"], Row())
        (entry.failed if report.failed else entry.passed).append(item.name)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the language table and put it into a document, if `make test-languages` asks for it."""
    if TABLE_FILE is None or not rows:
        return
    before, _, rest = TABLE_FILE.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    # A run may be of a few languages; what earlier ones found stays.
    lines = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("|")}
    for name, language in TABLE.items():
        if (entry := rows.get(name)) is not None:
            verdict = f"{len(entry.passed)} ok" + (
                f", failed: {' '.join(entry.failed)}" if entry.failed else ""
            )
            times = f"{entry.cold_ms:.0f} | {entry.warm_ms:.0f}"
            lines[name] = f"| {name} | {entry.version[:28]} | {times} | {verdict} |"
        elif name not in lines and not language.installed(SYSTEM):
            lines[name] = f"| {name} | - | | | not installed: {language.how_to_get()} |"
    found = [lines[name] for name in TABLE if name in lines]
    ran = [line for line in found if " ok" in line]
    good = sum("failed" not in line for line in ran)
    total = (
        f"{len(ran)} of {len(TABLE)} languages run here, {good} of them pass all their tests "
        f"({time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.0f})."
    )
    table = [
        "| language | version | cold, ms | warm, ms | verdict |",
        "|---|---|---|---|---|",
        *found,
        "",
        total,
    ]
    for line in table:
        terminalreporter.write_line(line)
    TABLE_FILE.write_text("\n".join([before + BEGIN, *table, END + after]), encoding="utf-8")
