"""`un env`: build and manage the environments of this machine, before servers start and while they run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from unsandbox.cli.options import FILE, JSON_OPTION, YES_OPTION
from unsandbox.cli.output import confirm, human_size, print_json, table

if TYPE_CHECKING:
    from unsandbox.engine.environments.store import EnvironmentStore, Manifest

_FOLDER_OPTION = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the environments (default: the folder that servers use).",
)
_COLUMNS = ("name", "packages", "size", "python", "sha256")


@click.group()
def env() -> None:
    """Build, list and remove environments: sets of packages for jobs, sessions and services."""


@env.command()
@click.argument("name")
@click.option(
    "-r", "--requirements", type=FILE, help="Requirements file of pip; default: the built-in recipe NAME."
)
@_FOLDER_OPTION
@JSON_OPTION
def build(name: str, requirements: Path | None, folder: Path | None, as_json: bool) -> None:
    """Build the environment NAME. `un env build data` builds the built-in one for data analysis.

    pip downloads wheels with this machine's configuration; they are installed in a sandbox without a network.
    If the build fails or is interrupted, nothing changes.
    """
    from unsandbox.engine.environments.build import RECIPES
    from unsandbox.engine.environments.wheels import read_requirements

    if requirements is not None:
        wanted = read_requirements(requirements.read_text("utf-8"))
    elif name in RECIPES:
        wanted = list(RECIPES[name])
    else:
        raise click.UsageError(
            f"{name!r} is not a built-in recipe ({', '.join(RECIPES)}); "
            "pass its packages with --requirements FILE"
        )
    manifest = asyncio.run(_build(_store(folder), name, wanted))
    _tell(
        as_json,
        _members(name, manifest),
        f"built {name}: {len(manifest.packages)} packages, {human_size(manifest.size)}",
    )


@env.command("list")
@_FOLDER_OPTION
@JSON_OPTION
def list_(folder: Path | None, as_json: bool) -> None:
    """List the environments of this machine."""
    store = _store(folder)
    found = [(name, store.manifest(name)) for name in store.names()]
    members = [_members(name, manifest) for name, manifest in found if manifest is not None]
    if as_json:
        print_json({"environments": members, "count": len(members)})
        return
    rows = [
        [one["name"], str(len(one["packages"])), human_size(one["size"]), one["python"], one["sha256"][:12]]
        for one in members
    ]
    table(rows, _COLUMNS)


@env.command()
@click.argument("name")
@_FOLDER_OPTION
@JSON_OPTION
def show(name: str, folder: Path | None, as_json: bool) -> None:
    """Show the packages of an environment with their hashes."""
    manifest = _manifest(_store(folder), name)
    if as_json:
        print_json(_members(name, manifest))
        return
    size = f"{human_size(manifest.size)}, Python {manifest.python}, sha256 {manifest.sha256}"
    click.echo(f"{name}: {size}")
    table(
        [[one.name, one.version, one.sha256[:12]] for one in manifest.packages],
        ("package", "version", "sha256"),
    )


@env.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_FOLDER_OPTION
@JSON_OPTION
def export(name: str, file: Path, folder: Path | None, as_json: bool) -> None:
    """Write an environment to FILE, an archive for machines without a network."""
    from unsandbox.engine.environments.transfer import export_environment

    store = _store(folder)
    export_environment(store, _manifest(store, name), file)
    size = file.stat().st_size
    _tell(as_json, {"name": name, "file": str(file), "size": size}, f"wrote {file}: {human_size(size)}")


@env.command("import")
@click.argument("name")
@click.argument("file", type=FILE)
@_FOLDER_OPTION
@JSON_OPTION
def import_(name: str, file: Path, folder: Path | None, as_json: bool) -> None:
    """Add the environment in FILE, which `un env export` wrote, as NAME. Its hash is verified."""
    from unsandbox.engine.environments.transfer import import_environment

    manifest = import_environment(_store(folder), name, file)
    _tell(
        as_json,
        _members(name, manifest),
        f"added {name}: {len(manifest.packages)} packages, {human_size(manifest.size)}",
    )


@env.command()
@click.argument("name")
@_FOLDER_OPTION
@YES_OPTION
@JSON_OPTION
def remove(name: str, folder: Path | None, yes: bool, as_json: bool) -> None:
    """Remove the environment NAME. Sandboxes that use it keep it until they end."""
    store = _store(folder)
    _manifest(store, name)
    confirm(yes, f"Remove the environment {name}?")
    store.remove(name)
    store.collect()
    _tell(as_json, {"name": name}, f"removed {name}")


@env.command()
@_FOLDER_OPTION
@JSON_OPTION
def gc(folder: Path | None, as_json: bool) -> None:
    """Remove what no name refers to: replaced environments, and what interrupted builds left."""
    removed = _store(folder).collect()
    _tell(as_json, {"removed": sorted(removed)}, f"removed {len(removed)} environments")


def _tell(as_json: bool, members: dict[str, Any], line: str) -> None:
    if as_json:
        print_json(members)
    else:
        click.echo(line)


async def _build(store: EnvironmentStore, name: str, wanted: list[str]) -> Manifest:
    from unsandbox.engine.environments.build import EnvironmentBuilder
    from unsandbox.sandbox.backend import BackendOptions
    from unsandbox.sandbox.registry import BACKENDS
    from unsandbox.sandbox.system import find_system

    system = find_system()
    backend = next(iter(BACKENDS.values())).from_options(BackendOptions(system))
    await backend.open()
    try:
        builder = EnvironmentBuilder(store, backend, system, lambda line: click.echo(f"un: {line}", err=True))
        return await builder.build(name, wanted)
    finally:
        await backend.close()


def _store(folder: Path | None) -> EnvironmentStore:
    from unsandbox.engine.environments.store import EnvironmentStore

    return EnvironmentStore(None if folder is None else folder.expanduser().absolute())


def _manifest(store: EnvironmentStore, name: str) -> Manifest:
    manifest = store.manifest(name)
    if manifest is None:
        raise click.ClickException(f"no environment {name!r}; `un env list` lists them")
    return manifest


def _members(name: str, manifest: Manifest) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(manifest)
    return {"name": name, **members}
