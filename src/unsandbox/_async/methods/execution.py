"""Running code."""

# ruff: noqa: ASYNC109 - `timeout` also limits the work on the server, which `asyncio.timeout` cannot do

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
        ttl: float | None = None,
        return_artifacts: bool = False,
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
        compiler_args: Iterable[str] | None = None,
        memory_mb: int | None = None,
        compile_timeout: float | None = None,
        cpu_time: float | None = None,
        compile_output: bool = False,
        version: str | None = None,
        env_name: str | None = None,
        timeout: float | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> Job:
        """Run code and return the finished job.

        A non-zero exit code is a result, not an exception: see `Job.ok` and `Job.exit_code`. A program that
        exceeds `ttl` ends with the status `timeout`. Cancelling the calling task cancels the job.

        Args:
            language: Name of the language, as listed by `languages`.
            code: The whole program.
            env: Environment variables of the program, at most 256.
            input_files: Files for `/tmp/input/`: a mapping from name to content, or a list of paths and
                `InputFile`s.
            network_mode: `zerotrust` (no network, the server's default) or `semitrusted` (outbound network
                only).
            vcpu: Processors, 1 to 8, with 2 GiB of memory each.
            ttl: Seconds the program may run, 1 to 900.
            return_artifacts: Whether to return the files in `/tmp/artifacts`, or the compiled binary.
            stdin: Standard input: text, bytes, a file object, or an iterable of pieces. Not on the hosted
                service.
            args: Command-line arguments. Not on the hosted service.
            isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not on the hosted service.
            compiler_args: Further arguments of the compiler (`["-std=c++20"]`). Not on the hosted service.
            memory_mb: Memory limit in MiB, at most what `vcpu` gives. Not on the hosted service.
            compile_timeout: Seconds the compiler may run, at most 900; `ttl` then counts from the start of the
                program. Not on the hosted service.
            cpu_time: Seconds of CPU time the program may use, at most 900; it ends with the status `timeout`
                when it has used more. Not on the hosted service.
            compile_output: Whether to return the compiler's output as `Job.compile_output`, and not as part of
                `Job.stderr`. Not on the hosted service.
            version: Version of the language (`"3.11"`), where several are installed. Not on the hosted service.
            env_name: Name of an environment of the server, whose packages the program sees. Not on the hosted
                service.
            timeout: Deadline of the call in seconds. When it passes, the job is cancelled.
            on_stdout: Function that is called with each piece of standard output, as text.
            on_stderr: Function that is called with each piece of standard error.

        Returns:
            The job, with its output.

        Raises:
            WaitTimeoutError: The deadline passed; `partial` is the job with its output so far.
            InvalidRequestError: An argument is invalid.
            CredentialsError: No keys were found.
            APIError: The server refused the request or failed; the subclass says how.
            ConnectionFailedError: The server did not answer after all retries.
            InvalidResponseError: The server's answer violates the protocol.

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
            compiler_args=compiler_args,
            memory_mb=memory_mb,
            compile_timeout=compile_timeout,
            cpu_time=cpu_time,
            compile_output=compile_output,
            version=version,
            env_name=env_name,
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
        ttl: float | None = None,
        return_artifacts: bool = False,
        stdin: Stdin | None = None,
        args: Iterable[str] | None = None,
        isolation: IsolationName | None = None,
        compiler_args: Iterable[str] | None = None,
        memory_mb: int | None = None,
        compile_timeout: float | None = None,
        cpu_time: float | None = None,
        compile_output: bool = False,
        version: str | None = None,
        env_name: str | None = None,
        timeout: float | None = None,
    ) -> AsyncJobStream:
        """Run code and yield its output as it is written, then exactly one result as the last event.

        A broken connection is reopened at the byte where it broke. Servers that cannot stream output are
        polled instead. Leaving the loop early cancels the job: at once in an `async with` block, otherwise
        when the stream is garbage-collected.

        Args:
            language: See `execute`.
            code: See `execute`.
            env: See `execute`.
            input_files: See `execute`.
            network_mode: See `execute`.
            vcpu: See `execute`.
            ttl: See `execute`.
            return_artifacts: See `execute`.
            stdin: See `execute`.
            args: See `execute`.
            isolation: See `execute`.
            compiler_args: See `execute`.
            memory_mb: See `execute`.
            compile_timeout: See `execute`.
            cpu_time: See `execute`.
            compile_output: See `execute`.
            version: See `execute`.
            env_name: See `execute`.
            timeout: See `execute`.

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
            compiler_args=compiler_args,
            memory_mb=memory_mb,
            compile_timeout=compile_timeout,
            cpu_time=cpu_time,
            compile_output=compile_output,
            version=version,
            env_name=env_name,
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
        """Run many programs with bounded concurrency and yield the outcome of each.

        Requests are read only as fast as outcomes are consumed, so there may be any number of them. A failed
        request sets the `error` of its outcome and does not affect the others. Leaving the loop early cancels
        the running jobs: at once in an `async with` block, otherwise when the iterator is garbage-collected.
        When the server reports that a limit is reached, the map waits and tries again.

        Args:
            requests: An iterable of mappings with arguments of `execute`, or of pairs of language and code.
            concurrency: Maximum number of jobs on the server at the same time.
            ordered: Whether to yield outcomes in the order of the requests instead of as they finish.
            timeout: Deadline of each job in seconds after it was sent, unless its request has a `timeout`. A
                late job is cancelled, and its outcome's error is a `WaitTimeoutError`.
            on_progress: Function that is called with the counts whenever they change.

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
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> Job:
        r"""Run a script whose `#!` line names the language, and return the finished job.

        Args:
            source: The whole script.
            env: See `execute`.
            network_mode: See `execute`.
            ttl: See `execute`.
            timeout: See `execute`.

        Raises:
            BadRequestError: The first line does not name an interpreter that the server knows.

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
"""A function that receives pieces of output. An awaitable that it returns is awaited."""


async def _heard(stream: AsyncJobStream, listeners: dict[str, OnOutput | None]) -> Job:
    """Return the finished job of a stream after passing its output to the listeners."""
    async with stream as events:
        async for event in events:
            if isinstance(event, ResultEvent):
                return event.job
            listener = listeners[event.stream]
            if listener is not None and event.text:
                await maybe_await(listener(event.text))
    raise InvalidResponseError("the events of the job end without its result")
