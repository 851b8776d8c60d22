"""`un mcp`: tools for models over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import click

from unsandbox.cli.options import ISOLATION_OPTION, NETWORK_OPTION, VCPU_OPTION
from unsandbox.errors import EngineError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_STOP_S = 10.0


@click.command()
@ISOLATION_OPTION
@NETWORK_OPTION
@VCPU_OPTION
@click.option("--api-base", metavar="URL", help="URL of the server. Default: the embedded engine.")
def mcp(isolation: str | None, network: str | None, vcpu: int | None, api_base: str | None) -> None:
    """Serve tools for models on standard input and output (Model Context Protocol).

    Programs such as Claude Code, Cursor and VS Code start this command. Its tools run code and commands and
    work on files, in a sandbox that ends with the command. The embedded engine runs it, or the server in
    --api-base or UNSANDBOX_API_BASE, with the keys of UNSANDBOX_PUBLIC_KEY and UNSANDBOX_SECRET_KEY.
    """
    try:
        from unsandbox.integrations.mcp import create_server
    except ImportError as error:
        raise EngineError(str(error)) from error
    settings = {"isolation": isolation, "network_mode": network, "vcpu": vcpu, "base_url": api_base}
    given: Any = {name: value for name, value in settings.items() if value is not None}
    asyncio.run(_serve(create_server(**given)))


async def _serve(server: MCPServer[Any]) -> None:
    """Serve until standard input ends, or a signal comes. Sandboxes end in either case."""
    serving = asyncio.ensure_future(server.run_stdio_async())
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopped.set)
    stopping = asyncio.ensure_future(stopped.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stopped.is_set() and not serving.done():
        serving.cancel()
        await asyncio.wait({serving}, timeout=_STOP_S)
        # A thread of the package waits for standard input, and the interpreter would wait for the thread.
        os._exit(0)
    stopping.cancel()
    await serving
