"""The HTTP front of the engine: routes from the endpoint table, signatures, errors. Built on aiohttp.web."""

from unsandbox.server.app import Server, ServerConfig

__all__ = ["Server", "ServerConfig"]
