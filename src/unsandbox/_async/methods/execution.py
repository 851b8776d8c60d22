"""Running code."""

# ruff: noqa: ASYNC109 - `timeout` reaches the server, which `asyncio.timeout` cannot do

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from unsandbox._async import execution
from unsandbox._async.base import Connected, type_partial, typed
from unsandbox._async.objects.map import AsyncMap, OnProgress
from unsandbox._async.objects.stream import AsyncJobStream
from unsandbox._compat.aio import Source, Stdin, maybe_await
from unsandbox._shared.deadline import Deadline
from unsandbox._shared.events import ResultEvent
from unsandbox._shared.files import InputFiles
from unsandbox._shared.mapping import Request
from unsandbox._shared.options import ExecuteOptions, encode_script
from unsandbox.errors import InvalidResponseError, WaitTimeoutError
from unsandbox.protocol.models import IsolationName, Job, NetworkModeName


class ExecutionMethods(Connected):
    """Methods of a client that run code."""

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
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
        timeout: float | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> Job:
        """Run code and return the job when it has ended.

        A program that exits with another code than 0 is no error: see `Job.ok` and `Job.exit_code`. A program
        that outlives `ttl` ends in status `timeout`. When the calling task is cancelled, so is the job.

        Args:
            language: Name of the language, as `languages` lists them.
            code: The whole program.
            env: Environment variables for the program, at most 256.
            input_files: Files for the program, found in `/tmp/input/` by name: a mapping from name to
                content, or a list of paths and `InputFile`s.
            network_mode: `zerotrust` for no network (the server's default) or `semitrusted` for outbound only.
            vcpu: Processors, 1 to 8; memory goes with them.
            ttl: Seconds that the program may run, 1 to 900.
            return_artifacts: Whether to return what the program leaves in `/tmp/artifacts`, or its binary.
            stdin: Standard input, on servers that take one: text, bytes, a file object, or what yields pieces.
            args: Command-line arguments, on servers that take them.
            isolation: On servers of this project: `bubblewrap`, `gvisor`, or `hardened` for gVisor or nothing.
            timeout: Your deadline in seconds, for all of it. When it passes, the job is cancelled.
            on_stdout: Called with each piece of standard output as it is written, as text.
            on_stderr: Called with each piece of standard error.

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
        options = ExecuteOptions(
            language=language,
            code=code,
            env=env,
            input_files=input_files,
            network_mode=network_mode,
            vcpu=vcpu,
            ttl=ttl,
            return_artifacts=return_artifacts,
            stdin=stdin,
            args=args,
            isolation=isolation,
        )
        if on_stdout is not None or on_stderr is not None:
            events = AsyncJobStream(self._connection, options=options, timeout=timeout)
            return await _heard(events, {"stdout": on_stdout, "stderr": on_stderr})
        deadline = Deadline(timeout)
        try:
            request = await self._connection.encode(options, deadline)
            del options  # Thousands of calls may wait, and each should hold little meanwhile.
            return typed(await execution.execute(self._connection, request, deadline=deadline), Job)
        except WaitTimeoutError as error:
            type_partial(error)
            raise

    def stream(
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
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
        timeout: float | None = None,
    ) -> AsyncJobStream:
        """Run code and yield its output as it is written, then its result: exactly one, and the last event.

        A connection that breaks is made again where it broke, to the byte. Servers that cannot send output
        while the program runs are asked again and again instead. Leaving the loop early cancels the job: at
        once in an `async with` block, otherwise when the stream is thrown away.

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
            args: As for `execute`.
            isolation: As for `execute`.
            timeout: As for `execute`.

        Example:
            ```python
            async for event in client.stream("bash", "for i in 1 2 3; do echo $i; sleep 1; done"):
                if isinstance(event, OutputEvent):
                    print(event.stream, event.text)
                else:
                    print("exit code", event.job.exit_code)
            ```
        """
        options = ExecuteOptions(
            language=language,
            code=code,
            env=env,
            input_files=input_files,
            network_mode=network_mode,
            vcpu=vcpu,
            ttl=ttl,
            return_artifacts=return_artifacts,
            stdin=stdin,
            args=args,
            isolation=isolation,
        )
        return AsyncJobStream(self._connection, options=options, timeout=timeout)

    def map(
        self,
        requests: Source[Request],
        *,
        concurrency: int = 100,
        ordered: bool = True,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncMap:
        """Run many programs, so many at a time, and yield what comes of each.

        Requests are taken as there is room for them, and nothing is started while nobody takes the results, so
        there may be any number of both. What goes wrong with one request is the `error` of its outcome and
        stops nothing. Leaving early cancels what still runs: at once in an `async with` block, otherwise when
        the iterator is thrown away. A server that says that it is enough is asked again later.

        Args:
            requests: Arguments of `execute` by name, or pairs of language and code; any iterable of them.
            concurrency: Jobs on the server at a time.
            ordered: Yield in the order of the requests, rather than as they finish.
            timeout: Seconds for each job from when it is sent, unless its request names a `timeout` of its own;
                when they pass, the job is cancelled, and its outcome's error is a `WaitTimeoutError`.
            on_progress: Called whenever the numbers have changed.

        Example:
            ```python
            programs = [("python", f"print({number} ** 2)") for number in range(1000)]
            async for outcome in client.map(programs, concurrency=50):
                print(outcome.index, outcome.result().stdout)
            ```
        """
        return AsyncMap(self._connection, requests, concurrency, ordered, on_progress, timeout)

    async def run(
        self,
        source: str | bytes,
        *,
        env: Mapping[str, str] | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        timeout: float | None = None,
    ) -> Job:
        r"""Run a script whose `#!` line names the language, and return the job when it has ended.

        Args:
            source: The whole script.
            env: As for `execute`.
            network_mode: As for `execute`.
            ttl: As for `execute`.
            timeout: As for `execute`.

        Raises:
            BadRequestError: The first line names no interpreter that the server knows.

        Example:
            ```python
            job = await client.run("#!/bin/sh\necho hello")
            ```
        """
        deadline = Deadline(timeout)
        request, query = encode_script(source, env=env, network_mode=network_mode, ttl=ttl, timeout=timeout)
        try:
            answer = await execution.execute(
                self._connection, request, deadline=deadline, operation=execution.RUN, query=query
            )
        except WaitTimeoutError as error:
            type_partial(error)
            raise
        return typed(answer, Job)


OnOutput = Callable[[str], object]
"""What takes a piece of output; what it returns is awaited if it can be."""


async def _heard(stream: AsyncJobStream, listeners: dict[str, OnOutput | None]) -> Job:
    """Return the job of a stream at its end, after telling its output to who wants to hear it."""
    async with stream as events:
        async for event in events:
            if isinstance(event, ResultEvent):
                return event.job
            listener = listeners[event.stream]
            if listener is not None and event.text:
                await maybe_await(listener(event.text))
    raise InvalidResponseError("the events of the job end without its result")
