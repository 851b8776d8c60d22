"""The table of every operation: client methods, server routes, request checks and OpenAPI come from here."""

from __future__ import annotations

from unsandbox.protocol import models
from unsandbox.protocol.bounds import CODE_CHARACTERS
from unsandbox.protocol.endpoints.endpoint import Endpoint, Query
from unsandbox.protocol.endpoints.state import IMAGES, LOGS, SERVICES, SESSIONS, SNAPSHOTS
from unsandbox.protocol.endpoints.workspace import CONTEXTS, FILES, PORTS, PROCESSES, WATCHES

FEATURES_HEADER = "Unsandbox-Features"
"""Response header with the server's features beyond the historical API."""
FEATURES = (
    *("wait", "idempotency", "stdin", "events", "args", "isolation", "wait_many"),
    *("compiler_args", "memory_mb", "compile_timeout", "cpu_time", "compile_output", "version", "env_name"),
    *("processes", "files", "contexts", "session_timeout", "fork"),
)
"""`wait`: `GET /jobs/{id}?wait=S` holds; `idempotency`: `Idempotency-Key` is honoured; `stdin`: is taken;
`events`: `GET /jobs/{id}/events` streams; `args`: the program gets arguments; `isolation`: may be chosen;
`wait_many`: `POST /jobs/wait`."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
REQUEST_ID_HEADER = "X-Request-Id"
OTP_HEADER = "X-Sudo-OTP"
"""One-time code for a protected call, sent with the id of the challenge that the 428 answer held."""
CHALLENGE_HEADER = "X-Sudo-Challenge"

_RUN_QUERY = (
    Query("ttl", "number", "Seconds of wall-clock time for the program, at most 900."),
    Query("network_mode", "string", "`zerotrust` or `semitrusted`."),
    Query("env", "string", "JSON object of environment variables."),
)

JOBS: tuple[Endpoint, ...] = (
    Endpoint(
        name="execute",
        method="POST",
        path="/execute",
        request=models.ExecuteRequest,
        response=models.Job,
        body="json",
        creates=True,
        summary="Run code and answer when it has ended; a long job answers with status `running` instead.",
    ),
    Endpoint(
        name="execute_async",
        method="POST",
        path="/execute/async",
        request=models.ExecuteRequest,
        response=models.Job,
        body="json",
        creates=True,
        summary="Start a job and answer at once with its id.",
    ),
    Endpoint(
        name="run",
        method="POST",
        path="/run",
        response=models.Job,
        body="text",
        text_bytes=4 * CODE_CHARACTERS,
        query=_RUN_QUERY,
        creates=True,
        summary="Run the source in the body; its `#!` line names the language.",
    ),
    Endpoint(
        name="run_async",
        method="POST",
        path="/run/async",
        response=models.Job,
        body="text",
        text_bytes=4 * CODE_CHARACTERS,
        query=_RUN_QUERY,
        creates=True,
        summary="As `/run`, but answer at once with the job's id.",
    ),
    Endpoint(
        name="list_jobs",
        method="GET",
        path="/jobs",
        response=models.JobList,
        query=(Query("limit", "integer", "At most so many, newest first."),),
        summary="List the jobs of this key, without their output.",
    ),
    Endpoint(
        name="get_job",
        method="GET",
        path="/jobs/{id}",
        response=models.Job,
        query=(Query("wait", "number", "Hold the answer until the job ends, at most so many seconds (60)."),),
        summary="Get one job; the result once it has ended.",
    ),
    Endpoint(
        name="wait_job",
        method="GET",
        path="/jobs/{id}/wait",
        response=models.Job,
        query=(Query("timeout", "number", "Answer after so many seconds even if the job still runs (90)."),),
        summary="Hold the answer until the job has ended.",
    ),
    Endpoint(
        name="wait_jobs",
        method="POST",
        path="/jobs/wait",
        request=models.WaitRequest,
        response=models.EndedJobs,
        body="json",
        idempotent=True,
        summary="Hold the answer until any of several jobs has ended; the answer holds all that have.",
    ),
    Endpoint(
        name="cancel_job",
        method="DELETE",
        path="/jobs/{id}",
        response=models.Cancelled,
        aliases=(("POST", "/jobs/{id}/cancel"),),
        summary="End a job; the answer holds its partial output. A job that has ended stays as it is.",
    ),
    Endpoint(
        name="languages",
        method="GET",
        path="/languages",
        response=models.Languages,
        auth="none",
        summary="List the languages that can really run here.",
    ),
    Endpoint(
        name="validate_keys",
        method="POST",
        path="/keys/validate",
        response=models.KeyInfo,
        idempotent=True,
        summary="Tell whether the signing key is valid, and its limits.",
    ),
    Endpoint(
        name="health",
        method="GET",
        path="/health",
        response=models.Health,
        auth="none",
        summary="200 when the server is well.",
    ),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    *JOBS,
    *SESSIONS,
    *PROCESSES,
    *CONTEXTS,
    *PORTS,
    *FILES,
    *WATCHES,
    *SERVICES,
    *SNAPSHOTS,
    *IMAGES,
    *LOGS,
)

BY_NAME: dict[str, Endpoint] = {endpoint.name: endpoint for endpoint in ENDPOINTS}
