"""`un backup` and `un restore`: copies of a server's data folder."""

from __future__ import annotations

import urllib.parse
from dataclasses import asdict
from pathlib import Path

import click

from unsandbox.cli.keys import DATA_OPTION
from unsandbox.cli.options import FILE, JSON_OPTION
from unsandbox.cli.output import human_size, print_json
from unsandbox.engine.backup.backup import make_backup
from unsandbox.engine.backup.restore import restore_backup

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("target", type=_FOLDER)
@DATA_OPTION
@click.option(
    "--blobs",
    envvar="UNSANDBOX_BLOBS",
    help="Where snapshots and images are stored, as for `un serve`. Object stores are not copied.",
)
@click.option("--without-key", is_flag=True, help="Leave out server.key, to store it in another place.")
@JSON_OPTION
def backup(target: Path, data: Path, blobs: str | None, without_key: bool, as_json: bool) -> None:
    """Copy a server's data folder to the new folder TARGET, also while the server runs.

    The database is copied in one state, with the snapshots and images that it names. Disks of sessions and
    services are copied as after a power failure; the command names those that changed meanwhile.
    """
    folder = data.expanduser()
    parts = urllib.parse.urlsplit(blobs or "")
    place = Path(urllib.parse.unquote(parts.path)) if blobs else folder / "blobs"
    elsewhere = parts.scheme not in {"", "file"}
    manifest = make_backup(folder, target, blobs=None if elsewhere else place, with_key=not without_key)
    if as_json:
        print_json({"backup": str(target), "data": str(folder), **asdict(manifest)})
    else:
        click.echo(f"saved {folder} in {target}: {human_size(manifest.bytes)}, {manifest.blobs} blobs")
    for name in manifest.inexact:
        click.echo(
            f"un: the copy of {name} is not exact; a snapshot of its session or service would be",
            err=True,
        )
    if elsewhere:
        click.echo(f"un: blobs in {parts.scheme}://… are not in the backup; copy the bucket now", err=True)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@DATA_OPTION
@click.option("--key", type=FILE, help="server.key, for a backup without it.")
@JSON_OPTION
def restore(source: Path, data: Path, key: Path | None, as_json: bool) -> None:
    """Verify the backup SOURCE and make a new data folder from it.

    The data folder must not exist or be empty, and no server may use it.
    """
    folder = data.expanduser()
    manifest = restore_backup(source, folder, key=key)
    if as_json:
        print_json({"backup": str(source), "data": str(folder), **asdict(manifest)})
    else:
        click.echo(
            f"restored the backup of {manifest.created_at} in {folder}; start it: un serve --data {folder}"
        )
