# Generated from src/unsandbox/_async/objects/session.py by scripts/unasync.py; change that one.
"""A session as an object: created and deleted by a block, or an existing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unsandbox._compat.blocking import Interrupted, OneTimeCode, Stdin
from unsandbox._shared.deadline import NEVER, Deadline
from unsandbox._shared.files import InputFiles
from unsandbox._shared.processes import OutputCallback, ProgramOptions
from unsandbox._shared.request import Bounds
from unsandbox._sync.connection import Connection
from unsandbox._sync.objects.context import LiveContext
from unsandbox._sync.objects.files import Files
from unsandbox._sync.objects.port import Port, Ports
from unsandbox._sync.objects.process import LiveProcess, ask, execute, start
from unsandbox._sync.objects.session_life import AsyncSessionLife
from unsandbox._sync.objects.terminal import Terminal
from unsandbox._sync.operations import CLEAN_UP_S, perform
from unsandbox.errors import ClientStateError, InvalidResponseError, NotFoundError
from unsandbox.protocol import codec
from unsandbox.protocol.contexts import CodeContext, CodeContextList
from unsandbox.protocol.processes import ExecResult, Process, ProcessList
from unsandbox.protocol.sessions import CommandResult, Session

if TYPE_CHECKING:
    from unsandbox._sync.methods.sessions import SessionMethods


class LiveSession(AsyncSessionLife):
    """A session, created for a block by `Client.session` or taken over by `Client.attach_session`.

    Attributes:
        info: The last known state; None before the first request.
    """

    __module__ = "unsandbox"

    def __init__(
        self,
        client: SessionMethods,
        connection: Connection,
        session_id: str | None,
        members: Mapping[str, Any] | None = None,
        otp: OneTimeCode | None = None,
    ) -> None:
        super().__init__(client, session_id)
        self._connection = connection
        self._members = members
        self._otp = otp
        self._deleted = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id or 'not begun'}>"

    def __enter__(self) -> Self:
        if self._id is None:
            answer = perform(self._connection, "create_session", body=self._members)
            self.info = codec.response_from_wire(answer, Session)
            if not self.info.session_id:
                raise InvalidResponseError("the server's answer has no session id")
            self._id = self.info.session_id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._members is None or self._deleted:
            return
        if error is not None:
            # The error of the block is raised, not that of the clean-up.
            self._connection.clean_up(self._delete_soon, CLEAN_UP_S)
            return
        try:
            self._delete(self._connection)
        except NotFoundError:
            pass  # Its program ended, or it was idle for too long.
        except (Interrupted, ClientStateError):
            # The latter when the client was closed within the block.
            self._connection.clean_up(self._delete_soon, CLEAN_UP_S)
            raise

    def run(
        self, command: str, *, timeout: float | None = 30.0, input_files: InputFiles | None = None
    ) -> CommandResult:
        """Run one command in the session's shell. The shell's state is kept for the next command.

        Args:
            command: The command; in a REPL, an expression or statements.
            timeout: Seconds the command may run; it then ends with exit code 124. None means no limit.
            input_files: Files for `/tmp/input/`.
        """
        return self._client.session_command(self.id, command, timeout=timeout, input_files=input_files)

    @property
    def files(self) -> Files:
        """The files of the session."""
        return Files(self._connection, self.id)

    def exec(
        self,
        program: Sequence[str] | str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stdin | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        output_bytes: int | None = None,
    ) -> ExecResult:
        r"""Run a program beside the session's shell and return its output.

        If this call is cancelled or the client is gone, the server kills the program and all of its children.

        Args:
            program: Program and arguments, or a command line for bash.
            cwd: Working directory. Default `/work`.
            env: Further environment variables.
            stdin: Standard input: text, bytes, a file object, or an iterable of pieces. Default: empty.
            user: User that runs the program. A session has one, `sandbox`.
            timeout: Seconds until the program and all of its children are killed; the exit code is then 124.
            on_stdout: Called with each piece of standard output as text, as it comes.
            on_stderr: Called with each piece of standard error as text, as it comes.
            output_bytes: Bytes of each stream to keep. Default 10 MiB.

        Returns:
            Output and exit code: 127 if the program is missing, 126 if it cannot be run.

        Example:
            ```python
            result = session.exec(["sort", "-n"], stdin="3\n1\n2\n")
            assert result.stdout == "1\n2\n3\n"
            ```
        """
        options = ProgramOptions(cwd, env, user, timeout, output_bytes=output_bytes)
        return execute(self._connection, self.id, options.members(program), stdin, on_stdout, on_stderr)

    def start(
        self,
        program: Sequence[str] | str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        terminal: tuple[int, int] | None = None,
        detach: bool = False,
        output_bytes: int | None = None,
    ) -> LiveProcess:
        """Start a program beside the session's shell and return it while it runs.

        Args:
            program: Program and arguments, or a command line for bash.
            cwd: Working directory. Default `/work`.
            env: Further environment variables.
            stdin: The whole standard input. Default: open, for `write` and `close_stdin`.
            user: User that runs the program. A session has one, `sandbox`.
            timeout: Seconds until the program and all of its children are killed.
            terminal: Columns and rows of a terminal for the program, instead of pipes.
            detach: Whether the program continues when this client has ended.
            output_bytes: Bytes of each stream that the server keeps, the last ones. Default 10 MiB.

        Example:
            ```python
            with session.start(["cat"]) as process:
                process.write("hello")
                process.close_stdin()
                process.wait()
            ```
        """
        options = ProgramOptions(cwd, env, user, timeout, terminal, detach, output_bytes)
        return start(self._connection, self.id, options.members(program), stdin)

    def context(
        self, language: str = "python", *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> LiveContext:
        """Return an interpreter that keeps its state between runs; a block starts and ends it.

        The session needs an environment with `ipykernel`: create it with `env_name`.

        Args:
            language: Its language: `python`.
            cwd: Working directory. Default `/work`.
            env: Further environment variables.
        """
        members = {"language": language, "cwd": cwd, "env": None if env is None else dict(env)}
        return LiveContext(self._connection, self, members)

    def attach_context(self, context_id: str) -> LiveContext:
        """Return a context that this or another client started. It needs no block.

        Args:
            context_id: Id of the context.

        Raises:
            NotFoundError: The context does not exist.
        """
        context = LiveContext(self._connection, self, {"context_id": context_id})
        context.refresh()
        return context

    def contexts(self) -> list[CodeContext]:
        """Return the contexts of the session, oldest first."""
        return (ask(self._connection, "list_contexts", CodeContextList, {"id": self.id})).contexts

    def connect(self, port: int) -> Port:
        """Return a connection to a port that a program in the session listens on; a block opens it.

        Args:
            port: Number of the port on the session's loopback interface.

        Raises:
            ConflictError: Nothing listens there (when the block begins).
        """
        return Port(self._connection, self.id, port)

    @property
    def ports(self) -> Ports:
        """The ports of the session that visitors reach."""
        return Ports(self._connection, self.id)

    def processes(self) -> list[Process]:
        """Return the processes started by `exec` and `start`: those that run, and those that ended lately."""
        return (ask(self._connection, "list_processes", ProcessList, {"id": self.id})).processes

    def attach_process(self, process_id: str) -> LiveProcess:
        """Return a process that this or another client started with `detach=True`.

        Args:
            process_id: Id of the process.

        Raises:
            NotFoundError: The process does not exist.
        """
        params = {"id": self.id, "process_id": process_id}
        info = ask(self._connection, "get_process", Process, params)
        return LiveProcess(self._connection, self.id, info)

    def fork(
        self,
        *,
        count: int = 1,
        hot: bool | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: int | None = None,
    ) -> list[LiveSession]:
        """Create independent copies of the session, which goes on. All copies are made, or none.

        A copy is deleted by its `delete`, at its end of life, or by a block: `with copy`.

        Args:
            count: Number of copies, 1 to 16.
            hot: Whether to copy memory and running processes too. Requires gVisor. Otherwise the copies have
                the files of `/work`, and their shells are new.
            name: Display name of the copies. Default: that of the session.
            metadata: Names and values of the copies. Default: those of the session.
            timeout: See `Client.fork_session`.

        Example:
            ```python
            session.files.write("state.txt", "prepared")
            left, right = session.fork(count=2)
            with left, right:
                left.files.write("state.txt", "changed")
                assert right.files.read_text("state.txt") == "prepared"
            ```
        """
        made = self._client.fork_session(
            self.id, count=count, hot=hot, name=name, metadata=metadata, timeout=timeout
        )
        return [self._copy(info) for info in made]

    def _copy(self, info: Session) -> LiveSession:
        if not info.session_id:
            raise InvalidResponseError("the server's answer has no session id")
        copy = LiveSession(self._client, self._connection, info.session_id, {}, self._otp)
        copy.info = info
        return copy

    def terminal(self, *, columns: int = 80, rows: int = 24, reconnect: int = 3) -> Terminal:
        """Return the session's terminal for one block; see `Client.terminal`.

        Args:
            columns: Width in characters.
            rows: Height in lines.
            reconnect: How often to reopen a broken connection.
        """
        return self._client.terminal(self.id, columns=columns, rows=rows, reconnect=reconnect)

    def delete(self, *, otp: OneTimeCode | None = None) -> Session:
        """Delete the session and return it with the files of `/tmp/artifacts`.

        Args:
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        if otp is not None:
            self._otp = otp
        return self._delete(self._connection)

    def _delete_soon(self, connection: Connection) -> Session:
        return self._delete(connection, Deadline(CLEAN_UP_S))

    def _delete(self, connection: Connection, deadline: Deadline = NEVER) -> Session:
        answer = connection.call(
            "delete_session",
            params={"id": self.id},
            query={"audit": True} if self._members and self._members.get("audit") else None,
            bounds=Bounds(deadline, urgent=True),
            otp=self._otp,
        )
        self._deleted = True
        self.info = codec.response_from_wire(answer, Session)
        return self.info
