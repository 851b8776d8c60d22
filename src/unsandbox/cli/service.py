"""`un service`: manage services, which are named, long-running programs."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client, warn_of_the_end
from unsandbox.cli.historical import COMMON, verbs
from unsandbox.cli.options import (
    ENV_FILE_OPTION,
    FILE,
    ISOLATION_OPTION,
    JSON_OPTION,
    NETWORK_OPTION,
    PORTS,
    VCPU_OPTION,
    YES_OPTION,
)
from unsandbox.cli.output import confirm, print_json, print_result, show
from unsandbox.cli.program_input import parse_env
from unsandbox.cli.verbs import add_get, add_list, add_protected, add_run, add_snapshot, add_verb
from unsandbox.errors import NotFoundError
from unsandbox.protocol.logs import LogLine
from unsandbox.protocol.services import Domains

_IDS = suggest.ids("service")
_COLUMNS = ("service_id", "name", "state", "ports", "vcpu", "locked", "url")
_ALL_LINES = 10_000_000
_HISTORICAL = COMMON | {
    "--name": "create",
    "--logs": "logs",
    "--freeze": "freeze",
    "--unfreeze": "unfreeze",
    "--destroy": "delete",
    "--lock": "lock",
    "--unlock": "unlock",
    "--resize": "resize",
    "--redeploy": "redeploy",
    "--execute": "run",
    "--snapshot": "snapshot",
    "--dump-bootstrap": "bootstrap",
}
_FILES = click.Path(exists=True, path_type=Path)
_BOOTSTRAP_FILE = click.option("--bootstrap-file", type=FILE, help="File with the bootstrap script.")


@click.group(cls=verbs(_HISTORICAL, "list"))
def service() -> None:
    """Manage services: named, long-running programs. Without a subcommand, list them."""


add_list(service, "list_services", "services", _COLUMNS, "List your services.")


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise click.BadParameter(
            f"{value!r} is not a service name; use up to 63 lower-case letters, digits and hyphens: web-1",
            ctx,
            param,
        )
    return value


@service.command()
@click.argument("name", callback=_name)
@click.option(
    "--ports", type=PORTS, help="Ports the program listens on, such as 80,443; the URL leads to the first."
)
@click.option("--bootstrap", help="Command that starts the service, or the http(s) URL of a script.")
@_BOOTSTRAP_FILE
@click.option("--domains", help="Custom domains, separated by commas.")
@click.option("--image", help="Image to start from (id or name).")
@click.option("--type", "service_type", help="Service type: minecraft, mumble, teamspeak, source, tcp or udp.")
@click.option(
    "--restart",
    type=click.Choice(["always", "on-failure", "never"]),
    help="When to restart the program (default always).",
)
@click.option("--unfreeze-on-demand", is_flag=True, help="Unfreeze the service when a request arrives.")
@click.option(
    "-e", "--env", "pairs", multiple=True, metavar="K=V", help="Variable for the service's vault (repeatable)."
)
@ENV_FILE_OPTION
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=_FILES,
    help="File or directory to upload to /tmp/input (repeatable).",
)
@VCPU_OPTION
@ISOLATION_OPTION
@NETWORK_OPTION
@JSON_OPTION
@connection_options
def create(
    name: str,
    ports: list[int] | None,
    bootstrap: str | None,
    bootstrap_file: Path | None,
    domains: str | None,
    image: str | None,
    service_type: str | None,
    restart: str | None,
    unfreeze_on_demand: bool,
    pairs: tuple[str, ...],
    env_file: Path | None,
    files: tuple[Path, ...],
    vcpu: int | None,
    isolation: str | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Create and start a service."""
    vault = parse_env(pairs, env_file)
    options: dict[str, Any] = {"isolation": isolation, "network_mode": network}
    with open_client() as client:
        made = client.create_service(
            name,
            ports=ports,
            bootstrap=bootstrap,
            bootstrap_content=bootstrap_file.read_text() if bootstrap_file else None,
            custom_domains=domains.split(",") if domains else None,
            golden_image=image,
            service_type=service_type,
            restart=restart,
            unfreeze_on_demand=unfreeze_on_demand or None,
            input_files=list(files) or None,
            vcpu=vcpu,
            **options,
        )
        if vault:
            client.set_vault(str(made.service_id), vault)
    print_result(made, as_json, f"{made.service_id}  {made.url or made.name}")
    warn_of_the_end("service")


