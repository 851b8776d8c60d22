"""`un languages`: list the languages of this machine or a server, and install toolchains."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli.connection import asks_for_server, connection_options, open_client
from unsandbox.cli.options import JSON_OPTION, YES_OPTION
from unsandbox.cli.output import confirm, print_json, table

if TYPE_CHECKING:
    from unsandbox.sandbox import Language, LanguageTable
    from unsandbox.sandbox.languages.toolchains import Estimate, Progress, Report

_COLUMNS = ("language", "aliases", "files", "state")
_MIB = 1 << 20


@click.group(invoke_without_command=True)
@click.option("--host", is_flag=True, help="List the languages of this machine's own /usr.")
@click.option("--folder", type=click.Path(path_type=Path), help="List the languages of a folder of toolchains.")
@click.option("--all", "every", is_flag=True, help="List missing languages too, with the way to get each.")
@JSON_OPTION
@connection_options
@click.pass_context
def languages(ctx: click.Context, host: bool, folder: Path | None, every: bool, as_json: bool) -> None:
    """List languages: of the server if one is configured, otherwise of this machine."""
    if ctx.invoked_subcommand is not None:
        return
    if asks_for_server() and not host and folder is None:
        with open_client() as client:
            answer = client.languages()
        rows = [_row(name, [a for a, of in answer.aliases.items() if of == name]) for name in answer.languages]
    else:
        known = _table("host" if host else str(folder) if folder else None)
        here = {language.name for language in known.available()}
        rows = [
            _row(language.name, language.aliases, language.name in here, language.how_to_get())
            for language in known.values()
        ]
    if as_json:
        print_json({"languages": rows, "count": len(rows)})
        return
    # A pipe gets all: programs search it.
    folded = sys.stdout.isatty() and not every
    missing = [row["name"] for row in rows if not row["installed"]]
    table(
        [
            [row["name"], " ".join(row["aliases"]), " ".join(row["extensions"]), _state(row)]
            for row in sorted(rows, key=lambda row: not row["installed"])
            if row["installed"] or not folded
        ],
        _COLUMNS,
    )
    if folded and missing:
        click.echo(f"{len(missing)} more are not installed: {' '.join(missing)}", err=True)
        click.echo("`un languages --all` shows how to get each", err=True)


@languages.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Target folder (default: the folder that servers use)."
)
@click.option("--refresh", is_flag=True, help="Update the package lists first, to get newer versions.")
@click.option(
    "--keep-downloads", is_flag=True, help="Keep the downloaded archives, to fill another folder offline."
)
@YES_OPTION
@JSON_OPTION
def install(
    names: tuple[str, ...], folder: Path | None, refresh: bool, keep_downloads: bool, yes: bool, as_json: bool
) -> None:
    """Install toolchains into a separate folder, which sandboxes then see instead of this machine's /usr.

    Nothing else on the machine changes. After an interruption, run the same command again to continue.
    """
    from unsandbox.sandbox.languages.toolchains import Installer
    from unsandbox.sandbox.system import default_folder

    wanted = _wanted(names)
    target = (folder or default_folder()).expanduser()
    with tempfile.TemporaryDirectory() as scratch, Installer(target, Path(scratch)).locked() as installer:
        with _progress() as progress:
            estimate = installer.estimate(wanted, refresh=refresh, progress=progress)
        for name, packages in estimate.unknown.items():
            click.echo(
                f"un: skipping {name}: the package sources do not provide {' '.join(packages)}", err=True
            )
        if estimate.nothing_to_do:
            click.echo(f"nothing to do: already installed in {target}", err=True)
            if as_json:
                print_json(_members(target, estimate))
            return
        click.echo(_size(estimate, target), err=True)
        confirm(yes, "Continue?")
        with _progress() as progress:
            report = installer.install(estimate, progress)
        if not keep_downloads:
            installer.drop_downloads()
    if as_json:
        print_json(_members(target, estimate, report))
    else:
        click.echo(f"installed: {' '.join(report.installed)}")
    _tell(report, target, folder is None)
    sys.exit(1 if report.missing else 0)


def _wanted(names: Sequence[str]) -> list[Language]:
    known = _table("host")
    if "all" in names:
        return [language for language in known.values() if language.can_be_installed]
    from unsandbox.sandbox import UnknownLanguageError

    found = []
    for name in names:
        try:
            language = known.find(name)
        except UnknownLanguageError as error:
            raise click.UsageError(str(error)) from error
        if not language.can_be_installed:
            raise click.UsageError(
                f"{language.name} cannot be installed by this command; get {language.elsewhere}"
            )
        found.append(language)
    return found


def _table(choice: str | None) -> LanguageTable:
    from unsandbox.sandbox import find_system, load_languages

    return load_languages(system=find_system(choice))


def _row(name: str, aliases: Sequence[str], installed: bool = True, how: str = "") -> dict[str, Any]:
    from unsandbox.protocol.languages import EXTENSIONS, INTERPRETERS

    return {
        "name": name,
        "aliases": list(aliases),
        "extensions": [extension for extension, language in EXTENSIONS.items() if language == name],
        "interpreters": [word for word, language in INTERPRETERS.items() if language == name],
        "installed": installed,
        **({} if installed else {"how_to_get": how}),
    }


def _state(row: dict[str, Any]) -> str:
    return "ready" if row["installed"] else f"not installed: {row['how_to_get']}"


def _size(estimate: Estimate, target: Path) -> str:
    names = " ".join(language.name for language in estimate.languages)
    fetch, disk = estimate.download_bytes // _MIB, estimate.disk_bytes // _MIB
    return (
        f"{names}\n{estimate.packages} Debian packages; about {fetch} MiB to download, {disk} MiB in {target}"
    )


def _members(target: Path, estimate: Estimate, report: Report | None = None) -> dict[str, Any]:
    return {
        "folder": str(target),
        "installed": list(report.installed) if report else [],
        "missing": list(report.missing) if report else [],
        "left_out": sorted(estimate.unknown),
    }


def _tell(report: Report, target: Path, default: bool) -> None:
    if report.missing:
        click.echo(f"un: still not usable: {' '.join(report.missing)}", err=True)
        for package, complaint in report.complaints.items():
            click.echo(f"  {package}: {complaint}", err=True)
    if default:
        lost = {language.name for language in _table("host").available()}
        lost -= {language.name for language in _table(str(target)).available()}
        click.echo("Sandboxes now use these toolchains instead of this machine's /usr.", err=True)
        if lost:
            click.echo(f"No longer available, installed only in /usr: {' '.join(sorted(lost))}", err=True)
        click.echo("To undo this, set UNSANDBOX_TOOLCHAINS=host or run un serve --toolchains host.", err=True)


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Yield a progress callback: a bar on a terminal, otherwise a line for each new stage."""
    if not sys.stderr.isatty():
        last = [""]

        def line(what: str, _share: float) -> None:
            stage = what.partition(" ")[0]
            if stage != last[0]:
                last[0] = stage
                click.echo(what, err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<44.44}"), BarColumn(), TaskProgressColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda what, share: bars.update(task, description=what, completed=share)
