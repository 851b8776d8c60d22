"""The test suite as a whole: workers, markers and what they need, the budget of skips, the list of reruns."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Imported now and not when pytest writes its summary: CPython 3.11 can fail there ("AST constructor recursion
# depth mismatch") when a cold assertion-rewrite cache meets the garbage collector.
import hypothesis
import pytest
from tests import loop_time, processor_time
from tests.support import ABSENT, CLIENTS, ENVIRONMENT, FRAMEWORKS, OPTIONAL

from unsandbox.sandbox import SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc

# Caches of toolchains are made beside the first jobs and outlive a run; their tests use other folders.
os.environ.setdefault("UNSANDBOX_TOOLCHAIN_CACHE", "off")

# The default limit of 200 ms per example fails on a busy machine; `timeout` in pyproject.toml bounds each test.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("suite"), max_examples=25)
hypothesis.settings.load_profile("suite")

RERUNS = Path("build/reruns.txt")
WORKERS_PER_CORE = 2
"""Tests wait for other processes about half of their time."""
MOST_WORKERS = 16


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


@functools.cache
def has_gvisor() -> bool:
    try:
        runsc.find()
    except SandboxUnavailable:
        return False
    return True


CGROUPS = """
import os, sys
from unsandbox.sandbox.launcher.groups import SandboxGroups

groups = SandboxGroups(f"unsandbox-{os.getpid()}-tests")
found = groups.open()
groups.close()
sys.exit(not {"memory", "pids", "cpu"} <= set(found.cgroup_parents))
"""


@functools.cache
def has_cgroups() -> bool:
    # In a process that does as a launcher: it may be moved to another group.
    return subprocess.run([sys.executable, "-c", CGROUPS], check=False).returncode == 0


REQUIREMENTS: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (is_root, "needs root"),
    "gvisor": (has_gvisor, "no usable runsc: un doctor --install-gvisor"),
    "cgroups": (has_cgroups, "no control groups that can be written"),
}
"""What a test with a marker needs; without it the test is skipped."""

NOT_COUNTED = (
    ABSENT,
    CLIENTS,
    ENVIRONMENT,
    FRAMEWORKS,
    OPTIONAL,
    "no v1 freezer",
    "a v2 hierarchy has its freezer",
    "every user may open the device here",
    REQUIREMENTS["cgroups"][1],
)
"""Reasons that depend on the kernel, or on toolchains beyond `make dev-install`; it ends every other skip."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--max-skips",
        type=int,
        default=0 if is_root() else None,
        help="fail when more tests are skipped (default: 0 as root, else no limit)",
    )
    parser.addoption(
        "--durations-cpu",
        type=int,
        metavar="N",
        help="show the N tests and files that use most processor time, with child processes (0: all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Test modules are imported later, and take what is in force then.
    hypothesis.settings.load_profile("quick" if config.option.markexpr == "not slow" else "suite")
    if not config.getoption("--cov", None):
        # Coverage slows everything down, so times mean nothing.
        config.pluginmanager.register(loop_time.LoopTime())
    if config.getoption("--durations-cpu") is not None:
        config.pluginmanager.register(processor_time.ProcessorTime())


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` starts."""
    return max(2, min(MOST_WORKERS, WORKERS_PER_CORE * len(os.sched_getaffinity(0))))


TWINS = ("test_files.py", "test_mapping.py", "test_processes.py", "test_session_files.py")
"""Files of tests/_sync with many sandboxes. They are generated: the tests in tests/_async cover the same code."""


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "_sync" and item.path.name in TWINS:
            item.add_marker(pytest.mark.slow)
    for name, (available, reason) in REQUIREMENTS.items():
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _reports(config: pytest.Config, outcome: str) -> list[pytest.TestReport]:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    return [] if terminal is None else terminal.stats.get(outcome, [])


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext.strip().rpartition("\n")[2]


def _counted_skips(config: pytest.Config) -> list[str]:
    return [
        f"{report.nodeid}: {_reason(report)}"
        for report in _reports(config, "skipped")
        if not _reason(report).removeprefix("Skipped: ").startswith(NOT_COUNTED)
    ]


def _too_many_skips(config: pytest.Config) -> bool:
    limit = config.getoption("--max-skips")
    return limit is not None and len(_counted_skips(config)) > limit


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput"):
        return
    if session.exitstatus == pytest.ExitCode.OK and _too_many_skips(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if config.getoption("reruns", None):
        RERUNS.parent.mkdir(exist_ok=True)
        lines = [f"{report.nodeid}: {_reason(report)}\n" for report in _reports(config, "rerun")]
        RERUNS.write_text("".join(sorted(lines)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _too_many_skips(config):
        terminalreporter.section("skipped more than --max-skips allows: this fails the run", red=True)
        for line in _counted_skips(config):
            terminalreporter.line(line)
    if (most := config.getoption("--durations-cpu")) is not None:
        processor_time.summarize(terminalreporter, most)
    if reruns := _reports(config, "rerun"):
        terminalreporter.section(f"{len(reruns)} needed a rerun (also in {RERUNS})", yellow=True)
        for report in reruns:
            terminalreporter.line(f"{report.nodeid}: {_reason(report)}")
