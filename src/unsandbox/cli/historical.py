"""Groups that accept the flags of the historical command line as subcommands, and have a default subcommand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

COMMON = {"--list": "list", "-l": "list", "--info": "get"}
"""Flags that every kind of object had."""


def verbs(table: Mapping[str, str], default: str | None = None) -> type[click.Group]:
    """Return a group class that takes `--list` for `list`, `--kill ID` for `delete ID` and so on.

    The flag may follow other options. After a subcommand, options keep their own meaning.

    Args:
        table: Subcommand by flag.
        default: The subcommand to use if the arguments name none.
    """

    class HistoricalGroup(click.Group):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            # During completion a missing word does not mean the default.
            words = with_verb(args, table, None if ctx.resilient_parsing else default)
            return super().parse_args(ctx, words)

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            if args and args[0] not in self.commands and not ctx.resilient_parsing:
                ctx.fail(f"unknown subcommand {args[0]!r}; choose from: {', '.join(sorted(self.commands))}")
            return super().resolve_command(ctx, args)

    return HistoricalGroup


def with_verb(words: Sequence[str], table: Mapping[str, str], default: str | None = None) -> list[str]:
    """Return the words with the subcommand in front.

    Example:
        >>> with_verb(["--kill", "session_1", "-y"], {"--kill": "delete"})
        ['delete', 'session_1', '-y']
        >>> with_verb(["--ports", "80", "--name", "web"], {"--name": "create"}, "list")
        ['create', 'web', '--ports', '80']
        >>> with_verb(["--json"], {}, "list"), with_verb(["get", "x"], {}, "list")
        (['list', '--json'], ['get', 'x'])
    """
    first = words[0] if words else "-"
    if first.startswith("-"):
        for at, word in enumerate(words):
            if word in table:
                return [table[word], *words[at + 1 :], *words[:at]]
    if default and first.startswith("-") and first not in ("-h", "--help"):
        return [default, *words]
    return list(words)
