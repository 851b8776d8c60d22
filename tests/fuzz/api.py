"""Requests made from our own OpenAPI document, sent signed to a real `un serve`, and every answer held against it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from requests.auth import AuthBase
from schemathesis import Case, GenerationMode, openapi
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from unsandbox.engine.accounts.keys import KeyPair, KeySettings
from unsandbox.engine.accounts.stored_keys import StoredKeys
from unsandbox.protocol.signing import sign

CHECKS: list[CheckFunction] = [status_code_conformance, content_type_conformance, response_schema_conformance]
# A flood of valid requests must find its end at the limits of the key and not at those of the machine.
LIMITS = KeySettings(
    concurrency=4, sessions=2, services=2, sandbox_memory_mb=128, cpu_s_per_day=120, output_mb=1
)
_PATIENCE_S = 120.0


@dataclass
class Report:
    """What was tried, and what came of it."""

    operations: int = 0
    requests: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Signature(AuthBase):
    """Signs what is about to be sent, as it is."""

    def __init__(self, pair: KeyPair) -> None:
        self._pair = pair

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        now = str(int(time.time()))
        request.headers["Authorization"] = f"Bearer {self._pair.public_key}"
        request.headers["X-Timestamp"] = now
        signature = sign(self._pair.secret_key, now, request.method or "", request.path_url, body)
        request.headers["X-Signature"] = signature
        return request


@contextlib.contextmanager
def served() -> Iterator[tuple[str, KeyPair]]:
    """A server of its own process with one key."""
    with tempfile.TemporaryDirectory() as folder:
        keys = StoredKeys(Path(folder))
        pair = keys.create(settings=LIMITS)
        keys.close()
        command = [sys.executable, "-m", "unsandbox.cli", "serve", "--data", folder, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
            assert server.stdout is not None
            try:
                yield json.loads(server.stdout.readline())["url"], pair
            finally:
                server.terminate()
                server.wait(60)


def look(examples: int, *, every: int = 1, seconds: float = float("inf"), derandomize: bool = False) -> Report:
    """Send so many requests for each operation, half of them against the document, and check the answers.

    Args:
        examples: For each operation.
        every: Take every so many-th operation.
        seconds: No operation is begun after so long.
        derandomize: Send the same every time.
    """
    with served() as (url, pair), requests.Session() as session:
        session.auth = Signature(pair)
        document = session.get(f"{url}/openapi.json", timeout=_PATIENCE_S).json()
        report, statuses, ends = Report(), Counter[int](), time.monotonic() + seconds
        found: Any
        for found in islice(openapi.from_dict(document).get_all_operations(), 0, None, every):
            operation = found.ok()
            if time.monotonic() > ends:
                break
            report.operations += 1
            modes = [operation.as_strategy(GenerationMode.POSITIVE)]
            with contextlib.suppress(Exception):
                # Where nothing can be wrong, there is nothing negative.
                negative = operation.as_strategy(GenerationMode.NEGATIVE)
                modes.append(negative)

            @settings(
                max_examples=examples,
                database=None,
                derandomize=derandomize,
                deadline=None,
                phases=[Phase.generate],
                verbosity=Verbosity.quiet,
                suppress_health_check=list(HealthCheck),
            )
            @given(st.one_of(modes))
            def send(case: Case[Any]) -> None:
                report.requests += 1
                problem = _problem_with(case, url, session, statuses)
                if problem and len(report.problems) < 50:
                    report.problems.append(f"{case.method} {case.path}: {problem}")

            send()
        report.by_status = dict(sorted(statuses.items()))
    return report


def _problem_with(case: Case[Any], url: str, session: requests.Session, statuses: Counter[int]) -> str:
    sent = case.as_transport_kwargs(base_url=url)
    try:
        answer = session.request(**sent, timeout=_PATIENCE_S, allow_redirects=False)
    except (requests.exceptions.InvalidHeader, UnicodeError, requests.exceptions.InvalidURL):
        return ""  # What cannot be sent.
    statuses[answer.status_code] += 1
    if not urlsplit(answer.url).path:
        return ""
    try:
        case.validate_response(answer, checks=CHECKS, transport_kwargs={})
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, it is told
        return f"{answer.status_code} {answer.text[:300]} -- {[str(one)[:300] for one in getattr(error, 'exceptions', [error])]} -- {str(sent)[:400]}"
    if answer.status_code == 500 or "X-Request-Id" not in answer.headers:
        return f"{answer.status_code} {answer.text[:300]} -- {str(sent)[:600]}"
    return ""
