"""What the functions of `un_async` are made of; imported at the first call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from unsandbox._async import execution
from unsandbox._async.base import LONG_S
from unsandbox._async.connection import ServerConnection
from unsandbox._async.methods.logs import follow_logs
from unsandbox._async.operations import perform
from unsandbox._compat.aio import OneTimeCode, closing, in_thread, shared
from unsandbox._shared import language_cache
from unsandbox._shared.bodies import encode_vault
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.files import InputFiles, reads_files
from unsandbox._shared.options import command_members, command_patience, encode_execution, encode_script
from unsandbox._shared.request import PreparedRequest
from unsandbox._shared.server import LOCAL, choose_base
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import APIError, ConnectionFailedError, InvalidRequestError, InvalidResponseError

__all__ = ["Caller", "connect", "healthy", "languages"]


class Caller:
    """The calls of one function: a server and the keys to sign with."""

    __slots__ = ("_keys", "_link")

    def __init__(self, link: ServerConnection, keys: Credentials | None) -> None:
        self._link = link
        self._keys = keys

    async def execute(self, timeout: float | None, options: dict[str, Any]) -> dict[str, Any]:  # noqa: ASYNC109
        """Run code to its end."""
        deadline = Deadline(timeout)
        order = await _encode(timeout=timeout, **options)
        return await execution.execute(self._link, self._keys, order, deadline=deadline)

    async def submit(self, options: dict[str, Any]) -> str:
        """Start a job and return its id."""
        order = await _encode(**options)
        return execution.job_id_of(await execution.submit(self._link, self._keys, order))

    async def run(self, source: str | bytes, timeout: float | None, options: dict[str, Any]) -> dict[str, Any]:  # noqa: ASYNC109
        """Run a script to its end."""
        deadline = Deadline(timeout)
        order, query = encode_script(source, timeout=timeout, **options)
        return await execution.execute(
            self._link, self._keys, order, deadline=deadline, operation=execution.RUN, query=query
        )

    async def submit_run(self, source: str | bytes, options: dict[str, Any]) -> str:
        """Start a script and return the job's id."""
        order, query = encode_script(source, **options)
        return execution.job_id_of(
            await execution.submit(self._link, self._keys, order, operation=execution.RUN, query=query)
        )

    async def wait(self, job_id: str, timeout: float | None, *, keep: bool) -> dict[str, Any]:  # noqa: ASYNC109
        """Return a job when it has ended."""
        return await execution.wait(self._link, self._keys, job_id, deadline=Deadline(timeout), keep=keep)

    async def wait_jobs(self, job_ids: Sequence[str], timeout: float) -> list[dict[str, Any]]:  # noqa: ASYNC109
        """Return those of several jobs that have ended."""
        members = {"ids": list(job_ids), "timeout": timeout}
        answer = await self.call("wait_jobs", members=members, timeout=timeout + self._link.timeout)
        jobs = answer.get("jobs")
        if not isinstance(jobs, list):
            raise InvalidResponseError("the server's answer holds no list of jobs")
        return jobs

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job."""
        return await execution.cancel(self._link, self._keys, job_id)

    async def call(
        self,
        name: str,
        object_id: str | None = None,
        *,
        members: Mapping[str, Any] | None = None,
        text: bytes | None = None,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        otp: OneTimeCode | None = None,
    ) -> dict[str, Any]:
        """Do one operation of the endpoint table; the arguments are those of `operations.perform`."""
        return await perform(
            self._link,
            self._keys,
            name,
            object_id,
            members=members,
            text=text,
            query=query,
            timeout=timeout,
            otp=otp,
        )

    async def command(
        self,
        name: str,
        object_id: str,
        command: str,
        milliseconds: int,
        input_files: InputFiles | None,
    ) -> dict[str, Any]:
        """Run a command in a session or service."""
        seconds = milliseconds / 1000 if milliseconds else None
        return await self.call(
            name,
            object_id,
            members=command_members(command, seconds, input_files),
            timeout=command_patience(seconds, self._link.timeout),
        )

    async def set_vault(self, service_id: str, env: Mapping[str, str] | str | bytes) -> dict[str, Any]:
        """Replace the vault of a service."""
        return await self.call("set_vault", service_id, text=encode_vault(env))

    async def list_images(self, which: str | None) -> dict[str, Any]:
        """Return the images that the key may use."""
        if which not in (None, "owned", "shared", "public"):
            raise InvalidRequestError("filter_type must be 'owned', 'shared' or 'public'")
        return await self.call(f"list_{which}_images" if which else "list_images")

    async def listed(
        self, name: str, member: str, query: Mapping[str, object] | None = None
    ) -> list[dict[str, Any]]:
        """Return the list in the answer of an operation."""
        items = (await self.call(name, query=query)).get(member)
        if not isinstance(items, list):
            raise InvalidResponseError(f"the server's answer holds no list of {member}")
        return items

    async def made(self, name: str, object_id: str, member: str, members: Mapping[str, Any]) -> str:
        """Make something and return its id."""
        answer = await self.call(name, object_id, members=members, timeout=LONG_S)
        made_id = answer.get(member) or answer.get("id")
        if not isinstance(made_id, str):
            raise InvalidResponseError(f"the server's answer holds no {member}")
        return made_id

    async def log_lines(self, query: dict[str, str | None]) -> AsyncGenerator[dict[str, Any]]:
        """Yield lines of the server's log as they are written."""
        async with closing(follow_logs(self._link, self._keys, query)) as lines:
            async for line in lines:
                yield {"source": line.source, "line": line.line}


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


async def _link(base_url: str) -> ServerConnection:
    return await shared(base_url, lambda: ServerConnection(base_url, whole=True))


async def _encode(**options: Any) -> PreparedRequest:
    if reads_files(options["input_files"]):
        return await in_thread(encode_execution, **options)
    return encode_execution(**options)
