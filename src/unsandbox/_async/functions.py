"""What the functions of `un_async` are made of; imported at the first call."""

from __future__ import annotations

from typing import Any

from unsandbox._async import execution
from unsandbox._async.link import Link
from unsandbox._compat.aio import in_thread, shared
from unsandbox._shared import language_cache
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.options import encode_execution, reads_files
from unsandbox._shared.order import Order
from unsandbox._shared.server import LOCAL, choose_base
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import APIError, ConnectionFailedError, InvalidRequestError, InvalidResponseError

__all__ = ["Caller", "connect", "healthy", "languages"]


class Caller:
    """The calls of one function: a server and the keys to sign with."""

    __slots__ = ("_keys", "_link")

    def __init__(self, link: Link, keys: Credentials | None) -> None:
        self._link = link
        self._keys = keys

    async def execute(self, timeout: float | None, options: dict[str, Any]) -> dict[str, Any]:  # noqa: ASYNC109
        """Run code to its end."""
        deadline = Deadline(timeout)
        body = await _encode(timeout=timeout, **options)
        return await execution.execute(
            self._link, self._keys, body, deadline=deadline, needs_stdin=options["stdin"] is not None
        )

    async def submit(self, options: dict[str, Any]) -> str:
        """Start a job and return its id."""
        body = await _encode(**options)
        needs_stdin = options["stdin"] is not None
        return execution.job_id_of(
            await execution.submit(self._link, self._keys, body, needs_stdin=needs_stdin)
        )

    async def get_job(self, job_id: str) -> dict[str, Any]:
        """Return a job as it is."""
        return await self._link.call(self._keys, "get_job", params={"id": job_id})

    async def wait(self, job_id: str, timeout: float | None, *, keep: bool) -> dict[str, Any]:  # noqa: ASYNC109
        """Return a job when it has ended."""
        return await execution.wait(self._link, self._keys, job_id, deadline=Deadline(timeout), keep=keep)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job."""
        return await execution.cancel(self._link, self._keys, job_id)

    async def list_jobs(self, limit: int | None) -> list[dict[str, Any]]:
        """Return the jobs of the key."""
        answer = await self._link.call(self._keys, "list_jobs", query={"limit": limit})
        jobs = answer.get("jobs")
        if not isinstance(jobs, list):
            raise InvalidResponseError("the server's answer holds no list of jobs")
        return jobs

    async def validate_keys(self) -> dict[str, Any]:
        """Return what the server knows about the keys."""
        return await self._link.call(self._keys, "validate_keys", order=Order())


async def connect(
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
    return Caller(await _link(base_url), keys)


async def languages(api_base: str) -> list[str]:
    """Return the languages of a server, from the cache if it is fresh."""
    base_url = choose_base(api_base)
    known = language_cache.load(base_url)
    if known is not None:
        return known
    answer = await (await _link(base_url)).call(None, "languages")
    names = answer.get("languages")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidResponseError("the server's answer holds no list of languages")
    language_cache.store(base_url, names)
    return names


async def healthy(api_base: str) -> bool:
    """Tell whether a server answers that it is well."""
    link = await _link(choose_base(api_base))
    try:
        await link.call(None, "health", timeout=_HEALTH_TIMEOUT_S)
    except (APIError, ConnectionFailedError):
        return False
    except InvalidResponseError:
        return True  # 200 is what says it; not every server writes JSON here
    return True


_HEALTH_TIMEOUT_S = 10.0


async def _link(base_url: str) -> Link:
    return await shared(base_url, lambda: Link(base_url))


async def _encode(**options: Any) -> bytes:
    if reads_files(options["input_files"]):
        return await in_thread(encode_execution, **options)
    return encode_execution(**options)
