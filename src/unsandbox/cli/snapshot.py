"""`un snapshot`: manage saved states of sessions and services."""

from __future__ import annotations

from typing import Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.historical import COMMON, verbs
from unsandbox.cli.options import JSON_OPTION, PORTS
from unsandbox.cli.output import print_result
from unsandbox.cli.verbs import add_get, add_list, add_protected, add_verb

_IDS = suggest.ids("snapshot")
_COLUMNS = ("snapshot_id", "name", "source_type", "source_id", "size_bytes", "hot", "locked")
_HISTORICAL = COMMON | {
    "--delete": "delete",
    "--restore": "restore",
    "--clone": "clone",
    "--lock": "lock",
    "--unlock": "unlock",
}


@click.group(cls=verbs(_HISTORICAL, "list"))
def snapshot() -> None:
    """Manage snapshots of sessions and services. Without a subcommand, list them."""


add_list(snapshot, "list_snapshots", "snapshots", _COLUMNS, "List your snapshots.")
add_get(snapshot, "get_snapshot", "snapshot")
add_verb(snapshot, "restore", "restore_snapshot", "Restore a session or service to a snapshot.", "restored")
add_verb(snapshot, "lock", "lock_snapshot", "Protect a snapshot from deletion.", "locked")
add_protected(snapshot, "unlock", "unlock_snapshot", "Allow snapshots to be deleted again.", "unlocked")
add_protected(
    snapshot, "delete", "delete_snapshot", "Delete snapshots.", "deleted", "Delete the snapshots for good?"
)


@snapshot.command()
@click.argument("snapshot_id", shell_complete=_IDS)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["session", "service"]),
    help="Type of object to create (default: same as the source).",
)
@click.option("--name", help="Name of the new session or service.")
@click.option("-s", "--shell", help="Shell, for a new session.")
@click.option("--ports", type=PORTS, help="Ports, for a new service.")
@JSON_OPTION
@connection_options
def clone(
    snapshot_id: str, kind: Any, name: str | None, shell: str | None, ports: list[int] | None, as_json: bool
) -> None:
    """Create a session or service from a snapshot and print its id."""
    with open_client() as client:
        made = client.clone_snapshot(snapshot_id, kind, name=name, shell=shell, ports=ports)
    print_result(made, as_json, str(made.session_id or made.service_id or made.id))
