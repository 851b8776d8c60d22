"""The Model Context Protocol: tools that let a model run code, commands and file operations in sandboxes.

`un mcp` serves them on standard input and output, `un serve --mcp` under `/mcp`. `create_server` returns them
as a server of the official package, for programs that serve it in another way.
"""

from unsandbox.integrations.mcp.tools import create_server

__all__ = ["create_server"]
