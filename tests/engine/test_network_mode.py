"""`network_mode` of jobs, sessions and services: given where the machine can, refused with the reason where not."""

from __future__ import annotations

import shutil

import pytest

from unsandbox.engine import Engine
from unsandbox.engine.errors import InvalidRequest
from unsandbox.protocol.models import ExecuteRequest
from unsandbox.protocol.services import ServiceRequest
from unsandbox.protocol.sessions import SessionRequest

INTERFACES = "import socket; print([name for _, name in socket.if_nameindex()])"


def job(**options) -> ExecuteRequest:
    return ExecuteRequest(language="python", code=INTERFACES, **options)


@pytest.mark.skipif(not shutil.which("slirp4netns"), reason="slirp4netns is not installed")
async def test_a_job_has_the_network_that_it_asks_for():
    engine = Engine()
    await engine.start()
    try:
        for mode, interfaces in (("zerotrust", "['lo']\n"), ("semitrusted", "['lo', 'tap0']\n")):
            record = await engine.jobs.submit("me", job(network_mode=mode))
            result = await engine.jobs.get("me", record.job_id, wait_s=20)
            assert (result.stdout, result.network_mode) == (interfaces, mode)
    finally:
        await engine.stop()


async def test_where_it_cannot_be_had_everything_that_asks_for_it_is_refused(monkeypatch):
    monkeypatch.setattr("unsandbox.sandbox.bubblewrap.outbound.PROGRAM", "slirp4netns-that-is-nowhere")
    engine = Engine()
    report = await engine.start()
    try:
        (check,) = [check for check in report.checks if check.name == "network: semitrusted"]
        assert (check.ok, check.enforced_by) == (False, "refused")
        assert report.usable
        service = ServiceRequest(name="web", ports=[80], bootstrap="true")
        for ask in (
            lambda: engine.jobs.submit("me", job(network_mode="semitrusted")),
            lambda: engine.sessions.create("me", SessionRequest(network_mode="semitrusted")),
            lambda: engine.services.create("me", service),
        ):
            with pytest.raises(
                InvalidRequest, match=r"is not installed.*apt-get install.*'zerotrust'"
            ) as refusal:
                await ask()
            assert refusal.value.code == "network_mode_unavailable"
        record = await engine.jobs.submit("me", job())
        assert (await engine.jobs.get("me", record.job_id, wait_s=20)).stdout == "['lo']\n"
    finally:
        await engine.stop()
