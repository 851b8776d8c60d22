"""`un jobs`: list, read, wait for and cancel jobs."""

from __future__ import annotations

import sys

import click

from unsandbox.cli import suggest
from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.historical import verbs
from unsandbox.cli.options import JSON_OPTION
from unsandbox.cli.output import exit_code_of, pass_through, print_result, show
from unsandbox.cli.verbs import add_get, add_list

_IDS = suggest.ids("jobs")
_COLUMNS = ("job_id", "language", "status", "created_at")


@click.group(cls=verbs({}, "list"))
def jobs() -> None:
    """Manage jobs. Without a subcommand, list them."""


add_list(
    jobs,
    "list_jobs",
    "jobs",
    _COLUMNS,
    "List your jobs, newest first.",
    click.option("-n", "--limit", type=click.IntRange(min=1), help="Maximum number of jobs to list."),
)
add_get(jobs, "get_job", "job with its output so far")


@jobs.command()
@click.argument("job_id", shell_complete=_IDS)
@click.option(
    "--timeout", type=click.FloatRange(min=0), help="Maximum seconds to wait; exit code 5 when exceeded."
)
@JSON_OPTION
@connection_options
def wait(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Follow a job's output until it ends and exit with its code. Ctrl-C does not stop the job."""
    with open_client() as client, client.follow(job_id, timeout=timeout) as events:
        job = pass_through(events, client, as_json)
    if as_json:
        show(job, as_json)
    sys.exit(exit_code_of(job))


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True, shell_complete=_IDS)
@JSON_OPTION
@connection_options
def cancel(job_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs."""
    with open_client() as client:
        for job_id in job_ids:
            job = client.cancel(job_id)
            print_result(job, as_json, f"{job_id} {job.status}")
