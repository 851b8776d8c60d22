"""`un e2b`: the variables that lead the clients of E2B to a server."""

from __future__ import annotations

import shlex

import click


@click.command()
@click.argument("url")
def e2b(url: str) -> None:
    """Print the variables that lead the clients of E2B to the server at URL.

    URL is the address of `un serve --e2b-port`. The keys are looked up as for other commands; `un accounts`
    shows them. The API key that is printed contains your secret key.

    \b
      eval "$(un e2b http://127.0.0.1:3000)"
    """  # noqa: D301 - click reads this backslash
    from unsandbox.e2b import environ

    for name, value in environ(url).items():
        click.echo(f"export {name}={shlex.quote(value)}")
