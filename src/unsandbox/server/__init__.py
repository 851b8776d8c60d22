"""The HTTP front of the engine: routes from the endpoint table, signatures, errors. Built on aiohttp.web."""

from unsandbox.server.app import Server
from unsandbox.server.config import ServerConfig

__all__ = ["Server", "ServerConfig"]
