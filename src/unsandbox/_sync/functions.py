# Generated from src/unsandbox/_async/functions.py by scripts/unasync.py: change that one, then run the script.
"""What the functions of `un` are made of; imported at the first call."""

from __future__ import annotations

from typing import Any

from unsandbox._compat.blocking import in_thread, shared
from unsandbox._shared import language_cache
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.options import encode_execution, reads_files
from unsandbox._shared.order import Order
from unsandbox._shared.server import LOCAL, choose_base
from unsandbox._sync import execution
from unsandbox._sync.link import Link
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import APIError, ConnectionFailedError, InvalidRequestError, InvalidResponseError

__all__ = ["Caller", "connect", "healthy", "languages"]


class Caller:
    """The calls of one function: a server and the keys to sign with."""

    __slots__ = ("_keys", "_link")

    def __init__(self, link: Link, keys: Credentials | None) -> None:
        self._link = link
        self._keys = keys

    def execute(self, timeout: float | None, options: dict[str, Any]) -> dict[str, Any]:
        """Run code to its end."""
        deadline = Deadline(timeout)
        body = _encode(timeout=timeout, **options)
        return execution.execute(
            self._link, self._keys, body, deadline=deadline, needs_stdin=options["stdin"] is not None
        )

    def submit(self, options: dict[str, Any]) -> str:
        """Start a job and return its id."""
        body = _encode(**options)
        needs_stdin = options["stdin"] is not None
        return execution.job_id_of(execution.submit(self._link, self._keys, body, needs_stdin=needs_stdin))

    def get_job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it is."""
        return self._link.call(self._keys, "get_job", params={"id": job_id})

    def wait(self, job_id: str, timeout: float | None, *, keep: bool) -> dict[str, Any]:
        """Return a job when it has ended."""
        return execution.wait(self._link, self._keys, job_id, deadline=Deadline(timeout), keep=keep)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job."""
        return execution.cancel(self._link, self._keys, job_id)

    def list_jobs(self, limit: int | None) -> list[dict[str, Any]]:
        """Return the jobs of the key."""
        answer = self._link.call(self._keys, "list_jobs", query={"limit": limit})
        jobs = answer.get("jobs")
        if not isinstance(jobs, list):
            raise InvalidResponseError("the server's answer holds no list of jobs")
        return jobs

    def validate_keys(self) -> dict[str, Any]:
        """Return what the server knows about the keys."""
        return self._link.call(self._keys, "validate_keys", order=Order())


def connect(
    api_base: str,
    public_key: str | None,
    secret_key: str | None,
    account: int | str | None,
    account_index: int | str | None,
) -> Caller:
    """Find server and keys of a call; the connections are shared by all calls to the same server."""
    base_url = choose_base(api_base)
    keys = None
    if base_url != LOCAL:
        if account is not None and account_index is not None:
            raise InvalidRequestError("account and account_index are two names of one argument: give one")
        row = account if account is not None else account_index
        keys = resolve_credentials(public_key, secret_key, account=row)
    return Caller(_link(base_url), keys)


def languages(api_base: str) -> list[str]:
    """Return the languages of a server, from the cache if it is fresh."""
    base_url = choose_base(api_base)
    known = language_cache.load(base_url)
    if known is not None:
        return known
    answer = (_link(base_url)).call(None, "languages")
    names = answer.get("languages")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidResponseError("the server's answer holds no list of languages")
    language_cache.store(base_url, names)
    return names


def healthy(api_base: str) -> bool:
    """Tell whether a server answers that it is well."""
    link = _link(choose_base(api_base))
    try:
        link.call(None, "health", timeout=_HEALTH_TIMEOUT_S)
    except (APIError, ConnectionFailedError):
        return False
    except InvalidResponseError:
        return True  # 200 is what says it; not every server writes JSON here
    return True


_HEALTH_TIMEOUT_S = 10.0


def _link(base_url: str) -> Link:
    return shared(base_url, lambda: Link(base_url))


def _encode(**options: Any) -> bytes:
    if reads_files(options["input_files"]):
        return in_thread(encode_execution, **options)
    return encode_execution(**options)
