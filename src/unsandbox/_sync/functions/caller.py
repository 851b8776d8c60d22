# Generated from src/unsandbox/_async/functions/caller.py by scripts/unasync.py; change that one.
"""The implementation that the functions of `un` share; imported at the first call."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from unsandbox._compat.blocking import OneTimeCode, closing, shared
from unsandbox._shared import language_cache
from unsandbox._shared.bodies import encode_vault
from unsandbox._shared.deadline import LONG_S, Deadline
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import ExecuteOptions, command_members, command_patience, encode_script
from unsandbox._shared.request import Bounds
from unsandbox._shared.server import choose_base
from unsandbox._sync import execution
from unsandbox._sync.connection import Connection
from unsandbox._sync.methods.logs import follow_logs
from unsandbox._sync.operations import perform
from unsandbox._sync.server_connection import ServerConnection
from unsandbox.errors import APIError, ConnectionFailedError, InvalidRequestError, InvalidResponseError

__all__ = ["Caller", "connect", "healthy", "languages"]


class Caller:
    """The calls of one function, over one connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, options: ExecuteOptions, timeout: float | None) -> dict[str, Any]:
        """Run code to its end."""
        deadline = Deadline(timeout)
        request = self._connection.encode(options, deadline)
        return execution.execute(self._connection, request, deadline=deadline)

    def submit(self, options: ExecuteOptions) -> str:
        """Start a job and return its id."""
        request = self._connection.encode(options)
        return execution.job_id_of(execution.submit(self._connection, request))

    def run(
        self,
        source: str | bytes,
        env: Mapping[str, str] | None,
        network_mode: str | None,
        ttl: int | None,
        timeout: float | None,
    ) -> dict[str, Any]:
        """Run a script to its end."""
        deadline = Deadline(timeout)
        request, query = encode_script(source, env=env, network_mode=network_mode, ttl=ttl, timeout=timeout)
        return execution.execute(
            self._connection, request, deadline=deadline, operation=execution.RUN, query=query
        )

    def submit_run(
        self, source: str | bytes, env: Mapping[str, str] | None, network_mode: str | None, ttl: int | None
    ) -> str:
        """Start a script and return the job's id."""
        request, query = encode_script(source, env=env, network_mode=network_mode, ttl=ttl)
        return execution.job_id_of(
            execution.submit(self._connection, request, operation=execution.RUN, query=query)
        )

    def wait(self, job_id: str, timeout: float | None, *, keep: bool) -> dict[str, Any]:
        """Return a job when it has ended."""
        return execution.wait(self._connection, job_id, deadline=Deadline(timeout), keep=keep)

    def wait_jobs(self, job_ids: Sequence[str], timeout: float) -> list[dict[str, Any]]:
        """Return those of several jobs that have ended."""
        members = {"ids": list(job_ids), "timeout": timeout}
        answer = self.call("wait_jobs", body=members, timeout=timeout + self._connection.server.timeout)
        jobs = answer.get("jobs")
        if not isinstance(jobs, list):
            raise InvalidResponseError("the server's answer has no list of jobs")
        return jobs

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job."""
        return execution.cancel(self._connection, job_id)

    def call(
        self,
        name: str,
        object_id: str | None = None,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
        otp: OneTimeCode | None = None,
    ) -> dict[str, Any]:
        """Perform one operation of the endpoint table; the arguments are those of `operations.perform`."""
        return perform(self._connection, name, object_id, body=body, query=query, timeout=timeout, otp=otp)

    def command(
        self,
        name: str,
        object_id: str,
        command: str,
        milliseconds: int,
        input_files: InputFiles | None,
    ) -> dict[str, Any]:
        """Run a command in a session or service."""
        seconds = milliseconds / 1000 if milliseconds else None
        return self.call(
            name,
            object_id,
            body=command_members(command, seconds, input_files),
            timeout=command_patience(seconds, self._connection.server.timeout),
        )

    def set_vault(self, service_id: str, env: Mapping[str, str] | str | bytes) -> dict[str, Any]:
        """Replace the vault of a service."""
        return self.call("set_vault", service_id, body=encode_vault(env))

    def list_images(self, which: str | None) -> dict[str, Any]:
        """Return the images that the key may use."""
        if which not in (None, "owned", "shared", "public"):
            raise InvalidRequestError("filter_type must be 'owned', 'shared' or 'public'")
        return self.call(f"list_{which}_images" if which else "list_images")

    def listed(self, name: str, member: str, query: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        """Return the list in the answer of an operation."""
        items = (self.call(name, query=query)).get(member)
        if not isinstance(items, list):
            raise InvalidResponseError(f"the server's answer has no list of {member}")
        return items

    def made(self, name: str, object_id: str, member: str, members: Mapping[str, Any]) -> str:
        """Create an object and return its id."""
        answer = self.call(name, object_id, body=members, timeout=LONG_S)
        made_id = answer.get(member) or answer.get("id")
        if not isinstance(made_id, str):
            raise InvalidResponseError(f"the server's answer has no {member}")
        return made_id

    def log_lines(self, query: dict[str, str | None]) -> Generator[dict[str, Any]]:
        """Yield lines of the server's log as they are written."""
        with closing(follow_logs(self._connection, query)) as lines:
            for line in lines:
                yield {"source": line.source, "line": line.line}


def connect(
    api_base: str,
    public_key: str | None,
    secret_key: str | None,
    account: int | str | None,
    account_index: int | str | None,
) -> Caller:
    """Find the server and the keys of a call. All calls to the same server share its connections."""
    if account is not None and account_index is not None:
        raise InvalidRequestError("account and account_index are the same argument; pass only one of them")
    row = account if account is not None else account_index
    connection = Connection(_server(choose_base(api_base)), public_key, secret_key, account=row)
    connection.keys()  # Missing keys are reported before invalid arguments, as in the historical SDK.
    return Caller(connection)


def languages(api_base: str) -> list[str]:
    """Return the languages of a server, from the cache if it is fresh."""
    base_url = choose_base(api_base)
    known = language_cache.load(base_url)
    if known is not None:
        return known
    answer = Connection(_server(base_url)).call("languages")
    names = answer.get("languages")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidResponseError("the server's answer has no list of languages")
    language_cache.store(base_url, names)
    return names


def healthy(api_base: str) -> bool:
    """Return whether a server answers that it is healthy."""
    connection = Connection(_server(choose_base(api_base)))
    try:
        connection.call("health", bounds=Bounds(timeout=_HEALTH_TIMEOUT_S))
    except (APIError, ConnectionFailedError):
        return False
    except InvalidResponseError:
        return True  # The status 200 decides; not every server sends JSON.
    return True


_HEALTH_TIMEOUT_S = 10.0


def _server(base_url: str) -> ServerConnection:
    return shared(base_url, lambda: ServerConnection(base_url, whole=True))
