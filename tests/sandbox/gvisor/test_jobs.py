"""The suites of jobs and of abuse, on gVisor: those of their tests that mean the same there, and its own.

Each start takes a quarter of a second, so this is a choice, and not all of them.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sandbox.bubblewrap.test_abuse import (  # noqa: F401 - run here too
    test_artifacts_of_a_program_that_daemonised_are_complete,
    test_what_stays_possible,
)
from tests.sandbox.bubblewrap.test_running import (  # noqa: F401 - run here too
    test_a_daemon_that_holds_the_pipes_does_not_hold_the_job,
    test_a_failed_compile_step_ends_the_job,
    test_a_program_that_is_not_there,
    test_a_program_that_signals_its_whole_group_runs_on,
    test_cancel_at_once_and_twice,
    test_compile_then_run,
    test_death_by_signal_is_128_plus_its_number_without_remarks_of_a_shell,
    test_environment_is_clean_and_the_callers_wins,
    test_files_folders_modes_and_owner,
    test_more_files_than_fit_in_one_message,
    test_no_descriptor_is_inherited_but_the_three,
    test_nothing_stays_open_in_the_server,
    test_output_and_exit_code,
    test_output_arrives_while_the_program_runs,
    test_output_beyond_the_limit_is_counted_and_dropped,
    test_output_of_processes_that_outlive_the_program_is_waited_for,
    test_standard_streams_can_be_opened_by_name,
    test_stdin,
    test_the_time_is_the_programs_also_if_the_server_is_busy,
    test_who_does_not_hold_the_output_is_killed_at_once,
    test_who_writes_without_end_is_killed_later,
)
from tests.sandbox.support import eventually, groups_of, sandbox_processes

from unsandbox.sandbox import EndReason, GvisorBackend, Limits, NetworkMode, SandboxSpec, SandboxUnavailable
from unsandbox.sandbox.gvisor.bundle import SENTRY_BYTES

pytestmark = pytest.mark.gvisor
MIB = 1 << 20


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend():
    async with GvisorBackend() as opened:
        yield opened


async def test_the_kernel_is_not_the_hosts(run):
    outcome = await run("sh", "-c", "uname -r; dmesg | head -1")
    release, first = outcome.stdout.data.decode().splitlines()
    assert release not in Path("/proc/version").read_text()
    assert "Starting gVisor" in first


async def test_a_network_is_refused_with_what_to_do(backend):
    with pytest.raises(SandboxUnavailable, match="isolation bubblewrap"):
        await backend.start(SandboxSpec(run=["true"], network=NetworkMode.SEMITRUSTED))


async def test_memory_bomb(python, still_well):
    outcome = await python(
        "x = bytearray(1 << 30)\nprint('got it')", limits=Limits(memory_bytes=100 * MIB, wall_s=20)
    )
    assert outcome.stdout.data == b""
    assert (outcome.reason, outcome.exit_code) == (EndReason.MEMORY, 137)
    # The tenant's and gVisor's own.
    assert outcome.peak_memory_bytes <= 101 * MIB + SENTRY_BYTES
    await still_well()


async def test_timeout_kills_what_ignores_sigterm_and_keeps_its_output(run, still_well):
    script = "trap '' TERM HUP INT; setsid sleep 1000 & echo partial; while :; do sleep 100; done"
    outcome = await run("sh", "-c", script, limits=Limits(wall_s=2))
    assert (outcome.reason, outcome.exit_code, outcome.stdout.data) == (EndReason.TIMEOUT, None, b"partial\n")
    await still_well()


async def test_output_flood(run, still_well):
    begin = time.monotonic()
    outcome = await run("yes", limits=Limits(output_bytes=MIB, flood_bytes=50 * MIB, wall_s=20))
    assert (outcome.reason, outcome.exit_code) == (EndReason.OUTPUT_FLOOD, None)
    assert outcome.stdout.data == b"y\n" * (MIB // 2)
    assert time.monotonic() - begin < 8
    await still_well()


async def test_artifacts_that_point_elsewhere(run, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("secret")
    script = f"""
cd /tmp/artifacts
echo good > good.txt; chmod 700 good.txt; ln good.txt second-name; echo no > closed; chmod 0 closed
ln -s /etc/shadow shadow; ln -s {canary} canary; ln -s good.txt local
mkfifo fifo; mkdir folder; echo in > folder/inside
python3 -c 'import socket; socket.socket(1).bind("sock")'
truncate -s 10G sparse; : > empty
printf x > "$(printf 'bad\\377name')"; printf y > "$(printf 'line\\nfeed')"; printf z > ./--help
"""
    outcome = await run(
        "sh", "-c", script, collect_artifacts=True, limits=Limits(artifact_bytes=1000, wall_s=20)
    )
    assert (outcome.reason, outcome.exit_code) == (EndReason.EXITED, 0), outcome
    found = {artifact.filename: (artifact.data, artifact.mode) for artifact in outcome.artifacts}
    assert found == {
        "good.txt": (b"good\n", 0o700), "second-name": (b"good\n", 0o700), "bad\ufffdname": (b"x", 0o644),
        "line\nfeed": (b"y", 0o644), "--help": (b"z", 0o644), "empty": (b"", 0o644),
        "folder/inside": (b"in\n", 0o644),
    }, outcome.artifacts_skipped  # fmt: skip
    reasons = dict(line.rsplit(": ", 1) for line in outcome.artifacts_skipped)
    assert reasons.pop("sparse").startswith("too large")
    assert reasons == {
        "shadow": "symbolic link", "canary": "symbolic link", "local": "symbolic link", "closed": "permission denied",
        "fifo": "FIFO", "sock": "socket",
    }  # fmt: skip


async def test_a_program_that_kills_the_first_process_harms_itself_alone(run, still_well):
    outcome = await run("python3", "-c", "import os; print('x', flush=True); os.kill(1, 9)")
    assert (outcome.reason, outcome.exit_code, outcome.stdout.data) == (EndReason.EXITED, 137, b"x\n")
    await still_well()


async def test_a_program_that_breaks_the_artifact_channel(run, still_well):
    """The channel is closed to programs; whatever comes over it is a label and bounded."""
    outcome = await run("sh", "-c", "echo forged >&5; echo after; : > /tmp/artifacts/a", collect_artifacts=True)
    assert b"Bad file descriptor" in outcome.stderr.data
    assert [artifact.filename for artifact in outcome.artifacts] == ["a"]


async def test_several_at_once_each_with_its_own_output(backend):
    async def one(number):
        return await (await backend.start(SandboxSpec(run=["sh", "-c", f"echo {number}"]))).wait()

    outcomes = await asyncio.gather(*(one(i) for i in range(6)))
    assert [outcome.stdout.data for outcome in outcomes] == [b"%d\n" % i for i in range(6)]


async def test_nothing_is_left_after_all_this(backend, still_well):
    await still_well()
    mine = groups_of(backend.host.runtime.name)
    await eventually(lambda: [group for folder in mine for group in folder.glob("job-*")] == [])
    assert sandbox_processes() == []
    assert list(backend.host.runtime.glob("gvisor-*")) == []
