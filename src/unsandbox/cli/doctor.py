"""`un doctor`: test which isolation this machine can enforce and which languages it can run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence

import click

from unsandbox.cli.options import JSON_OPTION
from unsandbox.engine import Engine
from unsandbox.errors import EngineError
from unsandbox.sandbox import (
    BubblewrapBackend,
    Check,
    GvisorBackend,
    ProbeReport,
    SandboxUnavailable,
    find_system,
)
from unsandbox.sandbox.gvisor import install


@click.command()
@JSON_OPTION
@click.option(
    "--install-gvisor",
    is_flag=True,
    help="First install gVisor's runsc from the machine's Debian mirror into the engine's own folder.",
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, install_gvisor: bool) -> None:
    """Check what this machine can isolate and run, by starting a sandbox of each kind.

    Exit code 1 when no sandbox can be isolated completely.
    """
    if install_gvisor:
        try:
            found = install.install()
        except SandboxUnavailable as error:
            raise EngineError(f"cannot install gVisor: {error}") from error
        click.echo(f"installed runsc {found.version} at {found.path}", err=True)
    report, languages, missing = asyncio.run(_examine())
    gvisor = asyncio.run(_examine_gvisor())
    if as_json:
        members = dataclasses.asdict(report) | {"languages": languages, "missing": missing}
        click.echo(json.dumps(members | {"gvisor": dataclasses.asdict(gvisor)}, default=str))
    else:
        _print_isolation(report)
        _print_isolation(gvisor)
        _print_languages(languages, missing)
    ctx.exit(0 if report.usable else 1)


async def _examine() -> tuple[ProbeReport, list[str], dict[str, str]]:
    engine = Engine()
    try:
        report = await engine.start()
    except SandboxUnavailable as error:
        report = ProbeReport(backend="bubblewrap", usable=False, checks=(), reason=str(error))
    else:
        await engine.stop()
        report = dataclasses.replace(report, checks=[*report.checks, *await _examine_persistent()])
    available = {language.name for language in engine.languages.available()}
    missing = {
        language.name: language.how_to_get()
        for language in engine.languages.values()
        if language.name not in available
    }
    return report, sorted(available), missing


async def _examine_persistent() -> Sequence[Check]:
    """Return the checks of persistent sandboxes."""
    async with BubblewrapBackend(system=find_system()) as backend:
        return await backend.prove_persistent()


async def _examine_gvisor() -> ProbeReport:
    backend = GvisorBackend(system=find_system())
    try:
        report = await backend.open()
    except SandboxUnavailable as error:
        return ProbeReport(backend=backend.name, usable=False, checks=(), reason=str(error))
    await backend.close()
    return report


def _print_isolation(report: ProbeReport) -> None:
    state = click.style("usable", fg="green") if report.usable else click.style("not usable", fg="red")
    click.echo(f"isolation   {report.backend}: {state}")
    if report.reason:
        click.echo(f"            {report.reason}")
    width = max((len(check.name) for check in report.checks), default=0)
    for check in report.checks:
        mark = click.style("ok", fg="green") if check.ok else click.style("no", fg="red")
        click.echo(f"  {mark}  {check.name:<{width}}  {check.enforced_by}  {check.detail}".rstrip())


def _print_languages(languages: list[str], missing: dict[str, str]) -> None:
    click.echo(f"languages   {len(languages)}: {' '.join(languages)}")
    if missing:
        click.echo(f"missing     {len(missing)}: {' '.join(sorted(missing))}")
        click.echo("            `un languages --all` shows how to get each")
