"""`un systemd`: print a unit that runs `un serve`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from unsandbox._interpreter import interpreter
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json

# The server builds sandboxes, which inherit the unit's restrictions. So options that remove mounts,
# namespaces, devices or system calls (ProtectSystem=, PrivateDevices=, SystemCallFilter=) are not here.
_UNIT = """\
# Made by `un systemd`.
[Unit]
Description=unsandbox API
Documentation=man:un(1)
{after}
[Service]
ExecStart={command}
Restart=on-failure
RestartSec=2
# Control groups for the sandboxes, within the limits of this unit.
Delegate=yes
# A sandbox that reaches its memory limit must not end the server.
OOMPolicy=continue
# SIGTERM to the server alone; it ends the sandboxes itself, within 20 seconds.
KillMode=mixed
TimeoutStopSec=60
LimitNOFILE=1048576
TasksMax=infinity
UMask=0077
NoNewPrivileges=yes
KeyringMode=private
Environment=TMPDIR=/var/tmp
{system}
[Install]
WantedBy={target}
"""
_SYSTEM = """\
StateDirectory=unsandbox
StateDirectoryMode=0700
# What neither the server nor a sandbox needs.
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_WAKE_ALARM CAP_SYSLOG CAP_SYS_PACCT
CapabilityBoundingSet=~CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_BLOCK_SUSPEND CAP_LEASE CAP_SYS_TTY_CONFIG
CapabilityBoundingSet=~CAP_AUDIT_CONTROL CAP_AUDIT_READ
"""


@click.command(epilog="Words after -- are further options of `un serve`: un systemd -- --port 8080")
@click.argument("options", nargs=-1, metavar="[-- OPTIONS...]")
@click.option("--user", is_flag=True, help="Print a unit for one user's systemd, without root.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder of the server (default: /var/lib/unsandbox/data; for --user ~/.local/share/unsandbox).",
)
@JSON_OPTION
def systemd(options: tuple[str, ...], user: bool, data: Path | None, as_json: bool) -> None:
    r"""Print a hardened systemd unit that runs `un serve`.

    \b
    un systemd > /etc/systemd/system/unsandbox.service
    un systemd --user > ~/.config/systemd/user/unsandbox.service

    Then run `systemctl daemon-reload` and `systemctl enable --now unsandbox`, both with --user for a user's
    unit; `loginctl enable-linger` keeps that running after the user has logged out.
    """
    _check(options)
    folder = str(data.expanduser().absolute()) if data else None
    default = "%h/.local/share/unsandbox" if user else "/var/lib/unsandbox/data"
    words = [*_program(), "serve", "--data"]
    command = " ".join([*map(_quoted, words), _quoted(folder) if folder else default, *map(_quoted, options)])
    unit = _UNIT.format(
        command=command,
        after="" if user else "After=network-online.target\nWants=network-online.target\n",
        system="" if user else _SYSTEM,
        target="default.target" if user else "multi-user.target",
    )
    if as_json:
        print_json({"unit": unit, "user": user})
    else:
        click.echo(unit, nl=False)


def _check(options: Sequence[str]) -> None:
    """Refuse options that `un serve` would refuse when the unit starts."""
    from unsandbox.cli.serve import serve

    if any("\n" in option for option in options):
        raise click.UsageError("an option must not contain a line break")
    if any(option.partition("=")[0] == "--data" for option in options):
        raise click.UsageError("pass --data before --")
    serve.make_context("un serve", list(options), resilient_parsing=False)


def _program() -> list[str]:
    """Return the words that run this command line, with absolute paths."""
    script = Path(sys.argv[0])
    if script.name == "un" and (found := shutil.which(script)):
        return [str(Path(found).absolute())]
    return [interpreter(), "-m", "unsandbox.cli"]


def _quoted(word: str) -> str:
    """Return a word as systemd reads it back (systemd.service(5), "Command lines")."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