add_get(service, "get_service", "service by id or name")
add_verb(service, "freeze", "freeze_service", "Suspend all processes of a service.", "frozen")
add_verb(service, "unfreeze", "unfreeze_service", "Resume the processes of a frozen service.", "running")
add_verb(service, "lock", "lock_service", "Protect a service from deletion.", "locked")
add_protected(service, "unlock", "unlock_service", "Allow services to be deleted again.", "unlocked")
add_protected(
    service,
    "delete",
    "delete_service",
    "Delete services with all their files.",
    "deleted",
    "Delete the services and all their files?",
)


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@click.option("--all", "all_logs", is_flag=True, help="Print the whole stored log.")
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Number of last lines (default 9000).")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until Ctrl-C.")
@JSON_OPTION
@connection_options
def logs(service_id: str, all_logs: bool, lines: int | None, follow: bool, as_json: bool) -> None:
    """Print the log of a service. --json with --follow prints one object per line."""
    with open_client() as client:
        if follow:
            # Servers without log streaming answer 404; for them the log is polled below.
            with contextlib.suppress(NotFoundError):
                for entry in client.stream_service_logs(service_id, lines=_ALL_LINES if all_logs else lines):
                    print_result(entry, as_json, entry.line or "")
                    sys.stdout.flush()
        log = client.service_logs(service_id, all_logs=all_logs, lines=lines)
        if not follow:
            print_result(log, as_json, log.log, end="")
            return
        new, seen = log.log, log.log
        while True:
            for line in new.splitlines():
                print_result(LogLine(line=line), as_json, line)
            sys.stdout.flush()
            time.sleep(1.0)
            now = client.service_logs(service_id, all_logs=all_logs, lines=lines).log
            new, seen = _new_part(seen, now), now


def _new_part(seen: str, now: str) -> str:
    """Return the part that was added to a log of which only the end is known.

    Example:
        >>> _new_part("a b ", "b c ")
        'c '
    """
    for start in range(max(0, len(seen) - len(now)), len(seen)):
        if now.startswith(seen[start:]):
            return now[len(seen) - start :]
    return now


add_run(service, "service_command", "Run one command in a service's sandbox")


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@JSON_OPTION
@connection_options
def bootstrap(service_id: str, as_json: bool) -> None:
    """Print a service's bootstrap script."""
    with open_client() as client:
        script = client.service_command(service_id, "cat /tmp/bootstrap.sh").stdout or ""
    if as_json:
        print_json({"service_id": service_id, "bootstrap": script})
    else:
        click.echo(script, nl=False)


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@click.option(
    "-v",
    "--vcpu",
    type=click.IntRange(1, 8),
    required=True,
    help="Processors, 1 to 8, with 2 GiB of memory each.",
)
@JSON_OPTION
@connection_options
def resize(service_id: str, vcpu: int, as_json: bool) -> None:
    """Change a service's processors and memory."""
    with open_client() as client:
        print_result(client.resize_service(service_id, vcpu), as_json, f"{service_id} has {vcpu} vCPU")


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@click.option("--name", help="New name.")
@click.option("--ports", type=PORTS, help="New ports.")
@click.option(
    "--unfreeze-on-demand/--no-unfreeze-on-demand",
    default=None,
    help="Unfreeze the service when a request arrives.",
)
@click.option(
    "--freeze-page/--no-freeze-page", default=None, help="Answer for a frozen service with a page or with JSON."
)
@JSON_OPTION
@connection_options
def update(
    service_id: str,
    name: str | None,
    ports: list[int] | None,
    unfreeze_on_demand: bool | None,
    freeze_page: bool | None,
    as_json: bool,
) -> None:
    """Change settings of a service. Settings that are not named stay as they are."""
    with open_client() as client:
        changed = client.update_service(
            service_id,
            name=name,
            ports=ports,
            unfreeze_on_demand=unfreeze_on_demand,
            show_freeze_page=freeze_page,
        )
    print_result(changed, as_json, f"changed {service_id}")


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@click.option("--bootstrap", help="New command, or the http(s) URL of a script.")
@_BOOTSTRAP_FILE
@JSON_OPTION
@connection_options
def redeploy(service_id: str, bootstrap: str | None, bootstrap_file: Path | None, as_json: bool) -> None:
    """Restart a service with its bootstrap or a new one. Files in /work are kept."""
    content = bootstrap_file.read_text() if bootstrap_file else None
    with open_client() as client:
        again = client.redeploy_service(service_id, bootstrap=bootstrap, bootstrap_content=content)
    print_result(again, as_json, f"redeployed {service_id}")


