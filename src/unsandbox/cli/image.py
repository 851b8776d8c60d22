"""`un image`: manage images, which are published copies of services and snapshots."""

from __future__ import annotations

from typing import Any

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, one_time_code, open_client
from unsandbox.cli.historical import COMMON, verbs
from unsandbox.cli.options import JSON_OPTION, NETWORK_OPTION, PORTS, VCPU_OPTION, YES_OPTION
from unsandbox.cli.output import confirm, print_result
from unsandbox.cli.verbs import add_get, add_list, add_protected, add_verb

_IDS = suggest.ids("image")
_COLUMNS = ("image_id", "name", "visibility", "access", "size_bytes", "locked")
_HISTORICAL = COMMON | {
    "--delete": "delete",
    "--publish": "publish",
    "--spawn": "spawn",
    "--clone": "clone",
    "--lock": "lock",
    "--unlock": "unlock",
    "--visibility": "visibility",
    "--grant": "grant",
    "--revoke": "revoke",
    "--trusted": "trusted",
    "--transfer": "transfer",
}


@click.group(cls=verbs(_HISTORICAL, "list"))
def image() -> None:
    """Manage images: published copies of services and snapshots. Without a subcommand, list them."""


add_list(
    image,
    "list_images",
    "images",
    _COLUMNS,
    "List images: your own, shared with you, or public. By default, all that you may use.",
    click.argument("which", required=False, type=click.Choice(["owned", "shared", "public"])),
)


@image.command()
@click.argument("source_type", type=click.Choice(["service", "snapshot"]))
@click.argument("source_id")
@click.option("--name", help="Name of the image.")
@click.option("--description", help="Description of its content.")
@JSON_OPTION
@connection_options
def publish(source_type: Any, source_id: str, name: str | None, description: str | None, as_json: bool) -> None:
    """Publish a service or snapshot as a private image and print its id."""
    with open_client() as client:
        made = client.publish_image(source_type, source_id, name=name, description=description)
    print_result(made, as_json, str(made.image_id))


add_get(image, "get_image", "image")
add_verb(image, "lock", "lock_image", "Protect an image from deletion.", "locked")
add_protected(image, "unlock", "unlock_image", "Allow images to be deleted again.", "unlocked")
add_protected(image, "delete", "delete_image", "Delete images.", "deleted", "Delete the images for good?")


@image.command()
@click.argument("image_id", shell_complete=_IDS)
@click.argument("who", type=click.Choice(["private", "unlisted", "public"]))
@JSON_OPTION
@connection_options
def visibility(image_id: str, who: Any, as_json: bool) -> None:
    """Set the visibility of an image."""
    with open_client() as client:
        print_result(client.set_image_visibility(image_id, who), as_json, f"{image_id} is {who}")


def _access(name: str, method: str, summary: str) -> None:
    @image.command(name, help=summary)
    @click.argument("image_id", shell_complete=_IDS)
    @click.argument("other_key", metavar="PUBLIC_KEY")
    @JSON_OPTION
    @connection_options
    def verb(image_id: str, other_key: str, as_json: bool) -> None:
        with open_client() as client:
            trusted = getattr(client, method)(image_id, other_key)
        print_result(trusted, as_json, "\n".join(trusted.trusted_keys))


_access("grant", "grant_image_access", "Allow another key to use an image.")
_access("revoke", "revoke_image_access", "Withdraw another key's access to an image.")


@image.command()
@click.argument("image_id", shell_complete=_IDS)
@JSON_OPTION
@connection_options
def trusted(image_id: str, as_json: bool) -> None:
    """List the keys that have access to an image."""
    with open_client() as client:
        keys = client.list_image_trusted(image_id)
    print_result(keys, as_json, "\n".join(keys.trusted_keys))


@image.command()
@click.argument("image_id", shell_complete=_IDS)
@click.argument("other_key", metavar="PUBLIC_KEY")
@YES_OPTION
@JSON_OPTION
@connection_options
def transfer(image_id: str, other_key: str, yes: bool, as_json: bool) -> None:
    """Transfer the ownership of an image to another key."""
    confirm(yes, "You will no longer own the image. Continue?")
    with open_client() as client:
        given = client.transfer_image(image_id, other_key, otp=one_time_code())
    print_result(given, as_json, f"{image_id} belongs to {other_key}")


@image.command()
@click.argument("image_id", shell_complete=_IDS)
@click.option("--name", help="Name of the service.")
@click.option("--ports", type=PORTS, help="Ports the program listens on.")
@click.option("--bootstrap", help="Command that starts the service (default: the image's).")
@NETWORK_OPTION
@VCPU_OPTION
@JSON_OPTION
@connection_options
def spawn(
    image_id: str,
    name: str | None,
    ports: list[int] | None,
    bootstrap: str | None,
    network: Any,
    vcpu: int | None,
    as_json: bool,
) -> None:
    """Start a service from an image and print its id."""
    with open_client() as client:
        made = client.spawn_image(
            image_id, name=name, ports=ports, bootstrap=bootstrap, network_mode=network, vcpu=vcpu
        )
    print_result(made, as_json, f"{made.service_id}  {made.url or made.name}")


@image.command()
@click.argument("image_id", shell_complete=_IDS)
@click.option("--name", help="Name of the copy.")
@click.option("--description", help="Description of its content.")
@JSON_OPTION
@connection_options
def clone(image_id: str, name: str | None, description: str | None, as_json: bool) -> None:
    """Copy an image and print the copy's id. The copy is private and yours."""
    with open_client() as client:
        made = client.clone_image(image_id, name=name, description=description)
    print_result(made, as_json, str(made.image_id))
