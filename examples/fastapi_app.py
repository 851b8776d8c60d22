"""A web back end that runs code: `uvicorn fastapi_app:app` serves it; run as a program, it tests itself."""

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import fastapi
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel

from unsandbox import AsyncClient, BadRequestError, OutputEvent, WaitTimeoutError


@contextlib.asynccontextmanager
async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    """Keep one client, and with it its connections, for the life of the application."""
    async with AsyncClient() as client:
        app.state.sandbox = client
        yield


app = fastapi.FastAPI(lifespan=lifespan)


class Program(BaseModel):
    """The request of a visitor."""

    language: str
    code: Annotated[str, fastapi.Body(max_length=100_000)]


@app.post("/run")
async def run(program: Program, request: fastapi.Request) -> dict[str, str | int | None]:
    """Run a program and return its result; after 5 seconds the job is cancelled."""
    try:
        job = await request.app.state.sandbox.execute(program.language, program.code, timeout=5)
    except BadRequestError as error:
        raise fastapi.HTTPException(400, error.server_message) from error
    except WaitTimeoutError as error:
        raise fastapi.HTTPException(408, "the program took too long") from error
    return {"stdout": job.stdout, "stderr": job.stderr, "exit_code": job.exit_code}


@app.post("/stream")
async def stream(program: Program, request: fastapi.Request) -> StreamingResponse:
    """Stream the program's output. The job is cancelled when the visitor disconnects."""

    async def output() -> AsyncIterator[bytes]:
        async with request.app.state.sandbox.stream(program.language, program.code, ttl=30) as events:
            async for event in events:
                if isinstance(event, OutputEvent):
                    yield event.data

    return StreamingResponse(output(), media_type="text/plain; charset=utf-8")


def main() -> int:
    """Send a few requests; return the exit status."""
    with TestClient(app) as visitor:
        fine = visitor.post("/run", json={"language": "python", "code": "print(6 * 7)"})
        wrong = visitor.post("/run", json={"language": "nosuchlanguage", "code": ""})
        streamed = visitor.post("/stream", json={"language": "bash", "code": "seq 3"})
    print(fine.status_code, fine.json())
    print(wrong.status_code, wrong.json()["detail"].partition(";")[0])
    print(streamed.status_code, streamed.text.split())
    return 0 if (fine.json()["stdout"], wrong.status_code, streamed.text) == ("42\n", 400, "1\n2\n3\n") else 1


if __name__ == "__main__":
    sys.exit(main())
