"""`un key` and `un accounts`: the keys in use, and their validity and limits on the server."""

from __future__ import annotations

import click

from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.main import EXIT_AUTHENTICATION
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import print_json, show, table


@click.command()
@click.option("--extend", is_flag=True, help="Print the URL at the hosted service for extending the key.")
@JSON_OPTION
@connection_options
def key(extend: bool, as_json: bool) -> None:
    """Show whether your key is valid, and its limits. Exit code 3 when it is not."""
    with open_client() as client:
        info = client.validate_keys()
    if extend:
        url = f"https://unsandbox.com/keys/extend?pk={info.public_key}"
        if as_json:
            print_json({"public_key": info.public_key, "url": url})
        else:
            click.echo(url)
        return
    show(info, as_json)
    if not info.valid:
        raise click.exceptions.Exit(EXIT_AUTHENTICATION)


@click.command()
@JSON_OPTION
def accounts(as_json: bool) -> None:
    """List the rows of the accounts files and show which keys are used. Secrets are never printed."""
    from unsandbox.credentials import explain_credentials, list_accounts

    rows = [
        {"file": str(account.file), "account": account.row, "public_key": account.public_key}
        for account in list_accounts()
    ]
    report = explain_credentials()
    used = f"commands use the keys of {report.source}" if report.source else str(report.error)
    if as_json:
        print_json({"accounts": rows, "count": len(rows), "used": used})
        return
    if rows:
        table([[str(value) for value in row.values()] for row in rows], ("file", "account", "public_key"))
    click.echo(used, err=True)
