# Generated from tests/_async/creating.py by scripts/unasync.py; change that one.
"""Every call that makes something on a server, to be broken off: whatever is there afterwards was left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from unsandbox import Client
from unsandbox._sync import execution, operations
from unsandbox._sync.objects import session

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

    def __init__(self, client: Client, mark: int) -> None:
        self.client = client
        self.program = f"sleep 600.{mark}"
        self.names = iter(f"service-{mark}-{number}" for number in range(10_000_000))
        self.base: dict[str, str] = {}
        """What is there before, and stays."""

    def prepare(self) -> None:
        """Make what snapshots and images are made of."""
        session = self.client.create_session()
        snapshot = self.client.session_snapshot(session.session_id or "")
        service = self.client.create_service(next(self.names), bootstrap="exec sleep 100000")
        image = self.client.publish_image("service", service.service_id or "")
        self.base = {
            "session": session.session_id or "",
            "snapshot": snapshot.snapshot_id or "",
            "service": service.service_id or "",
            "image": image.image_id or "",
        }

    def with_client(self, client: Client) -> Maker:
        """Return one that does the same with another client."""
        other = copy.copy(self)
        other.client = client
        return other

    def execute(self) -> None:
        self.client.execute("bash", self.program)

    def execute_heard(self) -> None:
        self.client.execute("bash", self.program, on_stdout=len)

    def run(self) -> None:
        self.client.run(f"#!/bin/bash\n{self.program}")

    def submit(self) -> Callable[[], Any]:
        job = self.client.submit("bash", self.program)
        return lambda: self.client.cancel(job.job_id or "")

    def submit_run(self) -> Callable[[], Any]:
        job = self.client.submit_run(f"#!/bin/bash\n{self.program}")
        return lambda: self.client.cancel(job.job_id or "")

    def wait(self) -> None:
        job = self.client.submit("bash", self.program)
        self.client.wait(job.job_id or "")

    def stream(self) -> None:
        with self.client.stream("bash", f"echo begun; {self.program}") as events:
            for _ in events:
                pass

    def mapped(self) -> None:
        programs = [("bash", "true"), *[("bash", self.program)] * 4]
        with self.client.map(programs, concurrency=3, ordered=False) as outcomes:
            for _ in outcomes:
                pass

    def session(self) -> None:
        with self.client.session() as session:
            session.run(self.program)

    def create_session(self) -> Callable[[], Any]:
        made = self.client.create_session()
        return lambda: self.client.delete_session(made.session_id or "")

    def create_service(self) -> Callable[[], Any]:
        made = self.client.create_service(next(self.names), bootstrap=f"exec {self.program}")
        return lambda: self.client.delete_service(made.service_id or "")

    def snapshot(self) -> Callable[[], Any]:
        made = self.client.session_snapshot(self.base["session"])
        return lambda: self.client.delete_snapshot(made.snapshot_id or "")

    def publish(self) -> Callable[[], Any]:
        made = self.client.publish_image("snapshot", self.base["snapshot"])
        return lambda: self.client.delete_image(made.image_id or "")

    def clone(self) -> Callable[[], Any]:
        made = self.client.clone_snapshot(self.base["snapshot"], "session")
        return lambda: self.client.delete_session(made.session_id or "")

    def spawn(self) -> Callable[[], Any]:
        made = self.client.spawn_image(self.base["image"], name=next(self.names))
        return lambda: self.client.delete_service(made.service_id or "")

    def left(self) -> list[str]:
        """Return what is on the server and belongs to nobody: jobs that have not ended, and things made."""
        client, base = self.client, set(self.base.values())
        jobs = [
            f"{job.job_id} {job.status}"
            for job in (client.list_jobs(limit=1000)).jobs
            if job.status in ("pending", "running")
        ]
        made = [
            *[item.session_id for item in (client.list_sessions()).sessions],
            *[item.service_id for item in (client.list_services()).services],
            *[item.snapshot_id for item in (client.list_snapshots()).snapshots],
            *[item.image_id for item in (client.list_images()).images],
        ]
        return jobs + [str(name) for name in made if name not in base]
