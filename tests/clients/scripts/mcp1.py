"""Calls tools with the official client of the 1.x line, over stdio or HTTP; prints what came. Run in its environment."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def talk(read, write):
    async with ClientSession(read, write) as session:
        await session.initialize()
        names = [tool.name for tool in (await session.list_tools()).tools]
        await session.call_tool("run_code", {"code": "x = 6 * 7"})
        answer = await session.call_tool("run_code", {"code": "print(x)"})
        missing = await session.call_tool("read_file", {"path": "nothing"})
        print(json.dumps({"tools": names, "text": answer.content[0].text, "error": missing.isError}))


async def main():
    if len(sys.argv) > 2:
        url, token = sys.argv[1:]
        headers = {"Authorization": f"Bearer {token}"}
        async with streamablehttp_client(url, headers=headers) as (read, write, _):
            await talk(read, write)
    else:
        server = StdioServerParameters(
            command=sys.argv[1], args=["-m", "unsandbox.cli", "mcp"], env=dict(os.environ)
        )
        async with stdio_client(server) as (read, write):
            await talk(read, write)


asyncio.run(main())
