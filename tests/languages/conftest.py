"""One backend for all languages, on the host's toolchains or on those that UNSANDBOX_TOOLCHAINS names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.languages.support import SYSTEM, TABLE, Row

from unsandbox.sandbox import BubblewrapBackend

rows: dict[str, Row] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            # The backend belongs to the session's loop. First in the list, before the mark of asyncio_mode=auto.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def language_backend() -> AsyncIterator[BubblewrapBackend]:
    async with BubblewrapBackend(system=SYSTEM) as opened:
        yield opened


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The line of the language table that this test fills."""
    return rows.setdefault(request.node.callspec.params["name"], Row())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if "row" in getattr(item, "fixturenames", ()) and (report.when == "call" or report.failed):
        entry = rows.setdefault(item.callspec.params["name"], Row())
        (entry.failed if report.failed else entry.passed).append(item.name)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the language table; `make test-languages` asks for it."""
    if not os.environ.get("UNSANDBOX_LANGUAGE_TABLE") or not rows:
        return
    write = terminalreporter.write_line
    write(f"{'language':<13} {'version':<28} {'hello ms':>8}  verdict")
    for name, language in TABLE.items():
        if (entry := rows.get(name)) is None:
            write(f"{name:<13} {'not installed':<28} {'':>8}  {language.how_to_get()}")
            continue
        verdict = f"{len(entry.passed)} ok" + (f", FAILED: {' '.join(entry.failed)}" if entry.failed else "")
        write(f"{name:<13} {entry.version[:28]:<28} {entry.hello_ms:>8.0f}  {verdict}")
    good = [name for name, entry in rows.items() if not entry.failed]
    write(f"{len(rows)} languages installed, {len(good)} pass all their tests, {len(TABLE)} in the table")
