"""`un e2b`: the variables that lead the clients of E2B to a server."""

from __future__ import annotations

import shlex

import click

from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json


@click.command()
@click.argument("url")
@JSON_OPTION
def e2b(url: str, as_json: bool) -> None:
    """Print the variables that lead the clients of E2B to the server at URL.

    URL is the address of `un serve --e2b-port`. The keys are looked up as for other commands; `un accounts`
    shows them. The API key that is printed contains your secret key.

    \b
      eval "$(un e2b http://127.0.0.1:3000)"
    """  # noqa: D301 - click reads this backslash
    from unsandbox.e2b import environ

    variables = environ(url)
    if as_json:
        print_json(dict(variables))
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
