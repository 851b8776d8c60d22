"""`un completion`: print a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print a completion script for a shell.

    \b
    bash: un completion bash >> ~/.bashrc
    zsh:  un completion zsh >> ~/.zshrc
    fish: un completion fish > ~/.config/fish/completions/un.fish
    """
    from unsandbox.cli.group import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion is available for {shell}")
    click.echo(kind(cli, {}, "un", "_UN_COMPLETE").source())
