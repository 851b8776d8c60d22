"""`--durations-cpu N`: the tests and files that use most processor time, with that of their child processes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _with_children(pid: int | str, ticks: Counter[int]) -> None:
    """Add a process, its ended children and, by recursion, its running ones."""
    try:
        # After the name, which may hold anything, in parentheses: utime, stime, cutime and cstime are 11 to 14.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it ended just now: its parent has its time
        return
    ticks[int(pid)] = sum(map(int, fields[11:15]))
    for child in children:
        _with_children(child, ticks)


class ProcessorTime:
    """Notes for each phase of a test how much processor time this worker and its child processes took."""

    def __init__(self) -> None:
        self.before = self._now()

    def _now(self) -> int:
        ticks: Counter[int] = Counter()
        _with_children(os.getpid(), ticks)
        return ticks.total()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        report = yield
        # The lists of children miss some while others end: a sum below an earlier one is none.
        now = max(self._now(), self.before)
        report.cpu_s = (now - self.before) / TICKS_PER_S
        self.before = now
        return report


def summarize(terminal: Any, most: int) -> None:
    """Print the sums of tests and of files, the largest first."""
    tests: Counter[str] = Counter()
    wall: Counter[str] = Counter()
    for reports in terminal.stats.values():
        for report in reports:
            if hasattr(report, "cpu_s"):
                tests[report.nodeid] += report.cpu_s
                wall[report.nodeid] += report.duration
    files: Counter[str] = Counter()
    files_wall: Counter[str] = Counter()
    for name, seconds in tests.items():
        files[name.partition("::")[0]] += seconds
        files_wall[name.partition("::")[0]] += wall[name]
    terminal.section(f"processor time: {tests.total():.1f} s in {len(tests)} tests (of {wall.total():.1f} s)")
    for sums, walls in ((files, files_wall), (tests, wall)):
        for name, seconds in sums.most_common(most or None):
            terminal.line(f"{seconds:8.2f} s cpu {walls[name]:8.2f} s  {name}")
        terminal.line("")
