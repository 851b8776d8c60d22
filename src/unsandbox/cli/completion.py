"""`un completion`: print a shell's completion script, and find completions for these scripts."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from unsandbox.cli.main import RUN, with_command

_BASH = r"""%(complete_func)s() {
    local IFS=$'\n' type value completion
    COMPREPLY=()
    for completion in $(
        env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1"
    ); do
        type=${completion%%%%,*} value=${completion#*,}
        case $type in
            dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "${COMP_WORDS[COMP_CWORD]}")) ;;
            file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")) ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""As click's, but commands and files can be completed together."""

_ZSH_SETUP = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }\n"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print a completion script for a shell.

    It completes commands, options, files, languages and ids; ids by asking the server in the environment.

    \b
    bash: un completion bash >> ~/.bashrc
    zsh:  un completion zsh >> ~/.zshrc
    fish: un completion fish > ~/.config/fish/completions/un.fish
    """
    from unsandbox.cli.group import cli

    register()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion is available for {shell}")
    click.echo(kind(cli, {}, "un", "_UN_COMPLETE").source())


class _Words(ShellComplete):
    """Knows that words without a subcommand are a run."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        commands = [] if incomplete.startswith("-") else super().get_completions([], incomplete)
        if args == ["help"]:
            return commands
        found = super().get_completions(with_command(args) or [RUN], incomplete)
        # The next word may be a subcommand: not after a file, code, or an option that takes a value.
        first = all(with_command([*args, word])[0] == word for word in (RUN, "jobs"))
        return [*commands, *found] if first else found


class _Bash(_Words, BashComplete):
    source_template = _BASH


class _Zsh(_Words, ZshComplete):
    source_template = ZshComplete.source_template.replace("    compdef ", "    " + _ZSH_SETUP + "    compdef ")


class _Fish(_Words, FishComplete):
    pass


def register() -> None:
    """Make click use the completion of this module."""
    for kind in (_Bash, _Zsh, _Fish):
        add_completion_class(kind)
