"""`un audit`: read and verify the audit log in a server's data folder."""

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
    """Verify or show a server's audit log: which key ran what, under which policy, with which outcome."""


@audit.command("verify")
@DATA_OPTION
@JSON_OPTION
def verify_log(data: Path, as_json: bool) -> None:
    """Verify that no line was changed, removed or inserted. Exit code 1 when one was.

    Store the number of lines and the last MAC elsewhere: without them, lines removed from the end go unnoticed.
    """
    folder = _existing(data)
    verdict = verify(folder, audit_key(SecretBox.from_file(folder / "server.key")))
    if as_json:
        members = {"lines": verdict.lines, "last_mac": verdict.last_mac, "problem": verdict.problem}
        print_json(members | {"ok": not verdict.problem})
    elif verdict.problem:
        click.echo(f"damaged: {verdict.problem}; the {verdict.lines} lines before it are intact", err=True)
    elif not verdict.lines:
        click.echo(f"empty: nothing has been logged in {folder}", err=True)
    else:
        click.echo(f"intact: {verdict.lines} lines in {folder}, last MAC {verdict.last_mac}")
    if verdict.problem:
        raise click.exceptions.Exit(1)


@audit.command()
@DATA_OPTION
@JSON_OPTION
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Number of last lines to show.")
def show(data: Path, as_json: bool, lines: int | None) -> None:
    """Print the log, oldest line first."""
    folder = _existing(data)
    entries = list(read(folder))[-(lines or 0) :]
    if not entries:
        click.echo(f"empty: nothing has been logged in {folder}", err=True)
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
        raise click.ClickException(f"{folder} is not a server's data folder; name one with --data")
    return folder
