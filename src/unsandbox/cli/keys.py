"""`un keys`: the keys of a server's data folder. Works before the server's first start and while it runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import click

from unsandbox.engine.keys import KeyRow, StoredKeys

DATA_OPTION = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.local/share/unsandbox"),
    show_default=True,
    help="Data folder of the server.",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of a server."""


@keys.command()
@DATA_OPTION
@JSON_OPTION
@click.option("--note", default="", help="What the key is for; shown in the list.")
def create(data: Path, as_json: bool, note: str) -> None:
    """Make a key pair. Its secret is shown this once."""
    with open_keys(data) as ring:
        pair = ring.create(note)
    if as_json:
        click.echo(json.dumps({"public_key": pair.public_key, "secret_key": pair.secret_key}))
        return
    click.echo(f"public key  {pair.public_key}")
    click.echo(f"secret key  {pair.secret_key}")
    click.echo("The secret is not shown again. Keep it in ~/.unsandbox/accounts.csv, mode 0600.", err=True)


@keys.command("list")
@DATA_OPTION
@JSON_OPTION
def list_keys(data: Path, as_json: bool) -> None:
    """List all keys, oldest first; never their secrets."""
    with open_keys(data) as ring:
        rows = ring.list()
    if as_json:
        click.echo(json.dumps({"keys": [_members(row) for row in rows], "count": len(rows)}))
        return
    for row in rows:
        state = "revoked" if row.revoked_at else "valid"
        click.echo(f"{row.public_key}  {state:8}  {_date(row.created_at)}  {row.note}".rstrip())
    if not rows:
        click.echo("no keys; make one: un keys create", err=True)


@keys.command()
@click.argument("public_key")
@DATA_OPTION
def revoke(public_key: str, data: Path) -> None:
    """Make a key invalid for good; a running server obeys within a second."""
    with open_keys(data) as ring:
        if not ring.revoke(public_key):
            raise click.ClickException("no such valid key; un keys list shows what there is")
    click.echo(f"revoked {public_key}")


@contextlib.contextmanager
def open_keys(data: Path) -> Iterator[StoredKeys]:
    """Open the keys of a data folder and close them again."""
    ring = StoredKeys(data.expanduser())
    try:
        yield ring
    finally:
        ring.close()


def _members(row: KeyRow) -> dict[str, str | int | bool]:
    return {
        "public_key": row.public_key,
        "note": row.note,
        "created_at": str(int(row.created_at)),
        "valid": row.revoked_at is None,
    }


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
