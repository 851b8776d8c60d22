"""`un service`: programs that keep running under a name."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import click

from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.historical import verbs
from unsandbox.cli.output import JSON_OPTION, YES_OPTION, confirm, parse_env, said, show, show_list
from unsandbox.cli.verbs import add_get, add_protected, add_run, add_snapshot, add_verb
from unsandbox.errors import NotFoundError

_COLUMNS = ("service_id", "name", "state", "ports", "url", "vcpu", "locked")
_ALL_LINES = 10_000_000
_HISTORICAL = {
    "--list": "list",
    "-l": "list",
    "--name": "create",
    "--info": "get",
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
_FILE = click.Path(exists=True, path_type=Path)
_NETWORK = click.option(
    "-n", "--network", type=click.Choice(["semitrusted", "zerotrust"]), help="What it may reach (semitrusted)."
)


class _Ports(click.ParamType):  # type: ignore[type-arg]
    name = "PORTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return [int(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            self.fail(f"{value!r} is not a list of ports such as 80,443", param, ctx)


PORTS = _Ports()


@click.group(cls=verbs(_HISTORICAL), invoke_without_command=True)
@click.pass_context
def service(ctx: click.Context) -> None:
    """Programs that keep running under a name; without a verb, list them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_services)


@service.command("list")
@JSON_OPTION
@connection_options
def list_services(as_json: bool = False) -> None:
    """List your services."""
    with open_client() as client:
        show_list(client.list_services().services, as_json, _COLUMNS, "services")


@service.command()
@click.argument("name")
@click.option(
    "--ports", type=PORTS, help="Ports on which it listens, such as 80,443; its URL leads to the first."
)
@click.option("--bootstrap", help="Command that starts it, or the http(s) URL of a script.")
@click.option(
    "--bootstrap-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The script."
)
@click.option("--domains", help="Further names, with commas.")
@click.option("--image", help="Image to start from.")
@click.option("--type", "service_type", help="minecraft, mumble, teamspeak, source, tcp or udp.")
@click.option("--restart", type=click.Choice(["always", "on-failure", "never"]), help="When it ends (always).")
@click.option("--unfreeze-on-demand", is_flag=True, help="A request wakes it when it is frozen.")
@click.option("-e", "--env", "pairs", multiple=True, metavar="K=V", help="Variable for its vault.")
@click.option(
    "--env-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of K=V lines."
)
@click.option("-f", "--file", "files", multiple=True, type=_FILE, help="File for it, in /tmp/input.")
@click.option("-v", "--vcpu", type=click.IntRange(1, 8), help="Processors; memory goes with them.")
@click.option(
    "--isolation", type=click.Choice(["auto", "bubblewrap", "gvisor", "hardened"]), help="At least this."
)
@_NETWORK
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
    """Start a service."""
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
    said(made, as_json, f"{made.service_id}  {made.url or made.name}")


add_get(service, "get_service", "service, by id or name")
add_verb(service, "freeze", "freeze_service", "Stop all processes of a service where they are.", "frozen")
add_verb(service, "unfreeze", "unfreeze_service", "Let the processes of a service go on.", "running")
add_verb(service, "lock", "lock_service", "Protect a service from deletion.", "locked")
add_protected(service, "unlock", "unlock_service", "Take the protection off services.", "unlocked")
add_protected(
    service,
    "delete",
    "delete_service",
    "End services for good.",
    "deleted",
    "Delete them with all their files?",
)


@service.command()
@click.argument("service_id")
@click.option("--all", "all_logs", is_flag=True, help="Everything that is kept.")
@click.option("-n", "--lines", type=click.IntRange(min=1), help="The last so many lines (9000).")
@click.option("-f", "--follow", is_flag=True, help="Go on as it writes, until Ctrl-C.")
@JSON_OPTION
@connection_options
def logs(service_id: str, all_logs: bool, lines: int | None, follow: bool, as_json: bool) -> None:
    """Print what the program of a service wrote."""
    with open_client() as client:
        if follow:
            # A server that cannot stream has no such path; the rest below serves it too.
            with contextlib.suppress(NotFoundError):
                for entry in client.stream_service_logs(service_id, lines=_ALL_LINES if all_logs else lines):
                    click.echo(entry.line)
                    sys.stdout.flush()
        log = client.service_logs(service_id, all_logs=all_logs, lines=lines)
        if as_json and not follow:
            show(log, as_json)
            return
        click.echo(log.log, nl=False)
        seen = log.log
        while follow:
            time.sleep(1.0)
            now = client.service_logs(service_id, all_logs=all_logs, lines=lines).log
            click.echo(_new_part(seen, now), nl=False)
            sys.stdout.flush()
            seen = now


def _new_part(seen: str, now: str) -> str:
    """Return what was added to a log of which only the end is known.

    Example:
        >>> _new_part("a b ", "b c ")
        'c '
    """
    for start in range(max(0, len(seen) - len(now)), len(seen)):
        if now.startswith(seen[start:]):
            return now[len(seen) - start :]
    return now


