"""Execution, jobs, languages, keys, health."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from unsandbox._version import __version__
from unsandbox.engine import InvalidRequest
from unsandbox.engine.jobs.manager import LIST_LIMIT
from unsandbox.engine.jobs.records import JobRecord
from unsandbox.protocol import codec, models
from unsandbox.protocol.languages import detect_shebang, in_historical_order
from unsandbox.server.auth import human_duration
from unsandbox.server.call import Call, read_members, read_number, to_model

_LONGEST_WAIT_S = 60.0
_IDEMPOTENCY_KEY_LENGTH = 255


async def execute(call: Call) -> models.Job:
    """Run code; answer at its end, or with status `running` when that takes too long."""
    record = await _submit(call, _json_request(call))
    return await call.engine.jobs.get(call.owner, record.job_id, call.hold_s)


async def execute_async(call: Call) -> models.Job:
    """Start a job."""
    return (await _submit(call, _json_request(call))).as_job()


async def run(call: Call) -> models.Job:
    """Run the text in the body."""
    request = _text_request(call)
    record = await _submit(call, request, detected_language=request.language)
    return await call.engine.jobs.get(call.owner, record.job_id, call.hold_s)


async def run_async(call: Call) -> models.Job:
    """Start the text in the body."""
    request = _text_request(call)
    return (await _submit(call, request, detected_language=request.language)).as_job()


async def list_jobs(call: Call) -> models.JobList:
    """List jobs."""
    limit = int(read_number(call.query, "limit", LIST_LIMIT, 1, LIST_LIMIT))
    jobs = await call.engine.jobs.list_of(call.owner, limit)
    return models.JobList(jobs=jobs, count=len(jobs))


async def get_job(call: Call) -> models.Job:
    """Get one job, holding the answer as long as the caller asks."""
    wait_s = read_number(call.query, "wait", 0.0, 0.0, _LONGEST_WAIT_S)
    return await call.engine.jobs.get(call.owner, call.params["id"], wait_s)


async def wait_job(call: Call) -> models.Job:
    """Get one job at its end."""
    wait_s = read_number(call.query, "timeout", call.hold_s, 0.0, call.hold_s)
    return await call.engine.jobs.get(call.owner, call.params["id"], wait_s)


async def wait_jobs(call: Call) -> models.EndedJobs:
    """Get those of several jobs that have ended, holding the answer until one has."""
    request = to_model(read_members(call), models.WaitRequest)
    jobs, unknown = await call.engine.jobs.wait_any(
        call.owner, request.ids, min(request.timeout, _LONGEST_WAIT_S)
    )
    return models.EndedJobs(jobs=jobs, count=len(jobs), unknown=unknown)


async def cancel_job(call: Call) -> models.Cancelled:
    """End one job."""
    job = await call.engine.jobs.cancel(call.owner, call.params["id"])
    message = "job cancelled" if job.status == models.JobStatus.CANCELLED else f"job already {job.status}"
    members = {name: getattr(job, name) for name in job.__struct_fields__}
    return models.Cancelled(**members, message=message)


async def languages(call: Call) -> models.Languages:
    """List languages."""
    table = call.engine.languages
    names = in_historical_order(language.name for language in table.available())
    aliases = {alias: name for alias, name in table.aliases().items() if name in names}
    return models.Languages(languages=names, count=len(names), aliases=aliases)


async def validate_keys(call: Call) -> models.KeyInfo:
    """Report on the key that signed, which is valid because the request got here."""
    settings = call.settings
    expires = settings.expires_at
    left_s = None if expires is None else expires - time.time()
    return models.KeyInfo(
        valid=True,
        public_key=call.owner,
        tier=settings.tier,
        status="active",
        valid_through_datetime=None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat(),
        valid_for_human="without end" if left_s is None else human_duration(left_s),
        expires_at=None if expires is None else str(int(expires)),
        time_remaining=None if left_s is None else int(left_s),
        rate_per_minute=settings.rate_per_minute,
        burst=settings.burst or settings.rate_per_minute,
        concurrency=settings.concurrency or call.engine.config.concurrency_per_key,
        limits=settings.limits(),
        used=call.engine.quotas.used(call.owner),
    )


async def health(call: Call) -> models.Health:
    """Report that the server is healthy, and its isolation."""
    probe = call.engine.probe
    isolation: dict[str, Any] | None = None
    if probe is not None:
        isolation = {
            "backend": probe.backend,
            "checks": {check.name: check.enforced_by for check in probe.checks if check.ok},
        }
    return models.Health(status="ok", version=__version__, isolation=isolation)


async def _submit(
    call: Call, request: models.ExecuteRequest, detected_language: str | None = None
) -> JobRecord:
    key = call.idempotency_key
    if key is not None and not 1 <= len(key) <= _IDEMPOTENCY_KEY_LENGTH:
        raise InvalidRequest(f"Idempotency-Key must have 1 to {_IDEMPOTENCY_KEY_LENGTH} characters")
    return await call.engine.jobs.submit(
        call.owner,
        request,
        idempotency_key=key,
        fingerprint=call.body_sha256 if key else None,
        detected_language=detected_language,
        concurrency=call.settings.concurrency,
    )


def _json_request(call: Call) -> models.ExecuteRequest:
    members = read_members(call)
    if not members.get("language"):
        names = ", ".join(sorted(language.name for language in call.engine.languages.available()))
        raise InvalidRequest(f"'language' is missing; this server runs: {names}", code="missing_language")
    return to_model(members, models.ExecuteRequest)


def _text_request(call: Call) -> models.ExecuteRequest:
    code = call.body.decode("utf-8", "surrogateescape")
    language = detect_shebang(code)
    if language is None:
        raise InvalidRequest(
            "the source must begin with a #! line that names a known interpreter, such as "
            "#!/usr/bin/env python3; or use /execute",
            code="missing_language",
        )
    members: dict[str, Any] = {"language": language, "code": code}
    members |= {name: value for name, value in call.query.items() if name in {"ttl", "network_mode", "network"}}
    if "env" in call.query:
        try:
            members["env"] = codec.loads_object(call.query["env"].encode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise InvalidRequest(f"the query member 'env' must be a JSON object: {error}") from error
    return to_model(members, models.ExecuteRequest)
