"""`un keys`: the keys of a server's data folder. Works before the server's first start and while it runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pyotp

from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json
from unsandbox.engine.keys import KeyRow, KeySettings, StoredKeys

DATA_OPTION = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.local/share/unsandbox"),
    show_default=True,
    help="Data folder of the server.",
)


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of a server."""


@keys.command()
@DATA_OPTION
@JSON_OPTION
@click.option("--note", default="", help="What the key is for; shown in the list.")
@click.option("--otp", is_flag=True, help="Deleting and unlocking shall need a one-time code (TOTP).")
@click.option("--tier", default=1, show_default=True, help="Number that clients show.")
@click.option("--expires", "days", type=click.FloatRange(min=0), help="Days until the key is refused.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Jobs that it may have waiting or running.")
@click.option("--rate", type=click.IntRange(min=1), help="Requests that it may send a minute.")
@click.option("--burst", type=click.IntRange(min=1), help="Requests at once before the rate counts.")
@click.option("--sessions", type=click.IntRange(min=0), help="Sessions that it may have.")
@click.option("--services", type=click.IntRange(min=0), help="Services that it may have.")
def create(
    data: Path,
    as_json: bool,
    note: str,
    otp: bool,
    tier: int,
    days: float | None,
    concurrency: int | None,
    rate: int | None,
    burst: int | None,
    sessions: int | None,
    services: int | None,
) -> None:
    """Make a key pair. Its secret is shown this once."""
    settings = KeySettings(
        tier=tier,
        expires_at=None if days is None else time.time() + days * 86400,
        concurrency=concurrency,
        rate_per_minute=rate,
        burst=burst,
        sessions=sessions,
        services=services,
    )
    otp_secret = pyotp.random_base32() if otp else None
    with open_keys(data) as ring:
        pair = ring.create(note, otp_secret, settings)
    otp_uri = (
        pyotp.TOTP(otp_secret).provisioning_uri(name=pair.public_key, issuer_name="unsandbox")
        if otp_secret
        else None
    )
    if as_json:
        members = {"public_key": pair.public_key, "secret_key": pair.secret_key}
        print_json(members | ({"otp_secret": otp_secret, "otp_uri": otp_uri} if otp else {}))
        return
    click.echo(f"public key  {pair.public_key}")
    click.echo(f"secret key  {pair.secret_key}")
    if otp_uri:
        click.echo(f"one-time codes  {otp_uri}")
    click.echo("The secret is not shown again. Keep it in ~/.unsandbox/accounts.csv, mode 0600.", err=True)


@keys.command("list")
@DATA_OPTION
@JSON_OPTION
def list_keys(data: Path, as_json: bool) -> None:
    """List all keys, oldest first; never their secrets."""
    with open_keys(data) as ring:
        rows = ring.list()
    if as_json:
        print_json({"keys": [_members(row) for row in rows], "count": len(rows)})
        return
    for row in rows:
        state = "revoked" if row.revoked_at else "expired" if _expired(row) else "valid"
        click.echo(f"{row.public_key}  {state:8}  {_date(row.created_at)}  {row.note}".rstrip())
    if not rows:
        click.echo("no keys; make one: un keys create", err=True)


@keys.command()
@click.argument("public_key")
@DATA_OPTION
@JSON_OPTION
def revoke(public_key: str, data: Path, as_json: bool) -> None:
    """Make a key invalid for good; a running server obeys within a second."""
    with open_keys(data) as ring:
        if not ring.revoke(public_key):
            raise click.ClickException("no such valid key; un keys list shows what there is")
    if as_json:
        print_json({"public_key": public_key, "valid": False})
    else:
        click.echo(f"revoked {public_key}")


@contextlib.contextmanager
def open_keys(data: Path) -> Iterator[StoredKeys]:
    """Open the keys of a data folder and close them again."""
    ring = StoredKeys(data.expanduser())
    try:
        yield ring
    finally:
        ring.close()


def _members(row: KeyRow) -> dict[str, Any]:
    return {
        "public_key": row.public_key,
        "note": row.note,
        "created_at": str(int(row.created_at)),
        "valid": row.revoked_at is None and not _expired(row),
        **{name: value for name, value in msgspec.to_builtins(row.settings).items() if value is not None},
    }


def _expired(row: KeyRow) -> bool:
    return row.settings.expires_at is not None and time.time() >= row.settings.expires_at


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
