"""`AsyncClient`: the API as methods with typed results."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from unsandbox._async import execution
from unsandbox._async.link import DEFAULT_TIMEOUT_S, Link
from unsandbox._compat.aio import in_thread
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.options import InputFiles, encode_execution, reads_files
from unsandbox._shared.order import Order
from unsandbox._shared.server import LOCAL, choose_base
from unsandbox._transports.common import MAX_CONNECTIONS
from unsandbox.credentials import Credentials, resolve_credentials
from unsandbox.errors import WaitTimeoutError
from unsandbox.protocol import codec
from unsandbox.protocol.models import (
    Cancelled,
    Health,
    Job,
    JobList,
    KeyInfo,
    Languages,
    NetworkModeName,
    WireModel,
)
from unsandbox.protocol.retry import RetryPolicy

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig

M = TypeVar("M", bound=WireModel)


class AsyncClient:
    """A client of the hosted service, of a server of your own, or of the engine inside this process.

    Making one does nothing yet: keys are looked up at the first signed call, and connections are made when
    they are needed and kept until `close`. A client belongs to the event loop that first uses it. Any number
    of tasks may share it.

    Args:
        public_key: Public key; without one, see `unsandbox.credentials` for where keys are looked for.
        secret_key: Secret key. It never leaves this process.
        account: Row of the accounts file to take the keys from.
        base_url: The server; without one, `UNSANDBOX_API_BASE`, else the hosted service. `local` is the engine
            inside this process, which needs no keys.
        timeout: Seconds for one HTTP request, from connecting to the end of the answer.
        retry: How often and how patiently a request that failed is repeated.
        max_connections: Connections at a time; further requests wait for a free one.

    Example:
        ```python
        async with AsyncClient() as client:
            job = await client.execute("python", "print(6 * 7)")
            print(job.stdout)
        ```
    """

    def __init__(
        self,
        public_key: str | None = None,
        secret_key: str | None = None,
        *,
        account: int | str | None = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._link = Link(choose_base(base_url), timeout=timeout, retry=retry, max_connections=max_connections)
        self._given = (public_key, secret_key, account)
        self._keys: Credentials | None = None

    @classmethod
    def local(
        cls,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_connections: int = MAX_CONNECTIONS,
        config: EngineConfig | None = None,
    ) -> Self:
        """Return a client of the engine inside this process, which starts at the first call.

        Args:
            timeout: Seconds for one HTTP request.
            retry: How often a request that failed is repeated.
            max_connections: Connections at a time.
            config: Bounds of the engine; only the first use in a process may choose them.

        Example:
            ```python
            async with AsyncClient.local() as client:
                job = await client.execute("bash", "echo hello")
            ```
        """
        client = cls(base_url=LOCAL)
        client._link = Link(
            LOCAL, timeout=timeout, retry=retry, max_connections=max_connections, engine_config=config
        )
        return client

    async def __aenter__(self) -> Self:
        self._link.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._link.base_url}>"

    async def close(self) -> None:
        """Close all connections. The client cannot be used any more; closing twice does no harm."""
        await self._link.close()

    async def execute(
        self,
        language: str,
        code: str,
        *,
        env: Mapping[str, str] | None = None,
        input_files: InputFiles | None = None,
        network_mode: NetworkModeName | None = None,
        vcpu: int | None = None,
        ttl: int | None = None,
        return_artifacts: bool = False,
        stdin: str | bytes | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Run code and return the job when it has ended.

        A program that exits with another code than 0 is no error: see `Job.ok` and `Job.exit_code`. A program
        that outlives `ttl` ends in status `timeout`. When the calling task is cancelled, so is the job.

        Args:
            language: Name of the language, as `languages` lists them.
            code: The whole program.
            env: Environment variables for the program, at most 256.
            input_files: Files for the program, found in `/tmp/input/` by base name: a mapping from name to
                content, or a list of paths and `InputFile`s.
            network_mode: `zerotrust` for no network (the server's default) or `semitrusted` for outbound only.
            vcpu: Processors, 1 to 8; memory goes with them.
            ttl: Seconds that the program may run, 1 to 900.
            return_artifacts: Whether to return what the program leaves in `/tmp/artifacts`, or its binary.
            stdin: Standard input, on servers that take one.
            timeout: Your deadline in seconds, for all of it. When it passes, the job is cancelled.

        Returns:
            The job, with its output.

        Raises:
            WaitTimeoutError: The deadline passed; `partial` holds the job with its output so far.
            InvalidRequestError: An argument cannot be sent.
            CredentialsError: There are no keys.
            APIError: The server refused or failed; the subclass tells how.
            ConnectionFailedError: There was no answer, after all retries.
            InvalidResponseError: The answer makes no sense.

        Example:
            ```python
            job = await client.execute("python", "print(input())", stdin="hello", timeout=10)
            assert job.ok and job.stdout.strip() == "hello"
            ```
        """
        deadline = Deadline(timeout)
        body = await self._encode(
            input_files,
            language=language,
            code=code,
            env=env,
            network_mode=network_mode,
            vcpu=vcpu,
            ttl=ttl,
            return_artifacts=return_artifacts,
            stdin=stdin,
            timeout=timeout,
        )
        try:
            return _typed(
                await execution.execute(
                    self._link, self._signer(), body, deadline=deadline, needs_stdin=stdin is not None
                ),
                Job,
            )
        except WaitTimeoutError as error:
            _type_partial(error)
            raise

    async def submit(
        self,
        language: str,
        code: str,
        *,
        env: Mapping[str, str] | None = None,
        input_files: InputFiles | None = None,
        network_mode: NetworkModeName | None = None,
        vcpu: int | None = None,
        ttl: int | None = None,
        return_artifacts: bool = False,
        stdin: str | bytes | None = None,
    ) -> Job:
        """Start a job and return at once; `wait` for it, look at it with `get_job`, end it with `cancel`.

        Args:
            language: As for `execute`.
            code: As for `execute`.
            env: As for `execute`.
            input_files: As for `execute`.
            network_mode: As for `execute`.
            vcpu: As for `execute`.
            ttl: As for `execute`.
            return_artifacts: As for `execute`.
            stdin: As for `execute`.

        Returns:
            The job with its `job_id`, most often still `pending` or `running`.

        Raises:
            InvalidResponseError: The answer holds no job id.

        Example:
            ```python
            job = await client.submit("python", "print(1)")
            job = await client.wait(job.job_id)
            ```
        """
        body = await self._encode(
            input_files,
            language=language,
            code=code,
            env=env,
            network_mode=network_mode,
            vcpu=vcpu,
            ttl=ttl,
            return_artifacts=return_artifacts,
            stdin=stdin,
        )
        answer = await execution.submit(self._link, self._signer(), body, needs_stdin=stdin is not None)
        return _typed(answer, Job)

    async def get_job(self, job_id: str) -> Job:
        """Return a job as it is now, without waiting.

        Args:
            job_id: Which job.

        Raises:
            NotFoundError: There is no such job, or it belongs to another key.
        """
        return _typed(await self._link.call(self._signer(), "get_job", params={"id": job_id}), Job)

    async def wait(self, job_id: str, *, timeout: float | None = None, keep: bool = False) -> Job:
        """Return a job when it has ended.

        Args:
            job_id: Which job.
            timeout: Seconds to wait at most; None waits as long as it takes.
            keep: Whether the job goes on when the waiting ends early, by `timeout` or because the calling task
                is cancelled. Without it the job is cancelled, so that nothing runs on for nobody.

        Raises:
            WaitTimeoutError: The job had not ended in time; `partial` holds what there is of it.
            NotFoundError: There is no such job.

        Example:
            ```python
            try:
                job = await client.wait(job_id, timeout=5, keep=True)
            except WaitTimeoutError:
                print("still running")
            ```
        """
        deadline = Deadline(timeout)
        try:
            answer = await execution.wait(self._link, self._signer(), job_id, deadline=deadline, keep=keep)
        except WaitTimeoutError as error:
            _type_partial(error)
            raise
        return _typed(answer, Job)

    async def cancel(self, job_id: str) -> Job:
        """End a job and return it with its output so far; one that has ended stays as it is.

        Args:
            job_id: Which job.

        Raises:
            NotFoundError: There is no such job.
        """
        return _typed(await execution.cancel(self._link, self._signer(), job_id), Cancelled)

    async def list_jobs(self, *, limit: int | None = None) -> JobList:
        """Return the jobs of this key, newest first, without their output.

        Args:
            limit: At most so many.
        """
        return _typed(await self._link.call(self._signer(), "list_jobs", query={"limit": limit}), JobList)

    async def languages(self) -> Languages:
        """Return the languages that the server can run. Needs no keys, and is not cached."""
        return _typed(await self._link.call(None, "languages"), Languages)

    async def validate_keys(self) -> KeyInfo:
        """Return what the server knows about the key pair: whether it is valid, and its limits.

        Raises:
            AuthenticationError: The server does not know the key, or the secret is wrong.
        """
        return _typed(await self._link.call(self._signer(), "validate_keys", order=Order()), KeyInfo)

    async def health(self) -> Health:
        """Return how the server is. Needs no keys.

        Raises:
            APIError: It is not well.
            ConnectionFailedError: It cannot be reached.
        """
        return _typed(await self._link.call(None, "health"), Health)

    def _signer(self) -> Credentials | None:
        if self._keys is None and self._link.base_url != LOCAL:
            public_key, secret_key, account = self._given
            self._keys = resolve_credentials(public_key, secret_key, account=account)
        return self._keys

    async def _encode(self, input_files: InputFiles | None, **options: Any) -> bytes:
        if reads_files(input_files):
            return await in_thread(encode_execution, input_files=input_files, **options)
        return encode_execution(input_files=input_files, **options)


def _typed(answer: dict[str, Any], model: type[M]) -> M:
    return codec.response_from_wire(answer, model)


def _type_partial(error: WaitTimeoutError) -> None:
    if isinstance(error.partial, dict):
        error.partial = _typed(error.partial, Job)