@service.command()
@click.argument("service_id", shell_complete=_IDS)
@click.argument("domain", nargs=-1)
@click.option("--add", "how", flag_value="add", help="Add the domains.")
@click.option("--remove", "how", flag_value="remove", help="Remove the domains.")
@click.option("--clear", "how", flag_value="clear", help="Remove all domains.")
@JSON_OPTION
@connection_options
def domains(service_id: str, domain: tuple[str, ...], how: str | None, as_json: bool) -> None:
    """Show, replace, add or remove the custom domains of a service."""
    if (how in ("add", "remove")) > bool(domain) or (how == "clear" and domain):
        raise click.UsageError("--add and --remove need domain names; --clear takes no names")
    with open_client() as client:
        if not domain and how is None:
            info = client.get_service(service_id)
            left = Domains(custom_domains=list(info.custom_domains or ()))
        elif how in ("add", "remove"):
            left = client.service_domains(service_id, **{how: domain})
        else:
            left = client.service_domains(service_id, domain)
    print_result(left, as_json, "".join(f"{name}\n" for name in left.custom_domains or ()), end="")


add_snapshot(service, "service_snapshot", "service")


@service.group()
def env() -> None:
    """Manage a service's vault (its encrypted environment variables)."""


@env.command("status")
@click.argument("service_id", shell_complete=_IDS)
@JSON_OPTION
@connection_options
def vault_status(service_id: str, as_json: bool) -> None:
    """Show the number of variables and when they were set, without their values."""
    with open_client() as client:
        show(client.get_vault(service_id), as_json)


@env.command("set")
@click.argument("service_id", shell_complete=_IDS)
@click.argument("pairs", nargs=-1, metavar="[K=V...]")
@ENV_FILE_OPTION
@JSON_OPTION
@connection_options
def vault_set(service_id: str, pairs: tuple[str, ...], env_file: Path | None, as_json: bool) -> None:
    """Replace the whole vault with K=V words, a file, or lines from standard input if neither is given."""
    from unsandbox.protocol.services import vault_to_text

    values = vault_to_text(parse_env(pairs, env_file)) if pairs or env_file else sys.stdin.read()
    with open_client() as client:
        info = client.set_vault(service_id, values)
    print_result(info, as_json, f"{info.count} variables")


@env.command("export")
@click.argument("service_id", shell_complete=_IDS)
@JSON_OPTION
@connection_options
def vault_export(service_id: str, as_json: bool) -> None:
    """Print the whole vault, values included."""
    with open_client() as client:
        vault = client.export_vault(service_id)
    print_result(vault, as_json, vault.env.rstrip("\n"))


@env.command("delete")
@click.argument("service_id", shell_complete=_IDS)
@click.argument("names", nargs=-1)
@YES_OPTION
@JSON_OPTION
@connection_options
def vault_delete(service_id: str, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete the named variables; without names, the whole vault."""
    if not names:
        confirm(yes, "Delete the whole vault?")
    with open_client() as client:
        info = client.delete_vault(service_id, names or None)
    print_result(info, as_json, f"{info.count or 0} variables left")
