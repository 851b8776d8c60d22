"""`un doctor`: test which isolation this machine can enforce and which languages it can run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from unsandbox.cli.options import JSON_OPTION
from unsandbox.engine import Engine
from unsandbox.engine.backends import options_of
from unsandbox.errors import EngineError
from unsandbox.sandbox import (
    BubblewrapBackend,
    Check,
    GvisorBackend,
    ProbeReport,
    SandboxUnavailable,
    find_system,
)
from unsandbox.sandbox.bubblewrap.backend import POOL
from unsandbox.sandbox.gvisor import install
from unsandbox.sandbox.gvisor.runsc import HOW_TO_GET
from unsandbox.sandbox.host.persistent_probe import PERSISTENT
from unsandbox.sandbox.remedies import LINGER, find_container, this_machine
from unsandbox.sandbox.seccomp.container import apparmor_profile, container_profile

_SAFE = (LINGER, "apt-get install")
"""Remedies that `--fix` carries out: they take nothing away and are easily undone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report.

    Attributes:
        name: The subject.
        ok: Whether nothing is missing.
        text: What is enforced by what, or what is missing.
        remedy: The command that helps on this machine.
    """

    name: str
    ok: bool
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the examination found."""

    report: ProbeReport
    gvisor: ProbeReport
    languages: list[str]
    missing: dict[str, str]


@click.command()
@JSON_OPTION
@click.option("--verbose", "-v", is_flag=True, help="Show every check of every backend, and all languages.")
@click.option(
    "--fix", is_flag=True, help="Carry out remedies that are safe (packages, lingering), then check again."
)
@click.option(
    "--install-gvisor",
    is_flag=True,
    help="First install gVisor's runsc from the machine's Debian mirror into the engine's own folder.",
)
@click.option("--seccomp-profile", is_flag=True, help="Only print a seccomp profile for container engines.")
@click.option("--apparmor-profile", is_flag=True, help="Only print a profile for AppArmor, as Ubuntu needs it.")
@click.pass_context
def doctor(
    ctx: click.Context,
    as_json: bool,
    verbose: bool,
    fix: bool,
    install_gvisor: bool,
    seccomp_profile: bool,
    apparmor_profile: bool,
) -> None:
    """Check what this machine can isolate and run, by starting a sandbox of each kind.

    Each line tells what is enforced by what, or what is missing and the command that brings it here. Exit code
    1 when no sandbox can be isolated completely.
    """
    if seccomp_profile or apparmor_profile:
        click.echo(container_profile() if seccomp_profile else _apparmor_profile())
        return
    if install_gvisor:
        try:
            found = install.install()
        except SandboxUnavailable as error:
            raise EngineError(f"cannot install gVisor: {error}") from error
        click.echo(f"installed runsc {found.version} at {found.path}", err=True)
    findings = asyncio.run(_examine())
    if fix and _carry_out(rows_of(findings)):
        findings = asyncio.run(_examine())
    rows = rows_of(findings)
    if as_json:
        members = dataclasses.asdict(findings.report)
        members |= {"languages": findings.languages, "missing": findings.missing}
        members |= {"gvisor": dataclasses.asdict(findings.gvisor), "rows": [*map(dataclasses.asdict, rows)]}
        click.echo(json.dumps(members, default=str))
    else:
        _print(rows)
        if verbose:
            _print_all(findings)
    ctx.exit(0 if findings.report.usable else 1)


def _apparmor_profile() -> str:
    script = shutil.which(sys.argv[0]) or sys.argv[0]
    return apparmor_profile([str(Path(script).absolute())]).rstrip("\n")


async def _examine() -> Findings:
    engine = Engine()
    backend = BubblewrapBackend.from_options(options_of(engine.config, engine.languages))
    try:
        report = await backend.open()
        persistent, pool = await backend.prove_persistent(), await backend.prove_pool()
        checks = [*report.checks, *persistent, pool, *_logout(backend.host.cgroup.parents)]
        report = dataclasses.replace(report, checks=checks)
    except SandboxUnavailable as error:
        report = ProbeReport(backend=backend.name, usable=False, checks=(), reason=str(error))
    finally:
        await backend.close()
    available = {language.name for language in engine.languages.available()}
    missing = {
        language.name: language.how_to_get()
        for language in engine.languages.values()
        if language.name not in available
    }
    return Findings(report, await _examine_gvisor(), sorted(available), missing)


async def _examine_gvisor() -> ProbeReport:
    backend = GvisorBackend(system=find_system())
    try:
        report = await backend.open()
    except SandboxUnavailable as error:
        return ProbeReport(backend=backend.name, usable=False, checks=(), reason=str(error))
    await backend.close()
    return report


