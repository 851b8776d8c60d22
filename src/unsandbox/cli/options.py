"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
YES_OPTION = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
NETWORK_OPTION = click.option(
    "-n",
    "--network",
    type=click.Choice(["zerotrust", "semitrusted"]),
    help="zerotrust: no network; semitrusted: outbound network only.",
)
VCPU_OPTION = click.option(
    "-v",
    "--vcpu",
    type=click.IntRange(1, 8),
    metavar="N",
    help="Processors, 1 to 8, with 2 GiB of memory each.",
)
ISOLATION_OPTION = click.option(
    "--isolation",
    type=click.Choice(["auto", "bubblewrap", "gvisor", "hardened"]),
    help="Minimum isolation backend.",
)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ENV_OPTION = click.option(
    "-e", "--env", "pairs", multiple=True, metavar="K=V", help="Environment variable (repeatable)."
)
ENV_FILE_OPTION = click.option("--env-file", type=FILE, help="File with K=V lines.")


class _Ports(click.ParamType):  # type: ignore[type-arg]
    name = "PORTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        ports = [int(part) if part.strip().isdecimal() else 0 for part in str(value).split(",")]
        if not all(1 <= port <= 65535 for port in ports):
            self.fail(f"{value!r} is not a list of ports from 1 to 65535, such as 80,443", param, ctx)
        return ports


PORTS = _Ports()


METADATA_OPTION = click.option(
    "--metadata", multiple=True, metavar="K=V", help="Name and value kept with the session (repeatable)."
)


def parse_metadata(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """Return `K=V` words as a mapping; None without words.

    Raises:
        click.UsageError: A word has no `=`.
    """
    for pair in pairs:
        if "=" not in pair:
            raise click.UsageError(f"--metadata {pair!r} is not of the form K=V")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)} or None
