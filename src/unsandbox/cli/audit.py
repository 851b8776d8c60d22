"""`un audit`: the audit log of a server's data folder."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from unsandbox.cli.keys import DATA_OPTION
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json
from unsandbox.engine.accounts.audit import audit_key, read, verify
from unsandbox.engine.accounts.secretbox import SecretBox


@click.group()
def audit() -> None:
    """Check or show the audit log of a server: who ran what, under which policy, with what outcome."""


@audit.command("verify")
@DATA_OPTION
@JSON_OPTION
def verify_log(data: Path, as_json: bool) -> None:
    """Check that no line was changed, removed or inserted; exit code 1 when one was.

    Keep the number of lines and the last MAC elsewhere: only they tell later that the end was cut off.
    """
    folder = _existing(data)
    verdict = verify(folder, audit_key(SecretBox.from_file(folder / "server.key")))
    if as_json:
        members = {"lines": verdict.lines, "last_mac": verdict.last_mac, "problem": verdict.problem}
        print_json(members | {"ok": not verdict.problem})
    elif verdict.problem:
        click.echo(f"not whole: {verdict.problem}; the {verdict.lines} lines before it are", err=True)
    else:
        click.echo(f"whole: {verdict.lines} lines, last MAC {verdict.last_mac}")
    if verdict.problem:
        raise click.exceptions.Exit(1)


@audit.command()
@DATA_OPTION
@JSON_OPTION
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Only the last so many.")
def show(data: Path, as_json: bool, lines: int | None) -> None:
    """Show the lines, oldest first."""
    entries = list(read(_existing(data)))[-(lines or 0) :]
    for entry in entries:
        if as_json:
            print_json(entry)
            continue
        at = dt.datetime.fromtimestamp(entry.pop("time", 0), dt.UTC)
        entry.pop("mac", None)
        number, event = entry.pop("seq", "?"), entry.pop("event", "?")
        members = " ".join(f"{name}={value}" for name, value in entry.items())
        click.echo(f"{number} {at:%Y-%m-%dT%H:%M:%SZ} {event} {members}")


def _existing(data: Path) -> Path:
    folder = data.expanduser()
    if not (folder / "server.key").exists():
        raise click.ClickException(f"{folder} is no data folder of a server; name one with --data")
    return folder
