"""Fuzz every parser, guided by coverage, and the API of a real server; print what was tried.

    python benchmarks/fuzz.py [--seconds N] [--only NAME] [--api-examples N]

Each target of `tests/fuzz/targets.py` gets N seconds of libFuzzer by atheris in a process of its own, with its seeds
and what Hypothesis finds as a beginning. A finding is printed with its input and ends the run with exit code 1. `make
fuzz` installs atheris, which is no part of the locked environment (Linux on x86-64 and CPython 3.11 to 3.13 only).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))
_DONE = re.compile(r"Done (\d+) (?:runs|in)|stat::number_of_executed_units: (\d+)")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")
_LONGEST_INPUT = 4096
_LARGEST_GROWTH = 1 << 18


def fuzz_here(name: str, arguments: list[str]) -> None:
    """In a process of its own: hand one target to libFuzzer; never returns."""
    import atheris  # type: ignore[import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["unsandbox"]):
        from tests.fuzz.growth import check_time
        from tests.fuzz.targets import TARGETS

    run = TARGETS[name].run

    def look(data: bytes) -> None:
        run(data)
        check_time(run, data)

    atheris.Setup([sys.argv[0], *arguments], look)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, seeds: tuple[bytes, ...]) -> tuple[int, str, str]:
    """Run one target for so many seconds; return runs, coverage, and what was found (or nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        command = [
            *(sys.executable, __file__, "--here", name, str(corpus), f"-max_total_time={seconds}"),
            *(f"-max_len={_LONGEST_INPUT}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"),
            f"-artifact_prefix={folder}/found-",
        ]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=TOP)
        said = ended.stdout + ended.stderr
        runs = max((int(match[1] or match[2]) for match in _DONE.finditer(said)), default=0)
        seen = _COVERAGE.findall(said)
        found = [path.read_bytes() for path in Path(folder).glob("found-*")]
        problem = ""
        if ended.returncode or found:
            problem = f"{said[-3000:]}\ninput: {found[0][:500] if found else b''!r}"
        return runs, "/".join(seen[-1]) if seen else "?", problem


def grows(name: str) -> str:
    """Return what makes the work of one target grow faster than its input, or nothing."""
    from tests.fuzz.growth import TooMuchWorkError, check_growth, hostile_inputs
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    try:
        for begin, unit in hostile_inputs(target.seeds):
            check_growth(target.run, begin, unit, largest=_LARGEST_GROWTH)
    except TooMuchWorkError as error:
        return str(error)
    return ""


def main() -> int:
    """Fuzz everything; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="for each parser (20)")
    parser.add_argument("--only", help="one parser")
    parser.add_argument(
        "--api-examples", type=int, default=200, help="requests for each operation; 0: none (200)"
    )
    options = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    failed, total = 0, 0
    names = [options.only] if options.only else list(TARGETS)
    for name in names:
        if problem := grows(name):
            failed += 1
            print(f"FOUND {name}: {problem}", flush=True)
    print(f"{'parser':24} {'runs':>10} {'edges/features':>16}  verdict", flush=True)
    for name in names:
        runs, coverage, problem = fuzz(name, options.seconds, TARGETS[name].seeds)
        total += runs
        print(f"{name:24} {runs:10} {coverage:>16}  {'FOUND' if problem else 'nothing found'}", flush=True)
        if problem:
            failed += 1
            print(problem, file=sys.stderr)
    print(f"{len(names)} parsers, {total} inputs", flush=True)
    if options.api_examples and not options.only:
        from tests.fuzz.api import look

        started = time.monotonic()
        report = look(options.api_examples)
        print(f"API: {report.operations} operations, {report.requests} requests in "
              f"{time.monotonic() - started:.0f} s, statuses {report.by_status}")  # fmt: skip
        for line in report.problems:
            failed += 1
            print(f"FOUND {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
    sys.exit(main())
