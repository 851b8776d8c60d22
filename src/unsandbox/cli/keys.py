"""`un keys`: manage the keys in a server's data folder, before its first start and while it runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import pyotp

from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json, table
from unsandbox.engine.accounts.keys import KeyRow, KeySettings
from unsandbox.engine.accounts.stored_keys import StoredKeys

Command = TypeVar("Command", bound=Callable[..., Any])

DATA_OPTION = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.local/share/unsandbox"),
    show_default=True,
    help="Data folder of the server.",
)


_COLUMNS = ("public_key", "state", "created", "note")
_NO_SUCH_KEY = "unknown or revoked key; `un keys list` lists the keys"
_MOST = 1_000_000_000
"""The largest number in a setting."""
_LIMITS: dict[str, tuple[str, click.ParamType[Any], str]] = {
    "concurrency": ("--concurrency", click.IntRange(1, _MOST), "Jobs that may be queued or running."),
    "rate_per_minute": ("--rate", click.IntRange(1, _MOST), "Requests per minute."),
    "burst": ("--burst", click.IntRange(1, _MOST), "Requests in a burst before the rate applies."),
    "sessions": ("--sessions", click.IntRange(0, _MOST), "Number of sessions."),
    "services": ("--services", click.IntRange(0, _MOST), "Number of services."),
    "cpu_s_per_hour": ("--cpu-hour", click.IntRange(1, _MOST), "Seconds of CPU time in any hour."),
    "cpu_s_per_day": ("--cpu-day", click.IntRange(1, _MOST), "Seconds of CPU time in any day."),
    "memory_mb": ("--memory", click.IntRange(16, _MOST), "MiB of memory of all its sandboxes together."),
    "sandbox_memory_mb": ("--sandbox-memory", click.IntRange(16, _MOST), "MiB of memory of each sandbox."),
    "disk_mb": ("--disk", click.IntRange(0, _MOST), "MiB of disk: sessions, services, snapshots and images."),
    "output_mb": ("--output", click.IntRange(1, _MOST), "MiB stored of each output stream of a job."),
    "results_mb": (
        "--results",
        click.IntRange(1, _MOST),
        "MiB of stored job results; the oldest are deleted first.",
    ),
    "isolation": (
        "--isolation",
        click.Choice(["gvisor", "hardened"]),
        "Minimum isolation backend of its sandboxes.",
    ),
    "environments": (
        "--environments",
        click.STRING,
        "Environments that it may use, separated by commas (default: all).",
    ),
}
"""Option, type and help for each setting of a key."""


def _settings_options(tier: int | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds the options for a key's settings."""

    def add(command: Command) -> Command:
        for name, (option, kind, text) in reversed(_LIMITS.items()):
            command = click.option(option, name, type=kind, help=text)(command)
        expires = click.option(
            "--expires", "days", type=click.FloatRange(0, 36_500), help="Days until the key expires."
        )
        shown = click.option(
            "--tier",
            type=click.IntRange(0, _MOST),
            default=tier,
            show_default=tier is not None,
            help="Tier number; shown by clients, without further meaning.",
        )
        return shown(expires(command))

    return add


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the options name."""
    days = options.pop("days")
    expires = {} if days is None else {"expires_at": time.time() + days * 86400}
    return {name: value for name, value in options.items() if value is not None} | expires


def _set(settings: KeySettings) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(settings).items() if value is not None}


@click.group()
def keys() -> None:
    """Create, list, change and revoke the keys of a server."""


@keys.command()
@DATA_OPTION
@JSON_OPTION
@click.option(
    "--export", is_flag=True, help='Print shell commands: eval "$(un keys create --export)" uses the new key.'
)
@click.option("--note", default="", help="Purpose of the key, shown in the list.")
@click.option("--otp", is_flag=True, help="Require a one-time code (TOTP) for deleting and unlocking.")
@_settings_options(tier=1)
def create(data: Path, as_json: bool, export: bool, note: str, otp: bool, **settings: Any) -> None:
    """Create a key pair. The secret is shown only once."""
    otp_secret = pyotp.random_base32() if otp else None
    with open_keys(data) as ring:
        pair = ring.create(note, otp_secret, KeySettings(**_given(settings)))
    otp_uri = (
        pyotp.TOTP(otp_secret).provisioning_uri(name=pair.public_key, issuer_name="unsandbox")
        if otp_secret
        else None
    )
    if as_json:
        members = {"public_key": pair.public_key, "secret_key": pair.secret_key}
        print_json(members | ({"otp_secret": otp_secret, "otp_uri": otp_uri} if otp else {}))
        return
    if export:
        click.echo(f"export UNSANDBOX_PUBLIC_KEY={pair.public_key}")
        click.echo(f"export UNSANDBOX_SECRET_KEY={pair.secret_key}")
        return
    click.echo(f"public key  {pair.public_key}")
    click.echo(f"secret key  {pair.secret_key}")
    if otp_uri:
        click.echo(f"one-time codes  {otp_uri}")
    click.echo("The secret is not shown again. Store it in ~/.unsandbox/accounts.csv with mode 0600.", err=True)


@keys.command("set")
@click.argument("public_key")
@DATA_OPTION
@JSON_OPTION
@_settings_options()
@click.option("--unlimited", metavar="NAMES", help="Remove limits: setting names, separated by commas.")
def change(public_key: str, data: Path, as_json: bool, unlimited: str | None, **settings: Any) -> None:
    """Change the settings of a key. A running server applies them within a second.

    Settings that are not named stay as they are. Examples: `--cpu-hour 3600 --memory 8192`,
    `--unlimited memory_mb`.
    """
    names = [name.strip() for name in (unlimited or "").split(",") if name.strip()]
    known = [name for name in KeySettings.__struct_fields__ if name != "tier"]
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(
            f"{unknown[0]!r} is not a setting; choose from {', '.join(known)}", param_hint="--unlimited"
        )
    changes = dict.fromkeys(names) | _given(settings)
    if not changes:
        raise click.UsageError("no setting was named; `un keys set --help` lists them")
    _must_have_keys(data)
    with open_keys(data) as ring:
        changed = ring.change(public_key, **changes)
    if changed is None:
        raise click.ClickException(_NO_SUCH_KEY)
    if as_json:
        print_json({"public_key": public_key, **_set(changed)})
        return
    for name, value in _set(changed).items():
        click.echo(f"{name}  {value}")


@keys.command("list")
@DATA_OPTION
@JSON_OPTION
def list_keys(data: Path, as_json: bool) -> None:
    """List all keys, oldest first, without their secrets."""
    rows: Sequence[KeyRow] = ()
    if _has_keys(data):
        with open_keys(data) as ring:
            rows = ring.list()
    if as_json:
        print_json({"keys": [_members(row) for row in rows], "count": len(rows)})
        return
    if rows:
        if sys.stdout.isatty():
            click.echo(f"keys in {data.expanduser()}:", err=True)
        table([[row.public_key, _state(row), _date(row.created_at), row.note] for row in rows], _COLUMNS)
    else:
        click.echo(f"no keys in {data.expanduser()}; `un keys create` creates one", err=True)


@keys.command()
@click.argument("public_key")
@DATA_OPTION
@JSON_OPTION
def revoke(public_key: str, data: Path, as_json: bool) -> None:
    """Revoke a key for good. A running server refuses it within a second."""
    _must_have_keys(data)
    with open_keys(data) as ring:
        if not ring.revoke(public_key):
            raise click.ClickException(_NO_SUCH_KEY)
    if as_json:
        print_json({"public_key": public_key, "valid": False})
    else:
        click.echo(f"revoked {public_key}")


def _has_keys(data: Path) -> bool:
    """Return whether a folder is a server's data folder, without creating one."""
    return (data.expanduser() / "server.key").exists()


def _must_have_keys(data: Path) -> None:
    if not _has_keys(data):
        raise click.ClickException(f"no keys in {data.expanduser()}; name a server's data folder with --data")


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
        **_set(row.settings),
    }


def _state(row: KeyRow) -> str:
    return "revoked" if row.revoked_at else "expired" if _expired(row) else "valid"


def _expired(row: KeyRow) -> bool:
    return row.settings.expires_at is not None and time.time() >= row.settings.expires_at


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
