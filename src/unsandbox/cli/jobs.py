"""`un jobs`: what runs and what has run."""

from __future__ import annotations

import sys

import click

from unsandbox.cli.connection import connection_options, open_client
from unsandbox.cli.output import JSON_OPTION, exit_code_of, pass_through, show, show_list

_COLUMNS = ("job_id", "language", "status", "created_at")


@click.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, read, wait for and cancel jobs."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_jobs)


@jobs.command("list")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, newest first.")
@JSON_OPTION
@connection_options
def list_jobs(limit: int | None = None, as_json: bool = False) -> None:
    """List your jobs, newest first."""
    with open_client() as client:
        show_list(client.list_jobs(limit=limit).jobs, as_json, _COLUMNS, "jobs")


@jobs.command()
@click.argument("job_id")
@JSON_OPTION
@connection_options
def get(job_id: str, as_json: bool) -> None:
    """Show one job as it is now, its output included."""
    with open_client() as client:
        show(client.get_job(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; exit code 5.")
@JSON_OPTION
@connection_options
def wait(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Print a job's output as it comes, until its end; exit with its code. It goes on when you stop waiting."""
    with open_client() as client:
        if as_json:
            job = client.wait(job_id, timeout=timeout, keep=True)
            show(job, as_json)
        else:
            with client.follow(job_id, timeout=timeout) as events:
                job = pass_through(events)
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
            if as_json:
                show(job, as_json)
            else:
                click.echo(f"{job_id} {job.status}")