def _logout(parents: Mapping[str, str]) -> list[Check]:
    """Return a check for sandboxes whose groups end with the last login session of their user."""
    if f"/user@{os.geteuid()}.service/" not in "".join(parents.values()):
        return []
    user = this_machine().user
    if Path("/var/lib/systemd/linger", user).exists():
        return []
    detail = "they end with your last login session"
    return [Check("persistent: logout", False, "nothing", detail, f"{LINGER} {shlex.quote(user)}")]


def rows_of(findings: Findings) -> list[Row]:
    """Return the lines of the report."""
    report = findings.report
    checks = {check.name: check for check in report.checks}
    proved = sum(name.startswith("isolation") for name in checks)
    text = f"{proved} protections" if report.usable else report.reason
    rows = [Row("isolation", report.usable, f"{report.backend}: {text}")]
    if container := find_container():
        rows.append(Row("container", True, container))
    rows += _limit_rows(checks)
    for name, title in (("limit: separate users", "users"), ("network: semitrusted", "network")):
        if (check := checks.get(name)) is not None:
            rows.append(_row(title, check))
    persistent = [check for name, check in checks.items() if name.startswith("persistent")]
    if persistent:
        rows.append(_persistent_row(persistent, checks))
    if (pool := checks.get(POOL)) is not None:
        rows.append(_row("pool", pool))
    gvisor = findings.gvisor
    text = "usable" if gvisor.usable else gvisor.reason.partition(". Install")[0]
    rows.append(Row("gVisor", gvisor.usable, text, "" if gvisor.usable else HOW_TO_GET))
    count = len(findings.languages)
    remedy = "un languages --host" if findings.missing else ""
    rows.append(Row("languages", bool(count), f"{count} of {count + len(findings.missing)}", remedy))
    return rows


def _row(title: str, check: Check) -> Row:
    detail = check.detail.partition(";")[0]
    return Row(title, check.ok, f"{check.enforced_by}: {detail}" if detail else check.enforced_by, check.remedy)


def _limit_rows(checks: Mapping[str, Check]) -> list[Row]:
    """Return one line if the same means enforces all limits, otherwise one for each."""
    names = ("memory", "processes", "CPU")
    limits = [(name, checks[f"limit: {name}"]) for name in names if f"limit: {name}" in checks]
    if limits and len({(check.ok, check.enforced_by) for _, check in limits}) == 1:
        return [_row("limits", limits[0][1])]
    rows = [_row(name, check) for name, check in limits]
    # The same command helps against all of them: it stands once.
    told: set[str] = set()
    for number, row in enumerate(rows):
        if row.remedy in told:
            rows[number] = dataclasses.replace(row, remedy="")
        told.add(row.remedy)
    return rows


def _persistent_row(persistent: Sequence[Check], checks: Mapping[str, Check]) -> Row:
    """Return the line about sessions and services: refused, or what is weaker."""
    if not checks[PERSISTENT].ok:
        return _row("sessions", checks[PERSISTENT])
    weak = [check for check in persistent if not check.ok]
    parts = [f"frozen by {checks['persistent: freeze'].enforced_by}", *(check.detail for check in weak)]
    remedy = next((check.remedy for check in weak if check.remedy), "")
    return Row("sessions", not remedy, "; ".join(parts), remedy)


def _carry_out(rows: Sequence[Row]) -> bool:
    """Run the safe remedies; return whether there was one."""
    commands = [row.remedy for row in rows if not row.ok and row.remedy.startswith(_SAFE)]
    for command in commands:
        click.echo(f"+ {command}", err=True)
        if subprocess.run(shlex.split(command), check=False, stdin=subprocess.DEVNULL).returncode:
            raise EngineError(f"a remedy failed: {command}")
    return bool(commands)


def _print(rows: Sequence[Row]) -> None:
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = click.style("ok", fg="green") if row.ok else click.style("no", fg="red")
        click.echo(f"{mark}  {row.name:<{width}}  {row.text}")
        if row.remedy:
            click.echo(f"    {'':<{width}}  -> {row.remedy}")


def _print_all(findings: Findings) -> None:
    for report in (findings.report, findings.gvisor):
        click.echo(f"\n{report.backend}: {'usable' if report.usable else 'not usable'}")
        if report.reason:
            click.echo(f"  {report.reason}")
        width = max((len(check.name) for check in report.checks), default=0)
        for check in report.checks:
            mark = click.style("ok", fg="green") if check.ok else click.style("no", fg="red")
            click.echo(f"  {mark}  {check.name:<{width}}  {check.enforced_by}  {check.detail}".rstrip())
    click.echo(f"\nlanguages: {' '.join(findings.languages)}")
    click.echo(f"missing: {' '.join(sorted(findings.missing))}")
