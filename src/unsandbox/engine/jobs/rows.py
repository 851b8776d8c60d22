"""Converts jobs to stored rows and list entries, and back."""

from __future__ import annotations

import time

from unsandbox.engine.errors import Conflict
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.engine.jobs.results import failed_result
from unsandbox.engine.store.rows import JobRow
from unsandbox.protocol import codec, models
from unsandbox.protocol.contents import Pieces, chunks_of
from unsandbox.protocol.held import fill_in
from unsandbox.protocol.models import JobStatus
from unsandbox.protocol.splitting import Parted, restored
from unsandbox.sandbox import NetworkMode


def within(ended: list[JobRecord], most_bytes: int) -> list[models.Job]:
    """Return the results of jobs, at least one, as long as they fit."""
    jobs: list[models.Job] = []
    size = 0
    for record in ended:
        size += record.size
        if jobs and size > most_bytes:
            break
        jobs.append(record.as_job())
    return jobs


def same_request(record: JobRecord, fingerprint: str | None) -> JobRecord:
    """Return the job that was created earlier with an idempotency key.

    Raises:
        Conflict: A different request created it.
    """
    if fingerprint is not None and record.fingerprint not in {None, fingerprint}:
        raise Conflict(
            "this Idempotency-Key was used for a different request; use a new key for a new request",
            code="idempotency_key_reused",
        )
    return record


def row_of(
    record: JobRecord, result: models.Job | None = None, encoded: bytes | Pieces | None = None
) -> JobRow:
    """Return the stored form of a job, with its result if it has one."""
    return JobRow(
        job_id=record.job_id,
        owner=record.owner,
        status=(result.status if result else None) or record.status.value,
        language=record.language,
        created_at=record.created_at,
        completed_at=time.time() if result else None,
        idempotency_key=record.idempotency_key,
        fingerprint=record.fingerprint,
        result=encoded,
    )


def summary_of(row: JobRow) -> models.Job:
    """Return the list entry of a stored job."""
    return models.Job(
        job_id=row.job_id,
        status=row.status,
        language=row.language,
        created_at=str(int(row.created_at)),
        completed_at=None if row.completed_at is None else int(row.completed_at),
    )


def listed(job: models.Job) -> models.Job:
    """Return the list entry of a job, without output and artifacts."""
    shown = ("job_id", "status", "language", "error", "created_at", "completed_at")
    return models.Job(**{name: getattr(job, name) for name in shown})


def result_bytes(row: JobRow) -> int:
    """Return how many bytes of a stored result are JSON that must be parsed."""
    result = row.result.body if isinstance(row.result, Parted) else row.result
    return 0 if result is None else len(result)


def revived(row: JobRow) -> JobRecord:
    """Return a record of a stored job that has ended."""
    record = JobRecord(
        owner=row.owner,
        spec=None,
        language=row.language,
        network_mode=NetworkMode.ZEROTRUST,
        job_id=row.job_id,
        idempotency_key=row.idempotency_key,
        fingerprint=row.fingerprint,
        created_at=row.created_at,
    )
    record.accepted.set()
    if row.result is not None:
        record.finish(_result_of(row.result))
    elif row.status == JobStatus.RUNNING:
        record.started.set()
    return record


def _result_of(stored: bytes | Pieces | Parted) -> models.Job:
    if isinstance(stored, Parted):
        return fill_in(codec.from_wire(restored(codec.loads_object(stored.body), stored.marks), models.Job))
    return codec.from_wire(codec.loads_object(b"".join(chunks_of(stored))), models.Job)


def lost_result(row: JobRow) -> bytes:
    """Return the stored answer of a job that a server left unfinished when it died."""
    record = revived(row)
    return codec.encode(failed_result(record, JobStatus.FAILED, "the server was restarted while it ran"))
