# Generated from src/unsandbox/_async/objects/context.py by scripts/unasync.py; change that one.
"""A context as an object: an interpreter in a session that keeps its state between runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unsandbox._compat.blocking import Interrupted, maybe_await
from unsandbox._shared.options import limit_ms
from unsandbox._shared.processes import OutputCallback
from unsandbox._sync.connection import Connection
from unsandbox._sync.objects.process import ask
from unsandbox._sync.operations import CLEAN_UP_S
from unsandbox.errors import NotFoundError
from unsandbox.protocol.contexts import (
    CodeContext,
    Execution,
    MimeBundle,
    RunEvent,
    RunOutput,
    Variable,
    VariableList,
    collect,
)

if TYPE_CHECKING:
    from unsandbox._sync.objects.session import LiveSession

_WAIT_S = 60.0
ResultCallback = Callable[[MimeBundle], Any]
"""Called with a result; awaited if it returns an awaitable."""


class LiveContext:
    """An interpreter, created for a block by `AsyncLiveSession.context` or `Client.context`.

    Attributes:
        session: Its session.
        info: The last known state; None before the first request.
    """

    __module__ = "unsandbox"

    def __init__(
        self,
        connection: Connection,
        session: LiveSession,
        members: Mapping[str, Any],
        *,
        own_session: bool = False,
    ) -> None:
        self._connection = connection
        self._members = {**members, "context_id": members.get("context_id") or f"ctx_{os.urandom(8).hex()}"}
        self._own_session = own_session
        self.session = session
        self.info: CodeContext | None = None

    @property
    def id(self) -> str:
        """The id of the context."""
        return str(self._members["context_id"])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.info.status if self.info else 'not begun'}>"

    def __enter__(self) -> Self:
        if self._own_session:
            self.session.__enter__()
        try:
            params = {"id": self.session.id}
            self.info = ask(self._connection, "create_context", CodeContext, params, self._members)
        except (Exception, Interrupted) as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or self._own_session:
            self._end(error)
        else:
            self.delete()

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        silent: bool = False,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
        on_result: ResultCallback | None = None,
    ) -> Execution:
        """Run code and return what it printed and showed. Variables stay for the next run.

        If this call is cancelled, the run is interrupted.

        Args:
            code: The code, as in one cell of a notebook: top-level coroutines can be awaited, and the value of
                the last expression is a result.
            timeout: Seconds until the run is interrupted. The variables are kept, unless the code does not
                react to the interrupt within 5 seconds.
            env: Environment variables of this run.
            silent: Whether to leave the run out of the history, and its value out of the results.
            on_stdout: Called with each piece of standard output, as it comes.
            on_stderr: Called with each piece of standard error, as it comes.
            on_result: Called with each result, as it comes.

        Example:
            ```python
            with client.context("python", env_name="data") as context:
                context.run("import pandas; df = pandas.DataFrame({'n': [1, 2]})")
                result = context.run("df.n.sum()")
                assert result.text == "3"
            ```
        """
        live = bool(on_stdout or on_stderr or on_result)
        events: list[RunEvent] = []
        output = RunOutput()
        for output in self._outputs(code, timeout, env, silent, until_end=not live):
            events += output.events
            for event in output.events:
                callback = {"stdout": on_stdout, "stderr": on_stderr}.get(event.type or "")
                if callback is not None and event.text:
                    maybe_await(callback(event.text))
                elif on_result is not None and event.result is not None and event.type != "update":
                    maybe_await(on_result(event.result))
        return collect(output, events)

    def stream(
        self,
        code: str,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> Generator[RunEvent]:
        """Run code and yield its events as they come; the arguments are those of `run`.

        If the iteration ends early, the run is interrupted.
        """
        for output in self._outputs(code, timeout, env, silent, until_end=False):
            for event in output.events:
                yield event

    def interrupt(self) -> None:
        """Interrupt the run that is under way, as Ctrl-C does. The variables stay."""
        self.info = ask(self._connection, "interrupt_context", CodeContext, self._params)

    def restart(self) -> None:
        """Replace the interpreter. Its variables are lost."""
        self.info = ask(self._connection, "restart_context", CodeContext, self._params)

    def variables(self) -> list[Variable]:
        """Return the variables, without those that begin with `_`; at most 1,000.

        Raises:
            ConflictError: Code runs.
        """
        found = ask(self._connection, "context_variables", VariableList, self._params)
        return found.variables

    def refresh(self) -> CodeContext:
        """Return the current state."""
        self.info = ask(self._connection, "get_context", CodeContext, self._params)
        return self.info

    def delete(self) -> None:
        """End the interpreter and everything that it started."""
        # If the session is gone, the context is, too.
        with contextlib.suppress(NotFoundError):
            self.info = ask(self._connection, "delete_context", CodeContext, self._params)

    @property
    def _params(self) -> dict[str, str]:
        return {"id": self.session.id, "context_id": self.id}

    def _outputs(
        self,
        code: str,
        timeout: float | None,
        env: Mapping[str, str] | None,
        silent: bool,
        *,
        until_end: bool,
    ) -> Generator[RunOutput]:
        """Run code and yield the answers of the server until the run has ended."""
        run_id = f"run_{os.urandom(8).hex()}"
        members = {
            "run_id": run_id,
            "code": code,
            "timeout": limit_ms(timeout),
            "env": None if env is None else dict(env),
            "silent": silent or None,
            "wait": _WAIT_S if until_end else None,
        }
        params = {**self._params, "run_id": run_id}
        ended = False
        try:
            output = ask(self._connection, "run_code", RunOutput, self._params, members)
            while True:
                yield output
                if ended := bool(output.ended):
                    return
                asked = {"cursor": output.cursor, "wait": _WAIT_S, "until_end": until_end or None}
                output = ask(self._connection, "run_output", RunOutput, params, asked)
        finally:
            if not ended:
                self._connection.clean_up(partial(_interrupt, params=self._params), CLEAN_UP_S)

    def _end(self, error: BaseException | None) -> None:
        """End it after an error, or with its session; the error of the block is raised, not that of the end."""
        if self._own_session:
            self.session.__exit__(None if error is None else type(error), error, None)
        else:
            self._connection.clean_up(partial(_delete, params=self._params), CLEAN_UP_S)


def _interrupt(connection: Connection, params: Mapping[str, str]) -> None:
    ask(connection, "interrupt_context", CodeContext, params, urgent=True)


def _delete(connection: Connection, params: Mapping[str, str]) -> None:
    ask(connection, "delete_context", CodeContext, params, urgent=True)
