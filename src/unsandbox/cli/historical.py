"""Flags of the historical command line, as the verbs that they have become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click


def verbs(table: Mapping[str, str]) -> type[click.Group]:
    """Return a kind of group that takes `--list` for `list`, `--kill ID` for `delete ID` and so on.

    Only the first word of a subcommand is looked at, so a verb's own options stay what they are.

    Args:
        table: Flag to verb.
    """

    class HistoricalGroup(click.Group):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            return super().parse_args(ctx, translated(args, table))

    return HistoricalGroup


def translated(words: Sequence[str], table: Mapping[str, str]) -> list[str]:
    """Return the words with a historical flag at their beginning turned into its verb.

    Example:
        >>> translated(["--kill", "session_1", "-y"], {"--kill": "delete"})
        ['delete', 'session_1', '-y']
    """
    if words and words[0] in table:
        return [table[words[0]], *words[1:]]
    return list(words)
