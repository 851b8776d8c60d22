"""A server that answers every POST with the same finished job: what is left is the cost of the client."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

ANSWER = (
    b'{"job_id":"job_0123456789abcdef","status":"completed","language":"python","stdout":"42\\n","stderr":"",'
    b'"exit_code":0,"success":true,"total_time_ms":12.5,"network_mode":"zerotrust","created_at":"1700000000",'
    b'"completed_at":"1700000000","id":"job_0123456789abcdef","execution_time_ms":12.5,"execution_time":12.5}'
)


async def answer(request: web.Request) -> web.Response:
    """Read the body, as any server must, and answer."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/json")


async def main() -> None:
    """Serve until standard input ends; print the port first."""
    app = web.Application()
    app.router.add_post("/execute", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
