"""The loop of an agent over MCP, with a scripted model: it draws a CSV file and gets the picture back.

A real model chooses the calls; here a list does. Needs `pip install 'unsandbox[local,mcp]'`.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import Any

from mcp import StdioServerParameters
from mcp.client import Client

DRAW = """
import csv, struct, zlib

values = [int(row["sales"]) for row in csv.DictReader(open("sales.csv"))]
width, height, bar = 20 * len(values), 100, 20
rows = []
for y in range(height):
    filled = [height - y <= value for value in values]
    rows.append(b"\\0" + b"".join((b"\\x33\\x66\\xcc" if on else b"\\xff\\xff\\xff") * bar for on in filled))

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
with open("sales.png", "wb") as file:
    file.write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head))
    file.write(chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b""))
print(max(values))
"""
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("write_file", {"path": "sales.csv", "content": "month,sales\njan,30\nfeb,80\nmar,55\n"}),
    ("run_command", {"command": "wc -l < sales.csv"}),
    ("run_code", {"code": DRAW}),
]
"""What the model asks for, turn by turn."""


async def main() -> None:
    """Run the loop."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "unsandbox.cli", "mcp"])
    async with Client(server) as client:
        for name, arguments in CALLS:
            answer = await client.call_tool(name, arguments)
            for block in answer.content:
                if block.type == "text":
                    print(f"{name}: {block.text}")
                elif block.type == "image":
                    print(f"{name}: a picture, {block.mime_type}, {len(base64.b64decode(block.data))} bytes")


if __name__ == "__main__":
    asyncio.run(main())
