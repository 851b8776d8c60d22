"""`un jobs`: what runs and what has run."""

from __future__ import annotations

import sys

import click

from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.historical import verbs
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import exit_code_of, pass_through, said, show
from unsandbox.cli.verbs import add_get, add_list

_COLUMNS = ("job_id", "language", "status", "created_at")


@click.group(cls=verbs({}, "list"))
def jobs() -> None:
    """List, read, wait for and cancel jobs; without a verb, list them."""


add_list(
    jobs,
    "list_jobs",
    "jobs",
    _COLUMNS,
    "List your jobs, newest first.",
    click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many."),
)
add_get(jobs, "get_job", "job as it is now, its output included")


@jobs.command()
@click.argument("job_id")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; exit code 5.")
@JSON_OPTION
@connection_options
def wait(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Print a job's output as it comes, until its end; exit with its code. It goes on when you stop waiting."""
    with open_client() as client, client.follow(job_id, timeout=timeout) as events:
        job = pass_through(events, client, as_json)
    if as_json:
        show(job, as_json)
    sys.exit(exit_code_of(job))


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@JSON_OPTION
@connection_options
def cancel(job_ids: tuple[str, ...], as_json: bool) -> None:
    """End jobs."""
    with open_client() as client:
        for job_id in job_ids:
            job = client.cancel(job_id)
            said(job, as_json, f"{job_id} {job.status}")