add_run(service, "service_command", "Run one command beside the program of a service")


@service.command()
@click.argument("service_id")
@connection_options
def bootstrap(service_id: str) -> None:
    """Print the bootstrap script of a service."""
    with open_client() as client:
        click.echo(client.service_command(service_id, "cat /tmp/bootstrap.sh").stdout or "", nl=False)


@service.command()
@click.argument("service_id")
@click.option(
    "-v", "--vcpu", type=click.IntRange(1, 8), required=True, help="Processors; memory goes with them."
)
@JSON_OPTION
@connection_options
def resize(service_id: str, vcpu: int, as_json: bool) -> None:
    """Give a service another number of processors."""
    with open_client() as client:
        said(client.resize_service(service_id, vcpu), as_json, f"{service_id} has {vcpu} vCPU")


@service.command()
@click.argument("service_id")
@click.option("--name", help="Another name.")
@click.option("--ports", type=PORTS, help="Other ports.")
@click.option("--unfreeze-on-demand/--no-unfreeze-on-demand", default=None, help="Whether a request wakes it.")
@click.option(
    "--freeze-page/--no-freeze-page", default=None, help="Whether a frozen one shows a page, or JSON."
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
    """Change a service; what is not given stays."""
    with open_client() as client:
        changed = client.update_service(
            service_id,
            name=name,
            ports=ports,
            unfreeze_on_demand=unfreeze_on_demand,
            show_freeze_page=freeze_page,
        )
    said(changed, as_json, f"changed {service_id}")


@service.command()
@click.argument("service_id")
@click.option("--bootstrap", help="Another command, or the http(s) URL of a script.")
@click.option(
    "--bootstrap-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The script."
)
@JSON_OPTION
@connection_options
def redeploy(service_id: str, bootstrap: str | None, bootstrap_file: Path | None, as_json: bool) -> None:
    """Run the bootstrap of a service again, or another one, in the same sandbox."""
    content = bootstrap_file.read_text() if bootstrap_file else None
    with open_client() as client:
        again = client.redeploy_service(service_id, bootstrap=bootstrap, bootstrap_content=content)
    said(again, as_json, f"redeployed {service_id}")


@service.command()
@click.argument("service_id")
@click.argument("domain", nargs=-1)
@click.option("--add", is_flag=True, help="Add them.")
@click.option("--remove", is_flag=True, help="Take them away.")
@JSON_OPTION
@connection_options
def domains(service_id: str, domain: tuple[str, ...], add: bool, remove: bool, as_json: bool) -> None:
    """Replace the domains of a service, or add or remove some."""
    if add and remove:
        raise click.UsageError("--add or --remove, not both")
    with open_client() as client:
        if add or remove:
            left = client.service_domains(service_id, **{"add" if add else "remove": domain})
        else:
            left = client.service_domains(service_id, domain)
    said(left, as_json, "\n".join(left.custom_domains or ()))


add_snapshot(service, "service_snapshot", "service")


@service.group()
def env() -> None:
    """The environment vault of a service."""


@env.command("status")
@click.argument("service_id")
@JSON_OPTION
@connection_options
def vault_status(service_id: str, as_json: bool) -> None:
    """Tell how many variables there are and when they were set; never a value."""
    with open_client() as client:
        show(client.get_vault(service_id), as_json)


@env.command("set")
@click.argument("service_id")
@click.argument("pairs", nargs=-1, metavar="[K=V...]")
@click.option(
    "--env-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of K=V lines."
)
@JSON_OPTION
@connection_options
def vault_set(service_id: str, pairs: tuple[str, ...], env_file: Path | None, as_json: bool) -> None:
    """Replace the whole vault: by K=V words, a file, or lines on standard input when there is neither."""
    from unsandbox.protocol.services import vault_to_text

    values = vault_to_text(parse_env(pairs, env_file)) if pairs or env_file else sys.stdin.read()
    with open_client() as client:
        info = client.set_vault(service_id, values)
    said(info, as_json, f"{info.count} variables")


@env.command("export")
@click.argument("service_id")
@JSON_OPTION
@connection_options
def vault_export(service_id: str, as_json: bool) -> None:
    """Print the whole vault, values included."""
    with open_client() as client:
        vault = client.export_vault(service_id)
    said(vault, as_json, vault.env.rstrip("\n"))


@env.command("delete")
@click.argument("service_id")
@click.argument("names", nargs=-1)
@YES_OPTION
@JSON_OPTION
@connection_options
def vault_delete(service_id: str, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete the named variables, or the whole vault."""
    if not names:
        confirm(yes, "Delete the whole vault?")
    with open_client() as client:
        info = client.delete_vault(service_id, names or None)
    said(info, as_json, f"{info.count or 0} variables left")
