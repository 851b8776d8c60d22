# Generated from src/unsandbox/_async/methods/sessions.py by scripts/unasync.py; change that one.
"""Sessions: persistent sandboxes with a shell, until they are deleted or idle for too long."""

from __future__ import annotations

from collections.abc import Mapping

from unsandbox._compat.blocking import OneTimeCode
from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.files import InputFiles
from unsandbox._shared.options import command_members, command_patience, metadata_query
from unsandbox._sync.methods.session_life import SessionLifeMethods
from unsandbox._sync.objects.context import LiveContext
from unsandbox._sync.objects.session import LiveSession
from unsandbox._sync.objects.terminal import Terminal
from unsandbox.protocol.models import IsolationName, NetworkModeName
from unsandbox.protocol.sessions import CommandResult, Session, SessionList
from unsandbox.protocol.snapshots import Snapshot


class SessionMethods(SessionLifeMethods):
    """Methods of a client for sessions. `session_id` may also be a container name."""

    def session(
        self,
        *,
        shell: str | None = None,
        language: str | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        multiplexer: str | None = None,
        vcpu: int | None = None,
        input_files: InputFiles | None = None,
        audit: bool | None = None,
        name: str | None = None,
        isolation: IsolationName | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: int | None = None,
        env_name: str | None = None,
        otp: OneTimeCode | None = None,
    ) -> LiveSession:
        """Return a session for one block: created at its begin and deleted at its end, however it ends.

        Args:
            shell: See `create_session`.
            language: See `create_session`.
            network_mode: See `create_session`.
            ttl: See `create_session`.
            multiplexer: See `create_session`.
            vcpu: See `create_session`.
            input_files: See `create_session`.
            audit: See `create_session`; the history is then in `info.artifacts` after the block.
            name: See `create_session`.
            isolation: See `create_session`.
            metadata: See `create_session`.
            timeout: See `create_session`.
            env_name: See `create_session`.
            otp: One-time code for the deletion, if the server requires one.

        Example:
            ```python
            with client.session(shell="bash") as session:
                session.run("cd /tmp; word=hello")
                result = session.run("echo $word from $PWD")
                assert result.stdout == "hello from /tmp" + chr(10)
            ```
        """
        return LiveSession(
            self,
            self._connection,
            None,
            {
                "shell": shell,
                "language": language,
                "network_mode": network_mode,
                "ttl": ttl,
                "multiplexer": multiplexer,
                "vcpu": vcpu,
                "input_files": input_files,
                "audit": audit,
                "name": name,
                "isolation": isolation,
                "metadata": metadata,
                "timeout": timeout,
                "env_name": env_name,
            },
            otp,
        )

    def context(
        self,
        language: str = "python",
        *,
        env_name: str | None = "data",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        vcpu: int | None = None,
        input_files: InputFiles | None = None,
        isolation: IsolationName | None = None,
    ) -> LiveContext:
        """Return an interpreter in a session of its own for one block.

        Args:
            language: Its language: `python`.
            env_name: Name of an environment of the server that has `ipykernel`.
            cwd: Working directory. Default `/work`.
            env: Further environment variables.
            network_mode: See `create_session`.
            ttl: See `create_session`.
            vcpu: See `create_session`.
            input_files: See `create_session`.
            isolation: See `create_session`.

        Example:
            ```python
            with client.context("python", env_name="data") as context:
                context.run("import pandas; df = pandas.DataFrame({'n': [1, 2]})")
                result = context.run("df.describe()")
                print(result.text)
            ```
        """
        session = self.session(
            env_name=env_name,
            network_mode=network_mode,
            ttl=ttl,
            vcpu=vcpu,
            input_files=input_files,
            isolation=isolation,
        )
        members = {"language": language, "cwd": cwd, "env": None if env is None else dict(env)}
        return LiveContext(self._connection, session, members, own_session=True)

    def attach_session(self, session_id: str) -> LiveSession:
        """Return an object for an existing session, without a request. A block does not delete the session.

        Args:
            session_id: Id or container name of the session.

        Example:
            ```python
            session = client.attach_session(session_id)
            result = session.run("ls")
            ```
        """
        return LiveSession(self, self._connection, session_id)

    def terminal(self, session_id: str, *, columns: int = 80, rows: int = 24, reconnect: int = 3) -> Terminal:
        """Return the terminal of a session for one block.

        Args:
            session_id: Id or container name of the session.
            columns: Width in characters.
            rows: Height in lines.
            reconnect: How often to reopen a broken connection, for a few seconds each time; 0 means never.
                With a `multiplexer` the shell is still there and shows the missed output; without one it is a
                new shell.

        Example:
            ```python
            with client.terminal(session_id, columns=120) as terminal:
                terminal.write("exit" + chr(10))
                for data in terminal:
                    print(data)
            ```
        """
        return Terminal(self._connection, session_id, columns, rows, reconnect)

    def list_sessions(self, metadata: Mapping[str, str] | None = None) -> SessionList:
        """Return the key's sessions, newest first.

        Args:
            metadata: Names and values that the sessions have; `{}` for all sessions with their metadata.
                Default: all sessions, without their metadata.

        Example:
            ```python
            for session in client.list_sessions({"team": "blue"}):
                print(session.session_id, session.metadata)
            ```
        """
        return self._do("list_sessions", SessionList, query=metadata_query(metadata))

    def create_session(
        self,
        *,
        shell: str | None = None,
        language: str | None = None,
        network_mode: NetworkModeName | None = None,
        ttl: int | None = None,
        multiplexer: str | None = None,
        vcpu: int | None = None,
        input_files: InputFiles | None = None,
        audit: bool | None = None,
        name: str | None = None,
        isolation: IsolationName | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: int | None = None,
        env_name: str | None = None,
    ) -> Session:
        """Create a session. It is deleted by `delete_session`, or when it was idle for its `ttl`.

        Args:
            shell: Name of a shell or REPL, such as `bash` (the default), `python3` or `node`.
            language: Language whose REPL to start, instead of `shell`.
            network_mode: `zerotrust` (no network, the default) or `semitrusted` (outbound network only).
            ttl: Idle seconds after which the session is deleted. Default 3600.
            multiplexer: `tmux` or `screen`: the shell survives a disconnect of its terminal.
            vcpu: Processors, 1 to 8, with 2 GiB of memory each.
            input_files: Files for `/tmp/input/`: a mapping from name to content, or a list of paths.
            audit: Whether to record the shell history.
            name: Display name.
            isolation: `bubblewrap`, `gvisor`, or `hardened` (gVisor or a refusal). Not on the hosted service.
            metadata: Up to 64 names and values, by which `list_sessions` finds the session.
            timeout: Seconds after which the session is deleted, in use or not. With it, `ttl` does not count.
            env_name: Name of an environment of the server, whose packages the session sees.

        Raises:
            RateLimitError: The key has reached its number of sessions.
        """
        return self._do(
            "create_session",
            Session,
            body={
                "shell": shell,
                "language": language,
                "network_mode": network_mode,
                "ttl": ttl,
                "multiplexer": multiplexer,
                "vcpu": vcpu,
                "input_files": input_files,
                "audit": audit,
                "name": name,
                "isolation": isolation,
                "metadata": metadata,
                "timeout": timeout,
                "env_name": env_name,
            },
        )

    def get_session(self, session_id: str) -> Session:
        """Return the current state of a session.

        Args:
            session_id: Id or container name of the session.

        Raises:
            NotFoundError: The key has no such session.
        """
        return self._do("get_session", Session, session_id)

    def delete_session(
        self, session_id: str, *, audit: bool | None = None, otp: OneTimeCode | None = None
    ) -> Session:
        """Delete a session.

        Args:
            session_id: Id or container name of the session.
            audit: Whether to return the shell history with the artifacts.
            otp: One-time code, or a function that returns it, if the server requires one.

        Returns:
            The session, with the files of `/tmp/artifacts`.
        """
        return self._do("delete_session", Session, session_id, query={"audit": audit}, otp=otp)

    def session_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float | None = 30.0,
        input_files: InputFiles | None = None,
    ) -> CommandResult:
        """Run one command in the session's shell. The shell's state is kept for the next command.

        Args:
            session_id: Id or container name of the session.
            command: The command; in a REPL, an expression or statements.
            timeout: Seconds the command may run; it then ends with exit code 124. None means no limit.
            input_files: Files for `/tmp/input/`.

        Returns:
            Output and exit code.
        """
        return self._do(
            "session_command",
            CommandResult,
            session_id,
            body=command_members(command, timeout, input_files),
            timeout=command_patience(timeout, self._connection.server.timeout),
        )

    def session_snapshot(
        self, session_id: str, *, name: str | None = None, hot: bool | None = None
    ) -> Snapshot:
        """Take a snapshot of a session.

        Args:
            session_id: Id or container name of the session.
            name: Display name.
            hot: Whether to include memory and running processes. Requires gVisor.
        """
        return self._do(
            "session_snapshot", Snapshot, session_id, body={"name": name, "hot": hot}, timeout=LONG_S
        )
