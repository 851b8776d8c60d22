"""Every call that makes something on a server, to be broken off: whatever is there afterwards was left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from unsandbox import AsyncClient
from unsandbox._async import execution, operations
from unsandbox._async.objects import session

CALLS = (
    "execute",
    "execute_heard",
    "run",
    "submit",
    "submit_run",
    "wait",
    "stream",
    "mapped",
    "session",
    "create_session",
    "create_service",
    "snapshot",
    "publish",
    "clone",
    "spawn",
)
"""Names of the methods of `Maker` that make something and leave nothing when they are broken off.

Some return what deletes the thing made: it belongs to whoever called, once it was returned.
"""

CLEANING: tuple[Any, ...] = (execution, operations, session)
"""The modules that say how long clean-up may take."""


def be_patient() -> None:
    """Give clean-up as long as a slow machine takes: what is proved is that it is done, not how fast."""
    for module in CLEANING:
        module.CLEAN_UP_S = 60.0


class Maker:
    """Makes things in the name of one key.

    Args:
        client: Whose client.
        mark: Digits by which programs are known among all processes of the machine.
    """

    def __init__(self, client: AsyncClient, mark: int) -> None:
        self.client = client
        self.program = f"sleep 600.{mark}"
        self.names = iter(f"service-{mark}-{number}" for number in range(10_000_000))
        self.base: dict[str, str] = {}
        """What is there before, and stays."""

    async def prepare(self) -> None:
        """Make what snapshots and images are made of."""
        session = await self.client.create_session()
        snapshot = await self.client.session_snapshot(session.session_id or "")
        service = await self.client.create_service(next(self.names), bootstrap="exec sleep 100000")
        image = await self.client.publish_image("service", service.service_id or "")
        self.base = {
            "session": session.session_id or "",
            "snapshot": snapshot.snapshot_id or "",
            "service": service.service_id or "",
            "image": image.image_id or "",
        }

    def with_client(self, client: AsyncClient) -> Maker:
        """Return one that does the same with another client."""
        other = copy.copy(self)
        other.client = client
        return other

    async def execute(self) -> None:
        await self.client.execute("bash", self.program)

    async def execute_heard(self) -> None:
        await self.client.execute("bash", self.program, on_stdout=len)

    async def run(self) -> None:
        await self.client.run(f"#!/bin/bash\n{self.program}")

    async def submit(self) -> Callable[[], Any]:
        job = await self.client.submit("bash", self.program)
        return lambda: self.client.cancel(job.job_id or "")

    async def submit_run(self) -> Callable[[], Any]:
        job = await self.client.submit_run(f"#!/bin/bash\n{self.program}")
        return lambda: self.client.cancel(job.job_id or "")

    async def wait(self) -> None:
        job = await self.client.submit("bash", self.program)
        await self.client.wait(job.job_id or "")

    async def stream(self) -> None:
        async with self.client.stream("bash", f"echo begun; {self.program}") as events:
            async for _ in events:
                pass

    async def mapped(self) -> None:
        programs = [("bash", "true"), *[("bash", self.program)] * 4]
        async with self.client.map(programs, concurrency=3, ordered=False) as outcomes:
            async for _ in outcomes:
                pass

    async def session(self) -> None:
        async with self.client.session() as session:
            await session.run(self.program)

    async def create_session(self) -> Callable[[], Any]:
        made = await self.client.create_session()
        return lambda: self.client.delete_session(made.session_id or "")

    async def create_service(self) -> Callable[[], Any]:
        made = await self.client.create_service(next(self.names), bootstrap=f"exec {self.program}")
        return lambda: self.client.delete_service(made.service_id or "")

    async def snapshot(self) -> Callable[[], Any]:
        made = await self.client.session_snapshot(self.base["session"])
        return lambda: self.client.delete_snapshot(made.snapshot_id or "")

    async def publish(self) -> Callable[[], Any]:
        made = await self.client.publish_image("snapshot", self.base["snapshot"])
        return lambda: self.client.delete_image(made.image_id or "")

    async def clone(self) -> Callable[[], Any]:
        made = await self.client.clone_snapshot(self.base["snapshot"], "session")
        return lambda: self.client.delete_session(made.session_id or "")

    async def spawn(self) -> Callable[[], Any]:
        made = await self.client.spawn_image(self.base["image"], name=next(self.names))
        return lambda: self.client.delete_service(made.service_id or "")

    async def left(self) -> list[str]:
        """Return what is on the server and belongs to nobody: jobs that have not ended, and things made."""
        client, base = self.client, set(self.base.values())
        jobs = [
            f"{job.job_id} {job.status}"
            for job in (await client.list_jobs(limit=1000)).jobs
            if job.status in ("pending", "running")
        ]
        made = [
            *[item.session_id for item in (await client.list_sessions()).sessions],
            *[item.service_id for item in (await client.list_services()).services],
            *[item.snapshot_id for item in (await client.list_snapshots()).snapshots],
            *[item.image_id for item in (await client.list_images()).images],
        ]
        return jobs + [str(name) for name in made if name not in base]
