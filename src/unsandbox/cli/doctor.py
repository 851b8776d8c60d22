"""`un doctor`: what this machine can enforce and run, found out by trying."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import click

from unsandbox.cli.keys import JSON_OPTION
from unsandbox.engine import Engine
from unsandbox.sandbox import ProbeReport, SandboxUnavailable


@click.command()
@JSON_OPTION
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Tell what this machine can enforce and run, by really running a sandbox."""
    report, languages, missing = asyncio.run(_examine())
    if as_json:
        members = dataclasses.asdict(report) | {"languages": languages, "missing": missing}
        click.echo(json.dumps(members, default=str))
    else:
        _print_report(report, languages, missing)
    ctx.exit(0 if report.usable else 1)


async def _examine() -> tuple[ProbeReport, list[str], dict[str, str]]:
    engine = Engine()
    try:
        report = await engine.start()
    except SandboxUnavailable as error:
        report = ProbeReport(backend="bubblewrap", usable=False, checks=(), reason=str(error))
    else:
        await engine.stop()
    available = {language.name for language in engine.languages.available()}
    missing = {
        language.name: language.how_to_get()
        for language in engine.languages.values()
        if language.name not in available
    }
    return report, sorted(available), missing


def _print_report(report: ProbeReport, languages: list[str], missing: dict[str, str]) -> None:
    state = click.style("usable", fg="green") if report.usable else click.style("not usable", fg="red")
    click.echo(f"isolation   {report.backend}: {state}")
    if report.reason:
        click.echo(f"            {report.reason}")
    for check in report.checks:
        mark = click.style("ok", fg="green") if check.ok else click.style("no", fg="red")
        click.echo(f"  {mark}  {check.name:<20} {check.enforced_by}  {check.detail}".rstrip())
    click.echo(f"languages   {len(languages)}: {' '.join(languages)}")
    for name, how in sorted(missing.items()):
        click.echo(f"  not installed: {name}" + (f" ({how})" if how else ""))
